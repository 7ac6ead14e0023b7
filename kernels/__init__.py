"""What is fast: each op beside its reference, and the native library behind `pstmo_edge.kernels.native`."""
