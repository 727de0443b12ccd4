"""Studies on many machines: what a job costs beside its work, and how far more workers help.

python benchmarks/cluster.py overhead
    Jobs with nothing to compute on two Dask workers of this machine, against two local processes.
python benchmarks/cluster.py remote [COMMAND ...]
    A whole command, without `--out`, here and on one Dask worker with as many threads, in turns. By
    default the demo's network is compared with what one backend makes of it.
python benchmarks/cluster.py simulate REPORT.json...
    Replays the times that comparisons have recorded (`report.json`, one for each network) on 1 to
    256 simulated workers: a study of every network x backends x policies x engines on 5,000 images.
    What goes to which worker is decided by the executor's own rules, in a clock of its own.
"""

from __future__ import annotations

import argparse
import heapq
import itertools
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import numpy as np

import quantcore
from quantcore.executors.cluster.announced import Announced
from quantcore.executors.cluster.board import Board, Seat, Share, Task
from quantcore.executors.cluster.link import WorkerAt
from quantcore.executors.cluster.shares import Cost, cut
from quantcore.runtime.executor import Executor, LocalExecutor
from quantcore.runtime.jobs import Job, Piece, Running, Runtime
from quantcore.runtime.progress import Silent
from quantcore.runtime.threads import cores
from quantcore.runtime.trials import trial

JOBS = 1000
WORKERS = (1, 2, 4, 8, 16, 32, 64, 128, 256)


# Overhead.


def each_alone(executor: Executor, jobs: int) -> float:
    """Seconds a job, one after another."""
    runtime = Runtime(executor)
    began = time.perf_counter()
    for number in range(jobs):
        runtime.run(trial([number], apart=False))
    return (time.perf_counter() - began) / jobs


def all_together(executor: Executor, jobs: int) -> float:
    """Seconds a job, all handed over at once."""
    runtime = Runtime(executor)
    works = [partial(runtime.run, trial([number], apart=False)) for number in range(jobs)]
    began = time.perf_counter()
    runtime.together(works)
    return (time.perf_counter() - began) / jobs


def large(executor: Executor) -> float:
    """Megabytes a second of an argument that a worker has not."""
    content = np.random.default_rng().standard_normal(8 << 20)
    began = time.perf_counter()
    Runtime(executor).run(trial([1], apart=False, load=content))
    return content.nbytes / 1e6 / (time.perf_counter() - began)


def overhead() -> None:
    """Prints what jobs cost beside their work."""
    from distributed import LocalCluster

    from quantcore.executors.dask import DaskExecutor

    with LocalExecutor(2) as executor:
        print(f"local threads: {each_alone(executor, JOBS) * 1e3:.2f} ms a job")
    cluster = LocalCluster(
        n_workers=2, threads_per_worker=1, host="127.0.0.1", dashboard_address=None
    )
    with cluster, cluster.get_client() as client, DaskExecutor(client) as executor:
        each_alone(executor, 10)
        print(f"dask, one after another: {each_alone(executor, JOBS) * 1e3:.2f} ms a job")
        print(f"dask, all at once: {all_together(executor, JOBS) * 1e3:.2f} ms a job")
        print(f"dask, a large argument: {large(executor):.0f} MB/s")


# One remote worker.


def took(words: Sequence[str], out: Path) -> float:
    """Seconds of a whole command into a new folder."""
    call = [sys.executable, "-m", "quantcore", *words, "--out", str(out)]
    began = time.perf_counter()
    done = subprocess.run(call, capture_output=True, text=True)
    if done.returncode not in (0, 1):
        sys.exit(f"{' '.join(words)}: {done.stderr}")
    return time.perf_counter() - began


def remote(words: Sequence[str], rounds: int) -> None:
    """Prints how much longer a study takes on one worker than here."""
    from distributed import LocalCluster

    demo = quantcore.demo()
    backend = ("--backend", "pytorch-quantization")
    default = ("compare", demo.model, "--weights", demo.weights, "--data", demo.data, *backend)
    given = [str(word) for word in words or default]
    cluster = LocalCluster(
        n_workers=1, threads_per_worker=cores(), host="127.0.0.1", dashboard_address="127.0.0.1:0"
    )
    ratios = []
    with cluster, tempfile.TemporaryDirectory() as name:
        there = [*given, "--executor", "dask", "--scheduler", cluster.scheduler_address]
        for number in range(rounds):
            seconds = {}
            turns = [("here", given), ("there", there)]
            for where, call in turns if number % 2 == 0 else reversed(turns):
                seconds[where] = took(call, Path(name, f"{where}.{number}"))
            ratios.append(seconds["there"] / seconds["here"])
            load = os.getloadavg()[0]
            print(
                f"here {seconds['here']:.1f} s, on one worker {seconds['there']:.1f} s: "
                f"{ratios[-1]:.3f} times (load {load:.1f})",
                flush=True,
            )
    print(f"median of {rounds}: {statistics.median(ratios):.3f} times")


