#include "engine.h"

#include <algorithm>
#include <cstdio>
#include <cstring>
#include <string>
#include <utility>
#include <vector>

#include "../runtime/files.h"
#include "../runtime/tensors.h"
#include "plan.h"
#include "resources.h"

namespace pstmo_edge {
namespace cuda {
namespace {

constexpr size_t kAlignment = 256;  // of arrays on the device; the kernels were compiled for 16
constexpr unsigned kSharedWithoutAsking = 48 * 1024;
constexpr size_t kFrameFloats = PSTMO_EDGE_JOINTS * 2, kPoseFloats = PSTMO_EDGE_JOINTS * 3;

size_t rounded(size_t bytes) { return (bytes + kAlignment - 1) / kAlignment * kAlignment; }

// What a kernel's parameter points to while it is launched.
union Parameter {
  Address address;
  int32_t count;
  float number;
};

// One graph for so many windows, copies included.
struct Captured {
  int windows = 0;
  GraphExecHandle* graph = nullptr;
};

class CudaLifter final : public Lifter {
 public:
  CudaLifter(const Driver& driver, Gpu gpu, Plan plan, int frames, int max_batch)
      : resources_(driver),
        gpu_(std::move(gpu)),
        chip_(gpu_.chip()),
        plan_(std::move(plan)),
        frames_(frames),
        max_batch_(max_batch) {}

  // Everything that open promises; false with the failure in `resources`.
  bool prepare(const TensorTable& weights) {
    if (!resources_.retain(gpu_.number)) return false;
    const Current current(driver(), resources_.context());
    return check("cuCtxPushCurrent", current.code()) && resources_.stream() && load_kernels() && upload(weights) &&
           take_buffers() && prepare_single() && capture_all();
  }

  pstmo_edge_status infer(const float* keypoints, int batch, float* poses) noexcept override {
    const Current current(driver(), resources_.context());
    if (!check("cuCtxPushCurrent", current.code())) return failed();
    for (int done = 0; done < batch;) {
      const Captured& piece = piece_for(batch - done);
      const size_t first = static_cast<size_t>(done), count = static_cast<size_t>(piece.windows);
      std::memcpy(host_keypoints_, keypoints + first * window_floats(), count * window_floats() * sizeof(float));
      if (!replay(piece)) return failed();
      std::memcpy(poses + first * kPoseFloats, host_poses_, count * kPoseFloats * sizeof(float));
      done += piece.windows;
    }
    return PSTMO_EDGE_STATUS_OK;
  }

  // A frame's token is the frame: the GPU encodes a whole window faster than it is asked to do part of it.
  int token_floats() const noexcept override { return kFrameFloats; }
  void encode_frame(const float* keypoints, float* token) noexcept override {
    std::memcpy(token, keypoints, kFrameFloats * sizeof(float));
  }

  pstmo_edge_status infer_tokens(const float* const* tokens, int windows, float* poses) noexcept override {
    const Current current(driver(), resources_.context());
    if (!check("cuCtxPushCurrent", current.code())) return failed();
    for (int done = 0; done < windows;) {
      const Captured& piece = piece_for(windows - done);
      const size_t first = static_cast<size_t>(done), count = static_cast<size_t>(piece.windows);
      const size_t frames = static_cast<size_t>(frames_);
      for (size_t frame = 0; frame < count * frames; ++frame) {
        std::memcpy(host_keypoints_ + frame * kFrameFloats, tokens[first * frames + frame],
                    kFrameFloats * sizeof(float));
      }
      if (!replay(piece)) return failed();
      std::memcpy(poses + first * kPoseFloats, host_poses_, count * kPoseFloats * sizeof(float));
      done += piece.windows;
    }
    return PSTMO_EDGE_STATUS_OK;
  }

  const char* isa() const noexcept override { return chip_.c_str(); }
  int threads() const noexcept override { return 1; }
  const char* trouble() const noexcept override { return trouble_; }
  const Resources& resources() const { return resources_; }

 private:
  const Driver& driver() const { return resources_.driver(); }
  bool check(const char* function, Code code) { return resources_.check(function, code); }
  size_t window_floats() const { return static_cast<size_t>(frames_) * kFrameFloats; }

  bool load_kernels() {
    functions_.resize(plan_.kernels.size());
    for (size_t i = 0; i < functions_.size(); ++i) {
      if (!load(plan_.kernels[i], &functions_[i])) return false;
    }
    return true;
  }

