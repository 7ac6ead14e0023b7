// What 16 queries of a head gather, by a warp, for single_window.h.
#ifndef PSTMO_EDGE_CUDA_ATTENTION_H_
#define PSTMO_EDGE_CUDA_ATTENTION_H_

#include "tiles.h"

namespace pstmo_edge {
namespace cuda {

constexpr int kHeadWidth = 32;
constexpr float kLog2E = 1.4426950408889634F, kLeastScore = -1e30F;

// The key of a lane's j-th score of a row.
PSTMO_EDGE_WARP int key_of(int lane, int j) { return 8 * (j >> 1) + 2 * (lane & 3) + (j & 1); }

// Scores of 16 keys, of which `valid` exist, to shares in the form of a left operand; what was mixed before shrinks.
PSTMO_EDGE_WARP void soften(const Sums (&scores)[2], int valid, Rows& highest, Rows& sum, Sums (&mixed)[4],
                            Fragment<4>& shares) {
  Rows higher;
  lanes([&](int lane, int slot) {
    for (int i = 0; i < 2; ++i) {
      float most = highest.values[slot][i];
      for (int j = 0; j < 4; ++j) {
        const float score = scores[j >> 1].values[slot][2 * i + (j & 1)] * kLog2E;
        if (key_of(lane, j) < valid && score > most) most = score;
      }
      higher.values[slot][i] = most;
    }
  });
  largest_across(higher);
  lanes([&](int lane, int slot) {
    for (int i = 0; i < 2; ++i) {
      float share[4];
      for (int j = 0; j < 4; ++j) {
        const float score = scores[j >> 1].values[slot][2 * i + (j & 1)] * kLog2E;
        share[j] = key_of(lane, j) < valid ? power_of_two(score - higher.values[slot][i]) : 0;
      }
      shares.pairs[slot][i] = packed(share[0], share[1]);
      shares.pairs[slot][2 + i] = packed(share[2], share[3]);
      const float shrink = power_of_two(highest.values[slot][i] - higher.values[slot][i]);
      sum.values[slot][i] = sum.values[slot][i] * shrink + share[0] + share[1] + share[2] + share[3];
      for (Sums& each : mixed) each.values[slot][2 * i] *= shrink, each.values[slot][2 * i + 1] *= shrink;
      highest.values[slot][i] = higher.values[slot][i];
    }
  });
}

// A head and 16 queries: `qkv` (tokens, 3 kChannels) and what is mixed (tokens, kChannels), of which the head's
// channels begin at `channel_0`. The softmax is rescaled as larger scores appear.
template <int kChannels>
PSTMO_EDGE_WARP void attend_tile(const Half* qkv, Half* out, int tokens, int row_0, int channel_0) {
  const Half *const queries = qkv + channel_0, *const keys = queries + kChannels, *const values = keys + kChannels;
  constexpr int kStep = 3 * kChannels;
  Fragment<4> query[2];
  for (int half = 0; half < 2; ++half) {
    fill_left(query[half], [&](int row, int column) {
      const int token = row_0 + row;
      return token < tokens ? pair_at(queries, token * kStep + 16 * half + column) : 0;
    });
  }
  Rows highest, sum;
  Sums mixed[4];
  for (Sums& each : mixed) clear(each);
  lanes([&](int, int slot) {
    for (int i = 0; i < 2; ++i) highest.values[slot][i] = kLeastScore, sum.values[slot][i] = 0;
  });
  for (int key_0 = 0; key_0 < tokens; key_0 += 16) {
    Sums scores[2];
    for (int part = 0; part < 2; ++part) {
      clear(scores[part]);
      for (int half = 0; half < 2; ++half) {
        Fragment<2> key;
        fill_right(key, [&](int row, int column) {
          const int token = key_0 + 8 * part + column;
          return token < tokens ? pair_at(keys, token * kStep + 16 * half + row) : 0;
        });
        multiply(scores[part], query[half], key);
      }
    }
    Fragment<4> shares;
    soften(scores, tokens - key_0, highest, sum, mixed, shares);
    for (int part = 0; part < 4; ++part) {
      Fragment<2> value;
      fill_right(value, [&](int row, int column) {
        const int token = key_0 + row, at = token * kStep + 8 * part + column;
        const uint32_t low = token < tokens ? values[at] : 0, high = token + 1 < tokens ? values[at + kStep] : 0;
        return low | high << 16;
      });
      multiply(mixed[part], shares, value);
    }
  }
  add_across(sum);
  for (int part = 0; part < 4; ++part) {
    lanes([&](int lane, int slot) {
      for (int i = 0; i < 2; ++i) {
        const int row = row_0 + (lane >> 2) + 8 * i, column = channel_0 + 8 * part + 2 * (lane & 3);
        const float scale = 1 / sum.values[slot][i];
        const float* const both = mixed[part].values[slot] + 2 * i;
        if (row < tokens) put(out, row, kChannels, column, both[0] * scale, both[1] * scale);
      }
    });
  }
}

}  // namespace cuda
}  // namespace pstmo_edge

#endif  // PSTMO_EDGE_CUDA_ATTENTION_H_
