// fp16 as the single launch keeps it, one value or a pair in 32 bits: on a GPU by its instructions, on a host by hand.
//
// fp16 and not bf16: the 8 bits of bf16 are too few for a trained residual stream and would cost over a millimetre
// (docs/gpu.md); it is as fast.
#ifndef PSTMO_EDGE_CUDA_HALF_H_
#define PSTMO_EDGE_CUDA_HALF_H_

#include <cstdint>

#if defined(__CUDACC__)
#define PSTMO_EDGE_WARP __device__ __forceinline__
#else
#include <cmath>
#include <cstring>
#define PSTMO_EDGE_WARP inline
#endif

namespace pstmo_edge {
namespace cuda {

using Half = uint16_t;  // its bits

#if defined(__CUDACC__)

// Two floats, ties to even, infinite from 65520 on; the first in the low half.
PSTMO_EDGE_WARP uint32_t packed(float low, float high) {
  uint32_t pair;
  asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(pair) : "f"(high), "f"(low));
  return pair;
}

PSTMO_EDGE_WARP float float_of(Half half) {
  float value;
  asm("cvt.f32.f16 %0, %1;" : "=f"(value) : "h"(half));
  return value;
}

// Values [i] and [i + 1] of an array, i even.
PSTMO_EDGE_WARP uint32_t pair_at(const Half* values, int i) {
  return reinterpret_cast<const uint32_t*>(values)[i >> 1];
}
PSTMO_EDGE_WARP void put_pair(Half* values, int i, uint32_t pair) {
  reinterpret_cast<uint32_t*>(values)[i >> 1] = pair;
}

#else

inline Half half_of(float x) {
  uint32_t bits;
  std::memcpy(&bits, &x, sizeof bits);
  const auto sign = static_cast<Half>(bits >> 16 & 0x8000U);
  const float size = std::fabs(x);
  if (std::isnan(x)) return sign | 0x7e00U;
  if (size >= 65520) return sign | 0x7c00U;
  // Below the least normal number a step is 2^-24; nearbyint rounds ties to even, and 1024 steps are that number.
  if (size < 0x1p-14F) return sign | static_cast<Half>(std::nearbyint(size * 0x1p24F));
  bits &= 0x7fffffffU;
  bits += 0xfffU + (bits >> 13 & 1);  // a carry out of the fraction is the next exponent
  return static_cast<Half>(sign | (bits - (112U << 23)) >> 13);
}

inline uint32_t packed(float low, float high) { return half_of(low) | uint32_t{half_of(high)} << 16; }

inline float float_of(Half half) {
  const uint32_t bits = (half & 0x7fffU) << 13;  // the value over 2^112, exactly, below the least normal number too
  float size;
  std::memcpy(&size, &bits, sizeof size);
  size *= 0x1p112F;
  if (size >= 65536) size = size == 65536 ? HUGE_VALF : NAN;
  return (half & 0x8000U) != 0 ? -size : size;
}

inline uint32_t pair_at(const Half* values, int i) {
  uint32_t pair;
  std::memcpy(&pair, values + i, sizeof pair);
  return pair;
}
inline void put_pair(Half* values, int i, uint32_t pair) { std::memcpy(values + i, &pair, sizeof pair); }

#endif

PSTMO_EDGE_WARP float low_of(uint32_t pair) { return float_of(static_cast<Half>(pair)); }
PSTMO_EDGE_WARP float high_of(uint32_t pair) { return float_of(static_cast<Half>(pair >> 16)); }

}  // namespace cuda
}  // namespace pstmo_edge

#endif  // PSTMO_EDGE_CUDA_HALF_H_
