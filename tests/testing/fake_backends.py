"""A backend that keeps every promise, and for each check one that breaks it.

Processes of their own import this module too; the template's package `quantcore_backend_honest`,
which everything here is built on, is on their path as it is on that of the tests.
"""

from __future__ import annotations

import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper
from quantcore_backend_honest import session as template
from quantcore_backend_honest.plugin import HonestBackend

from quantcore.contracts.backend import Capabilities, FrameworkLayer, Simulation, Support
from quantcore.contracts.engine import EngineOptions
from quantcore.contracts.registry import load_engine
from quantcore.ir.edits import exposed
from quantcore.qdq.insertion import insert
from quantcore.qdq.placement import Plan
from quantcore.table.table import CalibrationTable, Provenance, TensorRange
from quantcore.testing.exact import in_float64
from quantcore.training.reference_run import ReferenceRun


def amax_of(policy, values, before):
    if policy.observer == "percentile":
        share = policy.parameter("percentile", 99.9) / 100
        return max(before, float(np.quantile(np.abs(values), share)))
    return max(before, float(np.abs(values).max()))


template.amax_of = amax_of


class Session(template.HonestSession):
    """The template's, with activations, and a simulation."""

    def _forward(self, batch):
        if self.options.arithmetic == "float32":
            return super()._forward(batch)
        heads = in_float64(self.model.proto, batch)
        return [heads[name] for name in self.model.output_names]

    def _watch(self, batch, show):
        graph = exposed(self.model.proto, show)
        with load_engine("onnxruntime").build(graph, EngineOptions()) as engine:
            values = {self.model.input_name: batch, **engine.infer(batch)}
        for name in show:
            show[name](values[name])

    def _simulation(self, sites, ranges):
        return FakeSimulation(self, sites, ranges)

    def _training(self, sites, ranges, spec):
        return ReferenceRun(self.model, sites, ranges, spec)


class FakeSimulation(Simulation):
    """The shared Q/DQ graph, opened at the forced tensors."""

    def __init__(self, session, sites, ranges):
        super().__init__(session)
        self.options = session.options
        provenance = Provenance(self.model.name, self.model.fingerprint, self.name)
        table = CalibrationTable(dict(ranges), provenance)
        self.qdq = insert(self.model, Plan(tuple(sites), ()), table).proto

    def _infer(self, batch, forced, computed):
        if self.options.arithmetic == "float64":
            heads = in_float64(self.qdq, batch)
            return [heads[name] for name in self.model.output_names]
        graph = onnx.ModelProto()
        graph.CopyFrom(self.qdq)
        for node in graph.graph.node:
            node.output[:] = [f"{o}!" if o in forced else o for o in node.output]
        for name in forced:
            graph.graph.input.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, None))
            graph.graph.output.append(helper.make_empty_tensor_value_info(f"{name}!"))
        options = onnxruntime.SessionOptions()
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
        built = onnxruntime.InferenceSession(graph.SerializeToString(), options)
        names = [*self.model.output_names, *(f"{name}!" for name in forced)]
        found = built.run(names, {self.model.input_name: batch, **forced})
        heads = len(self.model.output_names)
        computed.update(zip(forced, found[heads:], strict=True))
        return found[:heads]


class Fake(HonestBackend):
    """Keeps every promise; `Session` is what a broken one replaces."""

    Session: Any = Session
    capabilities = Capabilities(
        activation_observers={"max": frozenset(), "percentile": frozenset({"percentile"})},
        weight_observers={"max": frozenset()},
        implementations=frozenset({"native", "portable"}),
        simulate=Support.SYMMETRIC,
        train=Support.FULL,
        arithmetics=frozenset({"float32", "float64"}),
        operators=frozenset({"Add", "Concat", "Conv", "Mul", "Relu", "Sigmoid", "Softmax"}),
    )

    def framework_layer(self, layer):
        return FrameworkLayer("Layer", ("a", "b", "c"), ("w",), ("out",))

    def _open(self, model, options):
        engine = load_engine("onnxruntime")
        return self.Session(self.name, model, self.capabilities, options, engine)


