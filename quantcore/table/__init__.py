"""Calibration tables, and what they keep of histograms."""
