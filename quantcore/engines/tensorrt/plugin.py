"""The engine plugin; imports TensorRT only when it is used."""

from __future__ import annotations

from collections.abc import Mapping

import onnx

from quantcore.contracts.engine import (
    Engine,
    EngineLayer,
    EngineOptions,
    EnginePlugin,
    Surroundings,
)
from quantcore.contracts.plans import Built
from quantcore.engines.tensorrt import cuda
from quantcore.engines.tensorrt.options import TensorRtOptions
from quantcore.errors import EngineError
from quantcore.runtime.progress import Progress, Silent


class TensorRtEngine(EnginePlugin):
    """Builds with `tensorrt` (8.6 and later) or `tensorrt_rtx`; runs where there is a GPU."""

    builds_ahead = True
    options = TensorRtOptions

    def versions(self) -> Mapping[str, str]:
        """See EnginePlugin."""
        from quantcore.engines.tensorrt.library import trt

        return {trt.__name__: str(trt.__version__)}

    def _build(self, proto: onnx.ModelProto, options: EngineOptions) -> Engine:
        """Without a GPU this is refused before any time is spent."""
        from quantcore.engines.tensorrt.builder import build_plan
        from quantcore.engines.tensorrt.session import TensorRtSession

        driver = self._driver("a graph")
        own = TensorRtOptions.of(options)
        return TensorRtSession(build_plan(proto, own, Silent()), driver, own.cuda_graphs)

    def _load(self, content: bytes, options: EngineOptions) -> Engine:
        from quantcore.engines.tensorrt.session import TensorRtSession

        graphs = TensorRtOptions.of(options).cuda_graphs
        return TensorRtSession(content, self._driver("a plan"), graphs)

    def _driver(self, what: str) -> cuda.Driver:
        """CUDA with a GPU; raises EngineError where there is none."""
        from quantcore.engines.tensorrt.library import trt

        driver, reason = cuda.driver(), self.cannot_run()
        if isinstance(driver, cuda.NoGpu) or reason is not None:
            raise EngineError(
                f"{trt.__name__} {trt.__version__} cannot run {what} here: {reason}; "
                f"`quantcore build GRAPH --engine {self.name} --out FILE` builds it ahead of time"
            )
        return driver

    def cannot_run(self) -> str | None:
        """See EnginePlugin."""
        gpu = cuda.gpu()
        return gpu.reason if isinstance(gpu, cuda.NoGpu) else None

    def inspect(self, proto: onnx.ModelProto, options: EngineOptions) -> list[EngineLayer]:
        """See EnginePlugin; without a GPU the graph is built all the same, and nothing claimed."""
        self.check(options)
        return list(self._build_ahead(proto, options, Silent()).layers)

    def explain(self, where: Surroundings) -> str:
        """See EnginePlugin; TensorRT takes whichever kernel its timing found fastest."""
        if where.bias == "integer":
            return "the bias is quantized, which TensorRT does not fuse; leave it float"
        if min(where.channels_in, where.channels_out) < 16:
            return (
                f"{where.channels_in} to {where.channels_out} channels: below 16 INT8 kernels "
                "are rarely the fastest"
            )
        if where.groups > 1:
            return f"{where.groups} groups: grouped convolutions have few INT8 kernels"
        return "the library timed a float kernel as the fastest, or has none in INT8 here"

    def _build_ahead(
        self, proto: onnx.ModelProto, options: EngineOptions, progress: Progress
    ) -> Built:
        from quantcore.engines.tensorrt.builder import build_plan
        from quantcore.engines.tensorrt.session import TensorRtSession

        own = TensorRtOptions.of(options)
        plan = build_plan(proto, own, progress)
        gpu = cuda.gpu()
        if isinstance(gpu, cuda.NoGpu):
            # A plan that builds proves nothing about the kernels in it: no layers are claimed.
            where = own.target or "the library's default set of GPUs"
            return Built(plan, f"built for {where}, without a GPU")
        if own.target not in (None, "CURRENT"):
            return Built(plan, f"built for {own.target} on {gpu.name}")
        with TensorRtSession(plan, self._driver("a plan")) as session:
            return Built(plan, gpu.name, tuple(session.layers()))
