"""The long run: `python -m tests.fuzz --count 2000 --seed 1`, from the root of the repository.

Each reader runs in a process of its own, so that one that dies is told as that.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path

from tests.fuzz.readers import READERS
from tests.fuzz.trying import attempt


def _one(name: str, count: int, seed: int, first: int) -> int:
    reader = next(reader for reader in READERS if reader.name == name)
    with tempfile.TemporaryDirectory() as folder:
        tried = attempt(reader, Path(folder), range(first, first + count), seed)
    for number, fault in tried.faults[:20]:
        print(f"{name} {seed} {number}: {fault}")
    print(
        f"{name}: {tried.inputs} files, {tried.refused} refused with one line, slowest "
        f"{tried.slowest:.1f} s, {len(tried.faults)} faults",
        flush=True,
    )
    return min(len(tried.faults), 1)


def main() -> None:
    """Runs the chosen readers; exit code 1 where one broke a promise."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--reader", choices=[reader.name for reader in READERS])
    parser.add_argument("--count", type=int, default=2000, help="files for each reader")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--first", type=int, default=0, help="number of the first file")
    given = parser.parse_args()
    if given.reader:
        sys.exit(_one(given.reader, given.count, given.seed, given.first))
    worst = 0
    for reader in READERS:
        words = ["--reader", reader.name, "--count", given.count, "--seed", given.seed]
        command = [sys.executable, "-m", "tests.fuzz", *map(str, [*words, "--first", given.first])]
        code = subprocess.run(command).returncode
        if code < 0 or code > 1:
            print(f"{reader.name}: the process died with {code}", flush=True)
        worst = max(worst, abs(code))
    sys.exit(bool(worst))


if __name__ == "__main__":
    main()
