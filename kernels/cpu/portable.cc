#include "kernels.h"

#if defined(__GNUC__)
// The compiler may not throw the sums away, nor add them up in another way.
#define PSTMO_EDGE_KEEP(vector) __asm__ volatile("" : "+m"(vector))
#else
#define PSTMO_EDGE_KEEP(vector) static_cast<void>(vector)
#endif

namespace pstmo_edge {
namespace {
constexpr int kTileRows = 4, kTileVectors = 2;
constexpr int kCodeShift = 0;
constexpr int kPeakSums = 8;
}  // namespace
}  // namespace pstmo_edge

// Each needs those before it.
// clang-format off
#include "simd_portable.h"
#include "product.h"
#include "attention.h"
#include "rows.h"
#include "table.h"
// clang-format on

namespace pstmo_edge {
namespace {

constexpr Kernels kTable = PSTMO_EDGE_TABLE(Isa::Portable, "portable", Int8Path);

}  // namespace

const Kernels* portable_kernels() { return &kTable; }

}  // namespace pstmo_edge
