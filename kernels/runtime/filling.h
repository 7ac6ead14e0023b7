#ifndef PSTMO_EDGE_RUNTIME_FILLING_H_
#define PSTMO_EDGE_RUNTIME_FILLING_H_

#include <array>
#include <cstddef>
#include <cstdint>

#include "pstmo_edge.h"

namespace pstmo_edge {

using Frame = std::array<float, PSTMO_EDGE_JOINTS * 2>;
constexpr uint32_t kAllJoints = (1u << PSTMO_EDGE_JOINTS) - 1;

inline bool has(uint32_t joints, size_t j) { return (joints >> j & 1) != 0; }

// Joints that are seen again, and what that tells of the frames in which they were held: when each was last seen before
// (-infinity: never), when it was seen again, and how far that was from where it would have been held.
struct Returned {
  uint32_t joints = 0;
  std::array<double, PSTMO_EDGE_JOINTS> since = {}, until = {};
  std::array<double, PSTMO_EDGE_JOINTS * 2> off = {};

  // Nothing that was filled at this time or before is told of.
  double earliest() const;
  // Interpolates these joints of a frame that was filled at `time`, and returns which they are: a joint that moved with
  // the body from its last sighting passes to where the next one has it, moved with the body back, at even pace.
  uint32_t correct(double time, Frame& frame) const;
  // Adds those that are told of here and not there. A joint is told of once between two moments: whatever it did after
  // that concerns no moment before.
  void add(const Returned& later);
};

// Pixels of one frame to screen coordinates, with missing joints held on the body where they were last seen.
// pstmo_edge/filling.py has the same arithmetic in the same order; results are equal bit for bit.
class Holder {
 public:
  Holder(int image_width, int image_height, float min_confidence);
  void forget();
  // Fill `frame` from x, y and confidence of 17 joints; returns the mask of missing joints. `returned` is renewed, with
  // no joints where none is seen again.
  uint32_t fill(const float* keypoints, double time, Frame& frame, Returned& returned);

 private:
  uint32_t measure(const float* keypoints, Frame& points) const;
  void move_with_body(const Frame& points, uint32_t both);
  void tell(const Frame& points, uint32_t again, double time, Returned& returned) const;
  void place_unseen(uint32_t measured);

  float width_, shift_, min_confidence_;
  uint32_t seen_ = 0;      // joints measured since the sequence began
  uint32_t measured_ = 0;  // joints measured in the frame before
  std::array<double, PSTMO_EDGE_JOINTS> seen_at_;
  Frame last_ = {};
};

}  // namespace pstmo_edge

#endif  // PSTMO_EDGE_RUNTIME_FILLING_H_
