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
    good = Checkpoint.load(checkpoint, key) if checkpoint else None
    if good is None:
        good = Checkpoint(np.empty((0, 2)), run.state())
    else:
        run.restore(good.state)
    losses = good.losses.tolist()
    heads = run.model.output_names
    steps = range(len(losses), recipe.steps)
    why: str | None = None
    unproven: Checkpoint | None = None  # until the next step shows what its weights compute
    with closing(progress.track(steps, f"{run.name}: training", len(steps))) as left:
        for step in left:
            batch = crops.batch(step)
            found = run.step(batch, teacher.targets(batch), rates(recipe, step))
            of_heads = sum(loss for name, loss in found.items() if name in heads)
            losses.append([of_heads, sum(found.values()) - of_heads])
            table = np.asarray(losses)
            why = _fault(table)
            if why is None and unproven is not None and _calm(table):
                good, unproven = unproven, None
                if checkpoint:
                    good.save(checkpoint, key)
            done = step + 1
            if why is None and (done % _BETWEEN == 0 or done == recipe.steps):
                unproven = Checkpoint(table, run.state())
                if not _finite(unproven):
                    why = f"step {done} made a weight NaN or infinite"
                elif done == recipe.steps:
                    good = unproven
            if why is not None:
                break
    if why is not None:
        if not len(good.losses):
            raise TrainingError(f"{why}, before any weights were good; {_ADVICE}")
        run.restore(good.state)
        why = f"{why}; these are the weights of step {len(good.losses)}; {_ADVICE}"
    heads_lost, features_lost = zip(*losses, strict=True)
    found_losses = Losses(tuple(heads_lost), tuple(features_lost))
    return Ended(found_losses, why, time.perf_counter() - began)


_ADVICE = "lower `rate` and `scale_rate` in the recipe"


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
    """The median of the last losses over that of the first."""
    window = max(1, min(_WINDOW, len(total) // 2))
    first = float(np.median(total[:window]))
    return float(np.median(total[-window:])) / max(first, 1e-30)
