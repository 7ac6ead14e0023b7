#include "thread_pool.h"

#if defined(__x86_64__) || defined(_M_X64)
#include <immintrin.h>
#endif

namespace pstmo_edge {
namespace {

constexpr int kSpins = 4000;  // about 50 microseconds, the time a sleeping thread needs to wake

void relax() {
#if defined(__x86_64__) || defined(_M_X64)
  _mm_pause();
#elif defined(__aarch64__) && defined(__GNUC__)
  __asm__ volatile("yield");
#endif
}

}  // namespace

ThreadPool::ThreadPool(int threads) {
  helpers_.reserve(static_cast<size_t>(threads > 1 ? threads - 1 : 0));
  try {
    for (int thread = 1; thread < threads; ++thread) helpers_.emplace_back([this, thread] { work(thread); });
  } catch (...) {
    stop();
    throw;
  }
}

ThreadPool::~ThreadPool() { stop(); }

void ThreadPool::stop() noexcept {
  {
    const std::lock_guard<std::mutex> lock(mutex_);
    stopping_.store(true);
    runs_.fetch_add(1);
  }
  wake_.notify_all();
  for (std::thread& helper : helpers_) helper.join();
  helpers_.clear();
}

// Two pairs of orders matter, and all four accesses of each are sequentially consistent: a helper says that it is
// inside before it looks whether the run is open, and the caller closes the run before it looks who is inside; a helper
// says that it sleeps before it looks for a new run, and the caller makes the new run before it looks who sleeps.
void ThreadPool::run(Task task, void* context) noexcept {
  if (helpers_.empty()) return task(context, 0);
  task_ = task, context_ = context;
  open_.store(true);
  runs_.fetch_add(1);
  if (asleep_.load() > 0) {
    {
      const std::lock_guard<std::mutex> lock(mutex_);
    }
    wake_.notify_all();
  }
  task(context, 0);
  open_.store(false);
  wait_until(inside_, 0);
}

void ThreadPool::wait_until(const std::atomic<int>& count, int target) noexcept {
  for (int i = 0; count.load() != target; ++i) {
    if (i < kSpins) {
      relax();
    } else {
      std::this_thread::yield();  // a thread without a core may be what is waited for
    }
  }
}

void ThreadPool::work(int thread) noexcept {
  for (unsigned seen = 0;;) {
    for (int i = 0; i < kSpins && runs_.load() == seen; ++i) relax();
    if (runs_.load() == seen) {
      std::unique_lock<std::mutex> lock(mutex_);
      asleep_.fetch_add(1);
      wake_.wait(lock, [&] { return runs_.load() != seen; });
      asleep_.fetch_sub(1);
    }
    seen = runs_.load();
    if (stopping_.load()) return;
    inside_.fetch_add(1);
    if (open_.load()) task_(context_, thread);
    inside_.fetch_sub(1);
  }
}

}  // namespace pstmo_edge
