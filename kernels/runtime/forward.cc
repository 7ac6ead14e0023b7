#include "forward.h"

#include <chrono>
#include <cstring>

namespace pstmo_edge {
namespace {

constexpr float kEpsilon = 1e-12F;  // models/fused.py: the published epsilon, 1e-6, squared
constexpr float kLeak = 0.2F;       // of the spatial encoder's LeakyReLU
constexpr int kTaps = 3;            // of a strided layer's convolution
constexpr int kAlign = 48;          // rows of operands are a multiple of this: whole vectors, and 34 joints fit
constexpr float kNone = 1, kRelu = 0;

int round_up(int value, int step) { return (value + step - 1) / step * step; }

// Rows for a product, in the format that it reads.
Out operand(const Linear& reader, void* buffer, ptrdiff_t stride, float slope = kNone) {
  Out out;
  out.slope = slope;
  if (reader.format != Format::Float) {
    out.codes = buffer, out.codes_stride = stride, out.codes_format = reader.format;
    out.inverse = reader.input_inverse, out.zero = reader.input_zero;
  } else {
    out.values = static_cast<float*>(buffer), out.values_stride = stride;
  }
  return out;
}

Out floats(float* values, ptrdiff_t stride, const float* residual = nullptr, ptrdiff_t residual_stride = 0) {
  Out out;
  out.values = values, out.values_stride = stride;
  out.residual = residual, out.residual_stride = residual_stride;
  return out;
}

// The row of the input that is number `i` of a strided block's queries: three for each output, or with a stride of 1,
// where neighbours share them, one for each output and one at either end. May lie outside the window.
int query_row(const Layer& layer, int first, int i) {
  return layer.stride == 1 ? first - 1 + i : (first + i / kTaps) * layer.stride - 1 + i % kTaps;
}
int query_count(const Layer& layer, int count) { return layer.stride == 1 ? count + 2 : kTaps * count; }

// Adds the time until its end to a part of the profile, if there is one.
class Timer {
 public:
  Timer(Profile* profile, int part, double multiply_adds, Format format = Format::Float) {
    if (profile == nullptr) return;
    part_ = &profile->parts[static_cast<size_t>(part)];
    part_->multiply_adds += multiply_adds;
    part_->format = format;
    start_ = std::chrono::steady_clock::now();
  }
  ~Timer() {
    if (part_ == nullptr) return;
    const auto spent = std::chrono::steady_clock::now() - start_;
    part_->nanoseconds += std::chrono::duration_cast<std::chrono::nanoseconds>(spent).count();
  }
  Timer(const Timer&) = delete;
  Timer& operator=(const Timer&) = delete;

