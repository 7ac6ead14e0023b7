#include <algorithm>
#include <cstdio>
#include <cstring>
#include <memory>
#include <string>

#include "checks.h"
#include "handles.h"

namespace pstmo_edge {
namespace {

constexpr uint32_t kMaxSide = 65536;  // pixels
constexpr double kMaxFps = 1000, kMaxGap = 10;
constexpr double kLeastGapFrames = 2;  // less would end the sequence at every frame
constexpr uint32_t kMaxBacklog = 4096;
constexpr size_t kFrameFloats = PSTMO_EDGE_JOINTS * 3;

Error invalid(std::string text) { return {PSTMO_EDGE_STATUS_INVALID_ARGUMENT, std::move(text)}; }

Result<StreamSettings> read_options(const pstmo_edge_stream_options& given, const Manifest& manifest) {
  const int most = manifest.lookahead_frames;
  const int lookahead = given.lookahead == PSTMO_EDGE_LOOKAHEAD_MODEL ? most : given.lookahead;
  if (given.image_width < 1 || given.image_width > kMaxSide || given.image_height < 1 ||
      given.image_height > kMaxSide) {
    return invalid("the image is " + std::to_string(given.image_width) + " x " + std::to_string(given.image_height) +
                   " pixels: each side must be 1 to 65536");
  }
  if (lookahead < 0 || lookahead > most) {
    return invalid("a look-ahead of " + std::to_string(lookahead) + " frames was asked for: this model has 0 to " +
                   std::to_string(most));
  }
  if (!(given.fps >= 1 && given.fps <= kMaxFps)) return invalid("fps must be 1 to 1000");
  if (!(given.max_gap > 0 && given.max_gap <= kMaxGap))
    return invalid("max_gap must be above 0 and at most 10 seconds");
  if (given.max_gap * given.fps < kLeastGapFrames) {
    return invalid("max_gap must be at least two frames: 2 / fps seconds");
  }
  if (!(given.min_confidence >= 0 && given.min_confidence <= 1e30f)) return invalid("min_confidence must be 0 or more");
  if (given.backlog < 1 || given.backlog > kMaxBacklog) return invalid("backlog must be 1 to 4096");
  if (given.skeleton != nullptr && manifest.skeleton != given.skeleton) {
    return invalid("the keypoints are " + std::string(given.skeleton).substr(0, 60) + " and this engine reads " +
                   manifest.skeleton +
                   ": the joint orders differ, so its poses would be nonsense; map the joints first");
  }
  return StreamSettings{static_cast<int>(given.image_width),
                        static_cast<int>(given.image_height),
                        lookahead,
                        given.fps,
                        given.max_gap,
                        given.min_confidence,
                        static_cast<int>(given.backlog)};
}

Result<std::unique_ptr<pstmo_edge_stream>> create_stream(pstmo_edge_engine& engine,
                                                         const pstmo_edge_stream_options& options) {
  Result<StreamSettings> settings = read_options(options, engine.manifest);
  if (!settings) return settings.error();
  auto handle = std::make_unique<pstmo_edge_stream>();
  handle->owner = &engine;
  handle->stream.emplace(*engine.lifter, engine.manifest, *settings);
  return handle;
}

// For one more stream of the engine than it has: the program's handle is counted among its owners.
void make_room(pstmo_edge_engine& engine) {
  Gathering& all = engine.gathering;
  const size_t streams = std::max(all.places.size(), static_cast<size_t>(engine.owners.load()));
  all.tokens.resize(streams * static_cast<size_t>(engine.manifest.frames));
  all.poses.resize(streams * PSTMO_EDGE_JOINTS * 3);
  all.places.resize(streams);
}

pstmo_edge_status fail(ErrorText& error, pstmo_edge_status status, const char* text) {
  error.set(text);
  return status;
}

pstmo_edge_status push(pstmo_edge_stream& handle, const float* keypoints, size_t keypoint_count, double timestamp) {
  if (keypoints == nullptr) return fail(handle.error, PSTMO_EDGE_STATUS_NULL_ARGUMENT, "keypoints is null");
  if (keypoint_count != kFrameFloats) {
    char text[kErrorBytes];
    std::snprintf(text, sizeof text, "a frame has 51 floats (17 joints of x, y, confidence), given were %zu",
                  keypoint_count);
    return fail(handle.error, PSTMO_EDGE_STATUS_INVALID_ARGUMENT, text);
  }
  const pstmo_edge_status status = handle.stream->push(keypoints, timestamp);
  if (status == PSTMO_EDGE_STATUS_OK) return status;
  return fail(
      handle.error, status,
      "the frame was rejected: its timestamp must be finite, in seconds (at most 1e10), and after the last one");
}

pstmo_edge_status read(pstmo_edge_stream& handle, pstmo_edge_pose* pose) {
  const pstmo_edge_status given = check_struct(pose);
  if (given != PSTMO_EDGE_STATUS_OK) return fail(handle.error, given, pstmo_edge_status_describe(given));
  pstmo_edge_pose found = {};
  const pstmo_edge_status status = handle.stream->read(found);
  if (status == PSTMO_EDGE_STATUS_OK) fill_struct(pose, found);
  if (status == PSTMO_EDGE_STATUS_NOT_FINITE)
    handle.error.set("a pose was not finite: the bundle's weights mean nothing");
  if (status == PSTMO_EDGE_STATUS_DEVICE_FAILED) handle.error.set(handle.owner->lifter->trouble());
  return status;
}

// What is wrong with streams that are to be read together, or nullptr. The first one's engine is held.
const char* misfit(pstmo_edge_stream* const* streams, size_t count) {
  const auto* const end = streams + count;
  const auto is_foreign = [&](const pstmo_edge_stream* stream) { return stream->owner != streams[0]->owner; };
  if (std::any_of(streams, end, is_foreign)) return "the streams are of different engines: read each engine's apart";
  std::for_each(streams, end, [](pstmo_edge_stream* stream) { stream->times_given = 0; });
  const auto is_repeated = [](pstmo_edge_stream* stream) { return ++stream->times_given > 1; };
  return std::any_of(streams, end, is_repeated) ? "one stream was given twice" : nullptr;
}

pstmo_edge_status read_many(pstmo_edge_engine& engine, pstmo_edge_stream* const* streams, size_t count,
                            pstmo_edge_pose* poses, pstmo_edge_status* statuses) {
  Gathering& all = engine.gathering;
  const size_t frames = static_cast<size_t>(engine.manifest.frames);
  constexpr size_t kPose = PSTMO_EDGE_JOINTS * 3;
  size_t ready = 0;
  for (size_t i = 0; i < count; ++i) {
    pstmo_edge_pose found = {};
    statuses[i] = streams[i]->stream->prepare(all.tokens.data() + ready * frames, found);
    if (statuses[i] != PSTMO_EDGE_STATUS_OK) continue;
    fill_struct(&poses[i], found);
    all.places[ready++] = i;
  }
  if (ready == 0) return PSTMO_EDGE_STATUS_OK;
  const pstmo_edge_status status =
      engine.lifter->infer_tokens(all.tokens.data(), static_cast<int>(ready), all.poses.data());
  if (status != PSTMO_EDGE_STATUS_OK) return fail(engine.error, status, engine.lifter->trouble());
  for (size_t window = 0; window < ready; ++window) {
    pstmo_edge_stream& stream = *streams[all.places[window]];
    pstmo_edge_pose& pose = poses[all.places[window]];
    std::memcpy(pose.joints, all.poses.data() + window * kPose, sizeof pose.joints);
    statuses[all.places[window]] = stream.stream->take(pose);
  }
  return PSTMO_EDGE_STATUS_OK;
}

// Runs `body` with the stream's engine held.
template <typename Body>
pstmo_edge_status leased(pstmo_edge_stream* stream, Body body) noexcept {
  if (stream == nullptr) return PSTMO_EDGE_STATUS_NULL_ARGUMENT;
  const Lease lease(stream->owner);
  return lease.taken() ? guarded(stream->error, body) : PSTMO_EDGE_STATUS_BUSY;
}

}  // namespace
}  // namespace pstmo_edge

