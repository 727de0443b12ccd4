"""Checkpoints that ask for endless time or memory, or for the end of the process."""

import io
import os
import pickle
import struct
import time
import zipfile
from collections import OrderedDict
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy
from quantcore_yolo import YoloPlugin
from quantcore_yolo.records import Record
from quantcore_yolo.unpickle import unpickle

from quantcore.contracts.model import ModelOptions
from quantcore.errors import CheckpointError
from quantcore.showing import one_line

#: Seconds: ten are promised, on a machine that does nothing else.
PATIENCE = 10


def refused(path: Path, name: str = "yolov5n") -> str:
    began = time.monotonic()
    with pytest.raises(CheckpointError) as caught:
        YoloPlugin(name).load(path, ModelOptions(image_size=64))
    message = str(caught.value)
    assert time.monotonic() - began < PATIENCE
    assert message.startswith(one_line(str(path)))
    assert message.isprintable()
    assert len(message) < len(str(path)) + 500
    return message


def write(path: Path, data: bytes, **entries: bytes) -> Path:
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("archive/data.pkl", data)
        for name, content in entries.items():
            file.writestr(f"archive/data/{name}", content)
    return path


@pytest.mark.parametrize(
    "data",
    [
        b"\x80\x02}N" + b"\x85" * 200_000 + b"Ns.",  # the hash of a tuple 200,000 deep
        b"\x80\x02}N" + b"2\x86" * 40 + b"Ns.",  # of one with 2**40 elements
        b"\x80\x02]r\x00\x00\x00\x10.",  # a memo index of 2**28
        b"\x80\x02" + b"}" * 3_000_000 + b".",
        b"\x80\x02" + b"]q\x00" + b"h\x00" * 1_000_000 + b".",
        b"\x80\x02N" + b"\x85" * 300_000 + b".",  # taken apart again without recursion
        b"\x80\x02]" + b"2a" * 500_000 + b".",
        b"\x80\x02c__builtin__\nlist\nq\x00]("
        + b"N" * 1000
        + b"eq\x01"  # copies of copies
        + b"h\x00h\x01\x85R0" * 100_000
        + b"h\x01.",
        b"\x80\x02}(" + b"".join(b"K\x01K%c\x86N" % (i % 250) for i in range(5000)) + b"u.",
        b"\x80\x02}\x8a\x28" + b"\xff" * 39 + b"\x7fNs.",  # a key of 300 bits
        b"\x80\x02\x8b\x00\x00\x01\x00" + b"\x7f" * 65536 + b".",
        b"L" + b"9" * 100_000 + b"L\n.",
        b"\x80\x02(((((.",
        b"e.",
        b"\x80\x02\x85.",
        b"\x80\x02h\x05.",
        b"\x80\x02NR.",
        b"\x80\x02)NR.",
        b"\x80\x02}]Ns.",
        b"\x80\x02\x82\x01.",
        b"\x80\x02NN}b.",
        b"\x80\x02ccollections\nOrderedDict\n)R}X\x03\x00\x00\x00getNsb.",
        b"",
        b"\x80",
    ],
    ids=range(24),
)
def test_pickles(data: bytes, tmp_path: Path) -> None:
    refused(write(tmp_path / "m.pt", data))


def test_records_nested_as_deep_as_a_pickle_allows_go_as_they_came() -> None:
    deep = b"\x80\x02N" + b"q\x01cmodels.a\nB\nh\x01\x85R" * 150_000 + b"."
    found = unpickle(deep, "x")
    assert isinstance(found, Record)
    del found


class Model:
    """Pickled under the name of the official class."""

    def __init__(self, yaml: object, modules: object = None, **state: object) -> None:
        self.__dict__.update(state, yaml=yaml, _modules=modules or OrderedDict())


Model.__module__, Model.__qualname__ = "models.yolo", "Model"


def pickled(value: object, tmp_path: Path) -> Path:
    """A checkpoint around a value; `Model` is found nowhere, so its name is written by hand."""
    data = _Pickler.dumps({"model": value})
    return write(tmp_path / "m.pt", data)


