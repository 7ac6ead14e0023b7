#include "stream.h"

#include <algorithm>
#include <cmath>

namespace pstmo_edge {
namespace {

constexpr double kLongestTime = 1e10;  // seconds; beyond it a double no longer tells microseconds apart
constexpr double kLateFrames = 1.5;    // frames without one: what lies between was not measured
constexpr size_t kLine = 64 / sizeof(float);

int64_t longest_hole(double max_gap, double period) { return static_cast<int64_t>(std::ceil(max_gap / period)) + 1; }

size_t padded(int floats) { return (static_cast<size_t>(floats) + kLine - 1) / kLine * kLine; }

bool is_finite(const pstmo_edge_pose& pose) {
  const float* values = &pose.joints[0][0];
  return std::all_of(values, values + PSTMO_EDGE_JOINTS * 3, [](float value) { return std::isfinite(value); });
}

}  // namespace

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

  Moment here;
  here.time = time;
  if (!running_) holder_.forget();
  here.missing = holder_.fill(keypoints, time, here.frame, here.returned);
  here.filled = here.missing != 0;
  if (here.missing != kAllJoints) last_seen_ = time;
  int made = 1;
  if (running_) {
    made = advance(here);
  } else if (here.missing != kAllJoints) {
    start(here);
  } else {
    ++counters_.dropped_empty;
    return PSTMO_EDGE_STATUS_OK;
  }
  previous_ = here;
  if (made > 0) {
    want(frame_number);
  } else {
    ++counters_.dropped_by_rate;
  }
  return PSTMO_EDGE_STATUS_OK;
}

void Stream::start(const Moment& here) {
  running_ = true;
  first_ = newest_ + 1;
  returned_.joints = 0;
  clock_.start(here.time);
  store(here);
}

// Store the moments up to a frame, interpolated between the frame before and this one; returns how many they are.
int Stream::advance(const Moment& here) {
  Moment& before = previous_;
  const bool late = here.time - before.time > late_after_;
  before.correct(here.returned);
  returned_.add(here.returned);
  int made = 0;
  for (; clock_.reaches(here.time); ++made) {
    if (clock_.is_at(here.time)) {
      store(here);
      clock_.pass_frame(here.time);
      continue;
    }
    Moment between;
    between.time = clock_.moment();
    const double share = (between.time - before.time) / (here.time - before.time);
    for (size_t i = 0; i < between.frame.size(); ++i) {
      const double from = before.frame[i], to = here.frame[i];
      between.frame[i] = static_cast<float>(from + share * (to - from));
    }
    between.missing = before.missing | here.missing;
    between.regained = before.regained;
    between.filled = between.missing != 0 || late;
    store(between);
    clock_.pass();
  }
  return made;
}

void Stream::store(const Moment& made) {
  ++newest_;
  // A pose that was not read in time: its window is about to be overwritten.
  while (count_ > 0 && pending(0).moment < newest_ - ahead_ - slack_) {
    ++counters_.dropped_unread;
    ++oldest_, --count_;
  }
  moment(newest_) = made;
  moment(newest_).returned = returned_;
  returned_.joints = 0;
}

void Stream::Moment::correct(const Returned& told) {
  const uint32_t corrected = told.correct(time, frame);
  regained |= corrected;
  if (corrected != 0) encoded = false;
}

// Interpolate what the moments up to `last` tell of earlier ones of the same sequence, from `first` on.
void Stream::tell(int64_t first, int64_t last) {
  const int64_t oldest = std::max(first, newest_ - capacity_ + 1);
  for (int64_t teller = std::max(told_, oldest) + 1; teller <= last; ++teller) {
    const Returned& returned = moment(teller).returned;
    const double earliest = returned.earliest();
    for (int64_t i = teller - 1; i >= oldest && moment(i).time > earliest; --i) moment(i).correct(returned);
  }
  told_ = std::max(told_, last);
}

// The token of a moment.
const float* Stream::encoded(int64_t i) {
  if (!moment(i).encoded) lifter_.encode_frame(moment(i).frame.data(), token(i));
  moment(i).encoded = true;
  return token(i);
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
  if (own.missing == kAllJoints) pose.flags |= PSTMO_EDGE_POSE_STALE;
  if (cut_before || cut_behind) pose.flags |= PSTMO_EDGE_POSE_GAP;
  if (pose.flags == 0) pose.flags = PSTMO_EDGE_POSE_VALID;
  pose.missing = own.missing;
  pose.regained = own.regained;
  pose.frame = target.frame;
  pose.timestamp = own.time;
  pose.lookahead_ms = (moment(last).time - own.time) * 1000.0;
}

pstmo_edge_status Stream::prepare(const float** window, pstmo_edge_pose& pose) {
  if (count_ == 0 || !is_ready(pending(0))) return PSTMO_EDGE_STATUS_NO_RESULT;
  const Target target = pending(0);
  const int64_t last = std::min(target.moment + ahead_, target.last);
  tell(target.first, last);
  pose.filled_frames = 0;
  for (int slot = 0; slot < frames_; ++slot) {
    const int64_t wanted = target.moment - behind_ + int64_t{slot} * clock_.steps();
    const int64_t held = std::min(std::max(wanted, target.first), last);
    window[slot] = encoded(held);
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
