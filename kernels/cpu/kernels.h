#ifndef PSTMO_EDGE_CPU_KERNELS_H_
#define PSTMO_EDGE_CPU_KERNELS_H_

#include <cstddef>
#include <cstdint>

namespace pstmo_edge {

// The instruction sets that kernels exist for. Auto is the best one that this CPU has.
enum class Isa : uint8_t { Auto, Portable, Avx2, Avx512, Neon, NeonDotprod };

// What a product reads, and with which arithmetic: floats; codes of 8 bits, 0 .. 255, stored as the kernels like it; or
// codes of 16 bits, int16. The weights of both codes are 8-bit integers.
enum class Format : uint8_t { Float, Byte, Word };

// A matrix product's weights, packed for one instruction set: out[r][o] = sum_i in[r][i] * w[o][i] + bias[o].
//
// Panels hold `panel` outputs each, all inputs of a panel before the next one, so that a product reads its weights once
// from front to back. Outputs are padded to whole panels, with zeros in all arrays. Of codes the sums start at `start`
// (minus the zero point times the sum of the weights) and are scaled by `scale`.
struct Linear {
  int in = 0;
  int out = 0;
  int part = 0;  // of the network, for profiles
  Format format = Format::Float;
  const void* panels = nullptr;
  const float* bias = nullptr;     // nullptr: none (float only)
  const float* scale = nullptr;    // codes: input scale times weight scale
  const int32_t* start = nullptr;  // codes
  float input_inverse = 1;         // codes: 1 / input scale
  int32_t input_zero = 0;          // 8-bit codes: input zero point
};

// With 16-bit codes no sum of an output leaves 32 bits where its weights' magnitudes add up to no more: 65535 * 32768 <
// 2^31.
constexpr int32_t kMostWordWeights = 65535;

// Where rows go, and what is done to them on the way: row_scale, then max(y, slope * y), then + residual; then stored
// as floats, as quantized activations, or both. Outputs are whole panels wide. A slope of 1 is no activation, 0 a ReLU.
struct Out {
  float* values = nullptr;
  ptrdiff_t values_stride = 0;
  void* codes = nullptr;       // of 8 bits: clamp(round(y * inverse) + zero, 0, 255); of 16: clamp(.., -32768, 32767)
  ptrdiff_t codes_stride = 0;  // in elements
  Format codes_format = Format::Byte;
  float inverse = 1;
  int32_t zero = 0;
  float slope = 1;
  const float* residual = nullptr;
  ptrdiff_t residual_stride = 0;
  const float* row_scale = nullptr;
};

// A score so low that its weight is nothing.
constexpr float kNoToken = -1e30F;

// Attention of some queries of one head over all tokens.
struct Attention {
  const float* queries;  // the logarithm's base folded in: weights are 2 to the power of the scores
  ptrdiff_t query_stride;
  int rows;
  int tokens;
  int width;          // of a head
  const float* keys;  // panels of `panel` tokens, [tokens / panel][width][panel], finite numbers behind the last token
  const float* values;  // [width / panel][tokens][panel]
  const float* mask;    // added to scores: 0 for a token, kNoToken for those that fill the last panel
  float* scores;        // scratch: max_rows x padded tokens
};

// All that is compiled for one instruction set; two tables differ in speed and rounding, never in meaning.
struct Kernels {
  Isa isa;
  const char* name;
  int panel;          // outputs of a panel
  int max_rows;       // rows of a tile: scratch for attention
  int code_bytes;     // of a stored 8-bit code
  int code_group;     // rows of codes are padded to a multiple of this
  int code_shift;     // what is taken from an 8-bit code before it is stored
  bool wide_weights;  // whether 8-bit weights (beyond +-64) are safe

  size_t (*packed_bytes)(int in, int out, Format format);
  void (*pack_float)(const float* weight, int in, int out, void* panels);
  void (*pack_int8)(const int8_t* weight, int in, int out, void* panels);  // for 8-bit codes
  void (*pack_word)(const int8_t* weight, int in, int out, void* panels);  // for 16-bit codes

  void (*product)(const void* rows, ptrdiff_t stride, int count, const Linear& linear, const Out& out);
  void (*layer_norm)(const float* rows, ptrdiff_t stride, int count, int channels, const float* gain, const float* bias,
                     float epsilon, const Out& out);
  void (*attention)(const Attention& attention, const Out& out);
  void (*convert)(const float* rows, ptrdiff_t stride, int count, int channels, const Out& out);
  // 8-bit codes that stand for zero; 16-bit ones are zeros.
  void (*clear_codes)(void* codes, int count, int32_t zero);
  // Keys of one head (its values lie `values_offset` behind them) of tokens first .. first + count - 1 into the panels
  // that attention reads.
  void (*put_heads)(const float* keys, ptrdiff_t stride, int first, int count, int tokens, int width,
                    ptrdiff_t values_offset, float* key_panels, float* value_panels);

  // Multiply-adds of a bare loop on registers, for the limit of the machine; returns how many one call does.
  double (*peak_float)(int iterations);
  double (*peak_int8)(int iterations);
  double (*peak_word)(int iterations);

  // Of one number as a product reads it.
  int bytes_of(Format format) const {
    return format == Format::Byte ? code_bytes : format == Format::Word ? 2 : static_cast<int>(sizeof(float));
  }
};

// The table for an instruction set, or nullptr where this library or this CPU lacks it. `weight_bits` is 7 where no
// weight exceeds 64, and 8 otherwise.
const Kernels* find_kernels(Isa isa, int weight_bits);

// Tables by translation unit; nullptr where it was compiled for another architecture.
const Kernels* portable_kernels();
const Kernels* avx2_kernels();       // VPMADDUBSW: weights of 7 bits
const Kernels* avx2_wide_kernels();  // VPMADDWD: weights of 8 bits
const Kernels* avx512_kernels();     // VPDPBUSD
const Kernels* neon_kernels();
const Kernels* neon_dotprod_kernels();

}  // namespace pstmo_edge

#endif  // PSTMO_EDGE_CPU_KERNELS_H_
