#include "pstmo_edge.h"

extern "C" const char* pstmo_edge_status_describe(pstmo_edge_status status) noexcept {
  switch (status) {
    case PSTMO_EDGE_STATUS_OK:
      return "ok";
    case PSTMO_EDGE_STATUS_NULL_ARGUMENT:
      return "a required pointer is null";
    case PSTMO_EDGE_STATUS_STRUCT_TOO_SMALL:
      return "the size field is smaller than the struct: set it to sizeof before the call";
    case PSTMO_EDGE_STATUS_INVALID_ARGUMENT:
      return "an argument is outside its limits";
    case PSTMO_EDGE_STATUS_BUSY:
      return "the engine is in use by another thread: call again later, or open one engine for each thread";
    case PSTMO_EDGE_STATUS_OUT_OF_MEMORY:
      return "memory or threads ran out";
    case PSTMO_EDGE_STATUS_BUNDLE_UNREADABLE:
      return "the bundle, or a file of it, cannot be read";
    case PSTMO_EDGE_STATUS_BUNDLE_DAMAGED:
      return "the bundle was changed or cut short since it was written: build or copy it again";
    case PSTMO_EDGE_STATUS_BUNDLE_NEWER:
      return "the bundle was made by a newer version: install a newer libpstmo_edge";
    case PSTMO_EDGE_STATUS_BUNDLE_FOREIGN:
      return "the bundle is for another runtime or holds a model that this library does not run";
    case PSTMO_EDGE_STATUS_CPU_UNSUPPORTED:
      return "this CPU lacks an instruction set that was asked for";
    case PSTMO_EDGE_STATUS_TIMESTAMP_REJECTED:
      return "the frame was rejected: its timestamp is not finite, repeated or out of order";
    case PSTMO_EDGE_STATUS_NO_RESULT:
      return "no pose is ready: push the next frame";
    case PSTMO_EDGE_STATUS_NOT_FINITE:
      return "keypoints or poses are not finite";
    case PSTMO_EDGE_STATUS_INTERNAL:
      return "a bug in libpstmo_edge: please report it";
    case PSTMO_EDGE_STATUS_DEVICE_UNAVAILABLE:
      return "there is no GPU here that can run this bundle: open it on the CPU";
    case PSTMO_EDGE_STATUS_DEVICE_FAILED:
      return "the GPU or its driver failed: close the engine and open it again";
    default:
      return "unknown status";
  }
}
