#include <array>
#include <cstring>
#include <string>

#include "../../kernels/cuda/single_window.h"
#include "standin_ops.h"

namespace pstmo_edge {
namespace standin {
namespace {

constexpr int kWarps = 8;
using Pose = std::array<float, cuda::kOutputs>;

template <typename Window>
Pose lift(const Call& call, int workers) {
  const auto pointer = [&](size_t i) {
    return reinterpret_cast<void*>(static_cast<uintptr_t>(call.values[i].address));
  };
  const auto* const network = static_cast<const cuda::Network*>(pointer(0));
  std::memset(pointer(3), 0xff, static_cast<size_t>(Window::workspace_bytes(network->frames)));
  Pose pose;
  const Window window(network, static_cast<const float*>(pointer(1)), pose.data(), pointer(3));
  for (int stage = 0; stage < window.stages(); ++stage) {
    for (int worker = workers - 1; worker >= 0; --worker) window.run_stage(stage, {worker, workers});
  }
  for (int worker = 0; worker < workers; ++worker) window.head({worker, workers});
  std::memcpy(pointer(2), pose.data(), sizeof pose);
  return pose;
}

}  // namespace

std::string lift_one(const Call& call) {
  using Window = cuda::SingleWindow<256, 512, 8>;
  const auto* const network = reinterpret_cast<const cuda::Network*>(static_cast<uintptr_t>(call.values[0].address));
  const size_t slots = sizeof(cuda::Network) + static_cast<size_t>(network->layer_count) * sizeof(cuda::Layer);
  if (call.values[0].elements < slots || network->barrier != 0) return "its network is not what it reads";
  if (call.values[3].elements < static_cast<size_t>(Window::workspace_bytes(network->frames))) {
    return "its workspace is too small";
  }
  const Pose alone = lift<Window>(call, 1), together = lift<Window>(call, kWarps * static_cast<int>(call.grid[0]));
  const bool same = std::memcmp(alone.data(), together.data(), sizeof alone) == 0;
  return same ? "" : "the pose depends on which warp takes which tile";
}

}  // namespace standin
}  // namespace pstmo_edge
