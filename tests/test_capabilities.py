"""What backends are asked for against what they declare."""

from __future__ import annotations

import pytest

from quantcore.backend import Capabilities, check_capabilities
from quantcore.errors import CapabilityError

NATIVE = Capabilities(
    {"max": frozenset()}, {"max": frozenset(), "mse": frozenset()}, bits=frozenset({8})
)


def test_weights_by_max_have_one_range_at_every_width(net, planned) -> None:
    activations = {"observer": "max"}
    seven = planned(net, activations=activations, weights={"observer": "max", "bits": 7})
    check_capabilities("acme", NATIVE, seven)
    other = planned(net, activations=activations, weights={"observer": "mse", "bits": 7})
    with pytest.raises(CapabilityError, match=r"backend 'acme' has no 7 bits; it has 8 \(weight "):
        check_capabilities("acme", NATIVE, other)
