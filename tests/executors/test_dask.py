"""Studies on a real Dask cluster: the same figures, whatever happens to a worker."""

from __future__ import annotations

import socket
import subprocess
import sys
import threading
import time
from functools import partial
from pathlib import Path

import pytest
from typer.testing import CliRunner

import quantcore
from quantcore.commands.cli import app
from quantcore.errors import ExecutorError
from quantcore.executors import dask as dask_executor
from quantcore.executors.cluster import exchange, shares
from quantcore.executors.dask import DaskOptions, DaskPlugin
from quantcore.pipeline import Evaluation, evaluate
from quantcore.runtime.executor import InProcess
from quantcore.runtime.jobs import Runtime
from quantcore.runtime.notes import Note
from quantcore.runtime.progress import Silent
from quantcore.runtime.store import Store
from quantcore.runtime.trials import Trial, trial


@pytest.fixture(scope="module")
def demo():
    demo = quantcore.demo()
    return quantcore.load_model(demo.model, demo.weights), demo.data


def test_an_evaluation_in_shares_gives_the_same_figures(
    demo, dask, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shares, "_WORTH", 1e-3)
    monkeypatch.setattr(shares, "_EACH", 1)
    model, data = demo
    options = quantcore.EngineOptions(threads=1)
    how = Evaluation(images=4, runs=0, options=options)
    before = dask.done
    with Store(tmp_path) as store:
        found = evaluate(model, None, data, how, Runtime(dask, store))
        again = Runtime(InProcess(), store)
        kept = evaluate(model, None, data, how, again)
    assert dask.done - before == 2
    here = evaluate(model, None, data, how)
    assert found.draws == here.draws == kept.draws
    assert found.accuracy.main == here.accuracy.main
    assert again.computed == 0


def test_a_killed_worker_costs_what_it_was_doing(dask, cluster, tmp_path: Path) -> None:
    call = [sys.executable, "-m", "distributed.cli.dask_worker", cluster.scheduler_address]
    call += ["--no-nanny", "--no-dashboard", "--nthreads=1", "--host=127.0.0.1", "--name=mortal"]
    mortal = subprocess.Popen([*call, "--local-directory", str(tmp_path)])

    def seats():
        return [s for s in dask._board.seats.values() if s.at.name.startswith("mortal")]

    def kill() -> None:
        while seats()[0].share is None:
            time.sleep(0.05)
        mortal.kill()

    try:
        while not seats():
            assert mortal.poll() is None
            time.sleep(0.1)
        threading.Thread(target=kill).start()
        runtime = Runtime(dask)
        works = [partial(runtime.one, trial([n], seconds=1, name=f"trial {n}")) for n in range(3)]
        with pytest.warns(Note, match=r"worker mortal .*: trial \d is done again elsewhere"):
            found = runtime.together(works)
    finally:
        mortal.kill()
        mortal.wait()
    assert [each.number for each in found] == [0, 1, 2]


def test_who_never_answers_is_not_waited_for_forever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dask_executor, "_GOODBYE", 0.1)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        where = f"tcp://127.0.0.1:{silent.getsockname()[1]}"
        options = DaskOptions(scheduler=where, wait=0.2)
        with pytest.raises(ExecutorError, match=f"{where}: no scheduler answers"):
            DaskPlugin("dask").open(options)


def test_what_is_finished_comes_while_the_job_runs(dask, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exchange, "_GLANCE", 0.1)
    kept: dict[int, Trial] = {}
    some = threading.Event()

    def finish(number: int, value: Trial) -> None:
        kept[number] = value
        if len(kept) > 3:
            some.set()

    running = dask.submit(trial(range(200), seconds=0.1, apart=False), finish, Silent())
    assert some.wait(30)
    running.cancel()
    assert 3 < len(kept) < 200
    # Which of the shares is ahead, nobody knows.
    assert all(number == found.number for number, found in kept.items())


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--executor", "dask"], "say where the scheduler is: --scheduler tcp://HOST:PORT"),
        (["--executor", "dusk"], "unknown executor 'dusk' (did you mean 'dask'?)"),
        (["--scheduler", "tcp://127.0.0.1:1"], "executor 'local' has no option 'scheduler'"),
        (
            ["--executor", "dask", "--executor-option", "files=a=b", "--scheduler", "tcp://h:1"],
            "files is written FOLDER=URL with an absolute folder",
        ),
        (
            ["--executor=dask", "--scheduler=tcp://127.0.0.1:1", "--executor-option=wait=0.5"],
            "tcp://127.0.0.1:1: no scheduler answers",
        ),
        (
            ["--executor=dask", "--scheduler=tls://127.0.0.1:1"],
            "a tls:// scheduler wants --executor-option tls-ca=FILE",
        ),
        (
            ["--executor=dask", "--scheduler=tls://h:1", "--executor-option=tls-ca=/no/ca.pem"],
            "/no/ca.pem: no such file",
        ),
        (
            ["--executor=dask", "--scheduler=tcp://h:1", f"--executor-option=tls-ca={__file__}"],
            "tls-ca, tls-cert and tls-key are for a tls:// scheduler",
        ),
        (["--executor=dask", f"--scheduler={__file__}"], "is no scheduler file"),
        (
            [
                "--executor=dask",
                "--scheduler=tls://h:1",
                f"--executor-option=tls-ca={__file__}",
                f"--executor-option=tls-cert={__file__}",
            ],
            f"{__file__}: not to be used",
        ),
    ],
)
def test_what_cannot_be_is_told_in_one_line(words, said, tmp_path: Path) -> None:
    demo = quantcore.demo()
    call = ["compare", demo.model, "--weights", str(demo.weights), "--data", str(demo.data)]
    call += ["--backend", "pytorch-quantization", "--out", str(tmp_path), *words]
    done = CliRunner().invoke(app, call)
    assert said in str(done.exception)
    assert isinstance(done.exception, quantcore.QuantcoreError)
