"""The distributions agree: one version, pins that admit it, extras that name what is here."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from packaging.requirements import Requirement

import quantcore

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).resolve().parents[1]
CORE = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
PARTS: dict[str, dict[str, Any]] = {
    data["name"]: {**data, "folder": path.parent}
    for path in sorted(ROOT.glob("*/*/pyproject.toml"))
    for data in [tomllib.loads(path.read_text())["project"]]
    if path.parent.name != "template"
}


def test_there_are_distributions() -> None:
    assert {"quantcore-yolo", "quantcore-paddle", "quantcore-backend-nncf"} <= PARTS.keys()


@pytest.mark.parametrize("name", PARTS)
def test_a_distribution_has_the_version_and_pins_it(name: str) -> None:
    part = PARTS[name]
    assert part["version"] == quantcore.__version__
    assert part["requires-python"] == CORE["requires-python"]
    assert part["license"] == CORE["license"]
    assert (part["folder"] / part["readme"]).is_file()
    (pin,) = [r for r in map(Requirement, part["dependencies"]) if r.name == CORE["name"]]
    assert pin.specifier.contains(quantcore.__version__)
    assert not pin.specifier.contains("0.2.0"), "another minor version may change the contracts"


def test_extras_name_what_is_here() -> None:
    extras = CORE["optional-dependencies"]
    named = {}
    for extra, requirements in extras.items():
        for requirement in map(Requirement, requirements):
            if requirement.name == CORE["name"]:
                assert requirement.extras <= extras.keys(), extra
            elif requirement.name.startswith("quantcore"):
                assert requirement.name in PARTS, extra
                assert requirement.specifier.contains(quantcore.__version__)
                named[extra] = requirement.name
    assert {"torch", "paddle", "models"} <= named.keys()
    (everything,) = map(Requirement, extras["all"])
    # `models` comes with the frameworks; the full TensorRT is another way to `tensorrt`.
    assert everything.extras == extras.keys() - {"all", "models", "tensorrt-enterprise"}


def test_what_is_said_elsewhere_agrees() -> None:
    told = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert (told["version"], told["license"]) == (quantcore.__version__, CORE["license"])
    for path in sorted((ROOT / ".github").rglob("*.yml")):
        assert yaml.safe_load(path.read_text()), path
    for path in sorted((ROOT / "containers").iterdir()):
        installed = [w for w in path.read_text().split() if w.startswith(("models/", "backends/"))]
        assert all((ROOT / folder / "pyproject.toml").is_file() for folder in installed), path
