// Attention of one head. Included by the file of each instruction set, after product.h.
//
// A tile of queries at a time: its scores against all tokens, their softmax, and the weighted values. The scores of a
// tile (12 x 243 floats) stay in the first cache.

namespace pstmo_edge {
namespace {

// 2 to the power of x <= 0: x = n + r with |r| <= 1/2, and a polynomial for 2^r whose relative error is at most 7.5e-8
// (Remez, degree 5). Adding a large number rounds x to an integer and leaves it in the lowest bits, from where it goes
// into the exponent. Below -126 the result is 2^-126, which no sum of weights notices.
inline Simd::F power_of_two(Simd::F x) {
  const Simd::F large = Simd::set(12582912.0F);  // 1.5 * 2^23
  x = Simd::max(x, Simd::set(-126.0F));
  const Simd::F shifted = Simd::add(x, large), r = Simd::sub(x, Simd::sub(shifted, large));
  Simd::F p = Simd::set(1.3276472e-3F);
  p = Simd::fma(p, r, Simd::set(9.675541e-3F));
  p = Simd::fma(p, r, Simd::set(5.550713e-2F));
  p = Simd::fma(p, r, Simd::set(2.402212e-1F));
  p = Simd::fma(p, r, Simd::set(6.9314694e-1F));
  p = Simd::fma(p, r, Simd::set(1.0000001F));
  return Simd::add_to_exponent(p, shifted);
}

// A row of scores to weights that still lack the division by their sum, whose inverse is returned.
inline float soften(float* scores, int padded) {
  Simd::F best = Simd::load(scores);
  for (int t = Simd::kWidth; t < padded; t += Simd::kWidth) best = Simd::max(best, Simd::load(scores + t));
  const Simd::F largest = Simd::set(Simd::largest(best));
  Simd::F sum = Simd::set(0);
  for (int t = 0; t < padded; t += Simd::kWidth) {
    const Simd::F weight = power_of_two(Simd::sub(Simd::load(scores + t), largest));
    Simd::store(scores + t, weight);
    sum = Simd::add(sum, weight);
  }
  return 1.0F / Simd::sum(sum);
}

template <class Codes>
void attention(const Attention& a, const Out& out) {
  const int padded = round_up(a.tokens, kPanel), tiles = (a.rows + kTileRows - 1) / kTileRows;
  Linear keys, values;
  keys.in = a.width, keys.out = padded, keys.panels = a.keys, keys.bias = a.mask;
  values.in = a.tokens, values.out = a.width, values.panels = a.values;
  Out scores;
  scores.values = a.scores, scores.values_stride = padded;
  for (int t = 0; t < tiles; ++t) {
    const int first = t * a.rows / tiles, count = (t + 1) * a.rows / tiles - first;
    product_of<FloatPath, Raw>(a.queries + first * a.query_stride, a.query_stride, count, keys, scores);
    float inverse_sums[kTileRows];
    for (int r = 0; r < count; ++r) inverse_sums[r] = soften(a.scores + r * padded, padded);
    Out mixed = out;
    if (mixed.values != nullptr) mixed.values += first * mixed.values_stride;
    if (mixed.codes != nullptr) {
      const ptrdiff_t bytes = mixed.codes_format == Format::Word ? sizeof(int16_t) : sizeof(typename Codes::Code);
      mixed.codes = static_cast<char*>(mixed.codes) + first * mixed.codes_stride * bytes;
    }
    mixed.row_scale = inverse_sums;
    product_of<FloatPath, Finished<Codes>>(a.scores, padded, count, values, mixed);
  }
}

// Where a token's key begins in its panel: its numbers lie kPanel apart.
inline float* key_column(float* panels, int token, int width) {
  return panels + static_cast<ptrdiff_t>(token / kPanel) * width * kPanel + token % kPanel;
}

inline void put_heads(const float* keys, ptrdiff_t stride, int first, int count, int tokens, int width,
                      ptrdiff_t values_offset, float* key_panels, float* value_panels) {
  for (int token = first; token < first + count;) {
    const float* const key = keys + (token - first) * stride;
    float* const column = key_column(key_panels, token, width);
    if (token % 4 == 0 && token + 4 <= first + count) {  // panels hold multiples of four tokens
      for (int d = 0; d < width; d += 4) transpose_four(key + d, stride, column + d * kPanel, kPanel);
      token += 4;
    } else {
      for (int d = 0; d < width; ++d) column[d * kPanel] = key[d];
      ++token;
    }
  }
  for (int token = first; token < first + count; ++token, keys += stride) {
    for (int d = 0; d < width; d += kPanel) {
      float* const row = value_panels + (static_cast<ptrdiff_t>(d / kPanel) * tokens + token) * kPanel;
      __builtin_memcpy(row, keys + values_offset + d, sizeof(float) * kPanel);
    }
  }
}

}  // namespace
}  // namespace pstmo_edge
