"""Whether a calibration policy, and a calibrated table, means the same in every framework."""
