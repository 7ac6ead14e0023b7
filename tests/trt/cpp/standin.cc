// What stands in for a GPU and for TensorRT: memory of the host, streams that work at once, and an "engine" whose pose
// is a known function of its window. A broken rule of the documentation ends the program with a sentence.
//
// STANDIN_FAIL: memory, shape, open, context. STANDIN_DEVICE, STANDIN_TENSORRT (a.b.c.d): another machine.
#include <cuda_runtime_api.h>

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <set>
#include <string>
#include <vector>

#include "NvInfer.h"

namespace {

constexpr const char* kMagic = "stand-in engine\n";

[[noreturn]] void broken(const char* rule) {
  std::fprintf(stderr, "stand-in: %s\n", rule);
  std::abort();
}

void need(bool kept, const char* rule) {
  if (!kept) broken(rule);
}

bool fails(const char* what) {
  const char* named = std::getenv("STANDIN_FAIL");
  return named != nullptr && std::strcmp(named, what) == 0;
}

using Work = std::vector<std::function<void()>>;

struct Machine {
  std::mutex mutex;
  std::map<char*, size_t> device, pinned;
  std::set<Work*> streams, graphs, ready;
  Work* capturing = nullptr;
  std::unique_ptr<Work> recorded;
  int launches = 0;

  ~Machine() {
    need(device.empty() && pinned.empty(), "memory was not given back");
    need(streams.empty() && graphs.empty() && ready.empty(), "a stream or a graph was not given back");
    std::fprintf(stderr, "%d graph launches\n", launches);
  }

  static void inside(const std::map<char*, size_t>& blocks, const void* at, size_t size, const char* rule) {
    const char* start = static_cast<const char*>(at);
    for (const auto& [address, length] : blocks) {
      if (start >= address && start + size <= address + length) return;
    }
    broken(rule);
  }

  // Work in a stream: recorded while it captures.
  void run(cudaStream_t stream, const std::function<void()>& work) {
    need(streams.count(reinterpret_cast<Work*>(stream)) == 1, "no such stream");
    if (capturing == reinterpret_cast<Work*>(stream)) {
      recorded->push_back(work);
    } else {
      work();
    }
  }
} machine;

thread_local int current_device = 0;

cudaError_t take(std::map<char*, size_t>& blocks, void** memory, size_t size) {
  const std::lock_guard<std::mutex> lock(machine.mutex);
  if (fails("memory")) return cudaErrorMemoryAllocation;
  *memory = std::malloc(size);
  std::memset(*memory, 0x7f, size);
  blocks[static_cast<char*>(*memory)] = size;
  return cudaSuccess;
}

cudaError_t give(std::map<char*, size_t>& blocks, void* memory) {
  const std::lock_guard<std::mutex> lock(machine.mutex);
  need(blocks.erase(static_cast<char*>(memory)) == 1, "memory is freed that is none");
  std::free(memory);
  return cudaSuccess;
}

int version_part(int index) {
  const char* text = std::getenv("STANDIN_TENSORRT");
  int parts[4] = {10, 3, 0, 26};
  if (text != nullptr) std::sscanf(text, "%d.%d.%d.%d", parts, parts + 1, parts + 2, parts + 3);
  return parts[index];
}

}  // namespace

