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
from quantcore.calibration.driver import calibrate
from quantcore.contracts import registry
from quantcore.contracts.backend import API_VERSION, SessionOptions
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
from quantcore.testing.under_test import (
    GROWTH_LIMIT_MB,
    BackendUnderTest,
    growth_of,
    hold,
    interrupted,
    magnitudes,
    table_of,
)


def resolves(backend: BackendUnderTest) -> None:
    """The entry point loads and its API version is the core's."""
    hold(backend.plugin.api_version == API_VERSION, "written for another API version")


def listing_imports_nothing(backend: BackendUnderTest) -> None:
    """`quantcore list` does not import the plugin."""
    point = next(
        p for p in metadata.entry_points(group=registry.BACKENDS) if p.name == backend.name
    )
    code = (
        "import sys; from quantcore.contracts import registry as r; r.installed(r.BACKENDS); "
        f"sys.exit({point.module.partition('.')[0]!r} in sys.modules)"
    )
    # The same path as here, so that the plugin is there to be listed.
    here = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    done = subprocess.run([sys.executable, "-c", code], env=here, capture_output=True, check=False)
    hold(done.returncode == 0, f"listing imports {point.module}: {done.stderr.decode()[-300:]}")


def missing_framework_is_told(backend: BackendUnderTest) -> None:
    """Without its requirements, the backend is answered with the pip command."""
    with mock.patch.object(registry, "_met", return_value=False):
        try:
            registry.load_backend(backend.name)
        except BackendUnavailable as error:
            hold("pip install" in str(error), str(error))
            return
    raise AssertionError("its distribution declares no requirement, so a missing one goes unseen")


def layers_are_described(backend: BackendUnderTest) -> None:
    """What a framework calls a layer has an argument for each of its neutral tensors."""
    plugin = backend.plugin
    for layer in small_detector().layers:
        found = plugin.framework_layer(layer)
        if found is None:
            continue
        hold(found.cls, f"{layer.name}: no class name")
        for part in ("inputs", "weights", "outputs"):
            ours, theirs = getattr(layer, part), getattr(found, part)
            hold(len(theirs) >= len(ours), f"{layer.name}: {theirs} names for {part} {ours}")
            hold(len(set(theirs)) == len(theirs), f"{layer.name}: {part} {theirs} repeat a name")


def network_agrees(backend: BackendUnderTest) -> None:
    """The opened network computes what the float graph computes, to 1e-4 relative."""
    model, engine = small_detector(), registry.load_engine(REFERENCE_ENGINE)
    for threads in (None, 1):
        with backend.plugin.open(model, SessionOptions(device="cpu", threads=threads)) as session:
            check_parity(session, engine)


def sessions_are_independent(backend: BackendUnderTest) -> None:
    """A second open model disturbs neither the first one nor what it calibrates."""
    model, other = small_detector(), small_detector(seed=1)
    sites = plan(model, backend.policy())
    with backend.open(model) as session:
        before = session.forward(images(2))
        with backend.open(other) as second:
            calibrate(second, plan(other, backend.policy()), Stream(4))
            between = session.forward(images(2))
            found = calibrate(session, sites, Stream(16))
        second.close()  # closed a second time: harmless
        after = session.forward(images(2))
    for name, values in before.items():
        same = np.array_equal(values, between[name]) and np.array_equal(values, after[name])
        hold(same, f"a second model changed the first one's {name}")
    hold(found == backend.ranges(backend.policy())[2], "a second model changed the first's ranges")


def unknown_options_are_refused(backend: BackendUnderTest) -> None:
    """A device or an arithmetic that no backend has is refused, not replaced by another."""
    for word, options in (
        ("abacus", SessionOptions(device="abacus")),
        ("float17", SessionOptions(device="cpu", arithmetic="float17")),
    ):
        try:
            backend.plugin.open(small_detector(), options).close()
        except CapabilityError as error:
            hold(word in str(error), f"the refusal does not name what it refuses: {error}")
            continue
        raise AssertionError(f"opened a model with {options}")


def foreign_layers_are_refused(backend: BackendUnderTest) -> None:
    """A node that no framework has ends in an error of quantcore's that names it."""
    try:
        with backend.open(foreign_model()) as session:
            session.forward(images(1))
    except QuantcoreError as error:
        named = "odd.one" in str(error) or "NoSuchOperator" in str(error)
        hold(named, f"names neither the layer nor its operator: {error}")
        return
    except Exception as error:
        raise AssertionError(f"raised {error!r}, which is no error of quantcore's") from error
    raise AssertionError("opened and ran a graph with an operator that does not exist")


def rules_are_honoured(backend: BackendUnderTest) -> None:
    """Layers that a rule keeps in float get no range; a rule's own observer is used."""
    rules = [{"match": "deep", "quantize": False}, {"match": "op:add", "quantize": True}]
    _, _, ranges = backend.ranges(backend.policy(layers=rules))
    hold("deep.weight" not in ranges, "a layer with `quantize: false` was calibrated")
    hold("pool.out" not in ranges, "the input of a layer with `quantize: false` was calibrated")
    hold("right.out" in ranges, "an Add that a rule quantizes was not calibrated")
    first = backend.first_observer()
    general = backend.ranges(backend.policy(first))[2]
    for observer in set(backend.observers()) - {first}:
        alone = backend.policy(observer)
        rule = {"match": "head", "activations": alone.activations.to_dict()}
        own = backend.ranges(alone)[2]
        mixed = backend.ranges(backend.policy(first, layers=[rule]))[2]
        for tensor, found in mixed.items():
            wanted = own if tensor == "cat.out" else general
            hold(found == wanted[tensor], f"{tensor}: not what the observer of its rule gives")


