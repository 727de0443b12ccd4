"""NVIDIA Model Optimizer's ONNX calibrators as a quantcore backend."""
