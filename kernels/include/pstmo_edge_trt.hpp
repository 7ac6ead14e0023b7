// A compiled TensorRT bundle in C++17: TensorRT 10.3 to 11.x and CUDA 12 or newer, compiled with your own headers of
// both.
//
//   pstmo_edge::TensorRtEngine engine("engine/");   // after `pstmo-edge compile engine/` on this device
//   engine.infer(keypoints, 1, pose);               // (1, T, 17, 2) normalised -> (1, 17, 3) metres
//
// libpstmo_edge verifies the bundle, this device's signature and what the plan was compiled for before TensorRT sees a
// byte (pstmo_edge_plan.h). Link pstmo_edge, nvinfer and cudart. All of it is in this header.
#ifndef PSTMO_EDGE_TRT_HPP_
#define PSTMO_EDGE_TRT_HPP_

#include <NvInfer.h>
#include <cuda_runtime_api.h>

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <mutex>
#include <stdexcept>
#include <string>
#include <type_traits>

#include "pstmo_edge.hpp"
#include "pstmo_edge_plan.h"

namespace pstmo_edge {
inline namespace v0 {
namespace detail {

inline void check_cuda(cudaError_t status, const char* call) {
  if (status != cudaSuccess)
    throw std::runtime_error(std::string("CUDA: ") + call + " failed with " + cudaGetErrorName(status) +
                             ": close what else uses the GPU, and try again");
}

// The device made current in this thread, and the one before it again afterwards.
class CurrentDevice {
 public:
  explicit CurrentDevice(int device) {
    check_cuda(cudaGetDevice(&before_), "cudaGetDevice");
    check_cuda(cudaSetDevice(device), "cudaSetDevice");
  }
  CurrentDevice(const CurrentDevice&) = delete;
  CurrentDevice& operator=(const CurrentDevice&) = delete;
  ~CurrentDevice() { cudaSetDevice(before_); }

 private:
  int before_ = 0;
};

struct FreeHost {
  void operator()(float* memory) const noexcept { cudaFreeHost(memory); }
};
struct FreeDevice {
  void operator()(float* memory) const noexcept { cudaFree(memory); }
};
struct DestroyStream {
  void operator()(cudaStream_t stream) const noexcept { cudaStreamDestroy(stream); }
};
struct DestroyGraph {
  void operator()(cudaGraphExec_t graph) const noexcept { cudaGraphExecDestroy(graph); }
};
struct ClosePlan {
  void operator()(pstmo_edge_plan* plan) const noexcept { pstmo_edge_plan_close(plan); }
};

using Pinned = std::unique_ptr<float, FreeHost>;
using OnDevice = std::unique_ptr<float, FreeDevice>;
using OwnStream = std::unique_ptr<std::remove_pointer_t<cudaStream_t>, DestroyStream>;
using Graph = std::unique_ptr<std::remove_pointer_t<cudaGraphExec_t>, DestroyGraph>;

inline Pinned pinned(std::size_t values) {
  void* memory = nullptr;
  check_cuda(cudaHostAlloc(&memory, values * sizeof(float), cudaHostAllocDefault), "cudaHostAlloc");
  std::memset(memory, 0, values * sizeof(float));
  return Pinned(static_cast<float*>(memory));
}

inline OnDevice on_device(std::size_t values) {
  void* memory = nullptr;
  check_cuda(cudaMalloc(&memory, values * sizeof(float)), "cudaMalloc");
  return OnDevice(static_cast<float*>(memory));
}

// TensorRT's errors, which are all the reason that it gives for a null pointer.
class Log final : public nvinfer1::ILogger {
 public:
  void log(Severity severity, const nvinfer1::AsciiChar* message) noexcept override {
    if (severity > Severity::kERROR) return;
    const std::lock_guard<std::mutex> lock(mutex_);
    try {
      last_ = message;
    } catch (...) {  // no memory for the sentence: the failure itself is still told
    }
  }
  std::string last() const {
    const std::lock_guard<std::mutex> lock(mutex_);
    return last_.empty() ? "it gives no reason" : last_;
  }

 private:
  mutable std::mutex mutex_;
  std::string last_;
};

}  // namespace detail

// Where `pstmo-edge compile` keeps this device's key: $PSTMO_EDGE_PLAN_KEY, or plan.key in the user's configuration.
inline std::string default_plan_key() {
  if (const char* named = std::getenv("PSTMO_EDGE_PLAN_KEY"); named != nullptr && *named != '\0') return named;
  const char* config = std::getenv("XDG_CONFIG_HOME");
  const char* home = std::getenv("HOME");
  const bool own = config != nullptr && *config != '\0';
  return (own ? std::string(config) : std::string(home == nullptr ? "" : home) + "/.config") + "/pstmo-edge/plan.key";
}

// An opened plan with its own stream and pinned buffers. From any thread; calls wait for each other.
class TensorRtEngine {
 public:
  // Throws Failure for a bundle that is not to be trusted or is another device's, std::runtime_error where CUDA or
  // TensorRT fail. `device` is CUDA's number of the GPU.
  explicit TensorRtEngine(const std::string& path, int device = 0, const std::string& key_path = default_plan_key())
      : device_(device) {
    const detail::CurrentDevice current(device_);
    const Plan plan = verified(path, key_path);
    info_ = PSTMO_EDGE_PLAN_INFO_INIT;
    check(pstmo_edge_plan_info_read(plan.get(), &info_));
    runtime_.reset(nvinfer1::createInferRuntime(log_));
    made(runtime_.get(), "a runtime");
    runtime_->setEngineHostCodeAllowed(info_.version_compatible != 0);
    if (info_.dla_core >= 0) runtime_->setDLACore(info_.dla_core);
    engine_.reset(runtime_->deserializeCudaEngine(info_.bytes, static_cast<std::size_t>(info_.byte_count)));
    made(engine_.get(), "the engine opened");
    context_.reset(engine_->createExecutionContext());
    made(context_.get(), "an execution context");
    prepare();
    info_.bytes = nullptr;
  }
  TensorRtEngine(const TensorRtEngine&) = delete;
  TensorRtEngine& operator=(const TensorRtEngine&) = delete;
  ~TensorRtEngine() { cudaSetDevice(device_); }

  // Sizes of what goes in and comes out; `bytes` is null.
  const pstmo_edge_plan_info& info() const noexcept { return info_; }
  std::size_t window_values() const noexcept { return std::size_t{info_.frames} * info_.joints * info_.channels; }
  std::size_t pose_values() const noexcept { return std::size_t{info_.poses} * info_.pose_joints * 3; }

  // Windows (batch, T, J, C) to poses (batch, [poses,] joints, 3). A batch beyond the plan's is cut into several. The
  // first size gets a CUDA graph for as long as no other comes; after the first call of a size nothing is allocated.
  void infer(const float* keypoints, std::size_t batch, float* poses) {
    const std::lock_guard<std::mutex> lock(mutex_);
    const detail::CurrentDevice current(device_);
    while (batch > 0) {
      const auto size = static_cast<std::int32_t>(std::min<std::size_t>(batch, info_.batch_max));
      std::copy_n(keypoints, size * window_values(), host_in_.get());
      forward(std::max(size, static_cast<std::int32_t>(info_.batch_min)));
      std::copy_n(host_out_.get(), size * pose_values(), poses);
      keypoints += size * window_values();
      poses += size * pose_values();
      batch -= static_cast<std::size_t>(size);
    }
  }

 private:
  using Plan = std::unique_ptr<pstmo_edge_plan, detail::ClosePlan>;

  static void check(pstmo_edge_status status) {
    if (status != PSTMO_EDGE_STATUS_OK) throw Failure(status, pstmo_edge_status_describe(status));
  }

  void made(const void* thing, const char* what) const {
    if (thing == nullptr) throw std::runtime_error(std::string("TensorRT could not make ") + what + ": " + log_.last());
  }

  void accepted(bool done, const char* what) const {
    if (!done) throw std::runtime_error(std::string("TensorRT refuses ") + what + ": " + log_.last());
  }

  Plan verified(const std::string& path, const std::string& key_path) const {
    cudaDeviceProp found;
    detail::check_cuda(cudaGetDeviceProperties(&found, device_), "cudaGetDeviceProperties");
    int driver = 0;
    detail::check_cuda(cudaDriverGetVersion(&driver), "cudaDriverGetVersion");
    const std::string version =
        std::to_string(getInferLibMajorVersion()) + "." + std::to_string(getInferLibMinorVersion()) + "." +
        std::to_string(getInferLibPatchVersion()) + "." + std::to_string(getInferLibBuildVersion());
    const std::string capability = std::to_string(found.major) + "." + std::to_string(found.minor);
    const std::string driver_version = std::to_string(driver);
    pstmo_edge_plan_host host = PSTMO_EDGE_PLAN_HOST_INIT;
    host.key_path = key_path.c_str();
    host.tensorrt = version.c_str();
    host.device = found.name;
    host.capability = capability.c_str();
    host.driver = driver_version.c_str();
    pstmo_edge_plan* opened = nullptr;
    char error[512] = "";
    const pstmo_edge_status status = pstmo_edge_plan_open(path.c_str(), &host, &opened, error, sizeof error);
    if (status != PSTMO_EDGE_STATUS_OK) throw Failure(status, error);
    return Plan(opened);
  }

  // Names, types and sizes as the manifest says, then all memory.
  void prepare() {
    if (engine_->getNbIOTensors() != 2) throw std::runtime_error("the engine has not one input and one output");
    for (std::int32_t i = 0; i < 2; ++i) {
      const char* name = engine_->getIOTensorName(i);
      const bool input = engine_->getTensorIOMode(name) == nvinfer1::TensorIOMode::kINPUT;
      (input ? input_ : output_) = name;
      const nvinfer1::Dims shape = engine_->getTensorShape(name);
      std::size_t values = 1;
      for (std::int32_t d = 1; d < shape.nbDims; ++d) values *= static_cast<std::size_t>(shape.d[d]);
      const bool fits = values == (input ? window_values() : pose_values());
      if (!fits || engine_->getTensorDataType(name) != nvinfer1::DataType::kFLOAT)
        throw std::runtime_error(std::string("the engine's ") + name + " is not what the manifest says");
    }
    if (input_.empty() || output_.empty()) throw std::runtime_error("the engine has not one input and one output");
    cudaStream_t stream = nullptr;
    detail::check_cuda(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking), "cudaStreamCreateWithFlags");
    stream_.reset(stream);
    host_in_ = detail::pinned(info_.batch_max * window_values());
    host_out_ = detail::pinned(info_.batch_max * pose_values());
    device_in_ = detail::on_device(info_.batch_max * window_values());
    device_out_ = detail::on_device(info_.batch_max * pose_values());
    accepted(context_->setTensorAddress(input_.c_str(), device_in_.get()), "an address");
    accepted(context_->setTensorAddress(output_.c_str(), device_out_.get()), "an address");
  }

  void forward(std::int32_t size) {
    if (graph_size_ == 0) {
      enqueue(size);  // TensorRT does lazy work in the first call of a size, which a graph must not hold
      synchronize();
      graph_ = captured(size);
      graph_size_ = size;
    } else if (graph_size_ != size) {
      graph_.reset();
      graph_size_ = -1;
    }
    if (graph_ != nullptr) {
      detail::check_cuda(cudaGraphLaunch(graph_.get(), stream_.get()), "cudaGraphLaunch");
    } else {
      enqueue(size);
    }
    synchronize();
  }

  void enqueue(std::int32_t size) {
    nvinfer1::Dims shape;
    shape.nbDims = 4;
    shape.d[0] = size;
    shape.d[1] = static_cast<std::int32_t>(info_.frames);
    shape.d[2] = static_cast<std::int32_t>(info_.joints);
    shape.d[3] = static_cast<std::int32_t>(info_.channels);
    accepted(context_->setInputShape(input_.c_str(), shape), "this batch");
    copy(device_in_.get(), host_in_.get(), size * window_values(), cudaMemcpyHostToDevice);
    accepted(context_->enqueueV3(stream_.get()), "to run");
    copy(host_out_.get(), device_out_.get(), size * pose_values(), cudaMemcpyDeviceToHost);
  }

  void copy(float* to, const float* from, std::size_t values, cudaMemcpyKind kind) {
    detail::check_cuda(cudaMemcpyAsync(to, from, values * sizeof(float), kind, stream_.get()), "cudaMemcpyAsync");
  }

  void synchronize() { detail::check_cuda(cudaStreamSynchronize(stream_.get()), "cudaStreamSynchronize"); }

  // One forward as a CUDA graph; captured for this thread alone, so that other threads' work is not disturbed.
  detail::Graph captured(std::int32_t size) {
    detail::check_cuda(cudaStreamBeginCapture(stream_.get(), cudaStreamCaptureModeThreadLocal),
                       "cudaStreamBeginCapture");
    cudaGraph_t recorded = nullptr;
    try {
      enqueue(size);
    } catch (...) {  // a stream that still captures could not be used again
      if (cudaStreamEndCapture(stream_.get(), &recorded) == cudaSuccess) cudaGraphDestroy(recorded);
      throw;
    }
    detail::check_cuda(cudaStreamEndCapture(stream_.get(), &recorded), "cudaStreamEndCapture");
    cudaGraphExec_t ready = nullptr;
    const cudaError_t status = cudaGraphInstantiateWithFlags(&ready, recorded, 0);
    cudaGraphDestroy(recorded);
    detail::check_cuda(status, "cudaGraphInstantiateWithFlags");
    return detail::Graph(ready);
  }

  // In the order that they are made; what is below is destroyed first.
  int device_;
  pstmo_edge_plan_info info_;
  detail::Log log_;
  std::mutex mutex_;
  detail::OwnStream stream_;
  detail::Pinned host_in_, host_out_;
  detail::OnDevice device_in_, device_out_;
  std::string input_, output_;
  std::unique_ptr<nvinfer1::IRuntime> runtime_;
  std::unique_ptr<nvinfer1::ICudaEngine> engine_;
  std::unique_ptr<nvinfer1::IExecutionContext> context_;
  detail::Graph graph_;
  std::int32_t graph_size_ = 0;  // the size that the graph is of; 0: none yet, -1: several sizes came
};

}  // namespace v0
}  // namespace pstmo_edge

#endif  // PSTMO_EDGE_TRT_HPP_
