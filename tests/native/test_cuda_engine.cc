// The CUDA engine behind the C ABI, with a stand-in for the driver (argv[1]): its poses, its streams, threads, contexts
// of others, processes that fork. What fails and what is damaged: test_cuda_failures.cc.
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <thread>

#include "cuda_bundles.h"
#include "standin.h"

namespace pstmo_edge {
namespace testing {
namespace {

constexpr float kRounding = 1e-5f;

// Nothing is left and no rule of the driver's was broken.
void check_clean(const Standin& driver) {
  CHECK(driver.live() == 0);
  CHECK(driver.violation().empty());
  if (!driver.violation().empty()) std::fprintf(stderr, "%s\n", driver.violation().c_str());
}

void poses_are_those_of_the_cpu(const Standin& driver, const std::string& folder) {
  driver.set(true);
  const Opened gpu = open_engine(folder, &driver), cpu = open_engine(folder, nullptr);
  const long pieces[] = {1, 1, 1, 2, 2, 2, 3};  // of 1 to 7 windows, where a graph takes 3, 2 or 1
  for (int batch = 1; batch <= 7; ++batch) {
    const std::vector<float> keypoints = windows_of(batch, batch);
    std::vector<float> found, expected;
    const long replays = driver.replays(), calls = driver.calls();
    CHECK(lift(gpu.engine, keypoints, &found) == PSTMO_EDGE_STATUS_OK);
    CHECK(driver.replays() - replays == pieces[batch - 1]);
    CHECK(driver.calls() - calls == 2 + 2 * pieces[batch - 1]);  // push, pop; for a piece, a launch and a wait
    CHECK(lift(cpu.engine, keypoints, &expected) == PSTMO_EDGE_STATUS_OK);
    CHECK(largest_difference(found.data(), expected.data(), found.size()) < kRounding);
  }
  pstmo_edge_engine_close(cpu.engine);
  pstmo_edge_engine_close(gpu.engine);
  check_clean(driver);
}

// At rates that differ, so that some have no pose when others have; the program lets go of the engine first.
void streams_are_read_in_one_batch(const Standin& driver, const std::string& folder) {
  driver.set(true);
  const Opened gpu = open_engine(folder, &driver), cpu = open_engine(folder, nullptr);
  constexpr double kRates[] = {50, 25, 50, 100};
  std::vector<pstmo_edge_stream*> many, one;
  for (const double rate : kRates) {
    many.push_back(open_stream(gpu.engine, rate));
    one.push_back(open_stream(cpu.engine, rate));
  }
  pstmo_edge_engine_close(gpu.engine);
  pstmo_edge_engine_close(cpu.engine);
  int taken = 0;
  for (int frame = 0; frame < 16; ++frame) {
    pstmo_edge_pose poses[4] = {PSTMO_EDGE_POSE_INIT, PSTMO_EDGE_POSE_INIT, PSTMO_EDGE_POSE_INIT, PSTMO_EDGE_POSE_INIT};
    pstmo_edge_status statuses[4];
    for (size_t i = 0; i < 4; ++i) push(many[i], frame, kRates[i]), push(one[i], frame, kRates[i]);
    CHECK(pstmo_edge_streams_read(many.data(), 4, poses, statuses) == PSTMO_EDGE_STATUS_OK);
    for (size_t i = 0; i < 4; ++i) {
      pstmo_edge_pose expected = PSTMO_EDGE_POSE_INIT;
      CHECK(pstmo_edge_stream_read(one[i], &expected) == statuses[i]);
      if (statuses[i] != PSTMO_EDGE_STATUS_OK) continue;
      ++taken;
      CHECK(poses[i].frame == expected.frame && poses[i].flags == expected.flags);
      CHECK(largest_difference(&poses[i].joints[0][0], &expected.joints[0][0], kPose) < kRounding);
    }
  }
  CHECK(taken > 30);
  for (pstmo_edge_stream* stream : many) pstmo_edge_stream_close(stream);
  for (pstmo_edge_stream* stream : one) pstmo_edge_stream_close(stream);
  check_clean(driver);
}

// An engine each, opened, used and closed at once: they share the context, and one captures while another loads.
void engines_in_many_threads(const Standin& driver, const std::string& folder) {
  driver.set(true);
  const Opened first = open_engine(folder, &driver, 2);
  std::vector<float> expected;
  CHECK(lift(first.engine, windows_of(2, 5), &expected) == PSTMO_EDGE_STATUS_OK);
  std::atomic<int> right{0}, busy{0}, wrong{0};
  const auto use = [&](pstmo_edge_engine* engine, int times) {
    for (int i = 0; i < times; ++i) {
      std::vector<float> found(expected.size());
      const std::vector<float> keypoints = windows_of(2, 5);
      const pstmo_edge_status status =
          pstmo_edge_engine_infer(engine, keypoints.data(), keypoints.size(), 2, found.data(), found.size());
      ++(status == PSTMO_EDGE_STATUS_BUSY ? busy : status == PSTMO_EDGE_STATUS_OK && found == expected ? right : wrong);
    }
  };
  std::vector<std::thread> threads;
  for (int i = 0; i < 4; ++i) {
    threads.emplace_back([&] {
      pstmo_edge_engine_options options = PSTMO_EDGE_ENGINE_OPTIONS_INIT;
      pstmo_edge_engine* engine = nullptr;
      options.device = "cuda", options.driver = driver.path(), options.max_batch = 2;
      if (pstmo_edge_engine_open(folder.c_str(), &options, &engine, nullptr, 0) != PSTMO_EDGE_STATUS_OK) ++wrong;
      use(engine, 4);
      pstmo_edge_engine_close(engine);
    });
  }
  for (int i = 0; i < 2; ++i) threads.emplace_back([&] { use(first.engine, 8); });
  for (std::thread& thread : threads) thread.join();
  std::printf("one engine, two threads, and four of their own: %d right, %d busy\n", right.load(), busy.load());
  CHECK(wrong == 0);
  CHECK(right + busy == 4 * 4 + 2 * 8);
  CHECK(right >= 4 * 4);
  std::thread([&] { pstmo_edge_engine_close(first.engine); }).join();  // not the thread that opened it
  check_clean(driver);
}

// Whatever was current on the calling thread is afterwards.
void contexts_of_others_stay_current(const Standin& driver, const std::string& folder) {
  driver.set(true);
  std::vector<float> poses;
  const auto beside = [&](auto body) {
    driver.enter_other_context();
    body();
    CHECK(driver.leave_other_context());
  };
  Opened gpu;
  pstmo_edge_stream* stream = nullptr;
  beside([&] { gpu = open_engine(folder, &driver); });
  beside([&] { CHECK(lift(gpu.engine, windows_of(4, 1), &poses) == PSTMO_EDGE_STATUS_OK); });
  beside([&] { stream = open_stream(gpu.engine, 50), push(stream, 0, 50), push(stream, 1, 50), push(stream, 2, 50); });
  beside([&] {
    pstmo_edge_pose pose = PSTMO_EDGE_POSE_INIT;
    CHECK(pstmo_edge_stream_read(stream, &pose) == PSTMO_EDGE_STATUS_OK);
  });
  beside([&] { pstmo_edge_stream_close(stream), pstmo_edge_engine_close(gpu.engine); });
  check_clean(driver);
}

// Somebody resets the device: handles of its context mean nothing any more and are not touched again.
void a_device_that_others_reset(const Standin& driver, const std::string& folder) {
  driver.set(true);
  std::vector<float> poses;
  const Opened gpu = open_engine(folder, &driver);
  driver.reset_device();
  driver.enter_other_context();
  CHECK(lift(gpu.engine, windows_of(1, 1), &poses) == PSTMO_EDGE_STATUS_DEVICE_FAILED);
  CHECK(
      error_of(gpu.engine) ==
      "the GPU failed in cuCtxPushCurrent: CUDA_ERROR_CONTEXT_IS_DESTROYED (709); close the engine and open it again");
  pstmo_edge_engine_close(gpu.engine);
  CHECK(driver.leave_other_context());
  check_clean(driver);
  const Opened again = open_engine(folder, &driver);
  CHECK(lift(again.engine, windows_of(1, 1), &poses) == PSTMO_EDGE_STATUS_OK);
  pstmo_edge_engine_close(again.engine);
  check_clean(driver);
}

int in_the_child(const Standin& driver, const std::string& folder, const Opened& gpu) {
  const int failed_before = checks_failed;
  std::vector<float> poses;
  if (lift(gpu.engine, windows_of(1, 1), &poses) != PSTMO_EDGE_STATUS_DEVICE_FAILED) return 1;
  if (!contains(error_of(gpu.engine), "this process was forked after the engine was opened")) return 2;
  pstmo_edge_engine_close(gpu.engine);  // touches nothing of the driver
  const Opened another = open_engine(folder, &driver);
  if (another.status != PSTMO_EDGE_STATUS_DEVICE_UNAVAILABLE) return 3;
  if (!contains(another.error,
                "does not start: cuInit: an unknown error (3); it does not follow a process that is forked"))
    return 4;
  const Opened cpu = open_engine(folder, nullptr);
  if (lift(cpu.engine, windows_of(1, 1), &poses) != PSTMO_EDGE_STATUS_OK) return 5;
  pstmo_edge_engine_close(cpu.engine);
  return driver.violation().empty() && checks_failed == failed_before ? 0 : 6;
}

void a_process_that_forks(const Standin& driver, const std::string& folder) {
  driver.set(true);
  const Opened gpu = open_engine(folder, &driver);
  std::vector<float> before, after;
  CHECK(lift(gpu.engine, windows_of(2, 9), &before) == PSTMO_EDGE_STATUS_OK);
  const pid_t child = ::fork();
  if (child == 0) ::_exit(in_the_child(driver, folder, gpu));
  int status = -1;
  CHECK(::waitpid(child, &status, 0) == child);
  if (status != 0) std::fprintf(stderr, "the child ends with %d\n", WEXITSTATUS(status));
  CHECK(WIFEXITED(status) && WEXITSTATUS(status) == 0);
  CHECK(lift(gpu.engine, windows_of(2, 9), &after) == PSTMO_EDGE_STATUS_OK);
  CHECK(before == after);
  pstmo_edge_engine_close(gpu.engine);
  check_clean(driver);
}

// The stand-in has no numbers for a network this small: what is seen here is the table, the launch and the graph.
void one_window_in_one_launch(const Standin& driver, const BundleSpec& spec) {
  const std::string folder = make_folder();
  write_cuda_bundle(folder, spec, cuda_files_of(spec, true));
  driver.set(false);
  std::vector<float> poses;
  const Opened gpu = open_engine(folder, &driver);
  pstmo_edge_engine_info info = PSTMO_EDGE_ENGINE_INFO_INIT;
  CHECK(pstmo_edge_engine_info_read(gpu.engine, &info) == PSTMO_EDGE_STATUS_OK);
  CHECK(std::strcmp(info.isa, "sm_87 single-launch") == 0);
  const long before = driver.together();
  CHECK(lift(gpu.engine, windows_of(4, 1), &poses) == PSTMO_EDGE_STATUS_OK);  // three, and one
  CHECK(driver.together() == before + 1);
  pstmo_edge_engine_close(gpu.engine);
  check_clean(driver);
}

int run(const char* path) {
  const Standin driver(path);
  const BundleSpec spec;
  const std::string folder = make_folder();
  write_cuda_bundle(folder, spec, cuda_files_of(spec));
  poses_are_those_of_the_cpu(driver, folder);
  streams_are_read_in_one_batch(driver, folder);
  contexts_of_others_stay_current(driver, folder);
  a_device_that_others_reset(driver, folder);
  a_process_that_forks(driver, folder);
  one_window_in_one_launch(driver, spec);
  engines_in_many_threads(driver, folder);
  return check_result();
}

}  // namespace
}  // namespace testing
}  // namespace pstmo_edge

int main(int argc, char** argv) { return argc > 1 ? pstmo_edge::testing::run(argv[1]) : 2; }
