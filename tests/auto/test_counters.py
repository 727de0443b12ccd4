"""What INT8 gains in each layer, by the engine's own counters."""

import numpy as np
import pytest

from quantcore.ir.model import FloatModel
from quantcore.pipeline import Evaluation
from quantcore.policy.policy import CalibrationPolicy
from quantcore.policy.profiles import Profile
from quantcore.qdq.insertion import insert
from quantcore.qdq.placement import plan
from quantcore.runtime.executor import InProcess
from quantcore.runtime.jobs import Runtime
from quantcore.studies.auto import counters
from quantcore.studies.auto.counters import gains
from quantcore.studies.auto.timing import Runner


@pytest.mark.parametrize(("engine", "told"), [("openvino", True), ("onnxruntime", False)])
def test_every_layer_with_weights_is_told_where_the_engine_tells(
    net: FloatModel, table, monkeypatch: pytest.MonkeyPatch, engine: str, told: bool
) -> None:
    pytest.importorskip(engine)
    monkeypatch.setattr(counters, "RUNS", 3)
    options = Evaluation(engine).options
    sites = plan(net, CalibrationPolicy(placement=Profile.read("minimal")))
    quantized = insert(net, sites, table(net, sites)).proto
    runners = (Runner(engine, options, proto) for proto in (net.proto, quantized))
    found = gains(*runners, net, Runtime(InProcess()))
    weighted = {layer.name for layer in net.layers if layer.weights}
    assert found.keys() == (weighted if told else set())
    assert all(np.isfinite(gain.seconds) for gain in found.values())
