// Vectors of AVX-512 (F, BW, VL) with VNNI.
#include <immintrin.h>

namespace pstmo_edge {
namespace {

struct Simd {
  static constexpr int kWidth = 16;
  using F = __m512;
  using I = __m512i;

  static F load(const float* p) { return _mm512_loadu_ps(p); }
  static void store(float* p, F v) { _mm512_storeu_ps(p, v); }
  static F set(float v) { return _mm512_set1_ps(v); }
  static F add(F a, F b) { return _mm512_add_ps(a, b); }
  static F sub(F a, F b) { return _mm512_sub_ps(a, b); }
  static F mul(F a, F b) { return _mm512_mul_ps(a, b); }
  static F fma(F a, F b, F c) { return _mm512_fmadd_ps(a, b, c); }
  static F min(F a, F b) { return _mm512_min_ps(a, b); }
  static F max(F a, F b) { return _mm512_max_ps(a, b); }
  static F add_to_exponent(F v, F shifted) {
    const __m512i power = _mm512_slli_epi32(_mm512_castps_si512(shifted), 23);
    return _mm512_castsi512_ps(_mm512_add_epi32(_mm512_castps_si512(v), power));
  }
  static float sum(F v) { return _mm512_reduce_add_ps(v); }
  static float largest(F v) { return _mm512_reduce_max_ps(v); }

  static I load_i(const int32_t* p) { return _mm512_loadu_si512(p); }
  static I set_i(int32_t v) { return _mm512_set1_epi32(v); }
  static I add_i(I a, I b) { return _mm512_add_epi32(a, b); }
  static F to_float(I v) { return _mm512_cvtepi32_ps(v); }
  static I to_int(F v) { return _mm512_cvtps_epi32(v); }
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

// Two 16-bit activations by two weights into one 32-bit sum.
struct WordPath {
  using Code = int16_t;
  using Weight = int16_t;
  using Acc = __m512i;
  using Pair = __m512i;
  static constexpr int kGroup = 2;

  static int offset(int k, int column, int panel) { return (k / 2 * panel + column) * 2 + k % 2; }
  static Pair broadcast(const Code* p) {
    int32_t two;
    __builtin_memcpy(&two, p, 4);
    return _mm512_set1_epi32(two);
  }
  static Pair load(const Weight* p) { return _mm512_loadu_si512(p); }
  // In assembly for the reason below.
  static Acc step(Acc acc, Pair codes, Pair weights) {
    __asm__("vpdpwssd %2, %1, %0" : "+v"(acc) : "v"(codes), "v"(weights));
    return acc;
  }
  static void store_codes(Code* p, Simd::I v) {
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), _mm512_cvtsepi32_epi16(v));
  }
};

// Four unsigned activations by four signed weights into one 32-bit sum.
struct Int8Path {
  using Code = uint8_t;
  using Weight = int8_t;
  using Acc = __m512i;
  using Pair = __m512i;
  static constexpr int kGroup = 4;
  static constexpr bool kWideWeights = true;

  static int offset(int k, int column, int panel) { return (k / 4 * panel + column) * 4 + k % 4; }
  static Pair broadcast(const Code* p) {
    int32_t four;
    __builtin_memcpy(&four, p, 4);
    return _mm512_set1_epi32(four);
  }
  static Pair load(const Weight* p) { return _mm512_loadu_si512(p); }
  // In assembly because GCC 12 copies the sums of the intrinsic to and fro, through memory where there are many.
  static Acc step(Acc acc, Pair codes, Pair weights) {
    __asm__("vpdpbusd %2, %1, %0" : "+v"(acc) : "v"(codes), "v"(weights));
    return acc;
  }
  // Negative numbers become 0 before the conversion, which takes its input as unsigned.
  static void store_codes(Code* p, Simd::I v, Simd::I zero) {
    const __m512i clamped = _mm512_max_epi32(_mm512_add_epi32(v, zero), _mm512_setzero_si512());
    _mm_storeu_si128(reinterpret_cast<__m128i*>(p), _mm512_cvtusepi32_epi8(clamped));
  }
  static Code code_of(int32_t zero) { return static_cast<Code>(zero); }
};

}  // namespace
}  // namespace pstmo_edge
