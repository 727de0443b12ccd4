"""Which backends live in another Python environment: environment variables, and `quantcore.toml`.

The file lies in the working folder, or where `QUANTCORE_CONFIG` says:

    [backends.modelopt]
    python = "../modelopt/bin/python"
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from quantcore.errors import ConfigError
from quantcore.showing import shown

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

VARIABLE = "QUANTCORE_PYTHON_"
CONFIG_VARIABLE = "QUANTCORE_CONFIG"
CONFIG_FILE = "quantcore.toml"


def variable(name: str) -> str:
    """The environment variable that moves a backend to another Python; empty keeps it here."""
    return VARIABLE + name.upper().replace("-", "_")


def interpreter(name: str) -> Path | None:
    """The Python that a backend runs in; None where it runs in this one.

    Raises:
        ConfigError: The configuration file is not as it should be.
    """
    value = os.environ.get(variable(name))
    if value is not None:
        return Path(value) if value else None
    return _configured().get(name)


def told_by(name: str) -> str:
    """The variable or the file that says where a backend runs."""
    return variable(name) if os.environ.get(variable(name)) else str(_file())


def elsewhere(known: Iterable[str]) -> dict[str, Path]:
    """Every backend that runs in another environment, by name.

    Args:
        known: Backends that are installed here; a variable that fits none of them, nor the file,
            names a backend in small letters, with `-` for `_`.

    Raises:
        ConfigError: The configuration file is not as it should be.
    """
    names = {variable(name): name for name in (*_configured(), *known)}
    for key in os.environ:
        if key.startswith(VARIABLE) and key != VARIABLE:
            names.setdefault(key, key.removeprefix(VARIABLE).lower().replace("_", "-"))
    found = {name: interpreter(name) for name in sorted(names.values())}
    return {name: python for name, python in found.items() if python is not None}


def _file() -> Path:
    return Path(os.environ.get(CONFIG_VARIABLE, CONFIG_FILE))


def _configured() -> dict[str, Path]:
    """What the configuration file says; nothing where there is none."""
    told, path = os.environ.get(CONFIG_VARIABLE), _file()
    if told == "" or (told is None and not path.exists()):
        return {}
    try:
        data = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        said = f"{CONFIG_VARIABLE} says {path}" if told else str(path)
        raise ConfigError(f"{said}: cannot be read: {error.strerror or error}") from None
    except (ValueError, RecursionError) as error:  # TOML's own, and text that is not UTF-8
        raise ConfigError(f"{path}: not TOML: {error}") from None
    _only(data, ("backends",), path, "")
    entries = _table(data.get("backends", {}), path, "backends")
    return {name: _python(entry, name, path) for name, entry in entries.items()}


def _python(entry: Any, name: str, path: Path) -> Path:
    where = f"backends.{name}"
    _only(_table(entry, path, where), ("python",), path, where)
    python = entry.get("python")
    if not isinstance(python, str) or not python:
        raise ConfigError(f'{path}: [{where}] needs python = "PATH", not {shown(python)}')
    found = Path(python).expanduser()
    # As a shell in the file's folder would take it: a bare name is looked for on the PATH. Links
    # stay, as an environment's Python is told from others by the name it is called by.
    return path.absolute().parent / found if len(found.parts) > 1 else found


def _table(value: Any, path: Path, where: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise ConfigError(f"{path}: {where} must be a table, not {shown(value)}")
    return value


def _only(table: dict[str, Any], keys: tuple[str, ...], path: Path, where: str) -> None:
    """Refuses keys that would be silently left out."""
    for key in table:
        if key not in keys:
            place = f"[{where}] " if where else ""
            raise ConfigError(f"{path}: {place}unknown key {shown(key)}; known: {', '.join(keys)}")
