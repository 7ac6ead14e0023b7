#include "resources.h"

#include <unistd.h>

namespace pstmo_edge {
namespace cuda {

bool Resources::check(const char* function, Code code) {
  if (code == kSuccess) return true;
  if (failed_code_ == kSuccess) failed_function_ = function, failed_code_ = code;
  return false;
}

bool Resources::is_here() const { return ::getpid() == process_; }

// A call that fails promises nothing of what it leaves in its answers.
bool Resources::retain(DeviceNumber device) {
  process_ = ::getpid();
  device_ = device;
  ContextHandle* context = nullptr;
  const bool good = check("cuDevicePrimaryCtxRetain", driver_.context_retain(&context, device));
  if (good) context_ = context;
  return good;
}

bool Resources::stream() {
  StreamHandle* stream = nullptr;
  const bool good = check("cuStreamCreate", driver_.stream_create(&stream, kNonBlocking));
  if (good) stream_ = stream;
  return good;
}

// Room in the lists is made before anything is taken, so that no failed allocation loses what was.
bool Resources::memory(size_t bytes, Address* address) {
  memory_.reserve(memory_.size() + 1);
  const bool good = check("cuMemAlloc", driver_.memory_take(address, bytes));
  if (good) memory_.push_back(*address);
  return good;
}

bool Resources::pinned(size_t bytes, void** address) {
  pinned_.reserve(pinned_.size() + 1);
  const bool good = check("cuMemHostAlloc", driver_.pinned_take(address, bytes, 0));
  if (good) pinned_.push_back(*address);
  return good;
}

bool Resources::module(const void* image, ModuleHandle** module) {
  modules_.reserve(modules_.size() + 1);
  const bool good = check("cuModuleLoadData", driver_.module_load(module, image));
  if (good) modules_.push_back(*module);
  return good;
}

bool Resources::wait() { return check("cuStreamSynchronize", driver_.stream_synchronize(stream_)); }

bool Resources::copy_in(Address to, const void* from, size_t bytes) {
  return check("cuMemcpyHtoDAsync", driver_.copy_in_async(to, from, bytes, stream_)) && wait();
}

// Nobody is left to tell of an error here. A context that cannot be made current was destroyed by others, or the
// driver is shutting down at exit: handles of it are no longer to be touched, and in another context that happens to
// be current less than ever. What was in it went with it, or goes with its last owner.
Resources::~Resources() {
  if (context_ == nullptr || !is_here()) return;
  {
    const Current current(driver_, context_);
    if (current.code() == kSuccess) {
      if (stream_ != nullptr) driver_.stream_synchronize(stream_);
      for (GraphExecHandle* graph : graphs_) driver_.graph_exec_destroy(graph);
      for (ModuleHandle* module : modules_) driver_.module_unload(module);
      for (const Address address : memory_) driver_.memory_free(address);
      for (void* address : pinned_) driver_.pinned_free(address);
      if (stream_ != nullptr) driver_.stream_destroy(stream_);
    }
  }
  driver_.context_release(device_);
}

}  // namespace cuda
}  // namespace pstmo_edge
