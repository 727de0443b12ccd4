"""The matrix "calibrated with x deployed as", on small fake backends and in real processes."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import cv2
import pytest

from quantcore.commands.portability import policies
from quantcore.pipeline import load_model
from quantcore.results.portability import FORMAT
from quantcore.training.result import origin_of

pytest.importorskip("quantcore_onnx")

Cli = Callable[..., SimpleNamespace]


@pytest.fixture
def backends(honest: Path, install: Callable[..., None], monkeypatch: pytest.MonkeyPatch) -> None:
    """`first` and `wide`, which differ by their ranges, and `mute`, which breaks down."""
    for name in ("first", "wide", "mute"):
        install(name, f"study_backends:{name.capitalize()}")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([os.environ["PYTHONPATH"], *sys.path]))


@pytest.fixture
def study(squares: SimpleNamespace, backends: None, tmp_path: Path) -> Callable[..., list[str]]:
    """The arguments of a study of two backends with a policy `top`, calibrated on 4 images."""
    (tmp_path / "top.yaml").write_text("activations: {observer: max}\nimages: 4\n")

    def arguments(*more: object, other: str = "wide") -> list[str]:
        given = ["portability", *squares.model, "--data", squares.data, "--out", tmp_path / "out"]
        given += ["--backend", "first", "--backend", other, "--policy", tmp_path / "top.yaml"]
        given += ["--implementation", "native", "--arithmetic", "float32", "--threads", 1]
        return list(map(str, [*given, *more]))

    return arguments


#: Records before the first simulation: calibrations, errors of layers; the float graph and two
#: graphs on 8 images, and their scores.
BEFORE_SIMULATING = 2 + 2 + 3 * (8 + 1)


def kept(out: Path) -> dict[str, tuple[float, bytes]]:
    """When each record of finished work was made, and its content."""
    if not (out / "work.sqlite").is_file():
        return {}
    with contextlib.closing(sqlite3.connect(out / "work.sqlite", timeout=60)) as database:
        try:
            rows = database.execute("SELECT key, made, value FROM work").fetchall()
        except sqlite3.OperationalError:  # not made yet
            return {}
    return {key: (made, value) for key, made, value in rows}


def kill_while_simulating(call: list[str], out: Path, log: Path) -> None:
    """Starts a study, and kills it once some images have been simulated."""
    slow = {**os.environ, "STUDY_SLOW": "0.4", "STUDY_LOG": str(log)}
    process = subprocess.Popen(
        [sys.executable, "-m", "quantcore", *call],
        env=slow,
        start_new_session=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    try:
        limit = time.monotonic() + 120
        while len(kept(out)) < BEFORE_SIMULATING + 2:
            assert process.poll() is None, process.stdout.read().decode()
            assert time.monotonic() < limit, "the study does not get on"
            time.sleep(0.05)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()


@pytest.mark.usefixtures("in_process")
def test_a_killed_study_goes_on_where_it_stopped(
    cli: Cli, study: Callable[..., list[str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, log = tmp_path / "out", tmp_path / "calibrations.log"
    kill_while_simulating(study(), out, log)
    before = kept(out)
    assert 2 <= len(before) - BEFORE_SIMULATING < 8
    tables = {path: path.read_bytes() for path in (out / "tables").glob("*.table.json")}
    assert len(tables) == 2
    assert not (out / "portability.json").exists()

    monkeypatch.setenv("STUDY_LOG", str(log))
    done = cli(*study())
    assert done.code == 0, done.err
    assert done.out.count("table reused") == 2
    assert log.read_text().split() == ["first", "wide"], "each has calibrated once"
    assert all(path.read_bytes() == content for path, content in tables.items())
    after = kept(out)
    assert {key: after[key] for key in before} == before, "what was found is not found again"
    check_report(out)

    again = cli(*study())
    assert again.code == 0, again.err
    assert f"nothing was computed: all {len(after)} pieces" in again.out
    assert kept(out) == after
    changed_inputs_are_seen(cli, study, out, log)


def check_report(out: Path) -> None:
    """The report of the finished study."""
    report = json.loads((out / "portability.json").read_text())
    assert report["format"] == FORMAT
    names = ["first.top.native", "wide.top.native"]
    assert [table["name"] for table in report["tables"]] == names
    assert report["reference"] == names[0]
    cells = {(c["table"], c["kind"], c["runner"]): c for c in report["deployments"]}
    places = [("graph", "onnxruntime"), ("simulate", "first"), ("simulate", "wide")]
    assert cells.keys() == {(name, *place) for name in names for place in places}
    for (name, kind, runner), cell in cells.items():
        change = cell["against_float"]["map_difference"]
        wanted = cell["map"]["value"] - report["float_map"]["value"]
        assert change["value"] == pytest.approx(wanted)
        assert change["low"] <= change["value"] <= change["high"]
        assert (cell["against_graph"] is None) == (kind == "graph")
        for other in ("against_own", "against_host"):
            assert (cell[other] is None) == (kind == "graph" or name.startswith(runner))
    # Both simulate with the same arithmetic, so a table gives both the same detections.
    own = cells["wide.top.native", "simulate", "first"]["against_own"]
    assert own["map_difference"]["value"] == 0
    assert own["agreement"]["value"] == pytest.approx(1)
    # The other's ranges leave nothing to detect, whoever simulates them.
    host = cells["wide.top.native", "simulate", "first"]["against_host"]
    assert host["map_difference"]["value"] == pytest.approx(-1)
    assert host["agreement"]["value"] == 0
    assert cells["wide.top.native", "graph", "onnxruntime"]["map"]["value"] == 0
    assert cells["first.top.native", "simulate", "wide"]["map"]["value"] == pytest.approx(1)
    (pair,) = report["pairs"]
    assert (pair["first"], pair["second"]) == tuple(names)
    assert pair["median_ratio"] == pytest.approx(400)
    assert pair["worst_ratio"] == pytest.approx(400)
    assert (pair["equal"], pair["layers"]) == (0, len(report["tables"][0]["layers_sqnr_db"]))
    assert 0 < report["floor"]["agreement"]["value"] <= 1
    page = (out / "portability.html").read_text()
    assert all(name in page for name in names)
    assert "first&#39;s simulation" in page
    assert "moved by one unit in the last place" in page
    assert 'src="http' not in page


def changed_inputs_are_seen(
    cli: Cli, study: Callable[..., list[str]], out: Path, log: Path
) -> None:
    """Another policy, and another image, are not answered with what is there."""
    alone = study(other="first")
    assert cli(*alone).out.count("table reused") == 1
    before = log.read_text().split()
    policy = out.parent / "top.yaml"
    policy.write_text(policy.read_text().replace("images: 4", "images: 6"))
    assert "table reused" not in cli(*alone).out
    train = sorted((out.parent / "data" / "train2017").iterdir())
    train[0].write_bytes(train[1].read_bytes())
    assert "table reused" not in cli(*alone).out
    assert log.read_text().split() == [*before, "first", "first"]
    val = sorted((out.parent / "data" / "val2017").iterdir())
    cv2.imwrite(str(val[0]), cv2.imread(str(val[0]))[::-1])
    before = kept(out)
    assert cli(*alone).out.count("table reused") == 1
    # Float graph, graph, simulation and moved graph on the image that changed, their scores and
    # how they agree (two with float, two with the graph), and the layers.
    assert len(kept(out)) - len(before) == 4 + 4 + 4 + 1


@pytest.mark.usefixtures("in_process")
def test_a_network_trained_with_one_is_deployed_as_the_others(
    cli: Cli, study: Callable[..., list[str]], install: Callable[..., None], tmp_path: Path
) -> None:
    install("studious", "study_backends:Studious")
    (tmp_path / "recipe.yaml").write_text("{steps: 3, neighbours: 0, crop: 64}\n")
    done = cli(*study("--qat", "--recipe", tmp_path / "recipe.yaml", other="studious"))
    assert done.code == 0, done.err
    report = json.loads((tmp_path / "out" / "portability.json").read_text())
    trained = "studious.top.native.trained"
    assert trained in [table["name"] for table in report["tables"]]
    cells = {(c["table"], c["runner"]): c for c in report["deployments"]}
    assert {runner for table, runner in cells if table == trained} == {
        "onnxruntime",
        "first",
        "studious",
    }
    # The same network everywhere, and another one than what was only calibrated.
    carried = cells[trained, "first"]
    assert carried["against_own"]["agreement"]["value"] == 1
    assert carried["against_graph"]["agreement"]["value"] == 1
    plain = cells["studious.top.native", "onnxruntime"]
    assert plain["against_float"] != cells[trained, "onnxruntime"]["against_float"]
    assert all(trained not in (pair["first"], pair["second"]) for pair in report["pairs"])
    assert trained in (tmp_path / "out" / "portability.html").read_text()
    model = load_model("onnx", tmp_path / "out" / "tables" / f"{trained}.onnx")
    assert origin_of(model)["backend"] == "studious"


@pytest.mark.usefixtures("in_process")
def test_a_failure_costs_its_own_cells(
    cli: Cli, study: Callable[..., list[str]], tmp_path: Path
) -> None:
    (tmp_path / "small.yaml").write_text("activations: {observer: entropy}\nimages: 3\n")
    call = study("--policy", tmp_path / "small.yaml", "--eval-images", 3, other="mute")
    done = cli(*call)
    assert done.code == 2
    assert "Traceback" not in done.err
    assert "lost its voice" in done.err
    report = json.loads((tmp_path / "out" / "portability.json").read_text())
    assert {(f["table"], f["where"]) for f in report["failures"]} == {
        ("first.top.native", "mute's simulation"),
        ("mute.top.native", "mute's simulation"),
    }
    # Its own simulation failed: there is nothing to hold the other's against.
    cells = {(c["table"], c["kind"], c["runner"]): c for c in report["deployments"]}
    assert len(cells) == 4
    assert cells["mute.top.native", "simulate", "first"]["against_own"] is None
    assert {lost["table"] for lost in report["unsupported"]} == {
        "first.small.native",
        "mute.small.native",
    }
    page = (tmp_path / "out" / "portability.html").read_text()
    assert "lost its voice" in page
    assert "left out" in page


@pytest.mark.usefixtures("in_process")
def test_what_cannot_be_simulated_is_left_out(
    cli: Cli, study: Callable[..., list[str]], tmp_path: Path
) -> None:
    affine = "placement: onnxruntime\nactivations: {observer: max, symmetric: false}\nimages: 2\n"
    (tmp_path / "top.yaml").write_text(affine)
    done = cli(*study("--implementation", "portable", "--eval-images", 1, other="first"))
    assert done.code == 0, done.err
    report = json.loads((tmp_path / "out" / "portability.json").read_text())
    assert [(c["table"], c["kind"]) for c in report["deployments"]] == [
        ("first.top.portable", "graph")
    ]
    assert [(lost["table"], lost["where"]) for lost in report["unsupported"]] == [
        ("first.top.native", "calibration"),
        ("first.top.portable", "first's simulation"),
    ]


@pytest.mark.usefixtures("in_process")
def test_float64_is_asked_of_those_who_have_it(
    cli: Cli,
    study: Callable[..., list[str]],
    install: Callable[..., None],
    tmp_path: Path,
) -> None:
    install("single", "study_backends:Single")
    policy = tmp_path / "top.yaml"
    policy.write_text(policy.read_text() + "implementation: portable\narithmetic: float64\n")
    both = ("--implementation", "native", "--implementation", "portable")
    done = cli(*study("--arithmetic", "float64", "--eval-images", 1, *both, other="single"))
    assert done.code == 0, done.err
    report = json.loads((tmp_path / "out" / "portability.json").read_text())
    assert report["arithmetic"] == "float64"
    cells = [(c["table"], c["kind"], c["runner"]) for c in report["deployments"]]
    assert cells == [
        ("first.top.portable", "graph", "onnxruntime"),
        ("first.top.portable", "simulate", "first"),
    ]
    lost = {(lost["table"], lost["where"]): lost["reason"] for lost in report["unsupported"]}
    assert lost.keys() == {
        ("single.top.portable", "calibration"),
        ("first.top.portable", "single's simulation"),
    }
    assert set(lost.values()) == {
        "backend 'single' cannot compute in float64; it has float32 (`arithmetic:`)"
    }
    done = cli(*study(other="single"))
    assert done.code == 2
    assert "float64 is for portable observers alone" in done.err


@pytest.mark.parametrize(
    ("options", "part"),
    [
        (("--implementation", "foreign"), "native or portable"),
        (("--arithmetic", "float16"), "float32 or float64"),
        (("--reference", "nobody.top.native"), "first.top.native"),
        (("--backend", "nobody"), "unknown backend"),
        (("--policy", "elsewhere/top.yaml"), "two policies are called 'top'"),
    ],
)
def test_what_does_not_fit_is_refused(
    cli: Cli,
    study: Callable[..., list[str]],
    options: tuple[str, str],
    part: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("elsewhere").mkdir()
    Path("elsewhere/top.yaml").write_text("images: 2\n")
    done = cli(*study(*options))
    assert done.code == 2
    assert part in done.err
    assert "Traceback" not in done.err


def test_a_file_of_several_observers_is_as_many_policies(tmp_path: Path) -> None:
    both = "implementation: portable\nobservers: [max, {percentile: 99.9}]\n"
    (tmp_path / "both.yaml").write_text(both)
    found = policies([tmp_path / "both.yaml"], 7, None)
    assert list(found) == ["both-max", "both-percentile-99.9"]
    assert [policy.activations.observer for policy in found.values()] == ["max", "percentile"]
    assert all(policy.images == 7 and not policy.observers for policy in found.values())
