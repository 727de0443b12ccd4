"""What a file says about the detector in it: the way out and back, and what is refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import onnx
import pytest
from onnx import helper

from quantcore.contracts.registry import load_decoding
from quantcore.errors import CheckpointError
from quantcore.evaluation.decoding.anchors import AnchorDecoding
from quantcore.evaluation.decoding.boxes import DecodedBoxes
from quantcore.evaluation.decoding.grid import GridDecoding
from quantcore.ir import description
from quantcore.ir.decoding import Decoding
from quantcore.ir.description import KEY, describe
from quantcore.ir.model import FloatModel, Preprocessing

PATH = Path("some.onnx")
ANCHORS = (((10.0, 13.5), (16.0, 30.0)), ((1 / 3, 7.0), (62.0, 45.0)))


@pytest.fixture
def model(net: FloatModel) -> FloatModel:
    """The small network with two heads, described by unusual values."""
    return FloatModel(
        "mine",
        net.proto,
        Preprocessing((16, 16), "bgr", 1 / 255, "top_left", 0),
        AnchorDecoding((8, 16), ANCHORS),
        ("köter", "cat"),
    )


def described(proto: onnx.ModelProto, path: Path) -> FloatModel | None:
    return description.described(proto, path, load_decoding)


def test_there_and_back(model: FloatModel) -> None:
    file = describe(model).SerializeToString()
    found = described(onnx.load_from_string(file), PATH)
    assert found is not None
    assert found.fingerprint == model.fingerprint
    for name in ("name", "preprocessing", "decoding", "class_names"):
        assert getattr(found, name) == getattr(model, name)
    assert describe(found).SerializeToString() == file


@pytest.mark.parametrize(
    ("decoding", "written"),
    [
        (
            AnchorDecoding((8, 16), (((10, 13.5),), ((1, 2),))),
            '{"kind": "anchors", "strides": [8, 16], "anchors": [[[10, 13.5]], [[1, 2]]]}',
        ),
        (GridDecoding((8, 16)), '{"kind": "grid", "strides": [8, 16], "anchors": []}'),
        (DecodedBoxes(), '{"kind": "none", "strides": [], "anchors": []}'),
    ],
    ids=lambda d: d.kind if isinstance(d, Decoding) else "",
)
def test_decodings_are_written_as_they_always_were(
    model: FloatModel, decoding: Decoding, written: str
) -> None:
    text = describe(replace(model, decoding=decoding)).metadata_props[0].value
    assert text.startswith('{"format": "quantcore.model/1", "name": "mine", "preprocessing"')
    assert f'"decoding": {written}, "class_names"' in text
    assert load_decoding(decoding.kind).from_dict(json.loads(written)) == decoding


def test_preprocessing_is_written_as_it_always_was_unless_it_says_more(model: FloatModel) -> None:
    text = describe(model).metadata_props[0].value
    looks = json.loads(text)["preprocessing"]
    assert list(looks) == ["size", "channels", "scale", "placement", "pad_value"]
    more = replace(model.preprocessing, fit="stretch", mean=(0.5, 0, 1), interpolation="cubic")
    file = describe(replace(model, preprocessing=more))
    looks = json.loads(file.metadata_props[0].value)["preprocessing"]
    assert (looks["fit"], looks["mean"]) == ("stretch", [0.5, 0, 1])
    assert "std" not in looks
    found = described(file, PATH)
    assert found is not None
    assert found.preprocessing == more
    assert found.key != model.key


def test_a_graph_without_description_has_none(model: FloatModel) -> None:
    assert described(model.proto, PATH) is None


def test_entries_of_others_stay_and_the_model_is_left_alone(model: FloatModel) -> None:
    proto = onnx.ModelProto()
    proto.CopyFrom(model.proto)
    helper.set_model_props(proto, {"author": "me"})
    other = replace(model, proto=proto)
    before = other.proto.SerializeToString()
    file = describe(other)
    assert [entry.key for entry in file.metadata_props] == ["author", KEY]
    assert other.proto.SerializeToString() == before
    assert described(file, PATH).fingerprint == other.fingerprint
    assert [entry.key for entry in file.metadata_props] == ["author", KEY]


def test_a_description_is_written_once(model: FloatModel) -> None:
    twice = describe(replace(model, proto=describe(model)))
    assert twice.SerializeToString() == describe(model).SerializeToString()


def changed(model: FloatModel, change: Callable[[dict[str, Any]], None]) -> onnx.ModelProto:
    proto = describe(model)
    data = json.loads(proto.metadata_props[0].value)
    change(data)
    proto.metadata_props[0].value = json.dumps(data)
    return proto


def put(*way: str | int, value: object) -> Callable[[dict[str, Any]], None]:
    def change(data: dict[str, Any]) -> None:
        at: Any = data
        for key in way[:-1]:
            at = at[key]
        at[way[-1]] = value

    return change


def drop(*way: str) -> Callable[[dict[str, Any]], None]:
    def change(data: dict[str, Any]) -> None:
        at = data
        for key in way[:-1]:
            at = at[key]
        del at[way[-1]]

    return change


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (put("format", value="quantcore.model/2"), "quantcore.model/1"),
        (drop("format"), "quantcore.model/1"),
        (drop("name"), "no 'name'"),
        (put("name", value=""), "no text"),
        (drop("preprocessing", "scale"), "no 'scale'"),
        (put("preprocessing", value=[]), "no mapping"),
        (put("preprocessing", "scale", value=float("nan")), "not positive and finite"),
        (put("preprocessing", "scale", value=True), "no number"),
        (put("preprocessing", "size", value=[16]), "not enough values"),
        (put("preprocessing", "size", value=[16.0, 16]), "no whole number"),
        (put("preprocessing", "size", value=[32, 32]), "(32, 32) pixels, the graph takes (16, 16)"),
        (put("preprocessing", "channels", value="rbg"), "rgb or bgr"),
        (put("preprocessing", "pad_value", value=-1), "no whole number"),
        (put("preprocessing", "fit", value="squash"), "letterbox or stretch or crop"),
        (put("preprocessing", "mean", value=[1, 2]), "three numbers each"),
        (put("preprocessing", "std", value=[1, "2", 3]), "no number"),
        (put("preprocessing", "mean", value=[1, float("nan"), 3]), "not finite"),
        (
            put("decoding", "kind", value="ssd"),
            "unknown decoding 'ssd'; installed: anchor_free, anchors, classes, end_to_end, gfl",
        ),
        (put("decoding", "kind", value="grid"), "it says 1 heads, the graph has y, z"),
        (put("decoding", "strides", value=[8, 0]), "strides must be 1 or more"),
        (put("decoding", "strides", value=[8]), "2 sets of anchors for 1 strides"),
        (put("decoding", "anchors", 0, 0, value=[1]), "not enough values"),
        (put("decoding", "anchors", 0, 0, 1, value="9"), "no number"),
        (put("decoding", "anchors", 0, 0, 1, value=0), "not positive and finite"),
        (put("class_names", value="cat"), "no list"),
        (put("class_names", value=["cat", 1]), "no text"),
    ],
)
def test_what_is_malformed_is_refused(model: FloatModel, change: Any, why: str) -> None:
    with pytest.raises(CheckpointError) as caught:
        described(changed(model, change), PATH)
    assert str(caught.value).startswith(f"{PATH}: its description")
    assert why in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("text", ["", "{", "[]", "null", "[" * 100_000])
def test_what_is_no_description_is_refused(model: FloatModel, text: str) -> None:
    proto = describe(model)
    proto.metadata_props[0].value = text
    with pytest.raises(CheckpointError, match=str(PATH)):
        described(proto, PATH)


def test_two_descriptions_are_refused(model: FloatModel) -> None:
    proto = describe(model)
    proto.metadata_props.append(proto.metadata_props[0])
    with pytest.raises(CheckpointError, match="more than once"):
        described(proto, PATH)


def test_a_graph_that_was_changed_so_that_it_is_no_float_model_is_refused(
    model: FloatModel,
) -> None:
    proto = describe(model)
    proto.graph.node[0].name = ""
    with pytest.raises(CheckpointError, match="needs a unique name"):
        described(proto, PATH)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda d: d["preprocessing"].update(pad_value=999), "pad_value"),
        (lambda d: d["preprocessing"].update(scale=10**400), "401 digits"),
        (lambda d: d["preprocessing"].update(scale=1e300), "scale"),
        (lambda d: d["preprocessing"].update(size=[10**9, 10**9]), "pixels"),
        (lambda d: d["preprocessing"].update(size=[10**400, 1]), "401 digits"),
        (lambda d: d.update(decoding={"kind": "grid", "strides": [0]}), "strides"),
        (lambda d: d.update(decoding={"kind": "grid", "strides": [10**12]}), "strides"),
        (
            lambda d: d["decoding"].update(strides=[8], anchors=[[]]),
            "anchor",
        ),
        (lambda d: d["decoding"].update(strides=[], anchors=[]), "strides"),
        (lambda d: d.update(class_names=["x" * 10_000]), "1000 characters"),
        (lambda d: d.update(name="a\n\x1b[31m" * 999), "1000 characters"),
    ],
    ids=range(11),
)
def test_values_that_would_fail_later_are_refused_when_read(model, change, said) -> None:
    proto = describe(model)
    (entry,) = proto.metadata_props
    data = json.loads(entry.value)
    change(data)
    entry.value = json.dumps(data)
    with pytest.raises(CheckpointError, match=said) as caught:
        described(proto, Path("m.onnx"))
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 500


def test_a_key_that_is_there_twice_is_refused(model) -> None:
    proto = describe(model)
    (entry,) = proto.metadata_props
    entry.value = entry.value.replace('"name"', '"name": "other", "name"', 1)
    with pytest.raises(CheckpointError, match="'name' is there twice"):
        described(proto, Path("m.onnx"))
