"""Against what the official implementations returned, where ../shared is at hand."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnxruntime as ort
import pytest
import yolo_layer_lists as layer_lists
from quantcore_yolo import YoloPlugin, read_checkpoint

from quantcore.contracts.model import ModelOptions

SHARED = Path(__file__).resolve().parents[3].parent / "shared"
pytestmark = [
    pytest.mark.shared,
    pytest.mark.skipif(not SHARED.is_dir(), reason="needs the checkpoints of ../shared"),
]


@pytest.mark.parametrize(
    ("name", "file"), [("yolov7-tiny", "yolov7-tiny"), ("yolov7", "yolov7-w025")]
)
def test_parity_with_the_official_yolov7(name, file):
    model = YoloPlugin(name).load(SHARED / "reference" / f"{file}.pt", ModelOptions(image_size=320))
    reference = np.load(SHARED / "reference" / f"{file}.npz")
    session = ort.InferenceSession(model.proto.SerializeToString())
    outputs = session.run(None, {"images": reference["images"].astype(np.float32) / 255})
    ours, theirs = model.decoding.decode(outputs, (320, 320)), reference["decoded"]
    assert np.abs(ours - theirs).max() / np.abs(theirs).max() < 1e-5
    assert np.abs(ours - theirs)[..., 4:].max() < 1e-6


def test_official_yolov5n():
    model = YoloPlugin("yolov5n").load(SHARED / "weights" / "yolov5n-coco.pt", ModelOptions())
    session = ort.InferenceSession(model.proto.SerializeToString())
    heads = session.run(None, {"images": np.zeros((2, 3, 640, 640), np.float32)})
    assert [h.shape for h in heads] == [(2, 255, s, s) for s in (80, 40, 20)]
    assert model.class_names[:2] == ("person", "bicycle")
    assert len(model.class_names) == 80
    assert model.decoding.strides == (8, 16, 32)
    assert model.decoding.anchors[2] == ((116, 90), (156, 198), (373, 326))
    assert sum(layer.op == "conv2d" for layer in model.layers) == 60


@pytest.mark.parametrize(
    ("file", "generated"),
    [
        ("weights/yolov5n-coco.pt", layer_lists.yolov5(0.25, 0.33, 80)),
        ("reference/yolov7-w025.pt", layer_lists.yolov7(0.25, 80)),
    ],
)
def test_generated_layer_lists_are_the_official_ones(file, generated):
    assert read_checkpoint(SHARED / file).yaml == generated
