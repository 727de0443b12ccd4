"""A Python of another environment that answers nonsense, too much, or nothing at all."""

from __future__ import annotations

import json
import resource
import tempfile
import time
from dataclasses import fields
from pathlib import Path

import numpy as np
import pytest

import quantcore
from quantcore.contracts.backend import Capabilities, SessionOptions
from quantcore.contracts.remote import client, peer, wire
from quantcore.contracts.remote.client import RemoteBackend, listed
from quantcore.errors import BackendError, BackendUnavailable, PluginError, QuantcoreError
from quantcore.testing.models import images, small_detector

HELLO = json.dumps({"kind": "hello", "quantcore": quantcore.__version__})
KNOWN = Capabilities({"max": frozenset()}, {"max": frozenset()})
CAPABLE = {field.name: wire.plain(getattr(KNOWN, field.name)) for field in fields(KNOWN)}


def done(value: object, **more: object) -> str:
    return json.dumps({"kind": "done", "value": value, "peak": 1.0, **more})


@pytest.fixture
def python(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Makes a program that says some lines, one for each that it reads after the first."""
    client._describe.cache_clear()
    monkeypatch.setattr(peer, "GREETING", 1.5)
    monkeypatch.setattr(peer, "SILENCE", 1.5)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))

    def make(*lines: str, script: str | None = None) -> Path:
        path = tmp_path / "python"
        said = "\nread asked\n".join(f"cat <<'END'\n{line}\nEND" for line in lines)
        path.write_text(f"#!/bin/sh\n{script or said}\nread asked\n")
        path.chmod(0o755)
        return path

    yield make
    assert not list(tmp_path.glob("quantcore-*"))  # its folders went with it


def check(error: QuantcoreError) -> None:
    text = str(error)
    assert text.isprintable()
    assert len(text) < 1000


@pytest.mark.parametrize(
    ("line", "kind", "told"),
    [
        ("{}", BackendUnavailable, "no message"),
        ("[]", BackendUnavailable, "no message"),
        ("plain text\x1b[31m", BackendUnavailable, r"'plain text\\x1b\[31m', which is no message"),
        ('{"kind": "hello"}', PluginError, "quantcore of no version"),
        ('{"kind": "hello", "quantcore": [1]}', PluginError, r"quantcore \[1\]"),
        ('{"kind": "done"}', PluginError, "of no version"),
        ('{"kind": "absent"}', BackendUnavailable, "has no None"),
        ('{"kind": 3}', BackendUnavailable, "no message"),
        ("[" * 100_000, BackendUnavailable, "no message"),
        ("", BackendUnavailable, "with exit code|said nothing|no message"),
    ],
)
def test_greetings(python, line: str, kind: type[QuantcoreError], told: str) -> None:
    with pytest.raises(kind, match=told) as caught:
        listed("fake", python(line))
    check(caught.value)


def test_nothing_at_all(python) -> None:
    with pytest.raises(BackendUnavailable, match="said nothing for 2 seconds"):
        listed("fake", python(script="sleep 100"))
    with pytest.raises(BackendError, match="said nothing for 2 seconds"):
        listed("fake", python(script=f"echo '{HELLO}'; sleep 100"))


def test_a_line_without_an_end(python) -> None:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    began = time.monotonic()
    with pytest.raises(BackendUnavailable, match="a line of more than"):
        listed("fake", python(script="cat /dev/zero"))
    assert time.monotonic() - began < 10
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 300_000


@pytest.mark.parametrize(
    "answer",
    [
        "{}",
        done(None),
        done([]),
        done({}),
        done({"capabilities": {"unheard_of": []}, "versions": {}}),
        done({"capabilities": {"native": 3}, "versions": {}}),
        done({"capabilities": [], "versions": {}}),
        done({"capabilities": CAPABLE, "versions": [1]}),
        done({"capabilities": CAPABLE, "versions": {"x": {}}}),
        '{"kind": "done", "value": {}, "peak": "much"}',
        '{"kind": "done", "value": {}}',
        '{"kind": "error", "peak": 1, "class": "one_line", "message": "x"}',
        '{"kind": "error", "peak": 1, "class": "BackendError"}',
        '{"kind": "error", "peak": 1, "class": [], "message": {}}',
        '{"kind": "progress", "value": 3}',
        '{"kind": "progress", "value": ["advance", 7]}',
        '{"kind": "progress", "value": ["start", 1, {}, null]}',
        '{"kind": "question", "value": {}}',
    ],
    ids=range(18),
)
def test_descriptions(python, answer: str) -> None:
    with pytest.raises(QuantcoreError) as caught:
        RemoteBackend("fake", python(HELLO, answer))
    check(caught.value)


def test_an_error_of_another_process_is_one_line(python) -> None:
    said = {"kind": "error", "peak": 1, "class": "BackendError", "message": "a\nb\x1b[31m" * 999}
    with pytest.raises(BackendError) as caught:
        listed("fake", python(HELLO, json.dumps(said)))
    assert str(caught.value).isprintable()


@pytest.mark.parametrize(
    "answer",
    [
        done("/etc/hostname"),
        done(3),
        done("FOLDER/there.npz"),
        json.dumps({"kind": "question", "value": {"path": "/etc/hostname", "entries": []}}),
    ],
    ids=range(4),
)
def test_answers_of_a_session(python, answer: str) -> None:
    model = small_detector()
    known = done({"capabilities": CAPABLE, "versions": {}})
    path = python(HELLO, known)
    backend = RemoteBackend("fake", path)
    python(HELLO, done(model.fingerprint), answer)
    with backend.open(model, SessionOptions(device="cpu")) as session:
        with pytest.raises(BackendError) as caught:
            session.forward(images(1))
        check(caught.value)


def test_files_larger_than_they_are(python, tmp_path: Path) -> None:
    np.savez_compressed(tmp_path / "a.npz", np.zeros(10_000_000, np.float32))
    with pytest.raises(ValueError, match="larger than the file"):
        wire.load(tmp_path / "a.npz")
    (tmp_path / "shown").write_bytes(bytes(16))
    with pytest.raises(ValueError, match="larger than the file"):
        list(wire.pieces(tmp_path / "shown", [["a", [1 << 40]]]))
