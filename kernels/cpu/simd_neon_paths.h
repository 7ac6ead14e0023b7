// The two ways to multiply bytes on Arm; the file that includes this says which with PSTMO_EDGE_DOTPROD. And the one
// way to multiply 16-bit activations, which is as fast as floats.

namespace pstmo_edge {
namespace {

// SMLAL.
struct WordPath {
  using Code = int16_t;
  using Weight = int16_t;
  using Acc = int32x4_t;
  using Pair = int16x4_t;
  static constexpr int kGroup = 1;

  static int offset(int k, int column, int panel) { return k * panel + column; }
  static Pair broadcast(const Code* p) { return vdup_n_s16(*p); }
  static Pair load(const Weight* p) { return vld1_s16(p); }
  static Acc step(Acc acc, Pair codes, Pair weights) { return vmlal_s16(acc, weights, codes); }
  static void store_codes(Code* p, Simd::I v) { vst1_s16(p, vqmovn_s32(v)); }
};

#if defined(PSTMO_EDGE_DOTPROD)

// SDOT: four products into one 32-bit sum.
struct Int8Path {
  using Code = int8_t;
  using Weight = int8_t;
  using Acc = int32x4_t;
  using Pair = int8x16_t;
  static constexpr int kGroup = 4;
  static constexpr bool kWideWeights = true;

  static int offset(int k, int column, int panel) { return (k / 4 * panel + column) * 4 + k % 4; }
  static Pair broadcast(const Code* p) {
    int32_t four;
    __builtin_memcpy(&four, p, 4);
    return vreinterpretq_s8_s32(vdupq_n_s32(four));
  }
  static Pair load(const Weight* p) { return vld1q_s8(p); }
  static Acc step(Acc acc, Pair codes, Pair weights) { return vdotq_s32(acc, weights, codes); }
  static void store_codes(Code* p, Simd::I v, Simd::I zero) { store_shifted(p, v, zero); }
  static Code code_of(int32_t zero) { return static_cast<Code>(zero - kCodeShift); }
};

#else

// SMULL, SMLAL and SADALP: two products meet in 16 bits, which no weight but -128 can overflow, and four in 32 bits.
struct Int8Path {
  using Code = int8_t;
  using Weight = int8_t;
  using Acc = int32x4_t;
  using Pair = int8x16_t;
  static constexpr int kGroup = 4;
  static constexpr bool kWideWeights = true;

  // Of four inputs the first two lie before the last two, four columns at a time.
  static int offset(int k, int column, int panel) {
    return (k / 4 * panel + column / 4 * 4) * 4 + k % 4 / 2 * 8 + column % 4 * 2 + k % 2;
  }
  static Pair broadcast(const Code* p) {
    int16_t first, second;
    __builtin_memcpy(&first, p, 2);
    __builtin_memcpy(&second, p + 2, 2);
    return vreinterpretq_s8_s16(vcombine_s16(vdup_n_s16(first), vdup_n_s16(second)));
  }
  static Pair load(const Weight* p) { return vld1q_s8(p); }
  static Acc step(Acc acc, Pair codes, Pair weights) {
    int16x8_t sums = vmull_s8(vget_low_s8(codes), vget_low_s8(weights));
    sums = vmlal_s8(sums, vget_high_s8(codes), vget_high_s8(weights));
    return vpadalq_s16(acc, sums);
  }
  static void store_codes(Code* p, Simd::I v, Simd::I zero) { store_shifted(p, v, zero); }
  static Code code_of(int32_t zero) { return static_cast<Code>(zero - kCodeShift); }
};

#endif

}  // namespace
}  // namespace pstmo_edge
