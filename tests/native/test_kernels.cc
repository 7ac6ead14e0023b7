// Every instruction set's kernels that this CPU has against plain loops in double precision: sums of integers to the
// bit.
#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <cstring>
#include <random>
#include <string>
#include <vector>

#include "../../kernels/cpu/kernels.h"
#include "check.h"

namespace {

using pstmo_edge::Format;
using pstmo_edge::Isa;
using pstmo_edge::Kernels;
using pstmo_edge::Linear;
using pstmo_edge::Out;

std::mt19937 generator(7);

std::vector<float> numbers(size_t count, float size = 1) {
  std::uniform_real_distribution<float> draw(-size, size);
  std::vector<float> values(count);
  for (float& value : values) value = draw(generator);
  return values;
}

size_t padded(const Kernels& kernels, int count) {
  return static_cast<size_t>((count + kernels.panel - 1) / kernels.panel * kernels.panel);
}

bool close(double found, double expected, double scale = 1) { return std::fabs(found - expected) <= 2e-5 * scale; }

// Codes as the numbers that they stand for: 0 .. 255, or of 16 bits.
int code_at(const Kernels& kernels, Format format, const void* codes, size_t i) {
  if (kernels.bytes_of(format) == 2) return static_cast<const int16_t*>(codes)[i];
  if (kernels.code_shift != 0) return static_cast<const int8_t*>(codes)[i] + kernels.code_shift;
  return static_cast<const uint8_t*>(codes)[i];
}

int expected_code(Format format, float value, float inverse, int zero) {
  const double code = std::nearbyint(static_cast<double>(value * inverse)) + zero;
  const double low = format == Format::Byte ? 0 : -32768, high = format == Format::Byte ? 255 : 32767;
  return static_cast<int>(std::fmin(std::fmax(code, low), high));
}

// Rows, weights and biases of a float product, its outputs by plain loops, and what the kernels make of them.
void check_float_product(const Kernels& kernels, int rows, int in, int out) {
  const size_t width = padded(kernels, out), r_in = static_cast<size_t>(in);
  const std::vector<float> x = numbers(static_cast<size_t>(rows) * r_in), w = numbers(static_cast<size_t>(out) * r_in);
  std::vector<float> bias = numbers(width), residual = numbers(static_cast<size_t>(rows) * width);
  std::vector<uint8_t> panels(kernels.packed_bytes(in, out, Format::Float));
  kernels.pack_float(w.data(), in, out, panels.data());
  Linear linear;
  linear.in = in, linear.out = out, linear.panels = panels.data(), linear.bias = bias.data();
  std::vector<float> y(static_cast<size_t>(rows) * width), alone(width);
  Out to;
  to.values = y.data(), to.values_stride = static_cast<ptrdiff_t>(width), to.slope = 0.2F;
  to.residual = residual.data(), to.residual_stride = static_cast<ptrdiff_t>(width);
  kernels.product(x.data(), in, rows, linear, to);
  for (int r = 0; r < rows; ++r) {
    for (int o = 0; o < out; ++o) {
      const size_t at = static_cast<size_t>(r) * width + static_cast<size_t>(o);
      double sum = bias[static_cast<size_t>(o)];
      for (size_t k = 0; k < r_in; ++k) {
        sum += static_cast<double>(x[static_cast<size_t>(r) * r_in + k]) * w[static_cast<size_t>(o) * r_in + k];
      }
      sum = (sum > 0 ? sum : 0.2 * sum) + residual[at];
      CHECK(close(y[at], sum, 1 + in / 64.0));
    }
    // A row alone has the bits that it has among others.
    to.values = alone.data(), to.residual = residual.data() + static_cast<size_t>(r) * width;
    kernels.product(x.data() + static_cast<size_t>(r) * r_in, in, 1, linear, to);
    CHECK(std::memcmp(alone.data(), y.data() + static_cast<size_t>(r) * width, sizeof(float) * width) == 0);
    to.values = y.data(), to.residual = residual.data();
  }
}

// Codes of some numbers; 0.5 and the like are rounded to even, what is beyond the ends is clamped.
std::vector<uint8_t> codes_of(const Kernels& kernels, Format format, const std::vector<float>& values, int count,
                              float inverse, int zero) {
  std::vector<uint8_t> codes(static_cast<size_t>(count * kernels.bytes_of(format)));
  Out out;
  out.codes = codes.data(), out.codes_stride = count, out.inverse = inverse, out.zero = zero;
  out.codes_format = format;
  kernels.convert(values.data(), count, 1, count, out);
  return codes;
}

void check_codes(const Kernels& kernels) {
  std::vector<float> values = numbers(96, 400);
  const float edges[] = {0.5F, 1.5F,   -0.5F,  -1.5F,    2.5F,     254.5F,   255.5F,    1e9F,     -1e9F,
                         0.0F, 127.5F, 128.5F, 32766.5F, 32767.5F, 32768.5F, -32767.5F, -32768.5F};
  std::memcpy(values.data(), edges, sizeof(edges));
  const auto check = [&](Format format, float inverse, int zero) {
    const std::vector<uint8_t> codes = codes_of(kernels, format, values, 96, inverse, zero);
    for (size_t i = 0; i < values.size(); ++i) {
      CHECK(code_at(kernels, format, codes.data(), i) == expected_code(format, values[i], inverse, zero));
    }
  };
  for (const float inverse : {1.0F, 0.37F, 123.0F}) check(Format::Word, inverse, 0);
  for (const int zero : {0, 3, 128, 255}) {
    for (const float inverse : {1.0F, 0.37F}) check(Format::Byte, inverse, zero);
    std::vector<uint8_t> cleared(static_cast<size_t>(64 * kernels.code_bytes));
    kernels.clear_codes(cleared.data(), 64, zero);
    for (size_t i = 0; i < 64; ++i) CHECK(code_at(kernels, Format::Byte, cleared.data(), i) == zero);
  }
}

// Weights and inputs of an integer product: drawn at random, or the worst that a sum must bear.
struct Integers {
  std::vector<int8_t> weights;  // [out][in]
  std::vector<float> inputs;    // [rows][stride], less the zero point
  int zero;
};

Integers draw_integers(const Kernels& kernels, Format format, int rows, int in, int stride, int out, bool worst) {
  const bool byte = format == Format::Byte;
  const int limit = !byte || kernels.wide_weights ? 127 : 64, zero = byte && !worst ? 77 : 0;
  std::uniform_int_distribution<int> weight(-limit, limit);
  std::uniform_int_distribution<int> code(byte ? -zero : -32768, byte ? 255 - zero : 32767);
  Integers drawn{{}, {}, zero};
  for (int o = 0; o < out; ++o) {
    int spare = byte ? limit * in : pstmo_edge::kMostWordWeights;  // what is left for this output's magnitudes
    for (int k = 0; k < in; ++k) {
      const int wanted = worst ? (o % 2 != 0 ? limit : -limit) : weight(generator);
      const int made = std::max(-spare, std::min(spare, wanted));
      drawn.weights.push_back(static_cast<int8_t>(made));
      spare -= std::abs(made);
    }
  }
  for (int i = 0; i < rows * stride; ++i) {
    drawn.inputs.push_back(static_cast<float>(worst ? (byte ? 255 : -32768) : code(generator)));
  }
  return drawn;
}

// An integer product whose outputs are its sums: exact, at the worst that the weights may be too.
void check_integer_product(const Kernels& kernels, Format format, int rows, int in, int out, bool worst) {
  const size_t width = padded(kernels, out), r_in = static_cast<size_t>(in);
  const size_t stride = (r_in + 15) / 16 * 16;  // whole vectors, as convert wants them
  const Integers drawn = draw_integers(kernels, format, rows, in, static_cast<int>(stride), out, worst);
  const std::vector<int8_t>& w = drawn.weights;
  const std::vector<float>& x = drawn.inputs;
  std::vector<uint8_t> panels(kernels.packed_bytes(in, out, format));
  (format == Format::Byte ? kernels.pack_int8 : kernels.pack_word)(w.data(), in, out, panels.data());
  std::vector<float> scale(width, 1), bias(width, 0), y(static_cast<size_t>(rows) * width);
  std::vector<int32_t> start(width, 0);
  for (size_t o = 0; format == Format::Byte && o < static_cast<size_t>(out); ++o) {
    for (size_t k = 0; k < r_in; ++k) start[o] -= (drawn.zero - kernels.code_shift) * w[o * r_in + k];
  }
  Linear linear;
  linear.in = in, linear.out = out, linear.format = format, linear.panels = panels.data();
  linear.scale = scale.data(), linear.bias = bias.data(), linear.start = start.data();
  const std::vector<uint8_t> codes = codes_of(kernels, format, x, rows * static_cast<int>(stride), 1, drawn.zero);
  Out to;
  to.values = y.data(), to.values_stride = static_cast<ptrdiff_t>(width);
  kernels.product(codes.data(), static_cast<ptrdiff_t>(stride), rows, linear, to);
  for (size_t r = 0; r < static_cast<size_t>(rows); ++r) {
    for (size_t o = 0; o < static_cast<size_t>(out); ++o) {
      int64_t sum = 0;
      for (size_t k = 0; k < r_in; ++k) sum += static_cast<int64_t>(x[r * stride + k]) * w[o * r_in + k];
      CHECK(y[r * width + o] == static_cast<float>(sum));
    }
  }
}

void check_norm(const Kernels& kernels) {
  constexpr int kChannels = 256, kRows = 5;
  const std::vector<float> x = numbers(kRows * kChannels, 3), gain = numbers(kChannels), bias = numbers(kChannels);
  std::vector<float> y(kRows * kChannels);
  Out to;
  to.values = y.data(), to.values_stride = kChannels;
  kernels.layer_norm(x.data(), kChannels, kRows, kChannels, gain.data(), bias.data(), 1e-12F, to);
  for (size_t r = 0; r < kRows; ++r) {
    double mean = 0, squares = 0;
    for (size_t c = 0; c < kChannels; ++c) mean += x[r * kChannels + c] / double{kChannels};
    for (size_t c = 0; c < kChannels; ++c) squares += std::pow(x[r * kChannels + c] - mean, 2) / kChannels;
    for (size_t c = 0; c < kChannels; ++c) {
      CHECK(close(y[r * kChannels + c], (x[r * kChannels + c] - mean) / std::sqrt(squares) * gain[c] + bias[c]));
    }
  }
}

// `size`: of the scores; large ones leave a single token, and the others' weights must vanish, not overflow.
void check_attention(const Kernels& kernels, int rows, int tokens, float size) {
  constexpr int kWidth = 32, kStride = 40;
  const size_t slots = padded(kernels, tokens), count = static_cast<size_t>(tokens);
  const std::vector<float> q = numbers(static_cast<size_t>(rows) * kStride, size);
  const std::vector<float> kv = numbers(count * 2 * kWidth);
  std::vector<float> keys(slots * kWidth), values(count * kWidth), mask(slots, 0);
  std::vector<float> scores(static_cast<size_t>(kernels.max_rows) * slots), y(static_cast<size_t>(rows) * kWidth);
  for (size_t t = count; t < slots; ++t) mask[t] = pstmo_edge::kNoToken;
  kernels.put_heads(kv.data(), 2 * kWidth, 0, tokens, tokens, kWidth, kWidth, keys.data(), values.data());
  const pstmo_edge::Attention attention{q.data(),    kStride,       rows,        tokens,       kWidth,
                                        keys.data(), values.data(), mask.data(), scores.data()};
  Out to;
  to.values = y.data(), to.values_stride = kWidth;
  kernels.attention(attention, to);
  for (size_t r = 0; r < static_cast<size_t>(rows); ++r) {
    std::vector<double> weights(count);
    double largest = -1e300, sum = 0;
    for (size_t t = 0; t < count; ++t) {
      weights[t] = 0;
      for (size_t d = 0; d < kWidth; ++d) weights[t] += double{q[r * kStride + d]} * kv[t * 2 * kWidth + d];
      largest = std::fmax(largest, weights[t]);
    }
    for (double& weight : weights) sum += weight = std::exp2(weight - largest);
    for (size_t d = 0; d < kWidth; ++d) {
      double mixed = 0;
      for (size_t t = 0; t < count; ++t) mixed += weights[t] / sum * kv[t * 2 * kWidth + kWidth + d];
      CHECK(close(y[r * kWidth + d], mixed, 1 + size / 4));
    }
  }
}

void check_all(const Kernels& kernels) {
  const int before = checks_failed;
  for (const int rows : {1, 2, 5, 12, 13, 31}) {
    for (const int in : {34, 243, 256}) check_float_product(kernels, rows, in, rows == 5 ? 51 : 96);
    for (const Format format : {Format::Byte, Format::Word}) {
      for (const int in : {34, 256, 1536}) check_integer_product(kernels, format, rows, in, rows == 5 ? 51 : 96, false);
      check_integer_product(kernels, format, rows, 516, 64, true);
    }
    for (const int tokens : {1, 9, 27, 32, 81, 243}) check_attention(kernels, rows, tokens, 2);
    check_attention(kernels, rows, 27, 500);
  }
  check_codes(kernels);
  check_norm(kernels);
  CHECK(kernels.peak_float(10) > 0 && kernels.peak_int8(10) > 0 && kernels.peak_word(10) > 0);
  std::printf("%s: %s\n", kernels.name, checks_failed == before ? "right" : "WRONG");
}

}  // namespace

int main() {
  for (const Isa isa : {Isa::Portable, Isa::Avx2, Isa::Avx512, Isa::Neon, Isa::NeonDotprod}) {
    const Kernels* last = nullptr;
    for (const int bits : {7, 8}) {
      const Kernels* const kernels = pstmo_edge::find_kernels(isa, bits);
      if (kernels != nullptr && kernels != last) check_all(*kernels);
      CHECK(kernels == nullptr || bits == 7 || kernels->wide_weights);
      last = kernels;
    }
  }
  CHECK(pstmo_edge::find_kernels(Isa::Auto, 8) != nullptr);
  return check_result();
}
