"""Where backends live is told by variables and `quantcore.toml`; `list` and `compare` know them."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from quantcore.commands import compare
from quantcore.contracts import registry, remote
from quantcore.contracts.backend import SessionOptions
from quantcore.contracts.remote import client
from quantcore.errors import BackendUnavailable, ConfigError, PluginError
from quantcore.policy.policy import CalibrationPolicy
from quantcore.testing.models import small_detector


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Writes `quantcore.toml` into a folder that becomes the working folder."""
    folder = tmp_path / "work"
    folder.mkdir()
    monkeypatch.chdir(folder)
    monkeypatch.delenv("QUANTCORE_CONFIG", raising=False)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))

    def write(text: str, name: str = "quantcore.toml", confirmed: bool = False) -> Path:
        path = folder / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
        if confirmed:
            remote.confirm(path)
        return path

    return write


@pytest.fixture
def apart(honest: Path, install, config):
    """Backend `fake` lives, by the file, in another environment, which is this one again."""
    install("fake", "fake_backends:Fake")
    client._describe.cache_clear()
    config(f'[backends.fake]\npython = "{sys.executable}"\n', confirmed=True)


def test_the_file_of_the_working_folder_is_read(config) -> None:
    assert remote.interpreter("acme") is None
    config('[backends.acme]\npython = "/opt/acme/bin/python"\n')
    assert remote.interpreter("acme") == Path("/opt/acme/bin/python")
    assert remote.interpreter("other") is None


def test_paths_are_relative_to_the_file(config, monkeypatch, tmp_path) -> None:
    text = '[backends.a]\npython = "../a/bin/python"\n[backends.b]\npython = "python3.12"\n'
    path = config(f'{text}[backends.c]\npython = "~/c/python"\n', "settings/mine.toml")
    monkeypatch.setenv("QUANTCORE_CONFIG", "settings/mine.toml")
    monkeypatch.setenv("HOME", "/home/someone")
    found = {name: remote.interpreter(name) for name in "abc"}
    assert found["a"] == path.parent / ".." / "a" / "bin" / "python"
    assert found["b"] == Path("python3.12")
    assert found["c"] == Path("/home/someone/c/python")


def test_a_variable_wins_over_the_file(config, monkeypatch) -> None:
    config('[backends.acme-one]\npython = "/from/file"\n')
    monkeypatch.setenv("QUANTCORE_PYTHON_ACME_ONE", "/from/variable")
    assert remote.interpreter("acme-one") == Path("/from/variable")
    monkeypatch.setenv("QUANTCORE_PYTHON_ACME_ONE", "")
    assert remote.interpreter("acme-one") is None
    monkeypatch.delenv("QUANTCORE_PYTHON_ACME_ONE")
    assert remote.interpreter("acme-one") == Path("/from/file")
    monkeypatch.setenv("QUANTCORE_CONFIG", "")
    assert remote.interpreter("acme-one") is None


def test_names_are_found_for_variables(config, monkeypatch) -> None:
    config('[backends.with_line]\npython = "/file"\n[backends.other]\npython = "/file"\n')
    monkeypatch.setenv("QUANTCORE_PYTHON_WITH_LINE", "/variable")
    monkeypatch.setenv("QUANTCORE_PYTHON_HERE_TOO", "/variable")
    monkeypatch.setenv("QUANTCORE_PYTHON_NO_ONE", "/variable")
    found = remote.elsewhere(["here_too", "only-here"])
    assert {name: str(python) for name, python in found.items()} == {
        "with_line": "/variable",
        "here_too": "/variable",
        "no-one": "/variable",
        "other": "/file",
    }


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (f"a = {'[' * 20_000}", r"quantcore\.toml: not TOML: "),
        ("[backends", r"quantcore\.toml: not TOML: "),
        ("[backend.acme]", r"quantcore\.toml: unknown key 'backend'; known: backends"),
        ("backends = 3", r"quantcore\.toml: backends must be a table, not 3"),
        ("[backends]\nacme = '/opt/python'", r"backends\.acme must be a table, not '/opt/python'"),
        ("[backends.acme]\npyton = 'x'", r"\[backends\.acme\] unknown key 'pyton'; known: python"),
        ("[backends.acme]", r'\[backends\.acme\] needs python = "PATH", not None'),
        ("[backends.acme]\npython = ''", r'\[backends\.acme\] needs python = "PATH", not '),
        ("[backends.acme]\npython = [1]", r'\[backends\.acme\] needs python = "PATH", not \[1\]'),
    ],
)
def test_a_malformed_file_is_refused(config, cli, text, told) -> None:
    config(text)
    with pytest.raises(ConfigError, match=told):
        remote.interpreter("acme")
    done = cli("list")
    assert (done.code, done.out) == (2, "")
    assert done.err.startswith("error: quantcore.toml: ")