def scaled(found, factor, tensor=None):
    """The ranges times a factor, weights as they are."""
    return {
        name: entry
        if entry.role == "weight" or tensor not in (None, name)
        else TensorRange.symmetric(entry.role, entry.amax * factor)
        for name, entry in found.items()
    }


BROKEN: dict[str, type[Fake]] = {}


def breaks(check):
    def note(fake):
        BROKEN[check] = fake
        return fake

    return note


@breaks("entry point resolves, API version matches")
class OldApi(Fake):
    api_version = 0


@breaks("listing imports nothing")
class Listed(Fake):
    """The tests put a sitecustomize on the path that imports it."""


@breaks("missing framework is answered with a command")
class WithoutRequirements(Fake):
    """The tests give its distribution none."""


@breaks("layers are described by name")
class Wordless(Fake):
    def framework_layer(self, layer):
        return FrameworkLayer("Layer", ("x",), (), ("y",))


@breaks("network agrees with the float graph")
class Another(Fake):
    class Session(Session):
        def _forward(self, batch):
            return [head * np.float32(1.01) for head in super()._forward(batch)]


@breaks("sessions are independent")
class Shared(Fake):
    class Session(Session):
        last: Any = None

        def __init__(self, *arguments):
            super().__init__(*arguments)
            Shared.Session.last = self._float

        def _forward(self, batch):
            mine, self._float = self._float, self.last
            try:
                return super()._forward(batch)
            finally:
                self._float = mine


@breaks("unknown options are refused")
class AnyDevice(Fake):
    def open(self, model, options=None):
        return super().open(model)


@breaks("foreign layers are refused by name")
class Foreign(Fake):
    def _open(self, model, options):
        if any(node.domain for node in model.proto.graph.node):
            raise KeyError("NoSuchOperator")
        return super()._open(model, options)


@breaks("rules of the policy are honoured")
class OneObserver(Fake):
    class Session(Session):
        def _observe(self, sites, batches, progress):
            one = next(site.policy for site in sites if site.role == "activation")
            alike = [replace(s, policy=one) if s.role == "activation" else s for s in sites]
            return super()._observe(alike, batches, progress)


@breaks("refuses before reading an image")
class Eager(Fake):
    class Session(Session):
        def observe(self, sites, batches, progress=None):
            return super().observe(sites, list(batches), progress)


@breaks("every declared observer works")
class Boastful(Fake):
    class Session(Session):
        def _observe(self, sites, batches, progress):
            found = super()._observe(sites, batches, progress)
            return scaled(found, 3 if sites[0].policy.observer == "percentile" else 1)


@breaks("same inputs, same table")
class Random(Fake):
    class Session(Session):
        def _observe(self, sites, batches, progress):
            return scaled(
                super()._observe(sites, batches, progress), np.random.default_rng().uniform(0.9, 1)
            )


@breaks("float model is left untouched")
class Scribbling(Fake):
    class Session(Session):
        def _observe(self, sites, batches, progress):
            found = super()._observe(sites, batches, progress)
            self.model.proto.graph.doc_string = "calibrated"
            return found


@breaks("table round-trips and becomes a Q/DQ graph")
class Float32(Fake):
    class Session(Session):
        def _observe(self, sites, batches, progress):
            found = super()._observe(sites, batches, progress)
            for name, entry in found.items():
                if entry.axis is None:
                    found[name] = TensorRange("activation", np.float32(-1), np.float32(1))
            return found


@breaks("NaN is named")
class Blind(Fake):
    class Session(Session):
        def _observe(self, sites, batches, progress):
            return super()._observe(sites, map(np.nan_to_num, batches), progress)


@breaks("memory is flat in the number of images")
class Hoarding(Fake):
    class Session(Session):
        def _observe(self, sites, batches, progress):
            hoard = []

            def keep():
                for batch in batches:
                    # As much as the observed activations of a batch are.
                    hoard.append(np.repeat(batch, 4, axis=0) + 1)
                    yield batch

            return super()._observe(sites, keep(), progress)


