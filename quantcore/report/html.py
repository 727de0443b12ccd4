"""A comparison as one self-contained HTML page."""

from __future__ import annotations

from jinja2 import Environment, PackageLoader

from quantcore.results.comparison import RunRecord


def render(record: RunRecord) -> str:
    """The page `report.html`; needs no network and no other file."""
    environment = Environment(
        loader=PackageLoader("quantcore.report"), autoescape=True, trim_blocks=True
    )
    data = record.to_dict()
    columns = [(variant.name, variant.to_dict()) for variant in (*record.floats, *record.variants)]
    classes = sorted(data["float"]["per_class"])
    metric = record.floats[0].evaluated.metric
    main = metric.name
    best = max((v[main] or 0.0 for _, v in columns), default=0.0) or 1.0
    slowest = max((v["latency_ms"]["p50"] or 0.0 for _, v in columns), default=0.0) or 1.0
    template = environment.get_template("report.html.j2")
    return template.render(
        report=data,
        columns=columns,
        classes=classes,
        best=best,
        slowest=slowest,
        metric=metric,
        main=main,
        difference=f"{main}_difference",
        interval=f"{main}_interval",
        drop=f"{main}_drop",
    )
