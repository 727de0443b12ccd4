"""What a comparison comes to: what to deploy, what that costs and gains, and why the rest is not.

A judgement of one variant goes by two questions. Is it fast: is its latency, measured in the same
turns as the float model's, shorter by more than the noise and by more than a small share? Is it
accurate: does it keep 99 % of the float model's figure, the bound of MLPerf Inference (Reddi et al.
2020, https://arxiv.org/abs/1911.02549)?
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from quantcore.results.audit import Int8Audit
from quantcore.results.estimate import Estimate

if TYPE_CHECKING:
    from quantcore.results.comparison import Variant

#: The share of the float model's main figure that INT8 may cost.
MAX_LOSS = 0.01

#: Gains in latency below this share are no reason to deploy another graph.
SMALL = 0.05


@dataclass(frozen=True, kw_only=True)
class Judgement:
    """One quantized variant against the float model on the same engine.

    Attributes:
        variant: Its name.
        accurate: Whether it loses no more than `MAX_LOSS`, as measured; None without labels.
        certain: Whether the interval of the loss lies on one side of that bound.
        fast: Whether it is clearly faster; None where that was not measured.
        why: Why it is not in INT8, or not faster, in words; empty where it is both.
    """

    variant: str
    accurate: bool | None
    certain: bool
    fast: bool | None
    why: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """The end of a comparison.

    Attributes:
        deploy: Name of the variant to deploy.
        file: Its graph, in the output folder.
        judgements: Of every quantized variant.
        lines: The verdict in words, a sentence or two each, the first of which says what to deploy.
    """

    deploy: str
    file: str
    judgements: tuple[Judgement, ...]
    lines: tuple[str, ...]


def verdict(floats: Sequence[Variant], variants: Sequence[Variant]) -> Verdict:
    """Judges the variants of a comparison.

    Args:
        floats: The float model on each engine.
        variants: Its quantized variants on each engine.
    """
    whole = min(floats, key=_p50)
    judged = {v.name: _judge(v) for v in variants}
    good = [v for v in variants if judged[v.name].accurate and judged[v.name].fast]
    # The float model may be faster on another engine than on the variant's own.
    better = [v for v in good if _p50(v) < _p50(whole) * (1 - SMALL)]
    best = _best(better) if better else whole
    lines = [_deployed(best, whole, judged) if better else _float(whole, variants, judged)]
    lines += _not_fast(variants, judged)
    lines += _not_accurate(variants, judged)
    return Verdict(
        deploy=best.name,
        file=best.artifacts["onnx"],
        judgements=tuple(judged.values()),
        lines=tuple(lines),
    )


def closest(floats: Sequence[Variant], variants: Sequence[Variant]) -> str | None:
    """Name of the variant to look at closer: what to deploy, or else what loses least."""
    if not variants:
        return None
    found = verdict(floats, variants).deploy
    if any(variant.name == found for variant in variants):
        return found
    return max(variants, key=lambda v: v.difference.value if v.difference else -math.inf).name


def _p50(variant: Variant) -> float:
    latency = variant.evaluated.latency
    return latency.p50_ms if latency else float("inf")


def _best(variants: Sequence[Variant]) -> Variant:
    """Of the variants that are not clearly slower than the fastest, the one that loses least."""
    fastest = min(variants, key=_p50)
    first = fastest.evaluated.latency
    equal = [
        v
        for v in variants
        if first and (own := v.evaluated.latency) and own.low_ms <= first.high_ms
    ]
    return max(equal or [fastest], key=lambda v: v.difference.value if v.difference else 0.0)


def _judge(variant: Variant) -> Judgement:
    lost = _lost(variant)
    ratio = variant.latency_ratio
    fast = None if ratio is None else ratio.high < 1 and ratio.value < 1 - SMALL
    return Judgement(
        variant=variant.name,
        accurate=None if lost is None else lost.value <= MAX_LOSS,
        certain=lost is not None and not lost.low < MAX_LOSS < lost.high,
        fast=fast,
        why=tuple(_why(variant.evaluated.int8, fast)),
    )


def _lost(variant: Variant) -> Estimate | None:
    """The share of the float model's figure that is lost; None without labels."""
    change, own = variant.difference, variant.evaluated.accuracy.main
    if change is None or own is None or own - change.value <= 0:
        return None
    whole = own - change.value
    return Estimate(-change.value / whole, -change.high / whole, -change.low / whole)


def _why(audit: Int8Audit | None, fast: bool | None) -> list[str]:
    """Why a graph is not in INT8, or is and gains nothing."""
    if audit is None or not audit.layers:
        return ["the graph quantizes no layer"] if audit is None else []
    total = len(audit.layers)
    if not audit.verified:
        return [f"the engine does not tell what {audit.unverified} of {total} layers run in"]
    reasons = Counter(layer.why for layer in audit.layers if layer.why)
    found = [
        f"{count} of {total} quantized layers do not run in INT8: {reason}"
        for reason, count in reasons.most_common()
    ]
    if not reasons and fast is False:
        gain = "which gains nothing that can be told from noise here"
        found = [f"all {total} quantized layers run in INT8, {gain}"]
    if fast is False and audit.caveat:
        found.append(audit.caveat)
    return found


