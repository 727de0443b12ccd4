"""Files that must be refused, with one clear line, and without running anything in them."""

from __future__ import annotations

import contextlib
import os
import pickle
import struct
import zipfile
from collections import OrderedDict
from pathlib import Path

import numpy as np
import pytest
import torch
import yolo_layer_lists as layer_lists
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from quantcore_yolo import YoloPlugin, read_checkpoint
from quantcore_yolo.rows import parse_activation
from quantcore_yolo.unpickle import unpickle
from yolo_torch import Model, checkpoint, save_pt, save_safetensors

from quantcore.contracts.model import ModelOptions
from quantcore.errors import CheckpointError, UsageError

OPTIONS = ModelOptions(image_size=64)


@pytest.fixture(scope="module")
def good(tmp_path_factory):
    path = tmp_path_factory.mktemp("good") / "m.pt"
    save_pt(checkpoint(Model(layer_lists.yolov5(0.05))), path)
    return path


def archive(path: Path, data: bytes, **entries: bytes) -> Path:
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("archive/data.pkl", data)
        for name, content in entries.items():
            file.writestr(f"archive/data/{name}", content)
    return path


def refused(path: Path, name: str = "yolov5n") -> str:
    with pytest.raises(CheckpointError) as caught:
        YoloPlugin(name).load(path, OPTIONS)
    message = str(caught.value)
    assert message.startswith(str(path))
    assert "\n" not in message
    return message


class Evil:
    def __init__(self, function, *args):
        self.call = (function, args)

    def __reduce__(self):
        return self.call


@pytest.mark.parametrize("protocol", [0, 1, 2, 4, 5])
def test_malicious_pickle_is_refused_and_does_nothing(protocol, tmp_path):
    victim = tmp_path / "victim"
    data = pickle.dumps({"model": Evil(os.system, f"touch {victim}")}, protocol)
    message = refused(archive(tmp_path / "evil.pt", data))
    assert "system" in message
    assert "run code" in message
    assert not victim.exists()


@pytest.mark.parametrize(
    ("function", "args"),
    [
        (eval, ("1",)),
        (exec, ("1",)),
        (getattr, (OrderedDict, "fromkeys")),
        (getattr, ("text", "forward")),
        (__import__, ("os",)),
        (bytearray, (10,)),
        (torch.load, ("x",)),
        (open, ("x",)),
    ],
)
def test_other_callables_are_refused(function, args, tmp_path):
    data = pickle.dumps([Evil(function, *args)], 2)
    assert "run code" in refused(archive(tmp_path / "evil.pt", data))


def test_nothing_the_pickle_does_outlives_it():
    """Attributes set on a class through BUILD must not reach the classes of this process."""
    data = b"\x80\x02cmodels.common\nConv\n}X\x04\x00\x00\x00evilK\x01s\x86b."
    with pytest.raises(CheckpointError):
        unpickle(data.replace(b"}X", b"N}X"), "x")
    record = unpickle(b"\x80\x02cmodels.common\nConv\n)\x81}X\x04\x00\x00\x00evilK\x01sb.", "x")
    assert record.state == {"evil": 1}
    assert not hasattr(type(record).__mro__[1], "evil")


def test_numpy_arrays_inside_stay_inert():
    content = {"array": np.arange(5.0), "scalar": np.float32(1), "half": np.ones(3, np.float16)}
    for protocol in (2, 3, 4):
        result = unpickle(pickle.dumps(content, protocol), "x")
        assert not any(isinstance(v, np.ndarray) for v in result.values())


def test_not_a_checkpoint(tmp_path, good):
    text = tmp_path / "text.pt"
    text.write_text("no checkpoint at all")
    assert "not a torch checkpoint" in refused(text)
    empty = tmp_path / "empty.pt"
    empty.touch()
    assert "empty" in refused(empty)
    assert "no such file" in refused(tmp_path / "missing.pt")
    assert "directory" in refused(tmp_path)
    short = tmp_path / "short.pt"
    short.write_bytes(good.read_bytes()[:-1000])
    assert "truncated" in refused(short)
    plain = tmp_path / "plain.pt"
    with zipfile.ZipFile(plain, "w") as file:
        file.writestr("readme.txt", "hello")
    assert "torch.save did not write" in refused(plain)


def test_legacy_and_torchscript(tmp_path):
    legacy = tmp_path / "legacy.pt"
    torch.save({"x": torch.ones(1)}, legacy, _use_new_zipfile_serialization=False)
    assert "torch before 1.6" in refused(legacy)
    script = tmp_path / "script.pt"
    torch.jit.script(torch.nn.ReLU()).save(script)
    assert "TorchScript" in refused(script)


