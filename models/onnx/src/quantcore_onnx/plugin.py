"""The model plugin `onnx`: a float ONNX network as it describes itself, or as a preset does."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np
import onnx

from quantcore.contracts.model import ModelOptions, ModelPlugin
from quantcore.contracts.options import option
from quantcore.contracts.registry import load_decoding
from quantcore.errors import QuantcoreError, UsageError
from quantcore.ir.description import described
from quantcore.ir.edits import fixed_shapes
from quantcore.ir.model import FloatModel
from quantcore_onnx.cleanup import fold_batch_norms, name_nodes, resize_by_scales
from quantcore_onnx.coco import COCO_NAMES, class_names
from quantcore_onnx.constants import drop_unused, fold_constants
from quantcore_onnx.ends import Ends, Heads
from quantcore_onnx.metadata import Told, told
from quantcore_onnx.presets import PRESETS, check_preset, find_heads
from quantcore_onnx.reading import check_input, invalid, prepare, raise_opset, read
from quantcore_onnx.shapes import (
    check,
    fix_input,
    free_batch,
    in_words,
    infer_shapes,
    use_outputs,
)


@dataclass(frozen=True)
class OnnxOptions(ModelOptions):
    """What a person may choose about an ONNX file.

    Attributes:
        preset: Pre- and post-processing of a file that does not say what it is.
    """

    preset: str | None = option(None, f"Pre- and post-processing: {', '.join(PRESETS)}.")


class OnnxPlugin(ModelPlugin):
    """Any float ONNX file that says what it is, or whose pre- and post-processing is a preset's.

    A file says so by quantcore's description, by the metadata that Ultralytics writes, or by the
    shapes of its outputs.
    """

    options: ClassVar[type[ModelOptions]] = OnnxOptions

    def load(self, weights: Path, options: ModelOptions) -> FloatModel:
        """Reads an ONNX file; one that carries quantcore's description is taken as it is.

        Args:
            weights: The file; external data may lie beside it.
            options: `preset`, one of `PRESETS`, for a file that does not say what it is; `size`
                where the file leaves it open.

        Raises:
            CheckpointError: Not readable, quantized already, or not what the preset or the
                description says.
            UsageError: No preset for a file that does not say what it is, or a preset or an image
                size other than the file's own.
        """
        path = Path(weights)
        if not isinstance(options, OnnxOptions):
            options = OnnxOptions(options.image_size)
        check_preset(self.name, options.preset)
        try:
            with np.errstate(all="ignore"):  # what is not finite is refused by name later
                return self._read(path, options)
        except QuantcoreError:
            raise
        except Exception as error:  # protobuf's, NumPy's, the evaluator's: each has its own
            raise invalid(error, path) from None

    def _read(self, path: Path, options: OnnxOptions) -> FloatModel:
        model = read(path)
        found = described(model, path, load_decoding)
        if found is not None:
            check_input(model, path)
            check(model, path)
            _check_options(found, options, path)
            return found
        known = told(model, path)
        prepare(model, path)
        size = fix_input(model, options.size, known.size, path)
        model = _normalise(model, path)
        ends = Ends(model.graph, size, len(known.names) or None)
        heads = find_heads(ends, self.name, options.preset or known.preset, path)
        return FloatModel(
            name=self.name,
            proto=_cut(model, heads, path),
            preprocessing=heads.preprocessing,
            decoding=heads.decoding,
            class_names=_class_names(heads, known),
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
    preset = PRESETS[options.preset]
    same = found.preprocessing in preset.preprocessings(size) and preset.reads(found.decoding)
    if not same:
        raise UsageError(
            f"{path}: describes other pre- or post-processing than preset {options.preset}; leave "
            "the preset away, and the file's own is used"
        )


def _normalise(model: onnx.ModelProto, path: Path) -> onnx.ModelProto:
    """Folds what is constant and rewrites what quantization cannot use; results stay the same."""
    del model.graph.metadata_props[:]
    model = fold_constants(raise_opset(fold_constants(model, path), path), path)
    resize_by_scales(model.graph, fixed_shapes(model.graph))
    name_nodes(model.graph)
    fold_batch_norms(model.graph)
    drop_unused(model.graph)
    return infer_shapes(model, path)


def _cut(model: onnx.ModelProto, heads: Heads, path: Path) -> onnx.ModelProto:
    """The graph up to its heads, with a batch as free as it can be."""
    use_outputs(model.graph, heads.names)
    drop_unused(model.graph)
    model = free_batch(infer_shapes(model, path), path)
    drop_unused(model.graph)
    check(model, path)
    return model


def _class_names(heads: Heads, known: Told) -> tuple[str, ...]:
    """The file's own names, or COCO's where it has none and does not contradict."""
    count = heads.classes or len(known.names) or len(COCO_NAMES)
    return known.names if len(known.names) == count else class_names(count)