def _deployed(best: Variant, whole: Variant, judged: dict[str, Judgement]) -> str:
    """What to deploy, and what it gains and costs."""
    own, same = best.evaluated, whole.evaluated.engine == best.evaluated.engine
    gain = f"{_p50(whole) / _p50(best):.1f} times as fast as {whole.name}"
    if same and best.latency_ratio:
        ratio = best.latency_ratio
        gain = (
            f"{1 / ratio.value:.1f} times as fast as the float model there "
            f"({1 / ratio.high:.1f} to {1 / ratio.low:.1f})"
        )
    smaller = whole.onnx_bytes / best.onnx_bytes
    cost = _cost(best)
    sure = (
        ""
        if judged[best.name].certain
        else (
            f"; on {own.accuracy.images} images it is not certain that this is within "
            f"{MAX_LOSS:.0%} of the float model: evaluate more before you rely on it"
        )
    )
    return (
        f"deploy {best.artifacts['onnx']} on {own.engine}: {_p50(whole):.1f} ms become "
        f"{_p50(best):.1f} ms, {gain}; the file is {smaller:.1f} times smaller; {cost}{sure}"
    )


def _cost(variant: Variant) -> str:
    change, title = variant.difference, variant.evaluated.metric.title
    if change is None:
        return f"what it costs in {title} is not known for want of labels"
    interval = f"{change.low:+.3f} to {change.high:+.3f}"
    if change.low <= 0 <= change.high:
        return f"{title} changes by {change.value:+.3f} ({interval}), no more than noise"
    return f"{title} changes by {change.value:+.3f} ({interval})"


def _float(whole: Variant, variants: Sequence[Variant], judged: dict[str, Judgement]) -> str:
    """Why the float model is what to deploy."""
    engine = whole.evaluated.engine
    if not variants:
        why = "nothing was quantized"
    elif all(judged[v.name].accurate is None for v in variants):
        why = "without labels nobody knows what INT8 loses"
    elif not any(judged[v.name].fast for v in variants):
        why = "no INT8 graph is faster than the float model here"
    elif any(judged[v.name].fast and judged[v.name].accurate for v in variants):
        why = f"what INT8 gains on its engine, the float model gains more on {engine}"
    else:
        why = f"what is faster loses more than {MAX_LOSS:.0%} of its accuracy"
    smaller = [v for v in variants if judged[v.name].accurate and v.onnx_bytes < whole.onnx_bytes]
    best = max(smaller, key=lambda v: whole.onnx_bytes / v.onnx_bytes, default=None)
    size = (
        f"; where only the file's size counts, {best.artifacts['onnx']} is "
        f"{whole.onnx_bytes / best.onnx_bytes:.1f} times smaller"
        if best
        else ""
    )
    return f"deploy {whole.artifacts['onnx']}, the float model, on {engine}: {why}{size}"


def _not_fast(variants: Sequence[Variant], judged: dict[str, Judgement]) -> list[str]:
    """Which variants are not in INT8 or not faster, and why; those of one reason together."""
    groups: dict[tuple[str, tuple[str, ...]], list[Variant]] = {}
    for variant in variants:
        found = judged[variant.name]
        if found.why:
            groups.setdefault((variant.evaluated.engine, found.why), []).append(variant)
    lines = []
    for (engine, why), alike in groups.items():
        names = ", ".join(v.title for v in alike)
        times = [v.latency_ratio.value for v in alike if v.latency_ratio]
        pace = ""
        if times:
            low, high = f"{min(times):.2f}", f"{max(times):.2f}"
            pace = f" ({low if low == high else f'{low} to {high}'} times the float model's time)"
        lines.append(f"{names} on {engine}{pace}: {'; '.join(why)}")
    return lines


def _not_accurate(variants: Sequence[Variant], judged: dict[str, Judgement]) -> list[str]:
    """Which variants lose too much, and what can be done."""
    bad = [v for v in variants if judged[v.name].accurate is False]
    if not bad:
        return []
    names = ", ".join(f"{v.name} ({_lost_share(v)})" for v in bad)
    return [
        f"more than {MAX_LOSS:.0%} of {bad[0].evaluated.metric.title} lost by {names}: leave the "
        "layers that cost most in float (--mixed), give channels like ranges (--equalize), or "
        "train with the quantizers in place (quantcore qat)"
    ]


def _lost_share(variant: Variant) -> str:
    lost = _lost(variant)
    return f"{lost.value:.1%}" if lost else "-"
