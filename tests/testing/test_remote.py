"""A backend in another environment; the other one is this Python again, which is cheap."""

from __future__ import annotations

import os
import signal
import sys
import tempfile
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest

from quantcore.calibration.driver import calibrate, collect
from quantcore.contracts import registry, remote
from quantcore.contracts.backend import SessionOptions
from quantcore.contracts.remote import client
from quantcore.errors import (
    BackendError,
    BackendUnavailable,
    CapabilityError,
    DataError,
    PluginError,
    RangeError,
)
from quantcore.ir.description import describe
from quantcore.policy.policy import CalibrationPolicy
from quantcore.qdq.placement import plan
from quantcore.runtime.progress import Progress
from quantcore.testing import kit
from quantcore.testing.models import Stream, images, small_detector

PLUGIN = """
import os, signal, sys
from fake_backends import Fake, Session

if "PIECE" in os.environ and not os.environ["QUANTCORE_PYTHON_FAKE"]:  # over there
    from quantcore.contracts.remote import wire
    wire._PIECE = int(os.environ["PIECE"])

class Odd(Fake):
    class Session(Session):
        def _observe(self, sites, batches, progress):
            found = super()._observe(sites, batches, progress)
            what = os.environ.get("ODD")
            if what == "print":
                os.write(1, b"a framework's own line\\n")
                print("another")
            if what == "crash":
                raise RuntimeError("a fault of the framework")
            if what == "die":
                os.kill(os.getpid(), signal.SIGKILL)
            if what == "leave":
                os._exit(3)
            if what == "range":
                from quantcore.errors import RangeError
                class Own(RangeError):
                    pass
                raise Own("tensor 'x': no")
            if what == "progress":
                return {s.tensor: found[s.tensor] for s in progress.track(sites, "sites")}
            return found
"""


@pytest.fixture
def apart(honest: Path, install, monkeypatch: pytest.MonkeyPatch):
    """Moves backend `fake` to another environment, which is this one."""
    install("fake", "odd_backend:Odd")
    (honest / "odd_backend.py").write_text(PLUGIN)
    client._describe.cache_clear()
    monkeypatch.setenv("QUANTCORE_PYTHON_FAKE", sys.executable)
    return monkeypatch


class Recorder(Progress):
    def __init__(self) -> None:
        self.seen: Counter[str] = Counter()
        self.totals: list[tuple[str, int | None]] = []

    def start(self, description: str, total: int | None) -> int:
        self.totals.append((description, total))
        self.seen["start"] += 1
        return self.seen["start"]

    def advance(self, task: int) -> None:
        self.seen[self.totals[task - 1][0]] += 1

    def stop(self, task: int) -> None:
        self.seen["stop"] += 1


def sites_of(model, **policy):
    return plan(
        model,
        CalibrationPolicy.from_dict(
            {"placement": "minimal", "activations": {"observer": "max"}, **policy}
        ),
    )


def opened(arithmetic="float32"):
    options = SessionOptions(device="cpu", arithmetic=arithmetic)
    return registry.load_backend("fake").open(small_detector(), options)


def calibrated(batches, progress=None):
    with opened() as session:
        return calibrate(session, sites_of(session.model), batches, progress)


def test_the_variable_is_named_after_the_backend(monkeypatch) -> None:
    assert remote.variable("pytorch-quantization") == "QUANTCORE_PYTHON_PYTORCH_QUANTIZATION"
    assert remote.interpreter("acme") is None
    monkeypatch.setenv("QUANTCORE_PYTHON_ACME", "")
    assert remote.interpreter("acme") is None
    monkeypatch.setenv("QUANTCORE_PYTHON_ACME", "/opt/python")
    assert remote.interpreter("acme") == Path("/opt/python")


def test_every_promise_is_kept_from_afar(apart) -> None:
    outcomes = list(kit.run("fake"))
    assert not [(o.check.name, o.detail) for o in outcomes if o.status == "failed"]
    skipped = {o.check.name for o in outcomes if o.status == "skipped"}
    assert skipped == {
        "declared operators agree with ONNX Runtime",
        "listing imports nothing",
        "missing framework is answered with a command",
    }


