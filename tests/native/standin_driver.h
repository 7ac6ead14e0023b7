#ifndef PSTMO_EDGE_TESTS_NATIVE_STANDIN_DRIVER_H_
#define PSTMO_EDGE_TESTS_NATIVE_STANDIN_DRIVER_H_

#include <sys/types.h>

#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <new>
#include <set>
#include <string>
#include <thread>
#include <vector>

#include "../../kernels/cuda/driver.h"
#include "standin_ops.h"

// Stands for the CUDA driver where there is none: a shared library with the functions that kernels/cuda calls. It holds
// their callers to the driver's rules (a current context, live handles, nothing but launches and copies while a thread
// captures a graph, work that is done when a stream is waited for and not before, nothing at all in a forked process),
// computes every launch on the host by standin_ops.cc, and fails where it is told to. What it takes says nothing of any
// GPU.

#define EXPORTED extern "C" __attribute__((visibility("default")))

namespace pstmo_edge {
namespace cuda {

struct ContextHandle {
  int owners = 0;
  bool destroyed = false;  // by somebody who reset the device
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
  std::thread::id capturer;
  Work captured;
};
struct GraphHandle {
  Work work;
};
struct GraphExecHandle {
  Work work;
};

}  // namespace cuda

namespace standin {

using namespace cuda;

constexpr Code kInvalidValue = 1, kInvalidContext = 201, kInvalidHandle = 400, kContextDestroyed = 709;

struct State {
  std::recursive_mutex mutex;
  pid_t process = 0;  // that called cuInit
  int capability = 87, multiprocessors = 8, version = 12060;
  size_t memory = size_t{1} << 32;
  long calls = 0, fail_at = 0, break_at = 0, launches = 0, replays = 0, together = 0;
  Code fail_with = 999;
  bool computes = true;      // else memory is zeros, so that poses are finite
  bool unreachable = false;  // a context could not be made current, so what is in it cannot be given back
  std::string violation;
  const char* failed = "";  // the first call that was made to fail
  ContextHandle context, other;
  std::map<Address, std::unique_ptr<uint8_t[]>> device;
  std::map<Address, size_t> sizes;  // of device and pinned memory
  std::map<void*, std::unique_ptr<uint8_t[]>> pinned;
  std::set<std::unique_ptr<ModuleHandle>> modules;
  std::set<std::unique_ptr<StreamHandle>> streams;
  std::set<std::unique_ptr<GraphHandle>> graphs;
  std::set<std::unique_ptr<GraphExecHandle>> execs;

  bool is_broken() const { return break_at != 0 && calls >= break_at; }
  long things() const;  // in the context
  void drop_things();   // as the driver does with a context that ends
};

State& state();

// The calling thread's contexts, the current one last.
std::vector<ContextHandle*>& current();

// A rule of the driver's that was broken; the first is kept.
void violate(const std::string& what);

enum class Needs { Nothing, Start, Context };
enum class WhileCapturing { Never, Allowed };

// Counts a call, holds it to the rules, and answers what it was told to fail with.
Code enter(const char* name, Needs needs, WhileCapturing capturing);

// A call that takes or does something: nothing of it where it fails. Memory of the host that runs out is an error, as
// in the driver.
template <typename Body>
Code call(const char* name, Needs needs, Body body, WhileCapturing capturing = WhileCapturing::Never) {
  const std::lock_guard<std::recursive_mutex> lock(state().mutex);
  const Code told = enter(name, needs, capturing);
  if (told != kSuccess) return told;
  try {
    return body();
  } catch (const std::bad_alloc&) {
    return kOutOfMemory;
  }
}

// A call that makes something; what it answers means nothing where it fails.
template <typename T, typename Body>
Code make(const char* name, T* out, Body body) {
  *out = reinterpret_cast<T>(uintptr_t{0xbad});
  return call(name, Needs::Context, body);
}
template <typename Body>
Code make(const char* name, Address* out, Body body) {
  *out = 0xbad;
  return call(name, Needs::Context, body);
}

// A call that gives back: that is done whatever it answers, unless the context is broken.
template <typename Body>
Code end(const char* name, Body body, WhileCapturing capturing = WhileCapturing::Never) {
  const std::lock_guard<std::recursive_mutex> lock(state().mutex);
  const Code told = enter(name, Needs::Context, capturing);
  if (!state().is_broken()) body();
  return told;
}

template <typename T>
typename std::set<std::unique_ptr<T>>::iterator find(std::set<std::unique_ptr<T>>& all, T* wanted) {
  auto found = all.begin();
  while (found != all.end() && found->get() != wanted) ++found;
  return found;
}

template <typename T>
bool is_live(std::set<std::unique_ptr<T>>& all, T* wanted, const char* name) {
  const bool live = find(all, wanted) != all.end();
  if (!live) violate(std::string(name) + " of what is not live");
  return live;
}

template <typename T>
void erase(std::set<std::unique_ptr<T>>& all, T* wanted, const char* name) {
  if (is_live(all, wanted, name)) all.erase(find(all, wanted));
}

// Bytes from an address to the end of the memory that it is in.
size_t room(Address address);
void check_room(Address address, size_t bytes, const char* name);

// Work for later: when the stream is waited for, or in the graph that it captures.
Code submit(StreamHandle* stream, std::function<void()> work);

inline Address address_of(const void* host) { return static_cast<Address>(reinterpret_cast<uintptr_t>(host)); }
inline void* pointer_of(Address address) { return reinterpret_cast<void*>(static_cast<uintptr_t>(address)); }

}  // namespace standin
}  // namespace pstmo_edge

#endif  // PSTMO_EDGE_TESTS_NATIVE_STANDIN_DRIVER_H_
