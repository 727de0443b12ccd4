"""Writing out a new backend from the template that lies beside this file."""

from __future__ import annotations

import re
import shutil
import tempfile
from importlib import resources
from pathlib import Path
from string import Template

from quantcore.errors import OutputError, UsageError

#: File of the template -> its place in the new distribution.
_PLACES = {
    "pyproject.toml.tmpl": "pyproject.toml",
    "README.md.tmpl": "README.md",
    "init.py.tmpl": "src/$package/__init__.py",
    "plugin.py.tmpl": "src/$package/plugin.py",
    "session.py.tmpl": "src/$package/session.py",
    "test_conformance.py.tmpl": "tests/test_conformance.py",
}
_NAME = re.compile(r"[a-z][a-z0-9]*(-[a-z0-9]+)*")


def render(name: str) -> dict[str, str]:
    """The files of a new backend's distribution, by path.

    Args:
        name: What a person will type after `--backend`.

    Raises:
        UsageError: The name cannot be a backend's.
    """
    if not _NAME.fullmatch(name):
        raise UsageError(
            f"{name!r} cannot be a backend's name: use lower-case letters, digits and single "
            "hyphens, a letter first (my-backend)"
        )
    words = {
        "name": name,
        "distribution": f"quantcore-backend-{name}",
        "package": f"quantcore_backend_{name.replace('-', '_')}",
        "stem": "".join(part.capitalize() for part in name.split("-")),
    }
    folder = resources.files("quantcore.testing") / "template"
    files = {
        Template(place).substitute(words): Template(
            (folder / source).read_text(encoding="utf-8")
        ).substitute(words)
        for source, place in _PLACES.items()
    }
    return {**files, f"src/{words['package']}/py.typed": ""}


def write(name: str, out: Path) -> None:
    """Writes a new backend's distribution, whole or not at all.

    Args:
        name: See `render`.
        out: The folder to make.

    Raises:
        UsageError: The name cannot be a backend's, or there is something at `out`.
        OutputError: It cannot be written.
    """
    files = render(name)
    if out.exists():
        raise UsageError(f"{out}: is there already; choose another folder with --out")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=out.parent, prefix=".new-") as folder:
            whole = Path(folder) / "whole"
            for place, text in files.items():
                path = whole / place
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text(text, encoding="utf-8")
            shutil.move(whole, out)
    except OSError as error:
        raise OutputError(f"{out}: cannot write the backend: {error}") from None
