// Matrix products. Included by the file of each instruction set, inside its namespace, after its vectors (Simd) and the
// size of its tiles: kTileRows rows by kTileVectors vectors of outputs, all sums in registers.
//
// Every output is one chain of multiply-adds over the inputs in order, whatever tile its row falls into. So a row's
// results do not depend on the rows beside it: not on batch, block or thread.
#include <utility>

#include "kernels.h"

namespace pstmo_edge {
namespace {

constexpr int kPanel = kTileVectors * Simd::kWidth;

constexpr int round_up(int value, int step) { return (value + step - 1) / step * step; }

// Floats by floats; the other paths come with the vectors.
struct FloatPath {
  using Code = float;
  using Weight = float;
  using Acc = Simd::F;
  using Pair = Simd::F;
  static constexpr int kGroup = 1;

  static int offset(int k, int column, int panel) { return k * panel + column; }
  static Pair broadcast(const Code* p) { return Simd::set(*p); }
  static Pair load(const Weight* p) { return Simd::load(p); }
  static Acc step(Acc acc, Pair a, Pair b) { return Simd::fma(a, b, acc); }
};

// What a sum starts with, and how it becomes a float.
inline Simd::F first_sum(const Linear& linear, int column, Simd::F) {
  return linear.bias == nullptr ? Simd::set(0) : Simd::load(linear.bias + column);
}
inline Simd::I first_sum(const Linear& linear, int column, Simd::I) { return Simd::load_i(linear.start + column); }
inline Simd::F to_output(Simd::F sum, const Linear&, int) { return sum; }
inline Simd::F to_output(Simd::I sum, const Linear& linear, int column) {
  return Simd::fma(Simd::to_float(sum), Simd::load(linear.scale + column), Simd::load(linear.bias + column));
}

// One vector of one row on its way out; see Out. The paths say how codes are stored.
template <class Codes>
inline void put(const Out& out, ptrdiff_t row, int column, Simd::F y) {
  if (out.residual != nullptr) y = Simd::add(y, Simd::load(out.residual + row * out.residual_stride + column));
  if (out.values != nullptr) Simd::store(out.values + row * out.values_stride + column, y);
  if (out.codes != nullptr) {
    const Simd::F scaled = Simd::mul(y, Simd::set(out.inverse));
    const ptrdiff_t at = row * out.codes_stride + column;
    if (out.codes_format == Format::Word) {  // its steps are so small that a value may have no number in 32 bits
      const Simd::F bounded = Simd::min(scaled, Simd::set(32767.0F));
      WordPath::store_codes(static_cast<int16_t*>(out.codes) + at, Simd::to_int(bounded));
    } else {
      auto* const codes = static_cast<typename Codes::Code*>(out.codes) + at;
      Codes::store_codes(codes, Simd::to_int(scaled), Simd::set_i(out.zero));
    }
  }
}

// What becomes of a product's outputs: all that Out says, or nothing but being stored as floats.
template <class Codes>
struct Finished {
  static void put_row(const Out& out, ptrdiff_t row, int column, Simd::F (&y)[kTileVectors]) {
    const Simd::F slope = Simd::set(out.slope);
#pragma GCC unroll 16
    for (int v = 0; v < kTileVectors; ++v) {
      if (out.row_scale != nullptr) y[v] = Simd::mul(y[v], Simd::set(out.row_scale[row]));
      put<Codes>(out, row, column + v * Simd::kWidth, Simd::max(y[v], Simd::mul(y[v], slope)));
    }
  }
};
struct Raw {
  static void put_row(const Out& out, ptrdiff_t row, int column, Simd::F (&y)[kTileVectors]) {
    float* const values = out.values + row * out.values_stride + column;
#pragma GCC unroll 16
    for (int v = 0; v < kTileVectors; ++v) Simd::store(values + v * Simd::kWidth, y[v]);
  }
};

// kRows rows by one panel.
template <class Path, class Sink, int kRows>
void tile(const typename Path::Code* rows, ptrdiff_t stride, const Linear& linear, int panel, ptrdiff_t row,
          const Out& out) {
  const int groups = (linear.in + Path::kGroup - 1) / Path::kGroup, column = panel * kPanel;
  const auto* weights = static_cast<const typename Path::Weight*>(linear.panels) +
                        static_cast<ptrdiff_t>(panel) * groups * Path::kGroup * kPanel;
  typename Path::Acc sums[kRows][kTileVectors];
#pragma GCC unroll 16
  for (int v = 0; v < kTileVectors; ++v) {
    const auto first = first_sum(linear, column + v * Simd::kWidth, typename Path::Acc{});
#pragma GCC unroll 16
    for (int r = 0; r < kRows; ++r) sums[r][v] = first;
  }
  for (int g = 0; g < groups; ++g) {
    typename Path::Pair b[kTileVectors];
#pragma GCC unroll 16
    for (int v = 0; v < kTileVectors; ++v) b[v] = Path::load(weights + v * Simd::kWidth * Path::kGroup);
#pragma GCC unroll 16
    for (int r = 0; r < kRows; ++r) {
      const typename Path::Pair a = Path::broadcast(rows + r * stride);
#pragma GCC unroll 16
      for (int v = 0; v < kTileVectors; ++v) sums[r][v] = Path::step(sums[r][v], a, b[v]);
    }
    weights += kPanel * Path::kGroup;
    rows += Path::kGroup;
  }
#pragma GCC unroll 16
  for (int r = 0; r < kRows; ++r) {
    Simd::F y[kTileVectors];
#pragma GCC unroll 16
    for (int v = 0; v < kTileVectors; ++v) y[v] = to_output(sums[r][v], linear, column + v * Simd::kWidth);
    Sink::put_row(out, row + r, column, y);
  }
}

// The tiles of 1 .. kTileRows rows, by their number.
template <class Path, class Sink>
struct Tiles {
  using Function = void (*)(const typename Path::Code*, ptrdiff_t, const Linear&, int, ptrdiff_t, const Out&);

