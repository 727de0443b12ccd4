"""The promises that every backend must keep; a failed one raises AssertionError."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from importlib import metadata
from pathlib import Path
from tempfile import TemporaryDirectory
from unittest import mock

import numpy as np
import onnx
from onnx import numpy_helper

from quantcore import backend, registry
from quantcore.analysis.agreement import check_parity
from quantcore.engines import REFERENCE_ENGINE
from quantcore.errors import BackendUnavailable, CapabilityError, QuantcoreError
from quantcore.policy import OBSERVERS
from quantcore.progress import Silent
from quantcore.qdq.insertion import insert
from quantcore.qdq.placement import plan
from quantcore.table import CalibrationTable
from quantcore.testing.models import Stream, images, small_detector
from quantcore.testing.subject import Subject, hold, interrupted, magnitudes, peak_of, table_of
from quantcore.worker import run_apart


def resolves(subject: Subject) -> None:
    """The entry point loads and its API version is the core's."""
    hold(subject.plugin.api_version == backend.API_VERSION, "written for another API version")


def listing_imports_nothing(subject: Subject) -> None:
    """`quantcore list` does not import the plugin."""
    point = next(
        p for p in metadata.entry_points(group=registry.BACKENDS) if p.name == subject.name
    )
    code = (
        "import sys; from quantcore import registry; registry.installed(registry.BACKENDS); "
        f"sys.exit({point.module.partition('.')[0]!r} in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=False)
    hold(done.returncode == 0, f"listing imports {point.module}: {done.stderr.decode()[-300:]}")


def missing_framework_is_told(subject: Subject) -> None:
    """Without its requirements, the backend is answered with the pip command."""
    with mock.patch.object(registry, "_met", return_value=False):
        try:
            registry.load_backend(subject.name)
        except BackendUnavailable as error:
            hold("pip install" in str(error), str(error))
            return
    raise AssertionError("its distribution declares no requirement, so a missing one goes unseen")


def layers_are_described(subject: Subject) -> None:
    """What a framework calls a layer has an argument for each of its neutral tensors."""
    for layer in small_detector().layers:
        found = subject.plugin.framework_layer(layer)
        if found is not None:
            hold(found.cls, f"{layer.name}: no class name")
            for ours, theirs in ((layer.inputs, found.inputs), (layer.weights, found.weights)):
                hold(len(theirs) >= len(ours), f"{layer.name}: {theirs} names for {ours}")


def network_agrees(subject: Subject) -> None:
    """The opened network computes what the float graph computes, to 1e-4 relative."""
    with subject.plugin.open(small_detector(), "cpu") as session:
        check_parity(session, registry.load_engine(REFERENCE_ENGINE))


def rules_are_honoured(subject: Subject) -> None:
    """Layers that a rule keeps in float get no range; a rule's own observer is used."""
    rules = [{"match": "deep", "quantize": False}, {"match": "op:add", "quantize": True}]
    _, _, ranges = subject.ranges(subject.policy(layers=rules))
    hold("deep.weight" not in ranges, "a layer with `quantize: false` was calibrated")
    hold("pool.out" not in ranges, "the input of a layer with `quantize: false` was calibrated")
    hold("right.out" in ranges, "an Add that a rule quantizes was not calibrated")


def refuses_before_reading(subject: Subject) -> None:
    """What a backend has not is refused before any image is read."""
    missing = sorted(set(OBSERVERS) - set(subject.observers()))
    policy = subject.policy()
    if missing:
        policy = subject.policy(missing[0])
    else:
        weights = replace(policy.weights, observer="moving_average")
        policy = replace(policy, weights=weights)
    stream = Stream(4)
    model = small_detector()
    with subject.plugin.open(model, "cpu") as session:
        try:
            session.calibrate(plan(model, policy), stream)
        except CapabilityError as error:
            hold(stream.read == 0, "images were read before the refusal")
            hold(subject.name in str(error), f"the refusal does not name the backend: {error}")
            return
    raise AssertionError(f"accepted a policy that it cannot honour: {policy.to_dict()}")


def every_observer_works(subject: Subject) -> None:
    """Each declared observer gives finite, positive ranges that do not exceed the data."""
    for observer in subject.observers():
        model, sites, ranges = subject.ranges(subject.policy(observer))
        limit = magnitudes(model, sites, np.concatenate(list(Stream(16))))
        for tensor, largest in limit.items():
            amax = float(ranges[tensor].amax_array)
            hold(np.isfinite(amax), f"{observer}: {tensor}: {amax}")
            hold(0 < amax <= 1.01 * largest, f"{observer}: {tensor}: {amax} of {largest}")


def same_inputs_same_table(subject: Subject) -> None:
    """Two calibrations agree bit for bit."""
    policy = subject.policy(subject.observers()[-1])
    first, second = subject.ranges(policy)[2], subject.ranges(policy)[2]
    hold(first == second, f"differ in {[t for t in first if first[t] != second[t]]}")


def model_is_untouched(subject: Subject) -> None:
    """The float model has the same bytes afterwards."""
    model, _, _ = subject.ranges(subject.policy())
    before = small_detector().proto.SerializeToString(deterministic=True)
    hold(model.proto.SerializeToString(deterministic=True) == before, "the graph was written to")
    hold(
        all(
            np.array_equal(numpy_helper.to_array(i), model.initializers[i.name])
            for i in model.proto.graph.initializer
        ),
        "the constants that were handed out were written to",
    )


def table_becomes_a_graph(subject: Subject) -> None:
    """The table survives its file, and the Q/DQ graph made from it passes the checker."""
    model, sites, ranges = subject.ranges(subject.policy())
    table = table_of(subject, model, ranges)
    with TemporaryDirectory() as folder:
        path = Path(folder) / "table.json"
        table.save(path)
        again = CalibrationTable.load(path)
    hold(again == table, "the table does not read back as it was written")
    onnx.checker.check_model(insert(model, sites, again).proto, full_check=True)


def bad_numbers_are_named(subject: Subject) -> None:
    """NaN activations end in an error of quantcore's that names a tensor, not in a table."""
    model = small_detector()
    sites = plan(model, subject.policy())
    poisoned = images(4)
    poisoned[2, 0, 3, 3] = np.nan
    with subject.plugin.open(model, "cpu") as session:
        try:
            session.calibrate(sites, [poisoned])
        except QuantcoreError as error:
            names = {site.tensor for site in sites.sites}
            hold(any(repr(name) in str(error) for name in names), f"names no tensor: {error}")
            return
    raise AssertionError("an image with NaN was calibrated without a word")


def memory_is_flat(subject: Subject) -> None:
    """Four times the images take at most five percent more memory (and 4 MB of noise)."""
    peaks = [
        run_apart(peak_of, subject.name, n, progress=Silent(), what=subject.name).result
        for n in (64, 256)
    ]
    hold(
        peaks[1] <= 1.05 * peaks[0] + 4,
        f"{peaks[0]:.0f} MB with 64 images, {peaks[1]:.0f} MB with 256",
    )


def interruption_leaves_nothing(subject: Subject) -> None:
    """A calibration that is interrupted leaves the session fit for the next one."""
    model = small_detector()
    sites = plan(model, subject.policy())
    with subject.plugin.open(model, "cpu") as session:
        try:
            session.calibrate(sites, interrupted())
        except KeyboardInterrupt:
            pass
        else:
            raise AssertionError("swallowed a KeyboardInterrupt")
        found = session.calibrate(sites, Stream(16))
    hold(found == subject.ranges(subject.policy())[2], "remembers the interrupted calibration")
