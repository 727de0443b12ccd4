"""Finding plugins: listing reads metadata and imports nothing; one driver is loaded when used."""

from __future__ import annotations

import difflib
import sys
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from functools import lru_cache
from importlib import metadata
from pathlib import Path
from typing import Any, cast

from packaging.requirements import InvalidRequirement, Requirement
from stevedore import DriverManager

import quantcore
from quantcore.contracts import backend, engine, executor, model, remote, rewrite
from quantcore.contracts.backend import BackendPlugin
from quantcore.contracts.engine import EnginePlugin
from quantcore.contracts.executor import ExecutorPlugin
from quantcore.contracts.model import ModelPlugin
from quantcore.contracts.rewrite import Rewrite
from quantcore.errors import BackendUnavailable, PluginError, QuantcoreError
from quantcore.ir.decoding import Decoding
from quantcore.runtime.jobs import Needs
from quantcore.runtime.progress import Progress, Silent
from quantcore.showing import one_line

MODELS = "quantcore.models"
BACKENDS = "quantcore.backends"
ENGINES = "quantcore.engines"
DECODINGS = "quantcore.decodings"
REWRITES = "quantcore.rewrites"
EXECUTORS = "quantcore.executors"

_CONTRACTS: dict[str, tuple[type, int]] = {
    MODELS: (ModelPlugin, model.API_VERSION),
    BACKENDS: (BackendPlugin, backend.API_VERSION),
    ENGINES: (EnginePlugin, engine.API_VERSION),
    REWRITES: (Rewrite, rewrite.API_VERSION),
    EXECUTORS: (ExecutorPlugin, executor.API_VERSION),
}


@dataclass(frozen=True)
class PluginInfo:
    """An installed plugin, as its metadata tells.

    Attributes:
        group: Entry-point group.
        name: What a person types.
        distribution: Who ships it.
        version: Of the distribution.
        unavailable: Why it cannot be used, with the command that helps; None where it can.
        python: The Python that it runs in, where that is of another environment.
    """

    group: str
    name: str
    distribution: str
    version: str
    unavailable: str | None
    python: str | None = None

    def to_dict(self) -> dict[str, Any]:
        """JSON form."""
        return {**asdict(self), "available": self.unavailable is None}


@dataclass(frozen=True)
class _Registered:
    """An entry point, with what the metadata of its distribution says.

    Attributes:
        point: The entry point.
        owner: Name of the distribution.
        version: Its version.
        requirements: What it needs.
        extras: Names of what may be needed besides.
    """

    point: metadata.EntryPoint
    owner: str
    version: str
    requirements: tuple[str, ...]
    extras: tuple[str, ...]

    @property
    def name(self) -> str:
        """What a person types."""
        return self.point.name

    @classmethod
    def of(cls, point: metadata.EntryPoint) -> _Registered:
        """Reads the metadata."""
        if point.dist is None:
            return cls(point, "an unknown distribution", "?", (), ())
        requirements = tuple(point.dist.requires or ())
        extras = tuple(point.dist.metadata.get_all("Provides-Extra") or ())
        return cls(point, point.dist.name, point.dist.version, requirements, extras)


def installed(group: str, progress: Progress | None = None) -> list[PluginInfo]:
    """The plugins of a group by name; imports none of them.

    Backends of other environments are asked for over there, which takes a second each.

    Raises:
        ConfigError: The file that names other environments is not as it should be.
    """
    found = [_info(group, each) for each in _registered(group)]
    apart = remote.elsewhere(info.name for info in found) if group == BACKENDS else {}
    found = [info for info in found if info.name not in apart]
    if apart:
        asked = (progress or Silent()).track(list(apart.items()), "asking other environments")
        found += [_info_elsewhere(name, python) for name, python in asked]
    return sorted(found, key=lambda info: info.name)


def plugins() -> list[PluginInfo]:
    """Every installed plugin of any kind but decodings; imports none of them."""
    return [info for group in _CONTRACTS for info in installed(group)]


