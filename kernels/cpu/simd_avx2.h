// Vectors of AVX2 with FMA.
#include <immintrin.h>

namespace pstmo_edge {
namespace {

struct Simd {
  static constexpr int kWidth = 8;
  using F = __m256;
  using I = __m256i;

  static F load(const float* p) { return _mm256_loadu_ps(p); }
  static void store(float* p, F v) { _mm256_storeu_ps(p, v); }
  static F set(float v) { return _mm256_set1_ps(v); }
  static F add(F a, F b) { return _mm256_add_ps(a, b); }
  static F sub(F a, F b) { return _mm256_sub_ps(a, b); }
  static F mul(F a, F b) { return _mm256_mul_ps(a, b); }
  static F fma(F a, F b, F c) { return _mm256_fmadd_ps(a, b, c); }
  static F min(F a, F b) { return _mm256_min_ps(a, b); }
  static F max(F a, F b) { return _mm256_max_ps(a, b); }
  static F add_to_exponent(F v, F shifted) {
    const __m256i power = _mm256_slli_epi32(_mm256_castps_si256(shifted), 23);
    return _mm256_castsi256_ps(_mm256_add_epi32(_mm256_castps_si256(v), power));
  }
  static float sum(F v) {
    __m128 s = _mm_add_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps(v, 1));
    s = _mm_add_ps(s, _mm_movehl_ps(s, s));
    return _mm_cvtss_f32(_mm_add_ss(s, _mm_movehdup_ps(s)));
  }
  static float largest(F v) {
    __m128 s = _mm_max_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps(v, 1));
    s = _mm_max_ps(s, _mm_movehl_ps(s, s));
    return _mm_cvtss_f32(_mm_max_ss(s, _mm_movehdup_ps(s)));
  }

  static I load_i(const int32_t* p) { return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)); }
  static I set_i(int32_t v) { return _mm256_set1_epi32(v); }
  static I add_i(I a, I b) { return _mm256_add_epi32(a, b); }
  static F to_float(I v) { return _mm256_cvtepi32_ps(v); }
  static I to_int(F v) { return _mm256_cvtps_epi32(v); }
};

inline void transpose_four(const float* in, ptrdiff_t in_stride, float* out, ptrdiff_t out_stride) {
  __m128 a = _mm_loadu_ps(in), b = _mm_loadu_ps(in + in_stride);
  __m128 c = _mm_loadu_ps(in + 2 * in_stride), d = _mm_loadu_ps(in + 3 * in_stride);
  _MM_TRANSPOSE4_PS(a, b, c, d);
  _mm_storeu_ps(out, a);
  _mm_storeu_ps(out + out_stride, b);
  _mm_storeu_ps(out + 2 * out_stride, c);
  _mm_storeu_ps(out + 3 * out_stride, d);
}

// What both ways below share: eight 32-bit numbers to eight 16-bit ones between 0 and 255.
inline __m128i clamp_to_byte(__m256i v) {
  const __m256i clamped = _mm256_min_epi32(_mm256_max_epi32(v, _mm256_setzero_si256()), _mm256_set1_epi32(255));
  return _mm_packus_epi32(_mm256_castsi256_si128(clamped), _mm256_extracti128_si256(clamped, 1));
}

inline __m256i broadcast_32(const void* p) {
  int32_t bits;
  __builtin_memcpy(&bits, p, 4);
  return _mm256_set1_epi32(bits);
}

// VPMADDUBSW adds two products in 16 bits and saturates there, so no weight may exceed 64: 2 * 255 * 64 < 32768.
struct Int8Path {
  using Code = uint8_t;
  using Weight = int8_t;
  using Acc = __m256i;
  using Pair = __m256i;
  static constexpr int kGroup = 4;
  static constexpr bool kWideWeights = false;

  static int offset(int k, int column, int panel) { return (k / 4 * panel + column) * 4 + k % 4; }
  static Pair broadcast(const Code* p) { return broadcast_32(p); }
  static Pair load(const Weight* p) { return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)); }
  static Acc step(Acc acc, Pair codes, Pair weights) {
    const __m256i pairs = _mm256_maddubs_epi16(codes, weights);
    return _mm256_add_epi32(acc, _mm256_madd_epi16(pairs, _mm256_set1_epi16(1)));
  }
  static void store_codes(Code* p, Simd::I v, Simd::I zero) {
    const __m128i words = clamp_to_byte(_mm256_add_epi32(v, zero));
    _mm_storel_epi64(reinterpret_cast<__m128i*>(p), _mm_packus_epi16(words, words));
  }
  static Code code_of(int32_t zero) { return static_cast<Code>(zero); }
};

// Weights and activations in 16 bits: VPMADDWD adds two products in 32 bits, whatever the weights are.
struct WordPath {
  using Code = int16_t;
  using Weight = int16_t;
  using Acc = __m256i;
  using Pair = __m256i;
  static constexpr int kGroup = 2;

  static int offset(int k, int column, int panel) { return (k / 2 * panel + column) * 2 + k % 2; }
  static Pair broadcast(const Code* p) { return broadcast_32(p); }
  static Pair load(const Weight* p) { return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)); }
  static Acc step(Acc acc, Pair codes, Pair weights) {
    return _mm256_add_epi32(acc, _mm256_madd_epi16(codes, weights));
  }
  static void store_codes(Code* p, Simd::I v) {
    const __m128i words = _mm_packs_epi32(_mm256_castsi256_si128(v), _mm256_extracti128_si256(v, 1));
    _mm_storeu_si128(reinterpret_cast<__m128i*>(p), words);
  }
};

// 8-bit activations in the same way, for weights beyond 64.
struct Int8WidePath : WordPath {
  static constexpr bool kWideWeights = true;

  static void store_codes(Code* p, Simd::I v, Simd::I zero) {
    _mm_storeu_si128(reinterpret_cast<__m128i*>(p), clamp_to_byte(_mm256_add_epi32(v, zero)));
  }
  static Code code_of(int32_t zero) { return static_cast<Code>(zero); }
};

}  // namespace
}  // namespace pstmo_edge
