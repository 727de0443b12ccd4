"""Every page in a real browser: nothing in the console, nothing wider than the window."""

import json
import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from quantcore.report.page import LONG, Cell, Page, Section, Table, Words
from quantcore.report.pages import (
    auto,
    comparison,
    evidence,
    graph,
    layers,
    portability,
    training,
)
from quantcore.results.comparison import Failure, RunRecord
from quantcore.results.contents import Coding, Layer
from quantcore.results.estimate import Estimate
from quantcore.runtime.plain import json_text

from .made_up import FLOATS, GOOD, SLOW

#: Chromium as a test runs it: by root, without a screen, asking nobody for anything.
FLAGS = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
NASTY = "a_$\\alpha$<script>alert(1)</script>" + "very.long.name." * 20


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    if CHROMIUM is None:
        pytest.skip("no Chromium on this machine")
    with api.sync_playwright() as playwright:
        found = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield found
        found.close()


def comparison_page(folder: Path) -> Page:
    """A comparison with everything that can be shown, and names as nasty as files hold."""
    slow = replace(SLOW, backend="pytorch-quantization")
    good = replace(
        GOOD,
        step=NASTY,
        difference=Estimate(-0.01, -0.02, -0.001),
        policy={"images": 8},
        note="trained <b>",
    )
    classes = {f"class {n} {NASTY}": n / 40 for n in range(40)}
    variants = [
        replace(
            v,
            evaluated=replace(
                v.evaluated, accuracy=replace(v.evaluated.accuracy, per_class=classes)
            ),
        )
        for v in (*FLOATS, slow, good)
    ]
    thresholds = [
        {"tensor": f"{NASTY}{n}", "amax": {"a": 1.0, "b": 1.1}, "ratio": {"b": 1.1 + n / 100}}
        for n in range(30)
    ]
    record = RunRecord(
        model=NASTY,
        weights="w.pt",
        data="coco",
        floats=tuple(variants[:2]),
        variants=tuple(variants[2:]),
        failures=(Failure("nncf", "openvino", "no <such> thing"),),
        thresholds=tuple(thresholds),
        host={"processor": "a processor", "cores": 2},
    )
    return comparison.page(json.loads(json_text(record)), folder)


def estimate(value: float) -> dict[str, Any]:
    return {"value": value, "low": value - 0.01, "high": value + 0.01, "level": 0.9, "draws": 200}


def layer(number: int) -> dict[str, Any]:
    return {
        "rank": number,
        "layer": f"{NASTY}{number}",
        "op": "conv2d",
        "macs": 10**6,
        "map_drop": estimate(0.02 / number),
        "detections_loss": estimate(0.1 / number),
        "heads_sqnr_db": 20.0 + number,
        "layer_sqnr_db": None,
    }


SENSITIVITY = {
    "format": "quantcore.sensitivity/1",
    "model": NASTY,
    "float_fingerprint": "f" * 64,
    "table_sha256": "a" * 64,
    "backend": "paddle",
    "split": "val2017",
    "images": 8,
    "method": "detections",
    "interval": "90 %",
    "float_map": estimate(0.4),
    "layers": [layer(n) for n in range(1, 60)],
}


def point(count: int, ms: float | None) -> dict[str, Any]:
    times = {"p50_ms": ms, "low_ms": ms * 0.9, "high_ms": ms * 1.1} if ms else None
    return {
        "kept": [f"{NASTY}{n}" for n in range(count)],
        "layers_kept": count,
        "int8_share_of_macs": 1 - count / 20,
        "map_drop": estimate(0.03 - count / 100),
        "detections_loss": estimate(0.1),
        "judged_drop": 0.03 - count / 200,
        "latency_ms": times,
        "latency_ratio": estimate(0.5) if ms else None,
    }


