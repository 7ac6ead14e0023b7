#include "network.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <string>

namespace pstmo_edge {
namespace {

constexpr float kLog2E = 1.44269504F;

float half_to_float(uint16_t half) {
  const uint32_t sign = static_cast<uint32_t>(half & 0x8000U) << 16, fraction = half & 0x3ffU;
  const int exponent = half >> 10 & 0x1f;
  if (exponent == 0) {
    const float value = std::ldexp(static_cast<float>(fraction), -24);
    return sign != 0 ? -value : value;
  }
  const uint32_t biased = exponent == 0x1f ? 0xffU : static_cast<uint32_t>(exponent + 112);
  const uint32_t bits = sign | biased << 23 | fraction << 13;
  float value;
  std::memcpy(&value, &bits, sizeof(value));
  return value;
}

// Element `i` of a float tensor; the file need not be aligned.
float read_float(const Tensor& tensor, int64_t i) {
  const char* const data = static_cast<const char*>(tensor.data);
  if (tensor.dtype == Dtype::F32) {
    float value;
    std::memcpy(&value, data + i * 4, sizeof(value));
    return value;
  }
  uint16_t half;
  std::memcpy(&half, data + i * 2, sizeof(half));
  if (tensor.dtype == Dtype::F16) return half_to_float(half);
  const uint32_t bits = static_cast<uint32_t>(half) << 16;
  float value;
  std::memcpy(&value, &bits, sizeof(value));
  return value;
}

bool is_float(const Tensor& tensor) {
  return tensor.dtype == Dtype::F32 || tensor.dtype == Dtype::F16 || tensor.dtype == Dtype::BF16;
}

int round_up(int value, int step) { return (value + step - 1) / step * step; }

// The largest absolute 8-bit weight of all, and of those that 8-bit activations meet: where none of these is beyond 64,
// no sum of two products leaves 16 bits.
struct Largest {
  int of_all = 0;
  int of_bytes = 0;
};

Largest largest_weights(const TensorTable& tensors) {
  constexpr std::string_view kWeight = "weight";
  Largest largest;
  for (size_t t = 0; t < tensors.size(); ++t) {
    const Tensor& tensor = tensors[t];
    if (tensor.dtype != Dtype::I8) continue;
    const auto* const data = static_cast<const int8_t*>(tensor.data);
    int own = 0;
    for (int64_t i = 0; i < tensor.elements(); ++i) own = std::max(own, std::abs(data[i]));
    largest.of_all = std::max(largest.of_all, own);
    const size_t stem = tensor.name.size() < kWeight.size() ? 0 : tensor.name.size() - kWeight.size();
    const Tensor* const zero = tensors.find(std::string(tensor.name.substr(0, stem)) + "input_zero_point");
    if (zero == nullptr || zero->dtype != Dtype::I16) largest.of_bytes = std::max(largest.of_bytes, own);
  }
  return largest;
}

// What a Linear is made of: some rows of a tensor, times a factor.
struct Slice {
  int first = 0;
  int rows = 0;   // 0: all
  int total = 0;  // rows of the tensor
};

class Loader {
 public:
  Loader(const TensorTable& tensors, const Kernels& kernels, Memory& memory)
      : tensors_(tensors), kernels_(kernels), memory_(memory) {}

  const std::string& trouble() const { return trouble_; }
  std::vector<std::string> parts() { return std::move(parts_); }

  // The number of a part of the network; two products of one name are one.
  int part(const std::string& name) {
    if (parts_.back() != name) parts_.push_back(name);
    return static_cast<int>(parts_.size()) - 1;
  }

  // A layer with weights [out][in] (trailing dimensions of 1 are as good) and a bias.
  Linear linear(const std::string& name, int in, int out) { return linear(name, in, {0, out, out}, 1); }

