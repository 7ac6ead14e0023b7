// run_plan BUNDLE KEY: batches of 1, 1, 1, 3, 70 and 1 windows, then one window from each of 4 threads; the poses as
// text.
#include <cstdio>
#include <thread>

#include "pstmo_edge_trt.hpp"

namespace {

void print(const char* name, const std::vector<float>& poses) {
  std::printf("%s", name);
  for (const float value : poses) std::printf(" %.9g", value);
  std::printf("\n");
}

std::vector<float> windows(std::size_t batch, std::size_t values) {
  std::vector<float> made(batch * values);
  for (std::size_t i = 0; i < made.size(); ++i) made[i] = static_cast<float>(i % 7) + static_cast<float>(i / values);
  return made;
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 3) return 2;
  try {
    pstmo_edge::TensorRtEngine engine(argv[1], 0, argv[2]);
    for (const std::size_t batch : {1, 1, 1, 3, 70, 1}) {
      std::vector<float> poses(batch * engine.pose_values());
      engine.infer(windows(batch, engine.window_values()).data(), batch, poses.data());
      print("batch", poses);
    }
    std::vector<std::vector<float>> answers(4, std::vector<float>(engine.pose_values()));
    std::vector<std::thread> threads;
    for (std::size_t n = 0; n < answers.size(); ++n) {
      threads.emplace_back([&, n] {
        std::vector<float> window(engine.window_values(), static_cast<float>(n));
        for (int i = 0; i < 100; ++i) engine.infer(window.data(), 1, answers[n].data());
      });
    }
    for (std::thread& thread : threads) thread.join();
    for (const auto& poses : answers) print("thread", poses);
  } catch (const std::exception& error) {
    std::printf("%s\n", error.what());
    return 1;
  }
  return 0;
}
