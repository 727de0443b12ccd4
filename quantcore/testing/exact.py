"""Graphs in float64: what a network is when nothing rounds but its quantizers."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import onnx
from onnx import TensorProto, version_converter
from onnx.reference import ReferenceEvaluator

from quantcore.ir.edits import constants, with_constants
from quantcore.ir.model import Array, FloatModel
from quantcore.qdq.placement import Plan
from quantcore.qdq.scales import quantize, symmetric_scale
from quantcore.table.table import CalibrationTable


def in_float64(proto: onnx.ModelProto, batch: Array) -> dict[str, Array]:
    """The outputs of a small graph, float or Q/DQ, by onnx's reference evaluator.

    Args:
        proto: In float32; its weights and scales are taken as the numbers that they are.
        batch: Its one input.

    Returns:
        Float64, by name.
    """
    graph = version_converter.convert_version(proto, 19)  # its first with Q/DQ
    known = constants(graph.graph).items()
    wide = {name: v.astype(np.float64) for name, v in known if v.dtype == np.float32}
    graph = with_constants(graph, wide)
    for node in graph.graph.node:
        for attribute in node.attribute:
            if (node.op_type, attribute.name, attribute.i) == ("Cast", "to", TensorProto.FLOAT):
                attribute.i = TensorProto.DOUBLE
    names = [output.name for output in graph.graph.output]
    feed = {graph.graph.input[0].name: batch.astype(np.float64)}
    found = ReferenceEvaluator(graph).run(names, feed)
    return dict(zip(names, found, strict=True))


def on_codes(
    model: FloatModel, plan: Plan, table: CalibrationTable
) -> tuple[FloatModel, CalibrationTable]:
    """The model with each weight where its code is, and the table for it.

    A weight halfway between two codes may be rounded to either; here, no weight is.

    Args:
        model: The float model.
        plan: Which weights are quantized.
        table: Their ranges.
    """
    moved = {}
    for site in (site for site in plan.sites if site.role == "weight"):
        values = model.initializers[site.tensor]
        scale = symmetric_scale(table.tensors[site.tensor], site.policy.code)
        codes = quantize(values, scale, site.axis, site.policy.code)
        if site.axis is not None:
            scale = scale.reshape([-1 if i == site.axis else 1 for i in range(values.ndim)])
        moved[site.tensor] = np.asarray(codes * scale, dtype=np.float32)
    found = replace(model, proto=with_constants(model.proto, moved))
    provenance = replace(table.provenance, fingerprint=found.fingerprint)
    return found, replace(table, provenance=provenance)
