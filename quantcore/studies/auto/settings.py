"""What is asked of the climb, and what is fixed or forbidden."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from quantcore.errors import UsageError
from quantcore.ir.model import FloatModel
from quantcore.pipeline import Data, Evaluation
from quantcore.policy.policy import CalibrationPolicy
from quantcore.policy.profiles import BUILT_IN, Profile
from quantcore.policy.tensor import TensorPolicy

#: What is tried, the cheapest first; see `quantcore.studies.auto.ladder`.
RUNGS = ("observers", "placement", "equalize", "mixed", "rounding", "qat")

#: Observers that one calibration pass serves; the one that most often does first.
OBSERVERS = (
    TensorPolicy("percentile", (("percentile", 99.99),)),
    TensorPolicy("percentile", (("percentile", 99.999),)),
    TensorPolicy("mse"),
    TensorPolicy("max"),
)

#: Placements whose graphs every engine takes.
PLACEMENTS = (BUILT_IN["tensorrt"], BUILT_IN["minimal"])


#: Images of the calibration split that take part: a choice by half of them goes by the detections
#: lost, and more of them bring it little (docs/auto.md), but time grows with them.
IMAGES = 240


@dataclass(frozen=True, kw_only=True)
class AutoStudy:
    """What is asked for.

    Attributes:
        model: The float model.
        data: The calibration split is divided into images to calibrate on and images to choose by;
            the evaluation split is looked at once, at the end.
        out: Folder for the network, its table, the report and the finished work.
        backends: Backend names; the first that shows its activations serves every rung.
        engines: How graphs run; each engine competes.
        max_drop: The model may lose so much of its main figure.
        min_speedup: It must run so many times as fast as the fastest float network that loses no
            more.
        confidence: How surely a recipe must meet the drop to be taken: 0.5 goes by the most likely
            value, more climbs higher. There is a single look at the evaluation split, and even odds
            would fail at every other.
        budget: Seconds after which no further rung is begun; None for no limit.
        policy: What holds for all recipes: codes, rules, seed; observer and placement are searched.
        observers: Observers to try.
        placements: Placement profiles to try.
        rivals: Precisions of the float networks that have to be beaten, as `FP32`; None for all
            that the engines compute in. For a network that is to run on other processors.
        without: Rungs of `RUNGS` that are left out.
        images: Images of the calibration split that take part at most, drawn at random; None for
            all.
        choosing: Share of them that is set aside to choose by.
        seed: Of the draw and the division.
        graphs: Graphs that stand for a recipe: its own, and others that hardly differ.
        steps: Steps of a training.
        refit: Whether the chosen recipe is made again with all of these images.
        device: Where frameworks compute.
        threads: CPU threads of the framework; None for all.
        weights: Where the model came from, for the record.
        command: The command line, for the record.
    """

    model: FloatModel
    data: Data
    out: Path
    backends: tuple[str, ...]
    engines: tuple[Evaluation, ...] = (Evaluation(),)
    max_drop: float = 0.005
    min_speedup: float = 1.0
    confidence: float = 0.8
    budget: float | None = None
    policy: CalibrationPolicy = field(default_factory=CalibrationPolicy)
    observers: tuple[TensorPolicy, ...] = OBSERVERS
    placements: tuple[Profile, ...] = PLACEMENTS
    rivals: frozenset[str] | None = None
    without: frozenset[str] = frozenset()
    images: int | None = IMAGES
    choosing: float = 0.5
    seed: int = 0
    graphs: int = 6
    steps: int = 200
    refit: bool = True
    device: str = "auto"
    threads: int | None = None
    weights: Path | None = None
    command: str = ""

    def __post_init__(self) -> None:
        """Raises UsageError for what cannot be met, or a rung that there is not."""
        object.__setattr__(self, "out", Path(self.out))
        object.__setattr__(self, "data", Data.of(self.data))
        unknown = sorted(self.without - set(RUNGS))
        if unknown:
            raise UsageError(f"no rung {', '.join(unknown)}; there are: {', '.join(RUNGS)}")
        if "observers" in self.without:
            raise UsageError("the rung observers is where every recipe starts; it cannot be left")
        if not (self.backends and self.engines and self.observers and self.placements):
            raise UsageError("auto needs a backend, an engine, an observer and a placement")
        if not 0 <= self.max_drop < 1:
            raise UsageError(f"--max-drop must lie in 0..1, below 1, not {self.max_drop}")
        if not self.min_speedup > 0:
            raise UsageError(f"--min-speedup must be above 0, not {self.min_speedup}")
        if not 0.5 <= self.confidence < 1:
            raise UsageError(f"--confidence must lie in 0.5..1, below 1, not {self.confidence}")
        if not 0 < self.choosing < 1:
            raise UsageError(f"--choosing must lie between 0 and 1, not {self.choosing}")
        if self.images is not None and self.images < 1:
            raise UsageError(f"--images must be 1 or more, not {self.images}")
        if self.graphs < 1 or self.steps < 1:
            raise UsageError("--graphs and --steps must be 1 or more")
        if self.budget is not None and not self.budget > 0:
            raise UsageError(f"--budget must be above 0, not {self.budget:g} s")
