// Stands for the CUDA driver where there is none: a shared library with the functions that kernels/cuda calls. It holds
// their callers to the driver's rules (a current context, live handles, nothing but launches and copies while a graph
// is captured, work that is done when a stream is waited for and not before), computes every launch on the host by
// standin_ops.cc, and fails where it is told to. What it takes says nothing of any GPU.
#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <set>
#include <sstream>
#include <string>
#include <vector>

#include "../../kernels/cuda/driver.h"
#include "standin_ops.h"

#define EXPORTED extern "C" __attribute__((visibility("default")))

namespace pstmo_edge {
namespace cuda {

struct ContextHandle {
  int owners = 0;
};
struct FunctionHandle {
  standin::Source source;
  bool much_shared = false;
};
struct ModuleHandle {
  FunctionHandle function;
};
using Work = std::vector<std::function<void()>>;
struct StreamHandle {
  Work queue;
  bool capturing = false;
  Work captured;
};
struct GraphHandle {
  Work work;
};
struct GraphExecHandle {
  Work work;
};

}  // namespace cuda
}  // namespace pstmo_edge

namespace {

using namespace pstmo_edge::cuda;
namespace standin = pstmo_edge::standin;

struct State {
  std::recursive_mutex mutex;
  bool started = false;
  int capability = 87, multiprocessors = 8, version = 12060;
  size_t memory = size_t{1} << 32;
  long calls = 0, fail_at = 0, launches = 0, replays = 0, together = 0;
  Code fail_with = 999;
  bool computes = true;
  std::string violation;
  ContextHandle context;
  std::map<Address, std::unique_ptr<uint8_t[]>> device;
  std::map<Address, size_t> sizes;  // of device and pinned memory
  std::map<void*, std::unique_ptr<uint8_t[]>> pinned;
  std::set<std::unique_ptr<ModuleHandle>> modules;
  std::set<std::unique_ptr<StreamHandle>> streams;
  std::set<std::unique_ptr<GraphHandle>> graphs;
  std::set<std::unique_ptr<GraphExecHandle>> execs;
};

State& state() {
  static State all;
  return all;
}

thread_local std::vector<ContextHandle*> current;

void violate(const std::string& what) {
  if (state().violation.empty()) state().violation = what;
}

enum class Needs { Nothing, Start, Context };

// Counts a call, holds it to the rules, and answers whether it is the one that fails.
Code enter(const char* name, Needs needs, bool while_capturing = false) {
  State& all = state();
  ++all.calls;
  if (needs != Needs::Nothing && !all.started) violate(std::string(name) + " before cuInit");
  if (needs == Needs::Context && current.empty()) violate(std::string(name) + " without a current context");
  const bool capturing =
      std::any_of(all.streams.begin(), all.streams.end(), [](auto& each) { return each->capturing; });
  if (capturing && !while_capturing) violate(std::string(name) + " while a graph is captured");
  return all.fail_at != 0 && all.calls == all.fail_at ? all.fail_with : kSuccess;
}

template <typename T>
typename std::set<std::unique_ptr<T>>::iterator find(std::set<std::unique_ptr<T>>& all, T* wanted) {
  return std::find_if(all.begin(), all.end(), [&](auto& each) { return each.get() == wanted; });
}

template <typename T>
bool is_live(std::set<std::unique_ptr<T>>& all, T* wanted, const char* name) {
  const bool live = find(all, wanted) != all.end();
  if (!live) violate(std::string(name) + " of what is not live");
  return live;
}

// What is given back is gone, whatever the call answers.
template <typename T>
void erase(std::set<std::unique_ptr<T>>& all, T* wanted, const char* name) {
  if (is_live(all, wanted, name)) all.erase(find(all, wanted));
}

size_t room(Address address) {
  auto after = state().sizes.upper_bound(address);
  if (after == state().sizes.begin()) return 0;
  --after;
  return address >= after->first + after->second ? 0 : static_cast<size_t>(after->first + after->second - address);
}

void check_room(Address address, size_t bytes, const char* name) {
  if (room(address) < bytes) violate(std::string(name) + " outside of memory that was taken");
}

Code submit(StreamHandle* stream, std::function<void()> work) {
  (stream->capturing ? stream->captured : stream->queue).push_back(std::move(work));
  return kSuccess;
}

Address address_of(const void* host) { return static_cast<Address>(reinterpret_cast<uintptr_t>(host)); }
void* pointer_of(Address address) { return reinterpret_cast<void*>(static_cast<uintptr_t>(address)); }

std::unique_ptr<uint8_t[]> poisoned(size_t bytes) {
  std::unique_ptr<uint8_t[]> made(new uint8_t[bytes]);
  std::memset(made.get(), 0xff, bytes);  // NaN in every type of floats
  return made;
}

}  // namespace

