"""The ranges are those of Model Optimizer's `quantize`, wherever it quantizes the same tensor."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

pytest.importorskip("quantcore_backend_modelopt")
pytest.importorskip("modelopt")

from modelopt.onnx.quantization import quantize
from onnxruntime.quantization import calibrate
from quantcore_backend_modelopt.calibrators import changed

from quantcore.calibration import driver
from quantcore.contracts.registry import load_backend
from quantcore.errors import BackendError
from quantcore.evaluation.decoding.boxes import DecodedBoxes
from quantcore.ir.model import FloatModel, Preprocessing
from quantcore.policy.policy import CalibrationPolicy
from quantcore.qdq.placement import plan
from quantcore.testing.models import Stream, images, small_detector


def wide() -> FloatModel:
    """Three convolutions with enough channels for Model Optimizer to quantize them."""
    rng = np.random.default_rng(0)
    nodes, constants, source = [], [], "images"
    for number, (out, into) in enumerate([(32, 3), (32, 32), (32, 32)]):
        weight = rng.standard_normal((out, into, 3, 3)).astype(np.float32) / 8
        constants.append(numpy_helper.from_array(weight, f"w{number}"))
        nodes.append(
            helper.make_node(
                "Conv", [source, f"w{number}"], [f"c{number}"], f"conv{number}", pads=[1] * 4
            )
        )
        nodes.append(helper.make_node("Relu", [f"c{number}"], [f"r{number}"], f"relu{number}"))
        source = f"r{number}"
    info = helper.make_tensor_value_info
    graph = helper.make_graph(
        nodes,
        "wide",
        [info("images", TensorProto.FLOAT, ["batch", 3, 32, 32])],
        [info(source, TensorProto.FLOAT, ["batch", 32, 32, 32])],
        constants,
    )
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    return FloatModel("wide", proto, Preprocessing((32, 32)), DecodedBoxes(), ("a",))


def theirs(model: FloatModel, method: str, batches, folder: Path) -> dict[str, float]:
    """amax by tensor, read back from the Q/DQ nodes that Model Optimizer writes."""
    (folder / "float.onnx").write_bytes(model.proto.SerializeToString())
    quantize(
        str(folder / "float.onnx"),
        calibration_data={"images": np.concatenate(batches)},
        calibration_method=method,
        calibration_eps=["cpu"],
        calibration_shapes=f"images:{len(batches[0])}x3x32x32",
        output_path=str(folder / "q.onnx"),
        high_precision_dtype="fp32",
    )
    graph = onnx.load(folder / "q.onnx").graph
    constants = {i.name: numpy_helper.to_array(i) for i in graph.initializer}
    constants |= {
        node.output[0]: numpy_helper.to_array(node.attribute[0].t)
        for node in graph.node
        if node.op_type == "Constant"
    }
    return {
        node.input[0]: float(constants[node.input[1]]) * 127
        for node in graph.node
        if node.op_type == "QuantizeLinear" and node.input[0] not in constants
    }


@pytest.mark.parametrize("observer", ["max", "entropy"])
def test_ranges_are_those_of_quantize(observer, tmp_path) -> None:
    model = wide()
    batches = [images(4, seed=s) * np.float32(1 + s) for s in range(3)]
    before = [dict(vars(place)) for place in (calibrate, calibrate.HistogramCollector)]
    expected = theirs(model, observer, batches, tmp_path)
    for place, kept in zip((calibrate, calibrate.HistogramCollector), before, strict=True):
        for name, value in kept.items():  # quantize leaves ONNX Runtime changed
            if not name.startswith("__") and vars(place).get(name) is not value:
                setattr(place, name, value)
    policy = CalibrationPolicy.from_dict(
        {"placement": "minimal", "activations": {"observer": observer}}
    )
    with load_backend("modelopt").open(model) as session:
        found = driver.calibrate(session, plan(model, policy), batches)
    shared = sorted(found.keys() & expected.keys())
    assert shared, (sorted(found), sorted(expected))
    for tensor in shared:
        assert found[tensor].amax == pytest.approx(expected[tensor], rel=1e-5), tensor


def test_onnx_runtime_is_left_as_it_was() -> None:
    collect = calibrate.HistogramCollector.collect_value
    create = calibrate.create_calibrator
    with changed():
        assert calibrate.HistogramCollector.collect_value is not collect
    assert calibrate.HistogramCollector.collect_value is collect
    assert calibrate.create_calibrator is create


def test_what_a_calibrator_raises_names_its_tensors(monkeypatch) -> None:
    from quantcore_backend_modelopt.calibrators import Watch

    def fail(*_: object) -> None:
        raise ValueError("no bins")

    monkeypatch.setattr(Watch, "see", fail)
    policy = CalibrationPolicy.from_dict(
        {"placement": "minimal", "activations": {"observer": "max"}}
    )
    with (
        load_backend("modelopt").open(small_detector()) as session,
        pytest.raises(BackendError, match=r"max calibrator failed on .*'cat\.out'.*no bins"),
    ):
        driver.calibrate(session, plan(small_detector(), policy), Stream(4))
