// Fuzzes the reader of launch plans: a plan and its cubins from anywhere, in memory. What is accepted is held to what
// the engine relies on when it launches without looking again; what breaks that ends the program. See fuzz.h.
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <string>
#include <utility>
#include <vector>

#include "../../kernels/cuda/plan.h"
#include "cuda_bundles.h"
#include "fuzz.h"

namespace {

using namespace pstmo_edge;
using namespace pstmo_edge::cuda;
using pstmo_edge::testing::kFuzzHead;

void require(bool good, const char* what) {
  if (good) return;
  std::fprintf(stderr, "accepted: %s\n", what);
  std::_Exit(1);
}

// The network of the seeds.
const testing::BundleSpec& spec() {
  static const testing::BundleSpec all;
  return all;
}

// A table and the bytes that it reads.
struct Arrays {
  explicit Arrays(std::string from)
      : bytes(std::move(from)),
        table(TensorTable::parse(reinterpret_cast<const uint8_t*>(bytes.data()), bytes.size())) {}
  const std::string bytes;
  const Result<TensorTable> table;
};

const TensorTable& weights() {
  static const Arrays all(testing::cuda_files_of(spec()).weights);
  return all.table.value();
}

const TensorTable& good_cubins() {
  static const Arrays all(testing::pack_cubins(testing::cuda_files_of(spec(), true).cubins));
  return all.table.value();
}

// As the driver reads it: wherever its sections point to.
unsigned read_sections(const Tensor& cubin) {
  const auto* const bytes = static_cast<const uint8_t*>(cubin.data);
  const auto number = [&](uint64_t at, int width) {
    uint64_t value = 0;
    for (int i = 0; i < width; ++i) value |= uint64_t{bytes[at + static_cast<uint64_t>(i)]} << (8 * i);
    return value;
  };
  unsigned sum = 0;
  for (uint64_t i = 0, at = number(40, 8); i < number(60, 2); ++i, at += 64) {
    if (number(at + 4, 4) == 8) continue;
    for (uint64_t k = 0; k < number(at + 32, 8); ++k) sum += bytes[number(at + 24, 8) + k];
  }
  return sum;
}

void check_kernel(const Kernel& kernel) {
  require(kernel.cubin != nullptr, "a kernel without a cubin");
  require(kernel.threads >= 32 && kernel.threads <= 1024, "threads that no program has");
  require(kernel.shared_bytes <= 1 << 20, "shared memory that no chip has");
  require(!kernel.entry.empty() && kernel.entry.find('\0') == std::string::npos, "an entry that is no name");
  const volatile unsigned kept = read_sections(*kernel.cubin);
  static_cast<void>(kept);
}

void check_argument(const Argument& argument, const Plan& plan, int windows) {
  if (argument.kind == Argument::Kind::Buffer) require(argument.index < plan.buffers.size(), "no such buffer");
  if (argument.kind == Argument::Kind::Weight) require(argument.index < weights().size(), "no such weight");
  if (argument.kind != Argument::Kind::Count) return;
  const int64_t count = argument.count.at(windows);
  require(count >= 1 && count <= INT32_MAX, "a count that is no 32-bit number");
}

void check_choice(const Choice& choice, const Plan& plan, int windows) {
  require(choice.kernel < plan.kernels.size(), "a launch of a kernel that is not there");
  check_kernel(plan.kernels[choice.kernel]);
  for (size_t axis = 0; axis < choice.grid.size(); ++axis) {
    const unsigned programs = choice.grid[axis].programs(windows);
    require(programs >= 1 && programs <= (axis == 0 ? INT32_MAX : 65535), "a grid that no GPU takes");
  }
}

void check(const Plan& plan) {
  require(plan.most_windows >= 1 && plan.most_windows <= 65536, "a batch that no call has");
  require(!plan.launches.empty(), "a plan without launches");
  require(plan.keypoints < plan.buffers.size() && plan.poses < plan.buffers.size(), "no room for keypoints or poses");
  require(plan.buffers[plan.keypoints].bytes == int64_t{spec().frames} * 34 * 4, "keypoints of another size");
  require(plan.buffers[plan.poses].bytes == 51 * 4, "poses of another size");
  for (const Buffer& buffer : plan.buffers) require(buffer.bytes >= 1 && buffer.bytes <= int64_t{1} << 31, "a buffer");
  for (const int windows : {1, 2, plan.most_windows}) {
    for (const Launch& launch : plan.launches) {
      require(launch.arguments.size() <= kMostArguments, "more arguments than there is room for");
      for (const Argument& argument : launch.arguments) check_argument(argument, plan, windows);
      check_choice(launch.few, plan, windows);
      check_choice(launch.many, plan, windows);
    }
  }
  if (!plan.single) return;
  check_kernel(plan.single->kernel);
  require(plan.single->workspace >= 1 && !plan.single->network.empty(), "a single launch of nothing");
  for (const Argument& slot : plan.single->network) {
    require(slot.kind != Argument::Kind::Buffer && slot.kind != Argument::Kind::Float, "a slot that is no number");
    check_argument(slot, plan, 1);
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  if (size < kFuzzHead) return 0;
  const size_t text_size = testing::fuzz_text_size(data, size);
  // Copies of exactly these sizes, so that a sanitizer sees one byte too many.
  const std::vector<char> text(data + kFuzzHead, data + kFuzzHead + text_size);
  const std::vector<uint8_t> file(data + kFuzzHead + text_size, data + size);
  const auto cubins = TensorTable::parse(file.data(), file.size());
  // Where the file is refused the plan is read all the same, with good cubins.
  const auto plan =
      parse_plan({text.data(), text.size()}, spec().frames, weights(), cubins.ok() ? cubins.value() : good_cubins());
  if (plan.ok()) check(plan.value());
  return 0;
}

// Without and with the kernel for one window.
std::vector<std::string> pstmo_edge::testing::fuzz_seeds() {
  std::vector<std::string> seeds;
  for (const bool single : {false, true}) {
    const CudaFiles files = cuda_files_of(spec(), single);
    seeds.push_back(fuzz_input(files.plan, pack_cubins(files.cubins)));
  }
  return seeds;
}