def test_what_it_declares_comes_from_there(apart) -> None:
    there = registry.load_backend("fake")
    apart.delenv("QUANTCORE_PYTHON_FAKE")
    here = registry.load_backend("fake")
    assert isinstance(there, remote.RemoteBackend)
    assert not isinstance(here, remote.RemoteBackend)
    assert there.capabilities == here.capabilities
    assert there.versions() == here.versions()
    for layer in small_detector().layers:
        assert there.framework_layer(layer) == here.framework_layer(layer)


def test_numbers_are_the_same_bit_for_bit(apart) -> None:
    sites, batch = sites_of(small_detector()), images(2)
    forced = {"cat.out": np.ones((2, 24, 16, 16), np.float32)}
    found = {}
    for where in ("there", "here"):
        found[where] = [calibrated(Stream(8))]
        for arithmetic in ("float32", "float64"):
            with opened(arithmetic) as session:
                simulation = session.simulation(sites, found[where][0])
                found[where] += [session.forward(batch), simulation.infer(batch)]
                if arithmetic == "float32":
                    found[where] += [simulation.infer(batch, forced)]
        assert not np.array_equal(found[where][1]["head.out"], found[where][4]["head.out"])
        apart.delenv("QUANTCORE_PYTHON_FAKE", raising=False)
    assert found["there"][0] == found["here"][0]
    for there, here in zip(found["there"][1:], found["here"][1:], strict=True):
        assert there.keys() == here.keys()
        assert all(np.array_equal(there[name], here[name]) for name in here)


@pytest.mark.parametrize("piece", [1, 3000, 2**25])
def test_activations_are_the_same_bit_for_bit(apart, piece) -> None:
    apart.setenv("PIECE", str(piece))
    names = [site.tensor for site in sites_of(small_detector()).sites if site.role == "activation"]
    found = {}
    for where in ("there", "here"):
        seen = found[where] = {name: [] for name in names}
        with opened() as session:
            session.watch(images(3), {name: seen[name].append for name in names})
        apart.delenv("QUANTCORE_PYTHON_FAKE", raising=False)
        apart.delenv("PIECE", raising=False)
    for name, (values,) in found["here"].items():
        (travelled,) = found["there"][name]
        assert travelled.dtype == np.float32
        np.testing.assert_array_equal(travelled, values)


def test_what_is_wrong_with_an_activation_is_told_and_the_session_stays_of_use(apart) -> None:
    def refuse(values):
        raise RangeError("tensor 'x': no")

    apart.setenv("PIECE", "1")
    with opened() as session:
        with pytest.raises(RangeError, match=r"^tensor 'x': no$"):
            session.watch(images(1), dict.fromkeys(("images", "stem.act.out", "cat.out"), refuse))
        seen = []
        session.watch(images(1), {"cat.out": seen.append})
        assert seen[0].shape == (1, 24, 16, 16)


def test_simulations_over_there_end_one_by_one(apart) -> None:
    ranges = calibrated(Stream(8))
    with opened() as session:
        first, second = (session.simulation(sites_of(session.model), ranges) for _ in range(2))
        first.close()
        first.close()
        assert second.infer(images(1)).keys() == {"head.out"}
        with pytest.raises(BackendError, match="the simulation is closed"):
            first.infer(images(1))
    second.close()  # after its session: nothing is left to close


def test_progress_is_shown_here(apart) -> None:
    apart.setenv("ODD", "progress")
    progress = Recorder()
    calibrated(Stream(12), progress)
    sites = len(sites_of(small_detector()).sites)
    assert progress.totals == [("fake: calibrating", 3), ("sites", sites)]
    assert progress.seen == {"start": 2, "stop": 2, "fake: calibrating": 3, "sites": sites}


def test_batches_of_unknown_number_are_read_one_by_one(apart) -> None:
    progress = Recorder()
    assert calibrated(iter(Stream(12)), progress) == calibrated(Stream(12))
    assert progress.totals == [("fake: calibrating", None)]


