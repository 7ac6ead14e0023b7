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

// Spins, and gives way to others where it lasts: they may be what is waited for.
template <typename Condition>
void spin_until(Condition condition) {
  for (int i = 0; !condition(); ++i) {
    if (i < kSpins) {
      relax();
    } else {
      std::this_thread::yield();
    }
  }
}

}  // namespace

ThreadPool::ThreadPool(int threads) {
  workers_.reserve(static_cast<size_t>(threads > 1 ? threads - 1 : 0));
  try {
    for (int thread = 1; thread < threads; ++thread) workers_.emplace_back([this, thread] { work(thread); });
  } catch (...) {
    stop();
    throw;
  }
}

ThreadPool::~ThreadPool() { stop(); }

void ThreadPool::stop() noexcept {
  {
    const std::lock_guard<std::mutex> lock(mutex_);
    stopping_ = true;
    runs_.fetch_add(1, std::memory_order_release);
  }
  wake_.notify_all();
  for (std::thread& worker : workers_) worker.join();
  workers_.clear();
}

void ThreadPool::run(Task task, void* context) noexcept {
  if (!workers_.empty()) {
    task_ = task, context_ = context;
    busy_.store(static_cast<int>(workers_.size()), std::memory_order_relaxed);
    // In this order with `asleep_` in work: either we see the sleeper, or it sees the new run before it sleeps.
    runs_.fetch_add(1, std::memory_order_seq_cst);
    if (asleep_.load(std::memory_order_seq_cst) > 0) {
      {
        const std::lock_guard<std::mutex> lock(mutex_);
      }
      wake_.notify_all();
    }
  }
  task(context, 0);
  spin_until([this] { return busy_.load(std::memory_order_acquire) == 0; });
}

void ThreadPool::wait_for_all() noexcept {
  const unsigned meeting = meetings_.load(std::memory_order_relaxed);
  if (arrived_.fetch_add(1, std::memory_order_acq_rel) + 1 == size()) {
    arrived_.store(0, std::memory_order_relaxed);
    meetings_.store(meeting + 1, std::memory_order_release);
  } else {
    spin_until([&] { return meetings_.load(std::memory_order_acquire) != meeting; });
  }
}

void ThreadPool::work(int thread) noexcept {
  for (unsigned seen = 0;;) {
    for (int i = 0; i < kSpins && runs_.load(std::memory_order_acquire) == seen; ++i) relax();
    if (runs_.load(std::memory_order_acquire) == seen) {
      std::unique_lock<std::mutex> lock(mutex_);
      asleep_.fetch_add(1, std::memory_order_seq_cst);
      wake_.wait(lock, [&] { return runs_.load(std::memory_order_seq_cst) != seen; });
      asleep_.fetch_sub(1, std::memory_order_relaxed);
    }
    ++seen;
    if (stopping_) return;
    task_(context_, thread);
    busy_.fetch_sub(1, std::memory_order_release);
  }
}

}  // namespace pstmo_edge
