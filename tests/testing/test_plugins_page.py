"""The code in docs/plugins.md, put where the page says, makes a backend that keeps its promises."""

from __future__ import annotations

import ast
import importlib
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from quantcore.contracts.registry import load_backend
from quantcore.testing import kit, scaffold

PAGE = Path(__file__).parents[2] / "docs" / "plugins.md"
OWNER = {"plugin": "AcmeBackend", "session": None}
IMPORTS = (
    "from quantcore.contracts.backend import FrameworkLayer\n"
    "from quantcore.ir.model import LayerInfo\n"
)


def blocks() -> list[tuple[str, str]]:
    return re.findall(r"^```python (\w+)\n(.*?)^```", PAGE.read_text(), re.S | re.M)


@pytest.fixture
def acme(site: Path, tmp_path: Path, install) -> Path:
    out = tmp_path / "acme"
    scaffold.write("acme", out)
    package = out / "src" / "quantcore_backend_acme"
    for place, code in blocks():
        if place == "test":
            (out / "tests" / "test_conformance.py").write_text(code)
            continue
        path = package / f"{place}.py"
        text = path.read_text()
        text = text.replace("from quantcore.ir", IMPORTS + "from quantcore.ir", 1)
        names = [
            node.name if isinstance(node, ast.FunctionDef) else node.targets[0].id
            for node in ast.parse(code).body
        ]
        owner = OWNER[place]
        own = [f"{owner}.{name} = {name}" for name in names if owner]
        path.write_text("\n".join([text, code, *own, ""]))
    (site / package.name).symlink_to(package)
    install("acme", "quantcore_backend_acme.plugin:AcmeBackend", ("numpy", "quantcore-ptq"))
    importlib.invalidate_caches()
    return out


def test_every_python_block_says_where_it_goes() -> None:
    assert PAGE.read_text().count("```python") == len(blocks()) == 5


def test_the_backend_of_the_page_keeps_its_promises(acme) -> None:
    outcomes = list(kit.run("acme"))
    assert not [(o.check.name, o.detail) for o in outcomes if o.status == "failed"]
    known = load_backend("acme").capabilities
    assert set(known.activation_observers) == {"max", "percentile"}


def test_the_test_file_of_the_page_runs_the_kit(acme) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "tests", "-k", "layers"],
        cwd=acme,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_names_on_the_page_are_there() -> None:
    for module in re.findall(r"`(quantcore\.[a-z_.]*[a-z_])", PAGE.read_text()):
        try:
            importlib.import_module(module)
        except ImportError:
            parent, _, name = module.rpartition(".")
            if parent != "quantcore":  # quantcore.backends is a group of entry points
                assert hasattr(importlib.import_module(parent), name), module
