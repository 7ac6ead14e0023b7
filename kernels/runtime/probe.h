/* What our own tests and benchmark need and no program does: engines without a bundle, one instruction set or another,
 * tokens, where the time goes, and what the machine could do. Not installed, and no part of the stable ABI. */
#ifndef PSTMO_EDGE_RUNTIME_PROBE_H_
#define PSTMO_EDGE_RUNTIME_PROBE_H_

#include <stddef.h>
#include <stdint.h>

#include "pstmo_edge.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct pstmo_edge_probe pstmo_edge_probe;

/* An engine of the weights in a safetensors file's bytes; NULL and a sentence in `error` where there can be none.
 * `isa`: see pstmo_edge_engine_options. */
PSTMO_EDGE_API pstmo_edge_probe* pstmo_edge_probe_open(const void* weights, size_t size, int32_t frames, int32_t layers,
                                                       int32_t threads, const char* isa, char* error,
                                                       size_t error_size) PSTMO_EDGE_NOEXCEPT;
PSTMO_EDGE_API void pstmo_edge_probe_close(pstmo_edge_probe* probe) PSTMO_EDGE_NOEXCEPT;
PSTMO_EDGE_API const char* pstmo_edge_probe_isa(const pstmo_edge_probe* probe) PSTMO_EDGE_NOEXCEPT;
PSTMO_EDGE_API size_t pstmo_edge_probe_memory(const pstmo_edge_probe* probe) PSTMO_EDGE_NOEXCEPT;

/* (batch, frames, 17, 2) to (batch, 17, 3). */
PSTMO_EDGE_API void pstmo_edge_probe_infer(pstmo_edge_probe* probe, const float* keypoints, int32_t batch,
                                           float* poses) PSTMO_EDGE_NOEXCEPT;
/* A frame (17, 2) to its token (channels). */
PSTMO_EDGE_API void pstmo_edge_probe_encode(pstmo_edge_probe* probe, const float* frame,
                                            float* token) PSTMO_EDGE_NOEXCEPT;
/* Tokens (frames, channels) to a pose. The oldest is row `oldest`, after the last row comes the first: a ring. */
PSTMO_EDGE_API void pstmo_edge_probe_infer_tokens(pstmo_edge_probe* probe, const float* tokens, int32_t oldest,
                                                  float* pose) PSTMO_EDGE_NOEXCEPT;

/* The parts of the network that a profile has, and their names. */
PSTMO_EDGE_API int32_t pstmo_edge_probe_parts(const pstmo_edge_probe* probe) PSTMO_EDGE_NOEXCEPT;
PSTMO_EDGE_API const char* pstmo_edge_probe_part(const pstmo_edge_probe* probe, int32_t part) PSTMO_EDGE_NOEXCEPT;

/* For every part: nanoseconds, multiply-adds and the format that they read (0 floats, 1 codes of 8 bits, 2 of 16), of
 * the calling thread since the last call, which starts the counting. */
PSTMO_EDGE_API void pstmo_edge_probe_profile(pstmo_edge_probe* probe, double* nanoseconds, double* multiply_adds,
                                             int32_t* formats) PSTMO_EDGE_NOEXCEPT;

/* Multiply-adds in `iterations` of a bare loop on registers; the caller takes the time. 0 where `isa` is not here. */
PSTMO_EDGE_API double pstmo_edge_probe_peak(const char* isa, int32_t weight_bits, int32_t format,
                                            int32_t iterations) PSTMO_EDGE_NOEXCEPT;

#ifdef __cplusplus
} /* extern "C" */
#endif

#endif /* PSTMO_EDGE_RUNTIME_PROBE_H_ */
