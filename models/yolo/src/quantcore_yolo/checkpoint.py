"""Checkpoint files as plain data: the layer list, the weights by name, the class names."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from quantcore.errors import CheckpointError
from quantcore.ir.model import Array
from quantcore.showing import one_line, shown
from quantcore_yolo.archive import Archive
from quantcore_yolo.exported import refuse_exported
from quantcore_yolo.layer_list import layer_list
from quantcore_yolo.records import BoundMethod, Record, TensorRecord
from quantcore_yolo.safetensors_file import read_safetensors
from quantcore_yolo.unpickle import unpickle

#: Deeper nesting than any model has; a module that contains itself ends here.
_MAX_DEPTH = 16
#: More modules and members than any model has; modules that share their children end here.
_MAX_VISITS = 50_000
#: Longer names than any model has.
_MAX_NAME = 300
#: More classes, and longer names of them, than any data set has.
_MAX_CLASSES, _MAX_CLASS_NAME = 100_000, 1000


@dataclass(frozen=True)
class Checkpoint:
    """What a checkpoint file says about a detector.

    Attributes:
        origin: The file, for error messages.
        yaml: The model's own description: `nc`, `anchors`, `backbone`, `head`, multiples.
        tensors: Parameters and buffers in FP32 by their state-dict name.
        bn_eps: Epsilon of each batch-norm by module path.
        class_names: In class-index order; empty where the file has none.
        activations: Activation of each module path as the instance says it, where it does:
            `SiLU`, `LeakyReLU(0.1)`, ...; it precedes the yaml.
        head_fused: The detection head says that its implicit knowledge is folded already.
        image_size: Side of the network input in pixels, where the file tells.
    """

    origin: str
    yaml: Mapping[str, object]
    tensors: Mapping[str, Array]
    bn_eps: Mapping[str, float]
    class_names: tuple[str, ...]
    activations: Mapping[str, str] = field(default_factory=dict)
    head_fused: bool = False
    image_size: int | None = None


def read_checkpoint(path: Path) -> Checkpoint:
    """Reads a `.pt` or `.safetensors` checkpoint; nothing in it is executed.

    Args:
        path: The file. `.safetensors` is recognised by its name, all else must be a zip archive
            of torch.save that holds a whole model, not only a state dict.

    Raises:
        CheckpointError: The file is missing, damaged, unsafe, or not a detector's checkpoint.
    """
    if path.suffix == ".safetensors":
        content = read_safetensors(path)
        return Checkpoint(
            origin=str(path),
            yaml=layer_list(content.yaml, str(path)),
            tensors=content.tensors,
            bn_eps={
                name.removesuffix(".running_var"): content.bn_eps
                for name in content.tensors
                if name.endswith(".running_var")
            },
            class_names=class_names(content.names, str(path)),
            image_size=content.image_size,
        )
    with Archive(path) as archive:
        model = _find_model(unpickle(archive.pickle, archive.origin), archive.origin)
        walk = _Walk(archive)
        walk.visit(model, "", 0)
    return Checkpoint(
        origin=archive.origin,
        yaml=layer_list(model.state["yaml"], archive.origin),
        tensors=walk.tensors,
        bn_eps=walk.bn_eps,
        class_names=class_names(model.state.get("names"), archive.origin),
        activations=walk.activations,
        head_fused=walk.head_fused,
    )


def class_names(names: object, origin: str) -> tuple[str, ...]:
    """Class names in index order, from the list or the dict that checkpoints hold.

    Args:
        names: A list of names, a dict from index to name, or None.
        origin: The file, for the error message.

    Raises:
        CheckpointError: Anything else.
    """
    if names is None:
        return ()
    if not isinstance(names, dict | list | tuple) or len(names) > _MAX_CLASSES:
        raise CheckpointError(f"{origin}: class names must be a list of texts")
    if isinstance(names, dict):
        known = {str(i): i for i in range(len(names))}
        places = {known.get(shown(key, 20).strip("'")): name for key, name in names.items()}
        names = [places.get(i) for i in range(len(names))]
    if not all(isinstance(name, str) and len(name) <= _MAX_CLASS_NAME for name in names):
        raise CheckpointError(f"{origin}: class names must be a list of texts")
    return tuple(names)


def _find_model(content: object, origin: str) -> Record:
    """The model's record: the averaged one of a training run if there is one."""
    places = [content]
    if isinstance(content, dict):
        places = [content.get("ema"), content.get("model"), content.get("state_dict"), content]
    model = next((p for p in places if isinstance(p, Record) and "_modules" in p.state), None)
    if model is not None:
        refuse_exported(model, origin)
    if model is not None and isinstance(model.state.get("yaml"), dict):
        return model
    if model is not None:
        raise CheckpointError(
            f"{origin}: holds a {one_line(model.path, 100)}, which has no yaml layer list; give a "
            "YOLOv5 or YOLOv7 checkpoint"
        )
    tensors = (v for p in places if isinstance(p, dict) for v in p.values())
    if any(isinstance(v, TensorRecord) for v in tensors):
        raise CheckpointError(
            f"{origin}: holds a state dict, weights without an architecture; save the whole model "
            "(torch.save({'model': model}, path)), or a .safetensors file with its yaml"
        )
    raise CheckpointError(f"{origin}: holds no model; give a YOLOv5 or YOLOv7 checkpoint")


