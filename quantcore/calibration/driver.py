"""Finding ranges: what a session is asked for, and what is made of its answers."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import closing
from dataclasses import replace
from functools import partial

from quantcore.calibration.portable import (
    ActivationStatistics,
    activation_ranges,
    weight_ranges,
)
from quantcore.contracts.capabilities import check_capabilities, check_shows_activations
from quantcore.contracts.front import whole
from quantcore.contracts.session import BackendSession
from quantcore.errors import CapabilityError
from quantcore.ir.model import Array
from quantcore.policy.policy import TensorPolicy
from quantcore.qdq.placement import Plan
from quantcore.qdq.ranges import check_range
from quantcore.runtime.progress import Progress, Silent
from quantcore.table.kept import KeptHistograms
from quantcore.table.table import TensorRange


def calibrate(
    session: BackendSession,
    plan: Plan,
    batches: Iterable[Array],
    progress: Progress | None = None,
) -> dict[str, TensorRange]:
    """Watches the images and returns a range for every site of the plan.

    Args:
        session: A model, open in a backend.
        plan: What to observe; from `quantcore.qdq.placement.plan`.
        batches: Network inputs, B x 3 x H x W; read once, in order.
        progress: Where long work reports.

    Raises:
        QuantcoreError: As `find_ranges`.
    """
    ((found,), _) = find_ranges(session, (plan,), batches, progress=progress)
    return found


def find_ranges(
    session: BackendSession,
    plans: Sequence[Plan],
    batches: Iterable[Array],
    keep: bool = False,
    progress: Progress | None = None,
) -> tuple[list[dict[str, TensorRange]], KeptHistograms | None]:
    """The ranges of each plan, and what is kept beside them.

    Args:
        session: A model, open in a backend, in the plans' arithmetic.
        plans: One, or several portable ones with the same activations and arithmetic.
        batches: Network inputs, B x 3 x H x W; read once, a native plan with `keep` twice.
        keep: Whether to keep statistics for later observers.
        progress: Where long work reports.

    Raises:
        CapabilityError: A plan asks for what the backend or the session has not; no image was
            read.
        PolicyError: A policy that the portable observers cannot follow; no image was read.
        RangeError: A range is NaN, infinite or not positive; names tensor and layers.
        BackendError: The framework failed.
    """
    progress = progress or Silent()
    for plan in plans:
        _check(session, plan)
    if keep or len(plans) > 1:
        check_shows_activations(session.name, session.capabilities)
    if plans[0].implementation == "native":
        return _native(session, plans[0], batches, keep, progress)
    return _portable(session, plans, batches, keep, progress)


def _native(
    session: BackendSession, plan: Plan, batches: Iterable[Array], keep: bool, progress: Progress
) -> tuple[list[dict[str, TensorRange]], KeptHistograms | None]:
    with closing(progress.track(batches, f"{session.name}: calibrating")) as watched:
        found = session.observe(plan.sites, watched, progress)
    if not keep:
        return [found], None
    with closing(progress.track(batches, f"{session.name}: collecting")) as watched:
        seen = collect(session, [_bare(plan)], watched, keep)
    return [found], _kept(session, seen)


def _portable(
    session: BackendSession,
    plans: Sequence[Plan],
    batches: Iterable[Array],
    keep: bool,
    progress: Progress,
) -> tuple[list[dict[str, TensorRange]], KeptHistograms | None]:
    # Weights first, so that what is wrong with them is said before an image is read.
    weights = [weight_ranges(plan, session.model) for plan in plans]
    doing = "collecting" if keep or len(plans) > 1 else "calibrating"
    with closing(progress.track(batches, f"{session.name}: {doing}")) as watched:
        seen = collect(session, plans, watched, keep)
    ranges = []
    for plan, known in zip(plans, weights, strict=True):
        found = {**known, **activation_ranges(plan, seen)}
        for site in plan.sites:
            check_range(site, found[site.tensor], session.model, plan.implementation)
        ranges.append({site.tensor: found[site.tensor] for site in plan.sites})
    return ranges, _kept(session, seen) if keep else None


def collect(
    session: BackendSession,
    plans: Sequence[Plan],
    batches: Iterable[Array],
    keep: bool = False,
) -> ActivationStatistics:
    """Watches the float network once for the portable observers of several plans.

    Args:
        session: A model, open in a backend.
        plans: Of one model, with the same activations; their implementation does not matter.
        batches: As in `find_ranges`.
        keep: Keeps what any observer needs, not only those of the plans.

    Raises:
        CapabilityError: The backend cannot show its activations; no image was read.
        PolicyError: A policy that the portable observers cannot follow; no image was read.
        RangeError: NaN or infinite; names tensor, layers and image.
    """
    from quantcore.calibration.collector import Collector  # late: imports numba

    extra = [s.policy for plan in plans[1:] for s in plan.sites if s.role == "activation"]
    collector = Collector(plans[0].sites, dict.fromkeys(extra), keep)
    images = 0
    for batch in batches:
        see = partial(collector.see, image=images)
        session.watch(batch, {tensor: partial(see, tensor) for tensor in collector.sites})
        images += len(batch)
    return collector.seen


def _check(session: BackendSession, plan: Plan) -> None:
    """Refuses a plan that the session is not open for."""
    check_capabilities(session.name, session.capabilities, plan)
    computes = session.options.arithmetic
    if plan.arithmetic != computes:
        raise CapabilityError(
            f"backend {session.name!r}: the policy calibrates in {plan.arithmetic}, this session "
            f"computes in {computes}; open it with SessionOptions(arithmetic={plan.arithmetic!r})"
        )


def _bare(plan: Plan) -> Plan:
    """The plan with observers that read nothing but extremes: native ones have other parameters."""
    sites = (replace(s, policy=TensorPolicy("max")) for s in plan.sites if s.role == "activation")
    return replace(plan, sites=tuple(sites))


def _kept(session: BackendSession, seen: ActivationStatistics) -> KeptHistograms:
    kept = {name: tuple(found) for name, found in seen.items()}
    return KeptHistograms.of(whole(session.model), kept)
