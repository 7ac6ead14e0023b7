# The compute core: the engine, and its kernels, one file an instruction set. What a CPU has is decided when an engine
# is opened, so each file gets its own flags and everything else keeps the compiler's baseline.
target_sources(
  pstmo_edge_objects
  PRIVATE kernels/cpu/dispatch.cc
          kernels/cpu/portable.cc
          kernels/cpu/avx2.cc
          kernels/cpu/avx512.cc
          kernels/cpu/neon.cc
          kernels/cpu/neon_dotprod.cc
          kernels/runtime/engine.cc
          kernels/runtime/forward.cc
          kernels/runtime/network.cc
          kernels/runtime/probe.cc
          kernels/runtime/thread_pool.cc)

set(kernel_files portable avx2 avx512 neon neon_dotprod)
list(TRANSFORM kernel_files PREPEND kernels/cpu/)
list(TRANSFORM kernel_files APPEND .cc)
# Multiply-adds are fused where the source says so and nowhere else: results depend on the instruction set alone.
set_property(SOURCE ${kernel_files} APPEND PROPERTY COMPILE_OPTIONS -ffp-contract=off)
if(CMAKE_SYSTEM_PROCESSOR MATCHES "^(x86_64|AMD64|amd64)$")
  set_property(SOURCE kernels/cpu/avx2.cc APPEND PROPERTY COMPILE_OPTIONS -mavx2 -mfma)
  set_property(
    SOURCE kernels/cpu/avx512.cc
    APPEND
    PROPERTY COMPILE_OPTIONS -mavx2 -mfma -mavx512f -mavx512bw -mavx512vl -mavx512vnni)
elseif(CMAKE_SYSTEM_PROCESSOR MATCHES "^(aarch64|arm64|ARM64)$")
  set_property(SOURCE kernels/cpu/neon_dotprod.cc APPEND PROPERTY COMPILE_OPTIONS -march=armv8.2-a+dotprod)
endif()
