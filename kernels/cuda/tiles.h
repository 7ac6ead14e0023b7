// Products of rows of tokens with weights, a tile of 16 rows and 32 columns by a warp, for single_window.h.
#ifndef PSTMO_EDGE_CUDA_TILES_H_
#define PSTMO_EDGE_CUDA_TILES_H_

#include "warp.h"

namespace pstmo_edge {
namespace cuda {

constexpr int kTileRows = 16, kTileColumns = 32;
constexpr float kNormEpsilon = 1e-12F;

// Who takes which tiles.
struct Worker {
  int number, count;
};

struct Pair {
  float low, high;
};

PSTMO_EDGE_WARP void put(Half* to, int row, int columns, int column, float low, float high) {
  put_pair(to, row * columns + column, packed(low, high));
}

// A row of an array as `linear` reads it: by an even place, in pairs.
struct Plain {
  const Half* row;
  PSTMO_EDGE_WARP uint32_t operator()(int k) const { return pair_at(row, k); }
};
PSTMO_EDGE_WARP Plain plain(const Half* from, int row, int columns) { return {from + row * columns}; }

// Weights are (outputs, inputs), so a pair of inputs of one output lies together.
template <int kInner>
PSTMO_EDGE_WARP void accumulate(Sums (&sums)[kTileColumns / 8], const Fragment<4>& left, const Half* weights,
                                int column_0, int k_0) {
  for (int part = 0; part < kTileColumns / 8; ++part) {
    Fragment<2> right;
    fill_right(right, [&](int row, int column) {
      return pair_at(weights, (column_0 + 8 * part + column) * kInner + k_0 + row);
    });
    multiply(sums[part], left, right);
  }
}

template <typename Finish>
PSTMO_EDGE_WARP void finish_tile(const Sums (&sums)[kTileColumns / 8], int rows, int row_0, int column_0,
                                 const float* bias, Finish finish) {
  for (int part = 0; part < kTileColumns / 8; ++part) {
    for_pairs(sums[part], [&](int row, int column, float low, float high) {
      const int at = column_0 + 8 * part + column;
      if (row_0 + row < rows) finish(row_0 + row, at, low + bias[at], high + bias[at + 1]);
    });
  }
}

template <int kInner, typename PairAt, typename Finish>
PSTMO_EDGE_WARP void tile(int rows, int row_0, int column_0, const Half* weights, const float* bias, PairAt pair,
                          Finish finish) {
  Sums sums[kTileColumns / 8];
  for (Sums& each : sums) clear(each);
  for (int k_0 = 0; k_0 < kInner; k_0 += 16) {
    Fragment<4> left;
    fill_left(left, [&](int row, int column) { return pair(row, k_0 + column); });
    accumulate<kInner>(sums, left, weights, column_0, k_0);
  }
  finish_tile(sums, rows, row_0, column_0, bias, finish);
}

template <int kInner, typename Value, typename Finish>
PSTMO_EDGE_WARP void normed_tile(int rows, int row_0, int column_0, const float* norm, const Half* weights,
                                 const float* bias, Value value, const Rows& mean, const Rows& scale, Finish finish) {
  Sums sums[kTileColumns / 8];
  for (Sums& each : sums) clear(each);
  PSTMO_EDGE_UNROLL
  for (int k_0 = 0; k_0 < kInner; k_0 += 16) {
    Fragment<4> left;
    lanes([&](int lane, int slot) {
      for (int register_number = 0; register_number < 4; ++register_number) {
        const int i = register_number & 1, row = row_0 + (lane >> 2) + 8 * i;
        const int k = k_0 + 2 * (lane & 3) + 8 * (register_number >> 1);
        uint32_t pair = 0;
        if (row < rows) {
          const Pair raw = value(row, k);
          const float center = mean.values[slot][i], factor = scale.values[slot][i];
          pair = packed((raw.low - center) * factor * norm[k] + norm[kInner + k],
                        (raw.high - center) * factor * norm[k + 1] + norm[kInner + k + 1]);
        }
        left.pairs[slot][register_number] = pair;
      }
    });
    accumulate<kInner>(sums, left, weights, column_0, k_0);
  }
  finish_tile(sums, rows, row_0, column_0, bias, finish);
}

// Sums of `part(row, k, slot, i)` over all even k, for the two rows of each lane.
template <int kInner, typename Part>
PSTMO_EDGE_WARP void add_over(int rows, int row_0, Rows& sums, Part part) {
  lanes([&](int lane, int slot) {
    for (int i = 0; i < 2; ++i) {
      const int row = row_0 + (lane >> 2) + 8 * i;
      float sum = 0;
      if (row < rows) {
        for (int k = 2 * (lane & 3); k < kInner; k += 8) sum += part(row, k, slot, i);
      }
      sums.values[slot][i] = sum;
    }
  });
  add_across(sums);
}

// Mean and reciprocal deviation of the two rows of each lane.
template <int kInner, typename Value>
PSTMO_EDGE_WARP void measure(int rows, int row_0, Value value, Rows& mean, Rows& scale) {
  add_over<kInner>(rows, row_0, mean, [&](int row, int k, int, int) {
    const Pair pair = value(row, k);
    return pair.low + pair.high;
  });
  lanes([&](int, int slot) {
    for (int i = 0; i < 2; ++i) mean.values[slot][i] /= kInner;
  });
  add_over<kInner>(rows, row_0, scale, [&](int row, int k, int slot, int i) {
    const Pair pair = value(row, k);
    const float low = pair.low - mean.values[slot][i], high = pair.high - mean.values[slot][i];
    return low * low + high * high;
  });
  lanes([&](int, int slot) {
    for (int i = 0; i < 2; ++i) {
      scale.values[slot][i] = reciprocal_root(scale.values[slot][i] / kInner + kNormEpsilon);
    }
  });
}

// Tiles of 16 rows and 32 columns: `row_of(row)` gives a function from k to the pair of inputs there, `finish` takes
// pairs of outputs with their bias.
template <int kInner, int kColumns, typename RowOf, typename Finish>
PSTMO_EDGE_WARP void linear(Worker worker, int rows, const Half* weights, const float* bias, RowOf row_of,
                            Finish finish) {
  constexpr int kSlices = kColumns / kTileColumns;
  const int tiles = (rows + kTileRows - 1) / kTileRows;
  for (int task = worker.number; task < tiles * kSlices; task += worker.count) {
    const int row_0 = task / kSlices * kTileRows, column_0 = task % kSlices * kTileColumns;
    const auto pair = [&](int row, int k) { return row_0 + row < rows ? row_of(row_0 + row)(k) : uint32_t{0}; };
    tile<kInner>(rows, row_0, column_0, weights, bias, pair, finish);
  }
}

// The same behind a LayerNorm of `kInner` values, which each tile computes for its rows: `value(row, k)` gives a
// pair before it.
template <int kInner, int kColumns, typename Value, typename Finish>
PSTMO_EDGE_WARP void linear_normed(Worker worker, int rows, const float* norm, const Half* weights, const float* bias,
                                   Value value, Finish finish) {
  constexpr int kSlices = kColumns / kTileColumns;
  const int tiles = (rows + kTileRows - 1) / kTileRows;
  for (int task = worker.number; task < tiles * kSlices; task += worker.count) {
    const int row_0 = task / kSlices * kTileRows, column_0 = task % kSlices * kTileColumns;
    Rows mean, scale;
    measure<kInner>(rows, row_0, value, mean, scale);
    normed_tile<kInner>(rows, row_0, column_0, norm, weights, bias, value, mean, scale, finish);
  }
}

}  // namespace cuda
}  // namespace pstmo_edge

#endif  // PSTMO_EDGE_CUDA_TILES_H_