class _Walk:
    """Collects what a tree of module records holds."""

    def __init__(self, archive: Archive) -> None:
        self._archive = archive
        self.tensors: dict[str, Array] = {}
        self.bn_eps: dict[str, float] = {}
        self.activations: dict[str, str] = {}
        self.head_fused = False
        self._visits = 0

    def visit(self, module: Record, prefix: str, depth: int) -> None:
        """Takes the tensors and settings of a module and of all below it."""
        if depth > _MAX_DEPTH:
            raise CheckpointError(f"{self._archive.origin}: modules nest too deeply")
        if len(prefix) > _MAX_NAME:
            raise CheckpointError(
                f"{self._archive.origin}: a module's name is too long: {shown(prefix, 80)}"
            )
        path = prefix.removesuffix(".")
        self._settings(module, path)
        for group in ("_parameters", "_buffers"):
            for name, value in self._members(module, group):
                if isinstance(value, TensorRecord):
                    self.tensors[prefix + name] = self._archive.tensor(value)
        for name, value in self._members(module, "_modules"):
            if isinstance(value, Record):
                self.visit(value, f"{prefix}{name}.", depth + 1)

    def _settings(self, module: Record, path: str) -> None:
        eps = module.state.get("eps")
        if module.kind.startswith("BatchNorm") and isinstance(eps, float):
            self.bn_eps[path] = eps
        if path.endswith(".act"):
            slope = module.state.get("negative_slope")
            kind = module.kind[:_MAX_NAME]
            self.activations[path] = kind if slope is None else f"{kind}({shown(slope, 40)})"
        forward = module.state.get("forward")
        if "Detect" in module.kind and isinstance(forward, BoundMethod):
            self.head_fused = str(forward.args[0]).startswith("fuse")

    def _members(self, module: Record, group: str) -> list[tuple[str, object]]:
        """The named members of one kind, in order."""
        members = module.state.get(group)
        if not isinstance(members, dict):
            return []
        self._visits += len(members)
        if self._visits > _MAX_VISITS:
            raise CheckpointError(
                f"{self._archive.origin}: holds more than {_MAX_VISITS} modules and tensors; its "
                "modules share their children"
            )
        if not all(isinstance(key, str | int) and len(shown(key)) <= 100 for key in members):
            raise CheckpointError(f"{self._archive.origin}: a module's member has no name")
        return [(str(key), value) for key, value in members.items()]
