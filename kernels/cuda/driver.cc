#include "driver.h"

#include <dlfcn.h>

#include <algorithm>
#include <iterator>

namespace pstmo_edge {
namespace cuda {
namespace {

constexpr const char* kSystemDriver = "libcuda.so.1";
constexpr const char* kForked =
    "; it does not follow a process that is forked after a GPU was used: open the engine after the fork (in Python: "
    "multiprocessing's spawn); where nothing was forked, install NVIDIA's driver again";
constexpr const char* kElsewhere = "; install NVIDIA's driver, or open the engine with the device \"cpu\"";

Error unavailable(std::string what) { return {PSTMO_EDGE_STATUS_DEVICE_UNAVAILABLE, std::move(what)}; }

}  // namespace

std::string version_text(int version) {
  return std::to_string(version / 1000) + "." + std::to_string(version % 1000 / 10);
}

bool is_final(Code code) { return std::find(std::begin(kFinal), std::end(kFinal), code) != std::end(kFinal); }

std::string Driver::sentence(const char* function, Code code) const {
  const char* name = nullptr;
  const bool named = error_name != nullptr && error_name(code, &name) == kSuccess && name != nullptr;
  return std::string(function) + ": " + (named ? name : "an unknown error") + " (" + std::to_string(code) + ")";
}

Result<Driver> Driver::load(const char* path) {
  const char* const file = path == nullptr ? kSystemDriver : path;
  void* const library = ::dlopen(file, RTLD_NOW | RTLD_LOCAL);
  if (library == nullptr) {
    return unavailable("no CUDA driver: " + std::string(file).substr(0, 120) + " cannot be loaded" + kElsewhere);
  }
  Driver driver;
  // POSIX promises that a function's address survives the way through void*; the language does not.
#define PSTMO_EDGE_CUDA_FIND(member, name, parameters)                                                          \
  *reinterpret_cast<void**>(&driver.member) = ::dlsym(library, name);                                           \
  if (driver.member == nullptr) {                                                                               \
    return unavailable(std::string("the CUDA driver is too old: it has no " name ", which CUDA 11.4 brought") + \
                       kElsewhere);                                                                             \
  }
  PSTMO_EDGE_CUDA_FUNCTIONS(PSTMO_EDGE_CUDA_FIND)
#undef PSTMO_EDGE_CUDA_FIND
  Code code = driver.init(0);
  if (code != kSuccess) {
    return unavailable("the CUDA driver does not start: " + driver.sentence("cuInit", code) +
                       (code == kNotInitialized ? kForked : kElsewhere));
  }
  code = driver.driver_version(&driver.version);
  if (code != kSuccess) return unavailable(driver.sentence("cuDriverGetVersion", code));
  return driver;
}

Result<Gpu> find_gpu(const Driver& driver, int ordinal) {
  int count = 0;
  Code code = driver.device_count(&count);
  if (code != kSuccess) return unavailable(driver.sentence("cuDeviceGetCount", code));
  if (ordinal >= count) {
    return unavailable("there is no GPU " + std::to_string(ordinal) + ": the driver shows " + std::to_string(count) +
                       ", counted from 0" + kElsewhere);
  }
  Gpu gpu;
  char name[128] = "";
  int major = 0, minor = 0;
  const char* called = "cuDeviceGet";
  code = driver.device_get(&gpu.number, ordinal);
  if (code == kSuccess) called = "cuDeviceGetName", code = driver.device_name(name, sizeof name, gpu.number);
  if (code == kSuccess) called = "cuDeviceGetAttribute", code = driver.device_attribute(&major, kMajor, gpu.number);
  if (code == kSuccess) code = driver.device_attribute(&minor, kMinor, gpu.number);
  if (code == kSuccess) code = driver.device_attribute(&gpu.multiprocessors, kMultiprocessors, gpu.number);
  int cooperative = 0;
  if (code == kSuccess) code = driver.device_attribute(&cooperative, kCooperativeLaunch, gpu.number);
  if (code != kSuccess) return unavailable(driver.sentence(called, code));
  gpu.is_cooperative = cooperative != 0;
  gpu.name = name;
  gpu.capability = 10 * major + minor;
  return gpu;
}

}  // namespace cuda
}  // namespace pstmo_edge
