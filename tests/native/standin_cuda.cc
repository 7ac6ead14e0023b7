// The driver's functions of devices, contexts, memory, streams and graphs.
#include <unistd.h>

#include <cstring>
#include <utility>

#include "standin_driver.h"

using namespace pstmo_edge::standin;

namespace {

// NaN in every type of floats; zeros where nothing is computed.
std::unique_ptr<uint8_t[]> filled(size_t bytes) {
  std::unique_ptr<uint8_t[]> made(new uint8_t[bytes]);
  std::memset(made.get(), state().computes ? 0xff : 0, bytes);
  return made;
}

// In both lists or in none.
template <typename Key>
void remember(std::map<Key, std::unique_ptr<uint8_t[]>>& all, Key key, std::unique_ptr<uint8_t[]> made, size_t bytes) {
  const auto size = state().sizes.emplace(address_of(made.get()), bytes).first;
  try {
    all.emplace(key, std::move(made));
  } catch (...) {
    state().sizes.erase(size);
    throw;
  }
}

template <typename T>
T* kept(std::set<std::unique_ptr<T>>& all) {
  return all.insert(std::make_unique<T>()).first->get();
}

}  // namespace

// ---- devices
// ---------------------------------------------------------------------------------------------------------

EXPORTED Code cuInit(unsigned) {
  return call("cuInit", Needs::Nothing, [] {
    state().process = ::getpid();
    return kSuccess;
  });
}

EXPORTED Code cuDriverGetVersion(int* version) {
  return call("cuDriverGetVersion", Needs::Nothing, [&] {
    *version = state().version;
    return kSuccess;
  });
}

EXPORTED Code cuGetErrorName(Code code, const char** name) {
  static constexpr std::pair<Code, const char*> kNames[] = {{kOutOfMemory, "CUDA_ERROR_OUT_OF_MEMORY"},
                                                            {kInvalidImage, "CUDA_ERROR_INVALID_IMAGE"},
                                                            {kNotFound, "CUDA_ERROR_NOT_FOUND"},
                                                            {kContextDestroyed, "CUDA_ERROR_CONTEXT_IS_DESTROYED"},
                                                            {100, "CUDA_ERROR_NO_DEVICE"},
                                                            {719, "CUDA_ERROR_LAUNCH_FAILED"}};
  for (const auto& [each, text] : kNames) {
    if (each == code) return *name = text, kSuccess;
  }
  return kInvalidValue;
}

EXPORTED Code cuDeviceGetCount(int* count) {
  return call("cuDeviceGetCount", Needs::Start, [&] {
    *count = 1;
    return kSuccess;
  });
}

EXPORTED Code cuDeviceGet(DeviceNumber* device, int ordinal) {
  return call("cuDeviceGet", Needs::Start, [&] {
    *device = ordinal;
    return kSuccess;
  });
}

EXPORTED Code cuDeviceGetName(char* name, int size, DeviceNumber) {
  return call("cuDeviceGetName", Needs::Start, [&] {
    std::strncpy(name, "stand-in (no GPU)", static_cast<size_t>(size));
    return kSuccess;
  });
}

EXPORTED Code cuDeviceGetAttribute(int* value, int attribute, DeviceNumber) {
  return call("cuDeviceGetAttribute", Needs::Start, [&] {
    if (attribute == kMajor) *value = state().capability / 10;
    if (attribute == kMinor) *value = state().capability % 10;
    if (attribute == kMultiprocessors) *value = state().multiprocessors;
    if (attribute == kCooperativeLaunch) *value = 1;
    return kSuccess;
  });
}

// ---- contexts
// --------------------------------------------------------------------------------------------------------

EXPORTED Code cuDevicePrimaryCtxRetain(ContextHandle** context, DeviceNumber) {
  *context = nullptr;
  return call("cuDevicePrimaryCtxRetain", Needs::Start, [&] {
    ++state().context.owners;
    *context = &state().context;
    return kSuccess;
  });
}

