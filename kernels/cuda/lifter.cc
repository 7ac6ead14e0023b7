#include "lifter.h"

#include <algorithm>
#include <array>
#include <cstdio>
#include <cstring>
#include <utility>

#include "../runtime/files.h"

namespace pstmo_edge {
namespace cuda {
namespace {

constexpr size_t kAlignment = 256;  // of arrays on the device; the kernels were compiled for 16
constexpr unsigned kSharedWithoutAsking = 48 * 1024;
constexpr size_t kFrameFloats = PSTMO_EDGE_JOINTS * 2, kPoseFloats = PSTMO_EDGE_JOINTS * 3;

size_t rounded(size_t bytes) { return (bytes + kAlignment - 1) / kAlignment * kAlignment; }

// What a kernel's parameters point to while it is launched. The driver reads as many as the cubin has, whatever the
// plan says: there are always kMostArguments, and those that no argument fills are zero.
class Parameters {
 public:
  Parameters() {
    for (size_t i = 0; i < values_.size(); ++i) pointers_[i] = &values_[i];
  }
  Parameters(const Parameters&) = delete;
  Parameters& operator=(const Parameters&) = delete;

  void add(Address address) { values_[used_++].address = address; }
  void add(int64_t count) { values_[used_++].count = static_cast<int32_t>(count); }
  void add(float number) { values_[used_++].number = number; }
  void** pointers() { return pointers_.data(); }

