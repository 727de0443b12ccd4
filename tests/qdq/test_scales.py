"""Scales and codes against plain arithmetic, and against ONNX's own QuantizeLinear."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from onnx import TensorProto, helper

from quantcore.contracts.engine import EngineOptions
from quantcore.engines.onnxruntime import OnnxRuntimeEngine
from quantcore.errors import RangeError
from quantcore.policy.code import Code
from quantcore.qdq.scales import affine_scale, exact_amax, quantize, symmetric_scale
from quantcore.table.table import TensorRange

AMAX = st.floats(2.0**-60, 2.0**60, width=32)
VALUES = arrays(np.float32, st.integers(1, 40), elements=st.floats(-(2.0**70), 2.0**70, width=32))
BITS = st.integers(2, 8)


def rounded(exact: Fraction) -> np.float32:
    """The float32 that is nearest to a fraction; ties go to the even significand."""
    guess = np.float32(float(exact))
    near = [np.nextafter(guess, np.float32(d)) for d in (-np.inf, np.inf)] + [guess]
    return min(near, key=lambda f: (abs(Fraction(float(f)) - exact), int(f.view(np.int32)) & 1))


@given(AMAX, BITS)
def test_a_scale_is_the_nearest_float32_to_amax_over_the_largest_code(
    amax: float, bits: int
) -> None:
    scale = symmetric_scale(TensorRange.symmetric("activation", amax), Code(bits=bits))
    assert scale.dtype == np.float32
    assert scale.shape == ()
    assert scale == rounded(Fraction(amax) / (2 ** (bits - 1) - 1))


@given(st.lists(AMAX | st.just(0.0), min_size=1, max_size=6))
def test_each_channel_has_the_scale_it_would_have_alone(amax: list[float]) -> None:
    many = symmetric_scale(TensorRange.symmetric("weight", amax, 0))
    alone = [symmetric_scale(TensorRange.symmetric("weight", a)) for a in amax]
    np.testing.assert_array_equal(many, np.array(alone, np.float32))


def test_a_range_of_zero_has_scale_one() -> None:
    assert symmetric_scale(TensorRange.symmetric("activation", 0.0)) == 1
    scale = symmetric_scale(TensorRange.symmetric("weight", [0.0, 127.0], 0))
    np.testing.assert_array_equal(scale, [1, 1])
    codes = quantize(np.zeros((2, 3), np.float32), scale, 0)
    assert not codes.any()


def test_a_lopsided_range_is_widened_to_be_symmetric() -> None:
    assert symmetric_scale(TensorRange("activation", -254.0, 3.0)) == 2


@pytest.mark.parametrize("amax", [1e-45, 1e39, 1.7e308])
def test_a_range_without_a_float32_scale_is_refused(amax: float) -> None:
    with pytest.raises(RangeError, match="no float32 scale"), np.errstate(over="ignore"):
        symmetric_scale(TensorRange.symmetric("activation", amax))


def test_a_range_below_float32_is_not_taken_for_zero() -> None:
    # 1e-60 is zero in float32, and yet not a constant zero.
    with pytest.raises(RangeError, match="no float32 scale"):
        symmetric_scale(TensorRange.symmetric("activation", 1e-60))


def test_a_range_with_blocks_has_no_scale_yet() -> None:
    found = TensorRange("weight", (-1.0, -2.0), (1.0, 2.0), 0, 32)
    for scale_of in (symmetric_scale, affine_scale, exact_amax):
        with pytest.raises(RangeError, match="blocks of 32 along axis 0, which are not written"):
            scale_of(found)


@given(VALUES, st.floats(2.0**-40, 2.0**60, width=32), BITS)
def test_codes_are_the_quotients_rounded_half_to_even_and_saturated(
    values: np.ndarray, amax: float, bits: int
) -> None:
    scale = symmetric_scale(TensorRange.symmetric("activation", amax), Code(bits=bits))
    limit = 2 ** (bits - 1)
    expected = []
    for value in values:
        quotient = rounded(Fraction(float(value)) / Fraction(float(scale)))
        # Python's round of a Fraction is half to even.
        expected.append(max(-limit, min(limit - 1, round(Fraction(float(quotient))))))
    codes = quantize(values, scale, code=Code(bits=bits))
    assert codes.dtype == np.int8
    assert codes.tolist() == expected


def test_halves_go_to_even_and_ends_saturate() -> None:
    values = np.array([0.5, 1.5, 2.5, -0.5, -1.5, 126.5, 127.5, 1e9, -128.5, -129, -1e9], "f4")
    codes = quantize(values, np.float32(1)).tolist()
    assert codes == [0, 2, 2, 0, -2, 126, 127, 127, -128, -128, -128]


def _engine(axis: int | None, shape: tuple[int, ...], scale: np.ndarray, values: np.ndarray):
    attributes = {} if axis is None else {"axis": axis}
    node = helper.make_node("QuantizeLinear", ["x", "s", "z"], ["y"], name="q", **attributes)
    zero = np.zeros(scale.shape, np.int8)
    graph = helper.make_graph(
        [node],
        "q",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("y", TensorProto.INT8, None)],
        [
            helper.make_tensor("s", TensorProto.FLOAT, scale.shape, scale.reshape(-1)),
            helper.make_tensor("z", TensorProto.INT8, zero.shape, zero.reshape(-1)),
        ],
    )
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    with OnnxRuntimeEngine("onnxruntime").build(proto, EngineOptions(exact=True)) as engine:
        return engine.infer(values)["y"]


@pytest.mark.parametrize("seed", range(4))
def test_codes_equal_those_of_onnx_runtime(seed: int) -> None:
    rng = np.random.default_rng(seed)
    scale = symmetric_scale(TensorRange.symmetric("activation", float(rng.random() * 10)))
    values = (rng.standard_normal(4096) * 6).astype(np.float32)
    # Exact halves, neighbours of halves, and far out of range.
    halves = ((np.arange(-300, 300) + 0.5) * float(scale)).astype(np.float32)
    beside = [np.nextafter(halves, np.float32(d)) for d in (-np.inf, np.inf)]
    values = np.concatenate([values, halves, *beside, [1e30, -1e30, 0.0, -0.0]]).astype(np.float32)
    np.testing.assert_array_equal(
        quantize(values, scale), _engine(None, values.shape, scale, values)
    )


@pytest.mark.parametrize("axis", [0, 1, 2, 3])
def test_codes_per_channel_equal_those_of_onnx_runtime(axis: int) -> None:
    rng = np.random.default_rng(axis)
    values = rng.standard_normal((3, 4, 5, 6)).astype(np.float32)
    rest = tuple(i for i in range(4) if i != axis)
    amax = np.abs(values).max(axis=rest)
    scale = symmetric_scale(TensorRange.symmetric("weight", amax, axis))
    codes = quantize(values, scale, axis)
    np.testing.assert_array_equal(codes, _engine(axis, values.shape, scale, values))
    # Every channel reaches its own end, and none saturates at -128.
    assert (np.abs(codes.astype(int)).max(axis=rest) == 127).all()
