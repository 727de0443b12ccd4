"""Studies on a Dask cluster of this machine, disturbed: `python -m tests.fuzz.cluster`.

Every kind of study runs once here and once on a scheduler with two workers, each a process of its
own on loopback. Then a worker is killed (`kill -9`) at random moments of such a run; or the client
is, which goes on with one worker; or the scheduler is, and everything starts again. The results
must be those from here to the last bit, but for times and memory, and nothing that is finished may
be computed again.

`--second` puts words in front of the second worker's command, for one that lacks something:

    --second "unshare -m sh -c 'mount -t tmpfs none DATA && exec \\"$@\\"' sh"
    --second-python OTHER/bin/python
"""

from __future__ import annotations

import argparse
import contextlib
import random
import shlex
import socket
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import quantcore
from quantcore.runtime.store import FILE
from tests.fuzz.kills import differing, ended, result, start

BACKENDS = ("pytorch-quantization", "paddle")


def commands(
    folder: Path, model: Sequence[str], backends: Sequence[str], images: int
) -> dict[str, tuple[list[str], str]]:
    """By name the words of a study, without `--out`, and the file that it ends with."""
    used = [word for name in backends for word in ("--backend", name)]
    policy = ["--policy", str(folder / "policy.yaml")]
    few = ["--eval-images", str(images), "--threads", "1"]
    table = ["--table", str(folder / "table.json"), "--eval-images", str(images)]
    short = ["--backend", backends[0], "--steps", "3", "--threads", "1"]
    # Fast enough is whatever it is: times, which no two runs share, choose nothing.
    climb = ["--min-speedup", "0.01", "--max-drop", "0", "--graphs", "1", "--observer", "max"]
    climb += ["--placement", "minimal", "--without", "mixed", "--without", "equalize"]
    return {
        "compare": (["compare", *model, *policy, *used, *few], "report.json"),
        "portability": (["portability", *model, *policy, *used, *few], "portability.json"),
        "sensitivity": (["sensitivity", *model, *table], "sensitivity.json"),
        "mixed": (["mixed", *model, *table], "p.mixed/mixed.json"),
        "qat": (["qat", *model, *policy, *short], "training.json"),
        "auto": (["auto", *model, *policy, *short, *climb], "auto.json"),
    }


class Cluster:
    """A scheduler and its workers, each a process."""

    def __init__(self, folder: Path, second: Sequence[str], python: str) -> None:
        with socket.create_server(("127.0.0.1", 0)) as free:
            self._port = free.getsockname()[1]
        self.address = f"tcp://127.0.0.1:{self._port}"
        self._folder, self._second, self._python = folder, second, python
        log = (folder / "cluster.log").open("ab")
        here = ["--host", "127.0.0.1", "--dashboard-address", "127.0.0.1:0"]
        self._log, self._here = log, here
        self.scheduler = self._scheduler()
        self.workers = [self.worker(0), self.worker(1)]

    def _scheduler(self) -> subprocess.Popen[bytes]:
        return self._start([sys.executable, "scheduler", "--port", str(self._port), *self._here])

    def _start(self, words: Sequence[str]) -> subprocess.Popen[bytes]:
        place = words.index("scheduler") if "scheduler" in words else words.index("worker")
        call = [*words[:place], "-m", f"distributed.cli.dask_{words[place]}", *words[place + 1 :]]
        return subprocess.Popen(call, stdout=self._log, stderr=self._log)

    def worker(self, number: int) -> subprocess.Popen[bytes]:
        """Starts a worker without a nanny: one that is killed stays away until this is called."""
        front = [*self._second, self._python] if number else [sys.executable]
        alone = ["--no-nanny", "--nthreads", "1", "--name", "ab"[number]]
        where = ["--local-directory", str(self._folder / "scratch")]
        return self._start([*front, "worker", self.address, *alone, *self._here, *where])

    def lose(self, number: int) -> None:
        """Kills a worker."""
        self.workers[number].kill()
        self.workers[number].wait()

    def again(self) -> None:
        """Kills whatever is left, and starts everything under the same address."""
        self._end()
        self.scheduler = self._scheduler()
        self.workers = [self.worker(0), self.worker(1)]

    def close(self) -> None:
        """Ends every process."""
        self._end()
        self._log.close()

    def _end(self) -> None:
        for process in (*self.workers, self.scheduler):
            process.kill()
            process.wait()


@contextlib.contextmanager
def cluster(folder: Path, second: Sequence[str], python: str) -> Iterator[Cluster]:
    """A cluster for the time of a block."""
    found = Cluster(folder, second, python)
    try:
        yield found
    finally:
        found.close()


def on(words: Sequence[str], where: Cluster) -> list[str]:
    """The words of a study on a cluster."""
    return [*words, "--executor=dask", "--scheduler", where.address, "--executor-option=wait=120"]