#define ENTER(name, ...)                                           \
  const std::lock_guard<std::recursive_mutex> lock(state().mutex); \
  const Code told = enter(name, __VA_ARGS__)
#define ENTER_OR_FAIL(name, ...) \
  ENTER(name, __VA_ARGS__);      \
  if (told != kSuccess) return told

EXPORTED Code cuInit(unsigned) {
  ENTER_OR_FAIL("cuInit", Needs::Nothing);
  state().started = true;
  return kSuccess;
}

EXPORTED Code cuDriverGetVersion(int* version) {
  ENTER_OR_FAIL("cuDriverGetVersion", Needs::Nothing);
  *version = state().version;
  return kSuccess;
}

EXPORTED Code cuGetErrorName(Code code, const char** name) {
  switch (code) {
    case kOutOfMemory:
      *name = "CUDA_ERROR_OUT_OF_MEMORY";
      return kSuccess;
    case kInvalidImage:
      *name = "CUDA_ERROR_INVALID_IMAGE";
      return kSuccess;
    case 100:
      *name = "CUDA_ERROR_NO_DEVICE";
      return kSuccess;
    case 719:
      *name = "CUDA_ERROR_LAUNCH_FAILED";
      return kSuccess;
    default:
      return 1;
  }
}

EXPORTED Code cuDeviceGetCount(int* count) {
  ENTER_OR_FAIL("cuDeviceGetCount", Needs::Start);
  *count = 1;
  return kSuccess;
}

EXPORTED Code cuDeviceGet(DeviceNumber* device, int ordinal) {
  ENTER_OR_FAIL("cuDeviceGet", Needs::Start);
  *device = ordinal;
  return kSuccess;
}

EXPORTED Code cuDeviceGetName(char* name, int size, DeviceNumber) {
  ENTER_OR_FAIL("cuDeviceGetName", Needs::Start);
  std::strncpy(name, "stand-in (no GPU)", static_cast<size_t>(size));
  return kSuccess;
}

EXPORTED Code cuDeviceGetAttribute(int* value, int attribute, DeviceNumber) {
  ENTER_OR_FAIL("cuDeviceGetAttribute", Needs::Start);
  if (attribute == kMajor) *value = state().capability / 10;
  if (attribute == kMinor) *value = state().capability % 10;
  if (attribute == kMultiprocessors) *value = state().multiprocessors;
  if (attribute == kCooperativeLaunch) *value = 1;
  return kSuccess;
}

EXPORTED Code cuDevicePrimaryCtxRetain(ContextHandle** context, DeviceNumber) {
  ENTER_OR_FAIL("cuDevicePrimaryCtxRetain", Needs::Start);
  ++state().context.owners;
  *context = &state().context;
  return kSuccess;
}

EXPORTED Code cuDevicePrimaryCtxRelease_v2(DeviceNumber) {
  ENTER("cuDevicePrimaryCtxRelease", Needs::Start);
  if (--state().context.owners < 0) violate("a context is released more often than it was retained");
  return told;
}

EXPORTED Code cuCtxPushCurrent_v2(ContextHandle* context) {
  ENTER_OR_FAIL("cuCtxPushCurrent", Needs::Start);
  if (context != &state().context || context->owners < 1) violate("a context is pushed that nobody retained");
  current.push_back(context);
  return kSuccess;
}