extern "C" {
const char* cudaGetErrorName(cudaError_t error) {
  return error == cudaErrorMemoryAllocation ? "cudaErrorMemoryAllocation" : "cudaErrorInvalidValue";
}
cudaError_t cudaGetDevice(int* device) { return *device = current_device, cudaSuccess; }
cudaError_t cudaSetDevice(int device) { return current_device = device, cudaSuccess; }
cudaError_t cudaGetDeviceProperties(cudaDeviceProp* found, int device) {
  need(device == 0, "there is one device");
  const char* name = std::getenv("STANDIN_DEVICE");
  std::snprintf(found->name, sizeof found->name, "%s", name == nullptr ? "Fake Orin" : name);
  found->major = 8, found->minor = 7;
  return cudaSuccess;
}
cudaError_t cudaDriverGetVersion(int* version) { return *version = 12060, cudaSuccess; }
cudaError_t cudaHostAlloc(void** memory, size_t size, unsigned) { return take(machine.pinned, memory, size); }
cudaError_t cudaFreeHost(void* memory) { return give(machine.pinned, memory); }
cudaError_t cudaMalloc(void** memory, size_t size) { return take(machine.device, memory, size); }
cudaError_t cudaFree(void* memory) { return give(machine.device, memory); }

cudaError_t cudaMemcpyAsync(void* to, const void* from, size_t size, cudaMemcpyKind kind, cudaStream_t stream) {
  const bool up = kind == cudaMemcpyHostToDevice;
  Machine::inside(machine.device, up ? to : from, size, "a copy outside the device's memory");
  Machine::inside(machine.pinned, up ? from : to, size, "an asynchronous copy of memory that is not pinned");
  machine.run(stream, [=] { std::memcpy(to, from, size); });
  return cudaSuccess;
}
cudaError_t cudaStreamCreateWithFlags(cudaStream_t* stream, unsigned flags) {
  need(flags == cudaStreamNonBlocking, "the stream waits for others");
  const std::lock_guard<std::mutex> lock(machine.mutex);
  *stream = reinterpret_cast<cudaStream_t>(*machine.streams.insert(new Work).first);
  return cudaSuccess;
}
cudaError_t cudaStreamDestroy(cudaStream_t stream) {
  const std::lock_guard<std::mutex> lock(machine.mutex);
  need(machine.streams.erase(reinterpret_cast<Work*>(stream)) == 1, "no such stream");
  delete reinterpret_cast<Work*>(stream);
  return cudaSuccess;
}
cudaError_t cudaStreamSynchronize(cudaStream_t stream) {
  need(machine.capturing != reinterpret_cast<Work*>(stream), "a stream that captures cannot be waited for");
  return cudaSuccess;
}
cudaError_t cudaStreamBeginCapture(cudaStream_t stream, cudaStreamCaptureMode) {
  machine.capturing = reinterpret_cast<Work*>(stream);
  machine.recorded = std::make_unique<Work>();
  return cudaSuccess;
}
cudaError_t cudaStreamEndCapture(cudaStream_t stream, cudaGraph_t* graph) {
  need(machine.capturing == reinterpret_cast<Work*>(stream), "this stream does not capture");
  machine.capturing = nullptr;
  *graph = reinterpret_cast<cudaGraph_t>(*machine.graphs.insert(machine.recorded.release()).first);
  return cudaSuccess;
}
cudaError_t cudaGraphInstantiateWithFlags(cudaGraphExec_t* ready, cudaGraph_t graph, unsigned long long) {
  *ready = reinterpret_cast<cudaGraphExec_t>(*machine.ready.insert(new Work(*reinterpret_cast<Work*>(graph))).first);
  return cudaSuccess;
}
cudaError_t cudaGraphLaunch(cudaGraphExec_t ready, cudaStream_t) {
  for (const auto& work : *reinterpret_cast<Work*>(ready)) work();
  ++machine.launches;
  return cudaSuccess;
}
cudaError_t cudaGraphDestroy(cudaGraph_t graph) {
  need(machine.graphs.erase(reinterpret_cast<Work*>(graph)) == 1, "no such graph");
  delete reinterpret_cast<Work*>(graph);
  return cudaSuccess;
}
cudaError_t cudaGraphExecDestroy(cudaGraphExec_t ready) {
  need(machine.ready.erase(reinterpret_cast<Work*>(ready)) == 1, "no such graph");
  delete reinterpret_cast<Work*>(ready);
  return cudaSuccess;
}
int32_t getInferLibMajorVersion() noexcept { return version_part(0); }
int32_t getInferLibMinorVersion() noexcept { return version_part(1); }
int32_t getInferLibPatchVersion() noexcept { return version_part(2); }
int32_t getInferLibBuildVersion() noexcept { return version_part(3); }
}

namespace nvinfer1 {
namespace {

struct Profile {
  long least[4], best[4], most[4];
};

class Context final : public IExecutionContext {
 public:
  explicit Context(const Profile& profile) : profile_(profile) {}

