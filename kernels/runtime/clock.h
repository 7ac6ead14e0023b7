#ifndef PSTMO_EDGE_RUNTIME_CLOCK_H_
#define PSTMO_EDGE_RUNTIME_CLOCK_H_

namespace pstmo_edge {

// The model's clock: the moments, one period apart, at which its window wants keypoints, whatever times frames come at.
// pstmo_edge/clock.py holds the same arithmetic in the same order; results are equal bit for bit.
class Clock {
 public:
  // A slot of the window is t_downsample / frame_rate seconds long. Where the camera is faster, a slot is cut into as
  // many moments as its frames allow, at most t_downsample: every t_downsample-th frame of a faithful camera is a slot.
  Clock(double frame_rate, int t_downsample, double fps);

  int steps() const { return steps_; }       // moments in a slot of the window
  double period() const { return period_; }  // seconds between moments

  // Start with a frame at `time`, which is the first moment.
  void start(double time) { next_ = time + period_; }

  // Whether another moment lies at or before a frame at `time`; then whether it is that frame's own, or one before it.
  bool reaches(double time) const { return next_ <= time + tolerance_; }
  bool is_at(double time) const { return next_ >= time - tolerance_; }
  double moment() const { return next_; }

  // Go on to the next moment; `time` is the frame whose own the last one was.
  void pass() { next_ += period_; }
  void pass_frame(double time);

 private:
  int steps_;
  double period_;
  bool locked_;  // the camera has the model's rate: each frame is a moment, and the clock follows its jitter slowly
  double tolerance_;  // seconds within which a frame stands for a moment
  double next_ = 0;
};

}  // namespace pstmo_edge

#endif  // PSTMO_EDGE_RUNTIME_CLOCK_H_
