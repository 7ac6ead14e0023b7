// Vectors in plain C++: four lanes that a compiler may or may not put into a register.
#include <cmath>

namespace pstmo_edge {
namespace {

struct Simd {
  static constexpr int kWidth = 4;
  struct F {
    float lane[kWidth];
  };
  struct I {
    int32_t lane[kWidth];
  };

  template <typename Op>
  static F each(Op op) {
    return {{op(0), op(1), op(2), op(3)}};
  }
  static uint32_t to_bits(float value) {
    uint32_t bits;
    __builtin_memcpy(&bits, &value, sizeof(bits));
    return bits;
  }
  static float from_bits(uint32_t bits) {
    float value;
    __builtin_memcpy(&value, &bits, sizeof(value));
    return value;
  }
  static F load(const float* p) {
    return each([=](int i) { return p[i]; });
  }
  static void store(float* p, F v) {
    for (int i = 0; i < kWidth; ++i) p[i] = v.lane[i];
  }
  static F set(float v) { return {{v, v, v, v}}; }
  static F add(F a, F b) {
    return each([&](int i) { return a.lane[i] + b.lane[i]; });
  }
  static F sub(F a, F b) {
    return each([&](int i) { return a.lane[i] - b.lane[i]; });
  }
  static F mul(F a, F b) {
    return each([&](int i) { return a.lane[i] * b.lane[i]; });
  }
  static F fma(F a, F b, F c) {
    return each([&](int i) { return a.lane[i] * b.lane[i] + c.lane[i]; });
  }
  static F min(F a, F b) {
    return each([&](int i) { return a.lane[i] < b.lane[i] ? a.lane[i] : b.lane[i]; });
  }
  static F max(F a, F b) {
    return each([&](int i) { return a.lane[i] > b.lane[i] ? a.lane[i] : b.lane[i]; });
  }
  static F add_to_exponent(F v, F shifted) {
    return each([&](int i) { return from_bits(to_bits(v.lane[i]) + (to_bits(shifted.lane[i]) << 23)); });
  }
  static float sum(F v) { return (v.lane[0] + v.lane[2]) + (v.lane[1] + v.lane[3]); }
  static float largest(F v) {
    float best = v.lane[0];
    for (int i = 1; i < kWidth; ++i) best = v.lane[i] > best ? v.lane[i] : best;
    return best;
  }

  static I load_i(const int32_t* p) { return {{p[0], p[1], p[2], p[3]}}; }
  static I set_i(int32_t v) { return {{v, v, v, v}}; }
  static I add_i(I a, I b) {
    for (int i = 0; i < kWidth; ++i) a.lane[i] += b.lane[i];
    return a;
  }
  static F to_float(I v) {
    return each([&](int i) { return static_cast<float>(v.lane[i]); });
  }
  // Values beyond 32 bits are cut off, as the instructions of other CPUs do in their own ways; here to stay defined.
  static I to_int(F v) {
    I out;
    for (int i = 0; i < kWidth; ++i) {
      const float x = nearbyintf(v.lane[i]);
      out.lane[i] = x > 1e9F ? 1000000000 : x < -1e9F ? -1000000000 : static_cast<int32_t>(x);
    }
    return out;
  }
};

inline void transpose_four(const float* in, ptrdiff_t in_stride, float* out, ptrdiff_t out_stride) {
  for (int r = 0; r < 4; ++r) {
    for (int c = 0; c < 4; ++c) out[c * out_stride + r] = in[r * in_stride + c];
  }
}

struct Int8Path {
  using Code = uint8_t;
  using Weight = int8_t;
  using Acc = Simd::I;
  struct Pair {
    int32_t lane[Simd::kWidth];
  };
  static constexpr int kGroup = 1;
  static constexpr bool kWideWeights = true;

  static int offset(int k, int column, int panel) { return k * panel + column; }
  static Pair broadcast(const Code* p) { return {{*p, *p, *p, *p}}; }
  static Pair load(const Weight* p) { return {{p[0], p[1], p[2], p[3]}}; }
  static Acc step(Acc acc, Pair codes, Pair weights) {
    for (int i = 0; i < Simd::kWidth; ++i) acc.lane[i] += codes.lane[i] * weights.lane[i];
    return acc;
  }
  static void store_codes(Code* p, Simd::I v, Simd::I zero) {
    for (int i = 0; i < Simd::kWidth; ++i) {
      const int32_t code = v.lane[i] + zero.lane[i];
      p[i] = static_cast<Code>(code < 0 ? 0 : code > 255 ? 255 : code);
    }
  }
  static Code code_of(int32_t zero) { return static_cast<Code>(zero); }
};

struct WordPath {
  using Code = int16_t;
  using Weight = int16_t;
  using Acc = Simd::I;
  using Pair = Int8Path::Pair;
  static constexpr int kGroup = 1;

  static int offset(int k, int column, int panel) { return k * panel + column; }
  static Pair broadcast(const Code* p) { return {{*p, *p, *p, *p}}; }
  static Pair load(const Weight* p) { return {{p[0], p[1], p[2], p[3]}}; }
  static Acc step(Acc acc, Pair codes, Pair weights) { return Int8Path::step(acc, codes, weights); }
  static void store_codes(Code* p, Simd::I v) {
    for (int i = 0; i < Simd::kWidth; ++i) {
      p[i] = static_cast<Code>(v.lane[i] < -32768 ? -32768 : v.lane[i] > 32767 ? 32767 : v.lane[i]);
    }
  }
};

}  // namespace
}  // namespace pstmo_edge
