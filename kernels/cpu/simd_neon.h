// Vectors of Arm's Advanced SIMD.
#include <arm_neon.h>

namespace pstmo_edge {
namespace {

struct Simd {
  static constexpr int kWidth = 4;
  using F = float32x4_t;
  using I = int32x4_t;

  static F load(const float* p) { return vld1q_f32(p); }
  static void store(float* p, F v) { vst1q_f32(p, v); }
  static F set(float v) { return vdupq_n_f32(v); }
  static F add(F a, F b) { return vaddq_f32(a, b); }
  static F sub(F a, F b) { return vsubq_f32(a, b); }
  static F mul(F a, F b) { return vmulq_f32(a, b); }
  static F fma(F a, F b, F c) { return vfmaq_f32(c, a, b); }
  static F min(F a, F b) { return vminq_f32(a, b); }
  static F max(F a, F b) { return vmaxq_f32(a, b); }
  static F add_to_exponent(F v, F shifted) {
    const int32x4_t power = vshlq_n_s32(vreinterpretq_s32_f32(shifted), 23);
    return vreinterpretq_f32_s32(vaddq_s32(vreinterpretq_s32_f32(v), power));
  }
  static float sum(F v) { return vaddvq_f32(v); }
  static float largest(F v) { return vmaxvq_f32(v); }

  static I load_i(const int32_t* p) { return vld1q_s32(p); }
  static I set_i(int32_t v) { return vdupq_n_s32(v); }
  static I add_i(I a, I b) { return vaddq_s32(a, b); }
  static F to_float(I v) { return vcvtq_f32_s32(v); }
  static I to_int(F v) { return vcvtnq_s32_f32(v); }
};

inline void transpose_four(const float* in, ptrdiff_t in_stride, float* out, ptrdiff_t out_stride) {
  const float32x4x2_t ab = vtrnq_f32(vld1q_f32(in), vld1q_f32(in + in_stride));
  const float32x4x2_t cd = vtrnq_f32(vld1q_f32(in + 2 * in_stride), vld1q_f32(in + 3 * in_stride));
  vst1q_f32(out, vcombine_f32(vget_low_f32(ab.val[0]), vget_low_f32(cd.val[0])));
  vst1q_f32(out + out_stride, vcombine_f32(vget_low_f32(ab.val[1]), vget_low_f32(cd.val[1])));
  vst1q_f32(out + 2 * out_stride, vcombine_f32(vget_high_f32(ab.val[0]), vget_high_f32(cd.val[0])));
  vst1q_f32(out + 3 * out_stride, vcombine_f32(vget_high_f32(ab.val[1]), vget_high_f32(cd.val[1])));
}

// There is no product of unsigned by signed bytes here, so codes are stored less 128: (x - 128) - (zero - 128) is x -
// zero.
constexpr int32_t kCodeShift = 128;

inline void store_shifted(int8_t* p, int32x4_t v, int32x4_t zero) {
  // Saturating twice gives -128 .. 127, as clamping to 0 .. 255 before the shift would.
  const int32x4_t shifted = vsubq_s32(vqaddq_s32(v, zero), vdupq_n_s32(kCodeShift));
  const int16x4_t half = vqmovn_s32(shifted);
  const int8x8_t bytes = vqmovn_s16(vcombine_s16(half, half));
  const int32_t four = vget_lane_s32(vreinterpret_s32_s8(bytes), 0);
  __builtin_memcpy(p, &four, 4);
}

}  // namespace
}  // namespace pstmo_edge
