#include "kernels.h"

#if defined(__AVX512F__) && defined(__AVX512VNNI__)
#if !defined(__clang__)
// GCC's own header leaves operands undefined that a full mask never reads, and then warns of them.
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#pragma GCC diagnostic ignored "-Wuninitialized"
#endif

// The compiler may not throw the sums away, nor add them up in another way.
#define PSTMO_EDGE_KEEP(vector) __asm__ volatile("" : "+v"(vector))

namespace pstmo_edge {
namespace {
constexpr int kTileRows = 12, kTileVectors = 2;  // 24 sums, 2 weights and an activation of 32 registers
constexpr int kCodeShift = 0;
constexpr int kPeakSums = 24;
}  // namespace
}  // namespace pstmo_edge

// Each needs those before it.
// clang-format off
#include "simd_avx512.h"
#include "product.h"
#include "attention.h"
#include "rows.h"
#include "table.h"
// clang-format on

namespace pstmo_edge {
namespace {

constexpr Kernels kTable = PSTMO_EDGE_TABLE(Isa::Avx512, "avx512-vnni", Int8Path);

}  // namespace

const Kernels* avx512_kernels() { return &kTable; }

}  // namespace pstmo_edge

#else

namespace pstmo_edge {
const Kernels* avx512_kernels() { return nullptr; }
}  // namespace pstmo_edge

#endif
