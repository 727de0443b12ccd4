"""Model plugin for float ONNX detectors that already exist."""

from quantcore_onnx.plugin import OnnxPlugin

__all__ = ["OnnxPlugin"]
