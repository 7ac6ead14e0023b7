#include <algorithm>
#include <charconv>
#include <cmath>
#include <cstddef>
#include <string_view>
#include <thread>
#include <utility>

#include "../cuda/engine.h"
#include "bundle.h"
#include "checks.h"
#include "engine.h"
#include "handles.h"

namespace pstmo_edge {
namespace {

constexpr uint32_t kMaxThreads = 64;
constexpr unsigned kDefaultThreads = 4;  // the network is small: more of them wait for each other
constexpr float kFarthest = 1000.0f;     // image widths; far below what could overflow in the network

struct IsaName {
  const char* name;
  Isa isa;
};

constexpr IsaName kIsaNames[] = {{"auto", Isa::Auto}, {"portable", Isa::Portable},
                                 {"avx2", Isa::Avx2}, {"avx512-vnni", Isa::Avx512},
                                 {"neon", Isa::Neon}, {"neon-dotprod", Isa::NeonDotprod}};

// The engine on this CPU.
class CpuLifter final : public Lifter {
 public:
  explicit CpuLifter(std::unique_ptr<Engine> engine, int frames) : engine_(std::move(engine)), frames_(frames) {}

  pstmo_edge_status infer(const float* keypoints, int batch, float* poses) noexcept override {
    engine_->infer(keypoints, batch, poses);
    return PSTMO_EDGE_STATUS_OK;
  }
  int token_floats() const noexcept override { return engine_->token_floats(); }
  void encode_frame(const float* keypoints, float* token) noexcept override { engine_->encode_frame(keypoints, token); }
  pstmo_edge_status infer_tokens(const float* const* tokens, int windows, float* poses) noexcept override {
    for (int i = 0; i < windows; ++i, tokens += frames_) {
      engine_->infer_tokens(tokens, poses + ptrdiff_t{i} * PSTMO_EDGE_JOINTS * 3);
    }
    return PSTMO_EDGE_STATUS_OK;
  }
  const char* isa() const noexcept override { return engine_->kernels().name; }
  int threads() const noexcept override { return engine_->threads(); }
  const char* trouble() const noexcept override { return ""; }

