"""The rewrite contract: what the public method refuses, and what it holds a rewrite to."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import pytest

from quantcore.contracts.options import option
from quantcore.contracts.registry import load_engine
from quantcore.contracts.rewrite import Rewrite
from quantcore.data.batches import Batches
from quantcore.data.coco import CocoDataset
from quantcore.errors import RewriteError, TableError, UsageError
from quantcore.ir.edits import copied, with_constants
from quantcore.ir.model import FloatModel
from quantcore.results.rewrites import Rewritten
from quantcore.table.table import CalibrationTable, Provenance


@dataclass(frozen=True, kw_only=True)
class Factor:
    factor: float = option(1.0, "On a bias.")


class Scaling(Rewrite):
    """Multiplies a bias, and brings the table along where there is one."""

    preserves_float = False
    ensures = "a bias is larger"
    makes = "scaled"
    options = Factor

    def _apply(self, model, table, batches, engine, options, progress) -> Rewritten:
        new = self.changed(model, options.factor)
        moved = table and of(new)
        return Rewritten(new, moved, f"one bias times {options.factor:g}")

    def changed(self, model: FloatModel, factor: float) -> FloatModel:
        values = model.initializers["b4"] * np.float32(factor)
        return replace(model, proto=with_constants(model.proto, {"b4": values}))


class Preserving(Scaling):
    preserves_float = True


class Correcting(Scaling):
    needs_table = True


class Beheading(Scaling):
    def changed(self, model: FloatModel, factor: float) -> FloatModel:
        proto = copied(model.proto)
        del proto.graph.output[-1]
        return replace(model, proto=proto)


class Forgetful(Correcting):
    def _apply(self, model, table, batches, engine, options, progress) -> Rewritten:
        return Rewritten(self.changed(model, 2.0), table, "the table is as it was")


def of(model: FloatModel) -> CalibrationTable:
    return CalibrationTable({}, Provenance(model.name, model.fingerprint, "by hand", {}))


@pytest.fixture
def apply(shared_squares, net):
    images = CocoDataset.open(shared_squares.data, "train2017").select()
    batches = Batches(images, net.preprocessing, 2)
    engine = load_engine("onnxruntime")

    def run(rewrite: Rewrite, table: CalibrationTable | None = None, **given: float) -> Rewritten:
        options = rewrite.options(**given) if given else None
        return rewrite.apply(net, table, batches, engine, options)

    return run


def test_one_that_claims_to_preserve_the_network_is_held_to_it(apply) -> None:
    found = apply(Preserving("p"), factor=1 + 1e-6)
    assert 0 < found.parity < 1e-5
    assert found.line.startswith("one bias times 1; the float network agrees with the given one")
    with pytest.raises(RewriteError, match=r"differs from the float graph by .* output 'z'"):
        apply(Preserving("p"), factor=1.01)


def test_one_that_does_not_may_change_it(apply) -> None:
    found = apply(Scaling("s"), factor=2.0)
    assert (found.parity, found.line) == (None, "one bias times 2")


def test_a_table_goes_along_with_the_model(apply, net) -> None:
    found = apply(Correcting("c"), of(net), factor=2.0)
    assert found.table.provenance.fingerprint == found.model.fingerprint != net.fingerprint
    with pytest.raises(RewriteError, match="table that it returns is not of the model"):
        apply(Forgetful("f"), of(net))


def test_a_table_that_is_missing_not_used_or_anothers_is_refused(apply, net) -> None:
    with pytest.raises(UsageError, match="'c' is a correction, it works on a calibration table"):
        apply(Correcting("c"))
    with pytest.raises(UsageError, match="'s' is no correction, it uses no calibration table"):
        apply(Scaling("s"), of(net))
    with pytest.raises(TableError, match="calibrated on another graph"):
        apply(Correcting("c"), of(Scaling("s").changed(net, 2.0)))


def test_heads_must_stay(apply) -> None:
    with pytest.raises(RewriteError, match=r"rewrite 'b'.* other heads"):
        apply(Beheading("b"))


def test_options_of_another_rewrite_are_refused(net) -> None:
    with pytest.raises(UsageError, match=r"takes Factor, not 0\.5"):
        Scaling("s").apply(net, None, None, None, 0.5)
    assert Scaling("s").make_options([("factor", "2")]) == Factor(factor=2.0)
