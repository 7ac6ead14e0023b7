// The sliding window: equal to batches bit for bit, and every result flagged. pstmo_edge/reference_stream.py is its
// twin, and tests/test_streaming.py holds the two equal on random input.
#include <cmath>
#include <cstring>
#include <limits>
#include <string>
#include <utility>
#include <vector>

#include "bundles.h"
#include "check.h"
#include "pstmo_edge.h"

using pstmo_edge::testing::BundleSpec;

namespace {

constexpr int kJoints = PSTMO_EDGE_JOINTS, kWidth = 1920, kHeight = 1080;
constexpr size_t kFrame = kJoints * 3, kPose = kJoints * 3;
constexpr double kFps = 50;

using Frame = std::vector<float>;

Frame frame_at(int number) {
  Frame frame(kFrame);
  for (int j = 0; j < kJoints; ++j) {
    const auto t = static_cast<float>(number), k = static_cast<float>(j);
    frame[static_cast<size_t>(3 * j)] = 960 + 300 * std::sin(0.05f * t + k);
    frame[static_cast<size_t>(3 * j + 1)] = 540 + 200 * std::cos(0.07f * t + 2 * k);
    frame[static_cast<size_t>(3 * j + 2)] = 0.9f;
  }
  return frame;
}

class Opened {
 public:
  explicit Opened(const BundleSpec& spec, uint32_t threads = 1) : frames_(spec.frames) {
    pstmo_edge_engine_options options = PSTMO_EDGE_ENGINE_OPTIONS_INIT;
    options.threads = threads;
    char text[512] = "";
    const std::string path = pstmo_edge::testing::write_bundle(spec);
    CHECK(pstmo_edge_engine_open(path.c_str(), &options, &engine_, text, sizeof text) == PSTMO_EDGE_STATUS_OK);
    if (engine_ == nullptr) std::fprintf(stderr, "%s\n", text), std::exit(1);
  }
  Opened(const Opened&) = delete;
  Opened& operator=(const Opened&) = delete;
  ~Opened() { pstmo_edge_engine_close(engine_); }

  pstmo_edge_stream* stream(int lookahead, uint32_t backlog = 8, double fps = kFps) {
    pstmo_edge_stream_options options = PSTMO_EDGE_STREAM_OPTIONS_INIT;
    options.image_width = kWidth, options.image_height = kHeight, options.fps = fps;
    options.lookahead = lookahead, options.backlog = backlog;
    pstmo_edge_stream* stream = nullptr;
    CHECK(pstmo_edge_stream_create(engine_, &options, &stream) == PSTMO_EDGE_STATUS_OK);
    return stream;
  }

  // The pose of a window cut as pstmo_edge/windows.py cuts it: `step` apart, from the sequence `first` .. `last`.
  std::vector<float> batch(const std::vector<Frame>& frames, int centre, int target, int step, int first, int last) {
    std::vector<float> window;
    for (int slot = 0; slot < frames_; ++slot) {
      const int wanted = centre + (slot - target) * step;
      const Frame& frame = frames[static_cast<size_t>(std::min(std::max(wanted, first), last))];
      for (size_t j = 0; j < kJoints; ++j) {
        window.push_back(frame[3 * j] / static_cast<float>(kWidth) * 2.0f - 1.0f);
        window.push_back(frame[3 * j + 1] / static_cast<float>(kWidth) * 2.0f - static_cast<float>(1080.0 / 1920.0));
      }
    }
    std::vector<float> pose(kPose);
    CHECK(pstmo_edge_engine_infer(engine_, window.data(), window.size(), 1, pose.data(), kPose) ==
          PSTMO_EDGE_STATUS_OK);
    return pose;
  }