  bool load(const Kernel& kernel, FunctionHandle** function) {
    const size_t bytes = static_cast<size_t>(kernel.cubin->bytes());
    Bytes image(bytes);  // aligned, as an ELF file wants to be
    std::memcpy(image.data(), kernel.cubin->data, bytes);
    ModuleHandle* module = nullptr;
    if (!resources_.module(image.data(), &module) ||
        !check("cuModuleGetFunction", driver().module_function(function, module, kernel.entry.c_str()))) {
      return false;
    }
    return kernel.shared_bytes <= kSharedWithoutAsking ||
           check("cuFuncSetAttribute",
                 driver().function_set(*function, kMaxDynamicShared, static_cast<int>(kernel.shared_bytes)));
  }

  // The kernel for one window, where the bundle has it and the driver and the GPU can run it; otherwise one window
  // takes the same launches as many.
  bool prepare_single() {
    if (!plan_.single || driver().version < plan_.single->driver || !gpu_.is_cooperative) return true;
    std::vector<Address> slots;
    for (const Argument& slot : plan_.single->network) {
      slots.push_back(slot.kind == Argument::Kind::Weight ? weights_[slot.index]
                                                          : static_cast<Address>(slot.count.fixed));
    }
    const size_t bytes = slots.size() * sizeof(Address);
    chip_ += " single-launch";
    return resources_.memory(rounded(bytes), &network_) &&
           resources_.memory(static_cast<size_t>(plan_.single->workspace), &workspace_) &&
           check("cuMemcpyHtoD", driver().copy_in(network_, slots.data(), bytes)) &&
           load(plan_.single->kernel, &single_);
  }

  bool launch_single() {
    void* parameters[] = {&network_, &buffers_[plan_.keypoints], &buffers_[plan_.poses], &workspace_};
    const Kernel& kernel = plan_.single->kernel;
    return check("cuLaunchCooperativeKernel",
                 driver().launch_together(single_, static_cast<unsigned>(gpu_.multiprocessors), 1, 1, kernel.threads, 1,
                                          1, kernel.shared_bytes, resources_.stream_handle(), parameters));
  }

  // All weights in one piece of memory, which every stream of this engine reads.
  bool upload(const TensorTable& weights) {
    size_t total = 0;
    for (size_t i = 0; i < weights.size(); ++i) total += rounded(static_cast<size_t>(weights[i].bytes()));
    Bytes staged(total);
    std::memset(staged.data(), 0, total);
    Address base = 0;
    if (!resources_.memory(total, &base)) return false;
    size_t offset = 0;
    for (size_t i = 0; i < weights.size(); ++i) {
      const size_t bytes = static_cast<size_t>(weights[i].bytes());
      std::memcpy(staged.data() + offset, weights[i].data, bytes);
      weights_.push_back(base + offset);
      offset += rounded(bytes);
    }
    return check("cuMemcpyHtoD", driver().copy_in(base, staged.data(), total));
  }

  bool take_buffers() {
    const size_t most = static_cast<size_t>(max_batch_);
    for (const Buffer& buffer : plan_.buffers) {
      Address address = 0;
      if (!resources_.memory(rounded(static_cast<size_t>(buffer.bytes) * most), &address)) return false;
      buffers_.push_back(address);
    }
    void *keypoints = nullptr, *poses = nullptr;
    if (!resources_.pinned(most * window_floats() * sizeof(float), &keypoints) ||
        !resources_.pinned(most * kPoseFloats * sizeof(float), &poses)) {
      return false;
    }
    host_keypoints_ = static_cast<float*>(keypoints), host_poses_ = static_cast<float*>(poses);
    std::memset(host_keypoints_, 0, most * window_floats() * sizeof(float));
    return true;
  }

  // 1, 2, 4 .. and max_batch, the largest first.
  bool capture_all() {
    std::vector<int> sizes = {max_batch_};
    int power = 1;
    while (power <= max_batch_ / 2) power *= 2;
    for (; power > 0; power /= 2) {
      if (power != max_batch_) sizes.push_back(power);
    }
    captured_.reserve(sizes.size());
    resources_.make_room_for_graphs(sizes.size());
    return std::all_of(sizes.begin(), sizes.end(), [&](int windows) { return capture(windows); });
  }

  bool capture(int windows) {
    StreamHandle* const stream = resources_.stream_handle();
    // Once outside of a graph: drivers load a kernel when it is first launched, which no capture may do.
    if (!run(windows) || !check("cuStreamSynchronize", driver().stream_synchronize(stream))) return false;
    if (!check("cuStreamBeginCapture", driver().capture_begin(stream, kCaptureThreadLocal))) return false;
    const bool recorded = run(windows);
    GraphHandle* graph = nullptr;  // a capture that went wrong must be ended all the same
    const bool ended = check("cuStreamEndCapture", driver().capture_end(stream, &graph));
    GraphExecHandle* exec = nullptr;
    const bool made =
        recorded && ended && check("cuGraphInstantiateWithFlags", driver().graph_instantiate(&exec, graph, 0));
    if (graph != nullptr) driver().graph_destroy(graph);
    if (!made) return false;
    resources_.keep(exec);
    captured_.push_back({windows, exec});
    return true;
  }

