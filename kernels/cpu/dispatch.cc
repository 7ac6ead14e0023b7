#include <initializer_list>

#include "kernels.h"
#include "pstmo_edge.h"

namespace pstmo_edge {
namespace {

bool has(uint64_t present, std::initializer_list<pstmo_edge_cpu_feature> wanted) {
  for (const pstmo_edge_cpu_feature feature : wanted) {
    if ((present >> feature & 1) == 0) return false;
  }
  return true;
}

uint64_t present_features() {
  pstmo_edge_cpu_features features{};
  features.size = sizeof(features);
  pstmo_edge_cpu_features_read(&features);
  return features.present;
}

// What an instruction set's kernels may use beyond the compiler's baseline.
bool runs_here(Isa isa, uint64_t present) {
  switch (isa) {
    case Isa::Portable:
      return true;
    case Isa::Avx2:
      return has(present, {PSTMO_EDGE_CPU_FEATURE_AVX2, PSTMO_EDGE_CPU_FEATURE_FMA});
    case Isa::Avx512:
      return has(present, {PSTMO_EDGE_CPU_FEATURE_AVX512F, PSTMO_EDGE_CPU_FEATURE_AVX512BW,
                           PSTMO_EDGE_CPU_FEATURE_AVX512VL, PSTMO_EDGE_CPU_FEATURE_AVX512_VNNI});
    case Isa::Neon:
      return has(present, {PSTMO_EDGE_CPU_FEATURE_NEON});
    case Isa::NeonDotprod:
      return has(present, {PSTMO_EDGE_CPU_FEATURE_NEON, PSTMO_EDGE_CPU_FEATURE_DOTPROD});
    case Isa::Auto:
      break;
  }
  return false;
}

const Kernels* compiled(Isa isa, int weight_bits) {
  switch (isa) {
    case Isa::Portable:
      return portable_kernels();
    case Isa::Avx2:
      return weight_bits > 7 ? avx2_wide_kernels() : avx2_kernels();
    case Isa::Avx512:
      return avx512_kernels();
    case Isa::Neon:
      return neon_kernels();
    case Isa::NeonDotprod:
      return neon_dotprod_kernels();
    case Isa::Auto:
      break;
  }
  return nullptr;
}

}  // namespace

const Kernels* find_kernels(Isa isa, int weight_bits) {
  const uint64_t present = present_features();
  if (isa != Isa::Auto) return runs_here(isa, present) ? compiled(isa, weight_bits) : nullptr;
  for (const Isa best : {Isa::Avx512, Isa::Avx2, Isa::NeonDotprod, Isa::Neon}) {
    const Kernels* const kernels = runs_here(best, present) ? compiled(best, weight_bits) : nullptr;
    if (kernels != nullptr) return kernels;
  }
  return portable_kernels();
}

}  // namespace pstmo_edge