EXPORTED Code cuCtxPopCurrent_v2(ContextHandle** context) {
  ENTER("cuCtxPopCurrent", Needs::Context);
  if (current.empty()) return 201;
  *context = current.back();
  current.pop_back();
  return told;
}

EXPORTED Code cuStreamCreate(StreamHandle** stream, unsigned flags) {
  ENTER_OR_FAIL("cuStreamCreate", Needs::Context);
  if (flags != kNonBlocking) violate("a stream that waits for the default stream");
  *stream = state().streams.insert(std::make_unique<StreamHandle>()).first->get();
  return kSuccess;
}

EXPORTED Code cuStreamDestroy_v2(StreamHandle* stream) {
  // The one way out of a capture that cannot be ended.
  ENTER("cuStreamDestroy", Needs::Context, true);
  erase(state().streams, stream, "cuStreamDestroy");
  return told;
}

EXPORTED Code cuStreamSynchronize(StreamHandle* stream) {
  ENTER("cuStreamSynchronize", Needs::Context);
  if (!is_live(state().streams, stream, "cuStreamSynchronize")) return 400;
  Work work;
  work.swap(stream->queue);
  if (told != kSuccess) return told;
  for (const auto& each : work) each();
  return kSuccess;
}

EXPORTED Code cuStreamBeginCapture_v2(StreamHandle* stream, int mode) {
  ENTER_OR_FAIL("cuStreamBeginCapture", Needs::Context);
  if (mode != kCaptureThreadLocal) violate("a capture that stops other threads");
  if (!stream->queue.empty()) violate("a capture behind work that was not waited for");
  stream->capturing = true;
  stream->captured.clear();
  return kSuccess;
}

EXPORTED Code cuStreamEndCapture(StreamHandle* stream, GraphHandle** graph) {
  ENTER("cuStreamEndCapture", Needs::Context, true);
  if (!stream->capturing) violate("the end of a capture that nobody began");
  stream->capturing = false;
  if (told != kSuccess) return *graph = nullptr, told;
  *graph = state().graphs.insert(std::make_unique<GraphHandle>()).first->get();
  (*graph)->work.swap(stream->captured);
  return kSuccess;
}

EXPORTED Code cuGraphInstantiateWithFlags(GraphExecHandle** exec, GraphHandle* graph, unsigned long long) {
  ENTER_OR_FAIL("cuGraphInstantiate", Needs::Context);
  if (!is_live(state().graphs, graph, "cuGraphInstantiate")) return 400;
  *exec = state().execs.insert(std::make_unique<GraphExecHandle>()).first->get();
  (*exec)->work = graph->work;
  return kSuccess;
}

EXPORTED Code cuGraphLaunch(GraphExecHandle* exec, StreamHandle* stream) {
  ENTER_OR_FAIL("cuGraphLaunch", Needs::Context);
  if (!is_live(state().execs, exec, "cuGraphLaunch")) return 400;
  ++state().replays;
  stream->queue.insert(stream->queue.end(), exec->work.begin(), exec->work.end());
  return kSuccess;
}

EXPORTED Code cuGraphDestroy(GraphHandle* graph) {
  ENTER("cuGraphDestroy", Needs::Context);
  erase(state().graphs, graph, "cuGraphDestroy");
  return told;
}

EXPORTED Code cuGraphExecDestroy(GraphExecHandle* exec) {
  ENTER("cuGraphExecDestroy", Needs::Context);
  erase(state().execs, exec, "cuGraphExecDestroy");
  return told;
}

EXPORTED Code cuModuleLoadData(ModuleHandle** module, const void* image) {
  ENTER_OR_FAIL("cuModuleLoadData", Needs::Context);
  auto made = std::make_unique<ModuleHandle>();
  if (!standin::parse_source(static_cast<const char*>(image), made->function.source)) return kInvalidImage;
  *module = state().modules.insert(std::move(made)).first->get();
  return kSuccess;
}

