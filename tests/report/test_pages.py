"""Every page in a real browser: nothing in the console, nothing wider than the window."""

import json
import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from quantcore.report.page import LONG, Cell, Page, Section, Table, Words
from quantcore.report.pages import comparison
from quantcore.results.comparison import Failure, RunRecord
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


PAGES: dict[str, Callable[[Path], Page]] = {"comparison": comparison_page}


@pytest.mark.parametrize("name", PAGES)
def test_a_page_fits_a_phone_and_a_screen_by_day_and_by_night(
    browser: Any, tmp_path: Path, name: str
) -> None:
    path = tmp_path / "page.html"
    path.write_text(PAGES[name](tmp_path).html(), encoding="utf-8")
    assert len(path.read_text()) < 3e6
    papers = set()
    for width in (400, 1400):
        for scheme in ("light", "dark"):
            context = browser.new_context(
                viewport={"width": width, "height": 900}, color_scheme=scheme, offline=True
            )
            page, told = context.new_page(), []
            page.on("console", lambda message, told=told: told.append(message.text))
            page.on("pageerror", lambda error, told=told: told.append(str(error)))
            page.on("dialog", lambda dialog, told=told: told.append("a script of a name ran"))
            page.on("request", lambda r, told=told: r.url.startswith("http") and told.append(r.url))
            page.goto(path.as_uri())
            page.evaluate("document.querySelectorAll('details').forEach(d => d.open = true)")
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
