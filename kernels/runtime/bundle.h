#ifndef PSTMO_EDGE_RUNTIME_BUNDLE_H_
#define PSTMO_EDGE_RUNTIME_BUNDLE_H_

#include "files.h"
#include "manifest.h"
#include "result.h"

namespace pstmo_edge {

constexpr size_t kMaxWeightBytes = 256u << 20;  // the largest model of the zoo has 30 MB
constexpr std::string_view kWeightsName = "weights.safetensors";

// A verified bundle in memory; nothing of it is read from disk again.
struct Bundle {
  Manifest manifest;
  Bytes weights;
};

// Read and verify the bundle in folder `path`: the manifest, and size and SHA-256 of every file it lists.
Result<Bundle> open_bundle(const char* path);

// Success where a CPU with these features (bits of pstmo_edge_cpu_feature) can run it: as pstmo_edge/targets.py
// decides, weights of 7 bits or fewer run everywhere, others where all that the target requires is there, or sums
// cannot overflow.
Outcome check_target(const Manifest& manifest, uint64_t features);

}  // namespace pstmo_edge

#endif  // PSTMO_EDGE_RUNTIME_BUNDLE_H_
