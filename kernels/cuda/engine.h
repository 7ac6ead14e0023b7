#ifndef PSTMO_EDGE_CUDA_ENGINE_H_
#define PSTMO_EDGE_CUDA_ENGINE_H_

#include <memory>

#include "../runtime/bundle.h"
#include "../runtime/lifter.h"
#include "../runtime/result.h"

namespace pstmo_edge {
namespace cuda {

struct Options {
  int ordinal = 0;               // of the GPU, as the driver counts
  int max_batch = 0;             // windows of one launch at most; 0: kDefaultBatch, or what the plan allows
  const char* driver = nullptr;  // the driver's library; nullptr: the system's
};

constexpr int kDefaultBatch = 64;

// A bundle's GPU kernels on a GPU: what is opened is `lifter`, and the bundle's manifest.
struct Opened {
  Manifest manifest;
  std::unique_ptr<Lifter> lifter;
};

// Reads and verifies the bundle, loads its cubins for this GPU, uploads the weights, takes memory for `max_batch`
// windows, runs every launch once and captures it with its copies in one CUDA graph for 1, 2, 4 .. and max_batch
// windows. A call with another number of windows is cut into such pieces, the largest first, so that nothing is taken
// or compiled after this. Poses depend on the size of their piece by rounding alone: kernels for few and for many
// tokens add in another order.
//
// Errors, each of which leaves nothing behind: no driver, one too old for the cubins, no such GPU, no kernels for it in
// the bundle, a damaged plan or cubin, memory that runs out.
Result<Opened> open(const char* path, const Options& options);

}  // namespace cuda
}  // namespace pstmo_edge

#endif  // PSTMO_EDGE_CUDA_ENGINE_H_
