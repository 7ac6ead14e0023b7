/* The C ABI of pstmo-edge.
 *
 * Functions are named pstmo_edge_<noun>_<verb> and types pstmo_edge_<noun>. Every struct starts with its size, set by
 * the caller, so that a library can be newer than the program that calls it. A function that can fail returns a
 * pstmo_edge_status and writes nothing unless that is PSTMO_EDGE_STATUS_OK. No C++ exception crosses this boundary.
 * Returned strings are constants: never free them. All functions here may be called from any thread.
 */
#ifndef PSTMO_EDGE_H_
#define PSTMO_EDGE_H_

#include <stdint.h>

#if defined(_WIN32)
#if defined(PSTMO_EDGE_BUILDING)
#define PSTMO_EDGE_API __declspec(dllexport)
#else
#define PSTMO_EDGE_API __declspec(dllimport)
#endif
#else
#define PSTMO_EDGE_API __attribute__((visibility("default")))
#endif

#ifdef __cplusplus
#define PSTMO_EDGE_NOEXCEPT noexcept
extern "C" {
#else
#define PSTMO_EDGE_NOEXCEPT
#endif

/* What a call answers: one of the constants below. */
typedef int32_t pstmo_edge_status;

#define PSTMO_EDGE_STATUS_OK ((pstmo_edge_status)0)
#define PSTMO_EDGE_STATUS_NULL_ARGUMENT ((pstmo_edge_status)1)
#define PSTMO_EDGE_STATUS_STRUCT_TOO_SMALL ((pstmo_edge_status)2)

/* One sentence in English for a status; "unknown status" for a number that this library does not use. */
PSTMO_EDGE_API const char* pstmo_edge_status_describe(pstmo_edge_status status) PSTMO_EDGE_NOEXCEPT;

/* The version of the library. While major is 0, a change of minor may change the ABI. */
typedef struct pstmo_edge_version {
  uint32_t size; /* in: sizeof(pstmo_edge_version) */
  uint32_t major;
  uint32_t minor;
  uint32_t patch;
} pstmo_edge_version;

PSTMO_EDGE_API pstmo_edge_status pstmo_edge_version_read(pstmo_edge_version* version) PSTMO_EDGE_NOEXCEPT;

/* One bit for each CPU feature. A number is never given another meaning; new ones are added at the end. */
typedef enum pstmo_edge_cpu_feature {
  PSTMO_EDGE_CPU_FEATURE_SSE4_2 = 0,
  PSTMO_EDGE_CPU_FEATURE_AVX = 1,
  PSTMO_EDGE_CPU_FEATURE_AVX2 = 2,
  PSTMO_EDGE_CPU_FEATURE_FMA = 3,
  PSTMO_EDGE_CPU_FEATURE_F16C = 4,
  PSTMO_EDGE_CPU_FEATURE_AVX512F = 5,
  PSTMO_EDGE_CPU_FEATURE_AVX512BW = 6,
  PSTMO_EDGE_CPU_FEATURE_AVX512VL = 7,
  PSTMO_EDGE_CPU_FEATURE_AVX512_VNNI = 8,
  PSTMO_EDGE_CPU_FEATURE_AVX_VNNI = 9,
  PSTMO_EDGE_CPU_FEATURE_AVX512_BF16 = 10,
  PSTMO_EDGE_CPU_FEATURE_AMX_INT8 = 11,
  PSTMO_EDGE_CPU_FEATURE_NEON = 12,
  PSTMO_EDGE_CPU_FEATURE_DOTPROD = 13,
  PSTMO_EDGE_CPU_FEATURE_I8MM = 14,
  PSTMO_EDGE_CPU_FEATURE_BF16 = 15,
  PSTMO_EDGE_CPU_FEATURE_SVE = 16
} pstmo_edge_cpu_feature;

/* What this CPU can do and this operating system lets programs use (both are needed for AVX, AVX-512 and AMX). */
typedef struct pstmo_edge_cpu_features {
  uint32_t size;    /* in: sizeof(pstmo_edge_cpu_features) */
  uint32_t count;   /* features this library knows: 0 .. count - 1 */
  uint64_t present; /* bit i is set where feature i is present */
} pstmo_edge_cpu_features;

PSTMO_EDGE_API pstmo_edge_status pstmo_edge_cpu_features_read(pstmo_edge_cpu_features* features) PSTMO_EDGE_NOEXCEPT;

/* The name of a feature in lower case, as Linux lists it for x86 ("avx512_vnni"); NULL for an unknown number. */
PSTMO_EDGE_API const char* pstmo_edge_cpu_feature_describe(uint32_t feature) PSTMO_EDGE_NOEXCEPT;

#ifdef __cplusplus
} /* extern "C" */
#endif

#endif /* PSTMO_EDGE_H_ */
