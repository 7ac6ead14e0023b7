#ifndef PSTMO_EDGE_CUDA_DRIVER_H_
#define PSTMO_EDGE_CUDA_DRIVER_H_

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>

#include "../runtime/result.h"

// The CUDA driver, found when it is asked for: nothing of CUDA is needed to build this library or to load it.

namespace pstmo_edge {
namespace cuda {

// The driver's types (CUDA driver API reference). tests/kernels/cuda holds them to the toolkit's cuda.h.
using Code = int;
using DeviceNumber = int;
using Address = unsigned long long;
struct ContextHandle;
struct ModuleHandle;
struct FunctionHandle;
struct StreamHandle;
struct GraphHandle;
struct GraphExecHandle;

constexpr Code kSuccess = 0, kOutOfMemory = 2, kNotInitialized = 3;
constexpr Code kInvalidImage = 200, kNoBinaryForGpu = 209, kNotFound = 500;
// After one of these "any further CUDA work will return the same error" until the process is started anew (cuda.h).
constexpr Code kFinal[] = {226, 700, 702, 714, 715, 716, 717, 718, 719, 721, 911};
constexpr int kMajor = 75, kMinor = 76, kMultiprocessors = 16, kCooperativeLaunch = 95;  // attributes of a device
constexpr int kMaxDynamicShared = 8;                                                     // attribute of a function
constexpr unsigned kNonBlocking = 1;                                                     // of a stream
constexpr int kCaptureThreadLocal = 1;

// X(member, the driver's name, its parameters): every function that is used, none newer than CUDA 11.4.
#define PSTMO_EDGE_CUDA_FUNCTIONS(X)                                                                                \
  X(init, "cuInit", (unsigned))                                                                                     \
  X(driver_version, "cuDriverGetVersion", (int*))                                                                   \
  X(error_name, "cuGetErrorName", (Code, const char**))                                                             \
  X(device_count, "cuDeviceGetCount", (int*))                                                                       \
  X(device_get, "cuDeviceGet", (DeviceNumber*, int))                                                                \
  X(device_name, "cuDeviceGetName", (char*, int, DeviceNumber))                                                     \
  X(device_attribute, "cuDeviceGetAttribute", (int*, int, DeviceNumber))                                            \
  X(context_retain, "cuDevicePrimaryCtxRetain", (ContextHandle**, DeviceNumber))                                    \
  X(context_release, "cuDevicePrimaryCtxRelease_v2", (DeviceNumber))                                                \
  X(context_push, "cuCtxPushCurrent_v2", (ContextHandle*))                                                          \
  X(context_pop, "cuCtxPopCurrent_v2", (ContextHandle**))                                                           \
  X(stream_create, "cuStreamCreate", (StreamHandle**, unsigned))                                                    \
  X(stream_destroy, "cuStreamDestroy_v2", (StreamHandle*))                                                          \
  X(stream_synchronize, "cuStreamSynchronize", (StreamHandle*))                                                     \
  X(capture_begin, "cuStreamBeginCapture_v2", (StreamHandle*, int))                                                 \
  X(capture_end, "cuStreamEndCapture", (StreamHandle*, GraphHandle**))                                              \
  X(graph_instantiate, "cuGraphInstantiateWithFlags", (GraphExecHandle**, GraphHandle*, unsigned long long))        \
  X(graph_upload, "cuGraphUpload", (GraphExecHandle*, StreamHandle*))                                               \
  X(graph_launch, "cuGraphLaunch", (GraphExecHandle*, StreamHandle*))                                               \
  X(graph_destroy, "cuGraphDestroy", (GraphHandle*))                                                                \
  X(graph_exec_destroy, "cuGraphExecDestroy", (GraphExecHandle*))                                                   \
  X(module_load, "cuModuleLoadData", (ModuleHandle**, const void*))                                                 \
  X(module_unload, "cuModuleUnload", (ModuleHandle*))                                                               \
  X(module_function, "cuModuleGetFunction", (FunctionHandle**, ModuleHandle*, const char*))                         \
  X(function_set, "cuFuncSetAttribute", (FunctionHandle*, int, int))                                                \
  X(launch, "cuLaunchKernel",                                                                                       \
    (FunctionHandle*, unsigned, unsigned, unsigned, unsigned, unsigned, unsigned, unsigned, StreamHandle*, void**,  \
     void**))                                                                                                       \
  X(launch_together, "cuLaunchCooperativeKernel",                                                                   \
    (FunctionHandle*, unsigned, unsigned, unsigned, unsigned, unsigned, unsigned, unsigned, StreamHandle*, void**)) \
  X(memory_take, "cuMemAlloc_v2", (Address*, size_t))                                                               \
  X(memory_free, "cuMemFree_v2", (Address))                                                                         \
  X(pinned_take, "cuMemHostAlloc", (void**, size_t, unsigned))                                                      \
  X(pinned_free, "cuMemFreeHost", (void*))                                                                          \
  X(copy_in_async, "cuMemcpyHtoDAsync_v2", (Address, const void*, size_t, StreamHandle*))                           \
  X(copy_out_async, "cuMemcpyDtoHAsync_v2", (void*, Address, size_t, StreamHandle*))

// The driver's functions; all of them are there.
struct Driver {
#define PSTMO_EDGE_CUDA_MEMBER(member, name, parameters) Code(*member) parameters = nullptr;
  PSTMO_EDGE_CUDA_FUNCTIONS(PSTMO_EDGE_CUDA_MEMBER)
#undef PSTMO_EDGE_CUDA_MEMBER

  int version = 0;  // the newest CUDA it runs: 12060 is 12.6

  // Opens and initialises the driver: `path`, or where the system has it (nullptr). It stays open: drivers have threads
  // of their own.
  static Result<Driver> load(const char* path);

  // "cuMemAlloc_v2: CUDA_ERROR_OUT_OF_MEMORY (2)".
  std::string sentence(const char* function, Code code) const;
};

// One GPU, as far as it decides what runs on it.
struct Gpu {
  DeviceNumber number = 0;
  std::string name;
  int capability = 0;  // 87 is 8.7
  int multiprocessors = 0;
  bool is_cooperative = false;  // a grid whose blocks wait for each other can be launched

  std::string chip() const { return "sm_" + std::to_string(capability); }
};

// The GPU of that ordinal.
Result<Gpu> find_gpu(const Driver& driver, int ordinal);

// "12.6" of 12060.
std::string version_text(int version);

// Whether it is one of kFinal.
bool is_final(Code code);

}  // namespace cuda
}  // namespace pstmo_edge

#endif  // PSTMO_EDGE_CUDA_DRIVER_H_
