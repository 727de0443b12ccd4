"""Fewer bits and zero points: the graph codes as the policy says, from 2 bits to 8."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import helper

from quantcore.contracts.engine import EngineOptions
from quantcore.contracts.registry import load_engine
from quantcore.errors import CapabilityError, PolicyError, RangeError
from quantcore.policy.code import Code
from quantcore.policy.policy import CalibrationPolicy, TensorPolicy
from quantcore.policy.profiles import Profile
from quantcore.qdq.insertion import insert
from quantcore.qdq.placement import plan
from quantcore.qdq.precision import with_precision
from quantcore.qdq.scales import affine_scale, code_of, codes_of, symmetric_scale
from quantcore.qdq.verify import check
from quantcore.table.table import CalibrationTable, Provenance, TensorRange

CODES = [(bits, symmetric) for bits in range(2, 9) for symmetric in (True, False)]


@pytest.fixture
def identity(build):
    """A convolution that passes each channel on, so that its output is what Q and DQ made."""
    node = helper.make_node("Conv", ["images", "w"], ["y"], "conv")
    return build([node], {"w": np.eye(3, dtype=np.float32).reshape(3, 3, 1, 1)}, size=8)


def policy(bits, symmetric, **more):
    keys = {"activations": {"observer": "max", "bits": bits, "symmetric": symmetric}}
    if not symmetric:
        keys["placement"] = "onnxruntime"
    return CalibrationPolicy.from_dict(
        {"placement": "minimal", "implementation": "portable", **keys, **more}
    )


def written(model, wanted, low, high):
    sites = plan(model, wanted)
    ranges = {
        s.tensor: TensorRange("activation", low, high)
        if s.role == "activation"
        else TensorRange.symmetric("weight", np.ones(3), 0)
        for s in sites.sites
    }
    provenance = Provenance(model.name, model.fingerprint, "x")
    return insert(model, sites, CalibrationTable(ranges, provenance)).proto


def steps(values, low, high, bits, symmetric):
    """Q and DQ spelled out: half to even, saturated at the codes that the bits give."""
    if symmetric:
        scale, zero = np.float32(np.float32(high) / np.float32(2 ** (bits - 1) - 1)), 0
        bottom = -(2 ** (bits - 1))
    else:
        scale = np.float32((high - low) / (2**bits - 1))
        zero, bottom = np.rint(-low / np.float64(scale)), 0
    codes = np.clip(np.rint(values / scale) + zero, bottom, bottom + 2**bits - 1)
    return ((codes - zero) * scale).astype(np.float32)


@pytest.mark.parametrize("exact", [True, False])
@pytest.mark.parametrize(("bits", "symmetric"), CODES)
def test_activations_take_the_codes_of_their_bits(identity, bits, symmetric, exact):
    low, high = (-1.5, 1.5) if symmetric else (-0.4, 1.5)
    graph = written(identity, policy(bits, symmetric), low, high)
    values = np.random.default_rng(bits).uniform(-4, 4, (4, 3, 8, 8)).astype(np.float32)
    values[0, 0] = np.linspace(low, high, 64).reshape(8, 8)
    values[0, 1, 0] = [0, -0.0, 1e30, -1e30, 1e-30, low, high, 0.5]
    with load_engine("onnxruntime").build(graph, EngineOptions(threads=1, exact=exact)) as engine:
        found = engine.infer(values)["y"]
    wanted = steps(values, low, high, bits, symmetric)
    if exact:
        np.testing.assert_allclose(found, wanted, rtol=1e-6)
    else:  # integer kernels may put a value on a tie to either side
        assert (np.abs(found - wanted) < 1e-5).mean() > 0.99
    codes = {node.op_type for node in graph.graph.node}
    assert ("Clip" in codes) is (bits < 8)
    kinds = [i.data_type for i in graph.graph.initializer if i.name == "images.zero_point"]
    assert kinds == [onnx.TensorProto.INT8 if symmetric else onnx.TensorProto.UINT8]
    assert len(np.unique(wanted)) <= 2**bits


@pytest.mark.parametrize(("bits", "symmetric"), [(4, True), (3, False), (8, False)])
def test_the_rest_can_be_fp16(identity, bits, symmetric):
    wanted = policy(bits, symmetric)
    low = -1.5 if symmetric else -0.4
    proto = written(identity, wanted, low, 1.5)
    half = with_precision(identity, proto, wanted, "int8+fp16").proto
    values = np.random.default_rng(0).uniform(-4, 4, (1, 3, 8, 8)).astype(np.float32)
    with load_engine("onnxruntime").build(half, EngineOptions(threads=1)) as engine:
        found = engine.infer(values)["y"]
    close = np.abs(
        found - steps(values, *((-1.5, 1.5) if symmetric else (-0.4, 1.5)), bits, symmetric)
    )
    assert (close < 0.01).mean() > 0.98


def test_fewer_bits_keep_the_rules_of_tensorrt(net, table):
    wanted = CalibrationPolicy.from_dict(
        {"activations": {"bits": 4}, "weights": {"bits": 6}, "placement": "tensorrt"}
    )
    sites = plan(net, wanted)
    proto = insert(net, sites, table(net, sites)).proto
    assert sum(node.op_type == "Clip" for node in proto.graph.node) == sum(
        s.role == "activation" for s in sites.sites
    )
    assert not check(proto, "tensorrt")


def test_tensors_of_one_scale_have_one_code(net):
    rules = [
        {"match": "m.6", "quantize": True},
        {"match": "tensor:t4", "activations": {"observer": "max", "bits": 4}},
    ]
    with pytest.raises(PolicyError, match=r"'t2' and 't4' are to have one scale"):
        plan(net, policy(8, True, layers=rules, placement="onnxruntime"))


def test_a_profile_of_ones_own_says_whether_zero_points_are_taken(net):
    own = {"name": "mine", "rules": [], "extends": "minimal", "zero_points": True}
    assert plan(net, policy(8, False, placement=own)).sites
    assert Profile.read(Profile.read(own).to_dict()) == Profile.read(own)
    assert Profile.read({"name": "x", "extends": "onnxruntime"}).zero_points
    with pytest.raises(PolicyError, match="zero_points must be true or false"):
        Profile.read({**own, "zero_points": 1})


def test_a_framework_without_affine_codes_does_not_simulate_them(net, node_session, table):
    sites = plan(net, policy(8, False))
    with node_session(net) as session, pytest.raises(CapabilityError, match="symmetric codes"):
        session.simulation(sites, table(net, sites).tensors)


@given(st.floats(-1e6, 1e6, width=32), st.floats(-1e6, 1e6, width=32), st.integers(2, 8))
def test_affine_codes_hold_the_range_and_zero(a, b, bits):
    low, high = sorted((a, b))
    if 0 < max(high, 0) - min(low, 0) < 1e-30:
        return
    found = TensorRange("activation", low, high)
    scale, zero = affine_scale(found, Code(bits=bits))
    assert scale > 0
    assert 0 <= zero <= 2**bits - 1
    step = float(scale)
    assert (0 - zero) * step <= min(low, 0) + step
    assert (2**bits - 1 - zero) * step >= max(high, 0) - step
    both = code_of(found, TensorPolicy("max", code=Code(bits=bits), symmetric=False))
    assert (both[0], both[1]) == (scale, zero)


def test_code_of_is_the_symmetric_scale_where_the_policy_is():
    found = TensorRange("activation", -3.0, 1.0)
    scale, zero = code_of(found, TensorPolicy("max", code=Code(bits=5)))
    assert (scale, zero) == (symmetric_scale(found, Code(bits=5)), 0)
    assert codes_of(TensorPolicy("max", code=Code(bits=5))) == (-16, 15)
    assert codes_of(TensorPolicy("max", code=Code(bits=5), symmetric=False)) == (0, 31)
    assert affine_scale(TensorRange("activation", 0.0, 0.0)) == (1, 0)
    for high in (1e-44, 1e300):
        with pytest.raises(RangeError, match="no float32 scale"):
            affine_scale(TensorRange("activation", 0.0, high))
