#include "standin_ops.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <sstream>

#include "../../kernels/cuda/half.h"

namespace pstmo_edge {
namespace standin {
namespace {

using Row = std::vector<float>;

enum class Type { Int8, Half, Bf16, Float };

Type type_of(const std::string& name) {
  if (name == "*i8") return Type::Int8;
  if (name == "*fp16") return Type::Half;
  return name == "*bf16" ? Type::Bf16 : Type::Float;
}

// bf16 is the upper half of a float.
uint16_t bf16_of(float x) {
  uint32_t bits;
  std::memcpy(&bits, &x, sizeof bits);
  return static_cast<uint16_t>((bits + 32767 + (bits >> 16 & 1)) >> 16);
}

float float_of_bf16(uint16_t half) {
  const uint32_t bits = uint32_t{half} << 16;
  float value;
  std::memcpy(&value, &bits, sizeof value);
  return value;
}

// An array in memory; a place outside of it is remembered instead of read or written.
class View {
 public:
  View() = default;
  View(const Argument& argument, const Value& value, bool* outside)
      : type_(type_of(argument.type)),
        base_(reinterpret_cast<char*>(static_cast<uintptr_t>(value.address))),
        elements_(value.elements),
        outside_(outside) {}

  bool exists() const { return base_ != nullptr; }
  bool is_int8() const { return type_ == Type::Int8; }

  float at(int64_t i) const {
    switch (type_) {
      case Type::Int8:
        return read<int8_t>(i);
      case Type::Half:
        return cuda::float_of(read<cuda::Half>(i));
      case Type::Bf16:
        return float_of_bf16(read<uint16_t>(i));
      default:
        return read<float>(i);
    }
  }

  int32_t bits(int64_t i) const { return read<int32_t>(i); }

  void put(int64_t i, float value) const {
    switch (type_) {
      case Type::Half:
        return write(i, cuda::half_of(value));
      case Type::Bf16:
        return write(i, bf16_of(value));
      default:
        return write(i, value);
    }
  }

  float narrowed(float value) const {
    if (type_ == Type::Half) return cuda::float_of(cuda::half_of(value));
    return type_ == Type::Bf16 ? float_of_bf16(bf16_of(value)) : value;
  }

 private:
  bool inside(int64_t i) const {
    const bool good = i >= 0 && static_cast<size_t>(i) < elements_;
    if (!good) *outside_ = true;
    return good;
  }

  template <typename T>
  T read(int64_t i) const {
    T value{};
    if (inside(i)) std::memcpy(&value, base_ + static_cast<int64_t>(sizeof value) * i, sizeof value);
    return value;
  }

  template <typename T>
  void write(int64_t i, T value) const {
    if (inside(i)) std::memcpy(base_ + static_cast<int64_t>(sizeof value) * i, &value, sizeof value);
  }

  Type type_ = Type::Float;
  char* base_ = nullptr;
  size_t elements_ = 0;
  bool* outside_ = nullptr;
};

class Program {
 public:
  explicit Program(const Call& call) : call_(call) {}

  std::string run() {
    const std::string& entry = call_.source->entry;
    for (unsigned z = 0; z < call_.grid[2]; ++z) {
      for (unsigned y = 0; y < call_.grid[1]; ++y) {
        for (unsigned x = 0; x < call_.grid[0]; ++x) {
          const int64_t ids[] = {x, y, z};
          if (entry == "spatial_encoder") spatial_encoder(ids[0]);
          if (entry == "norm_linear") norm_linear(ids[0], ids[1]);
          if (entry == "attention") attention(ids[0], ids[1], ids[2]);
          if (entry == "feed_forward") feed_forward(ids[0]);
        }
      }
    }
    return outside_ ? "it went outside of an array" : "";
  }

 private:
  int constant(const char* name) const { return call_.source->constants.at(name); }

  size_t place(const std::string& name) const {
    const auto& all = call_.source->arguments;
    return static_cast<size_t>(
        std::find_if(all.begin(), all.end(), [&](const Argument& each) { return each.name == name; }) - all.begin());
  }
  bool has(const std::string& name) const { return place(name) < call_.values.size(); }
  int64_t count(const char* name) const { return call_.values[place(name)].count; }
  View view(const std::string& name) {
    const size_t i = place(name);
    return i == call_.values.size() ? View() : View(call_.source->arguments[i], call_.values[i], &outside_);
  }