// With the last owner the context ends and all that is in it. That is no way to give things back: whoever leaves some
// although the context could be reached and worked would leave them while others own it too.
EXPORTED Code cuDevicePrimaryCtxRelease_v2(DeviceNumber) {
  State& all = state();
  const std::lock_guard<std::recursive_mutex> lock(all.mutex);
  const Code told = enter("cuDevicePrimaryCtxRelease", Needs::Start, WhileCapturing::Never);
  if (all.process != ::getpid()) return told;
  if (--all.context.owners < 0) violate("a context is released more often than it was retained");
  if (all.context.owners == 0) {
    if (all.things() > 0 && !all.is_broken() && !all.unreachable)
      violate("things are left to the end of their context");
    all.drop_things();
    all.context.destroyed = all.unreachable = false;
  }
  return told;
}

EXPORTED Code cuCtxPushCurrent_v2(ContextHandle* context) {
  const Code answer = call("cuCtxPushCurrent", Needs::Start, [&] {
    if (context != &state().context || context->owners < 1) violate("a context is pushed that nobody retained");
    if (context->destroyed) return kContextDestroyed;
    current().push_back(context);
    return kSuccess;
  });
  const std::lock_guard<std::recursive_mutex> lock(state().mutex);
  if (answer != kSuccess) state().unreachable = true;
  return answer;
}

EXPORTED Code cuCtxPopCurrent_v2(ContextHandle** context) {
  const std::lock_guard<std::recursive_mutex> lock(state().mutex);
  const Code told = enter("cuCtxPopCurrent", Needs::Context, WhileCapturing::Never);
  if (current().empty()) return kInvalidContext;
  *context = current().back();
  current().pop_back();
  return told;
}

// ---- memory
// ----------------------------------------------------------------------------------------------------------

EXPORTED Code cuMemAlloc_v2(Address* address, size_t bytes) {
  return make("cuMemAlloc", address, [&] {
    if (bytes == 0) return kInvalidValue;
    size_t taken = 0;
    for (const auto& each : state().device) taken += state().sizes[each.first];
    if (bytes > state().memory || taken > state().memory - bytes) return kOutOfMemory;
    auto made = filled(bytes);
    *address = address_of(made.get());
    remember(state().device, *address, std::move(made), bytes);
    return kSuccess;
  });
}

EXPORTED Code cuMemFree_v2(Address address) {
  return end("cuMemFree", [&] {
    if (state().device.erase(address) == 0) violate("cuMemFree of what was not taken");
    state().sizes.erase(address);
  });
}

EXPORTED Code cuMemHostAlloc(void** address, size_t bytes, unsigned) {
  return make("cuMemHostAlloc", address, [&] {
    if (bytes == 0) return kInvalidValue;
    auto made = filled(bytes);
    *address = made.get();
    remember(state().pinned, *address, std::move(made), bytes);
    return kSuccess;
  });
}

EXPORTED Code cuMemFreeHost(void* address) {
  return end("cuMemFreeHost", [&] {
    if (state().pinned.erase(address) == 0) violate("cuMemFreeHost of what was not taken");
    state().sizes.erase(address_of(address));
  });
}

// Of pageable memory it is not known when it is read: it must be there until the stream was waited for, and a graph,
// which may run whenever, takes none.
void check_host(const void* host, size_t bytes, StreamHandle* stream, const char* name) {
  if (stream->capturing) check_room(address_of(host), bytes, name);
}

EXPORTED Code cuMemcpyHtoDAsync_v2(Address to, const void* from, size_t bytes, StreamHandle* stream) {
  const auto body = [&] {
    check_room(to, bytes, "cuMemcpyHtoDAsync");
    check_host(from, bytes, stream, "cuMemcpyHtoDAsync in a graph, from pageable memory or");
    return submit(stream, [=] { std::memcpy(pointer_of(to), from, bytes); });
  };
  return call("cuMemcpyHtoDAsync", Needs::Context, body, WhileCapturing::Allowed);
}

EXPORTED Code cuMemcpyDtoHAsync_v2(void* to, Address from, size_t bytes, StreamHandle* stream) {
  const auto body = [&] {
    check_room(from, bytes, "cuMemcpyDtoHAsync");
    check_host(to, bytes, stream, "cuMemcpyDtoHAsync in a graph, to pageable memory or");
    return submit(stream, [=] { std::memcpy(to, pointer_of(from), bytes); });
  };
  return call("cuMemcpyDtoHAsync", Needs::Context, body, WhileCapturing::Allowed);
}