 private:
  union Value {
    Address address;
    int32_t count;
    float number;
  };
  std::array<Value, kMostArguments> values_ = {};
  std::array<void*, kMostArguments> pointers_;
  size_t used_ = 0;
};

}  // namespace

CudaLifter::CudaLifter(const Driver& driver, Gpu gpu, Plan plan, int frames, int max_batch)
    : resources_(driver),
      gpu_(std::move(gpu)),
      chip_(gpu_.chip()),
      plan_(std::move(plan)),
      frames_(frames),
      max_batch_(max_batch) {}

size_t CudaLifter::window_floats() const { return static_cast<size_t>(frames_) * kFrameFloats; }

// ---- opening
// ---------------------------------------------------------------------------------------------------------

bool CudaLifter::prepare(const TensorTable& weights) {
  if (!resources_.retain(gpu_.number)) return false;
  const Current current(driver(), resources_.context());
  return check("cuCtxPushCurrent", current.code()) && resources_.stream() && load_kernels() && upload(weights) &&
         take_buffers() && prepare_single() && capture_all();
}

bool CudaLifter::load_kernels() {
  functions_.resize(plan_.kernels.size());
  for (size_t i = 0; i < functions_.size(); ++i) {
    if (!load(plan_.kernels[i], &functions_[i])) return false;
  }
  return true;
}

bool CudaLifter::load(const Kernel& kernel, FunctionHandle** function) {
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

// All weights in one piece of memory, which every stream of this engine reads.
bool CudaLifter::upload(const TensorTable& weights) {
  size_t total = 0;
  for (size_t i = 0; i < weights.size(); ++i) total += rounded(static_cast<size_t>(weights[i].bytes()));
  if (total == 0) return true;  // and the plan names none
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
  return resources_.copy_in(base, staged.data(), total);
}

bool CudaLifter::take_buffers() {
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

// The kernel for one window, where the bundle has it and the driver and the GPU can run it; otherwise one window takes
// the same launches as many.
bool CudaLifter::prepare_single() {
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
         resources_.copy_in(network_, slots.data(), bytes) && load(plan_.single->kernel, &single_);
}

// 1, 2, 4 .. and max_batch, the largest first.
bool CudaLifter::capture_all() {
  std::vector<int> sizes = {max_batch_};
  int power = 1;
  while (power <= max_batch_ / 2) power *= 2;
  for (; power > 0; power /= 2) {
    if (power != max_batch_) sizes.push_back(power);
  }
  captured_.reserve(sizes.size());
  resources_.make_room_for_graphs(sizes.size());
  return std::all_of(sizes.begin(), sizes.end(), [&](int windows) { return capture(windows); }) && resources_.wait();
}

bool CudaLifter::capture(int windows) noexcept {
  StreamHandle* const stream = resources_.stream_handle();
  // Once outside of a graph: drivers load a kernel when it is first launched, which no capture may do.
  if (!run(windows) || !resources_.wait()) return false;
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
  // Else the first window of this size would wait for it.
  return check("cuGraphUpload", driver().graph_upload(exec, stream));
}

// ---- launching; nothing here allocates, so that nothing is thrown while a graph is captured
// --------------------------

// Copy in, every launch, copy out: onto the stream, or into the graph that it captures.
bool CudaLifter::run(int windows) noexcept {
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

bool CudaLifter::launch_all(int windows) noexcept {
  return std::all_of(plan_.launches.begin(), plan_.launches.end(),
                     [&](const Launch& each) { return launch(each, windows); });
}

bool CudaLifter::launch(const Launch& from, int windows) noexcept {
  const bool few = from.tokens * windows < int64_t{plan_.few_below} * gpu_.multiprocessors;
  const Choice& choice = few ? from.few : from.many;
  const Kernel& kernel = plan_.kernels[choice.kernel];
  Parameters parameters;
  for (const Argument& argument : from.arguments) {
    switch (argument.kind) {
      case Argument::Kind::Buffer:
        parameters.add(buffers_[argument.index]);
        break;
      case Argument::Kind::Weight:
        parameters.add(weights_[argument.index]);
        break;
      case Argument::Kind::Count:
        parameters.add(argument.count.at(windows));
        break;
      case Argument::Kind::Float:
        parameters.add(argument.number);
        break;
      case Argument::Kind::Null:
        parameters.add(Address{0});
        break;
    }
  }
  return check("cuLaunchKernel",
               driver().launch(functions_[choice.kernel], choice.grid[0].programs(windows),
                               choice.grid[1].programs(windows), choice.grid[2].programs(windows), kernel.threads, 1, 1,
                               kernel.shared_bytes, resources_.stream_handle(), parameters.pointers(), nullptr));
}

bool CudaLifter::launch_single() noexcept {
  Parameters parameters;
  for (const Address address : {network_, buffers_[plan_.keypoints], buffers_[plan_.poses], workspace_}) {
    parameters.add(address);
  }
  const Kernel& kernel = plan_.single->kernel;
  return check("cuLaunchCooperativeKernel",
               driver().launch_together(single_, static_cast<unsigned>(gpu_.multiprocessors), 1, 1, kernel.threads, 1,
                                        1, kernel.shared_bytes, resources_.stream_handle(), parameters.pointers()));
}

// ---- lifting
// ---------------------------------------------------------------------------------------------------------

int CudaLifter::token_floats() const noexcept { return kFrameFloats; }

void CudaLifter::encode_frame(const float* keypoints, float* token) noexcept {
  std::memcpy(token, keypoints, kFrameFloats * sizeof(float));
}

pstmo_edge_status CudaLifter::infer(const float* keypoints, int batch, float* poses) noexcept {
  return lift(batch, poses, [&](size_t first, size_t count) {
    std::memcpy(host_keypoints_, keypoints + first * window_floats(), count * window_floats() * sizeof(float));
  });
}

pstmo_edge_status CudaLifter::infer_tokens(const float* const* tokens, int windows, float* poses) noexcept {
  const size_t frames = static_cast<size_t>(frames_);
  return lift(windows, poses, [&](size_t first, size_t count) {
    for (size_t frame = 0; frame < count * frames; ++frame) {
      std::memcpy(host_keypoints_ + frame * kFrameFloats, tokens[first * frames + frame], kFrameFloats * sizeof(float));
    }
  });
}

// Piece by piece; `fill` puts the windows from `first` on where the graph copies them from.
template <typename Fill>
pstmo_edge_status CudaLifter::lift(int windows, float* poses, Fill fill) noexcept {
  resources_.forget_failure();
  if (!resources_.is_here()) {
    std::snprintf(trouble_, sizeof trouble_,
                  "this process was forked after the engine was opened, and a GPU does not "
                  "follow: open the engine after the fork");
    return PSTMO_EDGE_STATUS_DEVICE_FAILED;
  }
  const Current current(driver(), resources_.context());
  if (!check("cuCtxPushCurrent", current.code())) return failed();
  for (int done = 0; done < windows;) {
    const Captured& piece = piece_for(windows - done);
    const size_t first = static_cast<size_t>(done), count = static_cast<size_t>(piece.windows);
    fill(first, count);
    if (!replay(piece)) return failed();
    std::memcpy(poses + first * kPoseFloats, host_poses_, count * kPoseFloats * sizeof(float));
    done += piece.windows;
  }
  return PSTMO_EDGE_STATUS_OK;
}

const CudaLifter::Captured& CudaLifter::piece_for(int windows) const {
  return *std::find_if(captured_.begin(), captured_.end(),
                       [&](const Captured& each) { return each.windows <= windows; });
}

bool CudaLifter::replay(const Captured& piece) {
  return check("cuGraphLaunch", driver().graph_launch(piece.graph, resources_.stream_handle())) && resources_.wait();
}

pstmo_edge_status CudaLifter::failed() noexcept {
  const char* name = nullptr;
  const Code code = resources_.failed_code();
  if (driver().error_name(code, &name) != kSuccess || name == nullptr) name = "an unknown error";
  std::snprintf(trouble_, sizeof trouble_, "the GPU failed in %s: %s (%d); %s", resources_.failed_function(), name,
                code, is_final(code) ? "start the program again" : "close the engine and open it again");
  return PSTMO_EDGE_STATUS_DEVICE_FAILED;
}

}  // namespace cuda
}  // namespace pstmo_edge