class _Pickler(pickle._Pickler):  # the one in Python: it takes a name for what it says
    @classmethod
    def dumps(cls, value: object) -> bytes:
        buffer = io.BytesIO()
        cls(buffer, 2).dump(value)
        return buffer.getvalue()

    def save_global(self, obj: object, name: object = None) -> None:
        if obj is Model:
            self.write(b"cmodels.yolo\nModel\n")
            self.memoize(obj)
        else:
            super().save_global(obj, name)


SP = [-1, 1, "SP", []]
HEAD = [[-1, 1, "Detect", [3, [[10, 13]]]]]


def rows(*backbone: list, **more: object) -> dict:
    return {"nc": 3, "anchors": [[10, 13]], "backbone": list(backbone), "head": HEAD, **more}


@pytest.mark.parametrize(
    ("yaml", "said"),
    [
        (rows([-1, 3, "SP", []], depth_multiple=1e300), "larger"),
        (rows([-1, 3, "SP", []], depth_multiple=float("inf")), "too large"),
        (rows([-1, 10**9, "SP", []]), "malformed"),
        (rows(*[[-1, 900, "SP", []]] * 100), "blocks"),
        (rows([-1, 1, "SP", [10**30]]), "too large"),
        (rows([-1, 1, "SP", [3, 2**30]]), "malformed"),
        (rows([-1, 1, "nn.Upsample", [None, 10**400, "nearest"]]), "too large"),
        (rows(SP, *[[-1, 1, "nn.Upsample", [None, 4000, "nearest"]]] * 9), "stride"),
        (rows(SP, *[[-1, 1, "MP", [4000]]] * 9), "stride"),
        (rows(SP, *[[[-1, -1], 1, "Concat", [1]]] * 60), "channels"),
        (rows([[-1] * 10_000, 1, "Concat", [1]]), "malformed"),
        (rows(*[[-1, 1, "SP", []]] * 3000), "larger"),
        (rows([-1, 1, "SP", [3, 0]]), "stride 0"),
        (rows([-1, 1, "SP", [-3, 1]]), "kernel -3"),
        (rows(["x\n\x1b[31m" * 1000, 1, "SP", []]), "too long"),
        (rows([-1, 1, "x\n\x1b[31m" * 9, []]), "not supported"),
        (rows([-1, 1, "SP", [{}]]), "dict"),
        (rows(depth_multiple=True), "depth_multiple"),
        ({"backbone": 3, "head": None}, "no backbone"),
    ],
    ids=range(19),
)
def test_layer_lists(yaml: dict, said: str, tmp_path: Path) -> None:
    assert said in refused(pickled(Model(yaml), tmp_path), "yolov7-tiny")


def test_values_that_share_their_parts(tmp_path: Path) -> None:
    shared: list = [1]
    for _ in range(40):
        shared = [shared, shared]
    assert "far too many" in refused(pickled(Model(rows(shared)), tmp_path))
    shared.append(shared)
    assert "far too many" in refused(pickled(Model({"backbone": shared, "head": []}), tmp_path))
    assert "class names" in refused(pickled(Model(rows([-1, 1, "SP", []]), names=shared), tmp_path))


def test_modules_that_share_their_children(tmp_path: Path) -> None:
    module = Model({}, OrderedDict())
    for _ in range(15):
        module = Model({}, OrderedDict((str(i), module) for i in range(20)))
    module.__dict__["yaml"] = rows([-1, 1, "SP", []])
    assert "share their children" in refused(pickled(module, tmp_path))
    module.__dict__["_modules"]["0"] = module
    assert "nest too deeply" in refused(pickled(module, tmp_path))


def test_names_of_modules(tmp_path: Path) -> None:
    for name in ("x" * 100_000, 10**400, ("a", "b")):
        yaml = rows([-1, 1, "SP", []])
        refused(pickled(Model(yaml, OrderedDict({name: Model({})})), tmp_path))


def tensor(size: bytes, strides: bytes, count: bytes = b"K\x04", key: bytes = b"0") -> bytes:
    """A checkpoint's pickle with one tensor of FP32."""
    return (
        b"\x80\x02}X\x05\x00\x00\x00modelcmodels.yolo\nModel\n)\x81}(X\x08\x00\x00\x00_modules}"
        b"X\x04\x00\x00\x00yaml}X\x0b\x00\x00\x00_parameters}X\x01\x00\x00\x00w"
        b"ctorch._utils\n_rebuild_tensor_v2\n((X\x07\x00\x00\x00storagectorch\nFloatStorage\n"
        b"X"
        + struct.pack("<L", len(key))
        + key
        + b"X\x03\x00\x00\x00cpu"
        + count
        + b"tQK\x00"
        + size
        + strides
        + b"tRsubs."
    )


