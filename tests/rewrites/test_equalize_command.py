"""`quantcore equalize` on the demo's model, and all stages on the file that it writes."""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable
from importlib import resources
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import onnx
import pytest
from quantcore_onnx import OnnxOptions

from quantcore import pipeline
from quantcore.ir.description import KEY
from quantcore.ir.model import FloatModel
from quantcore.table.table import CalibrationTable

pytestmark = pytest.mark.usefixtures("in_process")

BACKEND = "pytorch-quantization"
Cli = Callable[..., SimpleNamespace]

pytest.importorskip("quantcore_onnx")
pytest.importorskip("quantcore_yolo")


@pytest.fixture(scope="module")
def demo() -> SimpleNamespace:
    root = Path(str(resources.files("quantcore"))) / "demo_data"
    about = json.loads((root / "demo.json").read_text())
    return SimpleNamespace(data=root, name=about["model"], weights=root / about["weights"])


def loaded(path: Path) -> FloatModel:
    return pipeline.load_model("onnx", path)


def test_all_stages_take_an_equalized_model(cli: Cli, demo: SimpleNamespace, tmp_path: Path):
    pytest.importorskip("quantcore_pytorch_quantization")
    path, table, qdq = (tmp_path / n for n in ("an eq.onnx", "table.json", "qdq.onnx"))
    given = [demo.name, "--weights", demo.weights]
    done = cli("equalize", *given, "--data", demo.data, "--images", "8", "--out", path)
    assert done.code == 0, done.err
    # LeakyReLU throughout, and nothing added: all factors go into weights.
    assert "55 tensors equalized by channel: 0 by a Mul node, 55 in" in done.out
    assert "agrees with the given one to" in done.out
    new, old = loaded(path), pipeline.load_model(demo.name, demo.weights)
    assert [(x.name, x.op) for x in new.layers] == [(x.name, x.op) for x in old.layers]
    assert (new.name, new.class_names) == (old.name, old.class_names)
    assert (new.preprocessing, new.decoding) == (old.preprocessing, old.decoding)
    changed = sum(
        not np.array_equal(new.initializers[name], values)
        for name, values in old.initializers.items()
    )
    assert changed == 58 + 55  # all weights; the biases of all convolutions but the heads

    # What it says to type next, with a name for NAME.
    words = shlex.split(done.out.splitlines()[-1])
    assert words[:2] == ["quantcore", "calibrate"]
    words = [{"NAME": BACKEND}.get(word, word) for word in words[1:]]
    assert Path(words[-1]) == tmp_path / "an eq.json"
    words[-1] = str(table)
    done = cli(*words, "--images", "4")
    assert done.code == 0, done.err
    assert cli("quantize", "onnx", "--weights", path, "--table", table, "--out", qdq).code == 0
    done = cli("verify", qdq, "--target", "tensorrt")
    assert done.code == 0
    assert "no violations" in done.out
    assert KEY not in [entry.key for entry in onnx.load(qdq).metadata_props]

    def score(*arguments: object) -> float:
        out = tmp_path / "score.json"
        data = ["--data", demo.data, "--images", "16", "--out", out]
        assert cli("evaluate", *arguments, *data).code == 0
        return float(json.loads(out.read_text())["map"])

    float_map = score(*given)
    assert float_map > 0.5
    assert abs(score("onnx", "--weights", path) - float_map) <= 1e-4
    assert score("onnx", "--weights", path, "--onnx", qdq) > float_map - 0.1


def test_a_comparison_equalizes_first(cli: Cli, squares: SimpleNamespace, tmp_path: Path) -> None:
    pytest.importorskip("quantcore_pytorch_quantization")
    out = tmp_path / "comparison"
    (tmp_path / "four.yaml").write_text("{placement: minimal, images: 4}\n")
    given = ["--policy", tmp_path / "four.yaml", "--backend", BACKEND, "--out", out]
    done = cli("compare", *squares.model, "--data", squares.data, *given, "--equalize")
    assert done.code == 0, done.err
    report = json.loads((out / "report.json").read_text())
    (line,) = report["rewrites"]
    assert "tensors equalized by channel" in line
    assert line in done.out
    assert line in (out / "report.html").read_text()
    # The table is of the equalized model; what is compared with is the model as it was given.
    given_model = pipeline.load_model("onnx", squares.weights, OnnxOptions(preset="yolox"))
    table = CalibrationTable.load(out / f"{BACKEND}.table.json")
    new = loaded(out / "equalized.onnx")
    assert table.provenance.fingerprint == new.fingerprint != given_model.fingerprint
    assert loaded(out / "float.onnx").fingerprint == given_model.fingerprint
    # Each rewrite is done once, whichever way it is asked for.
    named = ["--rewrite", "equalize", "--equalize"]
    done = cli("compare", *squares.model, "--data", squares.data, *given, *named)
    assert done.code == 0, done.err
    assert "nothing was computed" in done.out
    assert json.loads((out / "report.json").read_text())["rewrites"] == [line]
    assert loaded(out / "equalized.onnx").fingerprint == new.fingerprint
    same = cli(
        *("equalize", *squares.model, "--data", squares.data, "--images", "4"),
        *("--out", tmp_path / "equalized.onnx"),
    )
    assert same.code == 0
    assert loaded(tmp_path / "equalized.onnx").fingerprint == new.fingerprint


