"""The graphs that a comparison makes of one backend's calibration."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from quantcore.contracts import registry
from quantcore.contracts.session import SessionOptions
from quantcore.ir.model import FloatModel, QdqModel
from quantcore.pipeline import Calibrated, quantize, save_model, save_trained
from quantcore.policy.policy import CalibrationPolicy
from quantcore.results.comparison import LeftInFloat
from quantcore.results.mixed import Mixed
from quantcore.runtime.files import ensure_folder, write_whole
from quantcore.runtime.jobs import Runtime
from quantcore.studies.calibrations import calibrated
from quantcore.studies.compared import Comparison
from quantcore.studies.layers import LayerStudy, mix
from quantcore.studies.manifest import Invocation
from quantcore.studies.mixed import SearchTarget
from quantcore.studies.rewriting import rewritten
from quantcore.studies.sensitivity import StudiedModel
from quantcore.studies.trainings import trained
from quantcore.training.recipe import Recipe


@dataclass(frozen=True, kw_only=True)
class Quantized:
    """A graph that a backend made, before it is evaluated.

    Attributes:
        backend: Backend name.
        label: What its files are called.
        calibrated: The float model, its ranges, and what they cost.
        policy: Applied.
        qdq: The graph.
        step: As of a `Variant`, as the next.
        note: What it did.
        files: Beside graph and table, by kind.
        found: The search that the policy comes from; None where it is the comparison's.
    """

    backend: str
    label: str
    calibrated: Calibrated
    policy: CalibrationPolicy
    qdq: QdqModel
    step: str = ""
    note: str = ""
    files: Mapping[str, str] = field(default_factory=dict)
    found: Mixed | None = None

    @property
    def title(self) -> str:
        """How people call it."""
        return f"{self.backend}, {self.step}" if self.step else self.backend

    @property
    def artifacts(self) -> dict[str, str]:
        """File names in the output folder, by kind."""
        own = {"onnx": f"{self.label}.onnx", "table": f"{self.backend}.table.json"}
        return {**own, **self.files}

    @property
    def left(self) -> LeftInFloat | None:
        """What the search left in float."""
        if self.found is None:
            return None
        at, chosen = self.found, self.found.chosen
        return LeftInFloat(
            layers=chosen.kept,
            max_drop=at.max_drop,
            met=at.met,
            drop=chosen.loss.drop,
            split=at.split,
            images=at.images,
            metric=at.metric,
        )


class Variants:
    """Makes the graphs of a comparison; each step is kept, and writes its files.

    Every method raises QuantcoreError for what fails in it.

    Args:
        what: What is compared.
        model: The float model that the backends are given.
        runtime: Where it is done and kept.
    """

    def __init__(self, what: Comparison, model: FloatModel, runtime: Runtime) -> None:
        self._what, self._model, self._runtime = what, model, runtime

    def plain(self, name: str) -> Quantized:
        """Calibrated with a backend, and nothing more."""
        what = self._what
        given = (self._model, what.policy, name, what.data, what.device, what.threads)
        found = calibrated(name, *given, self._runtime)
        qdq = quantize(self._model, found.table, what.policy, what.precision)
        found.table.save(what.out / f"{name}.table.json")
        return Quantized(backend=name, label=name, calibrated=found, policy=what.policy, qdq=qdq)

    def corrected(self, plain: Quantized, correction: str) -> Quantized:
        """What a correction makes of a calibration."""
        what, label = self._what, f"{plain.label}.{correction}"
        given = (self._model, correction, what.data, what.policy, self._runtime)
        done = rewritten(*given, table=plain.calibrated.table)
        table = done.table or plain.calibrated.table
        qdq = quantize(done.model, table, what.policy, what.precision)
        files = {"table": f"{label}.table.json", "float": f"{label}.float.onnx"}
        table.save(what.out / files["table"])
        save_model(done.model, what.out / files["float"])
        return Quantized(
            backend=plain.backend,
            label=label,
            calibrated=replace(plain.calibrated, model=done.model, table=table),
            policy=what.policy,
            qdq=qdq,
            step=correction,
            note=f"{done.line}; {registry.load_rewrite(correction).ensures}",
            files=files,
        )

    def trained(self, name: str, recipe: Recipe) -> Quantized:
        """What training makes of the network, whether or not its gate takes it."""
        what, label = self._what, f"{name}.trained"
        options = SessionOptions(device=what.device, threads=what.threads)
        checkpoint = what.out / f"{label}.checkpoint.npz"
        given = (self._model, what.policy, recipe, name, what.data, options, checkpoint)
        done = trained(f"{name}, trained", *given, self._runtime)
        save_trained(done, what.out / label)
        record = done.record
        home = label if record.better else f"{label}/rejected"
        return Quantized(
            backend=name,
            label=label,
            calibrated=Calibrated(
                model=done.model,
                table=done.table,
                seconds=record.seconds,
                peak_rss_mb=record.peak_rss_mb,
                parity=record.parity,
                audit=None,
            ),
            policy=what.policy,
            qdq=quantize(done.model, done.table, what.policy, what.precision),
            step="trained",
            note=record.line,
            files={
                "table": f"{home}/table.json",
                "float": f"{home}/float.onnx",
                "training": f"{label}/training.json",
                "losses": f"{label}/training.html",
            },
        )

    def mixed(self, plain: Quantized, target: SearchTarget) -> Quantized:
        """Without the layers that a search leaves in float."""
        what, label, table = self._what, f"{plain.label}.mixed", plain.calibrated.table
        # The images that the table was made with: the evaluation split stays unseen.
        study = LayerStudy(
            data=what.data.root,
            split=what.data.calibration,
            images=what.policy.images,
            target=target,
            invocation=Invocation(command=what.command, weights=what.weights, threads=what.threads),
        )
        studied = StudiedModel(self._model, table, what.policy)
        found = mix(studied, study, ensure_folder(what.out / label), self._runtime)
        qdq = quantize(self._model, table, found.policy, what.precision)
        write_whole(what.out / f"{label}.yaml", found.policy_yaml())
        return Quantized(
            backend=plain.backend,
            label=label,
            calibrated=plain.calibrated,
            policy=found.policy,
            qdq=qdq,
            step="mixed",
            files={
                "policy": f"{label}.yaml",
                "search": f"{label}/mixed.json",
                "frontier": f"{label}/mixed.html",
            },
            found=found,
        )
