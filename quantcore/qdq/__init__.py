"""Q/DQ placement, scales and insertion: one set of rules for every backend."""
