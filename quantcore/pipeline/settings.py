"""What a person says of data and evaluation, and what a calibration gives."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from quantcore.contracts.engine import EngineOptions
from quantcore.data.dataset import Dataset, ImageFile
from quantcore.data.opening import open_dataset
from quantcore.engines import REFERENCE_ENGINE
from quantcore.ir.model import FloatModel
from quantcore.results.audit import SimulationAudit
from quantcore.table.table import CalibrationTable

CALIBRATION_SPLIT = "train2017"
EVALUATION_SPLIT = "val2017"


@dataclass(frozen=True, kw_only=True)
class Calibrated:
    """A calibration and what it cost.

    Attributes:
        model: The float model that the table is for.
        table: The ranges.
        seconds: Wall time of the calibration alone, reading images included.
        peak_rss_mb: Peak resident memory of the process up to its end.
        parity: Relative difference of the materialised network from the float graph.
        audit: The Q/DQ graph against the framework's own simulation, None where it has none for the
            codes.
    """

    model: FloatModel
    table: CalibrationTable
    seconds: float
    peak_rss_mb: float
    parity: float
    audit: SimulationAudit | None


@dataclass(frozen=True)
class Data:
    """Images with labels, and the splits to use.

    Attributes:
        root: What there is; see `quantcore.data.opening.LAYOUTS`. It is not looked at where both
            splits are data sets that are open.
        calibration: Split to calibrate on, or a data set; COCO's names stand for `train` and `val`
            in other layouts.
        evaluation: Split to evaluate on, or a data set.
        images: Ids of the images of the calibration split to take; None for all.
    """

    root: Path = Path()
    calibration: str | Dataset = CALIBRATION_SPLIT
    evaluation: str | Dataset = EVALUATION_SPLIT
    images: frozenset[int] | None = None

    def __post_init__(self) -> None:
        """Takes a text for the path that it is."""
        object.__setattr__(self, "root", Path(self.root))

    def calibration_set(self) -> Dataset:
        """The calibration split, or what of it is to be taken; raises DataError."""
        found = open_dataset(self.root, self.calibration)
        return found if self.images is None else found.only(self.images)

    @classmethod
    def of(cls, data: Given) -> Data:
        """A path alone stands for COCO's own splits, a data set for both."""
        if isinstance(data, Dataset):
            return cls(data.source, data, data)
        return data if isinstance(data, Data) else cls(Path(data))


@dataclass(frozen=True)
class Chosen:
    """Images of a data set that were chosen already, in its order."""

    images: tuple[ImageFile, ...]


@dataclass(frozen=True)
class Evaluation:
    """How graphs are evaluated.

    Attributes:
        engine: Engine name.
        options: How it is built.
        images: How many images of the split; None for all.
        batch_size: Images per inference while accuracy is measured; latency is at batch 1.
        warmup: Inferences before latency is measured.
        runs: Inferences that are measured; 0 where latency is measured elsewhere.
    """

    engine: str = REFERENCE_ENGINE
    options: EngineOptions = field(default_factory=EngineOptions)
    images: int | None = None
    batch_size: int = 1
    warmup: int = 5
    runs: int = 50


#: What says which images there are.
Given = Data | Dataset | Path | str

#: On the reference engine, every image of the split.
DEFAULT_EVALUATION = Evaluation()
