"""ONNX Runtime's static-quantization calibrators as a quantcore backend."""
