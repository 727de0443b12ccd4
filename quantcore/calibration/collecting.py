"""The ranges that plans ask for, in as few passes over the data as their implementation allows."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

from quantcore.calibration.portable import Seen, activation_ranges, weight_ranges
from quantcore.contracts.backend import BackendSession
from quantcore.ir.model import Array
from quantcore.policy.policy import TensorPolicy
from quantcore.qdq.placement import Plan
from quantcore.table.kept import Kept
from quantcore.table.table import TensorRange


def find_ranges(
    session: BackendSession, plans: Sequence[Plan], batches: Iterable[Array], keep: bool
) -> tuple[list[Mapping[str, TensorRange]], Kept | None]:
    """The ranges of each plan, and what is kept beside them.

    Args:
        session: A model, open in a backend.
        plans: One, or several portable ones with the same activations.
        batches: Network inputs, B x 3 x H x W; read once, a native plan with `keep` twice.
        keep: Whether to keep statistics for later observers.

    Raises:
        QuantcoreError: As `BackendSession.calibrate` and `collect`.
    """
    if plans[0].implementation == "native":
        ranges = session.calibrate(plans[0], batches)
        if not keep:
            return [ranges], None
        seen = session.collect([_bare(plans[0])], batches, keep)
        return [ranges], _kept(session, seen)
    if len(plans) == 1 and not keep:
        return [session.calibrate(plans[0], batches)], None
    weights = [weight_ranges(plan, session.model) for plan in plans]  # refused before an image
    seen = session.collect(plans, batches, keep)
    found: list[Mapping[str, TensorRange]] = []
    for plan, known in zip(plans, weights, strict=True):
        known = {**known, **activation_ranges(plan, seen)}
        found.append({site.tensor: known[site.tensor] for site in plan.sites})
    return found, _kept(session, seen) if keep else None


def _bare(plan: Plan) -> Plan:
    """The plan with observers that read nothing but extremes: native ones have other parameters."""
    sites = (replace(s, policy=TensorPolicy("max")) for s in plan.sites if s.role == "activation")
    return replace(plan, sites=tuple(sites))


def _kept(session: BackendSession, seen: Seen) -> Kept:
    return Kept.of(session.model, {name: tuple(found) for name, found in seen.items()})
