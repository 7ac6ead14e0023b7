#include "kernels.h"

#if defined(__aarch64__) && defined(__ARM_FEATURE_DOTPROD)
#define PSTMO_EDGE_DOTPROD
// The compiler may not throw the sums away, nor add them up in another way.
#define PSTMO_EDGE_KEEP(vector) __asm__ volatile("" : "+w"(vector))

namespace pstmo_edge {
namespace {
constexpr int kTileRows = 6, kTileVectors = 4;  // 24 sums, 4 weights and an activation of 32 registers
constexpr int kPeakSums = 24;
}  // namespace
}  // namespace pstmo_edge

// Each needs those before it.
// clang-format off
#include "simd_neon.h"
#include "simd_neon_paths.h"
#include "product.h"
#include "attention.h"
#include "rows.h"
#include "table.h"
// clang-format on

namespace pstmo_edge {
namespace {

constexpr Kernels kTable = PSTMO_EDGE_TABLE(Isa::NeonDotprod, "neon-dotprod", Int8Path);

}  // namespace

const Kernels* neon_dotprod_kernels() { return &kTable; }

}  // namespace pstmo_edge

#else

namespace pstmo_edge {
const Kernels* neon_dotprod_kernels() { return nullptr; }
}  // namespace pstmo_edge

#endif
