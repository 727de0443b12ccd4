"""Policies that differ only in which layers stay in float."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import replace
from glob import escape

from quantcore.ir.model import FloatModel
from quantcore.policy.policy import CalibrationPolicy, LayerRule
from quantcore.qdq.placement import plan


def quantized_layers(model: FloatModel, policy: CalibrationPolicy) -> tuple[str, ...]:
    """Names of the layers that a policy quantizes, in graph order."""
    return tuple(d.layer for d in plan(model, policy).decisions if d.quantized)


def keeping(policy: CalibrationPolicy, layers: Collection[str]) -> CalibrationPolicy:
    """The policy with some layers left in float.

    The rules come first, since the first rule that matches wins; names are taken literally.
    """
    rules = tuple(LayerRule(escape(name), quantize=False) for name in layers)
    return replace(policy, layers=(*rules, *policy.layers))


def alone(policy: CalibrationPolicy, quantized: Iterable[str], layer: str) -> CalibrationPolicy:
    """The policy that quantizes one of the layers that the given policy does, and as it does."""
    return keeping(policy, [name for name in quantized if name != layer])
