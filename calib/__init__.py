"""Calibration: from real motion to the ranges and precisions of a quantized graph."""