  // Copy in, every launch, copy out: onto the stream, or into the graph that it captures.
  bool run(int windows) {
    StreamHandle* const stream = resources_.stream_handle();
    const size_t count = static_cast<size_t>(windows);
    if (!check("cuMemcpyHtoDAsync", driver().copy_in_async(buffers_[plan_.keypoints], host_keypoints_,
                                                           count * window_floats() * sizeof(float), stream))) {
      return false;
    }
    if (!(windows == 1 && single_ != nullptr ? launch_single() : launch_all(windows))) return false;
    return check("cuMemcpyDtoHAsync", driver().copy_out_async(host_poses_, buffers_[plan_.poses],
                                                              count * kPoseFloats * sizeof(float), stream));
  }

  bool launch_all(int windows) {
    return std::all_of(plan_.launches.begin(), plan_.launches.end(),
                       [&](const Launch& each) { return launch(each, windows); });
  }

  bool launch(const Launch& from, int windows) {
    const bool few = from.tokens * windows < int64_t{plan_.few_below} * gpu_.multiprocessors;
    const Choice& choice = few ? from.few : from.many;
    const Kernel& kernel = plan_.kernels[choice.kernel];
    std::vector<Parameter> values(from.arguments.size());
    std::vector<void*> pointers(values.size());
    for (size_t i = 0; i < values.size(); ++i) {
      values[i] = parameter(from.arguments[i], windows);
      pointers[i] = &values[i];
    }
    return check("cuLaunchKernel",
                 driver().launch(functions_[choice.kernel], choice.grid[0].programs(windows),
                                 choice.grid[1].programs(windows), choice.grid[2].programs(windows), kernel.threads, 1,
                                 1, kernel.shared_bytes, resources_.stream_handle(), pointers.data(), nullptr));
  }

  Parameter parameter(const Argument& argument, int windows) const {
    Parameter made = {};
    switch (argument.kind) {
      case Argument::Kind::Buffer:
        made.address = buffers_[argument.index];
        break;
      case Argument::Kind::Weight:
        made.address = weights_[argument.index];
        break;
      case Argument::Kind::Count:
        made.count = static_cast<int32_t>(argument.count.at(windows));
        break;
      case Argument::Kind::Float:
        made.number = argument.number;
        break;
      case Argument::Kind::Null:
        break;
    }
    return made;
  }

  const Captured& piece_for(int windows) const {
    return *std::find_if(captured_.begin(), captured_.end(),
                         [&](const Captured& each) { return each.windows <= windows; });
  }

  bool replay(const Captured& piece) {
    return check("cuGraphLaunch", driver().graph_launch(piece.graph, resources_.stream_handle())) &&
           check("cuStreamSynchronize", driver().stream_synchronize(resources_.stream_handle()));
  }

  pstmo_edge_status failed() noexcept {
    const char* name = nullptr;
    driver().error_name(resources_.failed_code(), &name);
    std::snprintf(trouble_, sizeof trouble_, "the GPU failed in %s: %s (%d); close the engine and open it again",
                  resources_.failed_function(), name == nullptr ? "an unknown error" : name, resources_.failed_code());
    return PSTMO_EDGE_STATUS_DEVICE_FAILED;
  }

