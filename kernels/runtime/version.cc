#include "checks.h"
#include "pstmo_edge.h"

extern "C" pstmo_edge_status pstmo_edge_version_read(pstmo_edge_version* version) noexcept {
  const pstmo_edge_status status = pstmo_edge::check_struct(version);
  if (status != PSTMO_EDGE_STATUS_OK) return status;
  version->major = PSTMO_EDGE_VERSION_MAJOR;
  version->minor = PSTMO_EDGE_VERSION_MINOR;
  version->patch = PSTMO_EDGE_VERSION_PATCH;
  return PSTMO_EDGE_STATUS_OK;
}