def refuses_before_reading(backend: BackendUnderTest) -> None:
    """What a backend has not is refused before any image is read."""
    model = small_detector()
    with backend.open(model) as session:
        for policy in _beyond(backend):
            stream = Stream(4)
            try:
                if policy.implementation == "native":
                    session.observe(plan(model, policy).sites, stream)
                else:
                    calibrate(session, plan(model, policy), stream)
            except CapabilityError as error:
                hold(stream.read == 0, "images were read before the refusal")
                hold(backend.name in str(error), f"the refusal does not name the backend: {error}")
                continue
            raise AssertionError(f"accepted a policy that it cannot honour: {policy.to_dict()}")


def _beyond(backend: BackendUnderTest) -> Iterator[CalibrationPolicy]:
    """Policies that ask for one thing more than the backend declares."""
    known = backend.plugin.capabilities
    policy = backend.policy()
    for observer in sorted(set(OBSERVERS) - set(known.activation_observers)):
        yield backend.policy(observer)
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


def every_observer_works(backend: BackendUnderTest) -> None:
    """Each declared observer gives finite, positive ranges that do not exceed the data."""
    for observer in backend.observers():
        model, sites, ranges = backend.ranges(backend.policy(observer))
        limit = magnitudes(model, sites, np.concatenate(list(Stream(16))))
        for tensor, largest in limit.items():
            amax = float(ranges[tensor].amax_array)
            hold(np.isfinite(amax), f"{observer}: {tensor}: {amax}")
            hold(0 < amax <= 1.01 * largest, f"{observer}: {tensor}: {amax} of {largest}")


def same_inputs_same_table(backend: BackendUnderTest) -> None:
    """Two calibrations agree bit for bit."""
    policy = backend.policy(backend.observers()[-1])
    first, second = backend.calibrated(policy)[2], backend.calibrated(policy)[2]
    hold(first == second, f"differ in {[t for t in first if first[t] != second[t]]}")


def model_is_untouched(backend: BackendUnderTest) -> None:
    """The float model has the same bytes afterwards."""
    model, _, _ = backend.calibrated(backend.policy())
    before = small_detector().proto.SerializeToString(deterministic=True)
    hold(model.proto.SerializeToString(deterministic=True) == before, "the graph was written to")
    hold(
        all(
            np.array_equal(numpy_helper.to_array(i), model.initializers[i.name])
            for i in model.proto.graph.initializer
        ),
        "the constants that were handed out were written to",
    )


def table_becomes_a_graph(backend: BackendUnderTest) -> None:
    """The table survives its file; the Q/DQ graph made from it is valid and fit for TensorRT."""
    model, sites, ranges = backend.ranges(backend.policy())
    table = table_of(backend, model, ranges)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "table.json"
        table.save(path)
        again = CalibrationTable.load(path)
    hold(again == table, "the table does not read back as it was written")
    proto = insert(model, sites, again).proto
    onnx.checker.check_model(proto, full_check=True)
    broken = [found for found in verify.check(proto) if found.severity == "error"]
    hold(not broken, f"the Q/DQ graph breaks a rule: {broken[0].message if broken else ''}")


def bad_numbers_are_named(backend: BackendUnderTest) -> None:
    """NaN activations end in an error of quantcore's that names a tensor, not in a table."""
    model = small_detector()
    sites = plan(model, backend.policy())
    poisoned = images(4)
    poisoned[2, 0, 3, 3] = np.nan
    with backend.open(model) as session:
        try:
            calibrate(session, sites, [poisoned])
        except QuantcoreError as error:
            names = {site.tensor for site in sites.sites}
            hold(any(repr(name) in str(error) for name in names), f"names no tensor: {error}")
            return
    raise AssertionError("an image with NaN was calibrated without a word")


def memory_is_flat(backend: BackendUnderTest) -> None:
    """Sixteen times the images take no more memory, whatever the observer."""
    found = run_apart(
        growth_of, backend.name, backend.observers(), progress=Silent(), what=backend.name
    ).result
    for observer, grown in found.items():
        hold(
            grown <= GROWTH_LIMIT_MB,
            f"{observer}: peak memory grows by {grown:.0f} MB from 32 images to 512",
        )


def interruption_leaves_nothing(backend: BackendUnderTest) -> None:
    """A calibration that is interrupted leaves no file and a session fit for the next one."""
    model = small_detector()
    sites = plan(model, backend.policy())
    here = set(Path.cwd().iterdir())
    with tempfile.TemporaryDirectory() as folder, mock.patch.object(tempfile, "tempdir", folder):
        with backend.open(model) as session:
            try:
                calibrate(session, sites, interrupted())
            except KeyboardInterrupt:
                pass
            else:
                raise AssertionError("swallowed a KeyboardInterrupt")
            found = calibrate(session, sites, Stream(16))
        left = [path.name for path in Path(folder).iterdir()]
    left += [path.name for path in set(Path.cwd().iterdir()) - here]
    hold(not left, f"left files behind: {', '.join(sorted(left))}")
    hold(found == backend.ranges(backend.policy())[2], "remembers the interrupted calibration")