def searched(engine: str | None) -> dict[str, Any]:
    points = [point(n, 10.0 + n if engine else None) for n in (0, 2, 5)]
    whole = {"engine": engine, "caveat": "no VNNI"} if engine else None
    seen = {"split": "val2017", "images": 4, "float_map": estimate(0.4), "points": points}
    asked = {"max_drop": 0.01, "confidence": 0.8, "min_int8": 0.5, "interval": "90 %"}
    rest = {"split": "train2017", "images": 8, "float_map": estimate(0.4), "met": True}
    found = {"points": points, "frontier": points[:2], "chosen": points[1], "unseen": seen}
    kind = {"format": "quantcore.mixed/1", "model": NASTY, "speed": whole}
    return {**kind, **rest, **asked, **found, "why_chosen": "so many were asked for"}


TRAINING = {
    "format": "quantcore.training/1",
    "backend": "paddle",
    "parent": "p" * 64,
    "fingerprint": "f" * 64,
    "versions": {"paddle": "3"},
    "recipe": {"steps": 40},
    "image_ids": [1, 2],
    "ended": None,
    "kept": "trained",
    "seconds": 3.0,
    "peak_rss_mb": 100,
    "verdict": {
        "images": 8,
        "graphs": 3,
        "detections_lost": estimate(0.04),
        "detections_lost_before": estimate(0.06),
        "detections_lost_change": estimate(-0.02),
        "map_change": None,
        "better": True,
    },
    "losses": {"heads": [1 / (n + 1) for n in range(40)], "features": [0.0] * 40},
}

CHANGE = {"map_difference": estimate(-0.02), "agreement": estimate(0.9)}
PORTABILITY = {
    "format": "quantcore.portability/1",
    "model": NASTY,
    "weights": "w.pt",
    "data": "coco",
    "calibration_split": "train2017",
    "evaluation_split": "val2017",
    "images": 8,
    "engine": "onnxruntime",
    "arithmetic": "float32",
    "host": {"processor": "a processor", "cores": 2},
    "float_map": estimate(0.4),
    "reference": "a.p.native",
    "tables": [
        {"name": name, "calibration_seconds": 1.0, "peak_rss_mb": 100.0, "file": f"{name}.json"}
        for name in ("a.p.native", NASTY)
    ],
    "deployments": [
        {
            "table": name,
            "kind": kind,
            "runner": runner,
            "map": estimate(0.38),
            "against_float": CHANGE,
            "against_graph": CHANGE if kind == "simulate" else None,
            "against_own": CHANGE if runner == "b" else None,
            "against_host": None,
        }
        for name in ("a.p.native", NASTY)
        for kind, runner in (("graph", "onnxruntime"), ("simulate", "a"), ("simulate", "b"))
    ],
    "pairs": [
        {
            "first": "a.p.native",
            "second": NASTY,
            "activations": 10,
            "equal": 3,
            "median_ratio": 1.01,
            "worst_ratio": 2.0,
            "worst_tensor": NASTY,
            "layers": 9,
            "spearman": {"value": 0.9, "low": 0.8, "high": 1.0},
            "kendall": {"value": 0.8, "low": 0.7, "high": 0.9},
        }
    ],
    "floor": CHANGE,
    "unsupported": [{"table": "a", "where": "b", "reason": "no"}],
    "failures": [{"table": "a", "where": "c", "reason": NASTY}],
}
TRIED = {
    "rung": "calibrate",
    "name": NASTY,
    "engine": "openvino",
    "graphs": 1,
    "lost": estimate(0.05),
    "drop": estimate(0.01),
    "belief": {"drop": 0.008, "deviation": 0.002},
    "ms": 10.0,
    "speedup": estimate(1.5),
    "accurate": True,
    "fast": True,
}
AUTO = {
    "format": "quantcore.auto/1",
    "model": NASTY,
    "weights": "w.pt",
    "data": "coco",
    "metric": "map",
    "asked": {"max_drop": 0.01, "min_speedup": 1.2, "budget": None},
    "images": {
        "split": "train2017",
        "seed": 0,
        "calibrating": [1, 2],
        "choosing": [3],
        "delivered": [1, 2, 3],
    },
    "rivals": [
        {
            "engine": "openvino",
            "precision": "FP32",
            "ms": 15.0,
            "lost": estimate(0.0),
            "drop": estimate(0.0),
            "counts": True,
        }
    ],
    "tried": [TRIED, {**TRIED, "accurate": False}],
    "chosen": 0,
    "unseen": {
        "split": "val2017",
        "images": 8,
        "graphs": 3,
        "float_figure": estimate(0.4),
        "lost": estimate(0.05),
        "drop": estimate(0.01),
        "graph_drop": 0.01,
        "speedups": {"FP32 on openvino": estimate(1.5)},
        "ms": {"INT8": 10.0, "FP32 on openvino": 15.0},
        "int8": [9, 10],
        "not_int8": {NASTY: "no kernel"},
    },
    "met": True,
    "verdict": ["deploy it"],
    "warnings": ["few images"],
    "skipped": {"train": "no backend trains"},
    "seconds": 60.0,
    "host": {"processor": "a processor", "cores": 2},
    "artifacts": {"onnx": "qdq.onnx"},
}

