"""TensorRT and TensorRT for RTX as one engine, driven by what the installed library has."""

from quantcore.engines.tensorrt.plugin import TensorRtEngine

__all__ = ["TensorRtEngine"]