  Linear linear(const std::string& name, int in, Slice slice, float factor) {
    Linear made;
    made.in = in, made.out = slice.rows, made.part = part(name);
    const Tensor* const weight = matrix(name + ".weight", slice.total, in);
    const Tensor* const bias = floats(name + ".bias", slice.total);
    if (weight == nullptr || bias == nullptr) return made;
    made.bias = copied(*bias, slice, factor);
    if (weight->dtype == Dtype::I8 && !quantize(name, *weight, slice, factor, made)) return made;
    void* const panels = memory_.take<uint8_t>(kernels_.packed_bytes(in, slice.rows, made.format));
    made.panels = panels;
    const int64_t begin = static_cast<int64_t>(slice.first) * in, count = static_cast<int64_t>(slice.rows) * in;
    if (made.format != Format::Float) {
      const auto pack = made.format == Format::Byte ? kernels_.pack_int8 : kernels_.pack_word;
      pack(static_cast<const int8_t*>(weight->data) + begin, in, slice.rows, panels);
    } else {
      std::vector<float> values(static_cast<size_t>(count));
      for (int64_t i = 0; i < count; ++i) values[static_cast<size_t>(i)] = factor * read_float(*weight, begin + i);
      kernels_.pack_float(values.data(), in, slice.rows, panels);
    }
    return made;
  }

  Norm norm(const std::string& name, int channels) {
    const Tensor* const gain = floats(name + ".weight", channels);
    const Tensor* const bias = floats(name + ".bias", channels);
    if (gain == nullptr || bias == nullptr) return {};
    return {copied(*gain, {0, channels, channels}, 1), copied(*bias, {0, channels, channels}, 1)};
  }

  // What attention adds to the scores of so many tokens.
  const float* mask(int tokens) {
    auto* const values = memory_.take<float>(padded(tokens));
    for (size_t t = static_cast<size_t>(tokens); t < padded(tokens); ++t) values[t] = kNoToken;
    return values;
  }

  // The first `rows` rows of a table [1][frames][channels].
  const float* table(const std::string& name, int frames, int channels, int rows) {
    const Tensor* const tensor = floats(name, frames * channels);
    return tensor == nullptr ? nullptr : copied(*tensor, {0, rows * channels, frames * channels}, 1);
  }

 private:
  // What a layer of 8-bit weights needs beside them; false after a complaint.
  bool quantize(const std::string& name, const Tensor& weight, Slice slice, float factor, Linear& made) {
    const Tensor* const scale = floats(name + ".weight_scale", slice.total);
    const Tensor* const input_scale = floats(name + ".input_scale", 1);
    const Tensor* const zero = find(name + ".input_zero_point");
    if (scale == nullptr || input_scale == nullptr || zero == nullptr || !read_zero(*zero, made)) return false;
    const float input = read_float(*input_scale, 0);
    if (!(input > 0) || !std::isfinite(1 / input)) return complain(name + ".input_scale must be above 0");
    made.input_inverse = 1 / input;
    made.scale = copied(*scale, slice, factor * input);
    auto* const start = memory_.take<int32_t>(padded(slice.rows));
    made.start = start;
    const auto* codes = static_cast<const int8_t*>(weight.data) + static_cast<int64_t>(slice.first) * made.in;
    for (int o = 0; o < slice.rows; ++o) {
      int32_t sum = 0, magnitudes = 0;
      for (int k = 0; k < made.in; ++k, ++codes) sum += *codes, magnitudes += std::abs(*codes);
      if (made.format == Format::Byte) {
        start[o] = -(made.input_zero - kernels_.code_shift) * sum;
      } else if (magnitudes > kMostWordWeights) {
        return complain(name + ".weight: the magnitudes of output " + std::to_string(slice.first + o) + " add up to " +
                        std::to_string(magnitudes) + ", and with 16-bit inputs a sum is safe up to " +
                        std::to_string(kMostWordWeights));
      }
    }
    return true;
  }

