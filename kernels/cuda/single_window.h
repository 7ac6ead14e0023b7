// One window through the whole network in one launch: latency for a single camera, where launches and the gaps between
// them take longer than the work. Every warp of a grid that is on the chip at once takes tiles of 16 tokens; between
// stages the grid waits for itself. Weights and what passes between stages stay in the second-level cache.
//
// Numerics: as kernels/triton/reference.py in fp16 (weights and tokens fp16, sums float32; the two ends float32).
// No speed was measured: no GPU was at hand. tests/kernels/cuda runs this source on the host.
#ifndef PSTMO_EDGE_CUDA_SINGLE_WINDOW_H_
#define PSTMO_EDGE_CUDA_SINGLE_WINDOW_H_

#include "attention.h"

namespace pstmo_edge {
namespace cuda {

constexpr int kJoints = 17, kInputs = 2 * kJoints, kOutputs = 3 * kJoints;

// The network as the engine lays it out in device memory, in 8-byte slots; single_window.py is the writer.
struct Layer {
  int64_t stride, taps;  // taps 1: plain, stride 1
  const float* norm_1;   // gain, then shift
  const Half* qkv;
  const float* qkv_bias;
  const Half* out;
  const float *out_bias, *norm_2;
  const Half* w_1;
  const float* bias_1;
  const Half* w_2;
  const float *bias_2, *position;  // what the next layer adds first, or nullptr
};
struct Network {
  uint64_t barrier;  // 0 before the first launch
  int64_t frames, layer_count;
  const float *fc_1, *fc_1_bias;
  const Half* w1;
  const float* w1_bias;
  const Half* w2;
  const float* w2_bias;
  const Half* fc_2;
  const float *fc_2_bias, *position, *head, *head_bias;
  PSTMO_EDGE_WARP const Layer* layers() const { return reinterpret_cast<const Layer*>(this + 1); }
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
    first_ = reinterpret_cast<Half*>(summed_ + frames_ * kChannels);
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
    const Half* const token = tokens(static_cast<int>(network_->layer_count));
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
  PSTMO_EDGE_WARP Half* tokens(int number) const { return tokens_ + (number & 1) * frames_ * kChannels; }

  static PSTMO_EDGE_WARP float leaky(float x) { return x > 0 ? x : 0.2F * x; }

  // Frames (frames, 34) to (frames, 2 channels) in float32: coordinates lose a quarter of a pixel in fp16.
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
    const Half* const x = tokens(number);
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

  PSTMO_EDGE_WARP void query_key_value(const Layer& layer, const Half* x, int tokens, Worker worker) const {
    const auto value = [x](int row, int column) {
      const uint32_t pair = pair_at(x, row * kChannels + column);
      return Pair{low_of(pair), high_of(pair)};
    };
    linear_normed<kChannels, 3 * kChannels>(
        worker, tokens, layer.norm_1, layer.qkv, layer.qkv_bias, value,
        [&](int row, int column, float low, float high) { put(qkv_, row, 3 * kChannels, column, low, high); });
  }

  // A head and 16 queries a task.
  PSTMO_EDGE_WARP void attend(int tokens, Worker worker) const {
    const int tiles = (tokens + kTileRows - 1) / kTileRows;
    for (int task = worker.number; task < tiles * kHeads; task += worker.count) {
      attend_tile<kChannels>(qkv_, mixed_, tokens, task / kHeads * kTileRows, task % kHeads * kHeadWidth);
    }
  }

  PSTMO_EDGE_WARP void project(const Layer& layer, const Half* x, int tokens, Worker worker) const {
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
    linear_normed<kChannels, kHidden>(worker, tokens, layer.norm_2, layer.w_1, layer.bias_1, value,
                                      [&](int row, int column, float low, float high) {
                                        put(first_, row, kHidden, column, low > 0 ? low : 0, high > 0 ? high : 0);
                                      });
  }

  // Also the strided convolution: with three taps a row of the left operand is three tokens' hidden layers side by
  // side.
  PSTMO_EDGE_WARP void narrow(const Layer& layer, int tokens, Half* out, Worker worker) const {
    const int stride = static_cast<int>(layer.stride), rows = kept(tokens, layer);
    const Half* const hidden = first_;
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

  const Network* network_;
  const float* keypoints_;
  float* poses_;
  int frames_;
  float* summed_;  // (tokens, channels)
  Half *first_, *second_, *tokens_, *qkv_, *mixed_;
};

}  // namespace cuda
}  // namespace pstmo_edge

#endif  // PSTMO_EDGE_CUDA_SINGLE_WINDOW_H_