 private:
  int frames_;
  pstmo_edge_engine* engine_ = nullptr;
};

std::vector<pstmo_edge_pose> drain(pstmo_edge_stream* stream) {
  std::vector<pstmo_edge_pose> poses;
  pstmo_edge_pose pose = PSTMO_EDGE_POSE_INIT;
  while (pstmo_edge_stream_read(stream, &pose) == PSTMO_EDGE_STATUS_OK) poses.push_back(pose);
  return poses;
}

void append(std::vector<pstmo_edge_pose>& to, const std::vector<pstmo_edge_pose>& more) {
  to.insert(to.end(), more.begin(), more.end());
}

pstmo_edge_status push(pstmo_edge_stream* stream, const Frame& frame, double time) {
  return pstmo_edge_stream_push(stream, frame.data(), frame.size(), time);
}

pstmo_edge_stream_counters counters_of(pstmo_edge_stream* stream) {
  pstmo_edge_stream_counters counters = PSTMO_EDGE_STREAM_COUNTERS_INIT;
  CHECK(pstmo_edge_stream_counters_read(stream, &counters) == PSTMO_EDGE_STATUS_OK);
  CHECK(counters.received == counters.delivered + counters.dropped + counters.rejected + counters.pending);
  CHECK(counters.dropped ==
        counters.dropped_unread + counters.dropped_by_rate + counters.dropped_empty + counters.dropped_not_finite);
  return counters;
}

bool same(const pstmo_edge_pose& pose, const std::vector<float>& expected) {
  return std::memcmp(pose.joints, expected.data(), kPose * sizeof(float)) == 0;
}

// The same but for what rounding pixels once more does.
bool near(const pstmo_edge_pose& pose, const std::vector<float>& values) {
  const float* joints = &pose.joints[0][0];
  for (size_t k = 0; k < kPose; ++k) {
    if (!(std::fabs(joints[k] - values[k]) < 1e-4f)) return false;
  }
  return true;
}

void a_stream_equals_batches(const BundleSpec& spec, double fps, uint32_t threads) {
  Opened opened(spec, threads);
  const int step = spec.t_downsample, length = spec.frames * step + 17;
  std::vector<Frame> frames;
  for (int i = 0; i < length; ++i) frames.push_back(frame_at(i));
  for (int lookahead = 0; lookahead <= spec.lookahead_frames; ++lookahead) {
    pstmo_edge_stream* stream = opened.stream(lookahead, 8, fps);
    std::vector<pstmo_edge_pose> poses;
    for (int i = 0; i < length; ++i) {
      CHECK(push(stream, frames[static_cast<size_t>(i)], i / fps) == PSTMO_EDGE_STATUS_OK);
      append(poses, drain(stream));
      CHECK(poses.size() == static_cast<size_t>(std::max(0, i + 1 - lookahead * step)));
    }
    CHECK(pstmo_edge_stream_finish(stream) == PSTMO_EDGE_STATUS_OK);
    append(poses, drain(stream));
    CHECK(poses.size() == static_cast<size_t>(length));
    for (int i = 0; i < static_cast<int>(poses.size()); ++i) {
      const pstmo_edge_pose& pose = poses[static_cast<size_t>(i)];
      const int last = std::min(i + lookahead * step, length - 1);
      CHECK(same(pose, opened.batch(frames, i, spec.target_index, step, 0, last)));
      CHECK(pose.flags == PSTMO_EDGE_POSE_VALID && pose.frame == static_cast<uint64_t>(i) && pose.timestamp == i / fps);
      CHECK(std::fabs(pose.lookahead_ms - 1000.0 * (last - i) / fps) < 1e-9);
    }
    counters_of(stream);
    pstmo_edge_stream_close(stream);
  }
}

constexpr int kLostFrom = 10, kLostTo = 13;  // frames without joints 5 and 7
constexpr size_t kLost[] = {5, 7};

// The same frames as they are pushed; with lost joints held, moving as the others do; and with them interpolated.
struct LostJoints {
  std::vector<Frame> given, held, passed;

  LostJoints() {
    for (int i = 0; i < 40; ++i) {
      given.push_back(frame_at(i)), held.push_back(given.back()), passed.push_back(given.back());
      if (i < kLostFrom || i > kLostTo) continue;
      if (i < kLostTo) lose(i);
      for (const size_t joint : kLost) move(joint, i);
    }
    for (const size_t joint : kLost) pass(joint);
  }

 private:
  void lose(int i) {
    const float bad[] = {NAN, INFINITY, 1e30f};
    given.back()[3 * 5 + 1] = bad[i - kLostFrom];     // a value that is none
    given.back()[3 * 7 + 2] = i == 11 ? NAN : 0.29f;  // too little confidence
  }

  // In the first frame that has the joint again, held[kLostTo] is where it would have been held.
  void move(size_t joint, int i) {
    for (size_t k = 0; k < 2; ++k) {
      double moved = 0;
      int others = 0;
      for (size_t j = 0; j < kJoints; ++j) {
        if (j == 5 || j == 7) continue;
        moved += frame_at(i)[3 * j + k] - frame_at(i - 1)[3 * j + k], ++others;
      }
      held.back()[3 * joint + k] = held[held.size() - 2][3 * joint + k] + static_cast<float>(moved / others);
    }
  }

