// The CUDA engine behind the C ABI when things go wrong, with a stand-in for the driver (argv[1]): every call of the
// driver that fails, once or for good; plans and cubins that are cut or changed. One line each time, nothing left, and
// the CPU still lifts. argv[2]: of the cuts and changes, try each n-th.
#include <algorithm>
#include <set>

#include "../../kernels/cuda/cubin.h"
#include "cuda_bundles.h"
#include "standin.h"

namespace pstmo_edge {
namespace testing {
namespace {

constexpr int kLaunchFailed = 719, kOther = 46;  // the first one is final

bool is_one_line(const std::string& text) { return !text.empty() && text.find('\n') == std::string::npos; }

// What a program does with an engine. Answers the first sentence of a failure, "" where there was none.
std::string whole_life(const Standin& driver, const std::string& folder) {
  Opened gpu = open_engine(folder, &driver);
  if (gpu.engine == nullptr) {
    CHECK(gpu.status == PSTMO_EDGE_STATUS_DEVICE_FAILED || gpu.status == PSTMO_EDGE_STATUS_DEVICE_UNAVAILABLE);
    return gpu.error;
  }
  std::string said;
  std::vector<float> poses;
  const auto note = [&](pstmo_edge_status status) {
    if (status == PSTMO_EDGE_STATUS_OK || !said.empty()) return;
    CHECK(status == PSTMO_EDGE_STATUS_DEVICE_FAILED);
    said = error_of(gpu.engine);
  };
  pstmo_edge_stream* streams[2] = {open_stream(gpu.engine, 50), open_stream(gpu.engine, 50)};
  for (int frame = 0; frame < 3; ++frame) {
    for (pstmo_edge_stream* stream : streams) push(stream, frame, 50);
  }
  note(lift(gpu.engine, windows_of(4, 1), &poses));
  pstmo_edge_pose read[2] = {PSTMO_EDGE_POSE_INIT, PSTMO_EDGE_POSE_INIT};
  pstmo_edge_status statuses[2];
  note(pstmo_edge_streams_read(streams, 2, read, statuses));
  for (pstmo_edge_stream* stream : streams) pstmo_edge_stream_close(stream);
  pstmo_edge_engine_close(gpu.engine);
  return said;
}

// Whether a failure of it has nobody to tell: it gives back.
bool gives_back(const std::string& function) {
  static const std::set<std::string> kAll = {
      "cuCtxPopCurrent", "cuGraphDestroy", "cuGraphExecDestroy", "cuModuleUnload",
      "cuMemFree",       "cuMemFreeHost",  "cuStreamDestroy",    "cuDevicePrimaryCtxRelease"};
  return kAll.count(function) > 0;
}

// Each in turn. Closing also makes a context current and waits for its stream, once.
void every_call_that_fails(const Standin& driver, const std::string& folder, bool for_good) {
  driver.set(false);
  CHECK(whole_life(driver, folder).empty());
  const long calls = driver.calls();
  const Opened cpu = open_engine(folder, nullptr);
  std::vector<float> expected, found;
  CHECK(lift(cpu.engine, windows_of(1, 3), &expected) == PSTMO_EDGE_STATUS_OK);
  long silent = 0, unexpected = 0;
  for (long call = 1; call <= calls; ++call) {
    const int code = call % 2 == 0 ? kOther : kLaunchFailed;
    driver.set(false);
    driver.enter_other_context();
    for_good ? driver.fail_from(call, code) : driver.fail(call, code);
    const std::string said = whole_life(driver, folder);
    CHECK(driver.leave_other_context());
    CHECK(driver.live() == 0);
    CHECK(driver.violation().empty());
    if (driver.live() != 0 || !driver.violation().empty()) {
      std::fprintf(stderr, "call %ld: %ld left, %s\n", call, driver.live(), driver.violation().c_str());
    }
    if (said.empty()) {
      ++silent;
      unexpected += !gives_back(driver.failed());
    } else {
      CHECK(is_one_line(said));
      CHECK(contains(said, ("(" + std::to_string(code) + ")").c_str()));
      CHECK(contains(said, "start the program again") == (code == kLaunchFailed && contains(said, " failed in ")));
    }
    CHECK(lift(cpu.engine, windows_of(1, 3), &found) == PSTMO_EDGE_STATUS_OK && found == expected);
  }
  pstmo_edge_engine_close(cpu.engine);
  std::printf("%ld calls of the driver made to fail in turn%s, %ld of them without a word\n", calls,
              for_good ? " with all that follow" : "", silent);
  CHECK(calls > 200 && unexpected == 2);
}

// A failure that passes: the next call lifts again, and what it says is its own failure, not the first one.
void a_failure_that_passes(const Standin& driver, const std::string& folder) {
  driver.set(true);
  const Opened gpu = open_engine(folder, &driver);
  std::vector<float> expected, found;
  CHECK(lift(gpu.engine, windows_of(1, 3), &expected) == PSTMO_EDGE_STATUS_OK);
  const char* const functions[] = {"cuCtxPushCurrent", "cuGraphLaunch", "cuStreamSynchronize"};
  for (long call = 1; call <= 3; ++call) {
    driver.fail(call, kOther);
    CHECK(lift(gpu.engine, windows_of(1, 3), &found) == PSTMO_EDGE_STATUS_DEVICE_FAILED);
    CHECK(error_of(gpu.engine) == std::string("the GPU failed in ") + functions[call - 1] +
                                      ": an unknown error (46); close the engine and open it again");
    CHECK(lift(gpu.engine, windows_of(1, 3), &found) == PSTMO_EDGE_STATUS_OK && found == expected);
  }
  pstmo_edge_engine_close(gpu.engine);
  CHECK(driver.live() == 0 && driver.violation().empty());
}

void memory_that_runs_out(const Standin& driver, const std::string& folder) {
  std::set<pstmo_edge_status> answers;
  for (size_t memory = 0; memory < (size_t{1} << 20); memory += 40000) {
    driver.set(false, memory);
    const Opened gpu = open_engine(folder, &driver);
    answers.insert(gpu.status);
    CHECK(gpu.engine != nullptr || contains(gpu.error, "does not hold 3 windows at once"));
    if (gpu.engine != nullptr) pstmo_edge_engine_close(gpu.engine);
    CHECK(driver.live() == 0 && driver.violation().empty());
  }
  CHECK(answers == (std::set<pstmo_edge_status>{PSTMO_EDGE_STATUS_OK, PSTMO_EDGE_STATUS_OUT_OF_MEMORY}));
}

// ---- files
// -----------------------------------------------------------------------------------------------------------

class Damage {
 public:
  Damage(const Standin& driver, const BundleSpec& spec)
      : driver_(driver), spec_(spec), good_(cuda_files_of(spec, true)), folder_(make_folder()) {}

