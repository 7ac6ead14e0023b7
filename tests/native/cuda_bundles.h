#ifndef PSTMO_EDGE_TESTS_NATIVE_CUDA_BUNDLES_H_
#define PSTMO_EDGE_TESTS_NATIVE_CUDA_BUNDLES_H_

#include <cstdint>
#include <string>
#include <vector>

#include "bundles.h"

// GPU kernels for bundles of random weights: launch plans as kernels/triton/plan.py writes them, in float32, with what
// the stand-in for the driver takes for cubins.

namespace pstmo_edge {
namespace testing {

struct CudaFiles {
  std::string weights;  // gpu-weights.safetensors
  std::string plan;     // JSON
  Files cubins;         // by kernel
};

// For the chip sm_87. `single`: with a kernel for one window, which only a stand-in that does not compute can run.
CudaFiles cuda_files_of(const BundleSpec& spec, bool single = false);

// The text as the only section of an ELF file for NVIDIA's GPUs.
std::string cubin_of(const std::string& text);

// The bytes of gpu-sm_87.safetensors.
std::string pack_cubins(const Files& cubins);

// `text` with the first `from` in it replaced; ends the program where there is none.
std::string replaced(const std::string& text, const std::string& from, const std::string& to);

// The bundle of `spec` with these files and right digests.
void write_cuda_bundle(const std::string& folder, const BundleSpec& spec, const CudaFiles& files);

}  // namespace testing
}  // namespace pstmo_edge

#endif  // PSTMO_EDGE_TESTS_NATIVE_CUDA_BUNDLES_H_
