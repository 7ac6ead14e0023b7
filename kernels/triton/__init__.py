"""P-STMO on a GPU: four fused kernels in Triton, each beside its reference in plain torch.

Nothing here is loaded by `import pstmo_edge`. `reference` defines the ops, `device` holds the kernels, `launch` runs
them, `ops` registers both with torch, `tuning` holds the tile sizes, `lifter` is the network made of the ops, and `aot`
compiles everything for GPUs that are not here.
"""