EXPORTED Code cuModuleUnload(ModuleHandle* module) {
  ENTER("cuModuleUnload", Needs::Context);
  erase(state().modules, module, "cuModuleUnload");
  return told;
}

EXPORTED Code cuModuleGetFunction(FunctionHandle** function, ModuleHandle* module, const char* name) {
  ENTER_OR_FAIL("cuModuleGetFunction", Needs::Context);
  if (!is_live(state().modules, module, "cuModuleGetFunction")) return 400;
  if (module->function.source.entry != name) return 500;
  *function = &module->function;
  return kSuccess;
}

EXPORTED Code cuFuncSetAttribute(FunctionHandle* function, int attribute, int value) {
  ENTER_OR_FAIL("cuFuncSetAttribute", Needs::Context);
  if (attribute != kMaxDynamicShared || value != function->source.shared_bytes) violate("an attribute that is not so");
  function->much_shared = true;
  return kSuccess;
}

EXPORTED Code cuLaunchKernel(FunctionHandle* function, unsigned x, unsigned y, unsigned z, unsigned threads,
                             unsigned y2, unsigned z2, unsigned shared, StreamHandle* stream, void** parameters,
                             void** extra) {
  ENTER_OR_FAIL("cuLaunchKernel", Needs::Context, true);
  const standin::Source& source = function->source;
  if (x < 1 || y < 1 || z < 1 || y > 65535 || z > 65535) violate("a grid that no GPU takes");
  if (static_cast<int>(threads) != source.threads || y2 != 1 || z2 != 1) violate("other threads than it was made for");
  if (static_cast<int>(shared) != source.shared_bytes) violate("other shared memory than it was made for");
  if (shared > 48 * 1024 && !function->much_shared) violate("more shared memory than was asked for");
  if (extra != nullptr) violate("parameters given twice");
  standin::Call call{&source, {x, y, z}, {}};
  for (size_t i = 0; i < source.arguments.size(); ++i) {
    standin::Value value;
    std::memcpy(&value, parameters[i], source.arguments[i].is_pointer() ? 8 : 4);
    if (source.arguments[i].is_pointer()) value.elements = room(value.address) / source.arguments[i].bytes();
    call.values.push_back(value);
  }
  for (size_t i = source.arguments.size(); i < source.arguments.size() + 2; ++i) {  // triton's scratch memory
    Address address = 1;
    std::memcpy(&address, parameters[i], sizeof address);
    if (address != 0) violate("scratch memory that no kernel uses");
  }
  return submit(stream, [call] {
    ++state().launches;
    const std::string wrong = state().computes ? standin::compute(call) : "";
    if (!wrong.empty()) violate(call.source->entry + ": " + wrong);
  });
}

EXPORTED Code cuLaunchCooperativeKernel(FunctionHandle* function, unsigned x, unsigned y, unsigned z, unsigned threads,
                                        unsigned y2, unsigned z2, unsigned shared, StreamHandle* stream,
                                        void** parameters) {
  ENTER_OR_FAIL("cuLaunchCooperativeKernel", Needs::Context, true);
  const standin::Source& source = function->source;
  if (static_cast<int>(x) > state().multiprocessors || y != 1 || z != 1)
    violate("more blocks than are on the chip at once");
  if (static_cast<int>(threads) != source.threads || y2 != 1 || z2 != 1) violate("other threads than it was made for");
  if (static_cast<int>(shared) != source.shared_bytes) violate("other shared memory than it was made for");
  standin::Call call{&source, {x, y, z}, {}};
  for (size_t i = 0; i < source.arguments.size(); ++i) {
    standin::Value value;
    std::memcpy(&value.address, parameters[i], sizeof value.address);
    value.elements = room(value.address);
    call.values.push_back(value);
  }
  return submit(stream, [call] {
    ++state().launches, ++state().together;
    const std::string wrong = state().computes ? standin::lift_one(call) : "";
    if (!wrong.empty()) violate(call.source->entry + ": " + wrong);
  });
}