def test_what_frameworks_print_does_not_get_between(apart, capfd) -> None:
    apart.setenv("ODD", "print")
    calibrated(Stream(4))
    out, err = capfd.readouterr()
    assert out == ""
    assert "a framework's own line" in err
    assert "another" in err


def test_errors_keep_their_class_and_words(apart) -> None:
    apart.setenv("ODD", "range")
    with pytest.raises(RangeError, match=r"^tensor 'x': no$"):
        calibrated(Stream(4))
    poisoned = images(2)
    poisoned[0, 0, 0, 0] = np.nan
    with pytest.raises(RangeError, match=r"activation 'images' of layer stem: NaN"):
        calibrated([poisoned])
    with pytest.raises(CapabilityError, match=r"device 'abacus'"):
        registry.load_backend("fake").open(small_detector(), SessionOptions(device="abacus"))


def test_a_fault_of_the_framework_is_told_with_its_traceback(apart, capfd) -> None:
    apart.setenv("ODD", "crash")
    with pytest.raises(BackendError, match="RuntimeError: a fault of the framework"):
        calibrated(Stream(4))
    assert "in _observe" in capfd.readouterr().err


@pytest.mark.parametrize(
    ("what", "told"), [("die", "of signal SIGKILL"), ("leave", "with exit code 3")]
)
def test_a_process_that_dies_is_told(apart, what, told) -> None:
    apart.setenv("ODD", what)
    with pytest.raises(BackendError, match=f"backend 'fake' in .*the process died {told}"):
        calibrated(Stream(4))


def test_a_refusal_comes_before_any_image_is_read(apart) -> None:
    model, stream = small_detector(), Stream(4)
    sites = sites_of(model, weights={"observer": "percentile"})
    with (
        opened() as session,
        pytest.raises(CapabilityError, match="backend 'fake' has no observer 'percentile'"),
    ):
        calibrate(session, sites, stream)
    assert stream.read == 0


def test_an_unreadable_image_ends_it_as_it_would_here(apart) -> None:
    def batches():
        yield images(4)
        raise DataError("7.jpg: broken")

    model = small_detector()
    with opened() as session:
        with pytest.raises(DataError, match=r"7\.jpg: broken"):
            calibrate(session, sites_of(model), batches())
        assert calibrate(session, sites_of(model), Stream(4))  # still of use