def test_a_file_that_is_not_text_is_refused(config, tmp_path) -> None:
    config("").write_bytes(b"\xff\xfe")
    with pytest.raises(ConfigError, match=r"quantcore\.toml: not TOML"):
        remote.interpreter("acme")


def test_a_file_that_is_not_there_is_refused_where_it_was_named(config, monkeypatch) -> None:
    monkeypatch.setenv("QUANTCORE_CONFIG", "gone.toml")
    with pytest.raises(ConfigError, match=r"QUANTCORE_CONFIG says gone\.toml: no such file"):
        remote.interpreter("acme")


def test_a_python_that_is_not_there_is_told_with_the_file(config, cli) -> None:
    config('[backends.fake]\npython = "/nowhere/python"\n', confirmed=True)
    told = (
        r"backend 'fake': quantcore\.toml says /nowhere/python, which cannot be run: No such file"
    )
    with pytest.raises(BackendUnavailable, match=told):
        registry.load_backend("fake")
    done = cli("backends", "check", "fake")
    assert done.code == 2
    assert "quantcore.toml says /nowhere/python" in done.err


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ('[backends.a]\npython = "~nosuchuser/x"', "there is no user '~nosuchuser'"),
        ('[backends.a]\npython = "a\\u0000b"', "is no path"),
        (f'[backends.a]\npython = "{"x" * 10_000}"', "is no path"),
        ('[backends."a\\u0000="]\npython = "x"', "is no name of a backend"),
        (f"[backends.a]\npython = {'9' * 5000}", "not TOML"),
        (f"[backends.a]\npython = {'9' * 4000}", "about 4001 digits"),
        ("#" * 100_000, "more than"),
    ],
)
def test_values_that_would_be_a_traceback(config, text, told) -> None:
    config(text)
    with pytest.raises(ConfigError, match=told) as caught:
        remote.interpreter("a")
    assert len(str(caught.value)) < 500


def test_the_working_folder_starts_nothing_until_it_is_confirmed(config, cli, tmp_path) -> None:
    script = tmp_path / "script"
    script.write_text(f"#!/bin/sh\ntouch {tmp_path}/ran\n")
    script.chmod(0o755)
    text = f'[backends.fake]\npython = "{script}"\n'
    path = config(text)
    with pytest.raises(ConfigError, match="quantcore trust"):
        registry.load_backend("fake")
    listed = json.loads(cli("list", "--json").out)
    assert any("quantcore trust" in str(entry) for entry in listed["backends"])
    assert not (tmp_path / "ran").exists()
    done = cli("trust")
    assert (done.code, str(script) in done.out) == (0, True)
    with pytest.raises(BackendUnavailable):
        registry.load_backend("fake")
    assert (tmp_path / "ran").exists()
    (tmp_path / "ran").unlink()
    path.write_text(text + "# changed")
    with pytest.raises(ConfigError, match="quantcore trust"):
        registry.load_backend("fake")
    assert not (tmp_path / "ran").exists()


