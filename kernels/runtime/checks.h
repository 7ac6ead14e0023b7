#ifndef PSTMO_EDGE_RUNTIME_CHECKS_H_
#define PSTMO_EDGE_RUNTIME_CHECKS_H_

#include <cstddef>
#include <cstring>

#include "pstmo_edge.h"

namespace pstmo_edge {

// Whether a caller's struct can be written: it exists and is at least as large as this library's idea of it.
template <typename Struct>
pstmo_edge_status check_struct(const Struct* value) noexcept {
  if (value == nullptr) return PSTMO_EDGE_STATUS_NULL_ARGUMENT;
  if (value->size < sizeof(Struct)) return PSTMO_EDGE_STATUS_STRUCT_TOO_SMALL;
  return PSTMO_EDGE_STATUS_OK;
}

// The same for a struct that has grown since its first version, of `least` bytes: what a caller does not know yet keeps
// its value in `known`.
template <typename Struct>
pstmo_edge_status read_struct(const Struct* value, size_t least, Struct* known) noexcept {
  if (value == nullptr) return PSTMO_EDGE_STATUS_NULL_ARGUMENT;
  if (value->size < least) return PSTMO_EDGE_STATUS_STRUCT_TOO_SMALL;
  std::memcpy(known, value, value->size < sizeof(Struct) ? value->size : sizeof(Struct));
  return PSTMO_EDGE_STATUS_OK;
}

// Fill a caller's struct and leave its size field as the caller set it.
template <typename Struct>
void fill_struct(Struct* out, Struct values) noexcept {
  values.size = out->size;
  *out = values;
}

}  // namespace pstmo_edge

#endif  // PSTMO_EDGE_RUNTIME_CHECKS_H_