# Simulation.


@dataclass(frozen=True)
class Times:
    """What was recorded of a network.

    Attributes:
        name: Of the network.
        images: Seconds an image, by engine.
        calibrations: Seconds of each backend's calibration.
        latency: Seconds of a timed inference, by engine.
        megabytes: Of the graph.
    """

    name: str
    images: dict[str, float]
    calibrations: list[float]
    latency: dict[str, float]
    megabytes: float

    @classmethod
    def read(cls, path: Path) -> Times:
        """From the report of a comparison."""
        report = json.loads(path.read_text())
        variants = [*report["floats"], *report["variants"]]
        stages = ("preprocess_ms", "inference_ms", "postprocess_ms")
        by_engine: dict[str, list[dict[str, Any]]] = {}
        for variant in variants:
            by_engine.setdefault(variant["engine"], []).append(variant)
        images = {
            engine: sum(sum(v[s] for s in stages) for v in found) / len(found) / 1e3
            for engine, found in by_engine.items()
        }
        latency = {
            engine: sum(v["latency_ms"]["p50"] for v in found) / len(found) / 1e3
            for engine, found in by_engine.items()
        }
        seconds = {v["backend"]: v["calibration_seconds"] for v in report["variants"]}
        return cls(
            name=f"{report['model']} ({report['weights']})",
            images=images,
            calibrations=list(seconds.values()),
            latency=latency,
            megabytes=max(v["sizes"]["onnx_bytes"] for v in variants) / 1e6,
        )


@dataclass(frozen=True)
class Surroundings:
    """What a job costs beside its work, as measured.

    Attributes:
        delay: Seconds of this side for each share: sending it and taking it in.
        piece: Seconds of this side for each piece: reading and keeping it.
        start: Seconds to begin a share: a process, its imports, the engine.
        megabytes: A second, to a worker that lacks a part.
        scoring: Seconds to score an evaluation.
    """

    delay: float
    piece: float
    start: float
    megabytes: float
    scoring: float


@dataclass(eq=False)
class Work:
    """A job of the simulated study: what it takes, and what may begin once it is done."""

    count: int
    cost: Cost
    megabytes: float = 0.0
    network: str = ""
    quiet: bool = False
    then: list[Callable[[], list[Work]]] = field(default_factory=list)


@lru_cache
def pieces(count: int, quiet: bool = False) -> tuple[Piece, ...]:
    """So many pieces that nobody looks into; the same ones for all jobs."""
    return tuple(Piece(key=str(n), kind=int, quiet=quiet) for n in range(count))


def study(given: Times, shape: argparse.Namespace, around: Surroundings) -> list[Work]:
    """The jobs of one network that can begin at once; the others follow from them."""
    engines = list(given.images)
    engines = [engines[n % len(engines)] for n in range(shape.engines)]

    def evaluations() -> list[Work]:
        return [evaluation(engine) for engine in engines]

    def evaluation(engine: str) -> Work:
        cost = Cost(around.start, given.images[engine])
        found = Work(shape.images, cost, given.megabytes, given.name)
        found.then.append(lambda: [Work(1, Cost(1e-3, around.scoring))])
        return found

    def calibration(seconds: float) -> Work:
        found = Work(1, Cost(around.start, seconds), given.megabytes, given.name)
        found.then.append(evaluations)
        return found

    tables = [
        calibration(given.calibrations[n % len(given.calibrations)])
        for n in range(shape.backends * shape.policies)
    ]
    # Every backend's graphs of a policy are timed in turns, each twice in a turn.
    turns = [
        Work(
            1,
            Cost(around.start, given.latency[engine] * 2 * 50 * (shape.backends + 1)),
            given.megabytes,
            given.name,
            quiet=True,
        )
        for engine in engines
        for _ in range(shape.policies)
    ]
    return [*tables, *evaluations(), *turns]


@lru_cache
def shares(count: int, quiet: bool, workers: int, cost: Cost) -> list[list[int]]:
    """The numbers of the pieces of each share of a job."""
    return cut(pieces(count, quiet), workers, cost)


