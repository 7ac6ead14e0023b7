#ifndef PSTMO_EDGE_RUNTIME_STREAM_H_
#define PSTMO_EDGE_RUNTIME_STREAM_H_

#include <cstdint>
#include <vector>

#include "clock.h"
#include "files.h"
#include "filling.h"
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

// One person's sliding window. What the lifter makes of every moment is kept in a ring, so that a frame is encoded
// once, and again where a joint that was missing in it is seen again; all is computed when poses are read. A window is
// filled from the frames up to its newest, whenever it is read. All memory is taken by the constructor. Not
// thread-safe. pstmo_edge/reference_stream.py is its twin.
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
    Frame frame = {};
    uint32_t missing = 0;
    uint32_t regained = 0;  // those of the missing that were seen again since
    bool filled = false;    // a joint or the whole frame was
    bool encoded = false;   // its token is that of the frame
    Returned returned;      // what the frames since the moment before tell of earlier ones

    void correct(const Returned& told);
  };

  // A moment whose pose is wanted, by the push that owns it, and the bounds of its sequence.
  struct Target {
    int64_t moment = 0;
    int64_t first = 0, last = kOpen;
    bool gap_before = false, gap_behind = false;
    uint64_t frame = 0;
  };

  bool rejects(double time) const;
  void start(const Moment& here);
  int advance(const Moment& here);
  void store(const Moment& moment);
  void want(uint64_t frame);
  void cut(bool gap);
  bool is_ready(const Target& target) const;
  void describe(const Target& target, pstmo_edge_pose& pose) const;
  void tell(int64_t first, int64_t last);
  const float* encoded(int64_t moment);
  float* token(int64_t moment) { return ring_floats_ + static_cast<size_t>(moment % capacity_) * token_floats_; }
  Target& pending(int64_t i) { return targets_[static_cast<size_t>((oldest_ + i) % capacity_)]; }
  Moment& moment(int64_t i) { return moments_[static_cast<size_t>(i % capacity_)]; }
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
  double last_time_ = 0;  // of the last frame that was not rejected
  double last_seen_ = 0;  // of the last frame with a measured joint
  Moment previous_;       // the frame before
  Returned returned_;     // told since the newest moment
  int64_t told_ = -1;     // the moment up to which the returned have corrected the earlier ones
  pstmo_edge_stream_counters counters_ = {};
};

}  // namespace pstmo_edge

#endif  // PSTMO_EDGE_RUNTIME_STREAM_H_