def test_cancelling_ends_the_process_and_leaves_no_file(apart, tmp_path) -> None:
    folder = tmp_path / "temporary"
    folder.mkdir()
    apart.setattr(tempfile, "tempdir", str(folder))
    model = small_detector()
    session = opened()
    process = session._peer._process
    assert list(folder.iterdir())
    apart.setattr(session._peer, "_read", lambda _: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        calibrate(session, sites_of(model), Stream(4))
    # Under load the other process may have noticed by itself before it was killed.
    assert process.poll() in (-signal.SIGKILL, 0)
    assert not list(folder.iterdir())
    with pytest.raises(BackendError, match="the session is closed"):
        session.forward(images(1))
    session.close()


def test_it_goes_when_this_process_goes(apart) -> None:
    session = opened()
    session._peer._process.stdin.close()  # what the end of this process does
    assert session._peer._process.wait(timeout=20) == 0
    session.close()


def test_memory_is_that_of_the_other_process(apart) -> None:
    model = small_detector()
    with opened() as session:
        calibrate(session, sites_of(model), Stream(4))
        assert session.peak_rss_mb() > 20
    apart.delenv("QUANTCORE_PYTHON_FAKE")
    with opened() as session:
        assert session.peak_rss_mb() > 20


# Environments that are not what they should be.


@pytest.fixture
def python(tmp_path: Path, apart):
    """Makes a program and gives it as the other Python."""

    def make(body: str, mode: int = 0o755) -> Path:
        path = tmp_path / "python"
        path.write_text(f"#!{sys.executable}\n{body}")
        path.chmod(mode)
        apart.setenv("QUANTCORE_PYTHON_FAKE", str(path))
        return path

    return make


def test_a_python_that_is_not_there_is_told(apart) -> None:
    apart.setenv("QUANTCORE_PYTHON_FAKE", "/nowhere/python")
    told = "QUANTCORE_PYTHON_FAKE says /nowhere/python, which cannot be run"
    with pytest.raises(BackendUnavailable, match=told):
        registry.load_backend("fake")


def test_a_python_that_may_not_be_run_is_told(python) -> None:
    if os.getuid() == 0:
        pytest.skip("needs a user who is refused something")
    python("", 0o644)
    with pytest.raises(BackendUnavailable, match="cannot be run"):
        registry.load_backend("fake")


@pytest.mark.parametrize("body", ["", "print('hello, I am no Python')", "raise SystemExit(5)"])
def test_a_program_that_is_no_python_is_told(python, body) -> None:
    path = python(body)
    with pytest.raises(BackendUnavailable, match=f"{path}: that Python does not start quantcore"):
        registry.load_backend("fake")


def test_a_python_without_quantcore_is_told_the_command(python) -> None:
    path = python("""print('{"kind": "absent", "module": "quantcore"}')""")
    told = rf"has no quantcore; run: {path} -m pip install quantcore-ptq=="
    with pytest.raises(BackendUnavailable, match=told):
        registry.load_backend("fake")


def test_another_quantcore_is_told_the_command(python) -> None:
    path = python("""print('{"kind": "hello", "quantcore": "0.0.7"}')""")
    told = rf"has quantcore 0\.0\.7, this one has .*; run: {path} -m pip install quantcore-ptq=="
    with pytest.raises(PluginError, match=told):
        registry.load_backend("fake")


def test_a_plugin_that_is_not_there_is_told(apart) -> None:
    apart.setenv("QUANTCORE_PYTHON_NOBODY", sys.executable)
    told = f"backend 'nobody' in {sys.executable}: unknown backend 'nobody'"
    with pytest.raises(PluginError, match=told):
        registry.load_backend("nobody")


def test_a_framework_that_is_not_there_is_told_that_environments_command(apart, install) -> None:
    install("bare", "fake_backends:Fake", ("no-such-framework>=2",))
    apart.setenv("QUANTCORE_PYTHON_BARE", sys.executable)
    told = f'run: {sys.executable} -m pip install "no-such-framework>=2"'
    with pytest.raises(BackendUnavailable, match=told):
        registry.load_backend("bare")


def test_statistics_are_the_same_bit_for_bit(apart) -> None:
    model = small_detector()
    plans = [sites_of(model), sites_of(model, activations={"observer": "moving_average"})]
    found = []
    for _ in ("there", "here"):
        with opened() as session:
            found.append(collect(session, plans, Stream(8), keep=True))
        apart.delenv("QUANTCORE_PYTHON_FAKE", raising=False)
    assert found[0] == found[1]
    assert all(len(one.extremes) == 8 for seen in found[0].values() for one in seen)


def test_a_portable_calibration_shows_its_progress_and_is_the_same_bit_for_bit(apart) -> None:
    sites = sites_of(small_detector(), implementation="portable")
    found, progress = [], Recorder()
    for _ in ("there", "here"):
        with opened("float64") as session:
            found.append(calibrate(session, sites, Stream(8), progress))
        apart.delenv("QUANTCORE_PYTHON_FAKE", raising=False)
    assert found[0] == found[1]
    assert progress.totals == [("fake: calibrating", 2)] * 2
    assert progress.seen["fake: calibrating"] == 4


def test_the_float_model_over_there_is_this_one(apart) -> None:
    model = small_detector()
    proto = onnx.ModelProto()
    proto.CopyFrom(model.proto)
    proto.metadata_props.add(key="somebody's", value="own")
    proto.metadata_props.add(key="another", value="entry")
    with registry.load_backend("fake").open(replace(model, proto=proto)) as session:
        assert session.forward(images(1)).keys() == {"head.out"}
    apart.setattr(client, "describe", lambda model: describe(replace(model, proto=proto)))
    with pytest.raises(BackendError, match="read another float model"):
        opened()
