"""What the float network says of a crop, and how much each of its values matters.

No labels are needed: the network in training is held to the float network's heads and to some of
the activations on the way there. A classifier's may be added.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import TracebackType

import numpy as np
import onnx

from quantcore.contracts.engine import EngineOptions, EnginePlugin
from quantcore.contracts.training import Target
from quantcore.data.dataset import ImageFile
from quantcore.errors import EngineError
from quantcore.ir.edits import copied, exposed
from quantcore.ir.model import Array, FloatModel
from quantcore.qdq.placement import Plan
from quantcore.training.recipe import Recipe


class Teacher:
    """The float graph on the reference engine; a context manager.

    Args:
        model: The float model.
        plan: Says which activations are quantized.
        recipe: Says which of them are targets, and what the parts of the loss weigh.
        engine: Runs the float graph.
        classes: The class of each image id, where the recipe has `labels`.

    Attributes:
        size: (height, width) of the crops that it looks at.
        watched: The activations that are targets beside the heads.
    """

    def __init__(
        self,
        model: FloatModel,
        plan: Plan,
        recipe: Recipe,
        engine: EnginePlugin,
        classes: Mapping[int, int] | None = None,
    ) -> None:
        self._model = model
        self._recipe = recipe
        self._classes = classes
        activations = [s.tensor for s in plan.sites if s.role == "activation"]
        inside = [t for t in activations if t not in (model.input_name, *model.output_names)]
        self.watched = tuple(inside[:: recipe.every]) if recipe.features else ()
        self._graph = exposed(model.proto, self.watched)
        self.size = self._fitting(engine)
        graph = self._graph if self.size == model.preprocessing.size else _of_any_size(self._graph)
        self._built = engine.build(graph, EngineOptions())

    def __enter__(self) -> Teacher:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._built.close()

    def targets(self, batch: Array, images: Sequence[ImageFile] = ()) -> dict[str, Target]:
        """What the network should compute for a batch, weighted.

        Args:
            batch: B x 3 x h x w, of `size`.
            images: What it is of; labels are theirs.
        """
        found = self._built.infer(batch)
        heads = [found[name] for name in self._model.output_names]
        targets: dict[str, Target] = {}
        if self._recipe.heads or self._recipe.labels:
            importance = self._model.decoding.importance(heads, self.size) or relative(heads)
            for name, head, weights in zip(
                self._model.output_names, heads, importance, strict=True
            ):
                share = (weights * self._recipe.heads).astype(np.float32)
                targets[name] = Target(head, share, self._labels(head, images))
        for name in self.watched:
            targets[name] = Target(
                found[name], relative([found[name]])[0] * np.float32(self._recipe.features)
            )
        return targets

    def _labels(self, head: Array, images: Sequence[ImageFile]) -> Array:
        """What the right class of each image weighs: a batch's add up to `labels`."""
        if self._classes is None:
            return np.zeros(0, np.float32)
        found = np.zeros_like(head, np.float32)
        for row, image in zip(found, images, strict=True):
            row[self._classes[image.id]] = self._recipe.labels / len(images)
        return found

    def _fitting(self, engine: EnginePlugin) -> tuple[int, int]:
        """The size of the crops: as wanted where the graph runs at that size."""
        whole = self._model.preprocessing.size
        crop = self._recipe.crop
        # A part of an image need not show what its label says.
        wanted = (crop, crop) if crop else whole if self._recipe.labels else _half(whole)
        if wanted == whole:
            return whole
        batch = np.zeros((1, 3, *wanted), np.float32)
        try:
            with engine.build(_of_any_size(self._graph), EngineOptions()) as built:
                found = built.infer(batch)
            heads = [found[name] for name in self._model.output_names]
            self._model.decoding.importance(heads, wanted)
        except Exception as error:  # engines and decodings each have their own
            if crop:
                reason = " ".join(str(error).split())[:200]
                raise EngineError(
                    f"{self._model.name}: the graph does not run on crops of {crop} pixels: "
                    f"{reason}; leave `crop` out of the recipe"
                ) from None
            return whole
        return wanted


def relative(values: Sequence[Array]) -> list[Array]:
    """Weights under which all tensors together have a loss of 1 where everything is zero."""
    power = sum(float(np.square(v, dtype=np.float64).sum()) for v in values)
    weight = np.float32(1 / max(power, np.finfo(np.float32).tiny * 1e6))
    return [np.full((1,) * v.ndim, weight, np.float32) for v in values]


def total(losses: Mapping[str, float]) -> float:
    """The loss of a step."""
    return float(sum(losses.values()))


def _half(size: tuple[int, int]) -> tuple[int, int]:
    """Half a network input, in steps of 32 pixels; all of it where that is not to be had."""
    height, width = (side // 64 * 32 for side in size)
    return (height, width) if min(height, width) >= 64 else size


def _of_any_size(proto: onnx.ModelProto) -> onnx.ModelProto:
    """The graph without the sizes that are written at its ends."""
    copy = copied(proto)
    del copy.graph.value_info[:]
    for axis, dim in enumerate(copy.graph.input[0].type.tensor_type.shape.dim):
        if axis > 1:
            dim.dim_param = f"side.{axis}"
    for end in copy.graph.output:
        if end.HasField("type"):
            end.type.tensor_type.ClearField("shape")
    return copy
