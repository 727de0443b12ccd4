"""The rungs: what is tried, the cheapest first. One calibration pass serves all observers."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from functools import cached_property
from glob import escape

from quantcore.calibration.recalibration import recalibrate
from quantcore.contracts import registry
from quantcore.contracts.capabilities import check_capabilities, check_trains
from quantcore.contracts.session import SessionOptions
from quantcore.data.dataset import ImageFile
from quantcore.data.opening import split_in
from quantcore.errors import CapabilityError, QuantcoreError
from quantcore.ir.model import FloatModel
from quantcore.policy.policy import CalibrationPolicy, LayerRule
from quantcore.policy.profiles import Profile
from quantcore.policy.tensor import TensorPolicy
from quantcore.qdq.placement import plan
from quantcore.runtime.files import ensure_folder
from quantcore.runtime.jobs import Runtime
from quantcore.studies.auto.attempt import Attempt
from quantcore.studies.auto.counters import Gain
from quantcore.studies.auto.parts import Parts
from quantcore.studies.auto.settings import AutoStudy
from quantcore.studies.calibrations import calibrated
from quantcore.studies.keep import quantized_layers
from quantcore.studies.rewriting import rewritten
from quantcore.studies.sensitivity import StudiedModel, measure
from quantcore.studies.trainings import trained
from quantcore.table.table import CalibrationTable
from quantcore.training.recipe import Recipe

#: Numbers of layers that are left in float, of the most sensitive or the slowest ones.
LEFT = (1, 3, 8, 13)

#: Images of those to calibrate on that layers are ranked by: detections lost are sharp.
RANKING = 20

#: What INT8 gains in each layer of an attempt; nothing where the engine does not tell.
Gained = Callable[[Attempt], Mapping[str, Gain]]

#: Rewrites that make up for rounding, and the one that makes channels alike.
CORRECTIONS = ("bias-correction", "gptq")
EQUALIZE, EQUALIZED = "equalize", "equalized"


def check_backends(names: Sequence[str]) -> str:
    """The backend that serves the rungs: the first that shows its activations.

    Raises:
        CapabilityError: None does.
        PluginError: One is not there.
    """
    able = [n for n in names if "portable" in registry.load_backend(n).capabilities.implementations]
    if not able:
        raise CapabilityError(
            f"none of the backends ({', '.join(names)}) shows its activations to quantcore, and "
            "`auto` applies several observers to one pass; add one that does, see `quantcore list`"
        )
    return able[0]


class Ladder:
    """Makes the attempts of each rung.

    Args:
        what: What is asked for.
        parts: Which images do what.
        runtime: Where the work is done and kept.
        say: Is given a line for what cannot be done.
    """

    def __init__(
        self, what: AutoStudy, parts: Parts, runtime: Runtime, say: Callable[[str], None]
    ) -> None:
        self._what, self._parts = what, parts
        self._runtime, self._say = runtime, say
        self._data = parts.data(what.data)
        self.backend = check_backends(what.backends)
        self._tables: dict[str, CalibrationTable] = {}

    def attempts(
        self, rung: str, gained: Gained, best: Attempt | None, fast: bool
    ) -> list[Attempt]:
        """The attempts of a rung; what cannot be made is left out, with a line.

        Args:
            rung: Of `settings.RUNGS`.
            gained: Gives what INT8 gains in each layer, where the engine tells.
            best: What the last rungs start from; `equalize` takes its placement alone.
            fast: Whether the best is as fast as is asked.
        """
        placements = self._what.placements
        if rung == "observers":
            return [*self._grid(rung, self._what.model, placements[:1]), *self._own()]
        if rung == "placement":
            return self._grid(rung, self._what.model, placements[1:])
        if rung == "equalize":
            if best:  # the placement rung has shown which
                placements = (best.policy.placement,)
            with self._spared(rung):
                return self._grid(rung, self._equalized, placements, (EQUALIZED,))
            return []
        assert best is not None
        if rung == "mixed":
            return self._mixed(best, gained, fast)
        return self._rounding(best) if rung == "rounding" else self._trained(best)

    def anew(self, attempt: Attempt) -> Attempt:
        """The recipe of an attempt that another ladder made, from the images of this one.

        A training stays as it is: nothing would tell whether another one went well.
        """
        if attempt.rung == "qat":
            return attempt
        with self._spared(f"{attempt.name}, on all images"):
            model = self._equalized if EQUALIZED in attempt.done else self._what.model
            policy = replace(attempt.policy, images=self._policy.images)
            table = self._calibrated(model, policy, attempt.backend, keep=False)
            for name in CORRECTIONS:
                if name in attempt.done:
                    model, table = self._corrected(name, model, table)
            return replace(attempt, model=model, table=table)
        return attempt

    def reach(self) -> dict[str, tuple[float, float]]:
        """Largest magnitudes by activation: on the images to calibrate on, and that choose."""
        model = self._what.model
        told = replace(self._widest(model), images=len(self._parts.choosing))
        with self._spared("activations of the images that choose"):
            here = self._seen(model).tensors
            there = self._calibrated(model, told, self.backend, False, self._parts.choosing).tensors
            return {
                name: (float(found.amax_array.max()), float(there[name].amax_array.max()))
                for name, found in here.items()
                if found.role == "activation"
            }
        return {}

    @cached_property
    def _equalized(self) -> FloatModel:
        found = rewritten(self._what.model, EQUALIZE, self._data, self._policy, self._runtime)
        self._say(found.line)
        return found.model

    @cached_property
    def _policy(self) -> CalibrationPolicy:
        """What holds for all, portable; one framework is enough, so in float32."""
        return replace(
            self._what.policy,
            implementation="portable",
            arithmetic="float32",
            images=len(self._parts.calibrating),
            observers=(),
        )

    def _grid(
        self,
        rung: str,
        model: FloatModel,
        placements: tuple[Profile, ...],
        done: tuple[str, ...] = (),
    ) -> list[Attempt]:
        """Every placement with every observer, from one pass over the images."""
        found = []
        for placement in placements:
            for observer in self._what.observers:
                policy = self._with(observer, placement)
                with self._spared(f"{observer.label}, {placement.name}"):
                    table = recalibrate(self._seen(model), policy)
                    found.append(_attempt(rung, self.backend, model, table, done))
        return found

    def _widest(self, model: FloatModel) -> CalibrationPolicy:
        """The policy that observes whatever any of the placements quantizes, and nothing more.

        What stands behind the last such tensor need not be materialised; often it cannot be.
        """
        policy = self._with(TensorPolicy("max"), self._what.placements[0])
        plans = [plan(model, replace(policy, placement=p)) for p in self._what.placements]
        wanted = {d.layer for found in plans for d in found.decisions if d.inputs or d.weights}
        rules = []
        for layer in model.layers:
            if layer.name in wanted:
                own = policy.rule_for(layer)
                how = (own.activations, own.weights) if own else (None, None)
                rules.append(LayerRule(escape(layer.name), True, *how))
        affine = any(placement.zero_points for placement in self._what.placements)
        widest = Profile("widest", (), affine)
        return replace(policy, placement=widest, layers=(*rules, *policy.layers))

    def _with(
        self, observer: TensorPolicy, placement: Profile, **changes: object
    ) -> CalibrationPolicy:
        """The policy with an observer, whose codes stay the policy's."""
        policy = replace(self._policy, placement=placement, **changes)  # type: ignore[arg-type]
        parameters = observer.parameters
        seen = replace(policy.activations, observer=observer.observer, parameters=parameters)
        return replace(policy, activations=seen)

    def _seen(self, model: FloatModel) -> CalibrationTable:
        """A table with the histograms of all tensors that any of the placements quantizes."""
        if model.fingerprint not in self._tables:
            found = self._calibrated(model, self._widest(model), self.backend, keep=True)
            self._tables[model.fingerprint] = found
        return self._tables[model.fingerprint]

    def _own(self) -> Iterator[Attempt]:
        """What the frameworks' own calibrators make of the first observer that they have."""
        model = self._what.model
        for backend in self._what.backends:
            capabilities = registry.load_backend(backend).capabilities
            own = {"implementation": "native", "arithmetic": None}
            for observer in self._what.observers:
                policy = self._with(observer, self._what.placements[0], **own)
                with suppress(QuantcoreError):
                    check_capabilities(backend, capabilities, plan(model, policy))
                    break
            else:
                continue
            with self._spared(f"{backend}'s own {policy.activations.label}"):
                table = self._calibrated(model, policy, backend, keep=False)
                yield _attempt("observers", backend, model, table)

    def _calibrated(
        self,
        model: FloatModel,
        policy: CalibrationPolicy,
        backend: str,
        keep: bool,
        images: Sequence[ImageFile] | None = None,
    ) -> CalibrationTable:
        data = self._data
        if images is not None:
            data = replace(data, images=frozenset(image.id for image in images))
        given = (data, self._what.device, self._what.threads, self._runtime)
        return calibrated(backend, model, policy, backend, *given, keep_histograms=keep).table

    def _mixed(self, best: Attempt, gained: Gained, fast: bool) -> list[Attempt]:
        """Layers left in float: those that INT8 slows, and those that hurt most for what they gain.

        What hurts is measured on images to calibrate on, by what is found alone; a recipe that is
        too slow is not made faster by it.
        """
        found = []
        with self._spared("layers in float"):
            gains = gained(best)
            names = quantized_layers(best.model, best.policy)
            slower = sorted(
                (name for name, gain in gains.items() if gain.slower),
                key=lambda name: gains[name].seconds,
            )
            sets = [slower]
            for order in self._orders(best, gains) if fast else [slower]:
                sets += [order[:count] for count in LEFT]
            kept = (tuple(name for name in names if name in layers) for layers in sets)
            for layers in dict.fromkeys(kept):
                if 0 < len(layers) < len(names):
                    found.append(best.leaving("mixed", layers))
        return found

    def _orders(self, best: Attempt, gains: Mapping[str, Gain]) -> list[list[str]]:
        """The layers by what is lost with them, and by that for each second that they gain."""
        ranking = measure(
            StudiedModel.of(best.model, best.table),
            self._parts.dataset.only([image.id for image in self._parts.calibrating[:RANKING]]),
            split_in(self._what.data.root, self._what.data.calibration),
            self._runtime,
            labels=False,
        )
        lost = {cost.layer: cost.loss.disagreement.value for cost in ranking.layers}
        if not gains:
            return [list(lost)]
        # A layer that gains nothing costs next to nothing: a thousandth of all.
        seconds = {name: gain.seconds for name, gain in gains.items()}
        least = sum(map(abs, seconds.values())) / 1e3
        worth = {name: loss / max(seconds.get(name, 0.0), least) for name, loss in lost.items()}
        return [list(lost), sorted(lost, key=lambda name: -worth[name])]

    def _rounding(self, best: Attempt) -> list[Attempt]:
        """Weights and biases that make up for rounding."""
        found = []
        for name in CORRECTIONS:
            with self._spared(name):
                made = self._corrected(name, best.model, best.table)
                corrected = _attempt("rounding", best.backend, *made, (*best.done, name))
                found.append(replace(corrected, teacher=best.model))
        return found

    def _corrected(
        self, name: str, model: FloatModel, table: CalibrationTable
    ) -> tuple[FloatModel, CalibrationTable]:
        """What a correction makes of a model and its table."""
        done = rewritten(model, name, self._data, self._policy, self._runtime, table)
        assert done.table is not None
        return done.model, done.table

    def _trained(self, best: Attempt) -> list[Attempt]:
        """Weights and scales trained with the quantizers in place, by the first that can."""
        for backend in dict.fromkeys((best.backend, *self._what.backends)):
            with self._spared(f"training with {backend}"):
                capabilities = registry.load_backend(backend).capabilities
                check_trains(backend, capabilities, plan(best.model, best.policy))
                return [self._training(best, backend)]
        return []

    def _training(self, best: Attempt, backend: str) -> Attempt:
        what, title = self._what, f"training with {backend}"
        # The images that choose are its gate.
        recipe = Recipe(steps=what.steps, warmup=min(20, what.steps), held_out=0.0)
        options = SessionOptions(device=what.device, threads=what.threads)
        checkpoint = ensure_folder(what.out / "training") / f"{backend}.npz"
        given = (recipe, backend, self._data, options, checkpoint, self._runtime)
        found = trained(title, best.model, best.policy, *given, best.table, best.teacher)
        words = (*best.done, f"trained {what.steps} steps")
        return _attempt("qat", backend, found.model, found.table, words)

    @contextmanager
    def _spared(self, what: str) -> Iterator[None]:
        """A line instead of an error: what cannot be done costs nothing but itself."""
        try:
            yield
        except QuantcoreError as error:
            self._say(f"{what}: left out: {error}")


def _attempt(
    rung: str,
    backend: str,
    model: FloatModel,
    table: CalibrationTable,
    done: tuple[str, ...] = (),
) -> Attempt:
    """An attempt, without what its table kept of histograms."""
    slim = replace(table, kept=None)
    return Attempt(rung=rung, backend=backend, model=model, table=slim, done=done)
