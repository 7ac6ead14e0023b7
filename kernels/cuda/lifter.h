#ifndef PSTMO_EDGE_CUDA_LIFTER_H_
#define PSTMO_EDGE_CUDA_LIFTER_H_

#include <string>
#include <vector>

#include "../runtime/lifter.h"
#include "../runtime/tensors.h"
#include "plan.h"
#include "resources.h"

namespace pstmo_edge {
namespace cuda {

// A plan's kernels on one GPU, with their memory, weights and graphs. One stream: what one engine is asked for comes
// one after the other, and engines beside each other have streams of their own.
class CudaLifter final : public Lifter {
 public:
  CudaLifter(const Driver& driver, Gpu gpu, Plan plan, int frames, int max_batch);

  // Everything that `open` promises; false with the failure in `resources`. The tables that the plan was parsed with
  // are read here for the last time.
  bool prepare(const TensorTable& weights);

  pstmo_edge_status infer(const float* keypoints, int batch, float* poses) noexcept override;
  // A frame's token is the frame: the GPU encodes a whole window faster than it is asked to do part of it.
  int token_floats() const noexcept override;
  void encode_frame(const float* keypoints, float* token) noexcept override;
  pstmo_edge_status infer_tokens(const float* const* tokens, int windows, float* poses) noexcept override;

  const char* isa() const noexcept override { return chip_.c_str(); }
  int threads() const noexcept override { return 1; }
  const char* trouble() const noexcept override { return trouble_; }
  const Resources& resources() const { return resources_; }

 private:
  // One graph for so many windows, copies included.
  struct Captured {
    int windows = 0;
    GraphExecHandle* graph = nullptr;
  };

  const Driver& driver() const { return resources_.driver(); }
  bool check(const char* function, Code code) { return resources_.check(function, code); }
  size_t window_floats() const;

  bool load_kernels();
  bool load(const Kernel& kernel, FunctionHandle** function);
  bool upload(const TensorTable& weights);
  bool take_buffers();
  bool prepare_single();
  bool capture_all();
  bool capture(int windows) noexcept;

  bool run(int windows) noexcept;
  bool launch_all(int windows) noexcept;
  bool launch(const Launch& from, int windows) noexcept;
  bool launch_single() noexcept;

  template <typename Fill>
  pstmo_edge_status lift(int windows, float* poses, Fill fill) noexcept;
  const Captured& piece_for(int windows) const;
  bool replay(const Captured& piece);
  pstmo_edge_status failed() noexcept;

  Resources resources_;
  Gpu gpu_;
  std::string chip_;
  Plan plan_;
  int frames_, max_batch_;
  std::vector<FunctionHandle*> functions_;
  FunctionHandle* single_ = nullptr;
  Address network_ = 0, workspace_ = 0;  // of the kernel for one window
  std::vector<Address> weights_, buffers_;
  std::vector<Captured> captured_;  // the largest first
  float *host_keypoints_ = nullptr, *host_poses_ = nullptr;
  char trouble_[256] = "";
};

}  // namespace cuda
}  // namespace pstmo_edge

#endif  // PSTMO_EDGE_CUDA_LIFTER_H_
