"""What reads files of strangers: for each reader good files to start from, and how it is called."""

from __future__ import annotations

import io
import json
import struct
import zipfile
from collections.abc import Callable
from dataclasses import dataclass, fields
from pathlib import Path

import cv2
import numpy as np
import onnx
import safetensors.numpy
from quantcore_onnx import OnnxOptions, OnnxPlugin
from quantcore_yolo import YoloPlugin

import quantcore
from quantcore.contracts.capabilities import Capabilities
from quantcore.contracts.model import ModelOptions
from quantcore.contracts.registry import load_decoding
from quantcore.contracts.remote import client, environments, peer, wire
from quantcore.data.coco import CocoDataset
from quantcore.data.images import decode_image
from quantcore.data.voc import VocDataset
from quantcore.data.yolo import YoloDataset, read_labels
from quantcore.ir.description import KEY, describe, described
from quantcore.policy.policy import CalibrationPolicy
from quantcore.policy.profiles import Profile
from quantcore.table.histogram import Histogram
from quantcore.table.kept import KeptHistograms
from quantcore.table.statistics import Statistics
from quantcore.table.table import CalibrationTable, Provenance, TensorRange
from quantcore.testing.models import small_detector
from tests.fuzz import graphs
from tests.fuzz.mutations import BINARY, PICKLED, TEXTUAL, Mutate


@dataclass(frozen=True)
class Reader:
    """One reader.

    Attributes:
        name: Of the reader.
        file: What its file is called.
        samples: Good files, as bytes.
        read: Reads a file; raises QuantcoreError where it is no good.
        ways: How samples are changed.
        wrap: Puts the changed bytes into the file, where they are only a part of it.
    """

    name: str
    file: str
    samples: Callable[[], list[bytes]]
    read: Callable[[Path], object]
    ways: tuple[Mutate, ...]
    wrap: Callable[[bytes], bytes] = bytes


def _yolo(path: Path) -> object:
    return YoloPlugin("yolov7-tiny").load(path, ModelOptions(image_size=64))


def _onnx(path: Path) -> object:
    described_ = b"quantcore.model" in path.read_bytes()
    return OnnxPlugin("onnx").load(path, OnnxOptions(preset=None if described_ else "yolov5"))


def _module(state: bytes = b"", layers: bytes = b"]") -> bytes:
    """The pickle of a model with a layer list and two tensors, as torch writes it."""
    tensor = (
        b"ctorch._utils\n_rebuild_tensor_v2\n((X\x07\x00\x00\x00storagectorch\nFloatStorage\n"
        b"X\x01\x00\x00\x000X\x03\x00\x00\x00cpuK\x04tQK\x00K\x02K\x02\x86K\x02K\x01\x86\x89"
        b"ccollections\nOrderedDict\n)RtR"
    )
    rows = b"](J\xff\xff\xff\xffK\x01X\x02\x00\x00\x00SP](K\x03K\x01ee"
    head = b"](J\xff\xff\xff\xffK\x01X\x06\x00\x00\x00Detect](K\x03](K\x0aK\x0deee"
    return (
        b"\x80\x02}q\x00X\x05\x00\x00\x00modelq\x01cmodels.yolo\nModel\nq\x02)\x81q\x03}q\x04("
        b"X\x08\x00\x00\x00_modulesccollections\nOrderedDict\n)R(X\x01\x00\x00\x000h\x02)\x81}"
        b"X\x0b\x00\x00\x00_parameters}X\x06\x00\x00\x00weightq\x05" + tensor + b"ssb"
        b"X\x01\x00\x00\x001h\x02)\x81}X\x08\x00\x00\x00_buffers}X\x01\x00\x00\x00b" + tensor
        + b"ssbuX\x05\x00\x00\x00names](X\x01\x00\x00\x00aX\x01\x00\x00\x00be"
        b"X\x04\x00\x00\x00yaml}(X\x02\x00\x00\x00ncK\x02X\x0e\x00\x00\x00depth_multiple"
        b"G?\xf0\x00\x00\x00\x00\x00\x00X\x07\x00\x00\x00anchors](](K\x0aK\x0dee"
        b"X\x08\x00\x00\x00backbone]" + rows + b"aX\x04\x00\x00\x00head]" + head + b"auubs."
    )  # fmt: skip