 private:
  std::unique_ptr<Engine> engine_;
  int frames_;
};

Result<EngineOptions> read_options(const pstmo_edge_engine_options& given) {
  EngineOptions options;
  const uint32_t threads = given.threads;
  const char* isa = given.isa == nullptr ? "auto" : given.isa;
  if (threads > kMaxThreads) {
    return Error{PSTMO_EDGE_STATUS_INVALID_ARGUMENT, std::to_string(threads) + " threads were asked for: use 0 to 64"};
  }
  const unsigned cores = std::max(1u, std::thread::hardware_concurrency());
  options.threads = static_cast<int>(threads != 0 ? threads : std::min(cores, kDefaultThreads));
  const auto* found = std::find_if(std::begin(kIsaNames), std::end(kIsaNames),
                                   [&](const IsaName& entry) { return std::string_view(entry.name) == isa; });
  if (found == std::end(kIsaNames)) {
    return Error{PSTMO_EDGE_STATUS_INVALID_ARGUMENT,
                 "no kernels for '" + std::string(isa).substr(0, 40) +
                     "': use auto, portable, avx2, avx512-vnni, neon or neon-dotprod"};
  }
  options.isa = found->isa;
  return options;
}

ModelConfig config_of(const Manifest& manifest) {
  ModelConfig config;
  config.frames = manifest.frames;
  config.layers = manifest.layers;
  config.channels = manifest.channels;
  config.hidden = manifest.hidden;
  config.heads = manifest.heads;
  config.joints = PSTMO_EDGE_JOINTS;
  config.target_index = manifest.target_index;
  return config;
}

using Handle = std::unique_ptr<pstmo_edge_engine>;

Handle handle_of(Manifest manifest, std::unique_ptr<Lifter> lifter) {
  auto handle = std::make_unique<pstmo_edge_engine>();
  handle->manifest = std::move(manifest);
  handle->lifter = std::move(lifter);
  return handle;
}

Result<Handle> open_on_cpu(const char* path, const pstmo_edge_engine_options& given) {
  Result<EngineOptions> options = read_options(given);
  if (!options) return options.error();
  Result<Bundle> bundle = open_bundle(path);
  if (!bundle) return bundle.error();
  const Outcome target = check_target(bundle->manifest);
  if (!target) return target.error();
  Result<TensorTable> tensors = TensorTable::parse(bundle->weights.data(), bundle->weights.size());
  if (!tensors) return tensors.error();
  Result<std::unique_ptr<Engine>> engine = Engine::create(config_of(bundle->manifest), *tensors, *options);
  if (!engine) return engine.error();
  auto lifter = std::make_unique<CpuLifter>(std::move(*engine), bundle->manifest.frames);
  return handle_of(std::move(bundle->manifest), std::move(lifter));
}

// The GPU's number in "cuda" or "cuda:N"; -1 for anything else.
int ordinal_of(std::string_view device) {
  if (device == "cuda") return 0;
  int ordinal = -1;
  if (device.size() < 6 || device.size() > 8 || device.substr(0, 5) != "cuda:") return -1;
  const char* const end = device.data() + device.size();
  const auto [stopped, problem] = std::from_chars(device.data() + 5, end, ordinal);
  return problem == std::errc() && stopped == end && ordinal >= 0 ? ordinal : -1;
}

Result<Handle> open_on_gpu(const char* path, const pstmo_edge_engine_options& given) {
  cuda::Options options;
  options.ordinal = ordinal_of(given.device);
  if (options.ordinal < 0) {
    return Error{PSTMO_EDGE_STATUS_INVALID_ARGUMENT,
                 "no device '" + std::string(given.device).substr(0, 40) + "': use cpu, cuda or cuda:0 to cuda:99"};
  }
  if (given.max_batch > PSTMO_EDGE_MAX_BATCH) {
    return Error{PSTMO_EDGE_STATUS_INVALID_ARGUMENT,
                 "max_batch is " + std::to_string(given.max_batch) + ": use 1 to 65536, or 0 for 64"};
  }
  options.max_batch = static_cast<int>(given.max_batch);
  options.driver = given.driver;
  Result<cuda::Opened> opened = cuda::open(path, options);
  if (!opened) return opened.error();
  return handle_of(std::move(opened->manifest), std::move(opened->lifter));
}

Result<Handle> open_engine(const char* path, const pstmo_edge_engine_options& given) {
  const bool on_cpu = given.device == nullptr || std::string_view(given.device) == "cpu";
  return on_cpu ? open_on_cpu(path, given) : open_on_gpu(path, given);
}

bool are_usable(const float* values, size_t count) {
  return std::all_of(values, values + count, [](float value) { return std::fabs(value) <= kFarthest; });
}

pstmo_edge_status fail(ErrorText& error, pstmo_edge_status status, const char* text) {
  error.set(text);
  return status;
}

pstmo_edge_status infer(pstmo_edge_engine& handle, const float* keypoints, size_t keypoint_count, uint32_t batch,
                        float* poses, size_t pose_count) {
  const size_t window = static_cast<size_t>(handle.manifest.frames) * PSTMO_EDGE_JOINTS * 2;
  constexpr size_t kPose = PSTMO_EDGE_JOINTS * 3;
  if (batch == 0 || batch > PSTMO_EDGE_MAX_BATCH || keypoint_count != batch * window || pose_count != batch * kPose) {
    char text[kErrorBytes];
    std::snprintf(
        text, sizeof text,
        "%u windows need %zu keypoint floats and %zu pose floats, given were %zu and %zu; 1 to %u windows a call",
        static_cast<unsigned>(batch), batch * window, batch * kPose, keypoint_count, pose_count,
        static_cast<unsigned>(PSTMO_EDGE_MAX_BATCH));
    return fail(handle.error, PSTMO_EDGE_STATUS_INVALID_ARGUMENT, text);
  }
  if (!are_usable(keypoints, keypoint_count)) {
    return fail(handle.error, PSTMO_EDGE_STATUS_NOT_FINITE,
                "keypoints are NaN, infinite or more than 1000 image widths away: fill missing joints first");
  }
  const pstmo_edge_status status = handle.lifter->infer(keypoints, static_cast<int>(batch), poses);
  if (status != PSTMO_EDGE_STATUS_OK) return fail(handle.error, status, handle.lifter->trouble());
  const bool finite = std::all_of(poses, poses + pose_count, [](float value) { return std::isfinite(value); });
  return finite ? PSTMO_EDGE_STATUS_OK
                : fail(handle.error, PSTMO_EDGE_STATUS_NOT_FINITE,
                       "poses are not finite: the bundle's weights mean nothing");
}

pstmo_edge_engine_info info_of(const pstmo_edge_engine& handle) {
  const Manifest& manifest = handle.manifest;
  pstmo_edge_engine_info info = {};
  info.frames = static_cast<uint32_t>(manifest.frames);
  info.joints = PSTMO_EDGE_JOINTS;
  info.channels = 2;
  info.t_downsample = static_cast<uint32_t>(manifest.t_downsample);
  info.target_index = static_cast<uint32_t>(manifest.target_index);
  info.lookahead_frames = static_cast<uint32_t>(manifest.lookahead_frames);
  info.threads = static_cast<uint32_t>(handle.lifter->threads());
  info.frame_rate = manifest.frame_rate;
  info.lookahead_ms = 1000.0 * manifest.lookahead_frames * manifest.t_downsample / manifest.frame_rate;
  info.model = manifest.model.c_str();
  info.precision = manifest.precision.c_str();
  info.skeleton = manifest.skeleton.c_str();
  info.pose_skeleton = manifest.pose_skeleton.c_str();
  info.target = manifest.target.c_str();
  info.isa = handle.lifter->isa();
  return info;
}

}  // namespace
}  // namespace pstmo_edge

