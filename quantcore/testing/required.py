"""The promises that every backend must keep; a failed one raises AssertionError."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from importlib import metadata
from pathlib import Path
from unittest import mock

import numpy as np
import onnx
from onnx import numpy_helper

from quantcore.analysis.agreement import check_parity
from quantcore.contracts import backend, registry
from quantcore.engines import REFERENCE_ENGINE
from quantcore.errors import BackendUnavailable, CapabilityError, QuantcoreError
from quantcore.policy.policy import IMPLEMENTATIONS, OBSERVERS, CalibrationPolicy
from quantcore.qdq import verify
from quantcore.qdq.insertion import insert
from quantcore.qdq.placement import plan
from quantcore.runtime.progress import Silent
from quantcore.runtime.worker import run_apart
from quantcore.table.table import CalibrationTable
from quantcore.testing.models import Stream, foreign_model, images, small_detector
from quantcore.testing.subject import (
    GROWTH_LIMIT_MB,
    Subject,
    growth_of,
    hold,
    interrupted,
    magnitudes,
    table_of,
)


def resolves(subject: Subject) -> None:
    """The entry point loads and its API version is the core's."""
    hold(subject.plugin.api_version == backend.API_VERSION, "written for another API version")


def listing_imports_nothing(subject: Subject) -> None:
    """`quantcore list` does not import the plugin."""
    point = next(
        p for p in metadata.entry_points(group=registry.BACKENDS) if p.name == subject.name
    )
    code = (
        "import sys; from quantcore.contracts import registry as r; r.installed(r.BACKENDS); "
        f"sys.exit({point.module.partition('.')[0]!r} in sys.modules)"
    )
    # The same path as here, so that the plugin is there to be listed.
    here = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    done = subprocess.run([sys.executable, "-c", code], env=here, capture_output=True, check=False)
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
        if found is None:
            continue
        hold(found.cls, f"{layer.name}: no class name")
        for part in ("inputs", "weights", "outputs"):
            ours, theirs = getattr(layer, part), getattr(found, part)
            hold(len(theirs) >= len(ours), f"{layer.name}: {theirs} names for {part} {ours}")
            hold(len(set(theirs)) == len(theirs), f"{layer.name}: {part} {theirs} repeat a name")


def network_agrees(subject: Subject) -> None:
    """The opened network computes what the float graph computes, to 1e-4 relative."""
    with subject.plugin.open(small_detector(), "cpu") as session:
        check_parity(session, registry.load_engine(REFERENCE_ENGINE))


def sessions_are_independent(subject: Subject) -> None:
    """A second open model disturbs neither the first one nor what it calibrates."""
    model, other = small_detector(), small_detector(seed=1)
    sites = plan(model, subject.policy())
    with subject.plugin.open(model, "cpu") as session:
        before = session.forward(images(2))
        with subject.plugin.open(other, "cpu") as second:
            second.calibrate(plan(other, subject.policy()), Stream(4))
            between = session.forward(images(2))
            found = session.calibrate(sites, Stream(16))
        second.close()  # closed a second time: harmless
        after = session.forward(images(2))
    for name, values in before.items():
        same = np.array_equal(values, between[name]) and np.array_equal(values, after[name])
        hold(same, f"a second model changed the first one's {name}")
    hold(found == subject.ranges(subject.policy())[2], "a second model changed the first's ranges")


def unknown_devices_are_refused(subject: Subject) -> None:
    """A device that no backend has is refused, not replaced by another."""
    try:
        subject.plugin.open(small_detector(), "abacus").close()
    except CapabilityError as error:
        hold("abacus" in str(error), f"the refusal does not name the device: {error}")
        return
    raise AssertionError("opened a model on device 'abacus'")


def foreign_layers_are_refused(subject: Subject) -> None:
    """A node that no framework has ends in an error of quantcore's that names it."""
    try:
        with subject.plugin.open(foreign_model(), "cpu") as session:
            session.forward(images(1))
    except QuantcoreError as error:
        named = "odd.one" in str(error) or "NoSuchOperator" in str(error)
        hold(named, f"names neither the layer nor its operator: {error}")
        return
    except Exception as error:
        raise AssertionError(f"raised {error!r}, which is no error of quantcore's") from error
    raise AssertionError("opened and ran a graph with an operator that does not exist")


