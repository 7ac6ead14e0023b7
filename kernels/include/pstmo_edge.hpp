// The C ABI of pstmo-edge for C++17: handles that close themselves, and exceptions. All of it is in this header.
//
//   pstmo_edge::Engine engine("engine/");
//   pstmo_edge::Stream stream = engine.stream(pstmo_edge::live(1920, 1080, 30));
//   stream.push(keypoints, timestamp);                    // 17 x (x, y, confidence)
//   while (auto pose = stream.read()) use(pose->joints);  // 17 x 3, metres
#ifndef PSTMO_EDGE_HPP_
#define PSTMO_EDGE_HPP_

#include <array>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "pstmo_edge.h"

// Inline, so that these classes and those inside the static library never share a symbol.
namespace pstmo_edge {
inline namespace v0 {

using Keypoints = std::array<float, PSTMO_EDGE_JOINTS * 3>;  // x, y in pixels and confidence of every joint
using Pose = pstmo_edge_pose;
using Counters = pstmo_edge_stream_counters;
using Info = pstmo_edge_engine_info;
using EngineOptions = pstmo_edge_engine_options;
using StreamOptions = pstmo_edge_stream_options;

// A call that failed: its status, and the sentence behind it.
class Failure : public std::runtime_error {
 public:
  Failure(pstmo_edge_status status, const std::string& text) : std::runtime_error(text), status_(status) {}
  pstmo_edge_status status() const noexcept { return status_; }

 private:
  pstmo_edge_status status_;
};

// Options of a live stream: no look-ahead. Change any field afterwards.
inline StreamOptions live(std::uint32_t image_width, std::uint32_t image_height, double fps) noexcept {
  StreamOptions options = PSTMO_EDGE_STREAM_OPTIONS_INIT;
  options.image_width = image_width;
  options.image_height = image_height;
  options.fps = fps;
  return options;
}

// Options of an engine on a CPU, and on a GPU ("cuda", "cuda:1"). Change any field afterwards.
inline EngineOptions on_cpu(std::uint32_t threads = 0, const char* isa = nullptr) noexcept {
  EngineOptions options = PSTMO_EDGE_ENGINE_OPTIONS_INIT;
  options.threads = threads;
  options.isa = isa;
  return options;
}

inline EngineOptions on_gpu(const char* device = "cuda", std::uint32_t max_batch = 0) noexcept {
  EngineOptions options = PSTMO_EDGE_ENGINE_OPTIONS_INIT;
  options.device = device;
  options.max_batch = max_batch;
  return options;
}

namespace detail {

template <typename Handle>
using ErrorReader = pstmo_edge_status (*)(Handle*, char*, std::size_t);

template <typename Handle>
[[noreturn]] void fail(pstmo_edge_status status, Handle* handle, ErrorReader<Handle> read) {
  char text[512] = "";
  const bool from_another_thread = status == PSTMO_EDGE_STATUS_BUSY;  // then the handle's sentence is not ours
  if (from_another_thread || read(handle, text, sizeof text) != PSTMO_EDGE_STATUS_OK || text[0] == '\0') {
    throw Failure(status, pstmo_edge_status_describe(status));
  }
  throw Failure(status, text);
}

struct CloseEngine {
  void operator()(pstmo_edge_engine* engine) const noexcept { pstmo_edge_engine_close(engine); }
};

struct CloseStream {
  void operator()(pstmo_edge_stream* stream) const noexcept { pstmo_edge_stream_close(stream); }
};

}  // namespace detail

// One person in front of one camera; made by Engine::stream. It keeps its engine alive.
class Stream {
 public:
  // Push one frame. Returns false where its timestamp was rejected (it is counted), throws Failure for anything else.
  bool push(const Keypoints& keypoints, double timestamp) {
    const pstmo_edge_status status =
        pstmo_edge_stream_push(handle_.get(), keypoints.data(), keypoints.size(), timestamp);
    if (status != PSTMO_EDGE_STATUS_TIMESTAMP_REJECTED) check(status);
    return status == PSTMO_EDGE_STATUS_OK;
  }

  // The oldest pose that is ready, or nothing.
  std::optional<Pose> read() {
    Pose pose = PSTMO_EDGE_POSE_INIT;
    const pstmo_edge_status status = pstmo_edge_stream_read(handle_.get(), &pose);
    if (status == PSTMO_EDGE_STATUS_NO_RESULT) return std::nullopt;
    check(status);
    return pose;
  }

  // End the sequence: poses that wait for later frames become ready.
  void finish() { check(pstmo_edge_stream_finish(handle_.get())); }

  Counters counters() const {
    Counters counters = PSTMO_EDGE_STREAM_COUNTERS_INIT;
    check(pstmo_edge_stream_counters_read(handle_.get(), &counters));
    return counters;
  }

 private:
  friend class Engine;
  explicit Stream(pstmo_edge_stream* handle) : handle_(handle) {}
  void check(pstmo_edge_status status) const {
    if (status != PSTMO_EDGE_STATUS_OK) detail::fail(status, handle_.get(), pstmo_edge_stream_error_read);
  }

  std::unique_ptr<pstmo_edge_stream, detail::CloseStream> handle_;
};

// An opened bundle.
class Engine {
 public:
  // Throws Failure. `threads` 0: one for each core, at most 4. `isa`: see pstmo_edge_engine_options.
  explicit Engine(const std::string& path, std::uint32_t threads = 0, const char* isa = nullptr)
      : Engine(path, on_cpu(threads, isa)) {}

  // Throws Failure. `options`: see pstmo_edge_engine_options; on_gpu makes those of a GPU.
  Engine(const std::string& path, const EngineOptions& options) {
    pstmo_edge_engine* opened = nullptr;
    char error[512] = "";
    const pstmo_edge_status status = pstmo_edge_engine_open(path.c_str(), &options, &opened, error, sizeof error);
    if (status != PSTMO_EDGE_STATUS_OK) throw Failure(status, error);
    handle_.reset(opened);
  }

  Info info() const {
    Info info = PSTMO_EDGE_ENGINE_INFO_INIT;
    check(pstmo_edge_engine_info_read(handle_.get(), &info));
    return info;
  }

  // Windows (batch, T, 17, 2) of keypoints in screen coordinates to poses (batch, 17, 3) in metres.
  std::vector<float> infer(const std::vector<float>& keypoints) {
    const std::size_t window = std::size_t{info().frames} * PSTMO_EDGE_JOINTS * 2;
    const auto batch = static_cast<std::uint32_t>(keypoints.size() / window);
    std::vector<float> poses(std::size_t{batch} * PSTMO_EDGE_JOINTS * 3);
    check(
        pstmo_edge_engine_infer(handle_.get(), keypoints.data(), keypoints.size(), batch, poses.data(), poses.size()));
    return poses;
  }

  // The oldest ready pose of each of this engine's streams, or nothing, lifted in one batch.
  std::vector<std::optional<Pose>> read(const std::vector<Stream*>& streams) {
    std::vector<pstmo_edge_stream*> handles;
    for (const Stream* stream : streams) handles.push_back(stream->handle_.get());
    std::vector<Pose> poses(streams.size(), Pose PSTMO_EDGE_POSE_INIT);
    std::vector<pstmo_edge_status> statuses(streams.size());
    check(pstmo_edge_streams_read(handles.data(), handles.size(), poses.data(), statuses.data()));
    std::vector<std::optional<Pose>> found(streams.size());
    for (std::size_t i = 0; i < found.size(); ++i) {
      if (statuses[i] == PSTMO_EDGE_STATUS_OK) found[i] = poses[i];
    }
    return found;
  }

  Stream stream(const StreamOptions& options) {
    pstmo_edge_stream* created = nullptr;
    check(pstmo_edge_stream_create(handle_.get(), &options, &created));
    return Stream(created);
  }

 private:
  void check(pstmo_edge_status status) const {
    if (status != PSTMO_EDGE_STATUS_OK) detail::fail(status, handle_.get(), pstmo_edge_engine_error_read);
  }

  std::unique_ptr<pstmo_edge_engine, detail::CloseEngine> handle_;
};

}  // namespace v0
}  // namespace pstmo_edge

#endif  // PSTMO_EDGE_HPP_
