"""The command line: help, the whole way on a small working detector, and one line per mistake."""

from __future__ import annotations

import contextlib
import hashlib
import html
import io
import json
import math
import os
import pickle
import re
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

import quantcore
from quantcore.commands.cli import main
from quantcore.errors import DataError
from quantcore.results.metric import COCO

BACKEND = "pytorch-quantization"
Cli = Callable[..., SimpleNamespace]

pytest.importorskip("quantcore_onnx")


@pytest.fixture(scope="session")
def needs_backend() -> None:
    pytest.importorskip("quantcore_pytorch_quantization")


def command(*arguments: object) -> SimpleNamespace:
    """A command that succeeds, in this process, for fixtures of the whole session."""
    with (
        pytest.MonkeyPatch.context() as patch,
        contextlib.redirect_stdout(io.StringIO()) as out,
        contextlib.redirect_stderr(io.StringIO()) as err,
    ):
        patch.setattr(sys, "argv", ["quantcore", *map(str, arguments)])
        patch.setenv("COLUMNS", "160")
        with pytest.raises(SystemExit) as end:
            main()
    assert not end.value.code, err.getvalue()
    return SimpleNamespace(out=out.getvalue(), err=err.getvalue())


def snapshot(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def refused(done: SimpleNamespace, *parts: str) -> str:
    """The one line of a refusal; fails where there is a traceback, more lines, or another code."""
    assert done.code == 2, done.err
    assert "Traceback" not in done.err
    lines = [line for line in done.err.splitlines() if line.startswith("error:")]
    assert len(lines) == 1, done.err
    assert done.err.splitlines()[-1] == lines[0], "nothing comes after the error"
    for part in parts:
        assert part in lines[0]
    return lines[0]


# Help and versions.


#: The layers of the small detector are too narrow for the default placement.
EVERY_LAYER = ("--placement", "minimal")
COMMANDS = (
    "list",
    "export",
    "rewrite",
    "correct",
    "equalize",
    "calibrate",
    "quantize",
    "evaluate",
    "compare",
    "demo",
    "portability",
)


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_help(cli: Cli, name: str) -> None:
    done = cli(name, "--help")
    assert done.code == 0
    assert "Usage" in done.out
    assert len(done.out.splitlines()) > 5
    options = {
        "calibrate": ["--weights", "--data", "--backend", "--policy", "--images", "--out"],
        "quantize": ["--weights", "--table", "--out"],
        "evaluate": ["--weights", "--data", "--onnx", "--engine", "--out"],
        "compare": [
            "--weights",
            "--data",
            "--backend",
            "--engine",
            "--policy",
            "--images",
            "--out",
        ],
        "export": ["--weights", "--out", "--preset"],
        "equalize": ["--weights", "--data", "--images", "--alpha", "--out", "--preset"],
        "rewrite": ["--weights", "--data", "--images", "--option", "--out"],
        "correct": ["--weights", "--data", "--images", "--option", "--table", "--out"],
        "list": ["--json", "--options"],
        "demo": ["--out"],
        "portability": ["--backend", "--policy", "--implementation", "--reference", "--out"],
    }
    for option in options[name]:
        assert option in done.out


def test_the_root_names_every_command(cli: Cli) -> None:
    done = cli("--help")
    assert done.code == 0
    for name in COMMANDS:
        assert re.search(rf"\b{name}\b", done.out)


def test_python_m_tells_the_version(tmp_path: Path) -> None:
    call = [sys.executable, "-m", "quantcore", "--version"]
    done = subprocess.run(call, capture_output=True, text=True, cwd=tmp_path, check=True)
    assert done.stdout == f"quantcore {quantcore.__version__}\n"


def test_the_list_is_for_people_and_programs(cli: Cli) -> None:
    done = cli("list")
    assert done.code == 0
    assert "onnxruntime" in done.out
    data = json.loads(cli("list", "--json").out)
    assert data.keys() == {"models", "backends", "engines", "rewrites", "executors"}
    engine = next(info for info in data["engines"] if info["name"] == "onnxruntime")
    assert engine["available"] is True
    assert engine["version"]


# The whole way.


@pytest.fixture(scope="session")
def way(shared_squares: SimpleNamespace, needs_backend: None) -> SimpleNamespace:
    """export, calibrate, quantize and compare, each as a person would call it."""
    root, model = shared_squares.root, shared_squares.model
    paths = {n: root / f"{n}.onnx" for n in ("float", "decoded", "qdq", "qdq-decoded")}
    table = root / "table.json"
    data = ["--data", shared_squares.data]
    calls = {
        "export": ["export", *model, "--out", paths["float"]],
        "decode": ["export", *model, "--decode", "graph", "--out", paths["decoded"]],
        "calibrate": [
            *("calibrate", *model, *data, "--backend", BACKEND, *EVERY_LAYER),
            *("--out", table),
        ],
        "quantize": ["quantize", *model, "--table", table, "--out", paths["qdq"]],
        "qdecode": [
            *("quantize", *model, "--table", table, "--decode", "graph"),
            *("--out", paths["qdq-decoded"]),
        ],
    }
    calls["compare"] = [
        *("compare", *model, *data, "--backend", BACKEND, "--images", "4", *EVERY_LAYER),
        *("--out", root / "compared"),
    ]
    done = {name: command(*call) for name, call in calls.items()}
    report = json.loads((root / "compared" / "report.json").read_text())
    return SimpleNamespace(squares=shared_squares, table=table, done=done, report=report, **paths)


def test_exported_nodes_are_named_like_layers(way: SimpleNamespace) -> None:
    proto = onnx.load(way.float)
    assert "stem.conv" in {node.name for node in proto.graph.node}
    decoded = onnx.load(way.decoded)
    assert [output.name for output in decoded.graph.output] == ["detections"]


def test_a_table_holds_a_range_for_every_tensor(way: SimpleNamespace) -> None:
    data = json.loads(way.table.read_text())
    tensors = data["tensors"]
    assert {"images", "p8", "p16", "p32", "stem.w", "head.w"} == tensors.keys()
    assert tensors["images"]["role"] == "activation"
    assert tensors["images"]["axis"] is None
    assert 200 < tensors["images"]["amax"] <= 255
    assert tensors["stem.w"]["axis"] == 0
    assert len(tensors["stem.w"]["amax"]) == 4
    assert tensors["head.w"]["amax"][:4] == [0, 0, 0, 0], "boxes do not depend on the pixels"
    assert data["provenance"]["image_ids"] == [1, 2, 3, 4, 5, 6]
    assert data["provenance"]["backend"] == BACKEND


def test_calibrating_prints_the_audit(way: SimpleNamespace) -> None:
    found = re.search(r"differs by more than ([\d.e-]+) % of its", way.done["calibrate"].out)
    assert found is not None
    assert float(found[1]) <= 0.3


def test_calibrating_again_gives_the_same_bytes(way: SimpleNamespace, cli: Cli) -> None:
    again = way.squares.root / "again.json"
    done = cli(
        *("calibrate", *way.squares.model, "--data", way.squares.data),
        *("--backend", BACKEND, "--out", again, *EVERY_LAYER),
    )
    assert done.code == 0, done.err
    assert again.read_bytes() == way.table.read_bytes()


def test_the_quantized_graph_is_valid_and_has_a_manifest(way: SimpleNamespace) -> None:
    proto = onnx.load(way.qdq)
    onnx.checker.check_model(proto, full_check=True)
    kinds = [node.op_type for node in proto.graph.node]
    assert kinds.count("QuantizeLinear") == 4
    manifest = json.loads(way.qdq.with_suffix(".manifest.json").read_text())
    assert manifest["backend"] == BACKEND


@pytest.fixture(scope="session")
def scores(way: SimpleNamespace) -> dict[str, dict[str, Any]]:
    """What `evaluate --out` writes for each graph; None stands for the float model itself."""
    found = {}
    for name in ("model", "float", "decoded", "qdq", "qdq-decoded"):
        out = way.squares.root / f"{name}.result.json"
        graph = [] if name == "model" else ["--onnx", getattr(way, name)]
        command(
            *("evaluate", *way.squares.model, "--data", way.squares.data),
            *(*graph, "--out", out, "--threads", 1, "--batch-size", 3),
        )
        found[name] = json.loads(out.read_text())
    return found


def test_the_detector_detects(scores: dict[str, dict[str, Any]]) -> None:
    assert scores["model"]["map"] > 0.99
    assert scores["model"]["per_class"].keys() == {"red", "blue"}
    assert scores["model"]["images"] == 8


@pytest.mark.parametrize(
    ("one", "other"), [("model", "float"), ("model", "decoded"), ("qdq", "qdq-decoded")]
)
def test_it_makes_no_difference_where_boxes_are_decoded(scores, one: str, other: str) -> None:
    for figure in COCO.figures:
        assert scores[one][figure] == pytest.approx(scores[other][figure], abs=1e-6), figure


def test_int8_keeps_the_accuracy_of_an_easy_task(scores: dict[str, dict[str, Any]]) -> None:
    assert scores["qdq"]["map"] > 0.95


def test_a_result_is_paired_with_an_earlier_one(
    cli: Cli, way: SimpleNamespace, scores: dict[str, dict[str, Any]]
) -> None:
    assert scores["qdq"]["map_interval"]["value"] == pytest.approx(scores["qdq"]["map"])
    root, out = way.squares.root, way.squares.root / "paired.json"
    call = ["evaluate", *way.squares.model, "--data", way.squares.data, "--onnx", way.qdq]
    call += ["--against", root / "model.result.json"]
    done = cli(*call, "--out", out)
    assert done.code == 0, done.err
    change = json.loads(out.read_text())["map_difference"]
    assert change["value"] == pytest.approx(scores["qdq"]["map"] - scores["model"]["map"])
    assert change["low"] <= change["value"] <= change["high"]
    assert "mAP against" in done.out
    refused(cli(*call, "--images", 3), "same images")
    (root / "other.json").write_text('{"map": 0.5}')
    refused(cli(*call[:-1], root / "other.json"), "--against", "other.json", "evaluate --out")


def test_the_report_has_everything(way: SimpleNamespace) -> None:
    assert isinstance(way.report["float"], dict)
    (variant,) = way.report["variants"]
    assert variant["backend"] == BACKEND
    assert variant["engine"] == way.report["float"]["engine"] == "onnxruntime"
    for column in (way.report["float"], variant):
        assert set(COCO.figures) <= column.keys()
        assert column["map"] > 0.95
        assert column["map50"] >= column["map"]
        latency = column["latency_ms"]
        assert 0 < latency["p50"] <= latency["p90"] <= latency["p99"]
        assert column["peak_rss_mb"] > 20
        assert column["sizes"]["onnx_bytes"] > 0
        assert "onnxruntime" in column["versions"]
        assert column["artifacts"]
    change = variant["map_difference"]
    assert change["value"] == pytest.approx(variant["map"] - way.report["float"]["map"])
    assert change["low"] <= change["value"] <= change["high"]
    assert (change["level"], change["draws"]) == (0.9, 1000)
    assert way.report["float"]["map_difference"] is None
    assert variant["calibration_seconds"] > 0
    assert variant["policy"]["images"] == 4
    assert variant["policy"]["weights"]["granularity"] == "per_channel"
    assert {"pytorch-quantization", "torch", "quantcore"} <= variant["versions"].keys()
    assert way.report["failures"] == []


def test_the_report_looks_closer_at_the_graph(way: SimpleNamespace) -> None:
    whole, variant = way.report["scores"]["variants"]
    assert (whole["variant"], whole["shift"]) == ("float on onnxruntime", None)
    for point in whole["points"][:3]:
        assert point["recall"]["value"] > 0.9, point
    assert variant["points"][1]["f1_difference"]["value"] > -0.1
    assert variant["shift"]["matched"] > 0
    layers = {layer["layer"]: layer for layer in way.report["layers"]["layers"]}
    assert layers["stem.conv"]["own_db"] == pytest.approx(layers["stem.conv"]["reached_db"], abs=3)
    assert all(layer["own_db"] > 10 for layer in layers.values())
    manifest = way.report["manifest"]
    weights = way.squares.weights.read_bytes()
    assert manifest["weights_sha256"] == hashlib.sha256(weights).hexdigest()
    assert len(manifest["data_sha256"]) == 64
    for image in (way.report["photos"] or {"images": []})["images"]:
        for pane in image["panes"]:
            assert (way.squares.root / "compared" / pane["file"]).is_file()


def test_the_artifacts_lie_beside_the_report(way: SimpleNamespace) -> None:
    folder = way.squares.root / "compared"
    for column in (way.report["float"], *way.report["variants"]):
        for name in column["artifacts"].values():
            assert (folder / name).is_file()
        graph = folder / column["artifacts"]["onnx"]
        assert graph.stat().st_size == column["sizes"]["onnx_bytes"]
        onnx.checker.check_model(onnx.load(graph), full_check=True)
    page = (folder / "report.html").read_text()
    assert BACKEND in page
    assert "Change of mAP against the float model" in page
    assert "1000 draws of the images" in page
    assert "http://" not in page.replace("http://www.w3.org", "")
    assert 'src="http' not in page
    assert not list(folder.glob(".*")), "no temporary files"


def test_comparing_prints_one_table(way: SimpleNamespace) -> None:
    out = way.done["compare"].out
    assert re.search(r"onnxruntime\W+float\W+1\.000", out), "one row each"
    change = r"[-+]\d\.\d{3} \([-+]\d\.\d{3} to [-+]\d\.\d{3}\)"
    times = r"\d+\.\d+\W+\d+\.\d\d \(\d+\.\d\d to \d+\.\d\d\)\W+\d of \d"
    assert re.search(rf"{BACKEND}\W+\d\.\d{{3}}\W+{change}\W+{times}", out)
    assert "report.json" in out


def test_comparing_ends_in_a_verdict(way: SimpleNamespace) -> None:
    told = way.report["verdict"]
    assert told["deploy"] in ("float on onnxruntime", f"{BACKEND} on onnxruntime")
    assert (way.squares.root / "compared" / told["file"]).is_file()
    assert [judged["variant"] for judged in told["judgements"]] == [f"{BACKEND} on onnxruntime"]
    *_, last = way.done["compare"].out.splitlines()
    assert f"verdict: {told['lines'][0]}" in way.done["compare"].out
    assert told["lines"][-1] in last
    assert told["lines"][0] in html.unescape(
        (way.squares.root / "compared/report.html").read_text()
    )


def test_progress_does_not_disturb_the_results(way: SimpleNamespace) -> None:
    assert "calibrating" in way.done["calibrate"].err
    assert "calibrating:" not in way.done["calibrate"].out


# Mistakes.


def edit_json(path: Path, change: Callable[[dict[str, Any]], object]) -> None:
    data = json.loads(path.read_text())
    change(data)
    path.write_text(json.dumps(data))


class Runs:
    """Writes a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (f"touch {self.path}",)


def checkpoint(path: Path, content: object) -> Path:
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("archive/data.pkl", pickle.dumps(content, protocol=2))
        file.writestr("archive/version", "3\n")
    return path


@pytest.mark.parametrize(
    "kind", ["text", "empty", "missing", "folder", "truncated", "evil", "other"]
)
def test_a_bad_checkpoint_is_named(cli: Cli, tmp_path: Path, kind: str) -> None:
    pytest.importorskip("quantcore_yolo")
    path = tmp_path / "bad.pt"
    if kind == "text":
        path.write_text("<html>not found</html>")
    elif kind == "empty":
        path.write_bytes(b"")
    elif kind == "folder":
        path.mkdir()
    elif kind == "truncated":
        checkpoint(path, {"model": list(range(5000))})
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    elif kind == "evil":
        checkpoint(path, {"model": Runs(tmp_path / "hit")})
    elif kind == "other":
        checkpoint(path, {"state_dict": {"fc.weight": 1}})
    out = tmp_path / "float.onnx"
    out.write_bytes(b"old")
    refused(cli("export", "yolov7-tiny", "--weights", path, "--out", out), "bad.pt")
    assert out.read_bytes() == b"old"
    assert not (tmp_path / "hit").exists()


@pytest.mark.parametrize("content", [b"", b"text", b"\x08\x09truncated"])
def test_a_bad_onnx_file_is_named(cli: Cli, tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "bad.onnx"
    path.write_bytes(content)
    out = tmp_path / "float.onnx"
    done = cli("export", "onnx", "--weights", path, "--preset", "yolox", "--out", out)
    refused(done, "bad.onnx")
    assert not out.exists()


def test_a_model_of_another_preset_is_refused(cli: Cli, squares: SimpleNamespace) -> None:
    args = ["onnx", "--weights", squares.weights, "--out", squares.root / "x.onnx"]
    refused(cli("export", *args), "preset", "yolov5, yolov7, yolox")
    refused(cli("export", *args, "--preset", "ssd"), "preset", "'ssd'")
    refused(cli("export", *args, "--preset", "yolox", "--size", 96), "squares.onnx", "64 x 64")
    yolox = ("export", *args, "--preset", "yolox", "--size")
    assert cli(*yolox, "64x64").code == 0
    refused(cli(*yolox, "64x96"), "squares.onnx", "leave image size 64 x 96 away")
    for size in ("0", "64x", "64x64x3", "-64", "large", "64x0"):
        refused(cli(*yolox, size), "HEIGHTxWIDTH", repr(size))


def test_options_of_the_model_itself(cli: Cli, squares: SimpleNamespace, tmp_path: Path) -> None:
    args = ["export", "onnx", "--weights", squares.weights, "--out", squares.root / "x.onnx"]
    given = ["--model-option", "preset=yolox"]
    assert cli(*args, *given).code == 0
    refused(cli(*args, *given, "--preset", "yolox"), "option 'preset' is given twice")
    refused(cli(*args, "--model-option", "yolox"), "NAME=VALUE", "'yolox'")
    refused(cli(*args, "--model-option", "preest=yolox"), "did you mean 'preset'?")
    refused(cli(*args, "--model-option", "image_size=64"), "model 'onnx' has no option")
    pytest.importorskip("quantcore_yolo")
    other = ["export", "yolov5n", "--weights", tmp_path / "m.pt", "--out", tmp_path / "x.onnx"]
    refused(cli(*other, "--preset", "yolov5"), "model 'yolov5n' has no option 'preset'")


def calibrating(squares: SimpleNamespace, *more: object, backend: str = BACKEND) -> list[object]:
    return [
        *("calibrate", *squares.model, "--data", squares.data, "--backend", backend),
        *("--out", squares.root / "table.json", *more),
    ]


def evaluating(squares: SimpleNamespace, *more: object) -> list[object]:
    out = squares.root / "result.json"
    return ["evaluate", *squares.model, "--data", squares.data, "--out", out, *more]


def annotations(squares: SimpleNamespace, split: str) -> Path:
    return squares.data / "annotations" / f"instances_{split}.json"


DATA_MISTAKES: dict[str, tuple[Callable[[SimpleNamespace, str], object], tuple[str, ...]]] = {
    "no folder": (lambda s, x: (s.data / x).rename(s.data / "gone"), ("{split}",)),
    "no annotations": (lambda s, x: annotations(s, x).unlink(), ("instances_{split}.json",)),
    "not json": (
        lambda s, x: annotations(s, x).write_text("{"),
        ("instances_{split}.json", "JSON"),
    ),
    "empty split": (
        lambda s, x: edit_json(annotations(s, x), lambda d: d.update(images=[], annotations=[])),
        ("instances_{split}.json", "no images"),
    ),
    "unknown image id": (
        lambda s, x: edit_json(
            annotations(s, x), lambda d: d["annotations"][0].update(image_id=999)
        ),
        ("instances_{split}.json", "999"),
    ),
    "missing image": (lambda s, x: (s.data / x / "3.png").unlink(), ("3.png",)),
    "corrupt image": (lambda s, x: (s.data / x / "3.png").write_bytes(b"no png"), ("3.png",)),
    "empty image": (lambda s, x: (s.data / x / "3.png").write_bytes(b""), ("3.png",)),
}


@pytest.mark.parametrize("name", DATA_MISTAKES)
def test_bad_data_is_named_when_calibrating(
    cli: Cli, squares: SimpleNamespace, needs_backend: None, name: str
) -> None:
    (squares.root / "table.json").write_text("old")
    spoil, parts = DATA_MISTAKES[name]
    spoil(squares, "train2017")
    done = cli(*calibrating(squares))
    refused(done, *(part.format(split="train2017") for part in parts))
    assert (squares.root / "table.json").read_text() == "old"


@pytest.mark.parametrize("name", DATA_MISTAKES)
def test_bad_data_is_named_when_evaluating(cli: Cli, squares: SimpleNamespace, name: str) -> None:
    (squares.root / "result.json").write_text("old")
    spoil, parts = DATA_MISTAKES[name]
    spoil(squares, "val2017")
    done = cli(*evaluating(squares))
    refused(done, *(part.format(split="val2017") for part in parts))
    assert (squares.root / "result.json").read_text() == "old"


def third_class(data: dict[str, Any]) -> None:
    data["categories"].append({"id": 3, "name": "green"})


def test_another_number_of_classes_is_refused(
    cli: Cli, squares: SimpleNamespace, needs_backend: None
) -> None:
    edit_json(annotations(squares, "val2017"), third_class)
    parts = ("2 classes", "3 categories", "instances_val2017.json")
    refused(cli(*evaluating(squares)), *parts)
    out = squares.root / "compared"
    compared = ["compare", *squares.model, "--data", squares.data, "--backend", BACKEND]
    refused(cli(*compared, "--out", out), *parts)
    assert snapshot(out) == {}, "refused before any work is done"


POLICY_MISTAKES = [
    ("activations: {observer: magic}", ("unknown observer 'magic'", "know max")),
    ("activations: {percentile: -5}", ("percentile must lie in (0, 100]",)),
    ("layers: [{match: 'neck.*', quantize: false}]", ("'neck.*'", "matches no layer")),
    ("imges: 5", ("unknown key 'imges'", "did you mean 'images'")),
    ("activations: {observer: moving_average}", (BACKEND, "moving_average", "it has")),
    ("{implementation: portable, activations: {bins: 100}}", ("bins", "power of two")),
    ("activations: {bits: 4}", ("bits",)),
    ("layers: [", ("not YAML",)),
]


@pytest.mark.parametrize(("text", "parts"), POLICY_MISTAKES, ids=[m[0] for m in POLICY_MISTAKES])
def test_a_bad_policy_is_refused_before_an_image_is_read(
    cli: Cli, squares: SimpleNamespace, needs_backend: None, monkeypatch, text, parts
) -> None:
    def unread(image: object) -> object:
        raise DataError("an image was read")

    monkeypatch.setattr("quantcore.data.batches.read_image", unread)
    policy = squares.root / "mine.yaml"
    policy.write_text(text)
    (squares.root / "table.json").write_text("old")
    refused(cli(*calibrating(squares, "--policy", policy)), *parts)
    assert (squares.root / "table.json").read_text() == "old"


def test_a_missing_policy_is_named(cli: Cli, squares: SimpleNamespace) -> None:
    refused(cli(*calibrating(squares, "--policy", squares.root / "gone.yaml")), "gone.yaml")


@pytest.mark.parametrize(
    ("change", "parts"),
    [
        (lambda t: t["p8"].update(min=-math.nan, max=math.nan), ("table.json", "'p8'", "finite")),
        (lambda t: t["p8"].update(min=-math.inf, max=math.inf), ("table.json", "'p8'", "finite")),
        (lambda t: t["p8"].update(min=1.0, max=-1.0), ("table.json", "'p8'", "negative")),
        (lambda t: t["p8"].update(min=0.0, max=0.0), ("'p8'", "not positive")),
        (lambda t: t["stem.w"].update(min=[0] * 4, max=[0] * 4), ("'stem.w'", "not positive")),
        (lambda t: t["stem.w"].update(min=[-1] * 3, max=[1] * 3), ("'stem.w'", "4 channels")),
        (lambda t: t.pop("p8"), ("'p8'", "head.8")),
        (lambda t: t["p8"].pop("role"), ("table.json", "'p8'")),
    ],
    ids=["nan", "inf", "negative", "zero", "zero weight", "channels", "lacking", "malformed"],
)
def test_a_bad_range_is_named_and_the_old_graph_stays(
    way: SimpleNamespace, cli: Cli, tmp_path: Path, change, parts
) -> None:
    table, out = tmp_path / "table.json", tmp_path / "qdq.onnx"
    table.write_bytes(way.table.read_bytes())
    edit_json(table, lambda data: change(data["tensors"]))
    out.write_bytes(b"old")
    before = snapshot(tmp_path)
    done = cli("quantize", *way.squares.model, "--table", table, "--out", out)
    refused(done, *parts)
    assert snapshot(tmp_path) == before


@pytest.mark.parametrize(
    "change",
    [
        lambda d: d.update(format="other/1"),
        lambda d: d.pop("tensors"),
        lambda d: d["provenance"].update(fingerprint="0" * 64),
        lambda d: d["provenance"].update(fingerprint=None),
        lambda d: d["provenance"].update(image_ids=7),
        lambda d: d["provenance"].update(policy={"colour": "red"}),
        lambda d: d["provenance"].update(policy=None),
    ],
    ids=["format", "tensors", "fingerprint", "no fingerprint", "images", "policy", "no policy"],
)
def test_a_table_that_does_not_fit_is_refused(
    way: SimpleNamespace, cli: Cli, tmp_path: Path, change
) -> None:
    table, out = tmp_path / "table.json", tmp_path / "qdq.onnx"
    table.write_bytes(way.table.read_bytes())
    edit_json(table, change)
    refused(cli("quantize", *way.squares.model, "--table", table, "--out", out))
    assert not out.exists()


def test_weights_that_are_not_finite_are_named(
    cli: Cli, squares: SimpleNamespace, needs_backend: None
) -> None:
    proto = onnx.load(squares.weights)
    constant = next(i for i in proto.graph.initializer if i.name == "stem.w")
    values = numpy_helper.to_array(constant).copy()
    values[1] = np.nan
    constant.CopyFrom(numpy_helper.from_array(values, "stem.w"))
    squares.weights.write_bytes(proto.SerializeToString())
    line = refused(cli(*calibrating(squares)))
    assert "stem" in line
    assert not (squares.root / "table.json").exists()


@pytest.mark.parametrize("kind", ["export", "calibrate", "quantize", "evaluate", "compare"])
def test_an_output_that_cannot_be_written_is_named(
    way: SimpleNamespace, cli: Cli, tmp_path: Path, kind: str
) -> None:
    # Below a regular file: permissions would not stop root.
    (tmp_path / "file").write_text("old")
    out = tmp_path / "file" / "sub" / "out"
    data = ["--data", way.squares.data]
    extra: dict[str, list[object]] = {
        "export": [],
        "calibrate": [*data, "--backend", BACKEND],
        "quantize": ["--table", way.table],
        "evaluate": data,
        "compare": [*data, "--backend", BACKEND],
    }
    refused(cli(kind, *way.squares.model, *extra[kind], "--out", out), str(tmp_path / "file"))
    assert (tmp_path / "file").read_text() == "old"


def test_unknown_plugins_list_the_installed_ones(
    cli: Cli, squares: SimpleNamespace, needs_backend: None
) -> None:
    out = squares.root / "out"
    refused(
        cli("export", "yolov9", "--weights", squares.weights, "--out", out),
        *("unknown model 'yolov9'", "installed:", "onnx"),
    )
    backend = ("unknown backend 'pytorch_quantization'", "installed:", BACKEND)
    refused(cli(*calibrating(squares, backend="pytorch_quantization")), *backend)
    compared = ["compare", *squares.model, "--data", squares.data, "--out", out]
    refused(cli(*compared, "--backend", "pytorch_quantization"), *backend)
    engine = ("unknown engine 'tensor'", "installed:", "onnxruntime")
    refused(cli(*evaluating(squares, "--engine", "tensor")), *engine)
    refused(cli(*compared, "--backend", BACKEND, "--engine", "tensor"), *engine)
    assert not (squares.root / "table.json").exists()
    assert not (squares.root / "result.json").exists()


def test_a_graph_to_evaluate_that_is_none_is_named(cli: Cli, squares: SimpleNamespace) -> None:
    refused(cli(*evaluating(squares, "--onnx", squares.root / "gone.onnx")), "gone.onnx")
    bad = squares.root / "bad.onnx"
    bad.write_bytes(b"text")
    refused(cli(*evaluating(squares, "--onnx", bad)), "bad.onnx")


def test_a_graph_of_another_model_is_refused(cli: Cli, squares: SimpleNamespace) -> None:
    proto = onnx.load(squares.weights)
    del proto.graph.output[:]
    shape = ["batch", 4, 8, 8]
    proto.graph.output.append(onnx.helper.make_tensor_value_info("p8", 1, shape))
    other = squares.root / "other.onnx"
    other.write_bytes(proto.SerializeToString())
    refused(cli(*evaluating(squares, "--onnx", other)), "decoding")


def test_an_unknown_decode_is_refused(cli: Cli, squares: SimpleNamespace) -> None:
    out = squares.root / "x.onnx"
    refused(cli("export", *squares.model, "--decode", "yes", "--out", out), "graph or post")
    assert not out.exists()


def test_a_backend_that_fails_costs_only_itself(
    cli: Cli, squares: SimpleNamespace, needs_backend: None
) -> None:
    # Found out only while images are read, in the backend's own process.
    (squares.data / "train2017" / "2.png").write_bytes(b"no png")
    out = squares.root / "compared"
    done = cli(
        *("compare", *squares.model, "--data", squares.data, "--backend", BACKEND),
        *("--backend", BACKEND, "--out", out),
    )
    refused(done, BACKEND, "2.png")
    report = json.loads((out / "report.json").read_text())
    assert report["float"]["map"] > 0.99
    assert report["variants"] == []
    assert [failure["backend"] for failure in report["failures"]] == [BACKEND]
    assert "2.png" in report["failures"][0]["error"]


@pytest.mark.parametrize("arguments", [(), ("nonsense",), ("export",), ("compare", "onnx")])
def test_wrong_usage_shows_no_traceback(cli: Cli, arguments: tuple[str, ...]) -> None:
    done = cli(*arguments)
    assert done.code == 2
    assert "Traceback" not in done.err
    assert "Usage" in done.out + done.err
