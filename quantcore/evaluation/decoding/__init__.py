"""Ways from raw network outputs to boxes, one kind a file; found by `quantcore.decodings`."""
