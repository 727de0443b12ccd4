"""What a portability study found; numbers that serialise and never render themselves."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from quantcore.policy.policy import CalibrationPolicy
from quantcore.results.estimate import Correlation, Estimate
from quantcore.results.metric import Metric
from quantcore.runtime.plain import own, plain

FORMAT = "quantcore.portability/1"

#: How a table can be deployed: as the shared Q/DQ graph, or in a framework's own simulation.
GRAPH, SIMULATE = "graph", "simulate"


@dataclass(frozen=True)
class Recipe:
    """How a table is made.

    Attributes:
        backend: Backend name.
        policy_name: What the policy is called.
        policy: With the implementation that is meant.
        trained: Whether the network is trained with these quantizers in place; its table is then of
            another float network.
    """

    backend: str
    policy_name: str
    policy: CalibrationPolicy
    trained: bool = False

    @property
    def name(self) -> str:
        """How the table is called, in files too."""
        step = ".trained" if self.trained else ""
        return f"{self.backend}.{self.policy_name}.{self.policy.implementation}{step}"

    def to_dict(self) -> dict[str, Any]:
        """JSON form."""
        return {
            "name": self.name,
            "backend": self.backend,
            "policy_name": self.policy_name,
            "implementation": self.policy.implementation,
            "trained": self.trained,
            "policy": self.policy.to_dict(),
        }


@dataclass(frozen=True, kw_only=True)
class TableCost:
    """A table and what it cost.

    Attributes:
        recipe: How it was made.
        file: Its name in the output folder.
        seconds: Wall time of the calibration alone.
        peak_rss_mb: Peak memory of its process.
        parity: Relative difference of the framework's float network from the float graph.
        versions: Of everything that took part.
        layers_db: SQNR of each quantized layer's own output, in dB, every layer alone.
    """

    recipe: Recipe
    file: str
    seconds: float
    peak_rss_mb: float
    parity: float
    versions: Mapping[str, str] = field(default_factory=dict)
    layers_db: Mapping[str, float] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """JSON form."""
        found: dict[str, object] = {
            **self.recipe.to_dict(),
            "file": self.file,
            "calibration_seconds": self.seconds,
            "peak_rss_mb": self.peak_rss_mb,
            "parity": self.parity,
            "versions": self.versions,
            "layers_sqnr_db": self.layers_db,
        }
        return plain(found)


@dataclass(frozen=True)
class Change:
    """What one network found against what another did on the same images.

    Attributes:
        difference: The main figure less the other's.
        agreement: How much of what they found is the same, 0..1; see `Task.agreement`.
        metric: What that figure is called.
    """

    difference: Estimate
    agreement: Estimate
    metric: Metric

    def to_dict(self) -> dict[str, Any]:
        """JSON form."""
        name = f"{self.metric.name}_difference"
        return plain({name: self.difference, "agreement": self.agreement})


@dataclass(frozen=True, kw_only=True)
class Deployment:
    """One cell of the matrix: a table, and where it was run.

    Attributes:
        table: Name of its recipe.
        kind: `GRAPH` or `SIMULATE`.
        runner: The engine's or the backend's name.
        figure: The main figure.
        against_float: Against the float model on the engine.
        against_graph: Against the same table as the shared graph; only of a simulation.
        against_own: Against the same table in the simulation of the backend that made it: only the
            simulation differs. Of another backend's simulation alone, as the next.
        against_host: Against the table that the simulating backend made itself of the same policy
            and implementation, simulated alike: only the calibration differs.
    """

    table: str
    kind: str
    runner: str
    figure: Estimate
    against_float: Change
    against_graph: Change | None = None
    against_own: Change | None = None
    against_host: Change | None = None

    @property
    def place(self) -> str:
        """Where the table was run, as a column is called."""
        return place(self.kind, self.runner)

    def to_dict(self) -> dict[str, Any]:
        """JSON form."""
        metric = self.against_float.metric
        return {metric.name if k == "figure" else k: v for k, v in own(self).items()}


@dataclass(frozen=True, kw_only=True)
class Pair:
    """Two tables side by side.

    Attributes:
        first: Name of one table.
        second: Name of the other.
        activations: How many activations both hold.
        equal: How many of them have the same threshold to 1e-5 relative.
        median_ratio: Median of second / first over the activations' thresholds.
        worst_ratio: The one that is farthest from 1, by its logarithm.
        worst_tensor: Where.
        layers: How many layers both quantize.
        spearman: Rank correlation of the layers' SQNR; intervals: layers drawn anew.
        kendall: Likewise.
    """

    first: str
    second: str
    activations: int
    equal: int
    median_ratio: float
    worst_ratio: float
    worst_tensor: str
    layers: int
    spearman: Correlation
    kendall: Correlation


@dataclass(frozen=True)
class Lost:
    """A cell that is not there, and why.

    Attributes:
        table: Name of its recipe.
        where: `calibration`, or the place where it was to run.
        reason: In words.
    """

    table: str
    where: str
    reason: str


@dataclass(frozen=True, kw_only=True)
class Portability:
    """A whole study.

    Attributes:
        model: Model name.
        weights: File that was read.
        data: Folder that was read.
        splits: To calibrate and to evaluate on.
        images: How many were evaluated.
        engine: Where the graphs ran.
        arithmetic: What the frameworks simulated in.
        metric: What the figures are called.
        float_figure: The main figure of the float model.
        reference: The table that the others are held against on the terminal.
        tables: Every table that was made.
        deployments: The cells of the matrix.
        pairs: Every two tables.
        floor: The reference's graph with its activation scales moved by one unit in the last
            place, against that graph: what no two implementations can be expected to beat.
        unsupported: What a backend says that it cannot do.
        failures: What should have worked and did not.
        host: Processor, cores, operating system, Python.
        manifest: When, with what and on what it was made.
    """

    model: str
    weights: str
    data: str
    splits: tuple[str, str]
    images: int
    engine: str
    arithmetic: str
    metric: Metric
    float_figure: Estimate
    reference: str | None
    tables: tuple[TableCost, ...]
    deployments: tuple[Deployment, ...]
    pairs: tuple[Pair, ...] = ()
    floor: Change | None = None
    unsupported: tuple[Lost, ...] = ()
    failures: tuple[Lost, ...] = ()
    host: Mapping[str, Any] = field(default_factory=dict)
    manifest: Mapping[str, Any] = field(default_factory=dict)

    @property
    def places(self) -> tuple[str, ...]:
        """The columns of the matrix."""
        return tuple(dict.fromkeys(cell.place for cell in self.deployments))

    def cell(self, table: str, place: str) -> Deployment | None:
        """The deployment of a table at a place, None where there is none."""
        cells = (c for c in self.deployments if (c.table, c.place) == (table, place))
        return next(cells, None)

    def pair(self, first: str | None, second: str) -> Pair | None:
        """Two tables side by side, in this order."""
        return next((p for p in self.pairs if (p.first, p.second) == (first, second)), None)

    @property
    def carried(self) -> Iterator[Deployment]:
        """Tables in the simulation of another backend than their own."""
        return (cell for cell in self.deployments if cell.against_own or cell.against_host)

    def to_dict(self) -> dict[str, Any]:
        """JSON form, `portability.json`."""
        found = {
            "format": FORMAT,
            "model": self.model,
            "weights": self.weights,
            "data": self.data,
            "calibration_split": self.splits[0],
            "evaluation_split": self.splits[1],
            "images": self.images,
            "engine": self.engine,
            "arithmetic": self.arithmetic,
            "host": self.host,
            f"float_{self.metric.name}": self.float_figure,
            "reference": self.reference,
            "tables": self.tables,
            "deployments": self.deployments,
            "pairs": self.pairs,
            "floor": self.floor,
            "unsupported": self.unsupported,
            "failures": self.failures,
            "manifest": self.manifest,
        }
        return plain(found)


def place(kind: str, runner: str) -> str:
    """Where a table is run, as a column is called."""
    return f"graph on {runner}" if kind == GRAPH else f"{runner}'s simulation"
