"""The template: written out under any name, it is a backend as soon as one function is filled."""

from __future__ import annotations

import importlib
import os
import subprocess
import sys
from pathlib import Path

import pytest

from quantcore.contracts.registry import BACKENDS
from quantcore.errors import OutputError, UsageError
from quantcore.testing import kit, scaffold

HOLE = 'raise NotImplementedError("amax_of is yours to write; see its docstring")'
FILLING = "return max(before, float(np.abs(values).max()))"
CHECKED_IN = Path(__file__).parents[2] / "plugins" / "template"


@pytest.fixture
def written(site: Path, tmp_path: Path, install) -> Path:
    """A new backend `my-quant`, on the path with the metadata that pip would write."""
    out = tmp_path / "new" / "my-quant"
    scaffold.write("my-quant", out)
    tomllib = pytest.importorskip("tomllib")  # Python 3.11
    project = tomllib.loads((out / "pyproject.toml").read_text())["project"]
    ((name, target),) = project["entry-points"][BACKENDS].items()
    assert (name, project["name"]) == ("my-quant", "quantcore-backend-my-quant")
    install(name, target, tuple(project["dependencies"]))
    (site / "quantcore_backend_my_quant").symlink_to(out / "src" / "quantcore_backend_my_quant")
    importlib.invalidate_caches()
    return out


def fill(out: Path) -> None:
    session = out / "src" / "quantcore_backend_my_quant" / "session.py"
    text = session.read_text()
    assert text.count(HOLE) == 1
    session.write_text(text.replace(HOLE, FILLING))


def test_a_filled_template_passes_everything_it_declares(written) -> None:
    fill(written)
    outcomes = list(kit.run("my-quant"))
    failed = {o.check.name: o.detail for o in outcomes if o.status == "failed"}
    assert not failed
    assert {o.check.tier for o in outcomes if o.status == "skipped"} == {
        "portable",
        "simulate",
        "float64",
        "operators",
        "train",
    }


def test_an_unfilled_template_says_what_is_missing(written) -> None:
    details = [o.detail for o in kit.run("my-quant") if o.status == "failed"]
    assert any("amax_of is yours to write" in detail for detail in details)


def test_its_own_test_file_runs_the_kit(written) -> None:
    fill(written)
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "tests", "-k", "layers"],
        cwd=written,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "2 passed" in done.stdout


def test_the_checked_in_template_is_what_the_command_writes() -> None:
    """`quantcore backends new template --out plugins/template` writes it again."""
    if not CHECKED_IN.is_dir():
        pytest.skip("not in a checkout")
    for place, text in scaffold.render("template").items():
        assert (CHECKED_IN / place).read_text() == text, place


@pytest.mark.parametrize("name", ["", "My-Quant", "my_quant", "1st", "a--b", "-a", "a b", "../a"])
def test_a_name_that_is_none_is_refused(name, tmp_path) -> None:
    with pytest.raises(UsageError, match="lower-case"):
        scaffold.write(name, tmp_path / "out")
    assert not list(tmp_path.iterdir())


def test_nothing_is_overwritten(tmp_path) -> None:
    (tmp_path / "mine").mkdir()
    with pytest.raises(UsageError, match="is there already"):
        scaffold.write("acme", tmp_path / "mine")


def test_a_folder_that_cannot_be_written_is_told(tmp_path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="cannot write the backend"):
        scaffold.write("acme", tmp_path / "file" / "acme")


def test_a_failed_write_leaves_nothing(tmp_path, monkeypatch) -> None:
    def fail(*_: object) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(scaffold.shutil, "move", fail)
    with pytest.raises(OutputError, match="disk full"):
        scaffold.write("acme", tmp_path / "acme")
    assert not list(tmp_path.iterdir())


def test_the_command_tells_what_to_do_next(tmp_path, monkeypatch, capsys) -> None:
    from quantcore.commands import authoring

    monkeypatch.chdir(tmp_path)
    authoring.new("acme")
    out = capsys.readouterr().out
    assert "fill amax_of in src/quantcore_backend_acme/session.py" in out
    assert 'pip install -e "quantcore-backend-acme[test]"' in out
    assert "quantcore backends check acme" in out
    assert (tmp_path / "quantcore-backend-acme" / "pyproject.toml").is_file()
