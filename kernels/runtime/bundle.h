#ifndef PSTMO_EDGE_RUNTIME_BUNDLE_H_
#define PSTMO_EDGE_RUNTIME_BUNDLE_H_

#include <string>
#include <string_view>
#include <utility>
#include <vector>

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
  std::vector<std::pair<std::string, Bytes>> others;  // the files that were asked for besides

  // One of the others, or nullptr where the bundle has none of that name.
  const Bytes* find(std::string_view name) const;
};

// Read and verify the bundle in folder `path`: the manifest, and size and SHA-256 of every file it lists. The weights
// and the files named in `others` are kept.
Result<Bundle> open_bundle(const char* path, const std::vector<std::string>& others = {});

// Success where a CPU can run it. Any can: the kernels' sums are exact whatever the weights' bits and the instruction
// set, so a CPU feature that the target names is what it is fast with, and none that it needs. What is no CPU's is
// refused.
Outcome check_target(const Manifest& manifest);

}  // namespace pstmo_edge

#endif  // PSTMO_EDGE_RUNTIME_BUNDLE_H_
