"""What a build with TensorRT can be told."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from quantcore.contracts.engine import EngineOptions
from quantcore.contracts.options import option


@dataclass(frozen=True, kw_only=True)
class TensorRtOptions(EngineOptions):
    """How a plan is built.

    Attributes:
        target: GPU generation by the library's own name (`SM86`); None for what it takes itself.
        timing_cache: File in which the library keeps what it learnt of kernels.
        cuda_graphs: Whether runs are recorded as CUDA graphs, where the CUDA library can.
    """

    target: str | None = option(
        None, "GPU generation to build for (tensorrt_rtx): SM75, SM86, SM120, ..."
    )
    timing_cache: Path | None = option(
        None, "File that keeps kernel timings between builds (tensorrt)."
    )
    cuda_graphs: bool = option(True, "Record runs as CUDA graphs (cuda-python).")
