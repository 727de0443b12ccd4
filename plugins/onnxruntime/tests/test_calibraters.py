"""The same calibraters, used the way `quantize_static` uses them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest

pytest.importorskip("quantcore_backend_onnxruntime")

from onnxruntime.quantization import CalibrationMethod, QuantFormat, QuantType, quantize_static
from onnxruntime.quantization.calibrate import CalibrationDataReader
from quantcore_backend_onnxruntime.calibraters import Watch

from quantcore.calibration.driver import calibrate
from quantcore.contracts.registry import load_backend
from quantcore.errors import QuantcoreError
from quantcore.policy.policy import CalibrationPolicy, TensorPolicy
from quantcore.policy.profiles import MINIMAL
from quantcore.qdq.placement import plan
from quantcore.testing.models import Stream, images, small_detector


class Reader(CalibrationDataReader):
    def __init__(self, batches):
        self.batches = iter(batches)

    def get_next(self):
        batch = next(self.batches, None)
        return None if batch is None else {"images": batch}


def scales(path: Path) -> dict[str, float]:
    """Scale of each quantized activation."""
    graph = onnx.load(path).graph
    constants = {i.name: onnx.numpy_helper.to_array(i) for i in graph.initializer}
    return {
        node.input[0]: float(constants[node.input[1]])
        for node in graph.node
        if node.op_type == "QuantizeLinear" and node.input[0] not in constants
    }


@pytest.mark.parametrize(
    ("observer", "method"),
    [("max", CalibrationMethod.MinMax), ("entropy", CalibrationMethod.Entropy)],
)
def test_one_batch_gives_the_ranges_of_quantize_static(observer, method, tmp_path) -> None:
    model = small_detector()
    (tmp_path / "float.onnx").write_bytes(model.proto.SerializeToString())
    quantize_static(
        str(tmp_path / "float.onnx"),
        str(tmp_path / "q.onnx"),
        Reader([images(8)]),
        quant_format=QuantFormat.QDQ,
        activation_type=QuantType.QInt8,
        weight_type=QuantType.QInt8,
        op_types_to_quantize=["Conv", "ConvTranspose"],
        calibrate_method=method,
        extra_options={"ActivationSymmetric": True},
    )
    theirs = scales(tmp_path / "q.onnx")
    policy = CalibrationPolicy.from_dict(
        {"placement": "minimal", "activations": {"observer": observer}}
    )
    sites = plan(model, policy)
    with load_backend("onnxruntime").open(model) as session:
        found = calibrate(session, sites, [images(8)])
    shared = [s.tensor for s in sites.sites if s.role == "activation" and s.tensor in theirs]
    assert len(shared) >= 4
    for tensor in shared:
        assert found[tensor].amax == pytest.approx(theirs[tensor] * 127, rel=1e-6)


def test_parameters_reach_the_calibraters() -> None:
    found = {}
    for percentile in (99.0, 99.99):
        policy = CalibrationPolicy.from_dict(
            {
                "placement": "minimal",
                "activations": {
                    "observer": "percentile",
                    "percentile": percentile,
                    "bins": 4096,
                },
            }
        )
        with load_backend("onnxruntime").open(small_detector()) as session:
            found[percentile] = calibrate(session, plan(small_detector(), policy), Stream(8))
    assert found[99.0]["cat.out"].amax < found[99.99]["cat.out"].amax


def test_a_moving_average_forgets() -> None:
    found = {}
    for momentum in (0.0, 0.9):
        policy = CalibrationPolicy.from_dict(
            {
                "placement": "minimal",
                "activations": {"observer": "moving_average", "momentum": momentum},
            }
        )
        with load_backend("onnxruntime").open(small_detector()) as session:
            batches = [images(2), images(2) * np.float32(0.5)]
            found[momentum] = calibrate(session, plan(small_detector(), policy), batches)
    largest = float(np.abs(images(2)).max())
    assert found[0.0]["images"].amax == pytest.approx(largest * 0.5)
    assert found[0.9]["images"].amax == pytest.approx(largest * 0.95)


def test_what_a_calibrater_raises_names_its_tensors(monkeypatch) -> None:
    def fail(*_: object) -> None:
        raise ValueError("no bins")

    monkeypatch.setattr(Watch, "see", fail)
    sites = plan(small_detector(), CalibrationPolicy(activations=TensorPolicy(), placement=MINIMAL))
    with (
        load_backend("onnxruntime").open(small_detector()) as session,
        pytest.raises(QuantcoreError, match=r"max calibrater failed on .*'cat\.out'.*no bins"),
    ):
        calibrate(session, sites, Stream(4))
