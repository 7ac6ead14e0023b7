#ifndef PSTMO_EDGE_RUNTIME_THREAD_POOL_H_
#define PSTMO_EDGE_RUNTIME_THREAD_POOL_H_

#include <atomic>
#include <condition_variable>
#include <mutex>
#include <thread>
#include <vector>

namespace pstmo_edge {

// Threads that may help to run a function. The caller never waits for one that has not begun: on a busy machine a
// helper that does not get a core in time is not missed. So the function must do its work by claims, whoever comes.
//
// Between two runs helpers spin for a moment, since the next frame of a recording comes at once, and then sleep, since
// the next frame of a camera comes much later.
class ThreadPool {
 public:
  using Task = void (*)(void* context, int thread);

  // The caller is one of the threads. Throws std::system_error where the system refuses a thread.
  explicit ThreadPool(int threads);
  ~ThreadPool();
  ThreadPool(const ThreadPool&) = delete;
  ThreadPool& operator=(const ThreadPool&) = delete;

  int size() const { return static_cast<int>(helpers_.size()) + 1; }

  // task(context, 0) here and task(context, 1 .. size() - 1) on helpers, on each perhaps never, or twice in a row;
  // returns when all that began have returned.
  void run(Task task, void* context) noexcept;

  // Returns when `count` has reached `target`: spins, and gives way to others where it lasts.
  static void wait_until(const std::atomic<int>& count, int target) noexcept;

 private:
  void work(int thread) noexcept;
  void stop() noexcept;

  Task task_ = nullptr;
  void* context_ = nullptr;
  std::atomic<bool> open_{false};  // whether helpers may begin
  std::atomic<int> inside_{0};     // helpers that have begun, or are about to look whether they may
  std::atomic<unsigned> runs_{0};  // changes when there is something to do
  std::atomic<int> asleep_{0};
  std::atomic<bool> stopping_{false};
  std::mutex mutex_;
  std::condition_variable wake_;
  std::vector<std::thread> helpers_;
};

}  // namespace pstmo_edge

#endif  // PSTMO_EDGE_RUNTIME_THREAD_POOL_H_