using pstmo_edge::leased;

extern "C" pstmo_edge_status pstmo_edge_stream_create(pstmo_edge_engine* engine,
                                                      const pstmo_edge_stream_options* options,
                                                      pstmo_edge_stream** stream) noexcept {
  if (engine == nullptr) return PSTMO_EDGE_STATUS_NULL_ARGUMENT;
  const pstmo_edge::Lease lease(engine);
  if (!lease.taken()) return PSTMO_EDGE_STATUS_BUSY;
  return pstmo_edge::guarded(engine->error, [&] {
    if (stream == nullptr) return pstmo_edge::fail(engine->error, PSTMO_EDGE_STATUS_NULL_ARGUMENT, "stream is null");
    const pstmo_edge_status given = pstmo_edge::check_struct(options);
    if (given != PSTMO_EDGE_STATUS_OK) return pstmo_edge::fail(engine->error, given, pstmo_edge_status_describe(given));
    auto created = pstmo_edge::create_stream(*engine, *options);
    if (!created) return pstmo_edge::fail(engine->error, created.error().status, created.error().text.c_str());
    pstmo_edge::make_room(*engine);
    engine->owners.fetch_add(1, std::memory_order_relaxed);
    *stream = created->release();
    return PSTMO_EDGE_STATUS_OK;
  });
}

