"""Commands on what people bring: the same figures from every format, images without labels."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from quantcore_onnx import OnnxOptions

from quantcore.analysis.deployed import truths
from quantcore.data.coco import CocoDataset
from quantcore.data.unlabelled import UnlabelledImages
from quantcore.data.yolo import YoloDataset
from quantcore.evaluation.detections import Detections
from quantcore.pipeline import load_model
from quantcore.policy.policy import CalibrationPolicy
from quantcore.policy.profiles import MINIMAL
from quantcore.qdq.placement import plan
from quantcore.runtime.executor import kept_in
from quantcore.runtime.progress import Silent
from quantcore.studies.sensitivity import StudiedModel, measure
from quantcore.table.table import CalibrationTable

from .formats import write_voc, write_yolo

pytestmark = pytest.mark.usefixtures("in_process")


def test_every_format_gives_the_same_figures(
    cli: Callable[..., SimpleNamespace], shared_squares: SimpleNamespace, tmp_path: Path
) -> None:
    coco = CocoDataset.open(shared_squares.data, "val2017")
    annotations = shared_squares.data / "annotations" / "instances_val2017.json"
    given = {
        "coco": shared_squares.data,
        "file": f"{annotations}:{shared_squares.data / 'val2017'}",
        "yolo": write_yolo(coco, tmp_path / "yolo"),
        "voc": write_voc(coco, tmp_path / "voc", in_order=True),
    }
    figures = {}
    for name, data in given.items():
        out = tmp_path / f"{name}.json"
        done = cli("evaluate", *shared_squares.model, "--data", data, "--out", out)
        assert done.code == 0, done.err
        figures[name] = json.loads(out.read_text())["map"]
    assert figures["coco"] > 0.5
    assert len(set(figures.values())) == 1


def test_compare_calibrates_on_images_without_labels(
    cli: Callable[..., SimpleNamespace], shared_squares: SimpleNamespace, tmp_path: Path
) -> None:
    data = write_yolo(CocoDataset.open(shared_squares.data, "val2017"), tmp_path / "yolo")
    plain = shared_squares.data / "train2017"
    data.write_text(data.read_text() + f"train: {plain}\n")
    policy = tmp_path / "policy.yaml"
    policy.write_text("{placement: minimal, images: 4}\n")
    out = tmp_path / "out"
    given = ["--data", data, "--backend", "onnxruntime", "--policy", policy, "--out", out]
    done = cli("compare", *shared_squares.model, *given)
    assert done.code == 0, done.err
    assert "no file of labels" not in done.err
    assert "calibrates on" not in done.err
    again = cli("evaluate", *shared_squares.model, "--data", plain)
    assert again.code == 2
    assert "holds images without labels" in again.err
    data.write_text(data.read_text().replace(f"train: {plain}", "train: images/val"))
    done = cli("compare", *shared_squares.model, *given)
    told = "8 of the 8 images to evaluate on may be calibrated on, too"
    assert f"note: {told}" in done.err
    # Who gets the page is told as well.
    assert any(told in line for line in json.loads((out / "report.json").read_text())["notes"])
    assert told in (out / "report.html").read_text()


def test_layers_are_ranked_without_labels(
    shared_squares: SimpleNamespace, table: Callable[..., CalibrationTable], tmp_path: Path
) -> None:
    model = load_model("onnx", shared_squares.weights, OnnxOptions(preset="yolox"))
    policy = CalibrationPolicy(placement=MINIMAL)
    amax = {layer.inputs[0]: 60.0 for layer in model.layers if layer.weights}
    ranges = table(model, plan(model, policy), amax={**amax, model.input_name: 255.0})
    bare = UnlabelledImages.open(shared_squares.data / "val2017")
    with kept_in(tmp_path, Silent(), None) as runtime:
        found = measure(StudiedModel(model, ranges, policy), bare, "val2017", runtime, images=2)
    assert found.layers
    assert found.method == "detections"


def test_a_report_on_a_data_yaml_has_what_one_on_coco_has(
    shared_squares: SimpleNamespace, tmp_path: Path
) -> None:
    coco = CocoDataset.open(shared_squares.data, "val2017")
    yolo = YoloDataset.open(write_yolo(coco, tmp_path), "val")
    names = ["red", "blue"]
    found = {
        one: Detections({image.id: np.empty((0, 6)) for image in one.images}, ids)
        for one in (coco, yolo)
        for ids in [one.check_classes(names)]
    }
    files = [{i.id: i.path.name for i in one.images} for one in (coco, yolo)]
    told = [truths(one, found[one]) for one in (coco, yolo)]
    assert {files[1][i]: t.objects.tolist() for i, t in told[1].items()} == {
        files[0][i]: t.objects.tolist() for i, t in told[0].items()
    }
