#ifndef PSTMO_EDGE_CUDA_RESOURCES_H_
#define PSTMO_EDGE_CUDA_RESOURCES_H_

#include <sys/types.h>

#include <vector>

#include "driver.h"

namespace pstmo_edge {
namespace cuda {

// The device's primary context, which everything on one GPU in a process shares, current on this thread while it lives;
// whatever was current before is again afterwards.
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

// What was taken of a GPU, given back when this ends. Every function answers whether it went well, and
// `failed_function` and `failed_code` say what was the first not to, since the start or `forget_failure`.
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
  // From any memory, and it is done when this returns. Through the stream: what is copied outside of it may arrive
  // after the call has returned, and no stream that is not blocking waits for that.
  bool copy_in(Address to, const void* from, size_t bytes);
  bool wait();  // for the stream
  // Graphs to destroy, for which room must have been made.
  void make_room_for_graphs(size_t count) { graphs_.reserve(count); }
  void keep(GraphExecHandle* graph) { graphs_.push_back(graph); }

  // Whether a call of the driver went well.
  bool check(const char* function, Code code);
  void forget_failure() { failed_function_ = nullptr, failed_code_ = kSuccess; }
  // False in a process that was forked since: nothing of the GPU is there, and no call of the driver is allowed.
  bool is_here() const;

  const Driver& driver() const { return driver_; }
  ContextHandle* context() const { return context_; }
  StreamHandle* stream_handle() const { return stream_; }
  const char* failed_function() const { return failed_function_; }
  Code failed_code() const { return failed_code_; }

 private:
  const Driver driver_;
  pid_t process_ = 0;
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
