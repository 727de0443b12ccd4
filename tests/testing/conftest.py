"""The fake backends, installed on a path of their own."""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import stevedore._cache
from stevedore import ExtensionManager

from quantcore.contracts.registry import BACKENDS
from quantcore.testing import scaffold

Install = Callable[..., None]


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder on the path, here and in processes that start from here; forgotten afterwards."""
    folder = tmp_path / "site"
    folder.mkdir()
    monkeypatch.syspath_prepend(str(folder))
    monkeypatch.syspath_prepend(str(Path(__file__).parent))
    paths = [str(folder), str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, paths)))
    # stevedore keeps what it found by group, by sys.path, and under ~/.cache: none may see this.
    cache = stevedore._cache.Cache(str(tmp_path / "cache"))
    monkeypatch.setattr(stevedore._cache, "get_group_all", cache.get_group_all)
    monkeypatch.setattr(ExtensionManager, "ENTRY_POINT_CACHE", {})
    yield folder
    for name, module in list(sys.modules.items()):
        # Only what came from here: an installed plugin's modules stay what its tests imported.
        ours = str(getattr(module, "__file__", None)).startswith(str(folder))
        if ours or name.startswith("fake_backends"):
            del sys.modules[name]


@pytest.fixture
def install(site: Path) -> Install:
    """Registers `module:attribute` as a backend."""

    def make(name: str, target: str, requires: tuple[str, ...] = ("numpy",)) -> None:
        info = site / f"quantcore_backend_{name.replace('-', '_')}-1.0.dist-info"
        info.mkdir()
        lines = [f"Metadata-Version: 2.1\nName: quantcore-backend-{name}\nVersion: 1.0"]
        lines += [f"Requires-Dist: {requirement}" for requirement in requires]
        (info / "METADATA").write_text("\n".join(lines) + "\n")
        (info / "entry_points.txt").write_text(f"[{BACKENDS}]\n{name} = {target}\n")

    return make


@pytest.fixture
def honest(site: Path) -> Path:
    """The template's package as `quantcore_backend_honest`, for the fakes to build on."""
    for place, text in scaffold.render("honest").items():
        if place.startswith("src/"):
            path = site / place.removeprefix("src/")
            path.parent.mkdir(exist_ok=True)
            path.write_text(text)
    importlib.invalidate_caches()
    return site
