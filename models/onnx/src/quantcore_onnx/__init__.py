"""Model plugin for float ONNX detectors that already exist."""

from quantcore_onnx.plugin import OnnxOptions, OnnxPlugin

__all__ = ["OnnxOptions", "OnnxPlugin"]
