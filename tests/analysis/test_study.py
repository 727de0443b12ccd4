"""Each layer alone: the same numbers as the naive loop, and nothing computed twice."""

import json
import shutil
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import cv2
import numpy as np
import pytest
from quantcore_onnx import OnnxOptions

from quantcore.contracts.capabilities import check_capabilities
from quantcore.contracts.engine import EngineOptions
from quantcore.contracts.registry import BACKENDS, installed, load_backend, load_engine
from quantcore.data.coco import CocoDataset
from quantcore.errors import CapabilityError, PluginError, UsageError
from quantcore.evaluation.evaluator import evaluate
from quantcore.pipeline import load_model, quantize
from quantcore.policy.policy import CalibrationPolicy
from quantcore.policy.profiles import MINIMAL
from quantcore.qdq.placement import plan
from quantcore.report import studies
from quantcore.report.pages import layers
from quantcore.results.metric import COCO
from quantcore.runtime.executor import InProcess, kept_in
from quantcore.runtime.jobs import Runtime
from quantcore.runtime.plain import json_text, plain
from quantcore.runtime.store import Store
from quantcore.studies import mixed, sensitivity
from quantcore.studies.graph_job import Candidate
from quantcore.studies.keep import alone, keeping, quantized_layers
from quantcore.studies.runs import GraphRuns
from quantcore.studies.sensitivity import StudiedModel

#: One that every backend takes, one in the framework's own observers, and one with rules.
POLICIES: list[dict[str, Any]] = [
    {"implementation": "portable", "activations": {"observer": "max"}},
    {"activations": {"observer": "max"}},
    {"layers": [{"match": "op:conv2d", "activations": {"observer": "max"}}]},
]


@pytest.fixture(scope="module")
def subject(shared_squares: SimpleNamespace, table: object) -> StudiedModel:
    model = load_model("onnx", shared_squares.weights, OnnxOptions(preset="yolox"))
    policy = CalibrationPolicy(placement=MINIMAL)
    amax = {layer.inputs[0]: 60.0 for layer in model.layers if layer.weights}
    found = table(model, plan(model, policy), amax={**amax, model.input_name: 255.0})
    return StudiedModel(model, found, policy)


@pytest.fixture(scope="module")
def dataset(shared_squares: SimpleNamespace) -> CocoDataset:
    return CocoDataset.open(shared_squares.data, "val2017")


def singles(subject: StudiedModel) -> list[Candidate]:
    return [
        subject.candidate(name, alone(subject.policy, subject.layers, name), name)
        for name in subject.layers
    ]


def test_other_images_under_the_same_ids_are_run(
    subject: StudiedModel, dataset: CocoDataset, tmp_path: Path
) -> None:
    shutil.copytree(dataset.images[0].path.parent, tmp_path / "grey")
    grey = []
    for image in dataset.images:
        path = tmp_path / "grey" / image.path.name
        cv2.imwrite(str(path), np.full((image.height, image.width, 3), 114, np.uint8))
        grey.append(replace(image, path=path))
    variants = [Candidate("float", subject.model.proto)]
    with kept_in(tmp_path) as runtime:
        (before,) = GraphRuns(subject.model, dataset, dataset.select(), runtime).run(variants)
        runs = GraphRuns(subject.model, dataset, grey, runtime)
        (after,) = runs.run(variants)
        assert runtime.computed == 2 * len(grey)
    assert len(before.predictions)
    with kept_in(tmp_path / "fresh") as runtime:
        (fresh,) = GraphRuns(subject.model, dataset, grey, runtime).run(variants)
    for image, boxes in fresh.predictions.by_image.items():
        np.testing.assert_array_equal(after.predictions.by_image[image], boxes)


def test_layers_alone_equal_the_naive_loop(
    subject: StudiedModel, dataset: CocoDataset, tmp_path: Path
) -> None:
    variants = [Candidate("float", subject.model.proto), *singles(subject)]
    with kept_in(tmp_path) as runtime:
        found = GraphRuns(subject.model, dataset, dataset.select(), runtime).run(variants)
    for variant, outcome in zip(variants, found, strict=True):
        with load_engine("onnxruntime").build(variant.proto, EngineOptions()) as engine:
            _, wanted = evaluate(engine, subject.model, dataset)
        for image, boxes in wanted.by_image.items():
            np.testing.assert_array_equal(outcome.predictions.by_image[image], boxes)


def test_one_layer_is_quantized_alone(subject: StudiedModel) -> None:
    for name in subject.layers:
        policy = alone(subject.policy, subject.layers, name)
        assert quantized_layers(subject.model, policy) == (name,)


def test_names_with_wildcards_are_taken_literally(subject: StudiedModel) -> None:
    rule = keeping(subject.policy, ["a[0].*"]).layers[0]
    assert rule.matcher.matches_layer(SimpleNamespace(name="a[0].*", op="conv2d"))
    assert not rule.matcher.matches_layer(SimpleNamespace(name="a0.b", op="conv2d"))


class KilledError(RuntimeError):
    """Stands for a kill."""


