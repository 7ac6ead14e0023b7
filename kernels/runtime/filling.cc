#include "filling.h"

#include <algorithm>
#include <cmath>
#include <limits>

namespace pstmo_edge {
namespace {

constexpr float kFarthest = 1000.0f;  // image widths from the picture; far below what could overflow in the network
constexpr int kBody = 4;              // joints that tell how a body moves
constexpr double kNever = -std::numeric_limits<double>::infinity();

}  // namespace

double Returned::earliest() const {
  double time = std::numeric_limits<double>::infinity();
  for (size_t j = 0; j < PSTMO_EDGE_JOINTS; ++j) {
    if (has(joints, j)) time = std::min(time, since[j]);
  }
  return time;
}

uint32_t Returned::correct(double time, Frame& frame) const {
  uint32_t corrected = 0;
  for (size_t j = 0; j < PSTMO_EDGE_JOINTS; ++j) {
    if (!has(joints, j) || !(since[j] < time)) continue;
    const double share = since[j] == kNever ? 1.0 : (time - since[j]) / (until[j] - since[j]);
    for (size_t i = 2 * j; i < 2 * j + 2; ++i) frame[i] = static_cast<float>(frame[i] + share * off[i]);
    corrected |= 1u << j;
  }
  return corrected;
}

void Returned::add(const Returned& later) {
  for (size_t j = 0; j < PSTMO_EDGE_JOINTS; ++j) {
    if (!has(later.joints & ~joints, j)) continue;
    since[j] = later.since[j], until[j] = later.until[j];
    off[2 * j] = later.off[2 * j], off[2 * j + 1] = later.off[2 * j + 1];
  }
  joints |= later.joints;
}

Holder::Holder(int image_width, int image_height, float min_confidence)
    : width_(static_cast<float>(image_width)),
      shift_(static_cast<float>(static_cast<double>(image_height) / image_width)),
      min_confidence_(min_confidence) {
  forget();
}

void Holder::forget() {
  seen_ = measured_ = 0;
  seen_at_.fill(kNever);
  last_ = {};
}

uint32_t Holder::fill(const float* keypoints, double time, Frame& frame, Returned& returned) {
  Frame points;
  const uint32_t measured = measure(keypoints, points), both = measured & measured_;
  if (both != kAllJoints) move_with_body(points, both);
  tell(points, seen_ == 0 ? 0 : measured & ~measured_, time, returned);
  for (size_t j = 0; j < PSTMO_EDGE_JOINTS; ++j) {
    if (!has(measured, j)) continue;
    last_[2 * j] = points[2 * j], last_[2 * j + 1] = points[2 * j + 1];
    seen_at_[j] = time;
  }
  seen_ |= measured;
  measured_ = measured;
  if (measured != 0 && seen_ != kAllJoints) place_unseen(measured);
  frame = last_;
  return ~measured & kAllJoints;
}

// The joints that were measured, and all in screen coordinates.
uint32_t Holder::measure(const float* keypoints, Frame& points) const {
  uint32_t measured = 0;
  for (uint32_t j = 0; j < PSTMO_EDGE_JOINTS; ++j) {
    const float x = keypoints[3 * j] / width_ * 2.0f - 1.0f, y = keypoints[3 * j + 1] / width_ * 2.0f - shift_;
    const float confidence = keypoints[3 * j + 2];
    const bool trusted = confidence >= min_confidence_ && confidence <= std::numeric_limits<float>::max();
    points[2 * j] = x, points[2 * j + 1] = y;
    if (trusted && std::fabs(x) <= kFarthest && std::fabs(y) <= kFarthest) measured |= 1u << j;  // false for NaN
  }
  return measured;
}

// Held joints move as the joints do, on the mean, that were measured in this frame and the last.
void Holder::move_with_body(const Frame& points, uint32_t both) {
  double sum_x = 0, sum_y = 0;
  int count = 0;
  for (size_t j = 0; j < PSTMO_EDGE_JOINTS; ++j) {
    if (!has(both, j)) continue;
    sum_x += static_cast<double>(points[2 * j]) - last_[2 * j];
    sum_y += static_cast<double>(points[2 * j + 1]) - last_[2 * j + 1];
    ++count;
  }
  if (count < kBody) return;
  const float shift_x = static_cast<float>(sum_x / count), shift_y = static_cast<float>(sum_y / count);
  for (size_t j = 0; j < PSTMO_EDGE_JOINTS; ++j) last_[2 * j] += shift_x, last_[2 * j + 1] += shift_y;
}

// What joints that are seen `again` tell of the frames before; last_ has them where they would be held now.
void Holder::tell(const Frame& points, uint32_t again, double time, Returned& returned) const {
  returned.joints = again;
  if (again == 0) return;
  returned.since = seen_at_;
  returned.until.fill(time);
  for (size_t i = 0; i < points.size(); ++i) returned.off[i] = static_cast<double>(points[i]) - last_[i];
}

// Joints that were never seen are put at the mean of those measured now.
void Holder::place_unseen(uint32_t measured) {
  double sum_x = 0, sum_y = 0;
  int count = 0;
  for (size_t j = 0; j < PSTMO_EDGE_JOINTS; ++j) {
    if (!has(measured, j)) continue;
    sum_x += last_[2 * j], sum_y += last_[2 * j + 1];
    ++count;
  }
  for (size_t j = 0; j < PSTMO_EDGE_JOINTS; ++j) {
    if (has(seen_, j)) continue;
    last_[2 * j] = static_cast<float>(sum_x / count), last_[2 * j + 1] = static_cast<float>(sum_y / count);
  }
}

}  // namespace pstmo_edge
