"""Tables with histograms and several observers, as a person makes them on the command line."""

from __future__ import annotations

import json
import re
from types import SimpleNamespace

import numpy as np
import pytest
import yaml

from quantcore.commands.options import table_paths
from quantcore.data.batches import Batches
from quantcore.policy.policy import CalibrationPolicy
from quantcore.table.table import CalibrationTable

pytest.importorskip("quantcore_onnx")
pytest.importorskip("quantcore_pytorch_quantization")

BACKEND = ("--backend", "pytorch-quantization")
ONE = {"implementation": "portable", "activations": {"observer": "mse"}}
SEVERAL = {
    "implementation": "portable",
    "observers": ["max", {"percentile": 99.9}, {"moving_average": 0.5}],
    "layers": [{"match": "head.8", "activations": {"observer": "entropy"}}],
}


@pytest.fixture
def bench(cli, shared_squares, tmp_path) -> SimpleNamespace:
    """`calibrate(policy, name, *options)` and `write(policy, name)`, in a folder of their own."""

    def write(policy, name="policy.yaml"):
        path = tmp_path / name
        path.write_text(yaml.safe_dump({"placement": "minimal", **policy}))
        return path

    def calibrate(policy, name, *options):
        start = ("calibrate", *shared_squares.model, "--data", shared_squares.data, *BACKEND)
        return cli(*start, "--policy", write(policy), "--out", tmp_path / name, *options)

    def load(name):
        return CalibrationTable.load(tmp_path / name)

    return SimpleNamespace(write=write, calibrate=calibrate, load=load, cli=cli, out=tmp_path)


def test_any_observer_can_be_applied_later(bench) -> None:
    done = bench.calibrate({"implementation": "native"}, "native.json", "--keep-histograms")
    assert done.code == 0, done.err
    assert "with histograms" in done.out
    assert bench.calibrate(ONE, "mse.json").code == 0
    policy, again = bench.write(ONE), bench.out / "again.json"
    done = bench.cli("recalibrate", bench.out / "native.json", "--policy", policy, "--out", again)
    assert done.code == 0, done.err
    assert "again.json: 6 tensors by portable observers" in done.out
    assert bench.load("again.json").tensors == bench.load("mse.json").tensors
    plain = json.loads((bench.out / "native.json").read_text())
    assert plain.pop("histograms").keys() == {"format", "graph", "tensors"}
    assert bench.calibrate({"implementation": "native"}, "plain.json").code == 0
    assert json.loads((bench.out / "plain.json").read_text()) == plain


def test_several_observers_are_one_pass_and_as_good_as_one_each(bench) -> None:
    done = bench.calibrate(SEVERAL, "table.json", "--keep-histograms")
    assert done.code == 0, done.err
    names = ["table.max.json", "table.percentile-99.9.json", "table.moving_average-0.5.json"]
    assert sorted(path.name for path in bench.out.glob("*.json")) == sorted(names)
    assert done.err.count("collecting") == 1
    alone = {key: value for key, value in SEVERAL.items() if key != "observers"}
    for name, observer in zip(names, ("max", "percentile", "moving_average"), strict=True):
        assert f"{name}: 6 tensors" in done.out
        table = bench.load(name)
        single = CalibrationPolicy.from_dict(table.provenance.policy)
        assert not single.observers
        assert single.activations.observer == observer
        assert bench.calibrate({**alone, **single.to_dict()}, "one.json").code == 0
        assert bench.load("one.json").tensors == table.tensors
    # The same list serves a table with histograms.
    again = bench.out / "again.json"
    source = bench.out / "table.max.json"
    done = bench.cli("recalibrate", source, "--policy", bench.write(SEVERAL), "--out", again)
    assert done.code == 0, done.err
    for name in names:
        assert bench.load(name.replace("table", "again")).tensors == bench.load(name).tensors


def test_commands_for_one_table_refuse_several_observers(bench, shared_squares) -> None:
    policy = bench.write(SEVERAL, "several.yaml")
    model, data = shared_squares.model, ("--data", shared_squares.data)
    source = bench.out / "table.json"
    assert bench.calibrate(ONE, "table.json").code == 0
    for call in (
        ("compare", *model, *data, *BACKEND, "--out", bench.out / "x"),
        ("quantize", *model, "--table", source, "--out", bench.out / "x.onnx"),
        ("sensitivity", *model, *data, "--table", source, "--out", bench.out / "y"),
        ("layers", *model),
    ):
        done = bench.cli(*call, "--policy", policy)
        assert done.code == 2
        assert done.err.startswith("error: observers: the policy lists several (max, perc")
        assert "quantcore calibrate" in done.err
        assert "Traceback" not in done.err


