// One window through the whole network in one launch: latency for a single camera, where launches and the gaps between
// them take longer than the work. Every warp of a grid that is on the chip at once takes tiles of 16 tokens; between
// stages the grid waits for itself. Weights and what passes between stages stay in the second-level cache.
//
// Numerics: as kernels/triton/reference.py in bf16 (weights and tokens bf16, sums float32; the two ends float32).
// No speed was measured: no GPU was at hand. tests/kernels/cuda runs this source on the host.
#ifndef PSTMO_EDGE_CUDA_SINGLE_WINDOW_H_
#define PSTMO_EDGE_CUDA_SINGLE_WINDOW_H_

#include "warp.h"

namespace pstmo_edge {
namespace cuda {

constexpr int kJoints = 17, kInputs = 2 * kJoints, kOutputs = 3 * kJoints;
constexpr int kTileRows = 16, kTileColumns = 32, kHeadWidth = 32;
constexpr float kNormEpsilon = 1e-12F, kLog2E = 1.4426950408889634F, kLeastScore = -1e30F;

// The network as the engine lays it out in device memory, in 8-byte slots; kernels/triton/single.py is the writer.
struct Layer {
  int64_t stride, taps;  // taps 1: plain, stride 1
  const float* norm_1;   // gain, then shift
  const Bf16* qkv;
  const float* qkv_bias;
  const Bf16* out;
  const float *out_bias, *norm_2;
  const Bf16* w_1;
  const float* bias_1;
  const Bf16* w_2;
  const float *bias_2, *position;  // what the next layer adds first, or nullptr
};
struct Network {
  uint64_t barrier;  // 0 before the first launch
  int64_t frames, layer_count;
  const float *fc_1, *fc_1_bias;
  const Bf16* w1;
  const float* w1_bias;
  const Bf16* w2;
  const float* w2_bias;
  const Bf16* fc_2;
  const float *fc_2_bias, *position, *head, *head_bias;
  PSTMO_EDGE_WARP const Layer* layers() const { return reinterpret_cast<const Layer*>(this + 1); }
};

// Who takes which tiles.
struct Worker {
  int number, count;
};

template <int kChannels, int kHidden, int kHeads>
class SingleWindow {
 public:
  static_assert(kChannels == kHeads * kHeadWidth && kChannels % kTileColumns == 0 && kHidden % kTileColumns == 0);
  static constexpr int kWide = 2 * kChannels;  // of the spatial encoder
  static constexpr int kWidest = kHidden > kWide ? kHidden : kWide;

  // Bytes of `workspace` for so many frames.
  static constexpr int64_t workspace_bytes(int64_t frames) {
    return frames * (2 * (2 * kWidest + 2 * kChannels + 3 * kChannels + kChannels) + 4 * kChannels);
  }

  PSTMO_EDGE_WARP SingleWindow(const Network* network, const float* keypoints, float* poses, void* workspace)
      : network_(network), keypoints_(keypoints), poses_(poses), frames_(static_cast<int>(network->frames)) {
    summed_ = static_cast<float*>(workspace);
    first_ = reinterpret_cast<Bf16*>(summed_ + frames_ * kChannels);
    second_ = first_ + frames_ * kWidest;
    tokens_ = second_ + frames_ * kWidest;
    qkv_ = tokens_ + 2 * frames_ * kChannels;
    mixed_ = qkv_ + frames_ * 3 * kChannels;
  }

  // Runs every stage; `next()` returns once all workers have come to it.
  template <typename Next>
  PSTMO_EDGE_WARP void run(Worker worker, Next next) const {
    const int layers = static_cast<int>(network_->layer_count);
    for (int stage = 0; stage < 4 + 5 * layers; ++stage) {
      run_stage(stage, worker);
      next();
    }
    head(worker);
  }

  PSTMO_EDGE_WARP void run_stage(int stage, Worker worker) const {
    switch (stage) {
      case 0:
        return encode_first(worker);
      case 1:
        return encode_second(worker);
      case 2:
        return encode_third(worker);
      case 3:
        return encode_last(worker);
      default:
        return run_layer((stage - 4) / 5, (stage - 4) % 5, worker);
    }
  }

