"""Which backends live in another Python environment: environment variables, and `quantcore.toml`.

The file lies where `QUANTCORE_CONFIG` says, in the working folder or, where that has none, in
`~/.config/quantcore`. One in the working folder is read, but what it names is started only once
the user has confirmed the file (`quantcore trust`):

    [backends.modelopt]
    python = "../modelopt/bin/python"
"""

from __future__ import annotations

import hashlib
import os
import re
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from quantcore.errors import ConfigError
from quantcore.reading import read_bytes
from quantcore.runtime.files import write_whole
from quantcore.showing import one_line, shown

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

VARIABLE = "QUANTCORE_PYTHON_"
CONFIG_VARIABLE = "QUANTCORE_CONFIG"
CONFIG_FILE = "quantcore.toml"

#: Bytes of the file, and characters of a path in it.
_MOST_BYTES, _LONGEST_PATH = 1 << 16, 4096


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


def check_confirmed(name: str, python: Path) -> None:
    """Lets a program be started only where the user has said so.

    Whoever fills a folder also writes the `quantcore.toml` in it, and working there must not run
    what they chose.

    Raises:
        ConfigError: The working folder's file alone names the program.
    """
    path = _file()
    told = os.environ.get(variable(name)) or os.environ.get(CONFIG_VARIABLE)
    if told or path != Path(CONFIG_FILE) or _configured().get(name) != python:
        return
    if not is_confirmed(path):
        raise ConfigError(
            f"{path}: says that backend {shown(name)} runs {shown(str(python))}, which starts a "
            "program of its writer's choosing; read the file, then run: quantcore trust"
        )


def is_confirmed(path: Path) -> bool:
    """Whether the user has confirmed the file as it is now."""
    try:
        return _confirmation(path).read_text(encoding="utf-8") == _digest(path)
    except (OSError, UnicodeDecodeError):
        return False


def confirm(path: Path) -> dict[str, Path]:
    """Lets a file start programs until it changes; the programs by backend.

    Raises:
        ConfigError: It cannot be read, or is not as it should be.
        OutputError: The user's configuration folder cannot be written to.
    """
    digest, found = _digest(path), _read(path)
    write_whole(_confirmation(path), digest)
    return found


def _confirmation(path: Path) -> Path:
    place = hashlib.sha256(str(path.absolute().resolve()).encode()).hexdigest()
    return _user_folder() / "confirmed" / place


def _digest(path: Path) -> str:
    return hashlib.sha256(read_bytes(path, _MOST_BYTES, ConfigError)).hexdigest()


def _user_folder() -> Path:
    """The user's configuration folder, as the XDG base directories have it."""
    told = os.environ.get("XDG_CONFIG_HOME")
    return (Path(told) if told else Path.home() / ".config") / "quantcore"


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
    """The file that counts: the one that the user names, else the working folder's, else theirs."""
    told = os.environ.get(CONFIG_VARIABLE)
    if told is not None:
        return Path(told)
    own = _user_folder() / CONFIG_FILE
    return Path(CONFIG_FILE) if Path(CONFIG_FILE).exists() or not own.exists() else own


def _configured() -> dict[str, Path]:
    """What the configuration file says; nothing where there is none."""
    told, path = os.environ.get(CONFIG_VARIABLE), _file()
    if told == "" or (told is None and not path.exists()):
        return {}
    return _read(path)


def _read(path: Path) -> dict[str, Path]:
    said = f"{CONFIG_VARIABLE} says " if os.environ.get(CONFIG_VARIABLE) else ""
    content = read_bytes(path, _MOST_BYTES, lambda text: ConfigError(said + text))
    try:
        data = tomllib.loads(content.decode())
    except (ValueError, RecursionError) as error:  # TOML's own, and text that is not UTF-8
        raise ConfigError(f"{path}: not TOML: {one_line(str(error), 200)}") from None
    _only(data, ("backends",), path, "")
    entries = _table(data.get("backends", {}), path, "backends")
    for name in entries:
        if not re.fullmatch(r"[\w.-]{1,100}", name, re.ASCII):
            raise ConfigError(f"{path}: {shown(name)} is no name of a backend")
    return {name: _python(entry, name, path) for name, entry in entries.items()}


def _python(entry: Any, name: str, path: Path) -> Path:
    where = f"backends.{name}"
    _only(_table(entry, path, where), ("python",), path, where)
    python = entry.get("python")
    if not isinstance(python, str) or not python:
        raise ConfigError(f'{path}: [{where}] needs python = "PATH", not {shown(python)}')
    if not python.isprintable() or len(python) > _LONGEST_PATH:
        raise ConfigError(f"{path}: [{where}] python = {shown(python)} is no path")
    try:
        found = Path(python).expanduser()
    except RuntimeError:
        user = shown(Path(python).parts[0])
        raise ConfigError(f"{path}: [{where}] python: there is no user {user}") from None
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
