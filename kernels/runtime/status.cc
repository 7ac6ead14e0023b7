#include "pstmo_edge.h"

extern "C" const char* pstmo_edge_status_describe(pstmo_edge_status status) noexcept {
  switch (status) {
    case PSTMO_EDGE_STATUS_OK:
      return "ok";
    case PSTMO_EDGE_STATUS_NULL_ARGUMENT:
      return "a required pointer is null";
    case PSTMO_EDGE_STATUS_STRUCT_TOO_SMALL:
      return "the size field is smaller than the struct: set it to sizeof before the call";
    default:
      return "unknown status";
  }
}
