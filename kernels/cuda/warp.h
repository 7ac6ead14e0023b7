// What a warp does together, for tiles.h: on a GPU with registers and mma.sync, on a host with loops over lanes.
//
// A value that each lane has is an array of kLanes; lanes(body) runs body(lane, slot) for every lane, where slot is the
// lane's place in such arrays. So one source is both the kernel and its check on a machine without a GPU.
#ifndef PSTMO_EDGE_CUDA_WARP_H_
#define PSTMO_EDGE_CUDA_WARP_H_

#include <cstdint>

#include "half.h"

#if defined(__CUDACC__)
#define PSTMO_EDGE_UNROLL _Pragma("unroll")
#else
#define PSTMO_EDGE_UNROLL
#endif

namespace pstmo_edge {
namespace cuda {

#if defined(__CUDACC__)

constexpr int kLanes = 1;

template <typename Body>
PSTMO_EDGE_WARP void lanes(Body body) {
  body(static_cast<int>(threadIdx.x & 31), 0);
}

PSTMO_EDGE_WARP float reciprocal_root(float x) { return rsqrtf(x); }
PSTMO_EDGE_WARP float power_of_two(float x) { return exp2f(x); }

#else

constexpr int kLanes = 32;

template <typename Body>
void lanes(Body body) {
  for (int lane = 0; lane < 32; ++lane) body(lane, lane);
}

inline float reciprocal_root(float x) { return 1 / std::sqrt(x); }
inline float power_of_two(float x) { return std::exp2(x); }

#endif

// ---- matrix fragments (PTX ISA, mma.m16n8k16 with .f16) ------------------------------------------------------------
//
// Lane 4 g + t has of the left operand (16 x 16) the pairs (row g or g + 8, columns 2 t or 2 t + 8), of the right one
// (16 x 8) the pairs (rows 2 t or 2 t + 8, column g), and of the sums (16 x 8) rows g and g + 8, columns 2 t and 2 t
// + 1.

template <int kRegisters>
struct Fragment {
  uint32_t pairs[kLanes][kRegisters];
};

// Sums of 16 rows and 8 columns.
struct Sums {
  float values[kLanes][4];
};

// One number for each row that a lane has a part of, g and g + 8.
struct Rows {
  float values[kLanes][2];
};

PSTMO_EDGE_WARP void clear(Sums& sums) {
  lanes([&](int, int slot) {
    for (int i = 0; i < 4; ++i) sums.values[slot][i] = 0;
  });
}

// `pair(row, column)` gives the two values from an even column on.
template <typename Pair>
PSTMO_EDGE_WARP void fill_left(Fragment<4>& left, Pair pair) {
  lanes([&](int lane, int slot) {
    const int g = lane >> 2, t = lane & 3;
    left.pairs[slot][0] = pair(g, 2 * t);
    left.pairs[slot][1] = pair(g + 8, 2 * t);
    left.pairs[slot][2] = pair(g, 2 * t + 8);
    left.pairs[slot][3] = pair(g + 8, 2 * t + 8);
  });
}

// `pair(row, column)` gives the two values from an even row on.
template <typename Pair>
PSTMO_EDGE_WARP void fill_right(Fragment<2>& right, Pair pair) {
  lanes([&](int lane, int slot) {
    const int g = lane >> 2, t = lane & 3;
    right.pairs[slot][0] = pair(2 * t, g);
    right.pairs[slot][1] = pair(2 * t + 8, g);
  });
}

// `body(row, column, two values)` for every pair of neighbouring sums.
template <typename Body>
PSTMO_EDGE_WARP void for_pairs(const Sums& sums, Body body) {
  lanes([&](int lane, int slot) {
    const int g = lane >> 2, t = lane & 3;
    body(g, 2 * t, sums.values[slot][0], sums.values[slot][1]);
    body(g + 8, 2 * t, sums.values[slot][2], sums.values[slot][3]);
  });
}

#if defined(__CUDACC__)

PSTMO_EDGE_WARP void multiply(Sums& sums, const Fragment<4>& left, const Fragment<2>& right) {
  float* const c = sums.values[0];
  const uint32_t *const a = left.pairs[0], *const b = right.pairs[0];
  asm("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
      "{%0, %1, %2, %3};"
      : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}

// Every row's sum, or its largest, over the four lanes that share it.
PSTMO_EDGE_WARP void add_across(Rows& rows) {
  for (int i = 0; i < 2; ++i) {
    for (int step = 1; step < 4; step *= 2) rows.values[0][i] += __shfl_xor_sync(0xffffffffU, rows.values[0][i], step);
  }
}
PSTMO_EDGE_WARP void largest_across(Rows& rows) {
  for (int i = 0; i < 2; ++i) {
    for (int step = 1; step < 4; step *= 2) {
      rows.values[0][i] = fmaxf(rows.values[0][i], __shfl_xor_sync(0xffffffffU, rows.values[0][i], step));
    }
  }
}

// The sum of all lanes' values, for all of them.
PSTMO_EDGE_WARP float total(const float (&values)[kLanes]) {
  float sum = values[0];
  for (int step = 16; step > 0; step /= 2) sum += __shfl_xor_sync(0xffffffffU, sum, step);
  return sum;
}

#else

inline void multiply(Sums& sums, const Fragment<4>& left, const Fragment<2>& right) {
  float a[16][16], b[16][8];
  lanes([&](int lane, int slot) {
    const int g = lane >> 2, t = lane & 3;
    for (int i = 0; i < 4; ++i) {
      const int row = g + 8 * (i & 1), column = 2 * t + 8 * (i >> 1);
      a[row][column] = low_of(left.pairs[slot][i]), a[row][column + 1] = high_of(left.pairs[slot][i]);
    }
    for (int i = 0; i < 2; ++i) {
      b[2 * t + 8 * i][g] = low_of(right.pairs[slot][i]), b[2 * t + 8 * i + 1][g] = high_of(right.pairs[slot][i]);
    }
  });
  lanes([&](int lane, int slot) {
    const int g = lane >> 2, t = lane & 3;
    for (int i = 0; i < 4; ++i) {
      for (int k = 0; k < 16; ++k) sums.values[slot][i] += a[g + 8 * (i >> 1)][k] * b[k][2 * t + (i & 1)];
    }
  });
}

template <typename Both>
void across(Rows& rows, Both both) {
  for (int first = 0; first < 32; first += 4) {
    for (int i = 0; i < 2; ++i) {
      float all = rows.values[first][i];
      for (int t = 1; t < 4; ++t) all = both(all, rows.values[first + t][i]);
      for (int t = 0; t < 4; ++t) rows.values[first + t][i] = all;
    }
  }
}
inline void add_across(Rows& rows) {
  across(rows, [](float a, float b) { return a + b; });
}
inline void largest_across(Rows& rows) {
  across(rows, [](float a, float b) { return a > b ? a : b; });
}

inline float total(const float (&values)[kLanes]) {
  float sum = 0;
  for (const float value : values) sum += value;
  return sum;
}

#endif

}  // namespace cuda
}  // namespace pstmo_edge

#endif  // PSTMO_EDGE_CUDA_WARP_H_