def rules_are_honoured(subject: Subject) -> None:
    """Layers that a rule keeps in float get no range; a rule's own observer is used."""
    rules = [{"match": "deep", "quantize": False}, {"match": "op:add", "quantize": True}]
    _, _, ranges = subject.ranges(subject.policy(layers=rules))
    hold("deep.weight" not in ranges, "a layer with `quantize: false` was calibrated")
    hold("pool.out" not in ranges, "the input of a layer with `quantize: false` was calibrated")
    hold("right.out" in ranges, "an Add that a rule quantizes was not calibrated")
    first = subject.first_observer()
    general = subject.ranges(subject.policy(first))[2]
    for observer in set(subject.observers()) - {first}:
        alone = subject.policy(observer)
        rule = {"match": "head", "activations": alone.activations.to_dict()}
        own = subject.ranges(alone)[2]
        mixed = subject.ranges(subject.policy(first, layers=[rule]))[2]
        for tensor, found in mixed.items():
            wanted = own if tensor == "cat.out" else general
            hold(found == wanted[tensor], f"{tensor}: not what the observer of its rule gives")


def refuses_before_reading(subject: Subject) -> None:
    """What a backend has not is refused before any image is read."""
    for policy in _beyond(subject):
        model, stream = small_detector(), Stream(4)
        with subject.plugin.open(model, "cpu") as session:
            try:
                session.calibrate(plan(model, policy), stream)
            except CapabilityError as error:
                hold(stream.read == 0, "images were read before the refusal")
                hold(subject.name in str(error), f"the refusal does not name the backend: {error}")
                continue
        raise AssertionError(f"accepted a policy that it cannot honour: {policy.to_dict()}")


def _beyond(subject: Subject) -> Iterator[CalibrationPolicy]:
    """Policies that ask for one thing more than the backend declares."""
    known = subject.plugin.capabilities
    policy = subject.policy()
    for observer in sorted(set(OBSERVERS) - set(known.activation_observers)):
        yield subject.policy(observer)
    for observer in sorted(set(OBSERVERS) - set(known.weight_observers)):
        weights = replace(policy.weights, observer=observer)
        yield replace(policy, weights=weights)
    for observer, taken in known.activation_observers.items():
        for parameter in sorted(OBSERVERS[observer] - taken):
            value = 0.5 if parameter == "momentum" else 64
            yield replace(
                policy,
                activations=replace(
                    policy.activations, observer=observer, parameters=((parameter, value),)
                ),
            )
    for implementation in sorted(set(IMPLEMENTATIONS) - known.implementations):
        yield replace(policy, implementation=implementation)


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
    """The table survives its file; the Q/DQ graph made from it is valid and fit for TensorRT."""
    model, sites, ranges = subject.ranges(subject.policy())
    table = table_of(subject, model, ranges)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "table.json"
        table.save(path)
        again = CalibrationTable.load(path)
    hold(again == table, "the table does not read back as it was written")
    proto = insert(model, sites, again).proto
    onnx.checker.check_model(proto, full_check=True)
    broken = [found for found in verify.check(proto) if found.severity == "error"]
    hold(not broken, f"the Q/DQ graph breaks a rule: {broken[0].message if broken else ''}")


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
    """Sixteen times the images take no more memory, whatever the observer."""
    for observer in subject.observers():
        grown = run_apart(
            growth_of, subject.name, observer, progress=Silent(), what=subject.name
        ).result
        hold(
            grown <= GROWTH_LIMIT_MB,
            f"{observer}: peak memory grows by {grown:.0f} MB from 64 images to 1024",
        )


def interruption_leaves_nothing(subject: Subject) -> None:
    """A calibration that is interrupted leaves no file and a session fit for the next one."""
    model = small_detector()
    sites = plan(model, subject.policy())
    here = set(Path.cwd().iterdir())
    with tempfile.TemporaryDirectory() as folder, mock.patch.object(tempfile, "tempdir", folder):
        with subject.plugin.open(model, "cpu") as session:
            try:
                session.calibrate(sites, interrupted())
            except KeyboardInterrupt:
                pass
            else:
                raise AssertionError("swallowed a KeyboardInterrupt")
            found = session.calibrate(sites, Stream(16))
        left = [path.name for path in Path(folder).iterdir()]
    left += [path.name for path in set(Path.cwd().iterdir()) - here]
    hold(not left, f"left files behind: {', '.join(sorted(left))}")
    hold(found == subject.ranges(subject.policy())[2], "remembers the interrupted calibration")