  template <int... kRows>
  static constexpr Function pick(int rows, std::integer_sequence<int, kRows...>) {
    constexpr Function all[] = {tile<Path, Sink, kRows + 1>...};
    return all[rows - 1];
  }
  static Function of(int rows) { return pick(rows, std::make_integer_sequence<int, kTileRows>{}); }
};

template <class Path, class Sink>
void product_of(const typename Path::Code* rows, ptrdiff_t stride, int count, const Linear& linear, const Out& out) {
  const int panels = (linear.out + kPanel - 1) / kPanel;
  const int tiles = (count + kTileRows - 1) / kTileRows;
  for (int panel = 0; panel < panels; ++panel) {
    for (int t = 0; t < tiles; ++t) {  // tiles of nearly equal size: a last one of one row would waste its weights
      const int first = t * count / tiles, rest = (t + 1) * count / tiles - first;
      Tiles<Path, Sink>::of(rest)(rows + first * stride, stride, linear, panel, first, out);
    }
  }
}

template <class Codes>
void product(const void* rows, ptrdiff_t stride, int count, const Linear& linear, const Out& out) {
  switch (linear.format) {
    case Format::Byte:
      return product_of<Codes, Finished<Codes>>(static_cast<const typename Codes::Code*>(rows), stride, count, linear,
                                                out);
    case Format::Word:
      return product_of<WordPath, Finished<Codes>>(static_cast<const int16_t*>(rows), stride, count, linear, out);
    case Format::Float:
      return product_of<FloatPath, Finished<Codes>>(static_cast<const float*>(rows), stride, count, linear, out);
  }
}

template <class Path>
size_t packed_bytes_of(int in, int out) {
  return static_cast<size_t>(round_up(out, kPanel)) * static_cast<size_t>(round_up(in, Path::kGroup)) *
         sizeof(typename Path::Weight);
}

template <class Codes>
size_t packed_bytes(int in, int out, Format format) {
  return format == Format::Byte   ? packed_bytes_of<Codes>(in, out)
         : format == Format::Word ? packed_bytes_of<WordPath>(in, out)
                                  : packed_bytes_of<FloatPath>(in, out);
}

// Weights [out][in] into zeroed panels.
template <class Path, class Source>
void pack(const Source* weight, int in, int out, void* panels) {
  auto* const packed = static_cast<typename Path::Weight*>(panels);
  const ptrdiff_t size = static_cast<ptrdiff_t>(round_up(in, Path::kGroup)) * kPanel;
  for (int o = 0; o < out; ++o) {
    for (int k = 0; k < in; ++k) {
      packed[o / kPanel * size + Path::offset(k, o % kPanel, kPanel)] = weight[static_cast<ptrdiff_t>(o) * in + k];
    }
  }
}

// Multiply-adds on registers alone: what the products are measured against. PSTMO_EDGE_KEEP tells the compiler that
// somebody looks at a register, so that it cannot leave anything out.
template <class Path>
double peak(int iterations) {
  typename Path::Acc sums[kPeakSums];
  const typename Path::Weight weights[kPanel * Path::kGroup] = {};
  const typename Path::Code codes[4] = {};
  typename Path::Pair a = Path::broadcast(codes), b = Path::load(weights);
  PSTMO_EDGE_KEEP(a);
  PSTMO_EDGE_KEEP(b);
#pragma GCC unroll 32
  for (int i = 0; i < kPeakSums; ++i) sums[i] = typename Path::Acc{};
  for (int n = 0; n < iterations; ++n) {
#pragma GCC unroll 32
    for (int i = 0; i < kPeakSums; ++i) {
      PSTMO_EDGE_KEEP(a);  // or a step's first product would be computed once for all
      sums[i] = Path::step(sums[i], a, b);
      PSTMO_EDGE_KEEP(sums[i]);
    }
  }
  return static_cast<double>(iterations) * kPeakSums * Simd::kWidth * Path::kGroup;
}

}  // namespace
}  // namespace pstmo_edge
