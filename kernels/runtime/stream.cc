#include "stream.h"

#include <algorithm>
#include <cmath>
#include <limits>

namespace pstmo_edge {
namespace {

constexpr double kLongestTime = 1e10;  // seconds; beyond it a double no longer tells microseconds apart
constexpr double kLateFrames = 1.5;    // frames without one: what lies between was not measured
constexpr float kFarthest = 1000.0f;   // image widths from the picture; far below what could overflow in the network
constexpr int kBody = 4;               // joints that tell how a body moves
constexpr size_t kLine = 64 / sizeof(float);

int64_t longest_hole(double max_gap, double period) { return static_cast<int64_t>(std::ceil(max_gap / period)) + 1; }

size_t padded(int floats) { return (static_cast<size_t>(floats) + kLine - 1) / kLine * kLine; }

bool is_finite(const pstmo_edge_pose& pose) {
  const float* values = &pose.joints[0][0];
  return std::all_of(values, values + PSTMO_EDGE_JOINTS * 3, [](float value) { return std::isfinite(value); });
}

}  // namespace

Holder::Holder(int image_width, int image_height, float min_confidence)
    : width_(static_cast<float>(image_width)),
      shift_(static_cast<float>(static_cast<double>(image_height) / image_width)),
      min_confidence_(min_confidence) {}

uint32_t Holder::fill(const float* keypoints, Frame& frame) {
  Frame points;
  uint32_t measured = 0;
  for (uint32_t j = 0; j < PSTMO_EDGE_JOINTS; ++j) {
    const float x = keypoints[3 * j] / width_ * 2.0f - 1.0f, y = keypoints[3 * j + 1] / width_ * 2.0f - shift_;
    const float confidence = keypoints[3 * j + 2];
    const bool trusted = confidence >= min_confidence_ && confidence <= std::numeric_limits<float>::max();
    points[2 * j] = x, points[2 * j + 1] = y;
    if (trusted && std::fabs(x) <= kFarthest && std::fabs(y) <= kFarthest) measured |= 1u << j;  // false for NaN
  }
  if (measured != kAll) move_with_body(points, measured & measured_);
  for (uint32_t j = 0; j < PSTMO_EDGE_JOINTS; ++j) {
    if ((measured >> j & 1) != 0) last_[2 * j] = points[2 * j], last_[2 * j + 1] = points[2 * j + 1];
  }
  seen_ |= measured;
  measured_ = measured;
  if (measured != 0 && seen_ != kAll) place_unseen(measured);
  frame = last_;
  return ~measured & kAll;
}

// Held joints move as the joints do, on the mean, that were measured in this frame and the last.
void Holder::move_with_body(const Frame& points, uint32_t both) {
  double sum_x = 0, sum_y = 0;
  int count = 0;
  for (uint32_t j = 0; j < PSTMO_EDGE_JOINTS; ++j) {
    if ((both >> j & 1) == 0) continue;
    sum_x += static_cast<double>(points[2 * j]) - last_[2 * j];
    sum_y += static_cast<double>(points[2 * j + 1]) - last_[2 * j + 1];
    ++count;
  }
  if (count < kBody) return;
  const float shift_x = static_cast<float>(sum_x / count), shift_y = static_cast<float>(sum_y / count);
  for (uint32_t j = 0; j < PSTMO_EDGE_JOINTS; ++j) last_[2 * j] += shift_x, last_[2 * j + 1] += shift_y;
}

// Joints that were never seen are put at the mean of those measured now.
void Holder::place_unseen(uint32_t measured) {
  double sum_x = 0, sum_y = 0;
  int count = 0;
  for (uint32_t j = 0; j < PSTMO_EDGE_JOINTS; ++j) {
    if ((measured >> j & 1) == 0) continue;
    sum_x += last_[2 * j], sum_y += last_[2 * j + 1];
    ++count;
  }
  for (uint32_t j = 0; j < PSTMO_EDGE_JOINTS; ++j) {
    if ((seen_ >> j & 1) != 0) continue;
    last_[2 * j] = static_cast<float>(sum_x / count), last_[2 * j + 1] = static_cast<float>(sum_y / count);
  }
}

Stream::Stream(Lifter& lifter, const Manifest& manifest, const StreamSettings& settings)
    : lifter_(lifter),
      clock_(manifest.frame_rate, manifest.t_downsample, settings.fps),
      holder_(settings.image_width, settings.image_height, settings.min_confidence),
      frames_(manifest.frames),
      behind_(int64_t{manifest.target_index} * clock_.steps()),
      ahead_(int64_t{settings.lookahead} * clock_.steps()),
      slack_(settings.backlog + longest_hole(settings.max_gap, clock_.period())),
      capacity_(behind_ + ahead_ + slack_ + 1),
      max_gap_(settings.max_gap),
      late_after_(kLateFrames / settings.fps),
      token_floats_(padded(lifter.token_floats())),
      ring_(static_cast<size_t>(capacity_) * token_floats_ * sizeof(float)),
      ring_floats_(reinterpret_cast<float*>(ring_.data())),
      moments_(static_cast<size_t>(capacity_)),
      targets_(static_cast<size_t>(capacity_)),
      window_(static_cast<size_t>(frames_)) {}

bool Stream::rejects(double time) const {
  if (!(std::fabs(time) <= kLongestTime)) return true;  // true for NaN
  return any_time_ && time <= last_time_ && last_time_ - time <= max_gap_;
}

pstmo_edge_status Stream::push(const float* keypoints, double time) {
  const uint64_t frame_number = counters_.received++;
  if (rejects(time)) {
    ++counters_.rejected;
    return PSTMO_EDGE_STATUS_TIMESTAMP_REJECTED;
  }
  const bool set_back = any_time_ && time <= last_time_;
  if (running_ && (set_back || time - last_seen_ > max_gap_)) cut(true);
  any_time_ = true;
  last_time_ = time;

  Frame frame;
  if (!running_) holder_.forget();
  const uint32_t missing = holder_.fill(keypoints, frame);
  if (missing != Holder::kAll) last_seen_ = time;
  int made = 0;
  if (running_) {
    made = advance(time, frame, missing);
  } else if (missing != Holder::kAll) {
    start(time, frame, missing);
    made = 1;
  } else {
    ++counters_.dropped_empty;
    return PSTMO_EDGE_STATUS_OK;
  }
  previous_ = frame, previous_missing_ = missing, previous_time_ = time;
  if (made > 0) {
    want(frame_number);
  } else {
    ++counters_.dropped_by_rate;
  }
  return PSTMO_EDGE_STATUS_OK;
}

void Stream::start(double time, const Frame& frame, uint32_t missing) {
  running_ = true;
  first_ = newest_ + 1;
  clock_.start(time);
  store(frame, {time, missing, missing != 0});
}

// Store the moments up to a frame, interpolated between the frame before and this one; returns how many they are.
int Stream::advance(double time, const Frame& frame, uint32_t missing) {
  const bool late = time - previous_time_ > late_after_;
  int made = 0;
  for (; clock_.reaches(time); ++made) {
    const double moment = clock_.moment();
    if (clock_.is_at(time)) {
      store(frame, {time, missing, missing != 0});
      clock_.pass_frame(time);
      continue;
    }
    const double share = (moment - previous_time_) / (time - previous_time_);
    Frame between;
    for (size_t i = 0; i < between.size(); ++i) {
      const double from = previous_[i], to = frame[i];
      between[i] = static_cast<float>(from + share * (to - from));
    }
    const uint32_t either = previous_missing_ | missing;
    store(between, {moment, either, either != 0 || late});
    clock_.pass();
  }
  return made;
}

void Stream::store(const Frame& frame, const Moment& moment) {
  ++newest_;
  // A pose that was not read in time: its window is about to be overwritten.
  while (count_ > 0 && pending(0).moment < newest_ - ahead_ - slack_) {
    ++counters_.dropped_unread;
    ++oldest_, --count_;
  }
  moments_[static_cast<size_t>(newest_ % capacity_)] = moment;
  lifter_.encode_frame(frame.data(), token(newest_));
}

// The newest moment's pose is wanted for this push.
void Stream::want(uint64_t frame) {
  pending(count_) = {newest_, first_, kOpen, gap_before_, false, frame};
  ++count_;
}

// End the sequence: poses that wait for later frames get the last one in their place.
void Stream::cut(bool gap) {
  if (!running_) return;
  for (int64_t i = count_ - 1; i >= 0 && pending(i).last == kOpen; --i) {
    pending(i).last = newest_;
    pending(i).gap_behind = gap;
  }
  running_ = false;
  gap_before_ = gap;
  counters_.gaps += gap;
}

bool Stream::is_ready(const Target& target) const { return target.last != kOpen || target.moment + ahead_ <= newest_; }

void Stream::describe(const Target& target, pstmo_edge_pose& pose) const {
  const int64_t last = std::min(target.moment + ahead_, target.last);
  const Moment& own = moment(target.moment);
  const bool cut_before = target.gap_before && target.moment - behind_ < target.first;
  const bool cut_behind = target.gap_behind && target.moment + ahead_ > target.last;
  pose.flags = 0;
  if (pose.filled_frames > 0) pose.flags |= PSTMO_EDGE_POSE_DEGRADED;
  if (own.missing == Holder::kAll) pose.flags |= PSTMO_EDGE_POSE_STALE;
  if (cut_before || cut_behind) pose.flags |= PSTMO_EDGE_POSE_GAP;
  if (pose.flags == 0) pose.flags = PSTMO_EDGE_POSE_VALID;
  pose.missing = own.missing;
  pose.frame = target.frame;
  pose.timestamp = own.time;
  pose.lookahead_ms = (moment(last).time - own.time) * 1000.0;
}

pstmo_edge_status Stream::prepare(const float** window, pstmo_edge_pose& pose) {
  if (count_ == 0 || !is_ready(pending(0))) return PSTMO_EDGE_STATUS_NO_RESULT;
  const Target target = pending(0);
  const int64_t last = std::min(target.moment + ahead_, target.last);
  pose.filled_frames = 0;
  for (int slot = 0; slot < frames_; ++slot) {
    const int64_t wanted = target.moment - behind_ + int64_t{slot} * clock_.steps();
    const int64_t held = std::min(std::max(wanted, target.first), last);
    window[slot] = token(held);
    pose.filled_frames += moment(held).filled;
  }
  describe(target, pose);
  return PSTMO_EDGE_STATUS_OK;
}

pstmo_edge_status Stream::take(const pstmo_edge_pose& pose) {
  ++oldest_, --count_;
  if (!is_finite(pose)) {
    ++counters_.dropped_not_finite;
    return PSTMO_EDGE_STATUS_NOT_FINITE;
  }
  ++counters_.delivered;
  return PSTMO_EDGE_STATUS_OK;
}

pstmo_edge_status Stream::read(pstmo_edge_pose& pose) {
  pstmo_edge_status status = prepare(window_.data(), pose);
  if (status == PSTMO_EDGE_STATUS_OK) status = lifter_.infer_tokens(window_.data(), 1, &pose.joints[0][0]);
  return status == PSTMO_EDGE_STATUS_OK ? take(pose) : status;
}

pstmo_edge_stream_counters Stream::counters() const {
  pstmo_edge_stream_counters all = counters_;
  all.pending = static_cast<uint32_t>(count_);
  all.dropped = all.dropped_unread + all.dropped_by_rate + all.dropped_empty + all.dropped_not_finite;
  return all;
}

}  // namespace pstmo_edge
