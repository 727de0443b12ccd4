"""ONNX Runtime as an engine: the default on the CPU and the numerical reference."""

from __future__ import annotations

import contextlib
import tempfile
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from quantcore.contracts.engine import (
    Engine,
    EngineLayer,
    EngineOptions,
    EnginePlugin,
    Surroundings,
)
from quantcore.contracts.options import option
from quantcore.contracts.plans import Built
from quantcore.engines.common import HEAVY, names_of_nodes, one_line
from quantcore.errors import EngineError
from quantcore.ir.edits import nodes_by_name
from quantcore.ir.model import Array
from quantcore.runtime.host import host
from quantcore.runtime.progress import Progress

_CPU = "CPUExecutionProvider"

#: Operators whose arithmetic is in 8 bits; ONNX Runtime writes them in place of Q/DQ groups.
_INTEGER = ("QLinear", "ConvInteger", "MatMulInteger", "QGemm", "DynamicQuantize", "QAttention")
_FLOAT = int(onnx.TensorProto.FLOAT)
#: Words of EngineLayer for ONNX element types.
_WORDS: Mapping[int, str] = {
    _FLOAT: "fp32",
    onnx.TensorProto.FLOAT16: "fp16",
    onnx.TensorProto.BFLOAT16: "bf16",
    onnx.TensorProto.INT8: "int8",
    onnx.TensorProto.UINT8: "int8",
}


@dataclass(frozen=True, kw_only=True)
class OnnxRuntimeOptions(EngineOptions):
    """How a session is opened.

    Attributes:
        providers: Execution providers, most wanted first; the CPU's where none is given.
    """

    providers: tuple[str, ...] = option(
        (), "Execution provider; repeat, the most wanted first. The CPU's by default."
    )


class OnnxRuntimeEngine(EnginePlugin):
    """Builds inference sessions; on the CPU unless other execution providers are asked for."""

    builds_ahead = True
    options = OnnxRuntimeOptions

    def versions(self) -> Mapping[str, str]:
        """See EnginePlugin."""
        import onnxruntime

        return {"onnxruntime": str(onnxruntime.__version__)}

    def _build(self, proto: onnx.ModelProto, options: EngineOptions) -> Engine:
        return _Session(proto, OnnxRuntimeOptions.of(options))

    def check(self, options: EngineOptions) -> None:
        """See EnginePlugin; execution providers must be in this build of ONNX Runtime."""
        super().check(options)
        _providers(OnnxRuntimeOptions.of(options).providers)

    def explain(self, where: Surroundings) -> str:
        """See EnginePlugin; the pattern is DQ, DQ -> Conv -> Q with an INT32 bias or none."""
        reasons = []
        if where.bias == "float":
            reasons.append("its bias is float")
        if not where.quantized_output:
            to = ", ".join(where.followers) or "the graph's output"
            reasons.append(f"its output goes to {to} instead of QuantizeLinear")
        if where.op != "Conv" or not reasons:
            return f"ONNX Runtime has no integer kernel on the CPU for this {where.op}"
        return f"{'; '.join(reasons)}: not the QLinearConv pattern"

    def _build_ahead(
        self, proto: onnx.ModelProto, options: EngineOptions, progress: Progress
    ) -> Built:
        session = _Session(proto, OnnxRuntimeOptions.of(options))
        try:
            # The file holds layouts chosen for this processor.
            hardware = f"{host()['processor']}, {session.runs_on()}"
            content = session.optimized().SerializeToString()
            return Built(content, hardware, tuple(session.layers()))
        finally:
            session.close()

    def _load(self, content: bytes, options: EngineOptions) -> Engine:
        try:
            proto = onnx.ModelProto.FromString(content)
        except Exception as error:  # protobuf's own class
            raise EngineError(f"not an ONNX graph: {one_line(error)}") from None
        # The file is optimized already; to do it again would fuse what was kept apart.
        return _Session(proto, replace(OnnxRuntimeOptions.of(options), exact=True))


