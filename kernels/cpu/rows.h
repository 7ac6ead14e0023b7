// What is done to one row at a time. Included by the file of each instruction set, after product.h.

namespace pstmo_edge {
namespace {

// `epsilon` is under the root and the deviation the biased one. Channels are whole vectors.
template <class Codes>
void layer_norm(const float* rows, ptrdiff_t stride, int count, int channels, const float* gain, const float* bias,
                float epsilon, const Out& out) {
  const float share = 1.0F / static_cast<float>(channels);
  for (int r = 0; r < count; ++r, rows += stride) {
    Simd::F sum = Simd::set(0), squares = Simd::set(0);
    for (int c = 0; c < channels; c += Simd::kWidth) sum = Simd::add(sum, Simd::load(rows + c));
    const Simd::F mean = Simd::set(Simd::sum(sum) * share);
    for (int c = 0; c < channels; c += Simd::kWidth) {
      const Simd::F away = Simd::sub(Simd::load(rows + c), mean);
      squares = Simd::fma(away, away, squares);
    }
    const Simd::F scale = Simd::set(1.0F / __builtin_sqrtf(Simd::sum(squares) * share + epsilon));
    for (int c = 0; c < channels; c += Simd::kWidth) {
      const Simd::F away = Simd::mul(Simd::sub(Simd::load(rows + c), mean), scale);
      put<Codes>(out, r, c, Simd::fma(away, Simd::load(gain + c), Simd::load(bias + c)));
    }
  }
}

// Rows as they are to wherever `out` says.
template <class Codes>
void convert(const float* rows, ptrdiff_t stride, int count, int channels, const Out& out) {
  for (int r = 0; r < count; ++r, rows += stride) {
    for (int c = 0; c < channels; c += Simd::kWidth) put<Codes>(out, r, c, Simd::load(rows + c));
  }
}

template <class Codes>
void clear_codes(void* codes, int count, int32_t zero) {
  for (int i = 0; i < count; ++i) static_cast<typename Codes::Code*>(codes)[i] = Codes::code_of(zero);
}

}  // namespace
}  // namespace pstmo_edge
