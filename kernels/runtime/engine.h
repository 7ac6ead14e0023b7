#ifndef PSTMO_EDGE_RUNTIME_ENGINE_H_
#define PSTMO_EDGE_RUNTIME_ENGINE_H_

#include <memory>
#include <string>
#include <vector>

#include "../cpu/kernels.h"
#include "result.h"
#include "tensors.h"

namespace pstmo_edge {

// The network's measures, as in the manifest's model.config. Strides are those of models/p_stmo.py for the number of
// frames where none are given.
struct ModelConfig {
  int frames = 0;
  int layers = 3;
  int channels = 256;
  int hidden = 512;
  int heads = 8;
  int joints = 17;
  std::vector<int> strides;
  int target_index = 0;  // of the frame whose pose comes out; the arithmetic is the same for all
};

struct EngineOptions {
  int threads = 0;  // 0: as many as the machine has
  Isa isa = Isa::Auto;
};

// The published strides for a number of frames; empty where there are none.
std::vector<int> strides_of(int frames);

// Where one thread's time went, for the benchmark: by part of the network, see Engine::parts.
struct Profile {
  struct Part {
    int64_t nanoseconds = 0;
    double multiply_adds = 0;
    Format format = Format::Float;
  };
  std::vector<Part> parts;
};

// P-STMO and P-STMO-S (fused, see pstmo_edge/models/fused.py): windows of keypoints to poses.
//
// All memory is taken by create; the other calls take none and throw nothing. Results depend on the weights and the
// instruction set alone: not on the number of threads, nor on the windows beside a window, nor on whether its frames
// were encoded one by one. Not for use from two threads at once.
class Engine {
 public:
  // Packs the weights, which need not outlive the call. Errors: a tensor that is missing or has another shape or type,
  // measures that the kernels do not cover, an instruction set that this CPU lacks. Throws std::bad_alloc.
  static Result<std::unique_ptr<Engine>> create(const ModelConfig& config, const TensorTable& tensors,
                                                const EngineOptions& options);
  ~Engine();

  // Windows (batch, frames, joints, 2) of normalised keypoints to poses (batch, joints, 3) in metres.
  void infer(const float* keypoints, int batch, float* poses) noexcept;

  // Floats of one frame's token: what the spatial encoder makes of it.
  int token_floats() const;
  // One frame (joints, 2) to its token; the same bits as in infer.
  void encode_frame(const float* keypoints, float* token) noexcept;
  // The rest of the network on tokens, oldest first, to one pose; the same bits as infer.
  void infer_tokens(const float* const* tokens, float* pose) noexcept;

  const Kernels& kernels() const;
  int threads() const;
  size_t memory_bytes() const;
  // Names of the parts of a profile: layers as in the bundle, their attention, and what is neither.
  const std::vector<std::string>& parts() const;
  // Fills the profile (of as many parts) during the calls that follow, for the calling thread's share of the work;
  // nullptr: no longer.
  void set_profile(Profile* profile);

 private:
  class State;
  explicit Engine(std::unique_ptr<State> state);
  std::unique_ptr<State> state_;
};

}  // namespace pstmo_edge

#endif  // PSTMO_EDGE_RUNTIME_ENGINE_H_
