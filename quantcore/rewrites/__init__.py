"""Rewrites of the float graph that leave its results alone and make it easier to quantize."""
