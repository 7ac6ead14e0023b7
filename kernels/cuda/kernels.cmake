# The CUDA engine. It is built everywhere and needs no toolkit: it finds the driver when it is asked for.
target_sources(
  pstmo_edge_objects
  PRIVATE kernels/cuda/cubin.cc
          kernels/cuda/driver.cc
          kernels/cuda/engine.cc
          kernels/cuda/lifter.cc
          kernels/cuda/plan.cc
          kernels/cuda/resources.cc)
