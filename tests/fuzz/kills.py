"""Kills at random moments, and equal commands side by side: `python -m tests.fuzz.kills`.

Every long command runs on the packaged demo, once undisturbed. Then it is killed (`kill -9`) at a
random moment and run again to its end, or started twice into one folder; the results must equal the
undisturbed ones, but for times and memory.
"""

from __future__ import annotations

import argparse
import json
import random
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import quantcore

BACKEND = "pytorch-quantization"

#: Measured anew each time, whatever is computed.
_MEASURED = re.compile(
    r"_ms$|_ms_|seconds|peak_rss|images_per_second|latency|versions|host|caveat|verdict|_s$|^command$"
    r"|^date$|^ms$|speedup|^others$"
)


def commands(folder: Path, data: Path) -> dict[str, tuple[list[str], str]]:
    """By name the words of a long command, without `--out`, and the file that it ends with."""
    demo = quantcore.demo()
    model = [demo.model, "--weights", str(demo.weights), "--data", str(data)]
    table = ["--table", str(folder / "table.json")]
    policy = ["--policy", str(folder / "policy.yaml")]
    few = ["--images", "4"]
    return {
        "sensitivity": (["sensitivity", *model, *table, *few], "sensitivity.json"),
        "mixed": (["mixed", *model, *table, *few, "--top", "3"], "p.mixed/mixed.json"),
        "compare": (
            ["compare", *model, *policy, "--backend", BACKEND, "--eval-images", "8"],
            "report.json",
        ),
        "portability": (
            ["portability", *model, *policy, "--backend", BACKEND, "--eval-images", "4"],
            "portability.json",
        ),
    }


def start(words: Sequence[str], out: Path) -> subprocess.Popen[bytes]:
    """Starts a command into a folder."""
    where = out / "p.yaml" if words[0] == "mixed" else out
    call = [sys.executable, "-m", "quantcore", *words, "--out", str(where)]
    return subprocess.Popen(call, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)


def result(path: Path) -> Any:
    """What a command found, without what is measured."""

    def kept(value: Any) -> Any:
        if isinstance(value, dict):
            return {k: kept(v) for k, v in value.items() if not _MEASURED.search(k)}
        return [kept(v) for v in value] if isinstance(value, list) else value

    return kept(json.loads(path.read_text(encoding="utf-8")))


def differing(wanted: Any, found: Any, where: str = "") -> list[str]:
    """Where two results are not equal, as paths within the file."""
    if isinstance(wanted, dict) and isinstance(found, dict):
        keys = sorted(wanted.keys() | found.keys())
        return [d for k in keys for d in differing(wanted.get(k), found.get(k), f"{where}.{k}")]
    if isinstance(wanted, list) and isinstance(found, list) and len(wanted) == len(found):
        pairs = enumerate(zip(wanted, found, strict=True))
        return [d for n, pair in pairs for d in differing(*pair, f"{where}[{n}]")]
    return [] if wanted == found else [where]


def ended(process: subprocess.Popen[bytes]) -> str | None:
    """What is wrong with how a command ended."""
    said = process.communicate()[1].decode(errors="replace")
    if process.returncode not in (0, 1) or "Traceback" in said:
        return f"exit code {process.returncode}: {said[-300:]}"
    return None


def killed(words: Sequence[str], out: Path, seconds: float) -> str | None:
    """Kills a command after some seconds and runs it again."""
    process = start(words, out)
    time.sleep(seconds)
    process.kill()
    process.communicate()
    return ended(start(words, out))


def twice(words: Sequence[str], out: Path) -> str | None:
    """Runs a command twice at once into one folder."""
    both = [start(words, out) for _ in range(2)]
    return "; ".join(filter(None, map(ended, both))) or None


def main() -> None:
    """Tries; exit code 1 where something was lost or differed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--pairs", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    draw, faults = random.Random(given.seed), 0
    with tempfile.TemporaryDirectory() as name:
        folder, data = Path(name), quantcore.demo().data
        policy = quantcore.CalibrationPolicy(images=4)
        model = quantcore.load_model(quantcore.demo().model, quantcore.demo().weights)
        made = quantcore.calibrate(model, data, backend=BACKEND, policy=policy)
        made.table.save(folder / "table.json")
        (folder / "policy.yaml").write_text("images: 4\n")
        wanted, lasting = {}, {}
        for what, (words, file) in commands(folder, data).items():
            began = time.monotonic()
            assert ended(start(words, folder / what)) is None
            lasting[what] = time.monotonic() - began
            wanted[what] = result(folder / what / file)
            print(f"{what}: undisturbed in {lasting[what]:.1f} s", flush=True)
        turns = ["kill"] * given.kills + ["pair"] * given.pairs
        for number, way in enumerate(turns):
            what = list(wanted)[number % len(wanted)]
            words, file = commands(folder, data)[what]
            out = folder / str(number)
            seconds = draw.uniform(0, lasting[what])
            fault = killed(words, out, seconds) if way == "kill" else twice(words, out)
            if fault is None and result(out / file) != wanted[what]:
                fault = "another result"
            faults += fault is not None
            when = f" after {seconds:.1f} s" if way == "kill" else ""
            print(f"{number} {way} {what}{when}: {fault or 'equal'}", flush=True)
    print(f"{given.kills} kills and {given.pairs} pairs: {faults} faults")
    sys.exit(bool(faults))


if __name__ == "__main__":
    main()