  // The type of the zero point says of how many bits the inputs are.
  bool read_zero(const Tensor& zero, Linear& made) {
    int16_t word = 0;
    if (zero.dtype == Dtype::I16 && zero.elements() == 1) std::memcpy(&word, zero.data, sizeof(word));
    if (zero.elements() != 1 || word != 0 || (zero.dtype != Dtype::U8 && zero.dtype != Dtype::I16)) {
      return complain(std::string(zero.name) + " must be one U8, or one I16 of 0");
    }
    made.format = zero.dtype == Dtype::U8 ? Format::Byte : Format::Word;
    if (made.format == Format::Byte) made.input_zero = *static_cast<const uint8_t*>(zero.data);
    return true;
  }

  size_t padded(int count) const { return static_cast<size_t>(round_up(count, kernels_.panel)); }

  const float* copied(const Tensor& tensor, Slice slice, float factor) {
    auto* const values = memory_.take<float>(padded(slice.rows));
    for (int i = 0; i < slice.rows; ++i) values[i] = factor * read_float(tensor, slice.first + i);
    return values;
  }

  const Tensor* find(const std::string& name) {
    const Tensor* const tensor = tensors_.find(name);
    if (tensor == nullptr) complain(name + " is missing");
    return tensor;
  }

  const Tensor* floats(const std::string& name, int64_t count) {
    const Tensor* const tensor = find(name);
    if (tensor == nullptr || (is_float(*tensor) && tensor->elements() == count)) return tensor;
    complain(name + " must be " + std::to_string(count) + " floats");
    return nullptr;
  }

  const Tensor* matrix(const std::string& name, int rows, int columns) {
    const Tensor* const tensor = find(name);
    if (tensor == nullptr) return nullptr;
    const bool shaped = tensor->rank >= 2 && tensor->dims[0] == rows && tensor->dims[1] == columns &&
                        tensor->elements() == static_cast<int64_t>(rows) * columns;
    if (shaped && (is_float(*tensor) || tensor->dtype == Dtype::I8)) return tensor;
    complain(name + " must be " + std::to_string(rows) + " x " + std::to_string(columns) + " floats or I8");
    return nullptr;
  }

  bool complain(const std::string& text) {
    trouble_ += (trouble_.empty() ? "" : ", ") + text;
    return false;
  }