def test_refusals_of_recalibrate_name_files_and_leave_none(bench) -> None:
    assert bench.calibrate(ONE, "plain.json").code == 0
    out = bench.out / "out.json"
    policy = bench.write({"weights": {"observer": "mse"}}, "w.yaml")
    done = bench.cli("recalibrate", bench.out / "plain.json", "--policy", policy, "--out", out)
    assert done.code == 2
    assert "plain.json" in done.err
    assert "--keep-histograms" in done.err
    assert bench.calibrate(ONE, "kept.json", "--keep-histograms").code == 0
    done = bench.cli("recalibrate", bench.out / "kept.json", "--policy", policy, "--out", out)
    assert done.code == 2
    assert "kept.json with" in done.err
    assert "takes the weights" in done.err
    assert not out.exists()


def test_tables_are_named_by_their_observers(tmp_path) -> None:
    policy = CalibrationPolicy.from_dict(
        {
            "implementation": "portable",
            "observers": ["max", {"observer": "mse", "bits": 4}, {"mse": {"bins": 512}}],
        }
    )
    names = [path.name for path in table_paths(tmp_path / "t.v2.json", policy)]
    assert names == ["t.v2.max.json", "t.v2.mse-4bit.json", "t.v2.mse-bins-512.json"]


@pytest.mark.parametrize(
    ("codes", "audited"),
    [
        ({"activations": {"observer": "mse", "bits": 5}, "weights": {"bits": 4}}, True),
        ({"activations": {"observer": "max"}, "weights": {"observer": "mse", "bits": 6}}, True),
        (
            {
                "activations": {"observer": "max", "symmetric": False, "bits": 7},
                "placement": "onnxruntime",
            },
            False,
        ),
    ],
)
def test_fewer_bits_and_zero_points_go_the_whole_way(bench, shared_squares, codes, audited) -> None:
    done = bench.calibrate(
        {"implementation": "portable", **codes}, "table.json", "--keep-histograms"
    )
    assert done.code == 0, done.err
    if audited:
        share = re.search(r"no layer differs by more than ([\d.e-]+) % of its signal", done.out)
        assert float(share[1]) <= 0.32  # 50 dB
    else:
        assert "audit: none, pytorch-quantization does not simulate" in done.out
    source, graph = bench.out / "table.json", bench.out / "q.onnx"
    done = bench.cli("quantize", *shared_squares.model, "--table", source, "--out", graph)
    assert done.code == 0, done.err
    result = bench.out / "result.json"
    data = ("--data", shared_squares.data, "--onnx", graph, "--out", result)
    done = bench.cli("evaluate", *shared_squares.model, *data)
    assert done.code == 0, done.err
    assert json.loads(result.read_text())["map"] > 0.9
    # And other observers with the same codes, without the images.
    other = {**codes, "activations": {**codes["activations"], "observer": "percentile"}}
    again, policy = bench.out / "again.json", bench.write(other)
    done = bench.cli("recalibrate", source, "--policy", policy, "--out", again)
    assert done.code == 0, done.err
    done = bench.cli("diff", source, again, "--json")
    assert any(t["decibels"] is not None for t in json.loads(done.out)["tensors"])


@pytest.mark.parametrize("implementation", ["native", "portable"])
def test_a_value_that_is_no_number_names_the_file(bench, monkeypatch, implementation) -> None:
    read = Batches._read

    def broken(self, image):
        pixels, *rest = read(self, image)
        if image.path.name == "4.png":
            pixels[0, 0, 0] = np.nan
        return pixels, *rest

    monkeypatch.setattr(Batches, "_read", broken)
    policy = {"implementation": implementation, "batch_size": 2}
    done = bench.calibrate(policy, "table.json")
    assert done.code == 2
    assert "'images' of layer stem.conv: NaN" in done.err
    assert done.err.rstrip().endswith("seen in one of 3.png, 4.png")
    if implementation == "portable":
        assert "image 3 (counted from 0" in done.err
    assert not (bench.out / "table.json").exists()
