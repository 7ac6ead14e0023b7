#include <cstdint>

#include "checks.h"
#include "pstmo_edge.h"

#if defined(__x86_64__) || defined(__i386__) || defined(_M_X64) || defined(_M_IX86)
#define PSTMO_EDGE_X86 1
#if defined(_MSC_VER)
#include <intrin.h>
#else
#include <cpuid.h>
#endif
#elif defined(__aarch64__) && defined(__linux__)
#include <sys/auxv.h>
#endif

namespace {

constexpr const char* kNames[] = {
    "sse4_2",   "avx",         "avx2",     "fma",  "f16c",    "avx512f", "avx512bw", "avx512vl", "avx512_vnni",
    "avx_vnni", "avx512_bf16", "amx_int8", "neon", "dotprod", "i8mm",    "bf16",     "sve",
};
constexpr uint32_t kCount = sizeof(kNames) / sizeof(kNames[0]);
static_assert(kCount == PSTMO_EDGE_CPU_FEATURE_SVE + 1, "every feature has a name");

uint64_t bit_if(bool present, pstmo_edge_cpu_feature feature) { return present ? uint64_t{1} << feature : 0; }

#if defined(PSTMO_EDGE_X86)

struct Registers {
  uint32_t eax = 0, ebx = 0, ecx = 0, edx = 0;
};

Registers cpuid(uint32_t leaf, uint32_t subleaf) {
  Registers r;
#if defined(_MSC_VER)
  int raw[4];
  __cpuidex(raw, static_cast<int>(leaf), static_cast<int>(subleaf));
  r = {static_cast<uint32_t>(raw[0]), static_cast<uint32_t>(raw[1]), static_cast<uint32_t>(raw[2]),
       static_cast<uint32_t>(raw[3])};
#else
  __cpuid_count(leaf, subleaf, r.eax, r.ebx, r.ecx, r.edx);
#endif
  return r;
}

// The register states that the operating system saves at a task switch. Only callable where OSXSAVE is set.
uint64_t read_xcr0() {
#if defined(_MSC_VER)
  return _xgetbv(0);
#else
  uint32_t low, high;  // The intrinsic would need -mxsave for the whole file.
  __asm__ volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
  return uint64_t{high} << 32 | low;
#endif
}

bool has_bit(uint32_t word, int bit) { return (word >> bit & 1U) != 0; }

bool has_all(uint64_t word, uint64_t mask) { return (word & mask) == mask; }

uint64_t detect() {
  constexpr uint64_t kYmm = 0x6, kZmm = 0xe6, kTiles = 0x60000;  // XCR0: SSE|AVX, + opmask|ZMM, TILECFG|TILEDATA
  const uint32_t leaves = cpuid(0, 0).eax;
  const Registers one = leaves >= 1 ? cpuid(1, 0) : Registers{};
  const Registers seven = leaves >= 7 ? cpuid(7, 0) : Registers{};
  const Registers seven_one = seven.eax >= 1 ? cpuid(7, 1) : Registers{};
  const uint64_t saved = has_bit(one.ecx, 27) ? read_xcr0() : 0;
  const bool ymm = has_all(saved, kYmm) && has_bit(one.ecx, 28);
  const bool zmm = has_all(saved, kZmm) && has_bit(seven.ebx, 16);
  // Linux also wants arch_prctl(ARCH_REQ_XCOMP_PERM) before the first tile instruction: that is for the user of AMX.
  const bool tiles = has_all(saved, kTiles) && has_bit(seven.edx, 24);

  return bit_if(has_bit(one.ecx, 20), PSTMO_EDGE_CPU_FEATURE_SSE4_2) | bit_if(ymm, PSTMO_EDGE_CPU_FEATURE_AVX) |
         bit_if(ymm && has_bit(seven.ebx, 5), PSTMO_EDGE_CPU_FEATURE_AVX2) |
         bit_if(ymm && has_bit(one.ecx, 12), PSTMO_EDGE_CPU_FEATURE_FMA) |
         bit_if(ymm && has_bit(one.ecx, 29), PSTMO_EDGE_CPU_FEATURE_F16C) |
         bit_if(ymm && has_bit(seven_one.eax, 4), PSTMO_EDGE_CPU_FEATURE_AVX_VNNI) |
         bit_if(zmm, PSTMO_EDGE_CPU_FEATURE_AVX512F) |
         bit_if(zmm && has_bit(seven.ebx, 30), PSTMO_EDGE_CPU_FEATURE_AVX512BW) |
         bit_if(zmm && has_bit(seven.ebx, 31), PSTMO_EDGE_CPU_FEATURE_AVX512VL) |
         bit_if(zmm && has_bit(seven.ecx, 11), PSTMO_EDGE_CPU_FEATURE_AVX512_VNNI) |
         bit_if(zmm && has_bit(seven_one.eax, 5), PSTMO_EDGE_CPU_FEATURE_AVX512_BF16) |
         bit_if(tiles && has_bit(seven.edx, 25), PSTMO_EDGE_CPU_FEATURE_AMX_INT8);
}

#elif defined(__aarch64__) && defined(__linux__)

uint64_t detect() {
  // Bits of the Linux ABI, spelled out because older C libraries lack the newer names.
  const unsigned long first = getauxval(AT_HWCAP), second = getauxval(AT_HWCAP2);
  return bit_if(first >> 1 & 1, PSTMO_EDGE_CPU_FEATURE_NEON) | bit_if(first >> 20 & 1, PSTMO_EDGE_CPU_FEATURE_DOTPROD) |
         bit_if(first >> 22 & 1, PSTMO_EDGE_CPU_FEATURE_SVE) | bit_if(second >> 13 & 1, PSTMO_EDGE_CPU_FEATURE_I8MM) |
         bit_if(second >> 14 & 1, PSTMO_EDGE_CPU_FEATURE_BF16);
}

#elif defined(__aarch64__)

// Armv8-A always has NEON; what else there is must be asked of each system in its own way.
uint64_t detect() { return bit_if(true, PSTMO_EDGE_CPU_FEATURE_NEON); }

#else

uint64_t detect() { return 0; }

#endif

}  // namespace

extern "C" pstmo_edge_status pstmo_edge_cpu_features_read(pstmo_edge_cpu_features* features) noexcept {
  const pstmo_edge_status status = pstmo_edge::check_struct(features);
  if (status != PSTMO_EDGE_STATUS_OK) return status;
  features->count = kCount;
  features->present = detect();
  return PSTMO_EDGE_STATUS_OK;
}

extern "C" const char* pstmo_edge_cpu_feature_describe(uint32_t feature) noexcept {
  return feature < kCount ? kNames[feature] : nullptr;
}
