"""The model plugin `onnx`: normalises a float ONNX detector and describes it by a preset."""

from __future__ import annotations

from pathlib import Path

import onnx

from quantcore.errors import UsageError
from quantcore.ir import FloatModel, Preprocessing
from quantcore.model import ModelOptions, ModelPlugin
from quantcore_onnx.cleanup import drop_identities, fold_batch_norms, name_nodes, resize_by_scales
from quantcore_onnx.coco import class_names
from quantcore_onnx.constants import drop_unused, fold_constants
from quantcore_onnx.heads import PRESETS, find_heads, use_heads
from quantcore_onnx.reading import read_graph
from quantcore_onnx.shapes import check, fix_input, free_batch, infer_shapes, shapes_of


class OnnxPlugin(ModelPlugin):
    """Any float ONNX file whose pre- and post-processing is that of a preset."""

    def load(self, weights: Path, options: ModelOptions) -> FloatModel:
        """Reads an ONNX file.

        Args:
            weights: The file; external data may lie beside it.
            options: `preset`, one of yolov5, yolov7, yolox; `image_size` in pixels where the
                file leaves it open.

        Raises:
            CheckpointError: Not readable, quantized already, or not what the preset describes.
            UsageError: No preset, or an image size other than that of the file.
        """
        path = Path(weights)
        if options.preset not in PRESETS:
            given = "none was given" if options.preset is None else f"not {options.preset!r}"
            raise UsageError(
                f"model {self.name} needs a preset for pre- and post-processing, one of "
                f"{', '.join(PRESETS)}; {given}"
            )
        model = read_graph(path)
        size = fix_input(model, options.image_size, path)
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


def _normalise(model: onnx.ModelProto, path: Path) -> onnx.ModelProto:
    """Folds what is constant and rewrites what quantization cannot use; results stay the same."""
    del model.graph.metadata_props[:]
    model = infer_shapes(model, path)
    fold_constants(model)
    # Shapes behind a Reshape are known only once its target is a constant.
    model = infer_shapes(model, path)
    fold_constants(model)
    drop_identities(model.graph)
    resize_by_scales(model.graph, shapes_of(model))
    name_nodes(model.graph)
    fold_batch_norms(model.graph)
    drop_unused(model.graph)
    return infer_shapes(model, path)


def _preprocessing(preset: str, size: tuple[int, int]) -> Preprocessing:
    """What the preset's own repository does to an image."""
    if preset == "yolox":
        return Preprocessing(size=size, channels="bgr", scale=1.0, placement="top_left")
    return Preprocessing(size=size)
