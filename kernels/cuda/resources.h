#ifndef PSTMO_EDGE_CUDA_RESOURCES_H_
#define PSTMO_EDGE_CUDA_RESOURCES_H_

#include <vector>

#include "driver.h"

namespace pstmo_edge {
namespace cuda {

// The device's primary context, which everything on one GPU in a process shares, current on this thread while it lives.
class Current {
 public:
  Current(const Driver& driver, ContextHandle* context) : driver_(driver), code_(driver.context_push(context)) {}
  Current(const Current&) = delete;
  Current& operator=(const Current&) = delete;
  ~Current() {
    ContextHandle* popped = nullptr;
    if (code_ == kSuccess) driver_.context_pop(&popped);
  }
  Code code() const { return code_; }

 private:
  const Driver& driver_;
  Code code_;
};

// What was taken of a GPU, given back in reverse when this ends. Every function answers the driver's code, and calls
// none of the driver's once one has failed: `failed` then says which.
class Resources {
 public:
  explicit Resources(const Driver& driver) : driver_(driver) {}
  Resources(const Resources&) = delete;
  Resources& operator=(const Resources&) = delete;
  ~Resources();

  bool retain(DeviceNumber device);  // the first call; the others need Current
  bool stream();
  bool memory(size_t bytes, Address* address);
  bool pinned(size_t bytes, void** address);
  bool module(const void* image, ModuleHandle** module);
  // Whether a call of the driver went well; remembers the first that did not.
  bool check(const char* function, Code code);
  // Graphs to destroy, for which room must have been made.
  void make_room_for_graphs(size_t count) { graphs_.reserve(count); }
  void keep(GraphExecHandle* graph) { graphs_.push_back(graph); }

  const Driver& driver() const { return driver_; }
  ContextHandle* context() const { return context_; }
  StreamHandle* stream_handle() const { return stream_; }
  const char* failed_function() const { return failed_function_; }
  Code failed_code() const { return failed_code_; }

 private:
  const Driver driver_;
  DeviceNumber device_ = 0;
  ContextHandle* context_ = nullptr;
  StreamHandle* stream_ = nullptr;
  std::vector<Address> memory_;
  std::vector<void*> pinned_;
  std::vector<ModuleHandle*> modules_;
  std::vector<GraphExecHandle*> graphs_;
  const char* failed_function_ = nullptr;
  Code failed_code_ = kSuccess;
};

}  // namespace cuda
}  // namespace pstmo_edge

#endif  // PSTMO_EDGE_CUDA_RESOURCES_H_