  // Outputs [first, last) of a product; weights lie at (n, k) = n * stride + start + k.
  Row multiply(const Row& x, const std::string& number, int first, int last, int64_t stride, int64_t start, Row sums) {
    const View w = view("w" + number + "_ptr"), grid = view("g" + number + "_ptr");
    const int inner = static_cast<int>(x.size());
    Row operand(x.size());
    for (size_t k = 0; k < x.size(); ++k) {
      if (!w.is_int8()) {
        operand[k] = w.narrowed(x[k]);
        continue;
      }
      const float scale = grid.at(0), zero = grid.at(1);
      const float code = std::min(std::max(x[k] / scale, -zero), 255.0f - zero);
      operand[k] = std::nearbyint(code) + (zero - 128.0f);
    }
    for (int n = first; n < last; ++n) {
      double sum = sums[static_cast<size_t>(n - first)];
      for (int k = 0; k < inner; ++k) {
        sum += static_cast<double>(operand[static_cast<size_t>(k)]) * static_cast<double>(w.at(n * stride + start + k));
      }
      sums[static_cast<size_t>(n - first)] = static_cast<float>(sum);
    }
    return sums;
  }

  // Sums to values; `columns` is how many outputs the whole product has.
  Row finished(Row sums, const std::string& number, int first, int columns) {
    const View w = view("w" + number + "_ptr"), bias = view("b" + number + "_ptr"), grid = view("g" + number + "_ptr");
    for (size_t i = 0; i < sums.size(); ++i) {
      const int64_t n = first + static_cast<int64_t>(i);
      if (w.is_int8()) sums[i] = (sums[i] - static_cast<float>(grid.bits(4 + columns + n))) * grid.at(4 + n);
      sums[i] += bias.at(n);
    }
    return sums;
  }

  Row linear(const Row& x, const std::string& number, int first, int last, int columns) {
    const Row zeros(static_cast<size_t>(last - first));
    const Row sums = multiply(x, number, first, last, static_cast<int64_t>(x.size()), 0, zeros);
    return finished(sums, number, first, columns);
  }

  Row normed(const Row& x, const View& norm, float eps) const {
    double mean = 0, variance = 0;
    for (const float each : x) mean += static_cast<double>(each);
    mean /= static_cast<double>(x.size());
    for (const float each : x) variance += (static_cast<double>(each) - mean) * (static_cast<double>(each) - mean);
    variance /= static_cast<double>(x.size());
    const double scale = 1 / std::sqrt(variance + static_cast<double>(eps));
    Row y(x.size());
    for (size_t c = 0; c < x.size(); ++c) {
      const auto at = static_cast<int64_t>(c), size = static_cast<int64_t>(x.size());
      y[c] = static_cast<float>((static_cast<double>(x[c]) - mean) * scale) * norm.at(at) + norm.at(size + at);
    }
    return y;
  }

  Row read(const View& from, int64_t start, int size) const {
    Row row(static_cast<size_t>(size));
    for (int i = 0; i < size; ++i) row[static_cast<size_t>(i)] = from.at(start + i);
    return row;
  }

  void write(const View& to, int64_t start, const Row& row) const {
    for (size_t i = 0; i < row.size(); ++i) to.put(start + static_cast<int64_t>(i), row[i]);
  }

  template <typename Body>
  void for_rows(int64_t block, Body body) {
    const int64_t each = constant("BLOCK_M"), rows = count("rows");
    for (int64_t row = block * each; row < std::min((block + 1) * each, rows); ++row) body(row);
  }

  static void leaky(Row& row) {
    for (float& x : row) x = x > 0 ? x : 0.2f * x;
  }

  void spatial_encoder(int64_t block) {
    const int inputs = constant("INPUTS"), hidden = constant("HIDDEN"), channels = constant("CHANNELS");
    const View x = view("x_ptr"), position = view("position_ptr"), out = view("out_ptr");
    for_rows(block, [&](int64_t row) {
      Row first = linear(read(x, row * inputs, inputs), "1", 0, hidden, hidden);
      leaky(first);
      Row second = linear(first, "2", 0, hidden, hidden);
      leaky(second);
      Row third = linear(second, "3", 0, hidden, hidden);
      leaky(third);
      for (size_t i = 0; i < third.size(); ++i) third[i] += out.narrowed(first[i]);
      Row y = linear(third, "4", 0, channels, channels);
      const int64_t frame = row % count("frames");
      for (size_t i = 0; i < y.size(); ++i) y[i] += position.at(frame * channels + static_cast<int64_t>(i));
      write(out, row * channels, y);
    });
  }

  void norm_linear(int64_t block, int64_t slice) {
    const int channels = constant("CHANNELS"), columns = constant("COLUMNS"), span = constant("SPAN");
    const View x = view("x_ptr"), norm = view("norm_ptr"), out = view("out_ptr");
    const int first = static_cast<int>(slice) * span, last = std::min(first + span, columns);
    if (first >= columns) outside_ = true;
    for_rows(block, [&](int64_t row) {
      Row tokens = read(x, row * channels, channels);
      if (constant("NORM") != 0) tokens = normed(tokens, norm, eps());
      write(out, row * columns + first, linear(tokens, "", first, last, columns));
    });
  }