class _Session(Engine):
    """One InferenceSession."""

    def __init__(self, proto: onnx.ModelProto, options: OnnxRuntimeOptions) -> None:
        self._providers = _providers(options.providers)
        self._proto = proto
        self._options = options
        self._session: Any = self._open(_settings(options, proto))
        images = self._session.get_inputs()[0]
        self.input_name = images.name
        self.input_shape = tuple(d if isinstance(d, int) else None for d in images.shape)
        self.output_names = tuple(o.name for o in self._session.get_outputs())

    def _open(self, settings: Any) -> Any:
        import onnxruntime as ort

        graph = self._proto.SerializeToString()
        try:
            session = ort.InferenceSession(graph, settings, providers=self._providers)
        except Exception as error:  # the library's own classes all derive from Exception alone
            raise EngineError(f"ONNX Runtime refuses the graph: {one_line(error)}") from None
        # A provider that is compiled in but lacks its driver is dropped with a warning only.
        lost = [name for name in self._providers if name not in session.get_providers()]
        if lost:
            raise EngineError(
                f"execution provider {lost[0]!r} is built into ONNX Runtime but does not start "
                "here; are its driver and libraries installed?"
            )
        return session

    @property
    def _live(self) -> Any:
        if self._session is None:
            raise EngineError("the engine is closed")
        return self._session

    def _infer(self, batch: Array) -> list[Array]:
        return self.run({self.input_name: batch})

    def run(self, tensors: Mapping[str, Array]) -> list[Array]:
        """The outputs for a value of every input."""
        session = self._live
        try:
            feeds = {name: np.ascontiguousarray(value) for name, value in tensors.items()}
            return list(session.run(None, feeds))
        except Exception as error:
            raise EngineError(f"ONNX Runtime failed: {one_line(error)}") from None

    def layers(self) -> list[EngineLayer]:
        """On the CPU, from the graph that ONNX Runtime's own optimizer leaves.

        Other providers compile parts of the graph and do not tell in which precision.
        """
        parts = self._assigned()
        if self._providers == [_CPU]:
            reader = _Reader(self._proto, self.optimized())
            return list(map(reader.layer, reader.nodes))
        nodes = (node for _, assigned in parts for node in assigned)
        return [EngineLayer(n.name, n.op_type, None, (n.name,)) for n in nodes]

    def runs_on(self) -> str:
        """The execution providers that nodes were really given to, and how many of them.

        Releases before 1.24 tell only which were started.
        """
        parts = self._assigned()
        if self._providers == [_CPU]:
            return _CPU
        counts: Counter[str] = Counter()
        for provider, nodes in parts:
            counts[provider] += len(nodes)
        known = ", ".join(f"{name} ({count} nodes)" for name, count in counts.most_common())
        return known or ", ".join(self._live.get_providers())

    def _assigned(self) -> list[tuple[str, list[Any]]]:
        """Parts of the graph with the provider that runs each; none where that is not told."""
        if not hasattr(self._live, "get_provider_graph_assignment_info"):
            return []
        parts = self._live.get_provider_graph_assignment_info()
        return [(str(part.ep_name), list(part.get_nodes())) for part in parts]

    def optimized(self) -> onnx.ModelProto:
        """The graph after the session's optimizations; a second session writes it to a file."""
        settings = _settings(self._options, self._proto)
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "optimized.onnx"
            settings.optimized_model_filepath = str(path)
            self._open(settings)
            return onnx.load(path)

    def close(self) -> None:
        """See Engine."""
        self._session = None


class OnnxRuntimeTail:
    """A piece of a float graph that starts from several tensors instead of the images.

    Args:
        proto: The piece.
        options: How it is run.

    Raises:
        EngineError: ONNX Runtime refuses it.
    """

    def __init__(self, proto: onnx.ModelProto, options: EngineOptions) -> None:
        self._session = _Session(proto, OnnxRuntimeOptions.of(options))
        self._inputs = [entry.name for entry in proto.graph.input]

    def infer(self, tensors: Mapping[str, Array]) -> dict[str, Array]:
        """The outputs by name; of the tensors, those are taken that the piece reads.

        Raises:
            EngineError: ONNX Runtime failed.
        """
        found = self._session.run({name: tensors[name] for name in self._inputs})
        return dict(zip(self._session.output_names, found, strict=True))