def kept(out: Path) -> dict[str, float]:
    """When each piece of finished work in a folder was put there, by key."""
    found = list(out.rglob(FILE))
    if not found:
        return {}
    with contextlib.closing(sqlite3.connect(found[0])) as database:
        return dict(database.execute("SELECT key, made FROM work"))


def disturbed(
    words: Sequence[str], out: Path, where: Cluster, how: str, seconds: float
) -> tuple[str | None, str]:
    """Runs a study, disturbed after some seconds; what is wrong, and what was said of it."""
    process = start(on(words, where), out)
    if how != "no":
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(seconds)
    if how == "worker":
        where.lose(0)
        where.workers[0] = where.worker(0)
        return told(process)
    if how == "no":
        return told(process)
    if how == "client":
        process.kill()
        process.communicate()
        where.lose(1)
    else:
        where.scheduler.kill()
        said = process.communicate()[1].decode(errors="replace")
        if process.returncode not in (0, 1, 2) or "Traceback" in said:
            return f"exit code {process.returncode}: {said[-500:]}", ""
        where.again()
    before = kept(out)
    fault, notes = told(start(on(words, where), out))
    after = kept(out)
    again = sum(after.get(key) != made for key, made in before.items())
    if how == "client":
        where.workers[1] = where.worker(1)
    fault = fault or (f"{again} pieces were computed again" if again else None)
    counts = f"{len(before)} of {len(after)} pieces were there"
    return fault, "; ".join(filter(None, (counts, notes)))


def told(process: subprocess.Popen[bytes]) -> tuple[str | None, str]:
    """What is wrong with how a study ended, and its notes."""
    said = process.communicate()[1].decode(errors="replace")
    notes = [line for line in said.splitlines() if line.startswith("note: worker")]
    if process.returncode not in (0, 1) or "Traceback" in said:
        return f"exit code {process.returncode}: {said[-500:]}", "; ".join(notes)
    return None, "; ".join(notes)


def main() -> None:
    """Tries; exit code 1 where something was lost or differed."""
    demo = quantcore.demo()
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=5)
    parser.add_argument("--clients", type=int, default=1)
    parser.add_argument("--schedulers", type=int, default=1)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--images", type=int, default=24)
    parser.add_argument("--study", action="append", default=[])
    parser.add_argument("--backend", action="append", default=[])
    parser.add_argument("--model", default=demo.model)
    parser.add_argument("--weights", type=Path, default=demo.weights)
    parser.add_argument("--data", type=Path, default=demo.data)
    parser.add_argument("--preset")
    parser.add_argument("--second", default="")
    parser.add_argument("--second-python", default=sys.executable)
    given = parser.parse_args()
    draw, faults = random.Random(given.seed), 0
    backends = given.backend or list(BACKENDS)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "policy.yaml").write_text("images: 8\n")
        options = {"preset": given.preset} if given.preset else {}
        model = quantcore.load_model(given.model, given.weights, **options)
        policy = quantcore.CalibrationPolicy(images=8)
        made = quantcore.calibrate(model, given.data, backend=backends[0], policy=policy)
        made.table.save(folder / "table.json")
        words = [given.model, "--weights", str(given.weights), "--data", str(given.data)]
        words += ["--preset", given.preset] if given.preset else []
        turns = [("worker", given.kills), ("client", given.clients)]
        turns = [("no", 1), *turns, ("scheduler", given.schedulers)]
        for study, (call, file) in commands(folder, words, backends, given.images).items():
            if given.study and study not in given.study:
                continue
            began = time.monotonic()
            assert (fault := ended(start(call, folder / study))) is None, fault
            wanted, lasting = result(folder / study / file), time.monotonic() - began
            print(f"{study}: here in {lasting:.1f} s", flush=True)
            with cluster(folder, shlex.split(given.second), given.second_python) as where:
                for number, how in enumerate(how for how, count in turns for _ in range(count)):
                    out, seconds = folder / f"{study}.{number}", draw.uniform(0.2, 0.8) * lasting
                    began = time.monotonic()
                    fault, notes = disturbed(call, out, where, how, seconds)
                    took = time.monotonic() - began
                    lasting = took if how == "no" else lasting
                    if fault is None and (others := differing(wanted, result(out / file))):
                        fault = f"another result in {', '.join(others[:5])}"
                    faults += fault is not None
                    when = "" if how == "no" else f", {how} killed after {seconds:.1f} s"
                    said = f" ({notes})" if notes else ""
                    print(f"{study} in {took:.1f} s{when}: {fault or 'equal'}{said}", flush=True)
    print(f"{faults} faults")
    sys.exit(bool(faults))


if __name__ == "__main__":
    main()
