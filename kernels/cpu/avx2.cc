#include "kernels.h"

#if defined(__AVX2__) && defined(__FMA__)
// The compiler may not throw the sums away, nor add them up in another way.
#define PSTMO_EDGE_KEEP(vector) __asm__ volatile("" : "+x"(vector))

namespace pstmo_edge {
namespace {
constexpr int kTileRows = 6, kTileVectors = 2;  // 12 sums, 2 weights and an activation of 16 registers
constexpr int kCodeShift = 0;
constexpr int kPeakSums = 12;
}  // namespace
}  // namespace pstmo_edge

// Each needs those before it.
// clang-format off
#include "simd_avx2.h"
#include "product.h"
#include "attention.h"
#include "rows.h"
#include "table.h"
// clang-format on

namespace pstmo_edge {
namespace {

constexpr Kernels kTable = PSTMO_EDGE_TABLE(Isa::Avx2, "avx2", Int8Path);
constexpr Kernels kWideTable = PSTMO_EDGE_TABLE(Isa::Avx2, "avx2-wide", Int8WidePath);

}  // namespace

const Kernels* avx2_kernels() { return &kTable; }
const Kernels* avx2_wide_kernels() { return &kWideTable; }

}  // namespace pstmo_edge

#else

namespace pstmo_edge {
const Kernels* avx2_kernels() { return nullptr; }
const Kernels* avx2_wide_kernels() { return nullptr; }
}  // namespace pstmo_edge

#endif
