"""Training in another environment: both sides of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy.typing as npt

from quantcore.contracts.remote import wire
from quantcore.contracts.remote.peer import Peer
from quantcore.contracts.session import BackendSession
from quantcore.contracts.training import Rates, State, Target, TrainingRun, TrainingSpec
from quantcore.errors import BackendError
from quantcore.ir.model import Array
from quantcore.qdq.placement import Plan, Site
from quantcore.table.table import TensorRange

#: Writes arrays for the other side; the name of the file.
Save = Callable[[Sequence[npt.NDArray[Any]]], str]


class RemoteTraining(TrainingRun):
    """A training of a session over there, by its number; all that is kept is kept there."""

    def __init__(
        self,
        session: BackendSession,
        peer: Peer,
        sites: Sequence[Site],
        ranges: Mapping[str, TensorRange],
        spec: TrainingSpec,
    ) -> None:
        super().__init__(session.name, session.model)
        self._peer = peer
        entries = {site.tensor: ranges[site.tensor].to_dict() for site in sites}
        told = {**asdict(spec), "layers": sorted(spec.layers)}
        self._number: int | None = peer.ask(
            "training", sites=wire.written(sites), ranges=entries, spec=told
        )

    def step(self, batch: Array, targets: Mapping[str, Target], rates: Rates) -> dict[str, float]:
        """See TrainingRun."""
        parts = [p for t in targets.values() for p in (t.values, t.weights, t.labels)]
        found: dict[str, float] = self._ask(
            "step",
            arrays=self._peer.save([batch, *parts]),
            names=list(targets),
            rates=asdict(rates),
        )
        return found

    def weights(self) -> dict[str, Array]:
        """See TrainingRun."""
        return _named(self._ask("weights"))

    def ranges(self) -> dict[str, TensorRange]:
        """See TrainingRun."""
        return wire.ranges(self._ask("ranges"))

    def state(self) -> dict[str, npt.NDArray[Any]]:
        """See TrainingRun."""
        return _named(self._ask("state"))

    def restore(self, state: State) -> None:
        """See TrainingRun."""
        self._ask("restore", arrays=self._peer.save(list(state.values())), names=list(state))

    def close(self) -> None:
        """See TrainingRun."""
        if self._number is not None and self._peer.is_open:
            self._ask("end")
        self._number = None

    def _ask(self, wanted: str, **given: Any) -> Any:
        if self._number is None:
            raise BackendError(f"backend {self.name!r}: the training is closed")
        return self._peer.ask("train", number=self._number, wanted=wanted, given=given)


class ServedTrainings:
    """The trainings of the session on this side, for the other.

    Args:
        save: Writes arrays for the other side.
    """

    def __init__(self, save: Save) -> None:
        self._save = save
        self._runs: dict[int, TrainingRun] = {}

    def start(
        self,
        session: BackendSession,
        sites: list[wire.Message],
        ranges: wire.Message,
        spec: wire.Message,
    ) -> int:
        """Begins one; its number."""
        made = TrainingSpec(**{**spec, "layers": frozenset(spec["layers"])})
        plan = Plan(wire.sites(sites), ())
        number = len(self._runs)
        self._runs[number] = session.training(plan, wire.ranges(ranges), made)
        return number

    def answer(self, number: int, wanted: str, given: wire.Message) -> Any:
        """What one of them says."""
        run = self._runs[number]
        if wanted == "step":
            batch, *parts = wire.load(given["arrays"])
            made = map(Target, parts[::3], parts[1::3], parts[2::3])
            targets = dict(zip(given["names"], made, strict=True))
            return run.step(batch, targets, Rates(**given["rates"]))
        if wanted == "ranges":
            return {tensor: entry.to_dict() for tensor, entry in run.ranges().items()}
        if wanted == "restore":
            arrays = wire.load(given["arrays"])
            run.restore(dict(zip(given["names"], arrays, strict=True)))
            return None
        if wanted == "end":
            run.close()
            return None
        found: Mapping[str, Any] = run.weights() if wanted == "weights" else run.state()
        return {"names": list(found), "arrays": self._save(list(found.values()))}


def _named(found: wire.Message) -> dict[str, Any]:
    return dict(zip(found["names"], wire.load(found["arrays"]), strict=True))
