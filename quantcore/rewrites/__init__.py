"""The rewrites that quantcore ships: float graph to float graph, easier to quantize."""
