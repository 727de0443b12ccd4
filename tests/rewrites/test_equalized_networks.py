"""Equalization of networks like those that people have: exact in float, nothing refused."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import onnx
import pytest

from quantcore.contracts.registry import load_engine
from quantcore.contracts.rewrite import check_same
from quantcore.errors import RewriteError
from quantcore.ir.edits import exposed, with_constants
from quantcore.ir.model import FloatModel
from quantcore.ir.selection import chosen_from
from quantcore.rewrites.channels import Channels
from quantcore.rewrites.equalization import channel_ranges, factors
from quantcore.rewrites.scaling import scale

#: Scaled in the weights before them; all others need a Mul.
FOLDED = {"gfl": {"se.relu"}}


@pytest.mark.parametrize("name", ["dfl", "gfl", "attention", "end_to_end"])
def test_networks_stay_exact(networks, run, planned, name) -> None:
    model = networks[name]
    images = np.random.default_rng(0).random((2, 3, 32, 32), np.float32)
    sources = Channels(model).sources()
    ranges = channel_ranges(model, [images], load_engine("onnxruntime"))
    by = {tensor: factors(found, 1.0) for tensor, found in ranges.items()}
    scaled = scale(model, by)
    onnx.checker.check_model(scaled.proto, full_check=True)
    assert {*scaled.multiplied, *scaled.folded} == sources.keys()
    assert set(scaled.folded) == FOLDED.get(name, set())
    # Rows that TopK chooses would come in another order where two scores are alike.
    ends = ["all"] if name == "end_to_end" else list(model.output_names)
    want, got = (run(exposed(proto, ends), images) for proto in (model.proto, scaled.proto))
    for end in ends:
        np.testing.assert_allclose(got[end], want[end], rtol=1e-3, atol=1e-4)
    # Placement reads the scaled graph as it read the first.
    kept = [
        {d.layer: d.reason.split(":")[0] for d in planned(one, placement="tensorrt").decisions}
        for one in (model, replace(model, proto=scaled.proto))
    ]
    assert {k: kept[1][k] for k in kept[0]} == kept[0]


def test_nothing_is_scaled_in_front_of_a_projection(networks) -> None:
    model = networks["dfl"]
    assert model.projections == {"dfl.conv"}
    assert "dfl.softmax" not in Channels(model).sources()
    # Both halves of a C2f block are channels of their own, one of them read by a convolution.
    assert {"c2f.right", "c2f.left", "c2f.m.add"} <= Channels(model).sources().keys()


def test_rows_in_another_order_are_no_difference(networks) -> None:
    model = networks["end_to_end"]
    assert chosen_from(model) == ("best", "row.scores", "row.boxes")
    assert chosen_from(networks["dfl"]) == ()
    engine = load_engine("onnxruntime")
    # Two images in one batch: the scores of noise are alike to the last bits.
    images = np.random.default_rng(0).random((2, 3, 32, 32), np.float32)
    hardly = with_constants(model.proto, {"cls.0.last.2": _moved(model, 1e-6)})
    assert check_same(model, replace(model, proto=hardly), [images], engine) < 1e-4
    clearly = with_constants(model.proto, {"cls.0.last.2": _moved(model, 0.1)})
    with pytest.raises(RewriteError, match=r"at output '(best|row\.scores)'"):
        check_same(model, replace(model, proto=clearly), [images], engine)


def _moved(model: FloatModel, by: float) -> np.ndarray:
    bias = model.initializers["cls.0.last.2"]
    return (bias + np.float32([by, -by, by])).astype(np.float32)