  bool setInputShape(const char* name, const Dims& shape) noexcept override {
    if (std::strcmp(name, "keypoints") != 0 || shape.nbDims != 4 || fails("shape")) return false;
    for (int d = 0; d < 4; ++d) {
      if (shape.d[d] < profile_.least[d] || shape.d[d] > profile_.most[d]) return false;
    }
    if (batch_ != shape.d[0]) lazy_ = true;
    batch_ = shape.d[0];
    return true;
  }
  bool setTensorAddress(const char* name, void* data) noexcept override {
    (std::strcmp(name, "keypoints") == 0 ? in_ : out_) = static_cast<float*>(data);
    return true;
  }
  bool enqueueV3(cudaStream_t stream) noexcept override {
    if (batch_ == 0 || in_ == nullptr || out_ == nullptr || stream == nullptr) return false;
    need(!lazy_ || machine.capturing == nullptr, "lazy work was captured: the first call of a shape belongs outside");
    lazy_ = false;
    const long values = profile_.most[1] * profile_.most[2] * profile_.most[3], batch = batch_;
    const float* in = in_;
    float* out = out_;
    Machine::inside(machine.device, in, sizeof(float) * batch * values, "the input is not on the device");
    Machine::inside(machine.device, out, sizeof(float) * batch * 51, "the output is not on the device");
    machine.run(stream, [=] {
      for (long b = 0; b < batch; ++b) {
        float sum = 0;
        for (long i = 0; i < values; ++i) sum += in[b * values + i];
        for (long i = 0; i < 51; ++i) out[b * 51 + i] = sum + static_cast<float>(i);
      }
    });
    return true;
  }

 private:
  Profile profile_;
  long batch_ = 0;
  bool lazy_ = true;
  float *in_ = nullptr, *out_ = nullptr;
};

class Engine final : public ICudaEngine {
 public:
  explicit Engine(const Profile& profile) : profile_(profile) {}
  IExecutionContext* createExecutionContext() noexcept override {
    return fails("context") ? nullptr : new Context(profile_);
  }
  int32_t getNbIOTensors() const noexcept override { return 2; }
  const char* getIOTensorName(int32_t index) const noexcept override { return index == 0 ? "keypoints" : "pose"; }
  TensorIOMode getTensorIOMode(const char* name) const noexcept override {
    return std::strcmp(name, "keypoints") == 0 ? TensorIOMode::kINPUT : TensorIOMode::kOUTPUT;
  }
  Dims getTensorShape(const char* name) const noexcept override {
    const auto side = [&](int d) { return static_cast<int64_t>(profile_.most[d]); };
    if (std::strcmp(name, "keypoints") == 0) return {4, {-1, side(1), side(2), side(3)}};
    return {3, {-1, 17, 3}};
  }
  DataType getTensorDataType(const char*) const noexcept override { return DataType::kFLOAT; }

 private:
  Profile profile_;
};

class Runtime final : public IRuntime {
 public:
  explicit Runtime(ILogger& logger) : logger_(logger) {}
  void setEngineHostCodeAllowed(bool allowed) noexcept override { host_code_ = allowed; }
  void setDLACore(int32_t core) noexcept override { core_ = core; }
  ICudaEngine* deserializeCudaEngine(const void* blob, size_t size) noexcept override {
    std::fprintf(stderr, "TensorRT was handed %zu bytes\n", size);
    const std::string text(static_cast<const char*>(blob), size);
    const size_t at = text.find("\"profile\": [[");
    if (text.rfind(kMagic, 0) != 0 || at == std::string::npos || fails("open")) {
      logger_.log(ILogger::Severity::kERROR, "Serialization assertion stdVersionRead failed");
      return nullptr;
    }
    Profile p;
    const int read = std::sscanf(text.c_str() + at,
                                 "\"profile\": [[%ld, %ld, %ld, %ld], [%ld, %ld, %ld, %ld], [%ld, %ld, %ld, %ld]]",
                                 p.least, p.least + 1, p.least + 2, p.least + 3, p.best, p.best + 1, p.best + 2,
                                 p.best + 3, p.most, p.most + 1, p.most + 2, p.most + 3);
    need(read == 12, "the stand-in engine has no profile");
    const size_t core = text.find("\"dla_core\": ");
    const bool on_gpu = text.compare(core + 12, 4, "null") == 0;
    need(on_gpu ? core_ == -1 : std::to_string(core_)[0] == text[core + 12], "the engine is for another DLA core");
    return new Engine(p);
  }

 private:
  ILogger& logger_;
  bool host_code_ = false;
  int32_t core_ = -1;
};

}  // namespace

IRuntime* createInferRuntime(ILogger& logger) noexcept { return new Runtime(logger); }

}  // namespace nvinfer1
