#ifndef PSTMO_EDGE_RUNTIME_TRT_PLAN_H_
#define PSTMO_EDGE_RUNTIME_TRT_PLAN_H_

#include <string>

#include "files.h"
#include "result.h"

namespace pstmo_edge {

// Where a plan is to be deserialized; see pstmo_edge_plan_host.
struct TrtHost {
  std::string key_path;
  std::string tensorrt;
  std::string device;
  std::string capability;
  std::string driver;
};

// A plan whose signature was verified, and what its manifest says of it.
struct TrtPlan {
  Bytes engine;
  int frames = 0;
  int joints = 0;
  int channels = 0;
  int poses = 1;
  int pose_joints = 0;
  int batch_min = 0;
  int batch_max = 0;
  int dla_core = -1;
  bool version_compatible = false;
};

// The plan of the bundle in folder `path`, refused unless every file is as its manifest says, this device's key signed
// the plan, and it was compiled for `host`. pstmo_edge/trt/plans.py signs.
Result<TrtPlan> open_trt_plan(const char* path, const TrtHost& host);

// HMAC-SHA256 (RFC 2104) by a key of at most 64 bytes, 64 hexadecimal digits.
std::string hmac_sha256_hex(std::string_view key, std::string_view message);

}  // namespace pstmo_edge

#endif  // PSTMO_EDGE_RUNTIME_TRT_PLAN_H_