  void pass(size_t joint) {
    for (size_t k = 3 * joint; k < 3 * joint + 2; ++k) {
      const float off = frame_at(kLostTo)[k] - held[kLostTo][k];
      for (size_t i = kLostFrom; i < kLostTo; ++i) {
        passed[i][k] = held[i][k] + off * static_cast<float>(i - kLostFrom + 1) / (kLostTo - kLostFrom + 1);
      }
      held[kLostTo][k] = frame_at(kLostTo)[k];
    }
  }
};

void missing_joints_are_held_interpolated_and_flagged(int lookahead) {
  Opened opened{BundleSpec{}};
  pstmo_edge_stream* stream = opened.stream(lookahead);
  const LostJoints lost;
  std::vector<pstmo_edge_pose> poses;
  for (int i = 0; i < 40; ++i) {
    CHECK(push(stream, lost.given[static_cast<size_t>(i)], i / kFps) == PSTMO_EDGE_STATUS_OK);
    append(poses, drain(stream));
  }
  pstmo_edge_stream_finish(stream);
  append(poses, drain(stream));
  CHECK(poses.size() == 40);
  for (int i = 0; i < static_cast<int>(poses.size()); ++i) {
    const pstmo_edge_pose& pose = poses[static_cast<size_t>(i)];
    const int newest = std::min(i + lookahead, 39);
    CHECK(near(pose, opened.batch(newest < kLostTo ? lost.held : lost.passed, i, 4, 1, 0, newest)));
    const bool hit = i >= kLostFrom && i < kLostTo;
    const bool touched = newest >= kLostFrom && i < kLostTo + 4;  // four frames lie before the target
    CHECK(pose.missing == (hit ? 1u << 5 | 1u << 7 : 0u));
    CHECK(pose.regained == (newest >= kLostTo ? pose.missing : 0u));
    CHECK(pose.flags == (touched ? PSTMO_EDGE_POSE_DEGRADED : PSTMO_EDGE_POSE_VALID));
    CHECK((pose.filled_frames > 0) == touched && pose.filled_frames <= 9);
  }
  pstmo_edge_stream_close(stream);
}

// What a later frame tells of missing joints changes no pose that did not wait for it, whenever that is read.
void poses_read_late_know_no_later_frames() {
  Opened opened{BundleSpec{}};
  pstmo_edge_stream* streams[] = {opened.stream(2, 64), opened.stream(2, 64)};
  std::vector<pstmo_edge_pose> at_once, late;
  for (int i = 0; i < 50; ++i) {
    Frame frame = frame_at(i);
    for (int j = 0; j < kJoints; ++j) {
      if ((i / 3 + 5 * j) % 7 < 3) frame[static_cast<size_t>(3 * j + 2)] = 0;
    }
    for (pstmo_edge_stream* stream : streams) CHECK(push(stream, frame, i / kFps) == PSTMO_EDGE_STATUS_OK);
    append(at_once, drain(streams[0]));
  }
  append(late, drain(streams[1]));
  CHECK(at_once.size() == 48 && late.size() == 48);
  for (size_t i = 0; i < late.size() && i < at_once.size(); ++i) {
    CHECK(std::memcmp(late[i].joints, at_once[i].joints, sizeof late[i].joints) == 0);
    CHECK(late[i].missing == at_once[i].missing && late[i].regained == at_once[i].regained);
  }
  for (pstmo_edge_stream* stream : streams) pstmo_edge_stream_close(stream);
}

void joints_never_seen_are_at_the_mean() {
  Opened opened{BundleSpec{}};
  pstmo_edge_stream* stream = opened.stream(0);
  Frame frame = frame_at(0), filled = frame;
  double x = 0, y = 0;
  for (size_t j = 0; j < kJoints; ++j) {
    if (j == 3) continue;
    x += frame[3 * j] / static_cast<float>(kWidth) * 2.0f - 1.0f;
    y += frame[3 * j + 1] / static_cast<float>(kWidth) * 2.0f - static_cast<float>(1080.0 / 1920.0);
  }
  frame[3 * 3] = frame[3 * 3 + 1] = 0, frame[3 * 3 + 2] = 0;
  CHECK(push(stream, frame, 0) == PSTMO_EDGE_STATUS_OK);
  const std::vector<pstmo_edge_pose> poses = drain(stream);
  CHECK(poses.size() == 1 && poses[0].missing == 1u << 3 && poses[0].flags == PSTMO_EDGE_POSE_DEGRADED);
  // Equal to a joint measured there, within the rounding of pixels.
  filled[3 * 3] = static_cast<float>((x / 16 + 1) / 2 * kWidth);
  filled[3 * 3 + 1] = static_cast<float>((y / 16 + 1080.0 / 1920.0) / 2 * kWidth);
  const std::vector<float> expected = opened.batch({filled}, 0, 4, 1, 0, 0);
  for (size_t i = 0; i < kPose; ++i) CHECK(std::fabs(poses[0].joints[i / 3][i % 3] - expected[i]) < 1e-4f);
  pstmo_edge_stream_close(stream);
}

// Frames without anybody: held and stale for a while, then a gap, then clean again.
void a_person_who_leaves_and_returns() {
  Opened opened{BundleSpec{}};
  pstmo_edge_stream* stream = opened.stream(0);
  std::vector<Frame> returned;
  for (int i = 0; i < 100; ++i) {
    Frame frame = frame_at(i);
    const bool away = i < 3 || (i >= 20 && i < 60);
    for (size_t j = 0; away && j < kJoints; ++j) frame[3 * j + 2] = 0;
    if (i >= 60) returned.push_back(frame);
    CHECK(push(stream, frame, i / kFps) == PSTMO_EDGE_STATUS_OK);
    const std::vector<pstmo_edge_pose> poses = drain(stream);
    const bool held = i >= 20 && i < 45;  // half a second after the last one seen, at 19
    CHECK(poses.size() == (away && !held ? 0u : 1u));
    if (poses.empty()) continue;
    if (held)
      CHECK(poses[0].flags == (PSTMO_EDGE_POSE_STALE | PSTMO_EDGE_POSE_DEGRADED) && poses[0].missing == 0x1ffff);
    if (i >= 3 && i < 20) CHECK(poses[0].flags == PSTMO_EDGE_POSE_VALID);
    if (i >= 60) {
      CHECK(poses[0].flags == (i < 64 ? PSTMO_EDGE_POSE_GAP : PSTMO_EDGE_POSE_VALID));
      CHECK(same(poses[0], opened.batch(returned, i - 60, 4, 1, 0, i - 60)));
    }
  }
  const pstmo_edge_stream_counters counters = counters_of(stream);
  CHECK(counters.gaps == 1 && counters.dropped_empty == 3 + 15 && counters.dropped == 18);
  pstmo_edge_stream_close(stream);
}

void a_hole_in_time_and_a_clock_that_was_set() {
  Opened opened{BundleSpec{}};
  pstmo_edge_stream* stream = opened.stream(4);
  std::vector<pstmo_edge_pose> poses;
  for (int i = 0; i < 30; ++i) push(stream, frame_at(i), i / kFps), append(poses, drain(stream));
  push(stream, frame_at(30), 100), append(poses, drain(stream));  // a hole: what waited comes out, padded
  CHECK(poses.size() == 30);
  for (size_t i = 0; i < 30; ++i) CHECK(poses[i].flags == (i < 26 ? PSTMO_EDGE_POSE_VALID : PSTMO_EDGE_POSE_GAP));
  for (int i = 1; i < 10; ++i) push(stream, frame_at(30 + i), 100 + i / kFps), append(poses, drain(stream));
  CHECK(poses.size() == 36 && (poses[30].flags & PSTMO_EDGE_POSE_GAP) != 0);
  CHECK(push(stream, frame_at(40), 99.9) == PSTMO_EDGE_STATUS_TIMESTAMP_REJECTED);
  CHECK(push(stream, frame_at(40), 5) == PSTMO_EDGE_STATUS_OK);  // the clock was set back
  append(poses, drain(stream));
  CHECK(poses.size() == 40);
  CHECK(counters_of(stream).gaps == 2 && counters_of(stream).rejected == 1 && counters_of(stream).pending == 1);
  pstmo_edge_stream_close(stream);
}

// One frame that never came: what lies between is interpolated, its neighbours are flagged.
void a_frame_that_never_came() {
  Opened opened{BundleSpec{}};
  pstmo_edge_stream* stream = opened.stream(0);
  std::vector<Frame> frames;
  for (int i = 0; i < 30; ++i) frames.push_back(frame_at(i));
  for (size_t k = 0; k < kFrame; ++k) {
    if (k % 3 < 2) frames[15][k] = frames[14][k] + 0.5f * (frames[16][k] - frames[14][k]);
  }
  for (int i = 0; i < 30; ++i) {
    if (i == 15) continue;
    CHECK(push(stream, frames[static_cast<size_t>(i)], i / kFps) == PSTMO_EDGE_STATUS_OK);
    const std::vector<pstmo_edge_pose> poses = drain(stream);
    CHECK(poses.size() == 1);
    CHECK(poses[0].flags == (i >= 16 && i < 20 ? PSTMO_EDGE_POSE_DEGRADED : PSTMO_EDGE_POSE_VALID));
    const std::vector<float> expected = opened.batch(frames, i, 4, 1, 0, i);
    for (size_t k = 0; k < kPose; ++k) CHECK(std::fabs(poses[0].joints[k / 3][k % 3] - expected[k]) < 1e-4f);
  }
  pstmo_edge_stream_close(stream);
}

void poses_not_read_are_dropped_and_counted() {
  Opened opened{BundleSpec{}};
  pstmo_edge_stream* stream = opened.stream(0, 3);
  for (int i = 0; i < 1000; ++i) push(stream, frame_at(i), i / kFps);
  const pstmo_edge_stream_counters counters = counters_of(stream);
  CHECK(counters.received == 1000 && counters.delivered == 0 && counters.dropped_unread == counters.dropped);
  CHECK(counters.pending >= 3 && counters.pending < 64);
  const std::vector<pstmo_edge_pose> poses = drain(stream);
  CHECK(poses.size() == counters.pending && poses.back().frame == 999);
  std::vector<Frame> frames;
  for (int i = 0; i < 1000; ++i) frames.push_back(frame_at(i));
  for (const pstmo_edge_pose& pose : poses) {  // late, and none the worse
    const int i = static_cast<int>(pose.frame);
    CHECK(same(pose, opened.batch(frames, i, 4, 1, 0, i)));
  }
  pstmo_edge_stream_close(stream);
}

void other_rates_give_one_pose_a_frame_at_most() {
  Opened opened{BundleSpec{}};
  for (const double fps : {10.0, 24.0, 25.0, 30.0, 60.0, 120.0, 240.0}) {
    pstmo_edge_stream* stream = opened.stream(2, 8, fps);
    size_t poses = 0;
    double last = -1;
    for (int i = 0; i < 500; ++i) {
      CHECK(push(stream, frame_at(i), i / fps) == PSTMO_EDGE_STATUS_OK);
      for (const pstmo_edge_pose& pose : drain(stream)) {
        CHECK(pose.timestamp > last && pose.timestamp <= i / fps + 1e-3);
        CHECK(pose.flags == PSTMO_EDGE_POSE_VALID);
        last = pose.timestamp, ++poses;
      }
    }
    pstmo_edge_stream_finish(stream);
    poses += drain(stream).size();
    const pstmo_edge_stream_counters counters = counters_of(stream);
    CHECK(counters.delivered == poses && counters.dropped == counters.dropped_by_rate);
    const double expected = fps <= 50 ? 500 : 500 * 50 / fps;
    CHECK(std::fabs(static_cast<double>(poses) - expected) <= 2);
    pstmo_edge_stream_close(stream);
  }
}

}  // namespace

int main() {
  BundleSpec plain, int8, words, slow, causal, published;
  a_stream_equals_batches(plain, 50, 1);
  a_stream_equals_batches(plain, 50, 3);
  int8.int8 = true;
  a_stream_equals_batches(int8, 50, 1);
  words.int8 = words.words = true;
  a_stream_equals_batches(words, 50, 2);
  slow.t_downsample = 3;
  a_stream_equals_batches(slow, 50, 2);
  causal.target_index = 8, causal.lookahead_frames = 0;
  a_stream_equals_batches(causal, 50, 1);
  published.frames = 27, published.target_index = 13, published.lookahead_frames = 13,
  published.frame_rate = "29.97002997002997";
  a_stream_equals_batches(published, 30000.0 / 1001.0, 1);
  for (const int lookahead : {0, 2, 4}) missing_joints_are_held_interpolated_and_flagged(lookahead);
  poses_read_late_know_no_later_frames();
  joints_never_seen_are_at_the_mean();
  a_person_who_leaves_and_returns();
  a_hole_in_time_and_a_clock_that_was_set();
  a_frame_that_never_came();
  poses_not_read_are_dropped_and_counted();
  other_rates_give_one_pose_a_frame_at_most();
  return check_result();
}