 private:
  Profile::Part* part_ = nullptr;
  std::chrono::steady_clock::time_point start_;
};

}  // namespace

size_t Forward::key_floats() const {
  const int tokens = round_up(network_.config.frames, kernels_.panel);
  return static_cast<size_t>(tokens) * static_cast<size_t>(network_.config.channels);
}

Window Forward::new_window(Memory& memory) const {
  const size_t size = static_cast<size_t>(network_.config.frames) * static_cast<size_t>(network_.config.channels);
  Window window;
  for (int side = 0; side < 2; ++side) {
    window.tokens[side] = memory.take<float>(size);
    window.queries[side] = memory.take<float>(size);
    window.keys[side] = memory.take<float>(key_floats());
    window.values[side] = memory.take<float>(key_floats());
  }
  return window;
}

Scratch Forward::new_scratch(Memory& memory) const {
  const ModelConfig& config = network_.config;
  const size_t rows = kBlockRows + kTaps, narrow = rows * static_cast<size_t>(config.channels);
  const int wide_width = config.hidden > 2 * config.channels ? config.hidden : 2 * config.channels;
  const size_t wide = rows * static_cast<size_t>(wide_width);
  Scratch scratch;
  scratch.stream = memory.take<float>(narrow);
  scratch.queries = memory.take<float>(narrow);
  scratch.middle = memory.take<float>(narrow);
  scratch.key_value = memory.take<float>(2 * narrow);
  const int tokens = round_up(config.frames, kernels_.panel);
  scratch.scores = memory.take<float>(static_cast<size_t>(kernels_.max_rows) * static_cast<size_t>(tokens));
  scratch.normed = memory.take<float>(narrow);
  scratch.mixed = memory.take<float>(narrow);
  scratch.wide = memory.take<float>(wide);
  scratch.wider = memory.take<float>(wide);
  scratch.frames = memory.take<float>(2 * narrow);
  return scratch;
}

int Forward::rows_of(int stage) const {
  return stage == 0 ? network_.config.frames : network_.layers[static_cast<size_t>(stage) - 1].tokens_out;
}

int Forward::block_rows_of(int stage) const {
  const int stride = stage == 0 ? 0 : network_.layers[static_cast<size_t>(stage) - 1].stride;
  return stride > 1 ? kBlockRows / kTaps : kBlockRows;
}

void Forward::run(int stage, int first, int count, const Source& source, Window& window, Scratch& scratch,
                  float* pose) const {
  const size_t next = static_cast<size_t>(stage);  // the layer whose keys and values this stage ends with
  if (stage == 0) {
    start(first, count, source, window, scratch);
  } else {
    run_layer(next - 1, first, count, window, scratch);
  }
  if (next < network_.layers.size()) {
    prepare_attention(next, first, count, window, scratch);
  } else {
    finish(window, scratch, pose);
  }
}

void Forward::multiply(const void* rows, ptrdiff_t stride, int count, const Linear& linear, const Out& out,
                       Scratch& scratch) const {
  const Timer timer(scratch.profile, linear.part, static_cast<double>(count) * linear.in * linear.out, linear.format);
  kernels_.product(rows, stride, count, linear, out);
}

void Forward::encode(const float* keypoints, int count, float* tokens, Scratch& scratch) const {
  const int inputs = 2 * network_.config.joints, width = 2 * network_.config.channels;
  const void* rows = keypoints;
  ptrdiff_t stride = inputs;
  if (network_.fc_1.format != Format::Float) {
    // Whole vectors for the conversion: the frames are copied to wider rows first.
    stride = round_up(inputs, kAlign);
    auto* const padded = static_cast<float*>(scratch.wider);
    for (int r = 0; r < count; ++r)
      std::memcpy(padded + r * stride, keypoints + r * inputs, sizeof(float) * static_cast<size_t>(inputs));
    kernels_.convert(padded, stride, count, static_cast<int>(stride), operand(network_.fc_1, scratch.wide, stride));
    rows = scratch.wide;
  }
  Out first = operand(network_.w1, scratch.wider, width, kLeak);
  first.values = scratch.frames, first.values_stride = width;
  multiply(rows, stride, count, network_.fc_1, first, scratch);
  const void* const residual = network_.w1.format == Format::Float ? static_cast<void*>(scratch.frames) : scratch.wider;
  multiply(residual, width, count, network_.w1, operand(network_.w2, scratch.wide, width, kLeak), scratch);
  Out second = operand(network_.fc_2, scratch.wider, width, kLeak);
  second.residual = scratch.frames, second.residual_stride = width;
  multiply(scratch.wide, width, count, network_.w2, second, scratch);
  multiply(scratch.wider, width, count, network_.fc_2, floats(tokens, network_.config.channels), scratch);
}

void Forward::start(int first, int count, const Source& source, Window& window, Scratch& scratch) const {
  const int channels = network_.config.channels;
  float* const tokens = window.tokens[0] + static_cast<ptrdiff_t>(first) * channels;
  if (source.tokens == nullptr) {
    encode(source.keypoints + static_cast<ptrdiff_t>(first) * 2 * network_.config.joints, count, tokens, scratch);
    return;
  }
  for (int r = 0; r < count; ++r) {
    std::memcpy(tokens + r * channels, source.tokens[first + r], sizeof(float) * static_cast<size_t>(channels));
  }
}

// Positions, norm, queries, keys and values of rows whose residual stream is known.
void Forward::prepare_attention(size_t number, int first, int count, Window& window, Scratch& scratch) const {
  const Layer& layer = network_.layers[number];
  const int channels = network_.config.channels, width = network_.width(), side = static_cast<int>(number % 2);
  const ptrdiff_t offset = static_cast<ptrdiff_t>(first) * channels;
  float* const tokens = window.tokens[side] + offset;
  {
    const Timer timer(scratch.profile, kNormsPart, 0);
    if (layer.positions != nullptr) {
      kernels_.convert(tokens, channels, count, channels, floats(tokens, channels, layer.positions + offset, channels));
    }
    kernels_.layer_norm(tokens, channels, count, channels, layer.before_attention.gain, layer.before_attention.bias,
                        kEpsilon, operand(layer.query, scratch.normed, channels));
  }
  multiply(scratch.normed, channels, count, layer.query, floats(window.queries[side] + offset, channels), scratch);
  multiply(scratch.normed, channels, count, layer.key_value, floats(scratch.key_value, 2 * channels), scratch);
  const Timer timer(scratch.profile, kCopiesPart, 0);
  const ptrdiff_t keys_of_head = static_cast<ptrdiff_t>(round_up(layer.tokens_in, kernels_.panel)) * width;
  const ptrdiff_t values_of_head = static_cast<ptrdiff_t>(layer.tokens_in) * width;
  for (int head = 0; head < network_.config.heads; ++head) {
    kernels_.put_heads(scratch.key_value + head * width, 2 * channels, first, count, layer.tokens_in, width, channels,
                       window.keys[side] + head * keys_of_head, window.values[side] + head * values_of_head);
  }
}

void Forward::attend(size_t number, const float* queries, int rows, const Window& window, Scratch& scratch) const {
  const Layer& layer = network_.layers[number];
  const int channels = network_.config.channels, width = network_.width(), side = static_cast<int>(number % 2);
  const Timer timer(scratch.profile, layer.attention_part, 2.0 * rows * layer.tokens_in * channels);
  Attention attention{};
  attention.query_stride = channels, attention.rows = rows;
  attention.tokens = layer.tokens_in, attention.width = width;
  attention.scores = scratch.scores, attention.mask = layer.mask;
  const ptrdiff_t keys_of_head = static_cast<ptrdiff_t>(round_up(layer.tokens_in, kernels_.panel)) * width;
  for (int head = 0; head < network_.config.heads; ++head) {
    attention.queries = queries + head * width;
    attention.keys = window.keys[side] + head * keys_of_head;
    attention.values = window.values[side] + static_cast<ptrdiff_t>(head) * layer.tokens_in * width;
    void* const columns = static_cast<char*>(scratch.mixed) + head * width * kernels_.bytes_of(layer.out.format);
    kernels_.attention(attention, operand(layer.out, columns, channels));
  }
}

void Forward::run_layer(size_t number, int first, int count, Window& window, Scratch& scratch) const {
  const Layer& layer = network_.layers[number];
  const int channels = network_.config.channels, hidden = network_.config.hidden, side = static_cast<int>(number % 2);
  const bool strided = layer.stride != 0;
  const int rows = strided ? query_count(layer, count) : count;
  const float* stream = window.tokens[side] + static_cast<ptrdiff_t>(first) * channels;
  const float* queries = window.queries[side] + static_cast<ptrdiff_t>(first) * channels;
  if (strided) {
    gather(layer, first, rows, window, side, scratch);
    stream = scratch.stream, queries = scratch.queries;
  }
  attend(number, queries, rows, window, scratch);
  multiply(scratch.mixed, channels, rows, layer.out, floats(scratch.middle, channels, stream, channels), scratch);
  {
    const Timer timer(scratch.profile, kNormsPart, 0);
    kernels_.layer_norm(scratch.middle, channels, rows, channels, layer.before_feed_forward.gain,
                        layer.before_feed_forward.bias, kEpsilon, operand(layer.w_1, scratch.normed, channels));
  }
  multiply(scratch.normed, channels, rows, layer.w_1, operand(layer.w_2, scratch.wide, hidden, kRelu), scratch);
  if (strided) clear_outside(layer, first, rows, scratch);
  // The convolution's windows are rows of three tokens side by side, and its residual is the one in the middle.
  const ptrdiff_t step = layer.stride > 1 ? kTaps : 1;
  const float* const residual = scratch.middle + (strided ? channels : 0);
  float* const next = window.tokens[1 - side] + static_cast<ptrdiff_t>(first) * channels;
  multiply(scratch.wide, step * hidden, count, layer.w_2, floats(next, channels, residual, step * channels), scratch);
}

// Queries and residual stream of a strided block's rows, side by side; zeros for rows outside the window.
void Forward::gather(const Layer& layer, int first, int rows, const Window& window, int side, Scratch& scratch) const {
  const int channels = network_.config.channels;
  const size_t bytes = sizeof(float) * static_cast<size_t>(channels);
  for (int i = 0; i < rows; ++i) {
    const ptrdiff_t to = static_cast<ptrdiff_t>(i) * channels, row = query_row(layer, first, i);
    if (row < 0 || row >= layer.tokens_in) {
      std::memset(scratch.queries + to, 0, bytes);
      std::memset(scratch.stream + to, 0, bytes);
    } else {
      std::memcpy(scratch.queries + to, window.queries[side] + row * channels, bytes);
      std::memcpy(scratch.stream + to, window.tokens[side] + row * channels, bytes);
    }
  }
}

// The convolution pads with zeros, not with what the network makes of zeros.
void Forward::clear_outside(const Layer& layer, int first, int rows, Scratch& scratch) const {
  const int hidden = network_.config.hidden;
  const int bytes = kernels_.bytes_of(layer.w_2.format);
  for (int i = 0; i < rows; ++i) {
    const int row = query_row(layer, first, i);
    if (row >= 0 && row < layer.tokens_in) continue;
    char* const wide = static_cast<char*>(scratch.wide) + static_cast<ptrdiff_t>(i) * hidden * bytes;
    if (layer.w_2.format == Format::Byte) {
      kernels_.clear_codes(wide, hidden, layer.w_2.input_zero);
    } else {
      std::memset(wide, 0, static_cast<size_t>(hidden) * static_cast<size_t>(bytes));
    }
  }
}

void Forward::finish(const Window& window, Scratch& scratch, float* pose) const {
  const int channels = network_.config.channels, outputs = 3 * network_.config.joints;
  const float* const token = window.tokens[network_.layers.size() % 2];
  const void* rows = token;
  if (network_.head.format != Format::Float) {
    kernels_.convert(token, channels, 1, channels, operand(network_.head, scratch.normed, channels));
    rows = scratch.normed;
  }
  multiply(rows, channels, 1, network_.head, floats(scratch.key_value, 0), scratch);
  std::memcpy(pose, scratch.key_value, sizeof(float) * static_cast<size_t>(outputs));
}

}  // namespace pstmo_edge