def find(group: str, name: str) -> PluginInfo:
    """The plugin of that name in this environment.

    Raises:
        PluginError: Unknown, or registered twice.
        BackendUnavailable: What it drives is not installed; tells the command.
    """
    info = _info(group, _only(group, name))
    if info.unavailable:
        raise BackendUnavailable(f"{_kind(group)} {name!r} is not usable: {info.unavailable}")
    return info


def load_model(name: str) -> ModelPlugin:
    """The model plugin of that name; see `_load` for the errors."""
    return cast(ModelPlugin, _load(MODELS, name))


def load_backend(name: str) -> BackendPlugin:
    """The backend plugin of that name; see `_load` for the errors.

    It may live in another Python environment; see `quantcore.contracts.remote`.
    """
    python = remote.interpreter(name)
    if python is not None:
        return remote.RemoteBackend(name, python)
    return cast(BackendPlugin, _load(BACKENDS, name))


def load_engine(name: str) -> EnginePlugin:
    """The engine plugin of that name; see `_load` for the errors."""
    return cast(EnginePlugin, _load(ENGINES, name))


def load_decoding(kind: str) -> type[Decoding]:
    """The class of that kind; what it holds, an ONNX file's description says.

    Raises:
        PluginError: Unknown, registered twice, broken, or no decoding.
    """
    decoding = _only(DECODINGS, kind)
    try:
        found = decoding.point.load()
    except Exception as error:  # a plugin's import may fail in any way
        raise _broken(f"decoding {kind!r} of {decoding.owner} {decoding.version}", error) from error
    if not (isinstance(found, type) and issubclass(found, Decoding)):
        raise PluginError(f"decoding {kind!r} of {decoding.owner} is no {Decoding.__name__}")
    return found


def load_rewrite(name: str) -> Rewrite:
    """The rewrite of that name; see `_load` for the errors."""
    return cast(Rewrite, _load(REWRITES, name))


def load_executor(name: str) -> ExecutorPlugin:
    """The executor plugin of that name; see `_load` for the errors."""
    return cast(ExecutorPlugin, _load(EXECUTORS, name))


def _load(group: str, name: str) -> object:
    """Loads one plugin and makes it.

    Raises:
        PluginError: Unknown, registered twice, broken, or for another API version.
        BackendUnavailable: What it drives is not installed; tells the command.
    """
    info = find(group, name)
    who = f"{_kind(group)} {name!r} of {info.distribution} {info.version}"
    contract, version = _CONTRACTS[group]
    try:
        loaded: Any = DriverManager(group, name, invoke_on_load=False).driver
        # Before it is made: what another version calls its methods, this one takes for missing.
        written = getattr(loaded, "api_version", version)
        plugin: object = loaded(name) if written == version else None
    except ModuleNotFoundError as error:
        if not (error.name or "").startswith("quantcore."):
            raise _broken(who, error) from error
        told = f"another quantcore: it imports {error.name}, which this one has not"
        raise PluginError(_misfit(who, told, version, info.distribution)) from error
    except Exception as error:  # a plugin's import may fail in any way
        raise _broken(who, error) from error
    if written != version:
        told, newer = f"API version {written}", written > version
        raise PluginError(
            _misfit(who, told, version, "quantcore-ptq" if newer else info.distribution)
        )
    if not isinstance(plugin, contract):
        raise PluginError(f"{who} is no {contract.__name__}")
    return plugin


def _broken(who: str, error: Exception) -> PluginError:
    return PluginError(f"{who} fails to load: {type(error).__name__}: {error}")


def _misfit(who: str, written_for: str, version: int, behind: str) -> str:
    """What to tell of a plugin of another contract; `behind` is what to upgrade."""
    return (
        f"{who} is written for {written_for}; this is quantcore {quantcore.__version__} with API "
        f"version {version}; run: pip install --upgrade {behind}"
    )


def _kind(group: str) -> str:
    return group.rpartition(".")[2].rstrip("s")


