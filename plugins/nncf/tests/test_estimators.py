"""The ranges are those of `nncf.quantize`, wherever it puts a quantizer on the same tensor."""

# ruff: noqa: E402 - imports that follow importorskip

from __future__ import annotations

import onnx
import pytest

pytest.importorskip("quantcore_backend_nncf")
nncf = pytest.importorskip("nncf")

from nncf.quantization.advanced_parameters import AdvancedQuantizationParameters
from nncf.quantization.range_estimator import (
    AggregatorType,
    RangeEstimatorParameters,
    StatisticsCollectorParameters,
    StatisticsType,
)

from quantcore.calibration.driver import calibrate
from quantcore.contracts.registry import load_backend
from quantcore.policy.policy import CalibrationPolicy
from quantcore.policy.profiles import MINIMAL
from quantcore.qdq.placement import plan
from quantcore.testing.models import Stream, small_detector

MAXIMUM = (StatisticsType.MAX, AggregatorType.MAX)
ESTIMATORS = {
    "max": MAXIMUM,
    "moving_average": (StatisticsType.MAX, AggregatorType.MEAN),
    "percentile": (StatisticsType.ABS_QUANTILE, AggregatorType.MEAN),
}


def quantized(observer: str) -> dict[str, float]:
    """amax by tensor, read back from the Q/DQ nodes that NNCF inserts."""
    statistic, aggregator = ESTIMATORS[observer]
    if observer == "percentile":
        ends = StatisticsCollectorParameters(statistic, aggregator, quantile_outlier_prob=1e-4)
    else:
        ends = StatisticsCollectorParameters(statistic, aggregator)
    proto = nncf.quantize(
        small_detector().proto,
        nncf.Dataset([{"images": batch} for batch in Stream(16)]),
        preset=nncf.QuantizationPreset.PERFORMANCE,  # symmetric
        advanced_parameters=AdvancedQuantizationParameters(
            disable_bias_correction=True,
            disable_channel_alignment=True,
            activations_range_estimator_params=RangeEstimatorParameters(ends, ends),
        ),
    )
    constants = {i.name: onnx.numpy_helper.to_array(i) for i in proto.graph.initializer}
    found = {}
    for node in proto.graph.node:
        if node.op_type == "QuantizeLinear" and node.input[0] not in constants:
            scale, zero = (constants[name] for name in node.input[1:3])
            if scale.size == 1:  # NNCF gives depthwise convolutions per-channel activations
                # A tensor that is never negative gets unsigned codes.
                found[node.input[0]] = float(scale) * (255 if zero.dtype == "uint8" else 127)
    return found


@pytest.mark.parametrize("observer", ESTIMATORS)
def test_ranges_are_those_of_nncf_quantize(observer) -> None:
    theirs = quantized(observer)
    policy = CalibrationPolicy.from_dict(
        {"placement": "minimal", "activations": {"observer": observer}}
    )
    model = small_detector()
    with load_backend("nncf").open(model) as session:
        found = calibrate(session, plan(model, policy), Stream(16))
    shared = sorted(found.keys() & theirs.keys())
    assert len(shared) >= 3, (sorted(found), sorted(theirs))
    for tensor in shared:
        assert found[tensor].amax == pytest.approx(theirs[tensor], rel=1e-4), tensor


def test_a_percentile_cuts() -> None:
    found = {}
    model = small_detector()
    for percentile in (90.0, 99.9):
        policy = CalibrationPolicy.from_dict(
            {
                "placement": "minimal",
                "activations": {"observer": "percentile", "percentile": percentile},
            }
        )
        with load_backend("nncf").open(model) as session:
            found[percentile] = calibrate(session, plan(model, policy), Stream(8))
    assert found[90.0]["cat.out"].amax < found[99.9]["cat.out"].amax


def test_what_nncf_raises_names_the_tensor(monkeypatch) -> None:
    from quantcore_backend_nncf.estimators import Estimator

    from quantcore.errors import BackendError

    def fail(self) -> float:
        raise RuntimeError("no bins")

    monkeypatch.setattr(Estimator, "amax", fail)
    model = small_detector()
    with (
        load_backend("nncf").open(model) as session,
        pytest.raises(BackendError, match=r"'images' of layer stem: NNCF finds no .* no bins"),
    ):
        calibrate(session, plan(model, CalibrationPolicy(placement=MINIMAL)), Stream(1))
