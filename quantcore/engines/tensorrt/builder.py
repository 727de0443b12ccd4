"""From ONNX to a serialized TensorRT plan."""

from __future__ import annotations

import threading
import warnings
from pathlib import Path
from typing import Any

import onnx

from quantcore.engines.common import one_line
from quantcore.engines.tensorrt.library import Logger, trt
from quantcore.engines.tensorrt.options import TensorRtOptions
from quantcore.errors import EngineError
from quantcore.runtime.files import write_whole
from quantcore.runtime.progress import Progress


def build_plan(proto: onnx.ModelProto, options: TensorRtOptions, progress: Progress) -> bytes:
    """Builds a plan.

    Networks are strongly typed, so every layer has the type that the graph gives it; releases
    which cannot do that get flags that allow the types in the graph.

    Raises:
        EngineError: TensorRT refuses the graph, or the options.
    """
    logger = Logger()
    try:
        builder = trt.Builder(logger)
    except (TypeError, RuntimeError) as error:  # pybind's words for a null pointer
        raise EngineError(f"{trt.__name__} does not start: {logger.reason()} ({error})") from None
    network = builder.create_network(_network_flags())
    parser = trt.OnnxParser(network, logger)
    if not parser.parse(proto.SerializeToString()):
        raise EngineError(f"{trt.__name__} refuses the graph: {_refused(parser, proto)}")
    config = builder.create_builder_config()
    _set_flags(config, proto, options)
    _set_target(config, options.target)
    _set_shapes(builder, config, network, options.max_batch)
    monitor = _watch(config, progress)
    cache = _open_cache(config, options.timing_cache)
    try:
        plan: Any = builder.build_serialized_network(network, config)
    finally:
        if monitor is not None:
            monitor.finish()
    if plan is None:
        raise EngineError(f"{trt.__name__} cannot build the graph: {logger.reason()}")
    if cache is not None and options.timing_cache is not None:
        write_whole(options.timing_cache, bytes(cache.serialize()))
    return bytes(plan)


def _network_flags() -> int:
    flags = trt.NetworkDefinitionCreationFlag
    # The flags' numbers differ between libraries; 8.6 has only the batch flag, 11 only the other.
    for name in ("STRONGLY_TYPED", "EXPLICIT_BATCH"):
        if hasattr(flags, name):
            return 1 << int(getattr(flags, name))
    return 0


def _set_flags(
    config: trt.IBuilderConfig, proto: onnx.ModelProto, options: TensorRtOptions
) -> None:
    flags = trt.BuilderFlag
    if not hasattr(trt.NetworkDefinitionCreationFlag, "STRONGLY_TYPED"):
        for name in sorted(_reduced(proto)):
            if hasattr(flags, name):
                config.set_flag(getattr(flags, name))
    if options.exact and hasattr(flags, "TF32"):
        config.clear_flag(flags.TF32)
    # Without this the engine inspector tells names and nothing of precisions.
    config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED


def _reduced(proto: onnx.ModelProto) -> set[str]:
    """Builder flags for the types that a graph holds."""
    graph = proto.graph
    found = {"INT8"} if any(node.op_type == "QuantizeLinear" for node in graph.node) else set()
    types = {i.data_type for i in graph.initializer}
    types |= {v.type.tensor_type.elem_type for v in (*graph.value_info, *graph.output)}
    return found | ({"FP16"} if onnx.TensorProto.FLOAT16 in types else set())


def _set_target(config: trt.IBuilderConfig, target: str | None) -> None:
    if target is None:
        return
    known: Any = getattr(trt, "ComputeCapability", None)
    if known is None or not hasattr(config, "set_compute_capability"):
        raise EngineError(
            f"{trt.__name__} {trt.__version__} builds for the GPU that it runs on; leave the "
            f"target {target!r} out"
        )
    names = [name for name in known.__members__ if name != "NONE"]
    if target not in names:
        raise EngineError(
            f"{trt.__name__} {trt.__version__} has no target {target!r}; it has {', '.join(names)}"
        )
    setattr(config, "num_compute_capabilities", 1)  # noqa: B010 - unknown to the other library
    config.set_compute_capability(known.__members__[target], 0)


