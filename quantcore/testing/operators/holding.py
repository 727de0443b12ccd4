"""Runs one node in a backend and in ONNX Runtime."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from quantcore.contracts.backend import BackendPlugin, SessionOptions
from quantcore.contracts.engine import EngineOptions
from quantcore.contracts.registry import load_engine
from quantcore.engines import REFERENCE_ENGINE
from quantcore.evaluation.decoding.boxes import DecodedBoxes
from quantcore.ir.model import Array, FloatModel, Preprocessing
from quantcore.testing.operators.case import Case, Computed

#: Largest error, of the largest magnitude of the reference and 1.
LIMIT = 2e-5


def hold_to_reference(plugin: BackendPlugin, case: Case, arithmetic: str) -> None:
    """Raises AssertionError where a backend computes another thing than ONNX Runtime.

    Args:
        plugin: The backend.
        case: A node.
        arithmetic: `float32` or `float64`; the limit is that of float32 in either, for that is
            what ONNX Runtime computes in.
    """
    model, batch = _model(case)
    with load_engine(REFERENCE_ENGINE).build(model.proto, EngineOptions(threads=1)) as engine:
        expected = engine.infer(batch)
    options = SessionOptions(device="cpu", arithmetic=arithmetic)
    with plugin.open(model, options) as session:
        # Not `forward`: its heads are float32, and have a batch.
        found = session._forward(batch)
    for wanted, got in zip(expected.values(), found, strict=True):
        got = np.asarray(got)
        assert got.shape == wanted.shape, f"{case}: {got.shape} instead of {wanted.shape}"
        if wanted.dtype == np.float32:
            assert got.dtype == arithmetic, f"{case}: computes in {got.dtype}"
        scale = max(1.0, float(np.abs(wanted).max(initial=0)))
        error = np.abs(got.astype(np.float64) - wanted.astype(np.float64)).max(initial=0)
        assert error <= LIMIT * scale, f"{case}: {got} instead of {wanted}"


def _model(case: Case) -> tuple[FloatModel, Array]:
    """A graph that takes all computed inputs out of one, and what to put in."""
    nodes: list[onnx.NodeProto] = []
    constants: dict[str, np.ndarray] = {}
    flat: list[np.ndarray] = [np.zeros(1, np.float32)]
    names = []
    for i, given in enumerate(case.inputs):
        if given is None:
            names.append("")
        elif isinstance(given, Computed):
            at = sum(len(part) for part in flat)
            flat.append(given.values.reshape(-1).astype(np.float32))
            ends = (at, at + given.values.size)
            constants |= {
                f"from{i}": np.array(ends[:1]),
                f"to{i}": np.array(ends[1:]),
                f"shape{i}": np.array(given.values.shape, np.int64),
            }
            wanted = helper.np_dtype_to_tensor_dtype(given.values.dtype)
            nodes += [
                helper.make_node(
                    "Slice", ["images", f"from{i}", f"to{i}", "one"], [f"flat{i}"], f"cut{i}"
                ),
                helper.make_node("Reshape", [f"flat{i}", f"shape{i}"], [f"f{i}"], f"shape{i}"),
                helper.make_node("Cast", [f"f{i}"], [f"x{i}"], f"cast{i}", to=wanted),
            ]
            constants["one"] = np.array([1])
            names.append(f"x{i}")
        else:
            constants[f"x{i}"] = given
            names.append(f"x{i}")
    heads = [f"y{i}" for i in range(case.outputs)]
    nodes.append(helper.make_node(case.op, names, heads, "layer.0", **case.attributes))
    batch = np.concatenate(flat)[None]
    return _built(nodes, constants, heads, case.opset), batch


def _built(
    nodes: list[onnx.NodeProto], constants: dict[str, np.ndarray], heads: list[str], opset: int
) -> FloatModel:
    graph = helper.make_graph(
        nodes,
        "one",
        [helper.make_tensor_value_info("images", TensorProto.FLOAT, ["batch", "length"])],
        [helper.make_empty_tensor_value_info(name) for name in heads],
        [numpy_helper.from_array(np.asarray(v), n) for n, v in constants.items()],
    )
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=10)
    proto = onnx.shape_inference.infer_shapes(proto)
    return FloatModel("one", proto, Preprocessing((1, 1)), DecodedBoxes(), ("a",))
