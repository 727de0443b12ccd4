"""The command `qat` on a small detector, from its file to a graph that is judged."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

import quantcore
from quantcore.commands.cli import app
from quantcore.contracts.session import SessionOptions
from quantcore.data.coco import CocoDataset
from quantcore.errors import (
    CapabilityError,
    DataError,
    PolicyError,
    TableError,
    TrainingError,
    UsageError,
)
from quantcore.ir.edits import with_constants
from quantcore.policy.policy import CalibrationPolicy
from quantcore.testing.models import plain_network, small_detector
from quantcore.training.recipe import Recipe
from quantcore.training.result import origin_of

STEPS = "steps: 25\nbatch: 2\nneighbours: 0\nheld_out: 0.5\n"


def qat(out: Path, *more: str):
    weights = out.parent / f"{out.name}.onnx"
    quantcore.save_model(small_detector(), weights)
    where = ["--weights", str(weights), "--data", str(quantcore.demo().data), "--out", str(out)]
    backend = ["--backend", "pytorch-quantization", "--device", "cpu", "--placement", "minimal"]
    return CliRunner().invoke(app, ["qat", "onnx", *where, *backend, "--images", "8", *more])


@pytest.fixture(scope="module")
def recipe(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("recipe") / "recipe.yaml"
    path.write_text(STEPS)
    return path


@pytest.fixture(scope="module")
def written(tmp_path_factory, recipe, in_process) -> tuple[Path, int, str]:
    out = tmp_path_factory.mktemp("qat")
    found = qat(out, "--recipe", str(recipe))
    return out, found.exit_code, found.output


def test_it_writes_a_network_that_describes_itself(written) -> None:
    out, code, said = written
    record = json.loads((out / "training.json").read_text())
    better = record["kept"] == "trained"
    assert code == (0 if better else 1), said
    assert "images that neither calibration nor training saw" in said
    home = out if better else out / "rejected"
    model = quantcore.load_model("onnx", home / "float.onnx")
    table = quantcore.CalibrationTable.load(home / "table.json")
    parent = small_detector()
    origin = origin_of(model)
    assert origin["parent"] == record["parent"] == parent.fingerprint
    assert origin["recipe"]["steps"] == 25
    assert model.fingerprint == record["fingerprint"] == table.provenance.fingerprint
    assert model.fingerprint != parent.fingerprint
    assert table.provenance.trained_from["fingerprint"] == parent.fingerprint
    assert len(record["losses"]["heads"]) == 25
    assert not set(record["image_ids"]) & set(record["held_out"])
    assert record["parity"] < 1e-4
    assert "<svg" in (out / "training.html").read_text()  # the losses
    assert not (out / "checkpoint.npz").exists()
    kept = quantcore.load_onnx(out / "qdq.onnx")
    assert any(node.op_type == "QuantizeLinear" for node in kept.graph.node)
    if not better:
        assert "the calibrated graph is kept" in said
        again = quantcore.load_model("onnx", out / "float.onnx")
        assert again.fingerprint == parent.fingerprint


def test_the_same_training_gives_the_same_bits(written, recipe, tmp_path) -> None:
    out = written[0]
    qat(tmp_path, "--recipe", str(recipe))
    for name in ("float.onnx", "table.json", "qdq.onnx"):
        assert (tmp_path / name).read_bytes() == (out / name).read_bytes()


def trained(model=None, **given):
    policy = CalibrationPolicy.from_dict({"placement": "minimal", "images": 4})
    given = {
        "backend": "pytorch-quantization",
        "options": SessionOptions(device="cpu", threads=1),
        "policy": policy,
        **given,
    }
    return quantcore.train(model or small_detector(), quantcore.demo().data, **given)


def test_rates_that_break_the_network_are_told_in_one_line() -> None:
    recipe = Recipe(steps=60, batch=1, rate=1.0, scale_rate=1.0, warmup=0, held_out=0.0)
    with pytest.raises(TrainingError, match="before any weights were good; lower `rate`") as error:
        trained(recipe=recipe)
    assert "\n" not in str(error.value)


def test_a_rounded_network_is_matched_to_the_one_before() -> None:
    parent = small_detector()
    coarse = {
        name: np.round(values * 4) / 4
        for name, values in parent.initializers.items()
        if values.ndim == 4
    }
    rounded = replace(parent, proto=with_constants(parent.proto, coarse))
    recipe = Recipe(steps=2, batch=1, held_out=0.0)
    by_itself = trained(rounded, recipe=recipe)
    by_parent = trained(rounded, recipe=recipe, teacher=parent)
    first = [found.record.losses.heads[0] for found in (by_itself, by_parent)]
    assert first[1] > 2 * first[0]
    assert "teacher" not in origin_of(by_itself.model)
    assert origin_of(by_parent.model)["teacher"] == parent.fingerprint
    with pytest.raises(UsageError, match="must be the same network with other weights"):
        trained(rounded, recipe=recipe, teacher=plain_network())


def test_clipped_weights_stay_clipped_by_themselves() -> None:
    policy = CalibrationPolicy.from_dict(
        {
            "placement": "minimal",
            "images": 4,
            "implementation": "portable",
            "weights": {"bits": 4, "observer": "mse"},
        }
    )
    found = trained(policy=policy, recipe=Recipe(steps=2, batch=1, held_out=0.0))
    told = origin_of(found.model)
    assert told["recipe"]["weights"] == found.record.recipe["weights"] == "frozen"
    weights = {n: r for n, r in found.before.tensors.items() if r.role == "weight"}
    assert weights
    for name, start in weights.items():
        assert found.table.tensors[name] == start
    assert any(
        np.max(r.amax_array) < np.abs(found.parent.initializers[n]).max()
        for n, r in weights.items()
    )


def test_a_table_that_saw_everything_leaves_nothing_to_judge_on(written) -> None:
    table = quantcore.CalibrationTable.load(written[0] / "calibrated.json")
    dataset = CocoDataset.open(quantcore.demo().data, "train2017")
    ids = tuple(image.id for image in dataset.images)
    table = replace(table, provenance=replace(table.provenance, image_ids=ids))
    with pytest.raises(DataError, match=r"seen all but 0 of the images.*leave --table out"):
        trained(table=table, policy=None)
    foreign = replace(table, provenance=replace(table.provenance, fingerprint="0" * 64))
    with pytest.raises(TableError, match="calibrated on another graph"):
        trained(table=foreign)


def test_refusals_come_before_any_image_is_read() -> None:
    with pytest.raises(PolicyError, match="no layer with weights is called 'nowhere'"):
        trained(recipe=Recipe(layers=("nowhere",)))
    with pytest.raises(DataError, match=r"too few to set 0.25 of them aside"):
        trained(policy=CalibrationPolicy(images=1))
    if not torch.cuda.is_available():
        with pytest.raises(CapabilityError, match="has no device 'cuda'"):
            trained(options=SessionOptions(device="cuda"))