  PSTMO_EDGE_WARP int stages() const { return 4 + 5 * static_cast<int>(network_->layer_count); }

  // The last stage: float32, one output a task.
  PSTMO_EDGE_WARP void head(Worker worker) const {
    const Bf16* const token = tokens(static_cast<int>(network_->layer_count));
    for (int output = worker.number; output < kOutputs; output += worker.count) {
      float parts[kLanes];
      lanes([&](int lane, int slot) {
        parts[slot] = 0;
        for (int c = 2 * lane; c < kChannels; c += 64) {
          const uint32_t pair = pair_at(token, c);
          const float* const weights = network_->head + output * kChannels + c;
          parts[slot] += low_of(pair) * weights[0] + high_of(pair) * weights[1];
        }
      });
      const float sum = total(parts);
      lanes([&](int lane, int) {
        if (lane == 0) poses_[output] = sum + network_->head_bias[output];
      });
    }
  }

 private:
  // What goes into layer `number`: it is read from one half and what comes out is written to the other.
  PSTMO_EDGE_WARP Bf16* tokens(int number) const { return tokens_ + (number & 1) * frames_ * kChannels; }

  static PSTMO_EDGE_WARP float leaky(float x) { return x > 0 ? x : 0.2F * x; }

  // Frames (frames, 34) to (frames, 2 channels) in float32: coordinates lose two pixels in bf16.
  PSTMO_EDGE_WARP void encode_first(Worker worker) const {
    constexpr int kSlices = kWide / 64;
    for (int task = worker.number; task < frames_ * kSlices; task += worker.count) {
      const int frame = task / kSlices, start = task % kSlices * 64;
      lanes([&](int lane, int) {
        float values[2];
        for (int i = 0; i < 2; ++i) {
          const int column = start + 2 * lane + i;
          float sum = network_->fc_1_bias[column];
          for (int k = 0; k < kInputs; ++k)
            sum += keypoints_[frame * kInputs + k] * network_->fc_1[column * kInputs + k];
          values[i] = leaky(sum);
        }
        put(first_, frame, kWide, start + 2 * lane, values[0], values[1]);
      });
    }
  }

  PSTMO_EDGE_WARP void encode_second(Worker worker) const {
    linear<kWide, kWide>(
        worker, frames_, network_->w1, network_->w1_bias, [&](int row) { return plain(first_, row, kWide); },
        [&](int row, int column, float low, float high) { put(second_, row, kWide, column, leaky(low), leaky(high)); });
  }

  // What this adds lies in the same places that it replaces, each read by the lane that writes it.
  PSTMO_EDGE_WARP void encode_third(Worker worker) const {
    linear<kWide, kWide>(
        worker, frames_, network_->w2, network_->w2_bias, [&](int row) { return plain(second_, row, kWide); },
        [&](int row, int column, float low, float high) {
          const uint32_t before = pair_at(first_, row * kWide + column);
          put(first_, row, kWide, column, leaky(low) + low_of(before), leaky(high) + high_of(before));
        });
  }

  PSTMO_EDGE_WARP void encode_last(Worker worker) const {
    linear<kWide, kChannels>(
        worker, frames_, network_->fc_2, network_->fc_2_bias, [&](int row) { return plain(first_, row, kWide); },
        [&](int row, int column, float low, float high) {
          const float* const position = network_->position + row * kChannels + column;
          put(tokens(0), row, kChannels, column, low + position[0], high + position[1]);
        });
  }

  PSTMO_EDGE_WARP void run_layer(int number, int step, Worker worker) const {
    const Layer& layer = network_->layers()[number];
    int count = frames_;  // of tokens before this layer
    for (int i = 0; i < number; ++i) count = kept(count, network_->layers()[i]);
    const Bf16* const x = tokens(number);
    switch (step) {
      case 0:
        return query_key_value(layer, x, count, worker);
      case 1:
        return attend(count, worker);
      case 2:
        return project(layer, x, count, worker);
      case 3:
        return widen(layer, count, worker);
      default:
        return narrow(layer, count, tokens(number + 1), worker);
    }
  }

