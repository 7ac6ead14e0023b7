#ifndef PSTMO_EDGE_RUNTIME_THREAD_POOL_H_
#define PSTMO_EDGE_RUNTIME_THREAD_POOL_H_

#include <atomic>
#include <condition_variable>
#include <mutex>
#include <thread>
#include <vector>

namespace pstmo_edge {

// Threads that run one function together, again and again. Between two runs they spin for a moment, since the next
// frame of a batch comes at once, and then sleep, since the next frame of a camera comes much later.
class ThreadPool {
 public:
  using Task = void (*)(void* context, int thread);

  // The caller is one of the threads. Throws std::system_error where the system refuses a thread.
  explicit ThreadPool(int threads);
  ~ThreadPool();
  ThreadPool(const ThreadPool&) = delete;
  ThreadPool& operator=(const ThreadPool&) = delete;

  int size() const { return static_cast<int>(workers_.size()) + 1; }

  // task(context, 0 .. size() - 1), the first of them here; returns when all have returned.
  void run(Task task, void* context) noexcept;

  // To be called by every thread of a run: nobody returns before all have come.
  void wait_for_all() noexcept;

 private:
  void work(int thread) noexcept;
  void stop() noexcept;

  Task task_ = nullptr;
  void* context_ = nullptr;
  std::atomic<unsigned> runs_{0};  // changes when there is something to do
  std::atomic<int> busy_{0};       // workers that have not finished
  std::atomic<int> arrived_{0};    // at the meeting
  std::atomic<unsigned> meetings_{0};
  std::atomic<int> asleep_{0};
  bool stopping_ = false;
  std::mutex mutex_;
  std::condition_variable wake_;
  std::vector<std::thread> workers_;
};

}  // namespace pstmo_edge

#endif  // PSTMO_EDGE_RUNTIME_THREAD_POOL_H_