def _pt(pickle: bytes) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as file:
        file.writestr("archive/data.pkl", pickle)
        file.writestr("archive/data/0", struct.pack("<4f", 1, 2, 3, 4))
    return buffer.getvalue()


def _safetensors() -> list[bytes]:
    yaml = {
        "nc": 2,
        "anchors": [[10, 13]],
        "backbone": [[-1, 1, "SP", [3, 1]]],
        "head": [[-1, 1, "Detect", [2, [[10, 13]]]]],
    }
    metadata = {
        "format": "quantcore-yolo/1",
        "yaml": json.dumps(yaml),
        "names": '["a", "b"]',
        "bn_eps": "0.001",
        "image_size": "64",
    }
    tensors = {
        "model.1.m.0.weight": np.ones((7, 3, 1, 1), np.float32),
        "model.1.m.0.bias": np.ones(7, np.float32),
    }
    return [safetensors.numpy.save(tensors, metadata)]


POLICY = b"""\
implementation: portable
activations: {observer: percentile, percentile: 99.99, bits: 8}
weights: {observer: max, granularity: per_channel}
images: 20
batch_size: 1
seed: 0
placement: {name: mine, extends: tensorrt, rules: [
  {name: a, action: float, ops: [conv2d], because: "x", position: last}]}
layers:
  - {match: "model.24.*", quantize: false}
  - {match: "op:add", activations: {observer: mse, bins: 1024}}
"""
PROFILE = b"""\
name: mine
extends: minimal
zero_points: false
rules:
  - {name: narrow, action: float, ops: [conv2d], because: slow, fewer_channels_than: 16}
"""


def _tables() -> list[bytes]:
    model = small_detector()
    seen = Statistics.watching(True, [0.9], True)
    seen.images, seen.minimum, seen.maximum = 1, -1.0, 2.0
    seen.histogram = Histogram()
    ranges = {
        "images": TensorRange("activation", 0.0, 1.0),
        "w": TensorRange("weight", (-1.0, -2.0), (1.0, 2.0), 0),
    }
    told = Provenance(model.name, model.fingerprint, "b", {"b": "1"}, {"images": 2}, (1, 2))
    kept = KeptHistograms.of(model, {"images": (Statistics.watching(True, [0.9], True),)})
    return [CalibrationTable(ranges, told, k).to_json().encode() for k in (None, kept)]


COCO = json.dumps(
    {
        "images": [{"id": 1, "file_name": "a.jpg", "width": 40, "height": 30}],
        "categories": [{"id": 1, "name": "x"}, {"id": 2, "name": "y"}],
        "annotations": [
            {
                "id": 1,
                "image_id": 1,
                "category_id": 1,
                "bbox": [1, 2, 3.5, 4],
                "area": 14.0,
                "iscrowd": 0,
                "segmentation": [[1, 2, 3, 4, 5, 6]],
            }
        ],
    }
).encode()


def _coco(path: Path) -> object:
    (path.parent.parent / "val2017").mkdir(exist_ok=True)
    dataset = CocoDataset.open(path.parent.parent, "val2017")
    return dataset.check_classes(["x"] * len(dataset.categories))


YOLO = b"""\
path: .  # of this file
train: images
val: [images, list.txt]
nc: 3
names: {0: person, 1: "traffic light", 2: cat}
"""
LABELS = b"0 0.5 0.5 0.25 0.125\n2 0.1 0.1 0.3 0.1 0.3 0.4 0.1 0.4\n1 1 1 0 0\n"


def _yolo_data(path: Path) -> object:
    (path.parent / "images").mkdir(exist_ok=True)
    (path.parent / "images" / "a.jpg").touch()
    (path.parent / "list.txt").write_text("./images/a.jpg\n")
    return YoloDataset.open(path, "val").check_classes(["person", "dog"])


def _labels(path: Path) -> object:
    return read_labels(path, 3)