  Resources resources_;
  Gpu gpu_;
  std::string chip_;
  Plan plan_;
  int frames_, max_batch_;
  std::vector<FunctionHandle*> functions_;
  FunctionHandle* single_ = nullptr;
  Address network_ = 0, workspace_ = 0;  // of the kernel for one window
  std::vector<Address> weights_, buffers_;
  std::vector<Captured> captured_;  // the largest first
  float *host_keypoints_ = nullptr, *host_poses_ = nullptr;
  char trouble_[256] = "";
};

Error damaged(std::string what) { return {PSTMO_EDGE_STATUS_BUNDLE_DAMAGED, std::move(what)}; }

Error unavailable(std::string what) { return {PSTMO_EDGE_STATUS_DEVICE_UNAVAILABLE, std::move(what)}; }

// "sm_80, sm_90": the chips that a bundle has plans for.
std::string chips_of(const Manifest& manifest) {
  std::string chips;
  for (const FileEntry& file : manifest.files) {
    const std::string_view name = file.name;
    if (name.size() <= kPlanStart.size() + kPlanEnd.size() || name.substr(0, kPlanStart.size()) != kPlanStart ||
        name.substr(name.size() - kPlanEnd.size()) != kPlanEnd) {
      continue;
    }
    chips += (chips.empty() ? "" : ", ") + std::string(name.substr(4, name.size() - 4 - kPlanEnd.size()));
  }
  return chips;
}

Error no_kernels(const Manifest& manifest, const Gpu& gpu) {
  const std::string chips = chips_of(manifest);
  return unavailable("it has GPU kernels for " + (chips.empty() ? "no chip" : chips) + " and this GPU, " + gpu.name +
                     ", is " + gpu.chip() + ": add them with pstmo-edge compile BUNDLE --gpu " + gpu.chip());
}

const FileEntry* entry_of(const Manifest& manifest, std::string_view name) {
  const auto found = std::find_if(manifest.files.begin(), manifest.files.end(),
                                  [&](const FileEntry& file) { return file.name == name; });
  return found == manifest.files.end() ? nullptr : &*found;
}

// What preparing failed with, in one line.
Error failure(const Resources& resources, const Gpu& gpu, int max_batch) {
  const std::string sentence = resources.driver().sentence(resources.failed_function(), resources.failed_code());
  switch (resources.failed_code()) {
    case kOutOfMemory:
      return {PSTMO_EDGE_STATUS_OUT_OF_MEMORY, "the memory of " + gpu.name + " does not hold " +
                                                   std::to_string(max_batch) + " windows at once (" + sentence +
                                                   "): open the engine with a smaller max_batch, or free some"};
    case kInvalidImage:
    case kNoBinaryForGpu:
      return damaged("a cubin for " + gpu.chip() + " cannot be loaded (" + sentence +
                     "): compile it again with pstmo-edge compile BUNDLE --gpu " + gpu.chip());
    default:
      return {PSTMO_EDGE_STATUS_DEVICE_FAILED, gpu.name + " failed in " + sentence};
  }
}

Result<int> batch_for(int asked, const Plan& plan) {
  if (asked <= plan.most_windows) return asked > 0 ? asked : std::min(kDefaultBatch, plan.most_windows);
  return Error{PSTMO_EDGE_STATUS_INVALID_ARGUMENT, "max_batch is " + std::to_string(asked) + ": these kernels take " +
                                                       std::to_string(plan.most_windows) + " windows at most"};
}

Outcome check_driver(const Driver& driver, const Plan& plan) {
  if (driver.version >= plan.driver) return Unit{};
  return unavailable("the CUDA driver is too old: it runs CUDA " + version_text(driver.version) +
                     " and the kernels of this bundle need " + version_text(plan.driver) +
                     ": update NVIDIA's driver, or open the engine with the device \"cpu\"");
}

}  // namespace

Result<Opened> open(const char* path, const Options& options) {
  Result<Driver> driver = Driver::load(options.driver);
  if (!driver) return driver.error();
  Result<Gpu> gpu = find_gpu(*driver, options.ordinal);
  if (!gpu) return gpu.error();
  const std::string plan_name = "gpu-" + gpu->chip() + std::string(kPlanEnd);
  const std::string cubins_name = "gpu-" + gpu->chip() + std::string(kCubinsEnd);
  Result<Bundle> bundle = open_bundle(path, {std::string(kGpuWeights), plan_name, cubins_name});
  if (!bundle) return bundle.error();
  const Bytes* const text = bundle->find(plan_name);
  if (text == nullptr) return no_kernels(bundle->manifest, *gpu);
  const Bytes *const cubin_bytes = bundle->find(cubins_name), *const weight_bytes = bundle->find(kGpuWeights);
  if (cubin_bytes == nullptr || weight_bytes == nullptr) {
    return damaged("it has no " + (cubin_bytes == nullptr ? cubins_name : std::string(kGpuWeights)) +
                   " beside its launch plan; compile it again");
  }
  Result<TensorTable> weights = TensorTable::parse(weight_bytes->data(), weight_bytes->size());
  if (!weights) return weights.error();
  Result<TensorTable> cubins = TensorTable::parse(cubin_bytes->data(), cubin_bytes->size());
  if (!cubins) return cubins.error();
  Result<Plan> plan = parse_plan(text->text(), bundle->manifest.frames, *weights, *cubins);
  if (!plan) return plan.error();
  if (plan->weights_sha256 != entry_of(bundle->manifest, kGpuWeights)->sha256) {
    return damaged("its launch plan is for other weights; compile it again");
  }
  const Outcome new_enough = check_driver(*driver, *plan);
  if (!new_enough) return new_enough.error();
  const Result<int> batch = batch_for(options.max_batch, *plan);
  if (!batch) return batch.error();
  auto lifter = std::make_unique<CudaLifter>(*driver, *gpu, std::move(*plan), bundle->manifest.frames, batch.value());
  if (!lifter->prepare(*weights)) return failure(lifter->resources(), *gpu, batch.value());
  return Opened{std::move(bundle->manifest), std::move(lifter)};
}

}  // namespace cuda
}  // namespace pstmo_edge
