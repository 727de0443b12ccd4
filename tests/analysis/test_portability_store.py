"""What a study keeps on disk: found again under the same key, and only then."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from quantcore.analysis.portability.pairs import pair
from quantcore.analysis.portability.store import Store, digest, image_keys, model_key
from quantcore.data.coco import CocoImage
from quantcore.errors import DataError
from quantcore.ir import FloatModel
from quantcore.progress import Silent
from quantcore.table import CalibrationTable, Provenance, TensorRange


def test_work_is_found_under_its_key_alone(tmp_path: Path) -> None:
    store, value = Store(tmp_path / "new"), {"seconds": 0.1, "name": "a"}
    assert store.load("piece", "k") is None
    store.save("piece", "k", value)
    assert store.load("piece", "k") == value
    assert store.load("piece", "other") is None


@pytest.mark.parametrize("damage", ["cut", "edited", "list", "empty"])
def test_damaged_work_is_as_good_as_none(tmp_path: Path, damage: str) -> None:
    store, path = Store(tmp_path), tmp_path / "piece.json"
    store.save("piece", "k", {"seconds": 0.1})
    text = path.read_text()
    edited = json.dumps({**json.loads(text), "value": {}})
    path.write_text({"cut": text[:-9], "edited": edited, "list": "[]", "empty": ""}[damage])
    assert store.load("piece", "k") is None


def test_keys_tell_contents_apart(tmp_path: Path, net: FloatModel) -> None:
    assert digest(1, "a") == digest(1, "a") != digest(1, "b")
    other = FloatModel("other", net.proto, net.preprocessing, net.decoding, ("a", "c"))
    assert model_key(net) != model_key(other)
    image = CocoImage(1, tmp_path / "1.png", 4, 4)
    with pytest.raises(DataError, match=r"1\.png"):
        image_keys([image], Silent())
    image.path.write_bytes(b"one")
    before = image_keys([image], Silent())
    image.path.write_bytes(b"two")
    assert image_keys([image], Silent()) != before


def ranges(*amax: float, axis: int = 0) -> CalibrationTable:
    tensors = {f"t{n}": TensorRange.symmetric("activation", a) for n, a in enumerate(amax)}
    tensors["w"] = TensorRange.symmetric("weight", (sum(amax), 1.0), axis)
    return CalibrationTable(tensors, Provenance("m", "f", "b"))


def test_two_tables_side_by_side() -> None:
    first, second = ranges(1.0, 2.0, 4.0), ranges(1.000001, 1.0, 6.0)
    decibels = {"a": 10.0, "b": 20.0, "c": 30.0}, {"a": 11.0, "b": 31.0, "c": 30.0, "d": 0.0}
    found = pair(("one", "two"), (first, second), decibels)
    assert (found.activations, found.equal, found.layers) == (3, 1, 3)
    assert found.median_ratio == pytest.approx(1.000001)
    assert (found.worst_ratio, found.worst_tensor) == (0.5, "t1")
    assert found.spearman.value == pytest.approx(0.5)
    assert found.kendall.value == pytest.approx(1 / 3)


def test_tables_without_common_layers_have_no_ranks() -> None:
    found = pair(("one", "two"), (ranges(1.0), ranges(2.0, axis=1)), ({"a": 1.0}, {"b": 1.0}))
    assert np.isnan(found.spearman.value)
    assert found.to_dict()["spearman"] == {"value": None, "low": None, "high": None}
