"""Classifiers as people export them: told by their one output, looks by preset or metadata."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from quantcore_onnx import OnnxOptions, OnnxPlugin

from quantcore.errors import CheckpointError, UsageError
from quantcore.evaluation.decoding.classes import ClassScores
from quantcore.ir.model import FloatModel

#: ResNets end in a Gemm, NIN and SqueezeNet in their pooling, others in a softmax.
ENDINGS = ("Gemm", "GlobalAveragePool", "Softmax", "Sigmoid", "LogSoftmax")


def write(
    folder: Path, ending: str = "Gemm", outputs: int = 1, said: dict[str, str] | None = None
) -> Path:
    """A network of one convolution and seven classes."""
    node = helper.make_node
    weight = np.random.default_rng(0).standard_normal((7, 3, 3, 3)).astype(np.float32)
    nodes = [
        node("Conv", ["images", "w"], ["c"], "conv"),
        node("GlobalAveragePool", ["c"], ["y" if ending == "GlobalAveragePool" else "p"], "pool"),
    ]
    if ending != "GlobalAveragePool":
        nodes.append(node("Flatten", ["p"], ["f"], "flat"))
        nodes.append(node("Gemm", ["f", "g"], ["y" if ending == "Gemm" else "l"], "linear"))
    if ending not in ("GlobalAveragePool", "Gemm"):
        nodes.append(node(ending, ["l"], ["y"], "ending"))
    names = ["y", "c"][:outputs]
    graph = helper.make_graph(
        nodes,
        "classifier",
        [helper.make_tensor_value_info("images", TensorProto.FLOAT, [1, 3, 32, 32])],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in names],
        [
            numpy_helper.from_array(weight, "w"),
            numpy_helper.from_array(np.eye(7, dtype=np.float32), "g"),
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    helper.set_model_props(model, said or {})
    path = folder / "classifier.onnx"
    onnx.save(model, str(path))
    return path


def load(path: Path, preset: str | None = None) -> FloatModel:
    return OnnxPlugin("onnx").load(path, OnnxOptions(preset=preset))


@pytest.mark.parametrize("ending", ENDINGS)
def test_one_output_is_the_scores_of_classes(tmp_path: Path, ending: str) -> None:
    model = load(write(tmp_path, ending), "classifier")
    assert model.decoding == ClassScores(softmax=ending not in ("Softmax", "Sigmoid"))
    assert model.class_names == tuple(f"class{i}" for i in range(7))
    assert model.batch_size is None


def test_how_images_go_in_is_the_presets(tmp_path: Path) -> None:
    path = write(tmp_path)
    imagenet, plain = (load(path, name).preprocessing for name in ("imagenet", "classifier"))
    assert (imagenet.fit, imagenet.crop, imagenet.mean[0]) == ("crop", 0.875, 0.485)
    assert (plain.fit, plain.crop, plain.mean, plain.scale) == ("crop", 1.0, (0.0,) * 3, 1 / 255)
    with pytest.raises(UsageError, match="its outputs fit imagenet or classifier"):
        load(path)


def test_ultralytics_says_what_it_is(tmp_path: Path) -> None:
    names = tuple("abcdefg")
    said = {"task": "classify", "names": str(dict(enumerate(names)))}
    model = load(write(tmp_path, "Softmax", said=said))
    assert model == load(write(tmp_path, "Softmax", said=said), "classifier")
    assert model.class_names == names
    with pytest.raises(CheckpointError, match="names 6 classes"):
        load(write(tmp_path, said={**said, "names": str(list(names[:6]))}))


def test_several_outputs_are_none(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="preset imagenet needs one output B x classes"):
        load(write(tmp_path, outputs=2), "imagenet")
