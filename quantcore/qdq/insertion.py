"""Writing a calibration table into the float graph as QuantizeLinear/DequantizeLinear pairs."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt
import onnx
from onnx import helper

import quantcore
from quantcore.errors import ModelError, RangeError, TableError
from quantcore.ir.edits import (
    Names,
    add_constant,
    copied,
    drop_unread,
    nodes_by_name,
    set_nodes,
)
from quantcore.ir.model import FloatModel, QdqModel
from quantcore.qdq.groups import merged
from quantcore.qdq.placement import Plan, Site
from quantcore.qdq.ranges import check_range
from quantcore.qdq.scales import code_of, codes_of, quantize
from quantcore.table.table import CalibrationTable, TensorRange


def insert(model: FloatModel, plan: Plan, table: CalibrationTable) -> QdqModel:
    """The Q/DQ graph of a float model.

    One pair for each quantized activation, shared by its consumers; weights as INT8 initializers
    with a DequantizeLinear; biases stay float. Codes of fewer bits are INT8 too: those of weights
    are saturated here, those of activations by a Clip before the pair. Affine activations are UINT8
    with their zero point. The float model is left untouched, and the same ranges give the same
    bytes whichever backend found them.

    Args:
        model: The float model.
        plan: Which tensors, for which consumers.
        table: A range for each of them.

    Raises:
        TableError: The table belongs to another graph, or lacks a tensor of the plan.
        RangeError: A range has no scale.
        ModelError: The result fails the ONNX checker.
    """
    _check_table(model, plan, table)
    proto = copied(model.proto)
    writer = _Writer(proto.graph, model)
    ranges = merged(plan, table.tensors)
    for site in plan.sites:
        try:
            writer.write(site, ranges[site.tensor])
        except RangeError as error:
            raise RangeError(
                f"{site.role} {site.tensor!r} of {site.consumers[0]}: {error}"
            ) from None
    writer.finish()
    # Nothing about the backend goes into the graph: equal ranges must give equal bytes.
    props = {"quantcore": quantcore.__version__, "float_fingerprint": model.fingerprint}
    helper.set_model_props(proto, props)
    try:
        onnx.checker.check_model(proto, full_check=True)
    except onnx.checker.ValidationError as error:
        raise ModelError(f"{model.name}: the Q/DQ graph is invalid: {error}") from None
    return QdqModel(proto, _manifest(model, plan, table))


def _check_table(model: FloatModel, plan: Plan, table: CalibrationTable) -> None:
    if table.provenance.fingerprint != model.fingerprint:
        raise TableError(
            f"the table was calibrated on another graph ({table.provenance.model}, "
            f"{table.provenance.fingerprint[:12]}) than this one ({model.name}, "
            f"{model.fingerprint[:12]}); use the same weights and image size, or calibrate again"
        )
    for site in plan.sites:
        if site.tensor not in table.tensors:
            raise TableError(
                f"the table has no range for {site.role} {site.tensor!r} of layer "
                f"{site.consumers[0]!r}; calibrate with the policy that quantizes it"
            )
        check_range(site, table.tensors[site.tensor], model, plan.implementation)


class _Writer:
    """Adds pairs to a graph, then puts the nodes in order."""

    def __init__(self, graph: onnx.GraphProto, model: FloatModel) -> None:
        self._graph = graph
        self._model = model
        self._nodes = nodes_by_name(graph)
        self._new = Names.of(graph).fresh
        self._after: dict[str, list[onnx.NodeProto]] = {}
        self._first: list[onnx.NodeProto] = []

    def write(self, site: Site, found: TensorRange) -> None:
        """Quantizes one tensor for the site's consumers."""
        scale, zero = code_of(found, site.policy)
        names = [self._new(f"{site.tensor}.{part}") for part in ("scale", "zero_point")]
        kind = np.int8 if site.policy.symmetric else np.uint8
        add_constant(self._graph, names[0], scale)
        add_constant(self._graph, names[1], zero.astype(kind))
        code, value = (self._new(f"{site.tensor}.{p}") for p in ("quantized", "dequantized"))
        dequantize = helper.make_node(
            "DequantizeLinear",
            [code, *names],
            [value],
            name=self._new(f"{site.tensor}.dequantize"),
        )
        if site.axis is not None:
            dequantize.attribute.append(helper.make_attribute("axis", site.axis))
        if site.role == "weight":
            weight = self._model.initializers[site.tensor]
            add_constant(self._graph, code, quantize(weight, scale, site.axis, site.policy.code))
            self._first.append(dequantize)
        else:
            clip = self._clip(site, scale, zero)
            quant = helper.make_node(
                "QuantizeLinear",
                [clip[0].output[0] if clip else site.tensor, *names],
                [code],
                name=self._new(f"{site.tensor}.quantize"),
            )
            self._after[site.tensor] = [*clip, quant, dequantize]
        for consumer in site.consumers:
            inputs = self._nodes[consumer].input
            inputs[:] = [value if i == site.tensor else i for i in inputs]

    def _clip(
        self, site: Site, scale: npt.NDArray[np.float32], zero: npt.NDArray[np.int64]
    ) -> list[onnx.NodeProto]:
        """What saturates an activation at fewer bits than Q's own type; none where it has them all.

        Exact: the outermost values are whole steps to within a rounding of float32 (or FP16, where
        the graph is written in it), which is far less than the half step that another code takes.
        """
        if site.policy.bits == 8:
            return []
        ends = [self._new(f"{site.tensor}.{end}") for end in ("lowest", "highest")]
        for name, code in zip(ends, codes_of(site.policy), strict=True):
            add_constant(self._graph, name, np.asarray((code - zero) * scale, dtype=np.float32))
        output = self._new(f"{site.tensor}.clipped")
        name = self._new(f"{site.tensor}.clip")
        return [helper.make_node("Clip", [site.tensor, *ends], [output], name=name)]

    def finish(self) -> None:
        """Sorts the new nodes in behind what they read and drops float weights nobody reads."""
        ordered = list(self._first) + self._after.pop(self._model.input_name, [])
        for node in self._graph.node:
            ordered.append(node)
            for output in node.output:
                ordered.extend(self._after.pop(output, []))
        set_nodes(self._graph, ordered)
        drop_unread(self._graph)


def _manifest(model: FloatModel, plan: Plan, table: CalibrationTable) -> Mapping[str, object]:
    """What the Q/DQ graph was made from."""
    return {
        "model": model.name,
        "float_fingerprint": model.fingerprint,
        "table_sha256": table.sha256,
        "backend": table.provenance.backend,
        "activations": sum(site.role == "activation" for site in plan.sites),
        "weights": sum(site.role == "weight" for site in plan.sites),
        "quantcore": quantcore.__version__,
    }


def count_pairs(proto: onnx.ModelProto) -> dict[str, int]:
    """Q/DQ pairs of a graph: `activations` and `weights`."""
    activations = sum(node.op_type == "QuantizeLinear" for node in proto.graph.node)
    dequantized = sum(node.op_type == "DequantizeLinear" for node in proto.graph.node)
    return {"activations": activations, "weights": dequantized - activations}