// ---- streams and graphs
// ----------------------------------------------------------------------------------------------

EXPORTED Code cuStreamCreate(StreamHandle** stream, unsigned flags) {
  return make("cuStreamCreate", stream, [&] {
    if (flags != kNonBlocking) violate("a stream that waits for the default stream");
    *stream = kept(state().streams);
    return kSuccess;
  });
}

EXPORTED Code cuStreamDestroy_v2(StreamHandle* stream) {
  return end("cuStreamDestroy", [&] {
    if (!is_live(state().streams, stream, "cuStreamDestroy")) return;
    if (stream->capturing) violate("a capture is not ended");
    if (!stream->queue.empty()) violate("a stream is destroyed with work that nobody waited for");
    erase(state().streams, stream, "cuStreamDestroy");
  });
}

// The work is gone where this fails: nobody may rely on it.
EXPORTED Code cuStreamSynchronize(StreamHandle* stream) {
  const std::lock_guard<std::recursive_mutex> lock(state().mutex);
  const Code told = enter("cuStreamSynchronize", Needs::Context, WhileCapturing::Never);
  if (!is_live(state().streams, stream, "cuStreamSynchronize")) return kInvalidHandle;
  try {
    if (told == kSuccess) {
      for (const auto& each : stream->queue) each();
    }
    stream->queue.clear();
  } catch (const std::bad_alloc&) {
    return stream->queue.clear(), kOutOfMemory;
  }
  return told;
}

EXPORTED Code cuStreamBeginCapture_v2(StreamHandle* stream, int mode) {
  return call("cuStreamBeginCapture", Needs::Context, [&] {
    if (mode != kCaptureThreadLocal) violate("a capture that stops other threads");
    stream->capturing = true;
    stream->capturer = std::this_thread::get_id();
    stream->captured.clear();
    return kSuccess;
  });
}

EXPORTED Code cuStreamEndCapture(StreamHandle* stream, GraphHandle** graph) {
  const std::lock_guard<std::recursive_mutex> lock(state().mutex);
  const Code told = enter("cuStreamEndCapture", Needs::Context, WhileCapturing::Allowed);
  if (!stream->capturing) violate("the end of a capture that nobody began");
  stream->capturing = false;
  *graph = nullptr;
  if (told != kSuccess) return told;
  try {
    *graph = kept(state().graphs);
  } catch (const std::bad_alloc&) {
    return kOutOfMemory;
  }
  (*graph)->work.swap(stream->captured);
  return kSuccess;
}

EXPORTED Code cuGraphInstantiateWithFlags(GraphExecHandle** exec, GraphHandle* graph, unsigned long long) {
  return make("cuGraphInstantiate", exec, [&] {
    if (!is_live(state().graphs, graph, "cuGraphInstantiate")) return kInvalidHandle;
    Work work = graph->work;
    *exec = kept(state().execs);
    (*exec)->work.swap(work);
    return kSuccess;
  });
}

EXPORTED Code cuGraphUpload(GraphExecHandle* exec, StreamHandle* stream) {
  return call("cuGraphUpload", Needs::Context, [&] {
    const bool live = is_live(state().execs, exec, "cuGraphUpload");
    return live ? submit(stream, [exec] { is_live(state().execs, exec, "an upload"); }) : kInvalidHandle;
  });
}

EXPORTED Code cuGraphLaunch(GraphExecHandle* exec, StreamHandle* stream) {
  return call("cuGraphLaunch", Needs::Context, [&] {
    if (!is_live(state().execs, exec, "cuGraphLaunch")) return kInvalidHandle;
    ++state().replays;
    return submit(stream, [exec] {
      if (!is_live(state().execs, exec, "a graph that runs")) return;
      for (const auto& each : exec->work) each();
    });
  });
}

EXPORTED Code cuGraphDestroy(GraphHandle* graph) {
  return end("cuGraphDestroy", [&] { erase(state().graphs, graph, "cuGraphDestroy"); });
}

EXPORTED Code cuGraphExecDestroy(GraphExecHandle* exec) {
  return end("cuGraphExecDestroy", [&] { erase(state().execs, exec, "cuGraphExecDestroy"); });
}
