"""The model plugin `onnx`: a float ONNX detector as it describes itself, or as a preset does."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import onnx

from quantcore.contracts.model import ModelOptions, ModelPlugin
from quantcore.contracts.options import option
from quantcore.contracts.registry import load_decoding
from quantcore.errors import UsageError
from quantcore.ir.description import described
from quantcore.ir.edits import fixed_shapes
from quantcore.ir.model import FloatModel, Preprocessing
from quantcore_onnx.cleanup import drop_identities, fold_batch_norms, name_nodes, resize_by_scales
from quantcore_onnx.coco import class_names
from quantcore_onnx.constants import drop_unused, fold_constants
from quantcore_onnx.heads import DECODINGS, PRESETS, find_heads, use_heads
from quantcore_onnx.reading import check_input, prepare, read
from quantcore_onnx.shapes import (
    check,
    fix_input,
    free_batch,
    in_words,
    infer_shapes,
)


@dataclass(frozen=True)
class OnnxOptions(ModelOptions):
    """What a person may choose about an ONNX file.

    Attributes:
        preset: Pre- and post-processing of a file that does not describe its own.
    """

    preset: str | None = option(None, f"Pre- and post-processing: {', '.join(PRESETS)}.")


class OnnxPlugin(ModelPlugin):
    """Any float ONNX file that quantcore wrote, or whose pre- and post-processing is a preset's."""

    options: ClassVar[type[ModelOptions]] = OnnxOptions

    def load(self, weights: Path, options: ModelOptions) -> FloatModel:
        """Reads an ONNX file; one that carries quantcore's description is taken as it is.

        Args:
            weights: The file; external data may lie beside it.
            options: `preset`, one of yolov5, yolov7, yolox, for a file without description;
                `size` where the file leaves it open.

        Raises:
            CheckpointError: Not readable, quantized already, or not what the preset or the
                description says.
            UsageError: No preset for a file without description, or a preset or an image size
                other than the file's own.
        """
        path = Path(weights)
        if not isinstance(options, OnnxOptions):
            options = OnnxOptions(options.image_size)
        if options.preset is not None and options.preset not in PRESETS:
            raise UsageError(_needs_preset(self.name, f"not {options.preset!r}"))
        model = read(path)
        found = described(model, path, load_decoding)
        if found is not None:
            check_input(model, path)
            _check_options(found, options, path)
            return found
        if options.preset is None:
            raise UsageError(_needs_preset(self.name, f"{path} carries no description"))
        model = prepare(model, path)
        size = fix_input(model, options.size, path)
        model = _normalise(model, path)
        heads = find_heads(model, options.preset, size, path)
        use_heads(model.graph, heads)
        drop_unused(model.graph)
        model = free_batch(infer_shapes(model, path), path)
        drop_unused(model.graph)
        check(model, path)
        return FloatModel(
            name=self.name,
            proto=model,
            preprocessing=_preprocessing(options.preset, size),
            decoding=heads.decoding,
            class_names=class_names(heads.classes),
        )


def _needs_preset(name: str, why: str) -> str:
    return (
        f"model {name} needs a preset for pre- and post-processing, one of {', '.join(PRESETS)}; "
        f"{why}"
    )


def _check_options(found: FloatModel, options: OnnxOptions, path: Path) -> None:
    """Raises UsageError where a person wants something else than a file describes."""
    size, wanted = found.preprocessing.size, options.size
    if wanted is not None and size != wanted:
        raise UsageError(
            f"{path}: is described for {size[0]} x {size[1]} pixels; leave image size "
            f"{in_words(wanted)} away, or export the model at that size"
        )
    if options.preset is None:
        return
    same = found.preprocessing == _preprocessing(options.preset, size)
    same = same and found.decoding in DECODINGS[options.preset]
    if not same:
        raise UsageError(
            f"{path}: describes other pre- or post-processing than preset {options.preset}; leave "
            "the preset away, and the file's own is used"
        )


def _normalise(model: onnx.ModelProto, path: Path) -> onnx.ModelProto:
    """Folds what is constant and rewrites what quantization cannot use; results stay the same."""
    del model.graph.metadata_props[:]
    model = infer_shapes(model, path)
    fold_constants(model)
    # Shapes behind a Reshape are known only once its target is a constant.
    model = infer_shapes(model, path)
    fold_constants(model)
    drop_identities(model.graph)
    resize_by_scales(model.graph, fixed_shapes(model.graph))
    name_nodes(model.graph)
    fold_batch_norms(model.graph)
    drop_unused(model.graph)
    return infer_shapes(model, path)


def _preprocessing(preset: str, size: tuple[int, int]) -> Preprocessing:
    """What the preset's own repository does to an image."""
    if preset == "yolox":
        return Preprocessing(size=size, channels="bgr", scale=1.0, placement="top_left")
    return Preprocessing(size=size)
