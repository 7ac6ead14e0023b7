#ifndef PSTMO_EDGE_CUDA_CUBIN_H_
#define PSTMO_EDGE_CUDA_CUBIN_H_

#include <cstddef>
#include <cstdint>

namespace pstmo_edge {
namespace cuda {

// Whether these bytes are an ELF file for NVIDIA's GPUs whose tables, segments and sections all lie inside of them. The
// driver takes a cubin without its length and reads wherever its tables point, so one that was cut short must not
// reach it. What the sections hold is the compiler's promise.
bool is_whole_cubin(const uint8_t* bytes, size_t size);

}  // namespace cuda
}  // namespace pstmo_edge

#endif  // PSTMO_EDGE_CUDA_CUBIN_H_