  void attention(int64_t group, int64_t block, int64_t head) {
    const int heads = constant("HEADS"), width = constant("WIDTH"), pack = constant("PACK");
    const int64_t channels = int64_t{heads} * width, tokens = count("tokens"), windows = count("windows");
    const View qkv = view("qkv_ptr"), out = view("out_ptr");
    const int64_t length = std::min<int64_t>(windows - group * pack, pack) * tokens, base = group * pack * tokens;
    const int64_t each = constant("BLOCK_Q");
    if (head >= heads || length <= 0) outside_ = true;
    for (int64_t q = block * each; q < std::min((block + 1) * each, length); ++q) {
      // Whole windows where they are packed; otherwise `length` is one window's tokens.
      const int64_t begin = q / tokens * tokens, end = begin + tokens;
      std::vector<double> shares;
      double highest = -1e30, total = 0;
      for (int64_t k = begin; k < end; ++k) {
        double score = 0;
        for (int64_t c = head * width; c < (head + 1) * width; ++c) {
          score += static_cast<double>(qkv.at((base + q) * 3 * channels + c)) *
                   static_cast<double>(qkv.at((base + k) * 3 * channels + channels + c));
        }
        shares.push_back(score);
        highest = std::max(highest, score);
      }
      for (double& share : shares) share = std::exp(share - highest), total += share;
      for (int64_t c = head * width; c < (head + 1) * width; ++c) {
        double mixed = 0;
        for (int64_t k = begin; k < end; ++k) {
          mixed += shares[static_cast<size_t>(k - begin)] *
                   static_cast<double>(qkv.at((base + k) * 3 * channels + 2 * channels + c));
        }
        out.put((base + q) * channels + c, static_cast<float>(mixed / total));
      }
    }
  }

  void feed_forward(int64_t block) {
    const int channels = constant("CHANNELS"), hidden = constant("HIDDEN"), taps = constant("TAPS");
    const View x = view("x_ptr"), mixed = view("mixed_ptr"), norm = view("norm_ptr"), position = view("position_ptr");
    const View out = view("out_ptr");
    const int64_t tokens = count("tokens"), kept = count("kept"), stride = count("stride");
    for_rows(block, [&](int64_t row) {
      const int64_t window = row / kept, place = row % kept;
      Row sums(static_cast<size_t>(channels)), residual;
      for (int tap = 0; tap < taps; ++tap) {
        const int64_t token = place * stride + tap - taps / 2;
        if (token < 0 || token >= tokens) {
          // Zeros, which 8-bit codes hold less 128.
          sums =
              multiply(Row(static_cast<size_t>(hidden)), "2", 0, channels, int64_t{taps} * hidden, tap * hidden, sums);
          continue;
        }
        const int64_t start = (window * tokens + token) * channels;
        Row after = linear(read(mixed, start, channels), "0", 0, channels, channels);
        for (int c = 0; c < channels; ++c) after[static_cast<size_t>(c)] += x.at(start + c);
        if (tap == taps / 2) residual = after;
        Row wide = linear(normed(after, norm, eps()), "1", 0, hidden, hidden);
        for (float& each : wide) each = std::max(each, 0.0f);
        sums = multiply(wide, "2", 0, channels, int64_t{taps} * hidden, tap * hidden, sums);
      }
      Row y = finished(sums, "2", 0, channels);
      for (int c = 0; c < channels; ++c) {
        y[static_cast<size_t>(c)] += residual[static_cast<size_t>(c)];
        if (position.exists()) y[static_cast<size_t>(c)] += position.at(place * channels + c);
      }
      write(out, row * channels, y);
    });
  }

  float eps() const { return call_.values[place("eps")].number; }

  const Call& call_;
  bool outside_ = false;
};

}  // namespace

bool parse_source(const char* text, Source& source) {
  if (std::strncmp(text, "standin", 7) != 0) return false;
  std::istringstream in(text);
  std::string word;
  in >> word >> source.entry >> source.threads >> source.shared_bytes;
  while (in >> word) {
    if (word == "argument") {
      source.arguments.emplace_back();
      in >> source.arguments.back().name >> source.arguments.back().type;
    } else {
      std::string name;
      in >> name;
      in >> source.constants[name];
    }
  }
  return true;
}

std::string compute(const Call& call) { return Program(call).run(); }

}  // namespace standin
}  // namespace pstmo_edge
