/* A TensorRT plan of a bundle, verified before anything may deserialize it; used by pstmo_edge_trt.hpp.
 *
 * A plan is native code to whoever loads it. `pstmo-edge compile` signs it with a key that stays on the device
 * (HMAC-SHA256 over the plan's SHA-256, the graph, the weights, the precision, TensorRT's version, the device and its
 * driver), and this header gives its bytes to nobody for whom any of that is not so. It needs neither TensorRT nor
 * CUDA. Conventions are those of pstmo_edge.h.
 */
#ifndef PSTMO_EDGE_PLAN_H_
#define PSTMO_EDGE_PLAN_H_

#include "pstmo_edge.h"

#ifdef __cplusplus
extern "C" {
#endif

/* A verified plan. Any number of threads may read it. */
typedef struct pstmo_edge_plan pstmo_edge_plan;

/* Where the plan is to be deserialized; every field is needed. */
typedef struct pstmo_edge_plan_host {
  uint32_t size;          /* in: sizeof(pstmo_edge_plan_host) */
  const char* key_path;   /* this device's key, as compile printed it; readable by its owner alone */
  const char* tensorrt;   /* version of the library that is loaded: "10.3.0.26" */
  const char* device;     /* name of the GPU: cudaDeviceProp.name */
  const char* capability; /* its compute capability: "8.7" */
  const char* driver;     /* what cudaDriverGetVersion gives: "12060" */
} pstmo_edge_plan_host;

#define PSTMO_EDGE_PLAN_HOST_INIT {(uint32_t)sizeof(pstmo_edge_plan_host), NULL, NULL, NULL, NULL, NULL}

/* Read the bundle in folder `path` once, check the size and SHA-256 of every file, the signature by this device's key,
 * and that the plan was compiled for `host`. On failure *plan is untouched and, where `error` is not NULL, a sentence
 * is written there. */
PSTMO_EDGE_API pstmo_edge_status pstmo_edge_plan_open(const char* path, const pstmo_edge_plan_host* host,
                                                      pstmo_edge_plan** plan, char* error,
                                                      size_t error_size) PSTMO_EDGE_NOEXCEPT;

/* Release the plan; NULL is allowed. TensorRT needs its bytes no longer once they are deserialized. */
PSTMO_EDGE_API void pstmo_edge_plan_close(pstmo_edge_plan* plan) PSTMO_EDGE_NOEXCEPT;

/* What the plan is. `bytes` live as long as the plan. */
typedef struct pstmo_edge_plan_info {
  uint32_t size;               /* in: sizeof(pstmo_edge_plan_info) */
  uint32_t frames;             /* T: frames of a window */
  uint32_t joints;             /* J: keypoints of a frame */
  uint32_t channels;           /* values of one keypoint */
  uint32_t poses;              /* poses that come out of a window */
  uint32_t pose_joints;        /* joints of a pose, 3 values each, metres */
  uint32_t batch_min;          /* windows of one forward, at least */
  uint32_t batch_max;          /* and at most */
  int32_t dla_core;            /* the DLA core it was compiled for; -1: the GPU alone */
  uint32_t version_compatible; /* 1: it carries host code of its own */
  const void* bytes;           /* what is deserialized */
  uint64_t byte_count;
} pstmo_edge_plan_info;

#define PSTMO_EDGE_PLAN_INFO_INIT {(uint32_t)sizeof(pstmo_edge_plan_info), 0, 0, 0, 0, 0, 0, 0, -1, 0, NULL, 0}

PSTMO_EDGE_API pstmo_edge_status pstmo_edge_plan_info_read(const pstmo_edge_plan* plan,
                                                           pstmo_edge_plan_info* info) PSTMO_EDGE_NOEXCEPT;

#ifdef __cplusplus
}
#endif

#endif /* PSTMO_EDGE_PLAN_H_ */
