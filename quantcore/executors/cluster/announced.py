"""What a worker says of itself: plugins and their versions, hardware, memory."""

from __future__ import annotations

import contextlib
import json
import platform
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

import quantcore
from quantcore.contracts import registry
from quantcore.contracts.backend import BackendPlugin
from quantcore.contracts.engine import EnginePlugin
from quantcore.errors import QuantcoreError
from quantcore.runtime.host import host
from quantcore.runtime.jobs import Needs

#: What every figure depends on, whichever plugin is used.
_COMMON = ("numpy", "onnx", "onnxruntime")


@dataclass(frozen=True, kw_only=True)
class Announced:
    """What a worker says of itself.

    Attributes:
        machine: Of which several workers may be, told apart from others.
        host: Its hardware, as results name it.
        versions: Of quantcore and of what every figure depends on.
        plugins: By entry-point group and name, versions of what each drives.
        threads: That it may use.
        memory: Bytes that it may use; None for no limit.
    """

    machine: str
    host: dict[str, Any]
    versions: dict[str, str]
    plugins: dict[str, dict[str, dict[str, str]]] = field(default_factory=dict)
    threads: int = 1
    memory: int | None = None

    @cached_property
    def hardware(self) -> str:
        """One text for workers that are alike."""
        return json.dumps(self.host, sort_keys=True)

    def lacks(self, needs: Needs) -> list[str]:
        """What a job needs and this worker has not, in words."""
        missing = [
            f"{group.rpartition('.')[2].rstrip('s')} {name}"
            for group, name in needs.plugins
            if name not in self.plugins.get(group, {})
        ]
        return [*missing, *(["GPU"] if needs.cuda and "gpus" not in self.host else [])]

    def differs(self, other: Announced) -> list[str]:
        """Versions that are not those of another, in words; of what both have."""
        found = list(_differing("", self.versions, other.versions))
        for group, plugins in self.plugins.items():
            theirs = other.plugins.get(group, {})
            for name in plugins.keys() & theirs.keys():
                found += _differing(f"{name}: ", plugins[name], theirs[name])
        return sorted(set(found))


def _differing(whose: str, mine: Mapping[str, str], theirs: Mapping[str, str]) -> Iterable[str]:
    for name in sorted(mine.keys() | theirs.keys()):
        if mine.get(name) != theirs.get(name):
            yield f"{whose}{name} {mine.get(name, 'missing')}, here {theirs.get(name, 'missing')}"


@lru_cache
def announced(threads: int, memory: int | None) -> Announced:
    """What this process says of itself; found out once.

    Args:
        threads: That it may use.
        memory: Bytes that it may use.
    """
    python = ".".join(platform.python_version_tuple()[:2])
    versions = {"quantcore": quantcore.__version__, "python": python}
    return Announced(
        machine=_machine(),
        host=dict(host()),
        versions={**versions, **registry.versions_of(_COMMON)},
        plugins={
            registry.BACKENDS: _versions(registry.BACKENDS),
            registry.ENGINES: _versions(registry.ENGINES),
            registry.REWRITES: {info.name: {} for info in registry.installed(registry.REWRITES)},
        },
        threads=threads,
        memory=memory,
    )


def _versions(group: str) -> dict[str, dict[str, str]]:
    """The plugins of a group that can be used."""
    found: dict[str, dict[str, str]] = {}
    for info in registry.installed(group):
        with contextlib.suppress(QuantcoreError):
            if info.unavailable is None:
                found[info.name] = dict(_loaded(group, info.name).versions())
    return found


def _loaded(group: str, name: str) -> BackendPlugin | EnginePlugin:
    if group == registry.BACKENDS:
        return registry.load_backend(name)
    return registry.load_engine(name)


def _machine() -> str:
    """Containers on one machine share its kernel, and disturb each other."""
    with contextlib.suppress(OSError):
        return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    return platform.node()
