"""The search in words: each recipe as it is tried, and the end."""

from __future__ import annotations

import math
from dataclasses import replace

from quantcore.report.terminal import estimate
from quantcore.results.auto import AutoRecord, Rival, Tried
from quantcore.results.latency import QUIET
from quantcore.results.metric import Metric


def rival(found: Rival, metric: Metric) -> str:
    """A float network, as it is met."""
    line = f"{found.name}: {found.ms:.1f} ms"
    if found.lost.value:
        line += f", {metric.kept} lost {estimate(found.lost, 4)}"
    return line if found.counts else f"{line}; it loses more than is asked, so it does not count"


def tried(found: Tried, metric: Metric) -> str:
    """A recipe, as it is tried."""
    ends = []
    if not found.accurate:
        ends.append("may lose too much")
    if not found.fast:
        ends.append("too slow")
    return (
        f"{found.rung}: {found.name} on {found.engine}: {metric.kept} lost "
        f"{estimate(found.lost, 4)}, {metric.title} against float "
        f"{estimate(-found.drop, 4, '+')}, believed {-found.belief.drop:+.4f} "
        f"± {found.belief.deviation:.4f}; "
        f"{found.ms:.1f} ms, {estimate(found.speedup, 2)} times as fast; "
        + (" and ".join(ends) or "meets both")
    )


def told(record: AutoRecord) -> AutoRecord:
    """The record with its verdict: whether both targets are met where nothing was chosen."""
    unseen, asked = record.unseen, record.asked
    accurate = not unseen.drop.value > asked.max_drop  # without labels there is nothing to measure
    fast = record.speedup.value >= asked.min_speedup
    lines = [_worth(record), _certainty(record), _selection(record), _images(record)]
    others = unseen.others or 0.0
    if others > QUIET:
        lines.append(
            f"other processes used {others:.0%} of the machine's cores while it was timed; times "
            "in turns suffer alike, but measure again on an idle machine before you quote them"
        )
    if not (accurate and fast):
        lines = [_missed(record, accurate, fast), *lines, *_help(record, accurate, fast)]
    return replace(record, met=accurate and fast, verdict=tuple(line for line in lines if line))


def _worth(record: AutoRecord) -> str:
    """What the chosen recipe is worth, in one sentence."""
    best, unseen, metric = record.best, record.unseen, record.metric
    speeds = ", ".join(f"{s.value:.2f} times as fast as {n}" for n, s in unseen.speedups.items())
    measured = (
        f"loses {unseen.drop.value:.4f} ({unseen.drop.low:+.4f} to {unseen.drop.high:+.4f}) of "
        f"{metric.title} and "
        if math.isfinite(unseen.drop.value)
        else "loses "
    )
    return (
        f"{best.name}, on {best.engine}: {measured}{unseen.lost.value:.4f} of the {metric.kept} on "
        f"{unseen.images} images that nothing was chosen on; {speeds}; {unseen.int8[0]} of "
        f"{unseen.int8[1]} quantized layers in INT8"
    )


def _certainty(record: AutoRecord) -> str:
    """What the images at the end can promise."""
    drop, asked = record.unseen.drop, record.asked.max_drop
    if not math.isfinite(drop.value) or drop.high <= asked:
        return ""
    return (
        f"{record.unseen.images} images can promise no more than {drop.high:.4f}; to promise "
        f"{asked:g} takes more of them"
    )


def _selection(record: AutoRecord) -> str:
    """That the figure of the choice was chosen, and what that is worth."""
    best, count = record.best, len(record.tried)
    if count < 2:
        return ""
    luck = f"about {record.optimism:.4f} too good for that; "
    return (
        f"it was chosen among {count} by {len(record.images.choosing)} images, where it was "
        f"believed to lose {best.belief.drop:.4f} (a selected figure, {luck}measured there "
        f"{best.drop.value:+.4f})"
    )


def _images(record: AutoRecord) -> str:
    """What the delivered network was calibrated on."""
    images = record.images
    count, split = len(images.delivered), images.split
    if count > len(images.calibrating):
        return (
            f"then calibrated anew on all {count} images of both parts of {split}, and judged; "
            f"the table of recipes is of {len(images.calibrating)}"
        )
    return f"calibrated on {count} images of {split}, as it was chosen"


def _missed(record: AutoRecord, accurate: bool, fast: bool) -> str:
    asked, metric = record.asked, record.metric
    parts = []
    if not accurate:
        over = record.unseen.drop.value - asked.max_drop
        parts.append(f"{metric.title} falls by {over:.4f} more than {asked.max_drop:g}")
    if not fast:
        parts.append(
            f"it is {record.speedup.value:.2f} times as fast as the fastest float network, asked "
            f"were {asked.min_speedup:g}"
        )
    return f"NOT met: {', and '.join(parts)}; the nearest:"


def _help(record: AutoRecord, accurate: bool, fast: bool) -> list[str]:
    """What would help, as far as it is known."""
    found = []
    float_layers = [f"{node} ({why})" for node, why in list(record.unseen.not_int8.items())[:3]]
    if not fast and float_layers:
        more = len(record.unseen.not_int8) - len(float_layers)
        rest = f" and {more} more" if more else ""
        found.append(f"not in INT8: {'; '.join(float_layers)}{rest}")
    if not fast:
        found.append(
            "what could help: another engine (--engine), a GPU, a larger network, on which INT8 "
            "gains more; or deploy the float network"
        )
    if not accurate:
        ways = [f"the rung {rung} ({why})" for rung, why in record.skipped.items()]
        tips = [*ways, "more images in the calibration split", "a longer training (--steps)"]
        found.append(f"what could help: {', '.join(tips)}")
    return found
