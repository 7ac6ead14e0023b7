#ifndef PSTMO_EDGE_CUDA_PLAN_H_
#define PSTMO_EDGE_CUDA_PLAN_H_

#include <array>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "../runtime/result.h"
#include "../runtime/tensors.h"

// What a bundle says of its GPU kernels. kernels/triton/plan.py is the writer and documents the form.

namespace pstmo_edge {
namespace cuda {

constexpr std::string_view kGpuWeights = "gpu-weights.safetensors";
constexpr std::string_view kPlanStart = "gpu-sm_";  // gpu-sm_87.json, gpu-sm_87.safetensors
constexpr std::string_view kPlanEnd = ".json", kCubinsEnd = ".safetensors";
constexpr int kPlanSchema = 1;
constexpr size_t kMostArguments = 64;  // of a launch

// A number that grows with the batch.
struct Count {
  int64_t fixed = 0, by_window = 0;
  int64_t at(int windows) const { return fixed + by_window * windows; }
};

// One parameter of a kernel.
struct Argument {
  enum class Kind : uint8_t { Buffer, Weight, Count, Float, Null };
  Kind kind = Kind::Null;
  size_t index = 0;  // of the buffer, or of the array in the table of weights
  Count count;
  float number = 0;
};

struct Axis {
  Count things;
  int64_t each = 1;  // things of one program
  unsigned programs(int windows) const { return static_cast<unsigned>((things.at(windows) + each - 1) / each); }
};

struct Choice {
  size_t kernel = 0;
  std::array<Axis, 3> grid;
};

struct Launch {
  int64_t tokens = 0;  // of a window
  std::vector<Argument> arguments;
  Choice few, many;
};

struct Kernel {
  std::string entry;              // the function's name in its cubin
  const Tensor* cubin = nullptr;  // a whole ELF file; lives as long as the table that it is in
  unsigned threads = 0;           // of a program
  unsigned shared_bytes = 0;
};

struct Buffer {
  std::string name;
  int64_t bytes = 0;  // of a window
};

// A kernel that lifts one window in one launch of blocks that wait for each other: single_window.h.
struct Single {
  Kernel kernel;
  int driver = 0;                 // the least version for this kernel
  std::vector<Argument> network;  // 8-byte slots of a table in device memory, its first parameter: no buffer, no float
  int64_t workspace = 0;          // bytes
};

struct Plan {
  int driver = 0;     // the least version: 12000 is CUDA 12.0
  int few_below = 0;  // tokens for every multiprocessor
  int most_windows = 0;
  std::string weights_sha256;
  std::vector<Buffer> buffers;
  size_t keypoints = 0, poses = 0;  // their numbers
  std::vector<Kernel> kernels;
  std::vector<Launch> launches;
  std::optional<Single> single;
};

// The plan of these bytes for windows of so many frames. Every array, buffer and kernel that it names is there, and
// every number is within limits that cannot overflow; what the kernels do with them is the compiler's promise. The
// tables must outlive the plan.
Result<Plan> parse_plan(std::string_view text, int frames, const TensorTable& weights, const TensorTable& cubins);

}  // namespace cuda
}  // namespace pstmo_edge

#endif  // PSTMO_EDGE_CUDA_PLAN_H_