CODING = Coding(
    tensor=NASTY, codes="int8", scales=64, scale=(0.001, 0.1), span=(-12.8, 12.7), symmetric=True
)
LAYERS = [
    Layer(
        name=f"{NASTY}{n}",
        op="Conv",
        data=replace(CODING, scales=1) if n else None,
        weight=CODING if n else None,
        weighted=True,
        error_db=20.0 + n,
    )
    for n in range(60)
]

PAGES: dict[str, Callable[[Path], Page]] = {
    "comparison": comparison_page,
    "sensitivity": lambda folder: layers.sensitivity(SENSITIVITY),
    "mixed": lambda folder: layers.mixed(searched(None)),
    "mixed, timed": lambda folder: layers.mixed(searched("openvino")),
    "training": lambda folder: training.page(TRAINING),
    "portability": lambda folder: portability.page(PORTABILITY),
    "auto": lambda folder: auto.page(AUTO, folder),
    "show": lambda folder: graph.page(NASTY, LAYERS, "float.onnx", "on noise"),
    "show, alone": lambda folder: graph.page(
        NASTY, [replace(layer, error_db=None) for layer in LAYERS], None, ""
    ),
}


@pytest.mark.parametrize("name", PAGES)
def test_a_page_fits_a_phone_and_a_screen_by_day_and_by_night(
    browser: Any, tmp_path: Path, name: str
) -> None:
    path = tmp_path / "page.html"
    path.write_text(PAGES[name](tmp_path).html(), encoding="utf-8")
    assert len(path.read_text()) < 3e6
    context = browser.new_context(offline=True)
    page, told, papers = context.new_page(), [], set()
    page.on("console", lambda message: told.append(message.text))
    page.on("pageerror", lambda error: told.append(str(error)))
    page.on("dialog", lambda dialog: told.append("a script of a name ran"))
    page.on("request", lambda r: r.url.startswith("http") and told.append(r.url))
    page.goto(path.as_uri())
    page.evaluate("document.querySelectorAll('details').forEach(d => d.open = true)")
    for width in (400, 1400):
        page.set_viewport_size({"width": width, "height": 900})
        for scheme in ("light", "dark"):
            page.emulate_media(color_scheme=scheme)
            assert page.evaluate("document.documentElement.scrollWidth") <= width
            wide = page.evaluate(
                "[...document.querySelectorAll('main > section, figure, svg, p, dl, h1, h2')]"
                ".map(e => [e.getBoundingClientRect().right, e.outerHTML])"
                ".filter(([right, _]) => right > innerWidth + 1)"
            )
            assert not wide
            papers.add(page.evaluate("getComputedStyle(document.body).backgroundColor"))
    assert not told
    context.close()
    assert len(papers) == 2, "a dark page and a light one"