def test_state_dict_only(tmp_path):
    state = torch.nn.Conv2d(3, 4, 1).state_dict()
    for i, content in enumerate((state, {"model": state}, {"state_dict": state}, dict(state))):
        torch.save(content, tmp_path / f"{i}.pt")
        assert "state dict" in refused(tmp_path / f"{i}.pt")


def test_no_detector(tmp_path):
    torch.save({"model": torch.nn.Conv2d(3, 4, 1)}, tmp_path / "conv.pt")
    assert "no yaml" in refused(tmp_path / "conv.pt")
    torch.save({"epoch": 3}, tmp_path / "none.pt")
    refused(tmp_path / "none.pt")
    torch.save([1, 2], tmp_path / "list.pt")
    assert "holds no model" in refused(tmp_path / "list.pt")
    model = Model(layer_lists.yolov5(0.05))
    model.yaml["head"] = model.yaml["head"][:-1]
    save_pt(checkpoint(model), tmp_path / "headless.pt")
    assert "not a detector" in refused(tmp_path / "headless.pt")


def test_unknown_module_names_row_and_what_is_supported(tmp_path):
    model = Model(layer_lists.yolov5(0.05))
    model.yaml["backbone"][2][2] = "C2f"
    save_pt(checkpoint(model), tmp_path / "m.pt")
    message = refused(tmp_path / "m.pt")
    assert "row 2 is a C2f" in message
    assert "SPPCSPC" in message


@pytest.mark.parametrize(
    ("layer_list", "name", "hint"),
    [
        (layer_lists.yolov5(0.05), "yolov7-tiny", "looks like a yolov5; try `yolov5n`"),
        (layer_lists.yolov5(0.5, 0.33), "yolov7", "try `yolov5s`"),
        (layer_lists.tiny_like(), "yolov5n", "try `yolov7-tiny`"),
        (layer_lists.yolov7(), "yolov7x", "try `yolov7`"),
        (layer_lists.yolov7x(), "yolov7", "try `yolov7x`"),
    ],
)
def test_wrong_family(layer_list, name, hint, tmp_path):
    save_pt(checkpoint(Model(layer_list)), tmp_path / "m.pt")
    assert hint in refused(tmp_path / "m.pt", name)


def test_weights_that_do_not_fit_the_layer_list(tmp_path):
    def changed(name, value=None):
        model = Model(layer_lists.yolov5(0.05))
        owner = model.get_submodule(name.rpartition(".")[0])
        tensor = getattr(owner, name.rpartition(".")[2])
        if value is None:
            value = torch.full_like(tensor, torch.nan)
        setattr(owner, name.rpartition(".")[2], torch.nn.Parameter(value))
        save_pt(checkpoint(model), tmp_path / "m.pt")
        return refused(tmp_path / "m.pt")

    assert "model.1.conv.weight holds NaN" in changed("model.1.conv.weight")
    assert "shape" in changed("model.1.conv.weight", torch.ones(8, 5, 3, 3))
    assert "elements" in changed("model.1.bn.weight", torch.ones(3))
    model = Model(layer_lists.yolov5(0.05))
    model.yaml["depth_multiple"] = 1.0
    save_pt(checkpoint(model), tmp_path / "m.pt")
    assert "is missing" in refused(tmp_path / "m.pt")
    model.yaml["depth_multiple"] = 0.01
    save_pt(checkpoint(model), tmp_path / "m.pt")
    assert "belong to no layer" in refused(tmp_path / "m.pt")


def test_class_counts_must_agree(tmp_path):
    model = Model(layer_lists.yolov5(0.05))
    model.names = ["one"]
    save_pt(checkpoint(model), tmp_path / "m.pt")
    assert "3 classes" in refused(tmp_path / "m.pt")
    model.names = {2: "c", 0: "a", 1: "b"}
    save_pt(checkpoint(model), tmp_path / "m.pt")
    assert YoloPlugin("yolov5n").load(tmp_path / "m.pt", OPTIONS).class_names == ("a", "b", "c")
    model.names = 5
    save_pt(checkpoint(model), tmp_path / "m.pt")
    assert "class names" in refused(tmp_path / "m.pt")


def _rewrite(source: Path, target: Path, change, compression=zipfile.ZIP_STORED) -> Path:
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(target, "w", compression) as new:
        for name in old.namelist():
            content = change(name, old.read(name))
            if content is not None:
                new.writestr(name, content)
    return target


