"""OpenVINO as an engine: runs symmetric Q/DQ graphs on the CPU in INT8, and tells what it ran."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cache, cached_property
from typing import Any, Literal

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
from quantcore.engines.common import (
    has_vnni,
    names_of_nodes,
    one_line,
    operators,
)
from quantcore.engines.openvino_layers import layers_of, owners_of
from quantcore.errors import EngineError
from quantcore.ir.model import Array
from quantcore.runtime.progress import Progress

#: OpenVINO's operators with weights; a bias is an Add of its own behind them.
_WEIGHTED = frozenset(
    {"Convolution", "GroupConvolution", "ConvolutionBackpropData", "GroupConvolutionBackpropData"}
    | {"MatMul"}
)
#: What float layers are computed in, and its name as people know it.
_Float = Literal["f32", "bf16", "f16"]
_FLOATS: Mapping[_Float, str] = {"f32": "FP32", "bf16": "BF16", "f16": "FP16"}


@dataclass(frozen=True, kw_only=True)
class OpenVinoOptions(EngineOptions):
    """OpenVINO's own options.

    Attributes:
        precision: What float layers are computed in.
    """

    precision: _Float = option(
        "f32", "What float layers are computed in: f32, or bf16 or f16 where the processor has it."
    )


class OpenVinoEngine(EnginePlugin):
    """Compiles ONNX graphs as they are for the CPU."""

    builds_ahead = True
    options = OpenVinoOptions

    def versions(self) -> Mapping[str, str]:
        """See EnginePlugin."""
        import openvino

        return {"openvino": str(openvino.get_version()).partition("-")[0]}

    def _build(self, proto: onnx.ModelProto, options: EngineOptions) -> Engine:
        return _Compiled(proto, options)

    def check(self, options: EngineOptions) -> None:
        """See EnginePlugin."""
        super().check(options)
        wanted = OpenVinoOptions.of(options).precision
        if wanted not in _able():
            raise EngineError(
                f"OpenVINO does not compute in {wanted} on this processor; it has: "
                f"{', '.join(_able())}"
            )

    def float_options(self, options: EngineOptions) -> Mapping[str, EngineOptions]:
        """See EnginePlugin."""
        own = OpenVinoOptions.of(options)
        return {_FLOATS[name]: replace(own, precision=name) for name in _able()}

    def caveat(self) -> str | None:
        """See EnginePlugin."""
        if has_vnni() is not False:
            return None
        return (
            "this processor has no VNNI: OpenVINO's INT8 kernels add pairs of products in 16 bits, "
            "which saturate; weights calibrated with `bits: 7` are safe"
        )

    def explain(self, where: Surroundings) -> str:
        """See EnginePlugin."""
        if where.op == "ConvTranspose" and where.groups == 1:
            return "OpenVINO runs a transposed convolution in INT8 only where its kernels allow"
        if where.behind == "Concat":
            return (
                "it reads a Concat of quantized tensors without a Q/DQ pair of its own; OpenVINO "
                "computes that wrongly in INT8, so it is kept in float"
            )
        return "OpenVINO has no INT8 kernel for it, or the graph is run exactly as it stands"

    def _build_ahead(
        self, proto: onnx.ModelProto, options: EngineOptions, progress: Progress
    ) -> Built:
        engine = _Compiled(proto, options)
        try:
            return Built(engine.exported(), engine.hardware(), tuple(engine.layers()))
        finally:
            engine.close()

    def _load(self, content: bytes, options: EngineOptions) -> Engine:
        return _Imported(content, options)


@cache
def _able() -> tuple[_Float, ...]:
    """What float layers can be computed in here; FP32 first."""
    import openvino

    known = openvino.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    return tuple(name for name, title in _FLOATS.items() if name == "f32" or title in known)


class _Imported(Engine):
    """A model that was compiled for batch 1, or the graph's own, and saved."""

    def __init__(self, content: bytes, options: EngineOptions) -> None:
        import openvino

        try:
            compiled = openvino.Core().import_model(content, "CPU", _settings(options))
            self._compiled: Any = compiled
            self._request: Any = compiled.create_infer_request()
            self.input_name = compiled.input(0).get_any_name()
            self.input_shape = tuple(int(size) for size in compiled.input(0).shape)
            self.output_names = tuple(output.get_any_name() for output in compiled.outputs)
        except Exception as error:  # the library raises bare RuntimeErrors and its own
            raise EngineError(f"OpenVINO cannot open the model: {one_line(error)}") from None

    def _infer(self, batch: Array) -> list[Array]:
        if self._request is None:
            raise EngineError("the engine is closed")
        return _run(self._request, batch, len(self.output_names))

    def layers(self) -> list[EngineLayer]:
        """By OpenVINO's names: the ONNX nodes are not known from the file."""
        if self._compiled is None:
            raise EngineError("the engine is closed")
        return layers_of(self._compiled, {}, {})

    def runs_on(self) -> str:
        """See Engine."""
        return "CPU"

    def close(self) -> None:
        """See Engine."""
        self._request = self._compiled = None


