#include "engine.h"

#include <algorithm>
#include <string>
#include <utility>

#include "../runtime/files.h"
#include "../runtime/tensors.h"
#include "lifter.h"
#include "plan.h"

namespace pstmo_edge {
namespace cuda {
namespace {

Error damaged(std::string what) { return {PSTMO_EDGE_STATUS_BUNDLE_DAMAGED, std::move(what)}; }

Error unavailable(std::string what) { return {PSTMO_EDGE_STATUS_DEVICE_UNAVAILABLE, std::move(what)}; }

// "sm_80, sm_90": the chips that a bundle has plans for.
std::string chips_of(const Manifest& manifest) {
  std::string chips;
  for (const FileEntry& file : manifest.files) {
    const std::string_view name = file.name;
    if (name.size() <= kPlanStart.size() + kPlanEnd.size() || name.substr(0, kPlanStart.size()) != kPlanStart ||
        name.substr(name.size() - kPlanEnd.size()) != kPlanEnd) {
      continue;
    }
    chips += (chips.empty() ? "" : ", ") + std::string(name.substr(4, name.size() - 4 - kPlanEnd.size()));
  }
  return chips;
}

Error no_kernels(const Manifest& manifest, const Gpu& gpu) {
  const std::string chips = chips_of(manifest);
  return unavailable("it has GPU kernels for " + (chips.empty() ? "no chip" : chips) + " and this GPU, " + gpu.name +
                     ", is " + gpu.chip() + ": add them with pstmo-edge compile BUNDLE --gpu " + gpu.chip());
}

const FileEntry* entry_of(const Manifest& manifest, std::string_view name) {
  const auto found = std::find_if(manifest.files.begin(), manifest.files.end(),
                                  [&](const FileEntry& file) { return file.name == name; });
  return found == manifest.files.end() ? nullptr : &*found;
}

// What preparing failed with, in one line.
Error failure(const Resources& resources, const Gpu& gpu, int max_batch) {
  const std::string sentence = resources.driver().sentence(resources.failed_function(), resources.failed_code());
  switch (resources.failed_code()) {
    case kOutOfMemory:
      return {PSTMO_EDGE_STATUS_OUT_OF_MEMORY, "the memory of " + gpu.name + " does not hold " +
                                                   std::to_string(max_batch) + " windows at once (" + sentence +
                                                   "): open the engine with a smaller max_batch, or free some"};
    case kInvalidImage:
    case kNoBinaryForGpu:
    case kNotFound:  // its entry, by the name in the plan
      return damaged("a cubin for " + gpu.chip() + " cannot be loaded (" + sentence +
                     "): compile it again with pstmo-edge compile BUNDLE --gpu " + gpu.chip());
    default:
      return {PSTMO_EDGE_STATUS_DEVICE_FAILED,
              gpu.name + " failed in " + sentence +
                  (is_final(resources.failed_code()) ? "; start the program again"
                                                     : "; open the engine again, or with the device \"cpu\"")};
  }
}

Result<int> batch_for(int asked, const Plan& plan) {
  if (asked <= plan.most_windows) return asked > 0 ? asked : std::min(kDefaultBatch, plan.most_windows);
  return Error{PSTMO_EDGE_STATUS_INVALID_ARGUMENT, "max_batch is " + std::to_string(asked) + ": these kernels take " +
                                                       std::to_string(plan.most_windows) + " windows at most"};
}

Outcome check_driver(const Driver& driver, const Plan& plan) {
  if (driver.version >= plan.driver) return Unit{};
  return unavailable("the CUDA driver is too old: it runs CUDA " + version_text(driver.version) +
                     " and the kernels of this bundle need " + version_text(plan.driver) +
                     ": update NVIDIA's driver, or open the engine with the device \"cpu\"");
}

}  // namespace

Result<Opened> open(const char* path, const Options& options) {
  Result<Driver> driver = Driver::load(options.driver);
  if (!driver) return driver.error();
  Result<Gpu> gpu = find_gpu(*driver, options.ordinal);
  if (!gpu) return gpu.error();
  const std::string plan_name = "gpu-" + gpu->chip() + std::string(kPlanEnd);
  const std::string cubins_name = "gpu-" + gpu->chip() + std::string(kCubinsEnd);
  Result<Bundle> bundle = open_bundle(path, {std::string(kGpuWeights), plan_name, cubins_name});
  if (!bundle) return bundle.error();
  const Bytes* const text = bundle->find(plan_name);
  if (text == nullptr) return no_kernels(bundle->manifest, *gpu);
  const Bytes *const cubin_bytes = bundle->find(cubins_name), *const weight_bytes = bundle->find(kGpuWeights);
  if (cubin_bytes == nullptr || weight_bytes == nullptr) {
    return damaged("it has no " + (cubin_bytes == nullptr ? cubins_name : std::string(kGpuWeights)) +
                   " beside its launch plan; compile it again");
  }
  Result<TensorTable> weights = TensorTable::parse(weight_bytes->data(), weight_bytes->size());
  if (!weights) return weights.error();
  Result<TensorTable> cubins = TensorTable::parse(cubin_bytes->data(), cubin_bytes->size());
  if (!cubins) return cubins.error();
  Result<Plan> plan = parse_plan(text->text(), bundle->manifest.frames, *weights, *cubins);
  if (!plan) return plan.error();
  if (plan->weights_sha256 != entry_of(bundle->manifest, kGpuWeights)->sha256) {
    return damaged("its launch plan is for other weights; compile it again");
  }
  const Outcome new_enough = check_driver(*driver, *plan);
  if (!new_enough) return new_enough.error();
  const Result<int> batch = batch_for(options.max_batch, *plan);
  if (!batch) return batch.error();
  auto lifter = std::make_unique<CudaLifter>(*driver, *gpu, std::move(*plan), bundle->manifest.frames, batch.value());
  if (!lifter->prepare(*weights)) return failure(lifter->resources(), *gpu, batch.value());
  return Opened{std::move(bundle->manifest), std::move(lifter)};
}

}  // namespace cuda
}  // namespace pstmo_edge
