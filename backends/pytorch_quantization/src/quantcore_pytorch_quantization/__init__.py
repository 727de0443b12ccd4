"""NVIDIA pytorch-quantization as a quantcore backend."""
