"""A decoding that quantcore does not have: its one class is all that it takes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from quantcore.contracts.registry import load_decoding
from quantcore.data.letterbox import Placement
from quantcore.errors import CheckpointError, ModelError, PluginError
from quantcore.evaluation.decode_graph import append_decode
from quantcore.evaluation.finding import find_boxes
from quantcore.ir.decoding import DECODED, Decoding, Limits, Shape
from quantcore.ir.description import describe, described
from quantcore.ir.model import Array, FloatModel, Preprocessing
from quantcore.ir.values import whole

SIZE = (32, 64)


@dataclass(frozen=True)
class Ready(Decoding):
    """A network that ends in its detections, B x most x 6, best first: no NMS."""

    most: int

    kind: ClassVar[str] = "ready"

    @property
    def heads(self) -> int:
        return 1

    @property
    def drawn(self) -> Ready:
        return self

    def classes(self, shapes: Sequence[Shape], size: tuple[int, int]) -> None:
        if [shape[1:] for shape in shapes] != [(self.most, 6)]:
            raise ModelError(f"decoding: needs B x {self.most} x 6")

    def detect(
        self, outputs: Sequence[Array], size: tuple[int, int], limits: Limits
    ) -> list[Array]:
        return [image[image[:, 4] > limits.conf][: limits.detections] for image in outputs[0]]

    def decode(self, outputs: Sequence[Array], size: tuple[int, int]) -> Array:
        return outputs[0]

    def draw(self, graph: onnx.GraphProto, heads: Sequence[str], size: tuple[int, int]) -> None:
        graph.node.append(helper.make_node("Identity", heads, [DECODED], "decode/same"))

    def to_dict(self) -> dict[str, Any]:
        return {"kind": self.kind, "most": self.most}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Ready:
        return cls(whole(data["most"]))


def found(kind: str) -> type[Decoding]:
    if kind != Ready.kind:
        raise PluginError(f"unknown decoding {kind!r}; installed: ready")
    return Ready


@pytest.fixture
def model() -> FloatModel:
    graph = helper.make_graph(
        [helper.make_node("Neg", ["images"], ["best"], "neg")],
        "g",
        [helper.make_tensor_value_info("images", TensorProto.FLOAT, ["batch", 3, *SIZE])],
        [helper.make_tensor_value_info("best", TensorProto.FLOAT, ["batch", 3, 6])],
    )
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])
    return FloatModel("ready", proto, Preprocessing(SIZE), Ready(3), ("cat", "dog"))


def test_a_file_that_describes_it_is_read_again(model: FloatModel) -> None:
    again = described(describe(model), Path("a.onnx"), found)
    assert again is not None
    assert again.decoding == Ready(3)


def test_without_the_plugin_the_kinds_there_are_are_named(model: FloatModel) -> None:
    with pytest.raises(CheckpointError) as caught:
        described(describe(model), Path("a.onnx"), load_decoding)
    assert (
        "unknown decoding 'ready'; installed: anchor_free, anchors, end_to_end, gfl, grid, none"
        in str(caught.value)
    )
    assert str(caught.value).startswith("a.onnx: its description")
    assert "\n" not in str(caught.value)


def test_boxes_come_out_in_original_pixels(model: FloatModel) -> None:
    output = np.zeros((1, 3, 6), np.float32)
    output[0, 0] = [8, 4, 24, 12, 0.9, 1]
    output[0, 1] = [8, 4, 25, 12, 0.8, 1]  # overlaps, and stays
    placement = Placement((2.0, 2.0), 0, 0, (16, 32))
    for name in ("best", DECODED):
        (boxes,) = find_boxes({name: output.copy()}, model, [placement])
        assert boxes[:, 4].tolist() == pytest.approx([0.9, 0.8])
        np.testing.assert_allclose(boxes[0], [4, 2, 12, 6, 0.9, 1], rtol=1e-6)
    (one,) = find_boxes({"best": output}, model, [placement], Limits(detections=1))
    assert len(one) == 1
    with pytest.raises(ModelError, match="needs B x 3 x 6"):
        find_boxes({"best": output[:, :2]}, model, [placement])


def test_it_is_drawn_into_a_graph(model: FloatModel) -> None:
    drawn = append_decode(model.proto, model.decoding, SIZE)
    assert [output.name for output in drawn.graph.output] == [DECODED]
    assert append_decode(drawn, model.decoding, SIZE) == drawn