def test_a_table_is_sorted_by_figures_and_by_names(browser: Any, tmp_path: Path) -> None:
    rows = [["b", Cell("10.0", 10)], ["a", Cell("-", float("-inf"))], ["c", Cell("9.0", 9)]]
    table = Table(title="t", columns=("name", "figure"), rows=rows)
    path = tmp_path / "page.html"
    path.write_text(Page(title="p", sections=[Section("s", [table])]).html())
    page = browser.new_page()
    page.goto(path.as_uri())

    def names() -> list[str]:
        return page.eval_on_selector_all("tbody th", "cells => cells.map(c => c.textContent)")

    page.get_by_role("button", name="figure").click()
    assert names() == ["a", "c", "b"]
    page.get_by_role("button", name="figure").click()
    assert names() == ["b", "c", "a"]
    page.get_by_role("button", name="name").click()
    assert names() == ["a", "b", "c"]
    page.close()


def test_long_tables_are_folded_and_names_are_text() -> None:
    rows = [[f"row {n}", "1"] for n in range(LONG + 1)]
    long = Table(title="<i>long</i>", columns=("row", "figure"), rows=rows)
    short = Table(title="short", columns=("row", "figure"), rows=rows[:2])
    page = Page(title="<x>", verdict=["deploy it"], sections=[Section("s", [long, short])])
    text = page.html()
    assert text.count("<details>") == 1
    assert "&lt;i&gt;long" in text
    assert "<x>" not in text
    assert "deploy it." in text


def test_markdown_and_csv_hold_the_tables_and_nothing_that_runs() -> None:
    rows = [["=cmd()|x", Cell("-0.5", -0.5)], ["plain", "-"]]
    table = Table(title="t", columns=("name", "figure"), rows=rows)
    page = Page(title="p", verdict=["so"], sections=[Section("s", [Words(["w"]), table])])
    assert page.csv().splitlines() == ["name,figure", "'=cmd()|x,-0.5", "plain,-"]
    text = page.markdown()
    assert "| =cmd()\\|x | -0.5 |" in text
    assert text.startswith("# p")
    assert "- so" in text


def test_a_finished_study_is_rendered_again(cli: Callable[..., Any], tmp_path: Path) -> None:
    (tmp_path / "sensitivity.json").write_text(json.dumps(SENSITIVITY))
    (tmp_path / "training.json").write_text(json.dumps(TRAINING))
    done = cli("report", tmp_path)
    assert done.code == 0, done.err
    page = (tmp_path / "sensitivity.html").read_text()
    assert page == layers.sensitivity(SENSITIVITY).html(), "the same figures give the same bytes"
    assert (tmp_path / "training.html").is_file()
    (tmp_path / "training.json").unlink()
    assert cli("report", tmp_path, "--format", "csv").out.startswith("layer,operator,rank,M MACs")
    assert "| --- |" in cli("report", tmp_path, "--format", "markdown").out


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (None, "none of report.json"),
        ("{", "report.json: not as this version"),
        ('{"format": "quantcore.report/9"}', "its format is 'quantcore.report/9'"),
        ('{"format": "quantcore.report/1"}', "KeyError"),
        ('["format"]', "not as this version"),
    ],
)
def test_what_is_no_study_is_refused_in_a_line(
    cli: Callable[..., Any], tmp_path: Path, text: str | None, told: str
) -> None:
    if text is not None:
        (tmp_path / "report.json").write_text(text)
    done = cli("report", tmp_path)
    assert done.code == 2
    assert told in done.err
    assert "Traceback" not in done.err


def test_a_report_takes_pictures_from_its_own_folder_alone(tmp_path: Path) -> None:
    inside, outside = tmp_path / "study" / "pictures", tmp_path / "secret.jpg"
    inside.mkdir(parents=True)
    (inside / "1.jpg").write_bytes(b"inside")
    outside.write_bytes(b"outside")
    panes = [{"caption": "p", "file": file} for file in ("pictures/1.jpg", "../secret.jpg")]
    images = [{"title": "t", "about": "", "panes": panes}]
    found = {"variant": "v", "confidence": 0.25, "images": images}
    _, photos = evidence.photos(found, tmp_path / "study")
    assert [address.partition(",")[2] for _, address in photos.panes] == ["aW5zaWRl"]
