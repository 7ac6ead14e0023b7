// The driver's functions of modules and launches.
#include <algorithm>
#include <cstring>

#include "standin_driver.h"

using namespace pstmo_edge::standin;

namespace {

constexpr size_t kHeader = 64;  // of an ELF file; its only section follows

uint64_t number(const char* image, size_t at) {
  uint64_t value = 0;
  std::memcpy(&value, image + at, sizeof value);
  return value;
}

// The text in the section that tests/cuda_standin.py and cuda_bundles.cc put it into.
std::string text_of(const char* image) {
  const uint64_t begin = number(image, kHeader + 24), bytes = number(image, kHeader + 32);
  return std::string(image + begin, bytes);
}

void check_launch(const Source& source, unsigned threads, unsigned y, unsigned z, unsigned shared) {
  if (static_cast<int>(threads) != source.threads || y != 1 || z != 1) violate("other threads than it was made for");
  if (static_cast<int>(shared) != source.shared_bytes) violate("other shared memory than it was made for");
}

Value value_of(const void* parameter, const Argument& argument) {
  Value value;
  std::memcpy(&value, parameter, argument.is_pointer() ? 8 : 4);
  if (argument.is_pointer()) value.elements = room(value.address) / argument.bytes();
  return value;
}

}  // namespace

EXPORTED Code cuModuleLoadData(ModuleHandle** module, const void* image) {
  return make("cuModuleLoadData", module, [&] {
    auto made = std::make_unique<ModuleHandle>();
    if (!parse_source(text_of(static_cast<const char*>(image)).c_str(), made->function.source)) return kInvalidImage;
    *module = state().modules.insert(std::move(made)).first->get();
    return kSuccess;
  });
}

EXPORTED Code cuModuleUnload(ModuleHandle* module) {
  return end("cuModuleUnload", [&] { erase(state().modules, module, "cuModuleUnload"); });
}

EXPORTED Code cuModuleGetFunction(FunctionHandle** function, ModuleHandle* module, const char* name) {
  return make("cuModuleGetFunction", function, [&] {
    if (!is_live(state().modules, module, "cuModuleGetFunction")) return kInvalidHandle;
    if (module->function.source.entry != name) return kNotFound;
    *function = &module->function;
    return kSuccess;
  });
}

EXPORTED Code cuFuncSetAttribute(FunctionHandle* function, int attribute, int value) {
  return call("cuFuncSetAttribute", Needs::Context, [&] {
    if (attribute != kMaxDynamicShared || value != function->source.shared_bytes) {
      violate("an attribute that is not so");
    }
    function->much_shared = true;
    return kSuccess;
  });
}

EXPORTED Code cuLaunchKernel(FunctionHandle* function, unsigned x, unsigned y, unsigned z, unsigned threads,
                             unsigned y2, unsigned z2, unsigned shared, StreamHandle* stream, void** parameters,
                             void** extra) {
  const auto body = [&] {
    const Source& source = function->source;
    if (x < 1 || y < 1 || z < 1 || y > 65535 || z > 65535) violate("a grid that no GPU takes");
    check_launch(source, threads, y2, z2, shared);
    if (shared > 48 * 1024 && !function->much_shared) violate("more shared memory than was asked for");
    if (extra != nullptr) violate("parameters given twice");
    Call launch{&source, {x, y, z}, {}};
    for (size_t i = 0; i < source.arguments.size(); ++i) {
      launch.values.push_back(value_of(parameters[i], source.arguments[i]));
    }
    for (size_t i = source.arguments.size(); i < source.arguments.size() + 2; ++i) {  // triton's scratch memory
      Address address = 1;
      std::memcpy(&address, parameters[i], sizeof address);
      if (address != 0) violate("scratch memory that no kernel uses");
    }
    return submit(stream, [launch] {
      ++state().launches;
      const std::string wrong = state().computes ? compute(launch) : "";
      if (!wrong.empty()) violate(launch.source->entry + ": " + wrong);
    });
  };
  return call("cuLaunchKernel", Needs::Context, body, WhileCapturing::Allowed);
}

EXPORTED Code cuLaunchCooperativeKernel(FunctionHandle* function, unsigned x, unsigned y, unsigned z, unsigned threads,
                                        unsigned y2, unsigned z2, unsigned shared, StreamHandle* stream,
                                        void** parameters) {
  const auto body = [&] {
    const Source& source = function->source;
    if (static_cast<int>(x) > state().multiprocessors || y != 1 || z != 1) {
      violate("more blocks than are on the chip at once");
    }
    check_launch(source, threads, y2, z2, shared);
    Call launch{&source, {x, y, z}, {}};
    for (size_t i = 0; i < source.arguments.size(); ++i) {
      launch.values.push_back(value_of(parameters[i], source.arguments[i]));
    }
    return submit(stream, [launch] {
      ++state().launches, ++state().together;
      const std::string wrong = state().computes ? lift_one(launch) : "";
      if (!wrong.empty()) violate(launch.source->entry + ": " + wrong);
    });
  };
  return call("cuLaunchCooperativeKernel", Needs::Context, body, WhileCapturing::Allowed);
}