class _Compiled(Engine):
    """One model, compiled for batch 1 at once and for any batch when one comes."""

    def __init__(self, proto: onnx.ModelProto, options: EngineOptions) -> None:
        import openvino

        self._core: Any = openvino.Core()
        self._settings = _settings(options)
        self._ops, self._names = operators(proto), names_of_nodes(proto)
        try:
            self._model: Any = self._core.read_model(proto.SerializeToString())
            if "QuantizeLinear" in self._ops.values() and not options.exact:
                _guard(self._model)
            images = self._model.input(0)
            shape = images.partial_shape
            self.input_name = images.get_any_name()
            self.input_shape = tuple(d.get_length() if d.is_static else None for d in shape)
            self.output_names = tuple(o.name for o in proto.graph.output)
            # A fixed shape runs about a tenth faster than a dynamic one.
            self._one: Any = self._compile((1, *self.input_shape[1:]))
        except Exception as error:  # the library raises bare RuntimeErrors and its own
            raise EngineError(f"OpenVINO refuses the graph: {one_line(error)}") from None
        self._requests: dict[bool, Any] = {}

    def _compile(self, shape: tuple[int | None, ...] | None) -> Any:
        model = self._model.clone()
        if shape is not None and self.input_shape[0] is None:
            model.reshape([-1 if size is None else size for size in shape])
        return self._core.compile_model(model, "CPU", self._settings)

    def _request(self, batch: int) -> Any:
        fixed = batch == 1 or self.input_shape[0] is not None
        if fixed not in self._requests:
            try:
                compiled = self._one if fixed else self._compile(None)
                self._requests[fixed] = compiled.create_infer_request()
            except Exception as error:
                raise EngineError(f"OpenVINO failed: {one_line(error)}") from None
        return self._requests[fixed]

    def _infer(self, batch: Array) -> list[Array]:
        if self._core is None:
            raise EngineError("the engine is closed")
        return _run(self._request(len(batch)), batch, len(self.output_names))

    def layers(self) -> list[EngineLayer]:
        """From the runtime model: what the compiler really chose for every layer."""
        if self._core is None:
            raise EngineError("the engine is closed")
        return layers_of(self._one, self._ops, self._names)

    def _layer_seconds(self, batch: Array) -> dict[str, float] | None:
        if len(batch) != 1:
            return None
        self._infer(batch)
        counted = self._request(1).get_profiling_info()
        found: defaultdict[str, float] = defaultdict(float)
        for entry in counted:
            if owner := self._owners.get(entry.node_name):
                found[owner] += entry.real_time.total_seconds()
        return dict(found) if counted else None

    @cached_property
    def _owners(self) -> dict[str, str]:
        """Asked for once: after a pause for it the first layers take milliseconds longer."""
        return owners_of(self._one, self._ops, self._names)

    def runs_on(self) -> str:
        """See Engine."""
        return "CPU"

    def exported(self) -> bytes:
        """The compiled model, for `Core.import_model`."""
        try:
            return bytes(self._one.export_model().getvalue())
        except Exception as error:
            raise EngineError(f"OpenVINO cannot save the model: {one_line(error)}") from None

    def hardware(self) -> str:
        """The processor that the model is compiled for."""
        name = self._core.get_property("CPU", "FULL_DEVICE_NAME")
        able = ", ".join(sorted(self._core.get_property("CPU", "OPTIMIZATION_CAPABILITIES")))
        return f"{name} ({able})"

    def close(self) -> None:
        """See Engine."""
        self._requests = {}
        self._core = self._model = self._one = None


def _run(request: Any, batch: Array, outputs: int) -> list[Array]:
    try:
        request.infer([np.ascontiguousarray(batch)], share_inputs=True)
        # Copies: the request writes the next batch into the same memory.
        return [np.array(request.get_output_tensor(number).data) for number in range(outputs)]
    except Exception as error:
        raise EngineError(f"OpenVINO failed: {one_line(error)}") from None


def _guard(model: Any) -> None:
    """Keeps OpenVINO from moving scales to where it loses them.

    Of a Q/DQ graph, 2026.4 silently computes wrong what stands behind a Concat of 8-bit tensors
    that a convolution reads (YOLOv5n fell from mAP 0.33 to 0.03), and behind a convolution without
    bias that has several readers. A maximum with the smallest float changes no value, and scales
    are not moved through it: such a tensor is then in float, and the convolutions around it stay
    in INT8.
    """
    for node in model.get_ops():
        kind = node.get_type_name()
        readers = list(node.output(0).get_target_inputs()) if node.get_output_size() else []
        # A bias is laid out by the rank of what it is added to; that reads no value.
        readers = [r for r in readers if r.get_node().get_type_name() != "ShapeOf"]
        shared = kind in _WEIGHTED and len(readers) > 1
        if (shared or kind == "Concat") and node.get_output_element_type(0).is_real():
            _shield(node.output(0), readers)


def _shield(tensor: Any, readers: list[Any]) -> None:
    """Puts the maximum between a tensor and its readers."""
    from openvino import opset13

    dtype = tensor.get_element_type().to_dtype()
    smallest = opset13.constant(np.full(1, np.finfo(dtype).min, dtype))
    shield = opset13.maximum(tensor, smallest)
    for reader in readers:
        # The network's outputs keep their names.
        if reader.get_node().get_type_name() != "Result":
            reader.replace_source_output(shield.output(0))


def _settings(options: EngineOptions) -> dict[str, Any]:
    settings: dict[str, Any] = {
        "PERFORMANCE_HINT": "LATENCY",
        # Float layers stay FP32 on processors where OpenVINO would take bfloat16 by itself.
        "INFERENCE_PRECISION_HINT": OpenVinoOptions.of(options).precision,
    }
    if options.threads is not None:
        settings["INFERENCE_NUM_THREADS"] = options.threads
    if options.counters:
        settings["PERF_COUNT"] = True
    if options.exact:
        # Without these passes Q and DQ are run as they stand and convolutions between them in FP32.
        settings["LP_TRANSFORMS_MODE"] = "NO"
    return settings
