// The kernel of single_window.h. Launched cooperatively, one block on each multiprocessor.
#include "single_window.h"

namespace pstmo_edge {
namespace cuda {
namespace {

constexpr int kThreads = 256;

// Waits until every block has come here. The top bit of the counter turns over once all have, and the counter is then
// what it was before, so that the next launch finds it so.
__device__ __forceinline__ void wait_for_all(unsigned* counter) {
  __syncthreads();
  if (threadIdx.x == 0) {
    constexpr unsigned kTop = 0x80000000U;
    __threadfence();
    const unsigned before = atomicAdd(counter, blockIdx.x == 0 ? kTop - (gridDim.x - 1) : 1U);
    while (((before ^ *static_cast<volatile unsigned*>(counter)) & kTop) == 0) {
    }
    __threadfence();
  }
  __syncthreads();
}

}  // namespace
}  // namespace cuda
}  // namespace pstmo_edge

// P-STMO and P-STMO-S: 256 channels, 512 hidden, 8 heads.
extern "C" __global__ void __launch_bounds__(256, 1)
    single_window(pstmo_edge::cuda::Network* network, const float* keypoints, float* poses, void* workspace) {
  using namespace pstmo_edge::cuda;
  const SingleWindow<256, 512, 8> window(network, keypoints, poses, workspace);
  const int warps = kThreads / 32, warp = static_cast<int>(threadIdx.x) / 32;
  // Neighbouring tiles go to different blocks, so that a stage of few tiles keeps all multiprocessors busy.
  const Worker worker = {warp * static_cast<int>(gridDim.x) + static_cast<int>(blockIdx.x),
                         warps * static_cast<int>(gridDim.x)};
  window.run(worker, [network] { wait_for_all(reinterpret_cast<unsigned*>(&network->barrier)); });
}