@breaks("interruption leaves nothing behind")
class Remembering(Fake):
    class Session(Session):
        def _observe(self, sites, batches, progress):
            self.seen = getattr(self, "seen", [])

            def keep():
                for batch in batches:
                    self.seen.append(batch)
                    yield batch

            for _ in keep():
                pass
            return super()._observe(sites, self.seen, progress)


class Littering(Fake):
    """Breaks the same promise in another way."""

    class Session(Session):
        def _observe(self, sites, batches, progress):
            Path(tempfile.mkstemp()[1]).write_text("half")
            return super()._observe(sites, batches, progress)


@breaks("max is exact")
class Short(Fake):
    class Session(Session):
        def _observe(self, sites, batches, progress):
            return scaled(super()._observe(sites, batches, progress), 0.99, "cat.out")


@breaks("batch size does not change max")
class Averaging(Fake):
    class Session(Session):
        def _observe(self, sites, batches, progress):
            means = (batch.mean(axis=0, keepdims=True) for batch in batches)
            return super()._observe(sites, means, progress)


@breaks("weight ranges follow their axis")
class WrongAxis(Fake):
    class Session(Session):
        def _observe(self, sites, batches, progress):
            found = super()._observe(sites, batches, progress)
            for name, entry in found.items():
                if entry.axis is not None:
                    amax = (entry.amax[-1], *entry.amax[:-1])
                    found[name] = TensorRange.symmetric("weight", amax, entry.axis)
            return found


@breaks("portable ranges are everyone's")
class Clipping(Fake):
    class Session(Session):
        def _watch(self, batch, see):
            low = {n: lambda values, n=n: see[n](np.minimum(values, 0.5)) for n in see}
            super()._watch(batch, low)


@breaks("simulation agrees with the Q/DQ graph")
class OtherScales(Fake):
    class Session(Session):
        def _simulation(self, sites, ranges):
            return super()._simulation(sites, scaled(ranges, 1.05))


@breaks("float64 rounds nothing")
class StillFloat32(Fake):
    def _open(self, model, options):
        return super()._open(model, replace(options, arithmetic="float32"))


@breaks("declared operators agree with ONNX Runtime")
class Half(Fake):
    class Session(Session):
        def _forward(self, batch):
            heads = super()._forward(batch)
            return [np.float16(head).astype(head.dtype) for head in heads]


@breaks("simulation leaves the float network alone")
class Stuck(Fake):
    class Session(Session):
        made: Any = None

        def _simulation(self, sites, ranges):
            self.made = super()._simulation(sites, ranges)
            return self.made

        def _forward(self, batch):
            return self.made._infer(batch, {}, {}) if self.made else super()._forward(batch)


@breaks("simulations stand side by side")
class OneTable(Fake):
    class Session(Session):
        def _simulation(self, sites, ranges):
            last = self.last = super()._simulation(sites, ranges)
            latest = lambda *given: type(last)._infer(self.last, *given)  # noqa: E731
            last._infer = latest
            return last


@breaks("training steps are the defined ones")
class Hasty(Fake):
    class Session(Session):
        def _training(self, sites, ranges, spec):
            run = super()._training(sites, ranges, spec)
            step = run._step
            run._step = lambda batch, targets, rates: step(
                batch, targets, replace(rates, weights=1.1 * rates.weights)
            )
            return run


@breaks("training goes on where it was")
class Forgetful(Fake):
    class Session(Session):
        def _training(self, sites, ranges, spec):
            run = super()._training(sites, ranges, spec)
            run._restore = lambda state: None
            return run


@breaks("training leaves the float network alone")
class Trained(Fake):
    class Session(Session):
        def _training(self, sites, ranges, spec):
            run = self.made = super()._training(sites, ranges, spec)
            return run

        made: Any = None

        def _forward(self, batch):
            heads = super()._forward(batch)
            return [head + 1 for head in heads] if self.made else heads
