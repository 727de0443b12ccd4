"""The machine that measured, in general terms; latencies mean nothing without it."""

from __future__ import annotations

import contextlib
import os
import platform
import time
from collections.abc import Mapping
from pathlib import Path

import psutil


def host() -> Mapping[str, object]:
    """The machine that measured, in general terms."""
    found: dict[str, object] = {
        "processor": _processor(),
        "cores": os.cpu_count(),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
    }
    if names := gpus():
        found["gpus"] = list(names)
    return found


def gpus() -> tuple[str, ...]:
    """Names of NVIDIA's GPUs, as the driver tells them; no library is needed for that."""
    found = []
    for path in sorted(Path("/proc/driver/nvidia/gpus").glob("*/information")):
        with contextlib.suppress(OSError):
            for line in path.read_text().splitlines():
                if line.startswith("Model:"):
                    found.append(line.partition(":")[2].strip())
    return tuple(found)


def _processor() -> str:
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor()


class OtherWork:
    """Watches, for the time of a block, how busy the machine is with other processes' work.

    Attributes:
        share: Of the machine's cores, 0..1, once the block has ended; None where it was too short
            for the system's clock, or the system does not tell.
    """

    share: float | None = None

    def __enter__(self) -> OtherWork:
        self._began = _Busy()
        return self

    def __exit__(self, *_: object) -> None:
        began, ended = self._began, _Busy()
        wall = (ended.at - began.at) * (os.cpu_count() or 1)
        if ended.at - began.at >= _SHORTEST:
            others = (ended.all - began.all) - (ended.own - began.own)
            self.share = min(max(others / wall, 0.0), 1.0)


#: Seconds; systems count the time of processes in hundredths.
_SHORTEST = 0.2


class _Busy:
    """CPU seconds since the machine and this process started; time stolen by a host counts."""

    def __init__(self) -> None:
        times, own = psutil.cpu_times(), psutil.Process().cpu_times()
        idle = times.idle + getattr(times, "iowait", 0.0)
        guests = getattr(times, "guest", 0.0) + getattr(times, "guest_nice", 0.0)  # in user, nice
        self.at = time.monotonic()
        self.all = sum(times) - idle - guests
        self.own = own.user + own.system
