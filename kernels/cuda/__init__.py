"""The CUDA engine of libpstmo_edge (C++), and what compiles its own kernel."""
