"""How many threads a process may use: one place for every framework, library and engine.

Each framework starts as many threads as there are cores, and OpenMP's wait for work by spinning:
beside other work that costs a factor of 10 to 50. A process that quantcore starts is told its share
by its environment, which is read before any of them is imported.
"""

from __future__ import annotations

import os
from collections.abc import Mapping

#: Environment variables that hold a number of threads.
_COUNTS = (
    "OMP_NUM_THREADS",
    "MKL_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "NUMBA_NUM_THREADS",
    "OPENCV_FOR_THREADS_NUM",
)

#: How threads wait: asleep, in GNU's, LLVM's and Intel's OpenMP.
_WAITING = {"OMP_WAIT_POLICY": "PASSIVE", "GOMP_SPINCOUNT": "0", "KMP_BLOCKTIME": "0"}


#: What quantcore told a process that it started.
_OWN = "QUANTCORE_THREADS"


def cores() -> int:
    """Cores that this process may use."""
    there = (
        len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    )
    told = os.environ.get(_OWN, "")
    return min(there, int(told)) if told.isdigit() and int(told) else there


def share(processes: int, threads: int | None = None) -> int:
    """Threads for each of some processes, so that together they do not exceed the cores.

    Args:
        processes: That run beside each other.
        threads: What a person asked for; never more than the share.
    """
    fair = max(1, cores() // processes)
    return min(threads, fair) if threads else fair


def environment(threads: int) -> Mapping[str, str]:
    """What limits a process to some threads; a smaller number that a person set is kept."""
    found = {**_WAITING, _OWN: str(threads)}
    for name in _COUNTS:
        own = os.environ.get(name, "")
        found[name] = str(min(int(own), threads) if own.isdigit() and int(own) else threads)
    return found


def limit_this_process() -> None:
    """For the command line, before anything heavy is imported: a share of one process."""
    os.environ.update(environment(cores()))
