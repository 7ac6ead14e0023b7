#ifndef PSTMO_EDGE_RUNTIME_LIFTER_H_
#define PSTMO_EDGE_RUNTIME_LIFTER_H_

#include "pstmo_edge.h"

namespace pstmo_edge {

// What lifts windows, on a CPU or a GPU. All memory is taken when it is made. Not for use from two threads at once.
class Lifter {
 public:
  virtual ~Lifter() = default;

  // Windows (batch, frames, joints, 2) of normalised keypoints to poses (batch, joints, 3) in metres. Anything but OK
  // leaves its sentence in trouble().
  virtual pstmo_edge_status infer(const float* keypoints, int batch, float* poses) noexcept = 0;

  // Floats of what is kept of one frame, and what makes it of the frame (joints, 2).
  virtual int token_floats() const noexcept = 0;
  virtual void encode_frame(const float* keypoints, float* token) noexcept = 0;
  // The same as infer for windows given by the tokens of their frames, oldest first: (windows, frames) pointers.
  virtual pstmo_edge_status infer_tokens(const float* const* tokens, int windows, float* poses) noexcept = 0;

  virtual const char* isa() const noexcept = 0;  // of the kernels: "avx2", "sm_87"
  virtual int threads() const noexcept = 0;
  virtual const char* trouble() const noexcept = 0;
};

}  // namespace pstmo_edge

#endif  // PSTMO_EDGE_RUNTIME_LIFTER_H_
