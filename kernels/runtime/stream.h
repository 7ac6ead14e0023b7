#ifndef PSTMO_EDGE_RUNTIME_STREAM_H_
#define PSTMO_EDGE_RUNTIME_STREAM_H_

#include <array>
#include <cstdint>
#include <vector>

#include "clock.h"
#include "files.h"
#include "lifter.h"
#include "manifest.h"
#include "pstmo_edge.h"

namespace pstmo_edge {

// What a stream is created with, checked.
struct StreamSettings {
  int image_width = 0;
  int image_height = 0;
  int lookahead = 0;  // slots of the window
  double fps = 30;
  double max_gap = 0.5;
  float min_confidence = 0;
  int backlog = 8;
};

using Frame = std::array<float, PSTMO_EDGE_JOINTS * 2>;

// Pixels of one frame to screen coordinates, with missing joints held on the body where they were last seen.
class Holder {
 public:
  Holder(int image_width, int image_height, float min_confidence);
  void forget() { seen_ = measured_ = 0, last_ = {}; }
  // Fill `frame` from x, y and confidence of 17 joints; returns the mask of missing joints.
  uint32_t fill(const float* keypoints, Frame& frame);
  static constexpr uint32_t kAll = (1u << PSTMO_EDGE_JOINTS) - 1;

 private:
  void move_with_body(const Frame& points, uint32_t both);
  void place_unseen(uint32_t measured);

  float width_, shift_, min_confidence_;
  uint32_t seen_ = 0;      // joints measured since the sequence began
  uint32_t measured_ = 0;  // joints measured in the frame before
  Frame last_ = {};
};

// One person's sliding window. What the lifter makes of every moment is kept in a ring, so that a frame is encoded
// once; poses are computed when they are read. All memory is taken by the constructor. Not thread-safe.
class Stream {
 public:
  Stream(Lifter& lifter, const Manifest& manifest, const StreamSettings& settings);

  // OK, or TIMESTAMP_REJECTED.
  pstmo_edge_status push(const float* keypoints, double time);
  void finish() { cut(false); }
  // OK, NO_RESULT, NOT_FINITE (and the frame is counted as dropped), or what the lifter failed with (and it still
  // waits).
  pstmo_edge_status read(pstmo_edge_pose& pose);
  // The two halves of read, between which many streams' windows are lifted at once: the tokens of the oldest pose that
  // is ready to `window` (one for each frame) and what is known of it to `pose`, or NO_RESULT; then, once its joints
  // are there, the end of it: OK or NOT_FINITE.
  pstmo_edge_status prepare(const float** window, pstmo_edge_pose& pose);
  pstmo_edge_status take(const pstmo_edge_pose& pose);
  pstmo_edge_stream_counters counters() const;

 private:
  static constexpr int64_t kOpen = INT64_MAX;

  // What is known of a moment besides its token.
  struct Moment {
    double time = 0;
    uint32_t missing = 0;
    bool filled = false;  // a joint or the whole frame was
  };

  // A moment whose pose is wanted, by the push that owns it, and the bounds of its sequence.
  struct Target {
    int64_t moment = 0;
    int64_t first = 0, last = kOpen;
    bool gap_before = false, gap_behind = false;
    uint64_t frame = 0;
  };

  bool rejects(double time) const;
  void start(double time, const Frame& frame, uint32_t missing);
  int advance(double time, const Frame& frame, uint32_t missing);
  void store(const Frame& frame, const Moment& moment);
  void want(uint64_t frame);
  void cut(bool gap);
  bool is_ready(const Target& target) const;
  void describe(const Target& target, pstmo_edge_pose& pose) const;
  float* token(int64_t moment) { return ring_floats_ + static_cast<size_t>(moment % capacity_) * token_floats_; }
  Target& pending(int64_t i) { return targets_[static_cast<size_t>((oldest_ + i) % capacity_)]; }
  const Moment& moment(int64_t i) const { return moments_[static_cast<size_t>(i % capacity_)]; }

  Lifter& lifter_;
  Clock clock_;
  Holder holder_;
  const int frames_;      // slots of the window
  const int64_t behind_;  // moments of the window before its target
  const int64_t ahead_;   // moments that a pose waits for
  const int64_t slack_;   // moments that a ready pose stays readable
  const int64_t capacity_;
  const double max_gap_, late_after_;

  size_t token_floats_;
  Bytes ring_;
  float* ring_floats_;
  std::vector<Moment> moments_;
  std::vector<Target> targets_;
  std::vector<const float*> window_;

  int64_t newest_ = -1;             // the last moment stored; moments are counted on over all sequences
  int64_t oldest_ = 0, count_ = 0;  // the pending targets in targets_
  bool running_ = false;            // a sequence has begun and is not cut
  int64_t first_ = 0;               // its first moment
  bool gap_before_ = false;         // a gap ended the sequence before it
  bool any_time_ = false;
  double last_time_ = 0;      // of the last frame that was not rejected
  double last_seen_ = 0;      // of the last frame with a measured joint
  double previous_time_ = 0;  // of the frame before, with what was made of it
  Frame previous_ = {};
  uint32_t previous_missing_ = 0;
  pstmo_edge_stream_counters counters_ = {};
};

}  // namespace pstmo_edge

#endif  // PSTMO_EDGE_RUNTIME_STREAM_H_
