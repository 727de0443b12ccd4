"""Every check lets an honest backend pass and catches one that breaks its promise."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from quantcore.errors import PluginError, QuantcoreError
from quantcore.testing import CHECKS, kit
from quantcore.testing.under_test import BackendUnderTest

FAKES = Path(__file__).with_name("fake_backends.py")
BY_ID = [pytest.param(check, id=check.name) for check in CHECKS]


def broken() -> dict[str, str]:
    """Check -> class, read without importing the fakes, which need the template's package."""
    found = {}
    for node in ast.parse(FAKES.read_text()).body:
        if isinstance(node, ast.ClassDef) and node.decorator_list:
            call = node.decorator_list[0]
            found[ast.literal_eval(call.args[0])] = node.name
    return found


def test_each_check_has_a_fake_that_breaks_it() -> None:
    assert broken().keys() == {check.name for check in CHECKS}


@pytest.mark.parametrize("check", BY_ID)
def test_an_honest_backend_keeps_the_promise(check, honest, install) -> None:
    install("fake", "fake_backends:Fake")
    backend = BackendUnderTest("fake")
    assert check.applies(backend.plugin)
    check.run(backend)


@pytest.mark.parametrize("check", BY_ID)
def test_a_broken_backend_is_caught(check, honest, install) -> None:
    fake = broken()[check.name]
    if fake == "Listed":
        (honest / "sitecustomize.py").write_text("import fake_backends")
    install("fake", f"fake_backends:{fake}", () if fake == "WithoutRequirements" else ("numpy",))
    # A table that JSON cannot hold ends in a TypeError; any other would be a fault of the fake.
    with pytest.raises((AssertionError, QuantcoreError, TypeError)):
        check.run(BackendUnderTest("fake"))


def test_portable_observers_need_no_float64(honest, install) -> None:
    install("single", "study_backends:Single")
    check = next(c for c in CHECKS if c.name.startswith("portable"))
    check.run(BackendUnderTest("single"))


def test_files_that_are_left_behind_are_caught(honest, install) -> None:
    check = next(c for c in CHECKS if c.name.startswith("interruption"))
    install("fake", "fake_backends:Littering")
    with pytest.raises(AssertionError, match="left files behind"):
        check.run(BackendUnderTest("fake"))


def test_the_kit_goes_on_after_a_broken_promise(honest, install, monkeypatch) -> None:
    install("fake", "fake_backends:Another")
    chosen = [c for c in CHECKS if c.name.startswith(("network", "layers", "unknown", "NaN"))]
    monkeypatch.setattr(kit, "CHECKS", chosen)
    outcomes = {outcome.check.name: outcome for outcome in kit.run("fake")}
    assert [o.status for o in outcomes.values()] == ["passed", "failed", "passed", "passed"]
    assert "differs from the float graph" in outcomes["network agrees with the float graph"].detail


def test_what_is_not_declared_is_skipped(honest, install, monkeypatch) -> None:
    install("honest", "quantcore_backend_honest.plugin:HonestBackend")
    monkeypatch.setattr(kit, "CHECKS", [c for c in CHECKS if c.tier == "simulate"])
    outcomes = list(kit.run("honest"))
    assert outcomes
    assert all((o.status, o.detail) == ("skipped", "does not declare simulate") for o in outcomes)


def test_an_unknown_backend_is_told(site) -> None:
    with pytest.raises(PluginError, match="unknown backend 'nobody'"):
        list(kit.run("nobody"))
