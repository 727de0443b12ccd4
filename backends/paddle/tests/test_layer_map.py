from __future__ import annotations

import importlib

import pytest
from paddle.quantization.imperative.ptq_registry import PTQ_LAYERS_INFO, PTQRegistry
from quantcore_paddle.layer_map import TABLE, framework_layer, neutral_layer

from quantcore.ir.model import LayerInfo

ROWS = {row.cls: row for row in TABLE}


def imported(path: str) -> type:
    module, _, name = path.rpartition(".")
    found: type = getattr(importlib.import_module(module), name)
    return found


@pytest.mark.parametrize("cls", ROWS)
def test_the_table_says_what_paddles_registry_says(cls):
    row, kind = ROWS[cls], imported(cls)
    assert row.registered == PTQRegistry.is_supported_layer(kind)
    if row.registered:
        info = PTQRegistry.layer_info(kind)
        names = (info.input_names, info.weight_names, info.output_names)
        assert (row.inputs, row.weights, row.outputs) == tuple(map(tuple, names))


def test_every_class_of_the_registry_is_known_or_has_no_neutral_op():
    activations = {"ReLU", "ReLU6", "Hardswish", "Swish", "Sigmoid", "Softmax", "Tanh"}
    known = {imported(cls) for cls in ROWS}
    rest = {info.layer.__name__ for info in PTQ_LAYERS_INFO if info.layer not in known}
    assert rest == activations | {"BatchNorm2D"}


def test_every_layer_becomes_what_the_table_says(session, model, backend):
    found = dict(session.network.named_sublayers())
    for layer in model.layers:
        there = backend.framework_layer(layer)
        assert (there is not None) == (layer.name in found)
        if there is None:
            assert layer.op in {"mul", "concat", "resize", "avg_pool"}
            continue
        assert type(found[layer.name]) is imported(there.cls)
        assert len(there.inputs) == len(layer.inputs)
        assert len(there.weights) == len(layer.weights)
        assert len(there.outputs) == len(layer.outputs)


def test_there_and_back(model):
    for layer in model.layers:
        there = framework_layer(layer)
        if there is None:
            continue
        tensors = dict(zip(there.inputs + there.outputs, layer.inputs + layer.outputs, strict=True))
        weights = dict(zip(there.weights, layer.weights, strict=True))
        assert neutral_layer(layer.name, there.cls, tensors, weights) == layer


def test_the_names_are_paddles():
    conv = framework_layer(LayerInfo("m", "conv2d", ("x",), ("w",), ("y",)))
    linear = framework_layer(LayerInfo("m", "linear", ("x",), ("w",), ("y",)))
    assert conv is not None
    assert linear is not None
    assert (conv.cls, conv.inputs + conv.weights + conv.outputs) == (
        "paddle.nn.Conv2D",
        ("Input", "Filter", "Output"),
    )
    assert linear.inputs + linear.weights + linear.outputs == ("X", "Y", "Out")
    assert framework_layer(LayerInfo("m", "resize", ("x",), (), ("y",))) is None
    assert neutral_layer("m", "paddle.nn.ReLU", {"X": "x", "Out": "y"}, {}) is None
