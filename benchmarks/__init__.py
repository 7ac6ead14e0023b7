"""Benchmarks: what an engine costs, in milliseconds and millimetres."""
