"""Every command on a classifier: the same ways as a detector's, with top-1 for its figure."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import onnx
import pytest

from quantcore.policy.policy import CalibrationPolicy
from quantcore.results.metric import TOP

Cli = Callable[..., SimpleNamespace]

pytestmark = pytest.mark.usefixtures("in_process")

#: The layers of the small network are too narrow for the default placement.
EVERY_LAYER = ("--placement", "minimal")


@pytest.fixture
def backends(honest: Path, install: Callable[..., None], monkeypatch: pytest.MonkeyPatch) -> None:
    """`first`, whose ranges are right, and `wide`, whose are useless."""
    for name in ("first", "wide"):
        install(name, f"study_backends:{name.capitalize()}")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([os.environ["PYTHONPATH"], *sys.path]))


def words(done: SimpleNamespace) -> str:
    """What a command printed; it must have succeeded, and must not speak of boxes."""
    assert done.code == 0, done.err
    text = f"{done.out}{done.err}"
    assert "mAP" not in text
    assert "detections" not in text
    return text


def figures_of(report: object) -> set[str]:
    """All keys of a report, at any depth."""
    if isinstance(report, dict):
        return set(report).union(*map(figures_of, report.values()))
    return set().union(*map(figures_of, report)) if isinstance(report, list) else set()


def read(path: Path) -> dict:
    """A report, in which nothing is called as a detector's figures are."""
    found = json.loads(path.read_text())
    keys = figures_of(found)
    assert not [key for key in keys if "map" in key or "detection" in key or key == "ar1"]
    return found


def test_from_calibration_to_evaluation(
    cli: Cli, digits: SimpleNamespace, backends: None, tmp_path: Path
) -> None:
    table, qdq, out = (tmp_path / name for name in ("table.json", "qdq.onnx", "float.json"))
    words(cli("evaluate", *digits.model, "--data", digits.data, "--out", out))
    whole = read(out)
    assert whole["images"] == 120
    assert 0.85 < whole["top1"] < whole["top5"] <= 1
    assert whole["top1_interval"]["low"] < whole["top1"] < whole["top1_interval"]["high"]
    assert list(whole["per_class"]) == list("0123456789")
    given = ("--data", digits.data, "--backend", "first", "--images", 40, *EVERY_LAYER)
    words(cli("calibrate", *digits.model, *given, "--out", table))
    assert len(json.loads(table.read_text())["provenance"]["image_ids"]) == 40
    results = {}
    for decode in ("post", "graph"):
        words(cli("quantize", *digits.model, "--table", table, "--decode", decode, "--out", qdq))
        result = tmp_path / f"{decode}.json"
        arguments = ("--data", digits.data, "--onnx", qdq, "--against", out, "--out", result)
        assert "top-1 against" in words(cli("evaluate", *digits.model, *arguments))
        results[decode] = read(result)
    assert [output.name for output in onnx.load(qdq).graph.output] == ["probabilities"]
    assert results["post"]["top1"] == results["graph"]["top1"]
    assert abs(results["post"]["top1_difference"]["value"]) < 0.05


def test_the_cheapest_recipe_of_a_classifier(
    cli: Cli,
    digits: SimpleNamespace,
    backends: None,
    tmp_path: Path,
) -> None:
    asked = ("--max-drop", 0.2, "--min-speedup", 0.01, "--graphs", 2, "--observer", "max")
    given = ("--data", digits.data, "--backend", "first", "--out", tmp_path, *asked)
    said = words(cli("auto", *digits.model, *given, *EVERY_LAYER))
    assert "of top-1 and" in said
    found = read(tmp_path / "auto.json")
    assert found["metric"] == "top1"
    assert found["met"]
    assert found["unseen"]["images"] == 120
    # What top-1 itself adds to the belief is no surer than one image of those that choose.
    belief = found["tried"][0]["belief"]
    by_classes = max(TOP.drop_per_loss * TOP.drop_spread * belief["lost"], 1e-6)
    by_top = (belief["deviation"] ** -2 - by_classes**-2) ** -0.5
    assert by_top >= 0.999 / len(found["images"]["choosing"])


def test_a_described_file_needs_no_preset(
    cli: Cli, digits: SimpleNamespace, tmp_path: Path
) -> None:
    path = tmp_path / "described.onnx"
    words(cli("export", *digits.model, "--out", path))
    words(cli("evaluate", "onnx", "--weights", path, "--data", digits.data, "--images", 20))
    bare = cli("evaluate", "onnx", "--weights", digits.weights, "--data", digits.data)
    assert bare.code == 2
    assert "imagenet or classifier" in bare.err


def test_detect_gives_pictures_their_labels(
    cli: Cli, digits: SimpleNamespace, tmp_path: Path
) -> None:
    folders = sorted(path for path in (digits.data / "val").iterdir() if path.is_dir())
    photos = [sorted(folder.iterdir())[0] for folder in folders]
    words(cli("detect", *digits.model, *photos, "--out", tmp_path))
    pictures = read(tmp_path / "pictures.json")["pictures"]
    assert len(pictures) == len(folders)
    assert all(len(p["found"]) == 1 and p["found"][0]["box"] is None for p in pictures)
    right = [p["found"][0]["class_index"] == n for n, p in enumerate(pictures)]
    assert sum(right) > len(right) / 2


