#ifndef PSTMO_EDGE_RUNTIME_HANDLES_H_
#define PSTMO_EDGE_RUNTIME_HANDLES_H_

#include <atomic>
#include <cstdio>
#include <memory>
#include <new>
#include <optional>
#include <system_error>
#include <vector>

#include "lifter.h"
#include "manifest.h"
#include "stream.h"

// What the opaque handles of the C ABI are.

namespace pstmo_edge {

constexpr size_t kErrorBytes = 512;

// One sentence, in memory that is there before anything can go wrong.
class ErrorText {
 public:
  const char* c_str() const { return text_; }
  void set(const char* text) { copy(text, text_, sizeof text_); }
  // Cut to `size` bytes with its closing zero; characters that would break a line or a terminal become '?'.
  static void copy(const char* text, char* to, size_t size) {
    if (to == nullptr || size == 0) return;
    size_t i = 0;
    for (; i + 1 < size && text[i] != '\0'; ++i) to[i] = static_cast<unsigned char>(text[i]) < 0x20 ? '?' : text[i];
    to[i] = '\0';
  }

 private:
  char text_[kErrorBytes] = "";
};

// Runs `body` so that nothing is thrown to the caller. What can be thrown is memory and threads that run out.
template <typename Body>
pstmo_edge_status guarded(ErrorText& error, Body body) noexcept {
  try {
    return body();
  } catch (const std::bad_alloc&) {
    error.set("out of memory");
    return PSTMO_EDGE_STATUS_OUT_OF_MEMORY;
  } catch (const std::system_error&) {
    error.set("the system gives no more threads");
    return PSTMO_EDGE_STATUS_OUT_OF_MEMORY;
  } catch (...) {
    error.set("a bug in libpstmo_edge: please report it");
    return PSTMO_EDGE_STATUS_INTERNAL;
  }
}

}  // namespace pstmo_edge

namespace pstmo_edge {

// Room to lift the windows of all streams of an engine at once; it grows as streams are created.
struct Gathering {
  std::vector<const float*> tokens;  // (streams, frames)
  std::vector<float> poses;          // (streams, joints, 3)
  std::vector<size_t> places;        // of each window's stream among those that are read
};

}  // namespace pstmo_edge

struct pstmo_edge_engine {
  pstmo_edge::Manifest manifest;
  std::unique_ptr<pstmo_edge::Lifter> lifter;
  pstmo_edge::Gathering gathering;
  pstmo_edge::ErrorText error;
  std::atomic_flag in_use = ATOMIC_FLAG_INIT;
  std::atomic<int> owners{1};  // the program's handle and every stream
};

struct pstmo_edge_stream {
  pstmo_edge_engine* owner;
  pstmo_edge::ErrorText error;
  std::optional<pstmo_edge::Stream> stream;
  int times_given = 0;  // to a call that reads many
};

namespace pstmo_edge {

// Holds an engine for one call; a second thread finds it taken and is told so instead of waiting.
class Lease {
 public:
  explicit Lease(pstmo_edge_engine* engine)
      : engine_(engine->in_use.test_and_set(std::memory_order_acquire) ? nullptr : engine) {}
  Lease(const Lease&) = delete;
  Lease& operator=(const Lease&) = delete;
  ~Lease() {
    if (engine_ != nullptr) engine_->in_use.clear(std::memory_order_release);
  }
  bool taken() const { return engine_ != nullptr; }

 private:
  pstmo_edge_engine* engine_;
};

// Gives up one ownership; the last one frees the engine.
inline void release(pstmo_edge_engine* engine) noexcept {
  if (engine->owners.fetch_sub(1, std::memory_order_acq_rel) == 1) delete engine;
}

}  // namespace pstmo_edge

#endif  // PSTMO_EDGE_RUNTIME_HANDLES_H_
