"""TensorRT-RTX builds the real networks ahead of time, without a GPU."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest

from quantcore import pipeline
from quantcore.analysis.agreement import noise
from quantcore.contracts import registry
from quantcore.contracts.engine import EngineOptions
from quantcore.contracts.model import ModelOptions
from quantcore.engines import REFERENCE_ENGINE
from quantcore.engines.tensorrt.options import TensorRtOptions
from quantcore.ir.edits import exposed
from quantcore.ir.model import FloatModel
from quantcore.policy.policy import CalibrationPolicy
from quantcore.policy.profiles import Profile
from quantcore.qdq.insertion import insert
from quantcore.qdq.placement import plan
from quantcore.qdq.precision import int8_fp16
from quantcore.table.table import CalibrationTable, Provenance, TensorRange

pytest.importorskip("tensorrt_rtx", reason="needs tensorrt-rtx-cu13")
SHARED = Path(__file__).resolve().parents[3] / "shared"
NETWORKS = {
    "yolov5n": "weights/yolov5n-coco.pt",
    "yolov7-tiny": "reference/yolov7-tiny.pt",
    "yolov7": "reference/yolov7-w025.pt",
}


def quantized(model: FloatModel) -> onnx.ModelProto:
    """The Q/DQ graph of TensorRT's placement, with the ranges of one noise image."""
    policy = CalibrationPolicy(placement=Profile.read("tensorrt"))
    sites = plan(model, policy)
    names = [s.tensor for s in sites.sites if s.role == "activation"]
    engine = registry.load_engine(REFERENCE_ENGINE)
    batch = noise(model)
    with engine.build(
        exposed(model.proto, [n for n in names if n != "images"]), EngineOptions()
    ) as e:
        values = {"images": batch, **e.infer(batch)}
    ranges = {}
    for site in sites.sites:
        if site.role == "activation":
            ranges[site.tensor] = TensorRange.symmetric(
                "activation", float(np.abs(values[site.tensor]).max())
            )
        else:
            weight = np.abs(model.initializers[site.tensor])
            other = tuple(i for i in range(weight.ndim) if i != site.axis)
            ranges[site.tensor] = TensorRange.symmetric("weight", weight.max(axis=other), site.axis)
    provenance = Provenance(model.name, model.fingerprint, "noise", {}, policy.to_dict())
    return insert(model, sites, CalibrationTable(ranges, provenance)).proto


@pytest.mark.shared
@pytest.mark.parametrize("name", NETWORKS)
def test_real_networks_build_in_every_precision(name: str, tmp_path: Path) -> None:
    weights = SHARED / NETWORKS[name]
    if not weights.exists():
        pytest.skip(f"needs ../shared/{NETWORKS[name]}")
    model = pipeline.load_model(name, weights, ModelOptions(image_size=320))
    engine = registry.load_engine("tensorrt")
    codes = quantized(model)
    for what, graph in {
        "FP32": model.proto,
        "FP16": int8_fp16(model.proto, ()),
        "INT8+FP16": int8_fp16(codes, ()),
    }.items():
        report = engine.build_ahead(
            graph, TensorRtOptions(target="SM86"), tmp_path / f"{what}.plan"
        )
        assert report.path.stat().st_size > 100_000, f"{name} in {what}: no plan"
        assert not report.verified, "without a GPU nothing is known of the layers"