VOC = b"""\
<annotation><folder>a</folder><filename>a.jpg</filename><size><width>40</width></size>
<object><name>cat</name><difficult>0</difficult><bndbox><xmin>1</xmin><ymin>2</ymin>
<xmax>20.5</xmax><ymax>30</ymax></bndbox></object>
<object><name>dog &amp; co</name><bndbox><xmax>9</xmax><xmin>3</xmin><ymin>4</ymin><ymax>5</ymax>
</bndbox></object></annotation>
"""


def _voc(path: Path) -> object:
    return VocDataset.open(path.parent.parent, "val")


def _images() -> list[bytes]:
    pixels = np.random.default_rng(0).integers(0, 255, (30, 40, 3)).astype(np.uint8)
    endings = (".jpg", ".png", ".bmp", ".webp")
    progressive = cv2.imencode(".jpg", pixels, [cv2.IMWRITE_JPEG_PROGRESSIVE, 1])[1]
    return [*(cv2.imencode(e, pixels)[1].tobytes() for e in endings), progressive.tobytes()]


TOML = b'[backends.acme]\npython = "../acme/bin/python"\n[backends.b-2]\npython = "~/b/python"\n'


def _description() -> list[bytes]:
    return [describe(small_detector()).metadata_props[0].value.encode()]


def _described(path: Path) -> object:
    proto = onnx.ModelProto()
    proto.CopyFrom(small_detector().proto)
    text = path.read_bytes().decode(errors="replace")
    proto.metadata_props.add(key=KEY, value=text)
    return described(proto, path, load_decoding)


def _answers() -> list[bytes]:
    known = Capabilities({"max": frozenset()}, {"max": frozenset()})
    told = {field.name: wire.plain(getattr(known, field.name)) for field in fields(known)}
    lines = [
        {"kind": "hello", "quantcore": quantcore.__version__},
        {"kind": "progress", "value": ["start", 1, "working", 3]},
        {"kind": "progress", "value": ["stop", 1]},
        {"kind": "alive"},
        {"kind": "done", "value": {"capabilities": told, "versions": {"a": "1"}}, "peak": 1.5},
    ]
    return ["\n".join(map(json.dumps, lines)).encode() + b"\n"]


def _spoken(path: Path) -> object:
    """The answers of another process: a program that prints the file."""
    peer.GREETING = peer.SILENCE = 5.0
    program = path.with_name("python")
    program.write_text(f"#!/bin/sh\nexec cat {path}\n")
    program.chmod(0o755)
    client._describe.cache_clear()
    return client.RemoteBackend("acme", program)


def _profile(path: Path) -> object:
    return Profile.read(path.name, path.parent)


READERS = (
    Reader("pickle", "m.pt", lambda: [_module()], _yolo, PICKLED, _pt),
    Reader("zip", "m.pt", lambda: [_pt(_module())], _yolo, BINARY),
    Reader("safetensors", "m.safetensors", _safetensors, _yolo, (*BINARY, *TEXTUAL)),
    Reader("onnx", "m.onnx", graphs.samples, _onnx, (*BINARY, *(graphs.other_field,) * 16)),
    Reader("policy", "p.yaml", lambda: [POLICY], CalibrationPolicy.load, TEXTUAL),
    Reader("profile", "p.yaml", lambda: [PROFILE], _profile, TEXTUAL),
    Reader("table", "t.json", _tables, CalibrationTable.load, TEXTUAL),
    Reader("coco", "annotations/instances_val2017.json", lambda: [COCO], _coco, TEXTUAL),
    Reader("data.yaml", "data.yaml", lambda: [YOLO], _yolo_data, TEXTUAL),
    Reader("labels", "a.txt", lambda: [LABELS], _labels, TEXTUAL),
    Reader("voc", "Annotations/a.xml", lambda: [VOC], _voc, (*TEXTUAL, *BINARY)),
    Reader("image", "a.jpg", _images, decode_image, BINARY),
    Reader("config", "quantcore.toml", lambda: [TOML], environments._read, TEXTUAL),
    Reader("description", "d.onnx", _description, _described, TEXTUAL),
    Reader("remote", "answers", _answers, _spoken, TEXTUAL),
)