HUGE = b"\x8a\x0d\x00\x00\x00@\xea\xedtF\xd0\x9c,\x9f\x0c"  # 10**30


@pytest.mark.parametrize(
    "data",
    [
        tensor(b"K\x00" + HUGE + b"\x86", b"K\x01K\x01\x86"),
        tensor(b"K\x00" + b"J\xff\xff\xff\x7f" + b"\x86", b"K\x01K\x01\x86"),
        tensor(b"K\x02K\x02\x86", HUGE + b"K\x01\x86"),
        tensor(b"K\x02K\x02\x86", b"\x8a\x09\x00\x00\x00\x00\x00\x00\x00\x00\x40K\x01\x86"),
        tensor(b"K\x02\x85", b"K\x01\x85", count=HUGE),
        tensor(b"K\x02\x85", b"K\x01\x85", count=b"J\xff\xff\xff\xff"),
        tensor(b"K\x02\x85", b"K\x01\x85", key=b"a\nb\x1b[31m" * 1000),
        tensor(b"(K\x02t", b"NN\x86"),
    ],
    ids=range(8),
)
def test_tensors(data: bytes, tmp_path: Path) -> None:
    refused(write(tmp_path / "m.pt", data, **{"0": bytes(16)}))


def test_zip_of_far_too_many_entries(tmp_path: Path) -> None:
    path = tmp_path / "m.pt"
    with zipfile.ZipFile(path, "w") as file:
        for i in range(60_000):
            file.writestr(zipfile.ZipInfo(f"archive{i}/a"), b"")
    assert "entries" in refused(path)


def test_zip_whose_entries_lie_upon_each_other(tmp_path: Path) -> None:
    path = write(tmp_path / "m.pt", b"\x80\x02}.")
    whole = bytearray(path.read_bytes())
    at = whole.rfind(b"PK\x01\x02")
    struct.pack_into("<LL", whole, at + 20, 1 << 20, 1 << 20)  # both sizes of the entry
    path.write_bytes(whole)
    assert "larger than the file" in refused(path)


def test_zip_entry_that_claims_gigabytes_before_decompression(tmp_path: Path) -> None:
    path = write(tmp_path / "m.pt", b"\x80\x02}.")
    whole = bytearray(path.read_bytes())
    struct.pack_into("<L", whole, whole.rfind(b"PK\x01\x02") + 20, 0xF0000000)
    path.write_bytes(whole)
    assert "too large" in refused(path)


def test_safetensors_metadata(tmp_path: Path) -> None:
    path = tmp_path / "m.safetensors"
    good = {"format": "quantcore-yolo/1", "yaml": "{}", "names": "[]", "bn_eps": "0.001"}
    for change in (
        {"yaml": "[" * 100_000},
        {"yaml": '{"a":' * 100_000},
        {"names": '["a", ' + "1" * 10_000 + "]"},
        {"names": '["' + "a" * 10_000 + '"]'},
        {"yaml": '{"backbone": [], "backbone": []}'},
        {"image_size": "9" * 400},
        {"image_size": "1000000000"},
        {"image_size": "1" * 5000},
        {"bn_eps": "1e999"},
        {"bn_eps": "x\n" * 1000},
    ):
        safetensors.numpy.save_file({"a": np.zeros(1, np.float32)}, path, {**good, **change})
        refused(path)


def test_devices_and_pipes(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe.pt"
    os.mkfifo(pipe)
    for path in (pipe, Path("/dev/zero"), tmp_path):
        assert "give a" in refused(path)
    pipe.rename(pipe.with_suffix(".safetensors"))
    assert "pipe" in refused(pipe.with_suffix(".safetensors"))
    assert "no such file" in refused(tmp_path / "missing.pt")
    assert "cannot be read" in refused(tmp_path / "a\0b.pt")
