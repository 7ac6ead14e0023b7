#ifndef PSTMO_EDGE_TESTS_NATIVE_STANDIN_H_
#define PSTMO_EDGE_TESTS_NATIVE_STANDIN_H_

#include <dlfcn.h>

#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>
#include <vector>

#include "check.h"
#include "pstmo_edge.h"

// What tests tell the stand-in for the CUDA driver (standin_driver.cc), and engines that are opened with it.

namespace pstmo_edge {
namespace testing {

constexpr int kFrames = 9;
constexpr size_t kWindow = kFrames * PSTMO_EDGE_JOINTS * 2, kPose = PSTMO_EDGE_JOINTS * 3;

class Standin {
 public:
  explicit Standin(const char* path) : path_(path), library_(::dlopen(path, RTLD_NOW | RTLD_LOCAL)) {
    if (library_ == nullptr) std::fprintf(stderr, "%s\n", ::dlerror()), std::exit(2);
  }

  const char* path() const { return path_; }
  // One multiprocessor, so that every second window already makes tokens many; nothing fails, nothing is broken.
  void set(bool computes, size_t memory = size_t{1} << 32) const {
    function<void(int, int, int, size_t, int)>("standin_set")(87, 1, 12060, memory, computes);
  }
  void set_version(int version) const {
    function<void(int, int, int, size_t, int)>("standin_set")(87, 1, version, size_t{1} << 32, 1);
  }
  void fail(long call, int code) const { function<void(long, int)>("standin_fail")(call, code); }
  void fail_from(long call, int code) const { function<void(long, int)>("standin_break")(call, code); }
  void reset_device() const { function<void()>("standin_reset")(); }
  void enter_other_context() const { function<void()>("standin_enter_other")(); }
  bool leave_other_context() const { return function<int()>("standin_leave_other")() != 0; }
  long calls() const { return count("standin_calls"); }
  long replays() const { return count("standin_replays"); }
  long together() const { return count("standin_together"); }
  long live() const { return count("standin_live"); }
  // The call that was made to fail, the first of them.
  std::string failed() const { return function<const char*()>("standin_failed")(); }
  std::string violation() const { return function<const char*()>("standin_violation")(); }

 private:
  template <typename F>
  F* function(const char* name) const {
    F* found = nullptr;
    *reinterpret_cast<void**>(&found) = ::dlsym(library_, name);
    if (found == nullptr) std::fprintf(stderr, "no %s\n", name), std::exit(2);
    return found;
  }
  long count(const char* name) const { return function<long()>(name)(); }

  const char* path_;
  void* library_;
};

struct Opened {
  pstmo_edge_status status = PSTMO_EDGE_STATUS_INTERNAL;
  pstmo_edge_engine* engine = nullptr;
  std::string error;
};

// On the CPU where there is no driver.
inline Opened open_engine(const std::string& folder, const Standin* driver, uint32_t max_batch = 3) {
  pstmo_edge_engine_options options = PSTMO_EDGE_ENGINE_OPTIONS_INIT;
  options.threads = 1, options.max_batch = max_batch;
  if (driver != nullptr) options.device = "cuda", options.driver = driver->path();
  Opened opened;
  char error[512] = "";
  opened.status = pstmo_edge_engine_open(folder.c_str(), &options, &opened.engine, error, sizeof error);
  opened.error = error;
  CHECK((opened.status == PSTMO_EDGE_STATUS_OK) == (opened.engine != nullptr));
  CHECK((opened.status == PSTMO_EDGE_STATUS_OK) == opened.error.empty());
  return opened;
}

inline std::vector<float> windows_of(int count, int seed) {
  std::vector<float> keypoints(static_cast<size_t>(count) * kWindow);
  for (size_t i = 0; i < keypoints.size(); ++i) {
    keypoints[i] = static_cast<float>((i * 2654435761u + static_cast<size_t>(seed) * 40503u) % 1000u) / 1000.0f - 0.5f;
  }
  return keypoints;
}

inline pstmo_edge_status lift(pstmo_edge_engine* engine, const std::vector<float>& keypoints,
                              std::vector<float>* poses) {
  const size_t batch = keypoints.size() / kWindow;
  poses->assign(batch * kPose, 0);
  return pstmo_edge_engine_infer(engine, keypoints.data(), keypoints.size(), static_cast<uint32_t>(batch),
                                 poses->data(), poses->size());
}

inline std::string error_of(pstmo_edge_engine* engine) {
  char text[512] = "";
  CHECK(pstmo_edge_engine_error_read(engine, text, sizeof text) == PSTMO_EDGE_STATUS_OK);
  return text;
}

inline pstmo_edge_stream* open_stream(pstmo_edge_engine* engine, double fps) {
  pstmo_edge_stream_options options = PSTMO_EDGE_STREAM_OPTIONS_INIT;
  pstmo_edge_stream* stream = nullptr;
  options.image_width = options.image_height = 1000, options.fps = fps, options.lookahead = 2;
  CHECK(pstmo_edge_stream_create(engine, &options, &stream) == PSTMO_EDGE_STATUS_OK);
  return stream;
}

inline void push(pstmo_edge_stream* stream, int frame, double fps) {
  float keypoints[kPose];
  for (size_t i = 0; i < kPose; ++i) {
    keypoints[i] = i % 3 == 2 ? 0.9f : 300.0f + static_cast<float>((static_cast<size_t>(frame) * 7 + i * 31) % 300u);
  }
  CHECK(pstmo_edge_stream_push(stream, keypoints, kPose, frame / fps) == PSTMO_EDGE_STATUS_OK);
}

// As a share of the largest of `b`.
inline float largest_difference(const float* a, const float* b, size_t count) {
  float largest = 0, most = 0;
  for (size_t i = 0; i < count; ++i) {
    largest = std::fmax(largest, std::fabs(a[i] - b[i]));
    most = std::fmax(most, std::fabs(b[i]));
  }
  return largest / most;
}

inline bool contains(const std::string& text, const char* part) { return text.find(part) != std::string::npos; }

}  // namespace testing
}  // namespace pstmo_edge

#endif  // PSTMO_EDGE_TESTS_NATIVE_STANDIN_H_
