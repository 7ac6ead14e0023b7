#include "engine.h"

#include <atomic>
#include <system_error>
#include <thread>

#include "forward.h"
#include "memory.h"
#include "network.h"
#include "thread_pool.h"

namespace pstmo_edge {
namespace {

constexpr int kMaxThreads = 64;

int threads_for(int asked) {
  const int present = static_cast<int>(std::thread::hardware_concurrency());
  const int wanted = asked > 0 ? asked : present;
  return wanted < 1 ? 1 : wanted > kMaxThreads ? kMaxThreads : wanted;
}

// Blocks of a stage: as few as the scratch memory allows, as many as there are threads, and of nearly equal size.
int block_count(int rows, int block_rows, int threads) {
  const int needed = (rows + block_rows - 1) / block_rows;
  const int even = (needed + threads - 1) / threads * threads;
  return even < rows ? even : rows;
}

}  // namespace

class Engine::State {
 public:
  State(Network network, std::unique_ptr<Memory> memory, int threads)
      : network_(std::move(network)), memory_(std::move(memory)), forward_(network_), pool_(threads) {
    for (int thread = 0; thread < threads; ++thread) {
      windows_.push_back(forward_.new_window(*memory_));
      scratch_.push_back(forward_.new_scratch(*memory_));
    }
    stages_ = std::make_unique<Stage[]>(static_cast<size_t>(forward_.stages()));
  }

  // As many windows at once as there are threads; those left over, all threads together, one by one.
  void infer(const float* keypoints, int batch, float* poses) noexcept {
    const int alone = pool_.size() == 1 ? batch : batch / pool_.size() * pool_.size();
    keypoints_ = keypoints, poses_ = poses, batch_ = alone;
    if (alone > 0) {
      next_window_.store(0, std::memory_order_relaxed);
      pool_.run([](void* self, int thread) { static_cast<State*>(self)->run_alone(thread); }, this);
    }
    for (int window = alone; window < batch; ++window) {
      Source source;
      source.keypoints = keypoints + window * frame_floats() * network_.config.frames;
      infer_together(source, poses + window * pose_floats());
    }
  }

  void infer_together(const Source& source, float* pose) noexcept {
    source_ = source, poses_ = pose;
    for (int stage = 0; stage < forward_.stages(); ++stage) stages_[stage].claimed = stages_[stage].done = 0;
    pool_.run([](void* self, int thread) { static_cast<State*>(self)->run_together(thread); }, this);
  }

  void encode_frame(const float* keypoints, float* token) noexcept {
    forward_.encode(keypoints, 1, token, scratch_[0]);
  }

  const Network& network() const { return network_; }
  int threads() const { return pool_.size(); }
  size_t memory_bytes() const { return memory_->bytes(); }
  void set_profile(Profile* profile) { scratch_[0].profile = profile; }

 private:
  // How many of a stage's blocks were taken and how many are done. A helper that comes late may claim beyond the last.
  struct Stage {
    std::atomic<int> claimed{0};
    std::atomic<int> done{0};
  };

  ptrdiff_t frame_floats() const { return 2 * network_.config.joints; }
  ptrdiff_t pose_floats() const { return 3 * network_.config.joints; }

  void run_alone(int thread) noexcept {
    for (;;) {
      const int window = next_window_.fetch_add(1, std::memory_order_relaxed);
      if (window >= batch_) return;
      Source source;
      source.keypoints = keypoints_ + window * frame_floats() * network_.config.frames;
      for (int stage = 0; stage < forward_.stages(); ++stage) {
        const int blocks = blocks_of(stage, 1);
        for (int block = 0; block < blocks; ++block) {
          run_block(stage, block, blocks, source, thread, thread, poses_ + window * pose_floats());
        }
      }
    }
  }

  // A stage's blocks go to whoever claims them, and the next stage begins when all are done.
  void run_together(int thread) noexcept {
    for (int number = 0; number < forward_.stages(); ++number) {
      Stage& stage = stages_[number];
      const int blocks = blocks_of(number, pool_.size());
      for (int block; (block = stage.claimed.fetch_add(1)) < blocks;) {
        run_block(number, block, blocks, source_, 0, thread, poses_);
        stage.done.fetch_add(1);
      }
      ThreadPool::wait_until(stage.done, blocks);
    }
  }

  int blocks_of(int stage, int threads) const {
    return block_count(forward_.rows_of(stage), forward_.block_rows_of(stage), threads);
  }

  void run_block(int stage, int block, int blocks, const Source& source, int window, int thread, float* pose) noexcept {
    const int rows = forward_.rows_of(stage), first = rows * block / blocks;
    forward_.run(stage, first, rows * (block + 1) / blocks - first, source, windows_[static_cast<size_t>(window)],
                 scratch_[static_cast<size_t>(thread)], pose);
  }

  Network network_;
  std::unique_ptr<Memory> memory_;
  Forward forward_;
  std::vector<Window> windows_;
  std::vector<Scratch> scratch_;
  std::unique_ptr<Stage[]> stages_;
  // The work at hand.
  Source source_;
  const float* keypoints_ = nullptr;
  float* poses_ = nullptr;
  int batch_ = 0;
  std::atomic<int> next_window_{0};
  ThreadPool pool_;  // last: its threads end before what they use
};

Result<std::unique_ptr<Engine>> Engine::create(const ModelConfig& config, const TensorTable& tensors,
                                               const EngineOptions& options) {
  auto memory = std::make_unique<Memory>();
  Result<Network> network = load_network(config, tensors, options.isa, *memory);
  if (!network.ok()) return network.error();
  const int threads = threads_for(options.threads);
  try {
    auto state = std::make_unique<State>(std::move(network.value()), std::move(memory), threads);
    return std::unique_ptr<Engine>(new Engine(std::move(state)));
  } catch (const std::system_error& error) {
    return Error{PSTMO_EDGE_STATUS_OUT_OF_MEMORY, "no " + std::to_string(threads) + " threads: " + error.what()};
  }
}

Engine::Engine(std::unique_ptr<State> state) : state_(std::move(state)) {}
Engine::~Engine() = default;

void Engine::infer(const float* keypoints, int batch, float* poses) noexcept { state_->infer(keypoints, batch, poses); }

int Engine::token_floats() const { return state_->network().config.channels; }

void Engine::encode_frame(const float* keypoints, float* token) noexcept { state_->encode_frame(keypoints, token); }

void Engine::infer_tokens(const float* const* tokens, float* pose) noexcept {
  Source source;
  source.tokens = tokens;
  state_->infer_together(source, pose);
}

const Kernels& Engine::kernels() const { return *state_->network().kernels; }
int Engine::threads() const { return state_->threads(); }
size_t Engine::memory_bytes() const { return state_->memory_bytes(); }
const std::vector<std::string>& Engine::parts() const { return state_->network().parts; }
void Engine::set_profile(Profile* profile) { state_->set_profile(profile); }

}  // namespace pstmo_edge
