#include <string>
#include <utility>

#include "checks.h"
#include "handles.h"
#include "pstmo_edge_plan.h"
#include "trt_plan.h"

struct pstmo_edge_plan {
  pstmo_edge::TrtPlan plan;
};

namespace pstmo_edge {
namespace {

pstmo_edge_status open_plan_handle(const char* path, const pstmo_edge_plan_host* host, pstmo_edge_plan** plan,
                                   ErrorText& text) {
  pstmo_edge_status given = path == nullptr || plan == nullptr ? PSTMO_EDGE_STATUS_NULL_ARGUMENT : check_struct(host);
  if (given == PSTMO_EDGE_STATUS_OK) {
    for (const char* field : {host->key_path, host->tensorrt, host->device, host->capability, host->driver}) {
      if (field == nullptr) given = PSTMO_EDGE_STATUS_NULL_ARGUMENT;
    }
  }
  if (given != PSTMO_EDGE_STATUS_OK) {
    text.set(pstmo_edge_status_describe(given));
    return given;
  }
  Result<TrtPlan> opened =
      open_trt_plan(path, {host->key_path, host->tensorrt, host->device, host->capability, host->driver});
  if (!opened) {
    text.set((std::string(path).substr(0, 200) + ": " + opened.error().text).c_str());
    return opened.error().status;
  }
  *plan = new pstmo_edge_plan{std::move(*opened)};
  return PSTMO_EDGE_STATUS_OK;
}

pstmo_edge_plan_info info_of(const TrtPlan& plan) {
  pstmo_edge_plan_info info = PSTMO_EDGE_PLAN_INFO_INIT;
  info.frames = static_cast<uint32_t>(plan.frames);
  info.joints = static_cast<uint32_t>(plan.joints);
  info.channels = static_cast<uint32_t>(plan.channels);
  info.poses = static_cast<uint32_t>(plan.poses);
  info.pose_joints = static_cast<uint32_t>(plan.pose_joints);
  info.batch_min = static_cast<uint32_t>(plan.batch_min);
  info.batch_max = static_cast<uint32_t>(plan.batch_max);
  info.dla_core = plan.dla_core;
  info.version_compatible = plan.version_compatible ? 1 : 0;
  info.bytes = plan.engine.data();
  info.byte_count = plan.engine.size();
  return info;
}

}  // namespace
}  // namespace pstmo_edge

using pstmo_edge::ErrorText;

extern "C" pstmo_edge_status pstmo_edge_plan_open(const char* path, const pstmo_edge_plan_host* host,
                                                  pstmo_edge_plan** plan, char* error, size_t error_size) noexcept {
  ErrorText text;
  const pstmo_edge_status status =
      pstmo_edge::guarded(text, [&] { return pstmo_edge::open_plan_handle(path, host, plan, text); });
  if (status != PSTMO_EDGE_STATUS_OK) ErrorText::copy(text.c_str(), error, error_size);
  return status;
}

extern "C" void pstmo_edge_plan_close(pstmo_edge_plan* plan) noexcept { delete plan; }

extern "C" pstmo_edge_status pstmo_edge_plan_info_read(const pstmo_edge_plan* plan,
                                                       pstmo_edge_plan_info* info) noexcept {
  if (plan == nullptr) return PSTMO_EDGE_STATUS_NULL_ARGUMENT;
  const pstmo_edge_status status = pstmo_edge::check_struct(info);
  if (status == PSTMO_EDGE_STATUS_OK) pstmo_edge::fill_struct(info, pstmo_edge::info_of(plan->plan));
  return status;
}