def test_a_run_goes_on_where_it_was_killed(
    subject: StudiedModel, dataset: CocoDataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    variants = singles(subject)
    total = len(variants) * len(dataset.images)
    put, written = Store.put, []

    def fragile(self: Store, key: str, finding: object) -> None:
        if len(written) == total // 2:
            raise KilledError
        put(self, key, finding)
        written.append(key)

    with kept_in(tmp_path) as runtime, monkeypatch.context() as patch:
        patch.setattr(Store, "put", fragile)
        with pytest.raises(KilledError):
            GraphRuns(subject.model, dataset, dataset.select(), runtime, workers=2).run(variants)
    with kept_in(tmp_path) as runtime:
        runs = GraphRuns(subject.model, dataset, dataset.select(), runtime)
        found = runs.run(variants)
        assert (runtime.computed, runtime.reused) == (total - len(written), len(written))
    with kept_in(tmp_path) as runtime:
        again = GraphRuns(subject.model, dataset, dataset.select(), runtime)
        assert again.run(variants)[0].powers.keys() == found[0].powers.keys()
        assert runtime.summary() == (
            f"nothing was computed: all {total} pieces of work were there already"
        )
    with kept_in(tmp_path / "fresh") as runtime:
        fresh = GraphRuns(subject.model, dataset, dataset.select(), runtime).run(variants)
    for one, other in zip(found, fresh, strict=True):
        for image, boxes in one.predictions.by_image.items():
            np.testing.assert_array_equal(boxes, other.predictions.by_image[image])


@pytest.mark.parametrize("method", COCO.methods)
def test_layers_are_ranked(
    subject: StudiedModel, dataset: CocoDataset, tmp_path: Path, method: str
) -> None:
    found = sensitivity.measure(subject, dataset, "val2017", Runtime(InProcess()), method=method)
    costs = [cost.by(method) for cost in found.layers]
    assert costs == sorted(costs, reverse=True)
    assert {cost.layer for cost in found.layers} == set(subject.layers)
    assert json.loads(json_text(found))["layers"][0]["rank"] == 1
    assert "<svg" in layers.sensitivity(found.to_dict()).html()
    assert studies.sensitivity(found).row_count == len(found.layers)


def test_an_unknown_method_is_refused(
    subject: StudiedModel, dataset: CocoDataset, tmp_path: Path
) -> None:
    with pytest.raises(UsageError, match="map, detections, sqnr"):
        sensitivity.measure(subject, dataset, "val2017", Runtime(InProcess()), method="guess")


def test_the_policy_of_a_search_gives_the_measured_graph(
    subject: StudiedModel, dataset: CocoDataset, tmp_path: Path
) -> None:
    ranking = sensitivity.measure(subject, dataset, "val2017", Runtime(InProcess()))
    lines: list[str] = []
    wish = mixed.SearchTarget(max_drop=0.0, min_int8=0.0)
    found = mixed.find(subject, ranking, dataset, Runtime(InProcess()), wish, say=lines.append)
    assert found.met
    assert found.chosen in found.frontier
    assert len(lines) == len(found.points)
    (tmp_path / "policy.yaml").write_text(found.policy_yaml())
    policy = CalibrationPolicy.load(tmp_path / "policy.yaml")
    assert policy == found.policy
    left = quantized_layers(subject.model, policy)
    assert set(left) == set(subject.layers) - set(found.chosen.kept)
    quantize(subject.model, subject.table, policy)
    assert "target" in studies.verdict(found)
    assert "<svg" in layers.mixed(found.to_dict()).html()


@pytest.mark.parametrize("backend", [info.name for info in installed(BACKENDS)])
@pytest.mark.parametrize("base", POLICIES)
def test_every_backend_that_takes_the_policy_takes_the_mixed_one(
    subject: StudiedModel, dataset: CocoDataset, tmp_path: Path, backend: str, base: dict[str, Any]
) -> None:
    try:
        capabilities = load_backend(backend).capabilities
    except PluginError as error:
        pytest.skip(str(error))
    studied = StudiedModel(
        subject.model, subject.table, CalibrationPolicy.from_dict({"placement": "minimal", **base})
    )
    try:
        check_capabilities(backend, capabilities, plan(studied.model, studied.policy))
    except CapabilityError as error:
        pytest.skip(str(error))
    ranking = sensitivity.measure(studied, dataset, "val2017", Runtime(InProcess()), images=2)
    for top in range(len(studied.layers) + 1):
        found = mixed.find(
            studied, ranking, dataset, Runtime(InProcess()), mixed.SearchTarget(top=top), images=2
        )
        (tmp_path / "policy.yaml").write_text(found.policy_yaml())
        policy = CalibrationPolicy.load(tmp_path / "policy.yaml")
        check_capabilities(backend, capabilities, plan(studied.model, policy))
        assert len(quantized_layers(studied.model, policy)) == len(studied.layers) - top


def test_the_top_layers_are_kept_without_a_search(
    subject: StudiedModel, dataset: CocoDataset, tmp_path: Path
) -> None:
    ranking = sensitivity.measure(subject, dataset, "val2017", Runtime(InProcess()))
    wish = mixed.SearchTarget(top=2)
    found = mixed.find(subject, ranking, dataset, Runtime(InProcess()), wish)
    assert set(found.chosen.kept) == {cost.layer for cost in ranking.layers[:2]}


def test_images_without_labels_still_rank_by_detections(
    subject: StudiedModel, dataset: CocoDataset, tmp_path: Path
) -> None:
    bare = CocoDataset(dataset.source, dataset.images, dataset.categories, ())
    found = sensitivity.measure(subject, bare, "val2017", Runtime(InProcess()))
    assert found.to_dict()["float_map"]["value"] is None
    found = sensitivity.measure(subject, bare, "val2017", Runtime(InProcess()))
    assert plain(found)["float_map"]["value"] is None
    with pytest.raises(UsageError, match="labels"):
        sensitivity.measure(subject, bare, "val2017", Runtime(InProcess()), method="map")
    with pytest.raises(UsageError, match="labels"):
        mixed.find(subject, found, bare, Runtime(InProcess()), mixed.SearchTarget())
