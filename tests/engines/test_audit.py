"""The audit: what is meant for INT8, and what is claimed about it."""

from __future__ import annotations

import json

import pytest

from quantcore.contracts.engine import Engine, EngineLayer, EngineOptions, EnginePlugin
from quantcore.engines.audit import audit, inspect
from quantcore.engines.surroundings import meant_for_int8
from quantcore.errors import EngineError, OutputError


class Told(EnginePlugin):
    """Says what it was told to."""

    def __init__(self, *layers: EngineLayer) -> None:
        super().__init__("told")
        self._layers = list(layers)

    def versions(self) -> dict[str, str]:
        return {"library": "1.0"}

    def _build(self, proto, options) -> Engine:
        raise EngineError("nothing to run on")

    def inspect(self, proto, options) -> list[EngineLayer]:
        return self._layers


def test_only_nodes_with_quantized_data_and_weights_are_meant(qdq, joined, net) -> None:
    assert meant_for_int8(joined.proto) == []
    proto = qdq(joined, layers=[{"match": "left", "quantize": False}])
    assert [where.node for where in meant_for_int8(proto)] == ["right", "last"]
    assert {where.op for where in meant_for_int8(qdq(net))} == {"Conv", "ConvTranspose"}


def test_surroundings_describe_bias_output_and_channels(qdq, joined, chain) -> None:
    found = {where.node: where for where in meant_for_int8(qdq(joined))}
    left, last = found["left"], found["last"]
    assert (left.bias, left.followers, left.quantized_output) == (
        "float",
        ("Sigmoid", "Mul"),
        False,
    )
    assert (left.channels_in, left.channels_out, left.groups) == (3, 16, 1)
    assert (last.followers, last.behind) == ((), None)
    first = meant_for_int8(qdq(chain))[0]
    assert (first.bias, first.quantized_output) == (None, True)


def test_nothing_is_claimed_where_nothing_is_told(qdq, joined) -> None:
    found = inspect(Told(), qdq(joined))
    assert not found.verified
    assert found.int8 == 0
    assert all(layer.why is None for layer in found.layers)
    assert found.summary() == (
        "library 1.0: built, precision not verified; 3 layers are meant to run in INT8"
    )


def test_fused_layers_are_found_by_their_nodes(qdq, joined) -> None:
    told = Told(
        EngineLayer("left + act", "fused", "int8", ("left", "left.act.mul")),
        EngineLayer("right", "conv", "fp16"),
        EngineLayer("last", "conv", None),
    )
    found = inspect(told, qdq(joined))
    assert [(x.node, x.runs_as, x.precision) for x in found.layers] == [
        ("left", "fused", "int8"),
        ("right", "conv", "fp16"),
        ("last", "conv", None),
    ]
    assert [layer.why is None for layer in found.layers] == [True, False, True]
    assert found.summary() == ("library 1.0: 1 of 3 quantized layers run in INT8, 1 not verified")
    data = json.loads(json.dumps(found.to_dict()))
    assert (data["quantized_layers"], data["int8"], data["unverified"]) == (3, 1, 1)


def test_a_float_graph_quantizes_nothing(joined) -> None:
    assert "quantizes no layer" in audit(Told(), joined.proto, []).summary()


def test_an_engine_without_files_refuses_to_build_ahead(joined, tmp_path) -> None:
    with pytest.raises(EngineError, match="keeps no built file"):
        Told().build_ahead(joined.proto, EngineOptions(), tmp_path / "plan")
    assert list(tmp_path.iterdir()) == []


def test_an_unwritable_folder_is_refused_before_building(joined, tmp_path) -> None:
    class Files(Told):
        builds_ahead = True

        def _build_ahead(self, proto, options, progress):
            raise AssertionError("built before the folder was checked")

    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError):
        Files().build_ahead(joined.proto, EngineOptions(), tmp_path / "file" / "plan")
