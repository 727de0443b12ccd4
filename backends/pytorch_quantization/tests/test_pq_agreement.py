"""Every operator in random forms, held to ONNX Runtime in float32 and float64."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from quantcore_pytorch_quantization.operators import FUNCTIONS, WEIGHTED

from quantcore.testing.operators import CASES, Pick, hold_to_reference


class Drawn(Pick):
    """Chooses by what hypothesis draws, so that a failure shrinks."""

    def __init__(self, data: Any) -> None:
        self._data = data

    def whole(self, low: int, high: int) -> int:
        return self._data.draw(st.integers(low, high))


def test_every_operator_is_tried_here_and_declared(backend) -> None:
    known = FUNCTIONS.keys() | WEIGHTED.keys()
    assert known <= CASES.keys()
    assert known == backend.capabilities.operators


@pytest.mark.parametrize("arithmetic", ["float32", "float64"])
@pytest.mark.parametrize("op", sorted(FUNCTIONS.keys() | WEIGHTED.keys()))
@settings(max_examples=6, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_an_operator_agrees_with_onnx_runtime(backend, op: str, arithmetic: str, data) -> None:
    hold_to_reference(backend, CASES[op](Drawn(data)), arithmetic)