extern "C" void pstmo_edge_stream_close(pstmo_edge_stream* stream) noexcept {
  if (stream == nullptr) return;
  pstmo_edge_engine* owner = stream->owner;
  delete stream;
  pstmo_edge::release(owner);
}

extern "C" pstmo_edge_status pstmo_edge_stream_push(pstmo_edge_stream* stream, const float* keypoints,
                                                    size_t keypoint_count, double timestamp) noexcept {
  return leased(stream, [&] { return pstmo_edge::push(*stream, keypoints, keypoint_count, timestamp); });
}

extern "C" pstmo_edge_status pstmo_edge_stream_finish(pstmo_edge_stream* stream) noexcept {
  return leased(stream, [&] {
    stream->stream->finish();
    return PSTMO_EDGE_STATUS_OK;
  });
}

extern "C" pstmo_edge_status pstmo_edge_stream_read(pstmo_edge_stream* stream, pstmo_edge_pose* pose) noexcept {
  return leased(stream, [&] { return pstmo_edge::read(*stream, pose); });
}

extern "C" pstmo_edge_status pstmo_edge_streams_read(pstmo_edge_stream* const* streams, size_t count,
                                                     pstmo_edge_pose* poses, pstmo_edge_status* statuses) noexcept {
  if (count == 0) return PSTMO_EDGE_STATUS_OK;
  if (streams == nullptr || poses == nullptr || statuses == nullptr) return PSTMO_EDGE_STATUS_NULL_ARGUMENT;
  for (size_t i = 0; i < count; ++i) {
    if (streams[i] == nullptr) return PSTMO_EDGE_STATUS_NULL_ARGUMENT;
    const pstmo_edge_status given = pstmo_edge::check_struct(&poses[i]);
    if (given != PSTMO_EDGE_STATUS_OK) return given;
  }
  pstmo_edge_engine& engine = *streams[0]->owner;
  const pstmo_edge::Lease lease(&engine);
  if (!lease.taken()) return PSTMO_EDGE_STATUS_BUSY;
  const char* const wrong = pstmo_edge::misfit(streams, count);
  if (wrong != nullptr) return pstmo_edge::fail(engine.error, PSTMO_EDGE_STATUS_INVALID_ARGUMENT, wrong);
  return pstmo_edge::guarded(engine.error,
                             [&] { return pstmo_edge::read_many(engine, streams, count, poses, statuses); });
}

extern "C" pstmo_edge_status pstmo_edge_stream_counters_read(pstmo_edge_stream* stream,
                                                             pstmo_edge_stream_counters* counters) noexcept {
  return leased(stream, [&] {
    const pstmo_edge_status given = pstmo_edge::check_struct(counters);
    if (given != PSTMO_EDGE_STATUS_OK) return pstmo_edge::fail(stream->error, given, pstmo_edge_status_describe(given));
    pstmo_edge::fill_struct(counters, stream->stream->counters());
    return PSTMO_EDGE_STATUS_OK;
  });
}

extern "C" pstmo_edge_status pstmo_edge_stream_error_read(pstmo_edge_stream* stream, char* text,
                                                          size_t text_size) noexcept {
  return leased(stream, [&] {
    if (text == nullptr || text_size == 0) return PSTMO_EDGE_STATUS_NULL_ARGUMENT;
    pstmo_edge::ErrorText::copy(stream->error.c_str(), text, text_size);
    return PSTMO_EDGE_STATUS_OK;
  });
}