class Simulated:
    """A study on some workers, in a clock of its own."""

    def __init__(self, workers: int, around: Surroundings) -> None:
        self._around, self._board, self._now = around, Board(), 0.0
        told = {"host": {}, "versions": {}}
        for number in range(workers):
            at = WorkerAt(str(number), str(number))
            seat = Seat(at, Announced(machine=str(number), **told))
            self._board.seats[at.id] = seat
        self._ends: list[tuple[float, int, Seat]] = []
        self._count = itertools.count()
        self._works: dict[Task, Work] = {}
        self._have: set[tuple[str, str]] = set()
        self._client = self.busy = 0.0

    def run(self, works: list[Work]) -> float:
        """Seconds of the whole study."""
        for work in works:
            self._enter(work)
        self._place(list(self._board.seats.values()))
        while self._ends:
            self._now, _, seat = heapq.heappop(self._ends)
            share = seat.share
            assert share is not None
            self._board.ended(seat)
            task = share.task
            task.open -= 1
            new: list[Work] = []
            if not task.open:
                for follow in self._works.pop(task).then:
                    new += follow()
            for work in new:
                self._enter(work)
            idle = [s for s in self._board.seats.values() if s.share is None]
            self._place(idle if new else [seat])
        return self._now

    def _enter(self, work: Work) -> None:
        job: Job[Any] = Job(what="", function=print, arguments=(), pieces=())
        task = Task(
            job=job,
            name="",
            parts={},
            finish=lambda number, value: None,
            running=Running(),
            progress=Silent(),
            bar=0,
            root="",
        )
        self._works[task] = work
        for numbers in shares(work.count, work.quiet, len(self._board.seats), work.cost):
            self._board.waiting.append(Share(task, numbers, work.quiet))
            task.open += 1
        self._board.hardware(job.needs)

    def _place(self, seats: list[Seat]) -> None:
        for seat in seats:
            share = self._board.next(seat)
            if share is None:
                continue
            work, around = self._works[share.task], self._around
            # This side is one process: it sends and takes in one share at a time.
            mine = around.delay + around.piece * len(share.numbers)
            self._client = max(self._client, self._now) + mine
            sent = 0.0
            if (seat.at.id, work.network) not in self._have:
                self._have.add((seat.at.id, work.network))
                sent = work.megabytes / around.megabytes
            seconds = sent + work.cost.start + work.cost.piece * len(share.numbers)
            self.busy += seconds
            heapq.heappush(self._ends, (self._client + seconds, next(self._count), seat))


def simulate(shape: argparse.Namespace) -> None:
    """Prints how long a study takes on more and more workers."""
    networks = [Times.read(path) for path in shape.reports]
    networks = [networks[n % len(networks)] for n in range(shape.networks)]
    around = Surroundings(shape.delay, shape.piece, shape.start, shape.megabytes, shape.scoring)
    cells = shape.networks * shape.backends * shape.policies * shape.engines
    print(f"{cells} evaluations of {shape.images} images; {around}")
    for each in {network.name: network for network in networks}.values():
        per = ", ".join(f"{engine} {s * 1e3:.1f} ms" for engine, s in each.images.items())
        longest = max(each.calibrations)
        print(f"{each.name}: {per} an image, calibrations up to {longest:.0f} s")
    print("workers   hours  speed-up  efficiency  hours one study after another")
    first = 0.0
    for workers in WORKERS:
        works = [work for network in networks for work in study(network, shape, around)]
        at_once = Simulated(workers, around)
        seconds = at_once.run(works)
        first = first or seconds
        apart = sum(Simulated(workers, around).run(study(n, shape, around)) for n in networks)
        speedup = first / seconds
        print(
            f"{workers:7d} {seconds / 3600:7.2f} {speedup:9.1f} {speedup / workers:10.0%} "
            f"{apart / 3600:8.2f}",
            flush=True,
        )


def main() -> None:
    """See above."""
    parser = argparse.ArgumentParser(description=__doc__)
    parts = parser.add_subparsers(dest="part", required=True)
    parts.add_parser("overhead")
    two = parts.add_parser("remote")
    two.add_argument("--rounds", type=int, default=3)
    two.add_argument("command", nargs=argparse.REMAINDER)
    one = parts.add_parser("simulate")
    one.add_argument("reports", nargs="+", type=Path)
    for name, value in (("networks", 6), ("backends", 5), ("policies", 8), ("engines", 3)):
        one.add_argument(f"--{name}", type=int, default=value)
    one.add_argument("--images", type=int, default=5000)
    for name, seconds in (("delay", 0.01), ("piece", 0.0003), ("start", 3.0), ("scoring", 60.0)):
        one.add_argument(f"--{name}", type=float, default=seconds)
    one.add_argument("--megabytes", type=float, default=100.0)
    given = parser.parse_args()
    if given.part == "overhead":
        overhead()
    elif given.part == "remote":
        remote(given.command, given.rounds)
    else:
        simulate(given)


if __name__ == "__main__":
    main()
