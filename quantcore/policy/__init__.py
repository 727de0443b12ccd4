"""What to calibrate and how: policies, how one tensor is observed, placement profiles."""