  const TensorTable& tensors_;
  const Kernels& kernels_;
  Memory& memory_;
  std::string trouble_;
  std::vector<std::string> parts_ = {"norms", "copies"};
};

Layer load_layer(Loader& loader, const std::string& name, const ModelConfig& config, int tokens, int stride) {
  const int channels = config.channels, taps = stride == 0 ? 1 : 3;
  Layer layer;
  layer.tokens_in = tokens;
  layer.stride = stride;
  layer.tokens_out = stride == 0 ? tokens : (tokens + stride - 1) / stride;
  layer.mask = loader.mask(tokens);
  layer.before_attention = loader.norm(name + ".sublayer.0.norm", channels);
  layer.before_feed_forward = loader.norm(name + ".sublayer.1.norm", channels);
  // Attention's weights are powers of two here, so the logarithm goes into the queries.
  layer.query = loader.linear(name + ".self_attn.qkv", channels, {0, channels, 3 * channels}, kLog2E);
  layer.key_value = loader.linear(name + ".self_attn.qkv", channels, {channels, 2 * channels, 3 * channels}, 1);
  layer.attention_part = loader.part(name + ".self_attn");
  layer.out = loader.linear(name + ".self_attn.out", channels, channels);
  layer.w_1 = loader.linear(name + ".feed_forward.w_1", channels, config.hidden);
  layer.w_2 = loader.linear(name + ".feed_forward.w_2", taps * config.hidden, channels);
  return layer;
}

void load_layers(Loader& loader, Network& network) {
  const ModelConfig& config = network.config;
  int tokens = config.frames;
  for (int i = 0; i < config.layers; ++i) {
    const std::string name = "Transformer.model.layers." + std::to_string(i);
    network.layers.push_back(load_layer(loader, name, config, tokens, 0));
  }
  network.layers[0].positions = loader.table("Transformer.pos_embedding", tokens, config.channels, tokens);
  for (size_t i = 0; i < config.strides.size(); ++i) {
    const std::string name = "Transformer_reduce.model.layers." + std::to_string(i);
    Layer layer = load_layer(loader, name, config, tokens, config.strides[i]);
    if (i < 3) {
      const std::string table = "Transformer_reduce.model.pos_embedding_" + std::to_string(i + 1);
      layer.positions = loader.table(table, config.frames, config.channels, tokens);
    }
    tokens = layer.tokens_out;
    network.layers.push_back(layer);
  }
}

std::string unfit(const ModelConfig& config, int panel) {
  int tokens = config.frames;
  for (const int stride : config.strides) tokens = stride < 1 ? 0 : (tokens + stride - 1) / stride;
  if (config.frames < 1 || config.frames > 4096) return std::to_string(config.frames) + " frames (1 to 4096 fit)";
  if (config.strides.empty() || tokens != 1) return "strides that do not lead from all frames to one";
  if (config.layers < 1 || config.layers > 64) return std::to_string(config.layers) + " layers (1 to 64 fit)";
  if (config.joints < 1 || config.joints > 256) return std::to_string(config.joints) + " joints (1 to 256 fit)";
  if (config.heads < 1 || config.channels < 1 || config.channels > 4096 || config.channels % config.heads != 0 ||
      config.channels / config.heads % 32 != 0 || 32 % panel != 0) {
    return std::to_string(config.channels) + " channels in " + std::to_string(config.heads) +
           " heads (a head needs a multiple of 32)";
  }
  if (config.hidden < 32 || config.hidden > 16384 || config.hidden % 32 != 0) {
    return std::to_string(config.hidden) + " hidden channels (a multiple of 32 fits)";
  }
  return "";
}

}  // namespace

std::vector<int> strides_of(int frames) {
  switch (frames) {
    case 9:
      return {1, 3, 3};
    case 27:
      return {3, 3, 3};
    case 81:
      return {3, 3, 3, 3};
    case 243:
      return {3, 3, 3, 3, 3};
    case 351:
      return {3, 9, 13};
    default:
      return {};
  }
}

Result<Network> load_network(const ModelConfig& config, const TensorTable& tensors, Isa isa, Memory& memory) {
  const Largest largest = largest_weights(tensors);
  const Kernels* const kernels = find_kernels(isa, largest.of_bytes > 64 ? 8 : 7);
  if (kernels == nullptr)
    return Error{PSTMO_EDGE_STATUS_CPU_UNSUPPORTED, "this CPU lacks the instruction set asked for"};
  if (largest.of_all > 127)
    return Error{PSTMO_EDGE_STATUS_BUNDLE_FOREIGN, "an INT8 weight is -128: symmetric ones end at -127"};
  Network network;
  network.config = config;
  if (network.config.strides.empty()) network.config.strides = strides_of(config.frames);
  network.kernels = kernels;
  const std::string trouble = unfit(network.config, kernels->panel);
  if (!trouble.empty()) return Error{PSTMO_EDGE_STATUS_BUNDLE_FOREIGN, "no engine for " + trouble};

  Loader loader(tensors, *kernels, memory);
  const int channels = config.channels;
  network.fc_1 = loader.linear("encoder.fc_1", 2 * config.joints, 2 * channels);
  network.w1 = loader.linear("encoder.layers.0.w1", 2 * channels, 2 * channels);
  network.w2 = loader.linear("encoder.layers.0.w2", 2 * channels, 2 * channels);
  network.fc_2 = loader.linear("encoder.fc_2", 2 * channels, channels);
  load_layers(loader, network);
  network.head = loader.linear("fcn.1", channels, 3 * config.joints);
  if (!loader.trouble().empty()) return Error{PSTMO_EDGE_STATUS_BUNDLE_FOREIGN, "weights: " + loader.trouble()};
  network.parts = loader.parts();
  return network;
}

}  // namespace pstmo_edge
