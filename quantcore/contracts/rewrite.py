"""The rewrite contract: float graph to float graph, before or after it is calibrated."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any, ClassVar

from quantcore.contracts.engine import EngineOptions, EnginePlugin
from quantcore.contracts.options import filled
from quantcore.contracts.parity import PARITY_LIMIT, check_finite, disagreement
from quantcore.data.batches import Batches
from quantcore.errors import RewriteError, TableError, UsageError
from quantcore.ir.edits import exposed
from quantcore.ir.model import Array, FloatModel
from quantcore.ir.selection import chosen_from
from quantcore.results.rewrites import Rewritten
from quantcore.runtime.progress import Progress, Silent
from quantcore.table.table import CalibrationTable

API_VERSION = 1
#: How many calibration images a rewrite is held to parity on.
CHECKED_IMAGES = 2


@dataclass(frozen=True, kw_only=True)
class NoOptions:
    """The options of a rewrite that has none."""


class Rewrite(ABC):
    """One entry point of group `quantcore.rewrites`; made with the entry point's name.

    Attributes:
        preserves_float: Whether the float network computes the same afterwards; it is held to
            that.
        needs_table: Whether it is a correction: it works on a calibration table, and may change it
            with the weights. One that does not comes before the calibration.
        ensures: What holds afterwards, in one line for people; of a correction also what stays.
        makes: What a model is called after it: `equalized`; files are.
        options: What it can be told: a frozen dataclass of `quantcore.contracts.options`.
    """

    api_version: ClassVar[int] = API_VERSION
    preserves_float: ClassVar[bool]
    needs_table: ClassVar[bool] = False
    ensures: ClassVar[str]
    makes: ClassVar[str]
    options: ClassVar[type[Any]] = NoOptions

    def __init__(self, name: str) -> None:
        self.name = name

    def make_options(self, given: Iterable[tuple[str, str]] = (), **own: Any) -> Any:
        """The rewrite's options from what a person wrote.

        Args:
            given: Names and values.
            own: What quantcore itself sets.

        Raises:
            UsageError: A name that the rewrite does not know, or a value that does not fit.
        """
        return filled(self.options, given, f"rewrite {self.name!r}", **own)

    def check_kind(self, correction: bool) -> None:
        """Raises UsageError for a correction where none is meant, and the other way round."""
        if self.needs_table and not correction:
            raise UsageError(
                f"{self.name!r} is a correction, it works on a calibration table: calibrate, and "
                f"`quantcore correct {self.name}`, or `compare --correct {self.name}`"
            )
        if correction and not self.needs_table:
            raise UsageError(
                f"{self.name!r} is no correction, it uses no calibration table: `quantcore rewrite "
                f"{self.name}` and calibrate what it writes, or `compare --rewrite {self.name}`"
            )

    def check_table(self, model: FloatModel, table: CalibrationTable | None) -> None:
        """Refuses a table that is missing, not used, or another model's, before any work.

        Raises:
            UsageError: It is missing or not used.
            TableError: It belongs to another model.
        """
        self.check_kind(correction=table is not None)
        if table is not None and table.provenance.fingerprint != model.fingerprint:
            raise TableError(
                f"rewrite {self.name!r}: the table was calibrated on another graph "
                f"({table.provenance.model}, {table.provenance.fingerprint[:12]}) than this one "
                f"({model.name}, {model.fingerprint[:12]}); calibrate again"
            )

    def apply(
        self,
        model: FloatModel,
        table: CalibrationTable | None,
        batches: Batches,
        engine: EnginePlugin,
        options: object | None = None,
        progress: Progress | None = None,
    ) -> Rewritten:
        """Rewrites a model, and holds the result to what the rewrite claims.

        Args:
            model: The float model; stays as it is.
            table: Its ranges, for a rewrite that works on them.
            batches: Calibration images for this model.
            engine: Runs float graphs; the numerical reference.
            options: An instance of `options`; its defaults where None.
            progress: Where to report.

        Raises:
            UsageError: A table is missing or not used, or the options are another rewrite's.
            TableError: The table belongs to another model.
            RewriteError: The result breaks a promise: other heads, another network than the given
                one, a table of another model.
            ModelError: The float graph itself yields NaN or infinity.
            QuantcoreError: What the rewrite itself refuses.
        """
        self.check_table(model, table)
        options = self.make_options() if options is None else options
        if not isinstance(options, self.options):
            raise UsageError(
                f"rewrite {self.name!r} takes {self.options.__name__}, not {options!r}"
            )
        found = self._apply(model, table, batches, engine, options, progress or Silent())
        self._check_ends(model, found)
        if not self.preserves_float:
            return found
        few = Batches(batches.images[:CHECKED_IMAGES], model.preprocessing, batches.batch_size)
        return replace(found, parity=check_same(model, found.model, few.inputs(), engine))

    @abstractmethod
    def _apply(
        self,
        model: FloatModel,
        table: CalibrationTable | None,
        batches: Batches,
        engine: EnginePlugin,
        options: Any,
        progress: Progress,
    ) -> Rewritten:
        """Rewrites a model; the table, where it is used, is of the model."""

    def _check_ends(self, model: FloatModel, found: Rewritten) -> None:
        """Raises RewriteError where the result is not the same detector, or its table not its."""
        new, table = found.model, found.table
        ends = (model.input_name, model.output_names, model.preprocessing, model.decoding)
        if ends != (new.input_name, new.output_names, new.preprocessing, new.decoding):
            raise RewriteError(
                f"rewrite {self.name!r}: {model.name} has another input, other heads or another "
                "decoding afterwards; this is a fault of the rewrite, please report it"
            )
        if table is not None and table.provenance.fingerprint != new.fingerprint:
            raise RewriteError(
                f"rewrite {self.name!r}: the table that it returns is not of the model that it "
                "returns; this is a fault of the rewrite, please report it"
            )


def check_same(
    model: FloatModel, rewritten: FloatModel, batches: Iterable[Array], engine: EnginePlugin
) -> float:
    """Holds the heads of a rewritten model against those of the float model.

    Where heads differ that a graph has chosen, by TopK or the like, what it chose from counts: a
    last bit can put two rows in another order.

    Returns:
        Largest difference over the largest magnitude of a head, the worst of all heads and batches.

    Raises:
        ModelError: The float graph itself yields NaN or infinity.
        RewriteError: The figure exceeds 1e-4; names the head.
    """
    worst = 0.0
    choices = _common(chosen_from(model), rewritten)
    with (
        engine.build(exposed(model.proto, choices), EngineOptions()) as before,
        engine.build(exposed(rewritten.proto, choices), EngineOptions()) as after,
    ):
        for batch in batches:
            expected = before.infer(batch)
            check_finite(model, expected)
            found = after.infer(batch)
            error, head = disagreement({n: expected[n] for n in model.output_names}, found)
            if choices and not error <= PARITY_LIMIT:
                error, head = disagreement({n: expected[n] for n in choices}, found)
            if not error <= PARITY_LIMIT:
                raise RewriteError(
                    f"{model.name}: the rewritten graph differs from the float graph by "
                    f"{error:.1e} relative at output {head!r} (limit {PARITY_LIMIT:.0e})"
                )
            worst = max(worst, error)
    return worst


def _common(tensors: tuple[str, ...], model: FloatModel) -> tuple[str, ...]:
    """The tensors, if a model has all of them, else none."""
    made = {name for node in model.proto.graph.node for name in node.output}
    return tensors if made.issuperset(tensors) else ()