def _set_shapes(
    builder: trt.Builder,
    config: trt.IBuilderConfig,
    network: trt.INetworkDefinition,
    max_batch: int,
) -> None:
    """Allows every batch from one to the largest where the graph leaves the batch open."""
    profile = builder.create_optimization_profile()
    dynamic = False
    for number in range(network.num_inputs):
        tensor = network.get_input(number)
        dims: Any = tensor.shape
        shape: tuple[int, ...] = tuple(dims)
        if -1 in shape[1:]:
            raise EngineError(
                f"input {tensor.name!r}: TensorRT needs fixed sizes after the batch, the graph has "
                f"{' x '.join('any' if d < 0 else str(d) for d in shape)}"
            )
        if shape and shape[0] == -1:
            dynamic = True
            largest = (max_batch, *shape[1:])
            # Plain tuples do, though the type stubs want Dims.
            set_shape: Any = profile.set_shape
            set_shape(tensor.name, (1, *shape[1:]), largest, largest)
    if dynamic:
        config.add_optimization_profile(profile)


def _refused(parser: trt.OnnxParser, proto: onnx.ModelProto) -> str:
    """The parser's errors with the names of the nodes that they are about."""
    nodes = proto.graph.node
    lines = []
    for number in range(min(parser.num_errors, 3)):
        error = parser.get_error(number)
        index = error.node()
        name = nodes[index].name if 0 <= index < len(nodes) else ""
        if hasattr(error, "node_name"):
            name = error.node_name() or name
        kind = next((n.op_type for n in nodes if n.name == name), "node")
        lines.append(
            f"{kind} {name!r}: {one_line(error.desc())}" if name else one_line(error.desc())
        )
    more = parser.num_errors - len(lines)
    return "; ".join(lines or ["it gives no reason"]) + (f"; and {more} more" if more > 0 else "")


def _open_cache(config: trt.IBuilderConfig, path: Path | None) -> trt.ITimingCache | None:
    """The timing cache, filled from its file; None where none is asked for.

    Raises:
        EngineError: The library times nothing, or the file is of another library or GPU.
    """
    if path is None:
        return None
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        cache: trt.ITimingCache | None = None
        if hasattr(config, "create_timing_cache"):
            cache = config.create_timing_cache(path.read_bytes() if path.exists() else b"")
            fits = config.set_timing_cache(cache, False)
    # TensorRT-RTX still has the calls, but they do nothing and warn.
    if cache is None or any(issubclass(w.category, DeprecationWarning) for w in said):
        raise EngineError(f"{trt.__name__} {trt.__version__} has no timing cache; leave it out")
    if not fits:
        raise EngineError(f"{path}: a timing cache of another library or GPU; name another file")
    return cache


def _watch(config: trt.IBuilderConfig, progress: Progress) -> Any:
    """Shows the builder's phases where it reports them; the monitor must outlive the build."""
    if not hasattr(trt, "IProgressMonitor") or not hasattr(config, "progress_monitor"):
        return None
    monitor = _monitor(progress)
    config.progress_monitor = monitor
    return monitor


def _monitor(progress: Progress) -> Any:
    """Made in a function, as 8.6 lacks the class that it derives from."""

    class Monitor(trt.IProgressMonitor):
        """The outermost phases as tasks; the dozens inside them would bury a log."""

        def __init__(self) -> None:
            trt.IProgressMonitor.__init__(self)
            self._tasks: dict[str, tuple[int, int]] = {}  # task, steps left
            self._lock = threading.Lock()  # the builder calls from its own threads

        def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None:
            if parent_phase is None:
                with self._lock:
                    task = progress.start(f"{trt.__name__}: {phase_name.lower()}", num_steps)
                    self._tasks[phase_name] = (task, num_steps)

        def step_complete(self, phase_name: str, step: int) -> bool:
            with self._lock:
                if phase_name in self._tasks:
                    task, left = self._tasks[phase_name]
                    progress.advance(task)
                    self._tasks[phase_name] = (task, left - 1)
            return True

        def phase_finish(self, phase_name: str) -> None:
            with self._lock:
                task, left = self._tasks.pop(phase_name, (None, 0))
                if task is None:
                    return
                if left == 1:  # the library counts the last step as done with the phase
                    progress.advance(task)
                progress.stop(task)

        def finish(self) -> None:
            """Ends what a failed build left open."""
            for name in list(self._tasks):
                self.phase_finish(name)

    return Monitor()