def _only(group: str, name: str) -> _Registered:
    """The plugin of that name, which is there once; see `find`."""
    kind, known = _kind(group), _registered(group)
    found = [each for each in known if each.name == name]
    if not found:
        here = {each.name for each in known}
        names = sorted(here.union(remote.elsewhere(here) if group == BACKENDS else ()))
        close = difflib.get_close_matches(name, names, n=1)
        hint = f" (did you mean {close[0]!r}?)" if close else ""
        raise PluginError(f"unknown {kind} {name!r}{hint}; installed: {', '.join(names) or 'none'}")
    if len(found) > 1:
        owners = " and ".join(sorted(each.owner for each in found))
        raise PluginError(f"{kind} {name!r} is registered twice, by {owners}; uninstall one")
    return found[0]


def _registered(group: str) -> tuple[_Registered, ...]:
    """What is registered under a group."""
    return _scanned(group, _path())


@lru_cache(maxsize=32)
def _scanned(group: str, path: object) -> tuple[_Registered, ...]:
    """One for each name and distribution; reading all metadata anew takes 20 ms.

    A distribution can be found twice on the path (an editable install run from its own folder);
    that is not a second registration.
    """
    each = map(_Registered.of, metadata.entry_points(group=group))
    return tuple({(one.name, one.owner): one for one in each}.values())


@lru_cache(maxsize=512)
def _version(distribution: str, path: object) -> str | None:
    """The installed version; None where there is none."""
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return None


def _path() -> tuple[tuple[str, int], ...]:
    """Where distributions are looked for; a folder's time changes when one comes or goes."""
    found = []
    for entry in sys.path:
        try:
            found.append((entry, Path(entry).stat().st_mtime_ns))
        except OSError:
            found.append((entry, 0))
    return tuple(found)


def _info(group: str, registered: _Registered) -> PluginInfo:
    reason = None
    try:
        missing = _missing(registered)
    except InvalidRequirement as error:
        reason = f"the metadata of {registered.owner} is damaged ({one_line(str(error), 100)})"
    else:
        if missing:
            commands = " ".join(f'"{m}"' for m in missing)
            reason = f"needs {', '.join(missing)}; run: pip install {commands}"
    return PluginInfo(group, registered.name, registered.owner, registered.version, reason)


def _info_elsewhere(name: str, python: Path) -> PluginInfo:
    try:
        told = remote.listed(name, python)
    except QuantcoreError as error:
        return PluginInfo(BACKENDS, name, "?", "?", str(error), str(python))
    return PluginInfo(BACKENDS, name, told["distribution"], told["version"], None, str(python))


def _missing(registered: _Registered) -> list[str]:
    """Requirements of the plugin's distribution that are not met, as pip would be told them.

    An extra with the plugin's name (`quantcore-ptq[openvino]`) holds what that one plugin needs.
    Extras `NAME-VARIANT` are other ways; any one will do.
    """
    name, path = registered.name, _path()
    needs = list(map(_parsed, registered.requirements))
    ways = [name, *(extra for extra in registered.extras if extra.startswith(f"{name}-"))]
    found = [[_plain(r) for r in needs if _applies(r, way) and not _met(r, path)] for way in ways]
    return next((missing for missing in found if not missing), found[0])


@lru_cache(maxsize=512)
def _parsed(requirement: str) -> Requirement:
    return Requirement(requirement)


def _applies(requirement: Requirement, extra: str) -> bool:
    marker = requirement.marker
    return marker is None or any(marker.evaluate({"extra": e}) for e in ("", extra))


def _met(requirement: Requirement, path: object) -> bool:
    version = _version(requirement.name, path)
    return version is not None and requirement.specifier.contains(version, prereleases=True)


def _plain(requirement: Requirement) -> str:
    return f"{requirement.name}{requirement.specifier}"


def needed(group: str, name: str, device: str = "auto") -> Needs:
    """What a machine must have to run a plugin.

    Args:
        group: Entry-point group.
        name: Of the plugin.
        device: Where it computes: `auto`, `cpu` or `cuda`.
    """
    return Needs(plugins=((group, name),), cuda=device == "cuda")


def versions_of(distributions: Iterable[str]) -> dict[str, str]:
    """Installed version of each distribution; for provenance."""
    path = _path()
    return {name: _version(name, path) or metadata.version(name) for name in distributions}