EXPORTED Code cuMemAlloc_v2(Address* address, size_t bytes) {
  ENTER_OR_FAIL("cuMemAlloc", Needs::Context);
  size_t taken = bytes;
  for (const auto& each : state().device) taken += state().sizes[each.first];
  if (taken > state().memory) return kOutOfMemory;
  auto made = poisoned(bytes);
  *address = address_of(made.get());
  state().sizes[*address] = bytes;
  state().device[*address] = std::move(made);
  return kSuccess;
}

EXPORTED Code cuMemFree_v2(Address address) {
  ENTER("cuMemFree", Needs::Context);
  if (state().device.erase(address) == 0) violate("cuMemFree of what was not taken");
  state().sizes.erase(address);
  return told;
}

EXPORTED Code cuMemHostAlloc(void** address, size_t bytes, unsigned) {
  ENTER_OR_FAIL("cuMemHostAlloc", Needs::Context);
  auto made = poisoned(bytes);
  *address = made.get();
  state().sizes[address_of(*address)] = bytes;
  state().pinned[*address] = std::move(made);
  return kSuccess;
}

EXPORTED Code cuMemFreeHost(void* address) {
  ENTER("cuMemFreeHost", Needs::Context);
  if (state().pinned.erase(address) == 0) violate("cuMemFreeHost of what was not taken");
  state().sizes.erase(address_of(address));
  return told;
}

EXPORTED Code cuMemcpyHtoD_v2(Address to, const void* from, size_t bytes) {
  ENTER_OR_FAIL("cuMemcpyHtoD", Needs::Context);
  check_room(to, bytes, "cuMemcpyHtoD");
  std::memcpy(pointer_of(to), from, bytes);
  return kSuccess;
}

EXPORTED Code cuMemcpyHtoDAsync_v2(Address to, const void* from, size_t bytes, StreamHandle* stream) {
  ENTER_OR_FAIL("cuMemcpyHtoDAsync", Needs::Context, true);
  check_room(to, bytes, "cuMemcpyHtoDAsync");
  check_room(address_of(from), bytes, "cuMemcpyHtoDAsync from pageable memory, or");
  return submit(stream, [=] { std::memcpy(pointer_of(to), from, bytes); });
}

EXPORTED Code cuMemcpyDtoHAsync_v2(void* to, Address from, size_t bytes, StreamHandle* stream) {
  ENTER_OR_FAIL("cuMemcpyDtoHAsync", Needs::Context, true);
  check_room(from, bytes, "cuMemcpyDtoHAsync");
  check_room(address_of(to), bytes, "cuMemcpyDtoHAsync to pageable memory, or");
  return submit(stream, [=] { std::memcpy(to, pointer_of(from), bytes); });
}

// ---- what tests tell it and ask it
// -----------------------------------------------------------------------------------

EXPORTED void standin_set(int capability, int multiprocessors, int version, size_t memory, int computes) {
  State& all = state();
  all.capability = capability, all.multiprocessors = multiprocessors, all.version = version, all.memory = memory;
  all.computes = computes != 0;
  all.calls = all.fail_at = all.launches = all.replays = all.together = 0;
  all.violation.clear();
}

// The `call`-th call from now on answers `code`; 0: none does.
EXPORTED void standin_fail(long call, Code code) {
  state().fail_at = call == 0 ? 0 : state().calls + call;
  state().fail_with = code;
}

EXPORTED long standin_calls() { return state().calls; }
EXPORTED long standin_launches() { return state().launches; }
EXPORTED long standin_together() { return state().together; }
EXPORTED long standin_replays() { return state().replays; }
EXPORTED const char* standin_violation() { return state().violation.c_str(); }

// Things taken and not given back.
EXPORTED long standin_live() {
  State& all = state();
  return static_cast<long>(all.device.size() + all.pinned.size() + all.modules.size() + all.streams.size() +
                           all.graphs.size() + all.execs.size() + current.size()) +
         all.context.owners;
}