class _Reader:
    """Reads the optimized graph: what each node computes, in which precision, and for whom."""

    def __init__(self, given: onnx.ModelProto, optimized: onnx.ModelProto) -> None:
        self._given = names_of_nodes(given)
        self._made = nodes_by_name(given.graph)
        graph = optimized.graph
        self.nodes = list(graph.node)
        self._types: dict[str, int] = {i.name: i.data_type for i in graph.initializer}
        for value in (*graph.input, *graph.output, *graph.value_info):
            self._types[value.name] = value.type.tensor_type.elem_type

    def layer(self, node: onnx.NodeProto) -> EngineLayer:
        """One node; to be called in graph order, as types are carried along."""
        kind = self._type_of(node)
        for output in node.output:
            self._types.setdefault(output, kind)
        integer = node.op_type.startswith(_INTEGER)
        precision = "int8" if integer else _WORDS.get(kind)
        origin = self._origin(node.name)
        nodes = self._fused(node, origin) if origin else ()
        return EngineLayer(nodes[-1] if nodes else node.name, node.op_type, precision, nodes)

    def _type_of(self, node: onnx.NodeProto) -> int:
        """Element type that a node computes in: of its output, else what it reads tells."""
        known = [self._types[n] for n in (*node.output, *node.input) if self._types.get(n)]
        if node.op_type in ("QuantizeLinear", "DequantizeLinear"):
            return self._types.get(node.input[1], _FLOAT)
        return known[0] if known else 0

    def _fused(self, node: onnx.NodeProto, origin: str) -> tuple[str, ...]:
        """The nodes from one back to the heavy one whose name the layer should have.

        A Conv that took in its activation is named after the activation's output.
        """
        chain = [origin]
        heavy = any(word in node.op_type for word in HEAVY)
        while heavy and self._made[chain[-1]].op_type not in HEAVY:
            before = self._given.get(self._made[chain[-1]].input[0])
            if before is None:
                return (origin,)
            chain.append(before)
        return tuple(chain)

    def _origin(self, name: str) -> str | None:
        """The given graph's node; fusions and layout changes append to its name or its output's."""
        while name:
            if name in self._given:
                return self._given[name]
            name = name[: max(name.rfind("_"), name.rfind("/"), 0)]
        return None


def _providers(wanted: Sequence[str]) -> list[str]:
    """The execution providers to use; ONNX Runtime itself only warns about unknown ones.

    Raises:
        EngineError: One is not in this build of ONNX Runtime.
    """
    import onnxruntime as ort

    there = ort.get_available_providers()
    for name in wanted:
        if name not in there:
            raise EngineError(
                f"ONNX Runtime has no execution provider {name!r} here; available: "
                f"{', '.join(there)}"
            )
    return list(wanted) or [_CPU]


@cache
def _open_shared_memory() -> None:
    """Makes the arena that sessions may share; once in a process, it stays to the end.

    A session's own arena grows to what one run takes and is kept: sixty sessions in turn touch
    sixty times the memory, and the first run of each waits for it page by page.
    """
    import onnxruntime as ort

    where = ort.OrtMemoryInfo(
        "Cpu", ort.OrtAllocatorType.ORT_ARENA_ALLOCATOR, 0, ort.OrtMemType.DEFAULT
    )
    # An arena that somebody else in the process has made serves as well.
    with contextlib.suppress(Exception):
        ort.create_and_register_allocator(where, None)


def _settings(options: EngineOptions, proto: onnx.ModelProto) -> Any:
    import onnxruntime as ort

    settings = ort.SessionOptions()
    settings.log_severity_level = 3
    # So that the session can tell where each node runs; releases before 1.24 do not know it.
    settings.add_session_config_entry("session.record_ep_graph_assignment_info", "1")
    if options.threads is not None:
        settings.intra_op_num_threads = options.threads
    if options.shared_memory:
        _open_shared_memory()
        settings.add_session_config_entry("session.use_env_allocators", "1")
    if options.exact:
        # Without fusions every Q, DQ and Conv runs as the graph says, in float32.
        settings.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    if any(i.data_type == onnx.TensorProto.FLOAT16 for i in proto.graph.initializer):
        # It would fuse pairs with FP16 scales into integer operators that take none.
        settings.add_session_config_entry("session.disable_quant_qdq", "1")
    return settings
