#include "resources.h"

namespace pstmo_edge {
namespace cuda {

bool Resources::check(const char* function, Code code) {
  if (code == kSuccess) return true;
  if (failed_code_ == kSuccess) failed_function_ = function, failed_code_ = code;
  return false;
}

bool Resources::retain(DeviceNumber device) {
  device_ = device;
  return check("cuDevicePrimaryCtxRetain", driver_.context_retain(&context_, device));
}

bool Resources::stream() { return check("cuStreamCreate", driver_.stream_create(&stream_, kNonBlocking)); }

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

// Nobody is left to tell of an error here, and after one the driver frees what it can.
Resources::~Resources() {
  if (context_ == nullptr) return;
  {
    const Current current(driver_, context_);
    if (stream_ != nullptr) driver_.stream_synchronize(stream_);
    for (GraphExecHandle* graph : graphs_) driver_.graph_exec_destroy(graph);
    for (ModuleHandle* module : modules_) driver_.module_unload(module);
    for (const Address address : memory_) driver_.memory_free(address);
    for (void* address : pinned_) driver_.pinned_free(address);
    if (stream_ != nullptr) driver_.stream_destroy(stream_);
  }
  driver_.context_release(device_);
}

}  // namespace cuda
}  // namespace pstmo_edge
