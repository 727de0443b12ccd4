"""quantcore: one model, one calibration policy, any quantization framework."""

__version__ = "0.1.0"