def test_compare_and_its_search(
    cli: Cli, digits: SimpleNamespace, backends: None, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    given = ("--data", digits.data, "--backend", "first", "--backend", "wide", "--out", out)
    more = ("--mixed", "--max-drop", 0.9, "--graphs", 2, "--images", 40, *EVERY_LAYER)
    told = words(cli("compare", *digits.model, *given, *more))
    assert "top-1" in told
    assert "against float" in told
    report = read(out / "report.json")
    first, wide = (
        next(v for v in report["variants"] if v["backend"] == name and not v["mixed"])
        for name in ("first", "wide")
    )
    assert abs(first["top1_difference"]["value"]) < 0.05
    assert wide["top1_difference"]["high"] < 0
    assert wide["top1_difference"]["value"] == pytest.approx(wide["top1"] - report["float"]["top1"])
    assert len(first["neighbours"]["differences"]) == 2
    searched = next(v for v in report["variants"] if v["mixed"])["mixed"]
    assert searched["split"] == "train"
    assert "top1_drop" in searched
    page = (out / "report.html").read_text()
    assert "Top-1 by class" in page
    assert "mAP" not in page
    again = cli("compare", *digits.model, *given, *more)
    assert "nothing was computed" in words(again)


def test_the_layers_are_ranked_and_searched(
    cli: Cli, digits: SimpleNamespace, backends: None, tmp_path: Path
) -> None:
    table, out, policy = (tmp_path / name for name in ("table.json", "study", "policy.yaml"))
    given = ("--data", digits.data, "--backend", "first", "--images", 40, *EVERY_LAYER)
    words(cli("calibrate", *digits.model, *given, "--out", table))
    arguments = ("--data", digits.data, "--table", table)
    for method in ("classes", "top1", "sqnr"):
        how = () if method == "classes" else ("--method", method)
        words(cli("sensitivity", *digits.model, *arguments, *how, "--out", out))
        report = read(out / "sensitivity.json")
        assert (report["method"], report["split"], report["images"]) == (method, "val", 120)
        assert {layer["layer"] for layer in report["layers"]} == {
            "conv0",
            "conv1",
            "conv2",
            "linear",
        }
        assert all(0 <= layer["classes_loss"]["value"] < 0.1 for layer in report["layers"])
        assert "mAP" not in (out / "sensitivity.html").read_text()
    refused = cli("sensitivity", *digits.model, *arguments, "--method", "map", "--out", out)
    assert refused.code == 2
    assert "top1, classes, sqnr" in refused.err

    search = ("--max-drop", 0.5, "--min-int8", 0, "--verify", "val", "--out", policy)
    words(cli("mixed", *digits.model, *arguments, *search))
    assert CalibrationPolicy.load(policy)
    report = read(tmp_path / "policy.mixed" / "mixed.json")
    assert (report["split"], report["unseen"]["split"]) == ("train", "val")
    assert report["met"]
    assert "change of top-1" in (tmp_path / "policy.mixed" / "mixed.html").read_text()


def test_policies_and_tables_carry_over(
    cli: Cli, digits: SimpleNamespace, backends: None, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    (tmp_path / "top.yaml").write_text("activations: {observer: max}\nimages: 20\n")
    given = ("--data", digits.data, "--backend", "first", "--backend", "wide", "--out", out)
    how = ("--policy", tmp_path / "top.yaml", "--implementation", "native", "--threads", 1)
    more = ("--arithmetic", "float32", "--eval-images", 40, *EVERY_LAYER)
    told = words(cli("portability", *digits.model, *given, *how, *more))
    assert "top-1 against its own simulation" in told
    report = read(out / "portability.json")
    assert (report["calibration_split"], report["evaluation_split"]) == ("train", "val")
    assert report["float_top1"]["value"] > 0.8
    cells = {(cell["table"].split(".")[0], cell["kind"]): cell for cell in report["deployments"]}
    assert cells["first", "graph"]["against_float"]["agreement"]["value"] > 0.9
    assert cells["wide", "graph"]["against_float"]["agreement"]["value"] < 0.7
    assert cells["first", "simulate"]["against_graph"]["agreement"]["value"] > 0.99
    assert "mAP" not in (out / "portability.html").read_text()


@pytest.mark.parametrize(
    ("backend", "package"),
    [
        ("pytorch-quantization", "quantcore_pytorch_quantization"),
        ("paddle", "quantcore_paddle"),
        ("onnxruntime", "quantcore_backend_onnxruntime"),
    ],
)
def test_real_frameworks_quantize_it(
    cli: Cli, digits: SimpleNamespace, tmp_path: Path, backend: str, package: str
) -> None:
    pytest.importorskip(package)
    out = tmp_path / "out"
    given = ("--data", digits.data, "--backend", backend, "--images", 40, "--out", out)
    words(cli("compare", *digits.model, *given, *EVERY_LAYER))
    (variant,) = read(out / "report.json")["variants"]
    assert abs(variant["top1_difference"]["value"]) < 0.05
    assert variant["parity"] < 1e-4


def test_data_for_another_task_is_refused(
    cli: Cli, digits: SimpleNamespace, squares: SimpleNamespace
) -> None:
    boxes = cli("evaluate", *digits.model, "--data", squares.data)
    assert boxes.code == 2
    assert "a folder for each class" in boxes.err
    classes = cli("evaluate", *squares.model, "--data", digits.data)
    assert classes.code == 2
    assert "the model is a detector" in classes.err