using pstmo_edge::ErrorText;
using pstmo_edge::Lease;

extern "C" pstmo_edge_status pstmo_edge_engine_open(const char* path, const pstmo_edge_engine_options* options,
                                                    pstmo_edge_engine** engine, char* error,
                                                    size_t error_size) noexcept {
  ErrorText text;
  const pstmo_edge_status status = pstmo_edge::guarded(text, [&] {
    pstmo_edge_status given =
        path == nullptr || engine == nullptr ? PSTMO_EDGE_STATUS_NULL_ARGUMENT : PSTMO_EDGE_STATUS_OK;
    pstmo_edge_engine_options known = PSTMO_EDGE_ENGINE_OPTIONS_INIT;
    if (given == PSTMO_EDGE_STATUS_OK && options != nullptr) {
      given = pstmo_edge::read_struct(options, offsetof(pstmo_edge_engine_options, device), &known);
    }
    if (given != PSTMO_EDGE_STATUS_OK) return pstmo_edge::fail(text, given, pstmo_edge_status_describe(given));
    auto opened = pstmo_edge::open_engine(path, known);
    if (opened) {
      *engine = opened->release();
      return PSTMO_EDGE_STATUS_OK;
    }
    text.set((std::string(path).substr(0, 200) + ": " + opened.error().text).c_str());
    return opened.error().status;
  });
  if (status != PSTMO_EDGE_STATUS_OK) ErrorText::copy(text.c_str(), error, error_size);
  return status;
}

extern "C" void pstmo_edge_engine_close(pstmo_edge_engine* engine) noexcept {
  if (engine != nullptr) pstmo_edge::release(engine);
}

extern "C" pstmo_edge_status pstmo_edge_engine_info_read(const pstmo_edge_engine* engine,
                                                         pstmo_edge_engine_info* info) noexcept {
  if (engine == nullptr) return PSTMO_EDGE_STATUS_NULL_ARGUMENT;
  const pstmo_edge_status status = pstmo_edge::check_struct(info);
  if (status == PSTMO_EDGE_STATUS_OK) pstmo_edge::fill_struct(info, pstmo_edge::info_of(*engine));
  return status;
}

extern "C" const char* pstmo_edge_engine_joint_describe(const pstmo_edge_engine* engine, uint32_t joint) noexcept {
  if (engine == nullptr || joint >= engine->manifest.joints.size()) return nullptr;
  return engine->manifest.joints[joint].c_str();
}

extern "C" pstmo_edge_status pstmo_edge_engine_infer(pstmo_edge_engine* engine, const float* keypoints,
                                                     size_t keypoint_count, uint32_t batch, float* poses,
                                                     size_t pose_count) noexcept {
  if (engine == nullptr) return PSTMO_EDGE_STATUS_NULL_ARGUMENT;
  const Lease lease(engine);
  if (!lease.taken()) return PSTMO_EDGE_STATUS_BUSY;
  if (keypoints == nullptr || poses == nullptr) {
    return pstmo_edge::fail(engine->error, PSTMO_EDGE_STATUS_NULL_ARGUMENT, "keypoints or poses is null");
  }
  return pstmo_edge::infer(*engine, keypoints, keypoint_count, batch, poses, pose_count);
}

extern "C" pstmo_edge_status pstmo_edge_engine_error_read(pstmo_edge_engine* engine, char* text,
                                                          size_t text_size) noexcept {
  if (engine == nullptr || text == nullptr || text_size == 0) return PSTMO_EDGE_STATUS_NULL_ARGUMENT;
  const Lease lease(engine);
  if (!lease.taken()) return PSTMO_EDGE_STATUS_BUSY;
  ErrorText::copy(engine->error.c_str(), text, text_size);
  return PSTMO_EDGE_STATUS_OK;
}
