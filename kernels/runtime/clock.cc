#include "clock.h"

#include <algorithm>
#include <cmath>

namespace pstmo_edge {
namespace {

constexpr double kSameRate = 0.02;     // cameras of 29.97 and 30 frames a second are one; 25 and 30 are not
constexpr double kLockedShare = 0.5;   // of a period: a locked camera's frame stands for the moment nearest to it
constexpr double kFreeShare = 0.01;    // of a period: what a timestamp's rounding may be off
constexpr double kFollowShare = 0.02;  // of a period: how far a locked clock moves towards each frame
constexpr double kRateShare = 0.05;    // of a frame: how far a camera may fall short of a whole number of frames a slot

int steps_of(double slot, int t_downsample, double fps) {
  const double frames = std::floor(fps * slot + kRateShare);
  return static_cast<int>(std::min(std::max(frames, 1.0), static_cast<double>(t_downsample)));
}

}  // namespace

Clock::Clock(double frame_rate, int t_downsample, double fps)
    : steps_(steps_of(t_downsample / frame_rate, t_downsample, fps)),
      period_(t_downsample / frame_rate / steps_),
      locked_(std::fabs(fps * period_ - 1) <= kSameRate),
      tolerance_((locked_ ? kLockedShare : kFreeShare) * period_) {}

void Clock::pass_frame(double time) {
  const double limit = locked_ ? kFollowShare * period_ : 0;
  next_ += period_ + std::min(std::max(time - next_, -limit), limit);
}

}  // namespace pstmo_edge