def test_the_users_own_file_needs_no_word(config, cli, monkeypatch, tmp_path) -> None:
    own = tmp_path / "config" / "quantcore" / "quantcore.toml"
    own.parent.mkdir(parents=True)
    own.write_text('[backends.fake]\npython = "/nowhere/own"\n')
    with pytest.raises(BackendUnavailable, match="/nowhere/own, which cannot be run"):
        registry.load_backend("fake")
    config('[backends.fake]\npython = "/nowhere/python"\n', "else.toml")
    monkeypatch.setenv("QUANTCORE_CONFIG", "overridden.toml")
    done = cli("--config", "else.toml", "backends", "check", "fake")
    assert "else.toml says /nowhere/python, which cannot be run" in done.err


def test_a_backend_of_the_file_runs_over_there(apart) -> None:
    plugin = registry.load_backend("fake")
    assert isinstance(plugin, remote.RemoteBackend)  # and the other side does not go on from there
    with plugin.open(small_detector(), SessionOptions(device="cpu")) as session:
        assert session.peak_rss_mb() >= 0


def test_listing_tells_what_is_over_there(apart, config, cli) -> None:
    config(
        f'[backends.fake]\npython = "{sys.executable}"\n'
        f'[backends.gone]\npython = "/nowhere/python"\n'
        f'[backends.nobody]\npython = "{sys.executable}"\n',
        confirmed=True,
    )
    found = {info.name: info for info in registry.installed(registry.BACKENDS)}
    assert found["fake"].to_dict() == {
        "group": "quantcore.backends",
        "name": "fake",
        "distribution": "quantcore-backend-fake",
        "version": "1.0",
        "unavailable": None,
        "available": True,
        "python": sys.executable,
    }
    assert "/nowhere/python, which cannot be run" in found["gone"].unavailable
    assert "unknown backend 'nobody'" in found["nobody"].unavailable
    done = cli("list", "--json")
    listed = {info["name"]: info for info in json.loads(done.out)["backends"]}
    assert listed["fake"]["python"] == sys.executable
    assert not listed["gone"]["available"]


def test_a_missing_framework_over_there_is_listed_with_its_command(apart, config, install) -> None:
    install("bare", "fake_backends:Fake", ("no-such-framework>=2",))
    config(f'[backends.bare]\npython = "{sys.executable}"\n', confirmed=True)
    found = {info.name: info for info in registry.installed(registry.BACKENDS)}
    told = f'run: {sys.executable} -m pip install "no-such-framework>=2"'
    assert told in found["bare"].unavailable
    assert found["fake"].python is None  # installed here, and the file no longer moves it


def test_an_unknown_backend_is_told_those_over_there(config) -> None:
    config('[backends.acme]\npython = "/opt/python"\n')
    with pytest.raises(PluginError, match=r"did you mean 'acme'\?"):
        registry.load_backend("acne")


def test_the_demo_leaves_out_what_cannot_honour_its_policy(apart, install, site, capsys) -> None:
    (site / "modest.py").write_text(
        "from fake_backends import Fake\n"
        "from quantcore.contracts.backend import Capabilities\n"
        "class Modest(Fake):\n"
        "    capabilities = Capabilities({'max': frozenset()}, {'max': frozenset()})\n"
    )
    install("modest", "modest:Modest")
    able = compare._able(small_detector(), CalibrationPolicy())
    assert "fake" in able
    assert "modest" not in able
    told = capsys.readouterr().out
    assert "left out: backend 'modest' has no observer 'percentile'; it has max" in told


def test_comparing_uses_it_as_any_other(apart, cli, squares) -> None:
    out = squares.root / "compared"
    done = cli(
        *("compare", *squares.model, "--data", squares.data, "--backend", "fake"),
        *("--images", 2, "--eval-images", 2, "--out", out),
    )
    assert done.code == 0, done.err
    (variant,) = json.loads((out / "report.json").read_text())["variants"]
    assert variant["backend"] == "fake"
    assert (out / "fake.onnx").is_file()