  static PSTMO_EDGE_WARP int kept(int tokens, const Layer& layer) {
    const int stride = static_cast<int>(layer.stride);
    return (tokens + stride - 1) / stride;
  }

  PSTMO_EDGE_WARP void query_key_value(const Layer& layer, const Bf16* x, int tokens, Worker worker) const {
    const auto value = [x](int row, int column) {
      const uint32_t pair = pair_at(x, row * kChannels + column);
      return Pair{low_of(pair), high_of(pair)};
    };
    linear_normed<3 * kChannels>(
        worker, tokens, layer.norm_1, layer.qkv, layer.qkv_bias, value,
        [&](int row, int column, float low, float high) { put(qkv_, row, 3 * kChannels, column, low, high); });
  }

  // A head and 16 queries a task; the softmax is rescaled as larger scores appear.
  PSTMO_EDGE_WARP void attend(int tokens, Worker worker) const {
    const int tiles = (tokens + kTileRows - 1) / kTileRows;
    for (int task = worker.number; task < tiles * kHeads; task += worker.count) {
      attend_tile(tokens, task / kHeads * kTileRows, task % kHeads * kHeadWidth);
    }
  }

  PSTMO_EDGE_WARP void attend_tile(int tokens, int row_0, int channel_0) const {
    const Bf16 *const queries = qkv_ + channel_0, *const keys = queries + kChannels, *const values = keys + kChannels;
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
          if (row < tokens) put(mixed_, row, kChannels, column, both[0] * scale, both[1] * scale);
        }
      });
    }
  }

  // Scores of 16 keys, of which `valid` exist, to shares in the form of a left operand; what was mixed before shrinks.
  static PSTMO_EDGE_WARP void soften(const Sums (&scores)[2], int valid, Rows& highest, Rows& sum, Sums (&mixed)[4],
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

  // The key of a lane's j-th score of a row.
  static PSTMO_EDGE_WARP int key_of(int lane, int j) { return 8 * (j >> 1) + 2 * (lane & 3) + (j & 1); }

  PSTMO_EDGE_WARP void project(const Layer& layer, const Bf16* x, int tokens, Worker worker) const {
    linear<kChannels, kChannels>(
        worker, tokens, layer.out, layer.out_bias, [&](int row) { return plain(mixed_, row, kChannels); },
        [&](int row, int column, float low, float high) {
          const uint32_t before = pair_at(x, row * kChannels + column);
          float* const out = summed_ + row * kChannels + column;
          out[0] = low + low_of(before), out[1] = high + high_of(before);
        });
  }

  PSTMO_EDGE_WARP void widen(const Layer& layer, int tokens, Worker worker) const {
    const float* const summed = summed_;
    const auto value = [summed](int row, int column) {
      return Pair{summed[row * kChannels + column], summed[row * kChannels + column + 1]};
    };
    linear_normed<kHidden>(worker, tokens, layer.norm_2, layer.w_1, layer.bias_1, value,
                           [&](int row, int column, float low, float high) {
                             put(first_, row, kHidden, column, low > 0 ? low : 0, high > 0 ? high : 0);
                           });
  }

  // Also the strided convolution: with three taps a row of the left operand is three tokens' hidden layers side by
  // side.
  PSTMO_EDGE_WARP void narrow(const Layer& layer, int tokens, Bf16* out, Worker worker) const {
    const int stride = static_cast<int>(layer.stride), rows = kept(tokens, layer);
    const Bf16* const hidden = first_;
    const auto finish = [&](int row, int column, float low, float high) {
      const float* const residual = summed_ + row * stride * kChannels + column;
      low += residual[0], high += residual[1];
      if (layer.position != nullptr) {
        const float* const position = layer.position + row * kChannels + column;
        low += position[0], high += position[1];
      }
      put(out, row, kChannels, column, low, high);
    };
    if (layer.taps == 1) {
      linear<kHidden, kChannels>(
          worker, rows, layer.w_2, layer.bias_2, [&](int row) { return plain(hidden, row, kHidden); }, finish);
      return;
    }
    const auto row_of = [&](int row) {
      const int middle = row * stride;
      return [=](int k) {
        const int token = middle + k / kHidden - 1;
        return token < 0 || token >= tokens ? 0 : pair_at(hidden, token * kHidden + k % kHidden);
      };
    };
    linear<3 * kHidden, kChannels>(worker, rows, layer.w_2, layer.bias_2, row_of, finish);
  }

  // ---- products -----------------------------------------------------------------------------------------------------

  struct Pair {
    float low, high;
  };

  static PSTMO_EDGE_WARP void put(Bf16* to, int row, int columns, int column, float low, float high) {
    put_pair(to, row * columns + column, packed(low, high));
  }

  // A row of an array as `linear` reads it: by an even place, in pairs.
  struct Plain {
    const Bf16* row;
    PSTMO_EDGE_WARP uint32_t operator()(int k) const { return pair_at(row, k); }
  };
  static PSTMO_EDGE_WARP Plain plain(const Bf16* from, int row, int columns) { return {from + row * columns}; }

  // Tiles of 16 rows and 32 columns: `row_of(row)` gives a function from k to the pair of inputs there, `finish` takes
  // pairs of outputs with their bias.
  template <int kInner, int kColumns, typename RowOf, typename Finish>
  static PSTMO_EDGE_WARP void linear(Worker worker, int rows, const Bf16* weights, const float* bias, RowOf row_of,
                                     Finish finish) {
    constexpr int kSlices = kColumns / kTileColumns;
    const int tiles = (rows + kTileRows - 1) / kTileRows;
    for (int task = worker.number; task < tiles * kSlices; task += worker.count) {
      const int row_0 = task / kSlices * kTileRows, column_0 = task % kSlices * kTileColumns;
      const auto pair = [&](int row, int k) { return row_0 + row < rows ? row_of(row_0 + row)(k) : uint32_t{0}; };
      tile<kInner>(rows, row_0, column_0, weights, bias, pair, finish);
    }
  }

  // The same behind a LayerNorm of `kChannels` values, which each tile computes for its rows: `value(row, k)` gives a
  // pair before it.
  template <int kColumns, typename Value, typename Finish>
  static PSTMO_EDGE_WARP void linear_normed(Worker worker, int rows, const float* norm, const Bf16* weights,
                                            const float* bias, Value value, Finish finish) {
    constexpr int kSlices = kColumns / kTileColumns;
    const int tiles = (rows + kTileRows - 1) / kTileRows;
    for (int task = worker.number; task < tiles * kSlices; task += worker.count) {
      const int row_0 = task / kSlices * kTileRows, column_0 = task % kSlices * kTileColumns;
      Rows mean, scale;
      measure(rows, row_0, value, mean, scale);
      normed_tile(rows, row_0, column_0, norm, weights, bias, value, mean, scale, finish);
    }
  }

  template <typename Value>
  static PSTMO_EDGE_WARP void measure(int rows, int row_0, Value value, Rows& mean, Rows& scale) {
    add_over(rows, row_0, mean, [&](int row, int k, int, int) {
      const Pair pair = value(row, k);
      return pair.low + pair.high;
    });
    lanes([&](int, int slot) {
      for (int i = 0; i < 2; ++i) mean.values[slot][i] /= kChannels;
    });
    add_over(rows, row_0, scale, [&](int row, int k, int slot, int i) {
      const Pair pair = value(row, k);
      const float low = pair.low - mean.values[slot][i], high = pair.high - mean.values[slot][i];
      return low * low + high * high;
    });
    lanes([&](int, int slot) {
      for (int i = 0; i < 2; ++i) {
        scale.values[slot][i] = reciprocal_root(scale.values[slot][i] / kChannels + kNormEpsilon);
      }
    });
  }

  // Sums of `part(row, k, slot, i)` over all even k, for the two rows of each lane.
  template <typename Part>
  static PSTMO_EDGE_WARP void add_over(int rows, int row_0, Rows& sums, Part part) {
    lanes([&](int lane, int slot) {
      for (int i = 0; i < 2; ++i) {
        const int row = row_0 + (lane >> 2) + 8 * i;
        float sum = 0;
        if (row < rows) {
          for (int k = 2 * (lane & 3); k < kChannels; k += 8) sum += part(row, k, slot, i);
        }
        sums.values[slot][i] = sum;
      }
    });
    add_across(sums);
  }

  template <typename Value, typename Finish>
  static PSTMO_EDGE_WARP void normed_tile(int rows, int row_0, int column_0, const float* norm, const Bf16* weights,
                                          const float* bias, Value value, const Rows& mean, const Rows& scale,
                                          Finish finish) {
    Sums sums[kTileColumns / 8];
    for (Sums& each : sums) clear(each);
    PSTMO_EDGE_UNROLL
    for (int k_0 = 0; k_0 < kChannels; k_0 += 16) {
      Fragment<4> left;
      lanes([&](int lane, int slot) {
        for (int register_number = 0; register_number < 4; ++register_number) {
          const int i = register_number & 1, row = row_0 + (lane >> 2) + 8 * i;
          const int k = k_0 + 2 * (lane & 3) + 8 * (register_number >> 1);
          uint32_t pair = 0;
          if (row < rows) {
            const Pair raw = value(row, k);
            const float center = mean.values[slot][i], factor = scale.values[slot][i];
            pair = packed((raw.low - center) * factor * norm[k] + norm[kChannels + k],
                          (raw.high - center) * factor * norm[k + 1] + norm[kChannels + k + 1]);
          }
          left.pairs[slot][register_number] = pair;
        }
      });
      accumulate<kChannels>(sums, left, weights, column_0, k_0);
    }
    finish_tile(sums, rows, row_0, column_0, bias, finish);
  }

  template <int kInner, typename PairAt, typename Finish>
  static PSTMO_EDGE_WARP void tile(int rows, int row_0, int column_0, const Bf16* weights, const float* bias,
                                   PairAt pair, Finish finish) {
    Sums sums[kTileColumns / 8];
    for (Sums& each : sums) clear(each);
    for (int k_0 = 0; k_0 < kInner; k_0 += 16) {
      Fragment<4> left;
      fill_left(left, [&](int row, int column) { return pair(row, k_0 + column); });
      accumulate<kInner>(sums, left, weights, column_0, k_0);
    }
    finish_tile(sums, rows, row_0, column_0, bias, finish);
  }

  // Weights are (outputs, inputs), so a pair of inputs of one output lies together.
  template <int kInner>
  static PSTMO_EDGE_WARP void accumulate(Sums (&sums)[kTileColumns / 8], const Fragment<4>& left, const Bf16* weights,
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
  static PSTMO_EDGE_WARP void finish_tile(const Sums (&sums)[kTileColumns / 8], int rows, int row_0, int column_0,
                                          const float* bias, Finish finish) {
    for (int part = 0; part < kTileColumns / 8; ++part) {
      for_pairs(sums[part], [&](int row, int column, float low, float high) {
        const int at = column_0 + 8 * part + column;
        if (row_0 + row < rows) finish(row_0 + row, at, low + bias[at], high + bias[at + 1]);
      });
    }
  }

  const Network* network_;
  const float* keypoints_;
  float* poses_;
  int frames_;
  float* summed_;  // (tokens, channels)
  Bf16 *first_, *second_, *tokens_, *qkv_, *mixed_;
};

}  // namespace cuda
}  // namespace pstmo_edge

#endif  // PSTMO_EDGE_CUDA_SINGLE_WINDOW_H_
