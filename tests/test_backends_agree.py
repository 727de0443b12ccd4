"""Two frameworks, one network, the same images: the same definition gives the same table."""

from __future__ import annotations

from importlib import resources
from pathlib import Path

import numpy as np
import pytest
from quantcore_onnx import OnnxOptions

from quantcore import pipeline
from quantcore.analysis.agreement import sqnr_db
from quantcore.contracts import registry
from quantcore.contracts.backend import SessionOptions
from quantcore.contracts.model import ModelOptions
from quantcore.data.batches import Batches
from quantcore.data.coco import CocoDataset
from quantcore.ir.model import FloatModel
from quantcore.policy.policy import CalibrationPolicy
from quantcore.qdq.insertion import insert
from quantcore.qdq.placement import plan
from quantcore.table.table import CalibrationTable
from quantcore.testing.exact import in_float64, on_codes

DEMO = Path(str(resources.files("quantcore"))) / "demo_data"
DIGITS = pipeline.Data(DEMO)
SHARED = Path(__file__).resolve().parents[2] / "shared"
BACKENDS = ("pytorch-quantization", "paddle")


@pytest.fixture(scope="module")
def model():
    pytest.importorskip("quantcore_yolo", reason="needs models/yolo")
    weights = DEMO / "yolov7-tiny-digits.safetensors"
    return pipeline.load_model("yolov7-tiny", weights, ModelOptions(image_size=160))


@pytest.fixture(params=["demo", pytest.param("yolox-nano", marks=pytest.mark.shared)])
def detector(request: pytest.FixtureRequest, model) -> tuple[FloatModel, pipeline.Data]:
    """A model and its images."""
    if request.param == "demo":
        return model, DIGITS
    pytest.importorskip("quantcore_onnx", reason="needs models/onnx")
    if not SHARED.is_dir():
        pytest.skip("needs ../shared")
    weights = SHARED / "weights/yolox_nano.onnx"
    found = pipeline.load_model("onnx", weights, OnnxOptions(preset="yolox"))
    return found, pipeline.Data(SHARED / "data/coco-mini")


@pytest.fixture
def frameworks() -> None:
    for name in ("pytorch_quantization", "paddle"):
        pytest.importorskip(name)


def calibrate_each(model, data, policies, backend):
    return pipeline.calibrate_each(model, data, policies, backend, SessionOptions(device="cpu"))


def table(
    model, backend: str, policy: CalibrationPolicy, data: pipeline.Data = DIGITS
) -> CalibrationTable:
    (found,) = calibrate_each(model, data, (policy,), backend)
    assert found.audit is not None
    assert found.audit.worst_db >= 50
    return found.table


def test_native_maxima_agree(model, frameworks: None) -> None:
    policy = CalibrationPolicy.from_dict({"activations": {"observer": "max"}, "images": 4})
    first, second = (table(model, backend, policy) for backend in BACKENDS)
    assert first.tensors.keys() == second.tensors.keys()
    for name, found in first.tensors.items():
        assert np.allclose(found.amax_array, second.tensors[name].amax_array, 1e-4, 0), name


def test_portable_tables_are_equal(detector, frameworks: None) -> None:
    """Promised are 1e-5; what is left is an activation that may round to the next float32."""
    model, data = detector
    small = data is DIGITS
    observers = ["percentile", "mse"]
    if small:
        observers += ["max", "entropy", "moving_average"]
    policy = CalibrationPolicy.from_dict(
        {
            "implementation": "portable",
            "observers": observers,
            "images": 2 if small else 1,
        }
    )
    found = []
    for backend in BACKENDS:
        done = calibrate_each(model, data, policy.each(), backend)
        assert all(one.audit is not None and one.audit.worst_db >= 50 for one in done)
        found.append([one.table.tensors for one in done])
    for one, other in zip(*found, strict=True):
        assert one.keys() == other.keys()
        for name, entry in one.items():
            assert np.allclose(entry.amax_array, other[name].amax_array, 2e-7, 0), name


def test_float32_finds_nearly_the_same(frameworks: None) -> None:
    """As far as a search may jump between candidates that are equally good to within rounding."""
    pytest.importorskip("quantcore_yolo", reason="needs models/yolo")
    model = pipeline.load_model("yolov7-tiny", DEMO / "yolov7-tiny-digits.safetensors")
    observers = {"implementation": "portable", "observers": ["max", "percentile", "mse"]}
    tables = []
    for arithmetic in ("float32", "float64"):
        policy = CalibrationPolicy.from_dict({**observers, "arithmetic": arithmetic, "images": 2})
        done = calibrate_each(model, DIGITS, policy.each(), BACKENDS[0])
        assert all(one.table.provenance.policy["arithmetic"] == arithmetic for one in done)
        tables.append([one.table.tensors for one in done])
    for single, double in zip(*tables, strict=True):
        for name, entry in single.items():
            assert np.allclose(entry.amax_array, double[name].amax_array, 1 / 256, 0), name


def test_a_table_means_the_same_in_both_simulations(detector, frameworks: None) -> None:
    """End to end, without forcing an activation, and in the shared graph as well."""
    model, data = detector
    policy = CalibrationPolicy.from_dict({"images": 2})
    sites = plan(model, policy)
    calibrated = table(model, "pytorch-quantization", policy, data)
    # FP16 checkpoints hold many a weight halfway between two codes, where anybody may round.
    model, calibrated = on_codes(model, sites, calibrated)
    images = CocoDataset.open(data.root, data.evaluation).select(1)
    batch = next(iter(Batches(images, model.preprocessing, 1).inputs()))
    shared = in_float64(insert(model, sites, calibrated).proto, batch)
    for backend in BACKENDS:
        options = SessionOptions(device="cpu", arithmetic="float64")
        with (
            registry.load_backend(backend).open(model, options) as session,
            session.simulation(sites, calibrated.tensors) as simulation,
        ):
            assert sqnr_db(shared, simulation.infer(batch)) >= 120, backend