def test_storages_must_have_the_size_that_the_pickle_says(good, tmp_path):
    is_data = lambda name: name.endswith("/data/3")  # noqa: E731
    short = _rewrite(good, tmp_path / "a.pt", lambda n, c: c[:-4] if is_data(n) else c)
    assert "storage 3 holds" in refused(short)
    long = _rewrite(good, tmp_path / "b.pt", lambda n, c: c + bytes(4) if is_data(n) else c)
    assert "too large" in refused(long)
    gone = _rewrite(good, tmp_path / "c.pt", lambda n, c: None if is_data(n) else c)
    assert "missing" in refused(gone)
    bomb = _rewrite(good, tmp_path / "d.pt", lambda n, c: c, zipfile.ZIP_DEFLATED)
    assert "compressed" in refused(bomb)
    big = _rewrite(good, tmp_path / "e.pt", lambda n, c: b"big" if "byteorder" in n else c)
    assert "big-endian" in refused(big)


def test_expanded_tensors_do_not_eat_memory(tmp_path):
    model = Model(layer_lists.yolov5(0.05))
    model.model[0].conv.weight = torch.nn.Parameter(torch.ones(1).expand(1 << 20, 1 << 20, 1, 1))
    save_pt(checkpoint(model), tmp_path / "m.pt")
    assert "exceeds its storage" in refused(tmp_path / "m.pt")


def test_strides_offsets_and_kinds_of_storage(tmp_path):
    model = Model(layer_lists.yolov5(0.05))
    plain = model.model[0].conv.weight.detach().clone()
    twice = torch.stack([torch.zeros_like(plain), plain]).permute(0, 4, 3, 2, 1).contiguous()
    model.model[0].conv.weight = torch.nn.Parameter(twice.permute(0, 4, 3, 2, 1)[1])
    model.model[1].bn.bias = torch.nn.Parameter(torch.zeros(8, dtype=torch.bfloat16) + 1.5)
    model.model[1].bn.weight.data = model.model[1].bn.weight.data.double()
    save_pt(checkpoint(model), tmp_path / "m.pt")
    tensors = read_checkpoint(tmp_path / "m.pt").tensors
    assert np.array_equal(tensors["model.0.conv.weight"], plain.numpy())
    assert np.all(tensors["model.1.bn.bias"] == 1.5)
    assert tensors["model.1.bn.num_batches_tracked"].shape == ()
    assert {t.dtype for t in tensors.values()} == {np.dtype(np.float32)}


@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(data=st.data())
def test_damaged_pickles_raise_nothing_else(good, tmp_path, data):
    with zipfile.ZipFile(good) as file:
        content = bytearray(file.read(f"{good.stem}/data.pkl"))
    for _ in range(data.draw(st.integers(1, 3))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    buffer = tmp_path / "damaged.pt"
    _rewrite(good, buffer, lambda n, c: bytes(content) if n.endswith("data.pkl") else c)
    with contextlib.suppress(CheckpointError, UsageError):
        YoloPlugin("yolov5n").load(buffer, OPTIONS)


def test_safetensors_metadata(tmp_path):
    model = Model(layer_lists.yolov5(0.05))
    path = tmp_path / "m.safetensors"
    for changes, hint in (
        ({"format": "pt"}, "architecture is unknown"),
        ({"yaml": "{"}, "malformed"),
        ({"yaml": "[]"}, "JSON object"),
        ({"names": '{"0": "a"}'}, "JSON list"),
        ({"bn_eps": "-1"}, "positive"),
        ({"bn_eps": ""}, "bn_eps"),
        ({"yaml": '{"backbone": [], "head": []}'}, "no backbone"),
        ({"yaml": '{"backbone": [[-1, 1, "Conv"]], "head": []}'}, "row 0"),
    ):
        save_safetensors(model, path, **changes)
        assert hint in refused(path)
    path.write_bytes(struct.pack("<Q", 1 << 60) + b"{}")
    assert "not a readable" in refused(path)
    assert "no such file" in refused(tmp_path / "missing.safetensors")


def test_activations_are_parsed_never_evaluated():
    assert parse_activation("nn.LeakyReLU(0.1)") == ("LeakyReLU", 0.1)
    assert parse_activation("LeakyReLU(negative_slope=0.2, inplace=True)") == ("LeakyReLU", 0.2)
    assert parse_activation("nn.SiLU(inplace=True)") == ("SiLU", 0.01)
    assert parse_activation("__import__('os').system('x')") is None


def test_unknown_activation(tmp_path):
    model = Model(layer_lists.tiny_like())
    model.yaml["backbone"][0][3][5] = "nn.Mish()"
    save_safetensors(model, tmp_path / "m.safetensors")
    assert "supported activations" in refused(tmp_path / "m.safetensors", "yolov7-tiny")


def test_unknown_name():
    with pytest.raises(UsageError, match="yolov7-tiny"):
        YoloPlugin("yolov9")


def test_torch_is_not_needed(good):
    import subprocess
    import sys

    code = (
        "import sys; from pathlib import Path; from quantcore_yolo import read_checkpoint; "
        f"read_checkpoint(Path({str(good)!r})); assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
