"""The steps of a training: crops, the teacher's word, the framework's step, and when to stop."""

from __future__ import annotations

import time
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from quantcore.contracts.training import TrainingRun
from quantcore.errors import TrainingError
from quantcore.results.training import Losses
from quantcore.runtime.progress import Progress
from quantcore.training.checkpoint import Checkpoint
from quantcore.training.crops import Crops
from quantcore.training.recipe import Recipe
from quantcore.training.reference import Values
from quantcore.training.schedule import rates
from quantcore.training.teacher import Teacher

#: Steps between two states that are kept.
_BETWEEN = 20
#: Steps whose median loss is looked at, and how often that of the first ones is too much.
_WINDOW, _DIVERGED = 10, 10.0


@dataclass(frozen=True)
class Ended:
    """How the steps went.

    Attributes:
        losses: Of every step that was taken.
        why: Why it ended early, in one line; None where it did not.
        seconds: Wall time of this process alone.
    """

    losses: Losses
    why: str | None
    seconds: float


def run_steps(
    run: TrainingRun,
    crops: Crops,
    teacher: Teacher,
    recipe: Recipe,
    checkpoint: Path | None,
    key: str,
    progress: Progress,
) -> Ended:
    """Takes every step of a recipe; `run` then holds the last good weights.

    Args:
        run: The network.
        crops: What it looks at.
        teacher: What it should say.
        recipe: How many steps, and how far they go.
        checkpoint: Where states are kept, and found again; None for nowhere.
        key: Of all that the steps depend on.
        progress: Where to report.

    Raises:
        TrainingError: Not one state was good.
    """
    began = time.perf_counter()
    states = _States(run, recipe.steps, checkpoint, key)
    losses = states.good.losses.tolist()
    left = range(len(losses), recipe.steps)
    why: str | None = None
    with closing(progress.track(left, f"{run.name}: training", len(left))) as steps:
        for step in steps:
            batch = crops.batch(step)
            found = run.step(batch, teacher.targets(batch, crops.images(step)), rates(recipe, step))
            of_heads = sum(v for name, v in found.items() if name in run.model.output_names)
            losses.append([of_heads, sum(found.values()) - of_heads])
            why = states.after(np.asarray(losses))
            if why is not None:
                break
    if why is not None:
        why = f"{why}{states.back(why)}; lower `rate` and `scale_rate` in the recipe"
    heads, features = zip(*losses, strict=True)
    return Ended(Losses(tuple(heads), tuple(features)), why, time.perf_counter() - began)


class _States:
    """The states of a run: the last good one, and one that the next step has yet to prove.

    Args:
        run: Is put back to where it stood, if it was interrupted.
        steps: Of the whole training.
        path: Where good states are kept; None for nowhere.
        key: Of all that the steps depend on.

    Attributes:
        good: The last good one.
    """

    def __init__(self, run: TrainingRun, steps: int, path: Path | None, key: str) -> None:
        self._run, self._steps, self._path, self._key = run, steps, path, key
        self._unproven: Checkpoint | None = None
        kept = Checkpoint.load(path, key) if path else None
        if kept is not None:
            run.restore(kept.state)
        self.good = kept or Checkpoint(np.empty((0, 2)), run.state())

    def after(self, losses: Values) -> str | None:
        """Looks at the losses so far; what is wrong, in words, or None."""
        fault = _fault(losses)
        if fault is not None:
            return fault
        if self._unproven is not None and _calm(losses):
            self.good, self._unproven = self._unproven, None
            if self._path:
                self.good.save(self._path, self._key)
        done = len(losses)
        if done % _BETWEEN == 0 or done == self._steps:
            state = Checkpoint(losses, self._run.state())
            if not _finite(state):
                return f"step {done} made a weight NaN or infinite"
            if done == self._steps:
                self.good = state
            self._unproven = state
        return None

    def back(self, why: str) -> str:
        """Puts the run back to the last good state; says which.

        Args:
            why: What happened, for the error.

        Raises:
            TrainingError: There is none.
        """
        if not len(self.good.losses):
            raise TrainingError(
                f"{why}, before any weights were good; lower `rate` and `scale_rate` in the recipe"
            )
        self._run.restore(self.good.state)
        return f"; these are the weights of step {len(self.good.losses)}"


def _fault(losses: Values) -> str | None:
    """What is wrong with the last steps."""
    total = losses.sum(axis=1)
    if not np.isfinite(total[-1]):
        return f"training gave NaN or infinity at step {len(total)}"
    if _growth(total) > _DIVERGED:
        return (
            f"training diverged at step {len(total)}: its loss is {_growth(total):.0f} times "
            "the first ones"
        )
    return None


def _finite(state: Checkpoint) -> bool:
    values = (v for v in state.state.values() if v.dtype.kind == "f")
    return all(bool(np.isfinite(v).all()) for v in values)


def _calm(losses: Values) -> bool:
    return _growth(losses.sum(axis=1)) <= _DIVERGED / 2


def _growth(total: Values) -> float:
    """The median of the last losses over that of the first, which count as 0.1 at the least.

    The first crops may show nothing; a loss of 1 is that of a network that says nothing.
    """
    window = max(1, min(_WINDOW, len(total) // 2))
    first = max(float(np.median(total[:window])), 1 / _DIVERGED)
    return float(np.median(total[-window:])) / first