def test_the_general_command_does_the_same(cli: Cli, squares: SimpleNamespace, tmp_path: Path):
    paths = [tmp_path / "short.onnx", tmp_path / "general.onnx"]
    given = [*squares.model, "--data", squares.data, "--images", "4"]
    done = cli("equalize", *given, "--alpha", "0.3", "--out", paths[0])
    assert done.code == 0, done.err
    general = cli("rewrite", "equalize", *given, "--option", "alpha=0.3", "--out", paths[1])
    assert general.code == 0, general.err
    assert paths[0].read_bytes() == paths[1].read_bytes()
    assert general.out == done.out.replace("short", "general")
    done = cli("rewrite", "equalize", *given, "--out", paths[1], "--json")
    told = json.loads(done.out)
    assert told["rewrite"] == "equalize"
    assert told["fingerprint"] == loaded(paths[1]).fingerprint
    assert set(told["details"]) == {"multiplied", "folded"}
    assert 0 <= told["parity"] < 1e-4


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--option", "alfa=1"], "rewrite 'equalize' has no option 'alfa' (did you mean 'alpha'?)"),
        (["--option", "alpha=2"], "alpha must be above 0 and at most 1, not 2.0"),
        (["--option", "alpha=much"], "rewrite 'equalize': option alpha: expected `float`"),
    ],
)
def test_options_that_do_not_fit_are_refused(
    cli: Cli, squares: SimpleNamespace, tmp_path: Path, words: list[str], said: str
) -> None:
    out = tmp_path / "new.onnx"
    done = cli("rewrite", "equalize", *squares.model, "--data", squares.data, "--out", out, *words)
    assert done.code == 2
    assert said in done.err
    assert not out.exists()


def test_rewrites_are_listed(cli: Cli) -> None:
    listed = json.loads(cli("list", "--json").out)["rewrites"]
    names = [info["name"] for info in listed if info["available"]]
    assert names == ["bias-correction", "equalize", "gptq"]
    (alpha,) = json.loads(cli("list", "--options", "equalize", "--json").out)["rewrites"]
    assert (alpha["name"], alpha["default"]) == ("alpha", 0.5)
    assert "like ranges" in cli("list", "--options", "equalize").out
    done = cli("rewrite", "equalise", "onnx", "--weights", "x", "--data", "x", "--out", "x")
    assert done.code == 2
    assert "unknown rewrite 'equalise' (did you mean 'equalize'?)" in done.err


def test_an_exported_file_is_read_again_as_the_same_model(
    cli: Cli, demo: SimpleNamespace, tmp_path: Path
) -> None:
    first, second, boxes = (tmp_path / f"{n}.onnx" for n in ("first", "second", "boxes"))
    given = [demo.name, "--weights", demo.weights]
    assert cli("export", *given, "--out", first).code == 0
    assert cli("export", "onnx", "--weights", first, "--out", second).code == 0
    assert first.read_bytes() == second.read_bytes()
    model = pipeline.load_model(demo.name, demo.weights)
    assert loaded(first).fingerprint == model.fingerprint
    # A graph that ends in boxes is another one than the description is about.
    done = cli("export", "onnx", "--weights", first, "--decode", "graph", "--out", boxes)
    assert done.code == 0
    assert len(onnx.load(boxes).metadata_props) == 0


def test_nothing_is_written_where_something_is_wrong(
    cli: Cli, squares: SimpleNamespace, tmp_path: Path
) -> None:
    out = tmp_path / "eq.onnx"
    done = cli("equalize", *squares.model, "--data", squares.data, "--alpha", "2", "--out", out)
    assert done.code == 2
    assert "alpha must be" in done.err
    (squares.data / "train2017" / "3.png").write_bytes(b"no image")
    done = cli("equalize", *squares.model, "--data", squares.data, "--out", out)
    assert done.code == 2
    assert "3.png" in done.err
    assert not out.exists()