  const CudaFiles& good() const { return good_; }

  // With right digests. What the stand-in says of rules is the mutant's doing: it is told its threads and grids.
  Opened open(const CudaFiles& files) {
    write_cuda_bundle(folder_, spec_, files);
    driver_.set(false);
    Opened opened = open_engine(folder_, &driver_, 2);
    if (opened.engine != nullptr) {
      std::vector<float> poses;
      lift(opened.engine, windows_of(3, 1), &poses);
      pstmo_edge_engine_close(opened.engine);
      opened.engine = nullptr;
      ++accepted_;
    } else {
      CHECK(is_one_line(opened.error));
      ++refused_;
    }
    CHECK(driver_.live() == 0);
    return opened;
  }

  void refused(const CudaFiles& files, const char* part) {
    const Opened opened = open(files);
    CHECK(opened.status == PSTMO_EDGE_STATUS_BUNDLE_DAMAGED);
    CHECK(contains(opened.error, part));
    if (!contains(opened.error, part)) std::fprintf(stderr, "not '%s': '%s'\n", part, opened.error.c_str());
  }

  int accepted_ = 0, refused_ = 0;

 private:
  const Standin& driver_;
  const BundleSpec& spec_;
  const CudaFiles good_;
  const std::string folder_;
};

CudaFiles with_plan(CudaFiles files, const std::string& plan) { return files.plan = plan, files; }

CudaFiles with_cubin(CudaFiles files, size_t which, const std::string& cubin) {
  return files.cubins[which].second = cubin, files;
}

void plans_that_are_cut(Damage& damage, size_t step) {
  const std::string& plan = damage.good().plan;
  for (size_t size = 0; size < plan.size(); size += step) {
    damage.refused(with_plan(damage.good(), plan.substr(0, size)), "its launch plan cannot be used: ");
  }
}

// Some change nothing that matters (a digit of a limit); most do.
void plans_with_changed_bits(Damage& damage, size_t step) {
  const std::string& plan = damage.good().plan;
  damage.accepted_ = damage.refused_ = 0;
  for (size_t bit = 0; bit < 8 * plan.size(); bit += step) {
    std::string changed = plan;
    changed[bit / 8] = static_cast<char>(changed[bit / 8] ^ 1 << bit % 8);
    damage.open(with_plan(damage.good(), changed));
  }
  std::printf("plans with one changed bit: %d refused, %d accepted\n", damage.refused_, damage.accepted_);
  CHECK(damage.refused_ > 2 * damage.accepted_);
}

// The driver reads a cubin without its length: none that is cut reaches it.
void cubins_that_are_cut(Damage& damage, size_t step) {
  const std::string& cubin = damage.good().cubins[0].second;
  for (size_t size = 1; size < cubin.size(); size += std::max<size_t>(1, step / 16)) {
    damage.refused(with_cubin(damage.good(), 0, cubin.substr(0, size)), "its cubin is cut short or no cubin");
  }
}

void cubins_with_changed_bits(Damage& damage, size_t step) {
  const std::string& cubin = damage.good().cubins[0].second;
  for (size_t bit = 0; bit < 8 * cubin.size(); bit += std::max<size_t>(1, step / 4)) {
    std::string changed = cubin;
    changed[bit / 8] = static_cast<char>(changed[bit / 8] ^ 1 << bit % 8);
    damage.open(with_cubin(damage.good(), 0, changed));
  }
}

void plans_that_ask_for_what_is_not_there(Damage& damage) {
  const auto broken = [&](const char* from, const char* to) {
    return with_plan(damage.good(), replaced(damage.good().plan, from, to));
  };
  damage.refused(broken("\"entry\":\"attention\"", "\"entry\":\"nothing\""),
                 "cuModuleGetFunction: CUDA_ERROR_NOT_FOUND (500)): compile it again");
  damage.refused(broken("[[\"null\"],[\"count\",9,0],[\"weight\",\"fcn.1.weight\"]]", "[]"), "has no slots");
  damage.refused(broken("[\"count\",9,0],[\"weight\",\"fcn.1.weight\"]", "[\"float\",9.0]"), "a buffer or a float");
  damage.refused(broken("[\"count\",9,0],[\"weight\",\"fcn.1.weight\"]", "[\"buffer\",\"qkv\"]"),
                 "a buffer or a float");
  // The driver reads as many parameters as the kernel has. Those that the plan does not give are zero.
  damage.open(broken("[\"buffer\",\"keypoints\"],", ""));
  damage.open(
      broken("[\"buffer\",\"qkv\"],[\"buffer\",\"mixed\"],[\"count\",0,1],[\"count\",9,0],[\"null\"],[\"null\"]", ""));
}

// Sums of a place and a size that overflow, tables at the very end, sections without bytes.
void cubins_by_their_headers() {
  const std::string good = cubin_of("standin attention 64 0");
  const auto is_whole = [&](size_t at, uint64_t value, size_t width) {
    std::string changed = good;
    for (size_t i = 0; i < width; ++i) changed[at + i] = static_cast<char>(value >> (8 * i) & 255);
    return cuda::is_whole_cubin(reinterpret_cast<const uint8_t*>(changed.data()), changed.size());
  };
  CHECK(is_whole(0, 0x7f, 1));
  CHECK(!is_whole(4, 1, 1));                      // 32 bits
  CHECK(!is_whole(18, 62, 2));                    // another machine
  CHECK(!is_whole(40, UINT64_MAX, 8));            // the sections' place
  CHECK(!is_whole(40, good.size() - 63, 8));      // their last byte
  CHECK(!is_whole(60, 0, 2));                     // none
  CHECK(!is_whole(60, 0xffff, 2));                // too many
  CHECK(!is_whole(62, 1, 2));                     // the one with the names
  CHECK(!is_whole(64 + 24, UINT64_MAX - 16, 8));  // a section's place
  CHECK(!is_whole(64 + 32, UINT64_MAX - 64, 8));  // its size
  CHECK(!is_whole(56, 1, 2));                     // a segment, whose entries have no size
  std::string empty = good;
  empty[64 + 4] = 8, empty[64 + 39] = 127;  // takes no bytes of the file, however many in memory
  CHECK(cuda::is_whole_cubin(reinterpret_cast<const uint8_t*>(empty.data()), empty.size()));
}

int run(const char* path, size_t step) {
  const Standin driver(path);
  const BundleSpec spec;
  const std::string folder = make_folder();
  write_cuda_bundle(folder, spec, cuda_files_of(spec, true));
  every_call_that_fails(driver, folder, false);
  every_call_that_fails(driver, folder, true);
  const std::string plain = make_folder();
  write_cuda_bundle(plain, spec, cuda_files_of(spec));
  a_failure_that_passes(driver, plain);
  memory_that_runs_out(driver, folder);
  Damage damage(driver, spec);
  CHECK(damage.open(damage.good()).status == PSTMO_EDGE_STATUS_OK);
  plans_that_are_cut(damage, step);
  plans_with_changed_bits(damage, 8 * step + 1);
  cubins_that_are_cut(damage, step);
  cubins_with_changed_bits(damage, step);
  plans_that_ask_for_what_is_not_there(damage);
  cubins_by_their_headers();
  return check_result();
}

}  // namespace
}  // namespace testing
}  // namespace pstmo_edge

int main(int argc, char** argv) {
  const unsigned long step = argc > 2 ? std::strtoul(argv[2], nullptr, 10) : 1;
  return argc > 1 ? pstmo_edge::testing::run(argv[1], step) : 2;
}
