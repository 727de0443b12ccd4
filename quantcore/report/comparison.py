"""A comparison on the terminal: a row for each variant, what to know about them, the verdict."""

from __future__ import annotations

from rich.box import SIMPLE_HEAD
from rich.table import Table

from quantcore.report.terminal import estimate, figure, intervals, load
from quantcore.results.audit import Int8Audit
from quantcore.results.comparison import RunRecord, Variant
from quantcore.results.estimate import Neighbours


def tables(record: RunRecord) -> list[Table]:
    """What variants find and how fast, and what it took to make them."""
    return [_found(record), _made(record)]


def _found(record: RunRecord) -> Table:
    """A row for each variant, those of an engine together: they are what is compared."""
    metric = record.floats[0].evaluated.metric
    table = _table(f"{record.model}, float and quantized")
    table.add_column("variant")
    for column in (metric.title, "against float", "ms", "time / float's", "in INT8"):
        table.add_column(column, justify="right", no_wrap=True)
    variants = (*record.floats, *record.variants)
    for engine in dict.fromkeys(v.evaluated.engine for v in variants):
        here = [v for v in variants if v.evaluated.engine == engine]
        table.add_section()
        table.add_row(_place(engine, here[0]))
        for variant in here:
            latency = variant.evaluated.latency
            table.add_row(
                f"  {variant.title}",
                figure(variant.evaluated.accuracy.main),
                estimate(variant.difference, sign="+"),
                figure(latency.p50_ms if latency else None, 1),
                estimate(variant.latency_ratio, 2),
                _int8(variant.evaluated.int8),
            )
    known = next((v.difference for v in variants if v.difference), None)
    if known is not None:
        table.caption = (
            f"in brackets: {intervals(known)}, the same ones for float and INT8, and of the turns "
            "in which both were timed; ms: median for one image; in INT8: of the quantized layers"
        )
        table.caption_justify = "left"
    return table


def _table(title: str) -> Table:
    return Table(
        title=title, title_justify="left", box=SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0)
    )


def _place(engine: str, variant: Variant) -> str:
    where = variant.evaluated.runs_on
    plain = ("", "CPU", "CPUExecutionProvider")
    return engine if where in plain else f"{engine}, {where}"


def _made(record: RunRecord) -> Table:
    """A row for each graph; engines have no part in these figures."""
    table = _table("what it took")
    table.add_column("graph")
    made = {v.title: v for v in reversed((*record.floats, *record.variants))}
    rows = {title: _effort(made[title]) for title in reversed(made)}
    # What is told of no graph is left out.
    columns = [c for c in _EFFORT if any(row[c] != "-" for row in rows.values())]
    for column in columns:
        table.add_column(column, justify="right")
    for title, row in rows.items():
        table.add_row(title, *(row[column] for column in columns))
    return table


_EFFORT = (
    "calibration, s",
    "memory, MB",
    "file, MB",
    "MACs in quantized layers",
    "layers left in float",
    "mean of similar graphs",
    "ms on the device",
)


def _effort(variant: Variant) -> dict[str, str]:
    latency, left, quantized = variant.evaluated.latency, variant.left, variant.backend is not None
    missed = "" if left is None or left.met else ", target missed"
    share = variant.macs_in_int8
    values = (
        figure(variant.calibration_seconds if quantized else None, 1),
        figure(variant.peak_rss_mb, 0),
        figure(variant.onnx_bytes / 1e6, 2),
        "-" if share is None else f"{share:.1%}",
        "-" if left is None else f"{len(left.layers)}{missed}",
        _mean(variant.neighbours),
        figure(latency.device_p50_ms if latency else None, 2),
    )
    return dict(zip(_EFFORT, values, strict=True))


def _mean(found: Neighbours | None) -> str:
    if found is None:
        return "-"
    return f"{found.mean:+.3f} ± {found.error:.3f} ({len(found.differences)} graphs)"


def _int8(found: Int8Audit | None) -> str:
    if found is None:
        return "-"
    return f"{found.int8} of {len(found.layers)}" if found.verified else "not told"


def notes(record: RunRecord) -> list[str]:
    """What is to be said of the variants, and of INT8 on this machine, each once."""
    steps = [f"{v.title}: {v.note}" for v in record.variants if v.note]
    audits = (v.evaluated.int8 for v in record.variants)
    told = dict.fromkeys([*steps, *(a.caveat for a in audits if a and a.caveat)])
    busy = load(v.evaluated.latency for v in (*record.floats, *record.variants))
    return [*told, busy] if busy else [*told]
