/* The C ABI of pstmo-edge: open a bundle, push 2D keypoints, read 3D poses.
 *
 * Names. Functions are named pstmo_edge_<noun>_<verb> and types pstmo_edge_<noun>.
 *
 * Structs. Every struct starts with its size, set by the caller to sizeof (the ..._INIT macros do it), so that a
 * library can be newer than the program that calls it: a library fills or reads no more than `size` bytes, and a field
 * that a program does not know yet keeps its default. A struct smaller than its first version is refused.
 *
 * Errors. A function that can fail returns a pstmo_edge_status and writes nothing unless that is PSTMO_EDGE_STATUS_OK.
 * The sentence behind the last failure of a handle is read with pstmo_edge_<handle>_error_read. Nothing is thrown
 * across this boundary, nothing is printed, no signal or environment variable is touched.
 *
 * Memory. All of it is taken when a handle is opened or created; no later call allocates or frees. Strings returned are
 * constants or belong to the handle: never free them.
 *
 * Threads. Different handles may be used from different threads, and streams of one engine count as that engine: its
 * weights and scratch memory are shared. A handle that is in use by another thread answers PSTMO_EDGE_STATUS_BUSY and
 * nothing has happened: open one engine for each thread that must never wait. Closing is the caller's to serialise.
 */
#ifndef PSTMO_EDGE_H_
#define PSTMO_EDGE_H_

#include <stddef.h>
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

/* Joints of every model this library runs. */
#define PSTMO_EDGE_JOINTS 17
/* Windows of one call of pstmo_edge_engine_infer at most. */
#define PSTMO_EDGE_MAX_BATCH 65536u

/* ---- status ------------------------------------------------------------------------------------------------------ */

/* What a call answers: one of the constants below. A number is never given another meaning. */
typedef int32_t pstmo_edge_status;

#define PSTMO_EDGE_STATUS_OK ((pstmo_edge_status)0)
#define PSTMO_EDGE_STATUS_NULL_ARGUMENT ((pstmo_edge_status)1)
#define PSTMO_EDGE_STATUS_STRUCT_TOO_SMALL ((pstmo_edge_status)2)
#define PSTMO_EDGE_STATUS_INVALID_ARGUMENT ((pstmo_edge_status)3) /* a value outside its limits */
#define PSTMO_EDGE_STATUS_BUSY ((pstmo_edge_status)4)             /* the handle is in use by another thread */
#define PSTMO_EDGE_STATUS_OUT_OF_MEMORY ((pstmo_edge_status)5)    /* memory or threads ran out */
#define PSTMO_EDGE_STATUS_BUNDLE_UNREADABLE                                                                          \
  ((pstmo_edge_status)6)                                          /* missing, no permission, a link, no regular file \
                                                                   */
#define PSTMO_EDGE_STATUS_BUNDLE_DAMAGED ((pstmo_edge_status)7)   /* changed or cut short since it was written */
#define PSTMO_EDGE_STATUS_BUNDLE_NEWER ((pstmo_edge_status)8)     /* its schema or its needs are of a newer version */
#define PSTMO_EDGE_STATUS_BUNDLE_FOREIGN ((pstmo_edge_status)9)   /* for another runtime, or a model not in here */
#define PSTMO_EDGE_STATUS_CPU_UNSUPPORTED ((pstmo_edge_status)10) /* this CPU lacks what bundle or options ask for */
#define PSTMO_EDGE_STATUS_TIMESTAMP_REJECTED ((pstmo_edge_status)11) /* not finite, repeated or out of order */
#define PSTMO_EDGE_STATUS_NO_RESULT ((pstmo_edge_status)12)          /* no pose is ready: push the next frame */
#define PSTMO_EDGE_STATUS_NOT_FINITE ((pstmo_edge_status)13)         /* NaN or infinite keypoints, or such a pose */
#define PSTMO_EDGE_STATUS_INTERNAL ((pstmo_edge_status)14)           /* a bug in this library: please report it */
#define PSTMO_EDGE_STATUS_DEVICE_UNAVAILABLE ((pstmo_edge_status)15) /* no GPU, driver or kernels that can run it */
#define PSTMO_EDGE_STATUS_DEVICE_FAILED ((pstmo_edge_status)16)      /* the GPU or its driver failed */

/* One sentence in English for a status; "unknown status" for a number that this library does not use. */
PSTMO_EDGE_API const char* pstmo_edge_status_describe(pstmo_edge_status status) PSTMO_EDGE_NOEXCEPT;

/* ---- version and CPU --------------------------------------------------------------------------------------------- */

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

/* ---- engine ------------------------------------------------------------------------------------------------------ */

/* An opened bundle: weights packed for this CPU, scratch memory, threads. */
typedef struct pstmo_edge_engine pstmo_edge_engine;

typedef struct pstmo_edge_engine_options {
  uint32_t size;    /* in: sizeof(pstmo_edge_engine_options) */
  uint32_t threads; /* threads that compute, the caller's among them: 1 .. 64; 0: one for each core, at most 4 */
  const char*
      isa; /* instruction set of the kernels: NULL or "auto" for the best here; see pstmo_edge_engine_info.isa */
  const char* device; /* NULL or "cpu"; "cuda" or "cuda:0" for the first NVIDIA GPU, "cuda:1" for the second */
  const char* driver; /* the CUDA driver's library; NULL: where the system has it, libcuda.so.1 */
  uint32_t max_batch; /* windows that a GPU lifts at once, 1 .. 65536; its memory is taken for so many; 0: 64 */
} pstmo_edge_engine_options;

#define PSTMO_EDGE_ENGINE_OPTIONS_INIT {(uint32_t)sizeof(pstmo_edge_engine_options), 0, NULL, NULL, NULL, 0}

/* Open the bundle in folder `path`: verify every file's size and SHA-256, check that this machine can run it, pack the
 * weights, or upload them. `options` may be NULL. The files are read once and never again; they may change afterwards.
 * A GPU needs a bundle that `pstmo-edge compile --gpu` has put kernels for it into; `threads` and `isa` are a CPU's.
 * On failure *engine is untouched and, where `error` is not NULL, a sentence is written there (cut to `error_size`
 * bytes with its closing zero). */
PSTMO_EDGE_API pstmo_edge_status pstmo_edge_engine_open(const char* path, const pstmo_edge_engine_options* options,
                                                        pstmo_edge_engine** engine, char* error,
                                                        size_t error_size) PSTMO_EDGE_NOEXCEPT;

/* Release the engine; NULL is allowed. Its memory is freed once its last stream is closed too. */
PSTMO_EDGE_API void pstmo_edge_engine_close(pstmo_edge_engine* engine) PSTMO_EDGE_NOEXCEPT;

/* What the engine is. Strings live as long as the engine. */
typedef struct pstmo_edge_engine_info {
  uint32_t size;             /* in: sizeof(pstmo_edge_engine_info) */
  uint32_t frames;           /* T: frames of a window */
  uint32_t joints;           /* J: 17 */
  uint32_t channels;         /* values of one keypoint: 2 (x, y) */
  uint32_t t_downsample;     /* every t_downsample-th frame of the motion enters the window */
  uint32_t target_index;     /* the frame of the window whose pose comes out */
  uint32_t lookahead_frames; /* frames of the window behind it */
  uint32_t threads;          /* threads that compute */
  double frame_rate;         /* frames a second of the motion trained on, before t_downsample */
  double lookahead_ms;       /* how long a pose waits for the frames behind it, at that rate */
  const char* model;         /* "p-stmo-s" */
  const char* precision;     /* the precision asked for: "fp32", "fp16", "int8" */
  const char* skeleton;      /* joint set read, for instance "human36m-17": another order of joints gives nonsense */
  const char* pose_skeleton; /* joint set of the poses */
  const char* target;        /* what it was built for: "x86-avx2" */
  const char* isa;           /* kernels chosen here: an instruction set, or a GPU's chip as in "sm_87" */
} pstmo_edge_engine_info;

#define PSTMO_EDGE_ENGINE_INFO_INIT \
  {(uint32_t)sizeof(pstmo_edge_engine_info), 0, 0, 0, 0, 0, 0, 0, 0.0, 0.0, NULL, NULL, NULL, NULL, NULL, NULL}

PSTMO_EDGE_API pstmo_edge_status pstmo_edge_engine_info_read(const pstmo_edge_engine* engine,
                                                             pstmo_edge_engine_info* info) PSTMO_EDGE_NOEXCEPT;

/* The name of joint `joint` of the keypoints read ("RKnee"); NULL for a number that is none. Lives like the engine. */
PSTMO_EDGE_API const char* pstmo_edge_engine_joint_describe(const pstmo_edge_engine* engine,
                                                            uint32_t joint) PSTMO_EDGE_NOEXCEPT;

/* Lift `batch` windows: keypoints (batch, T, J, 2) in screen coordinates (x / w * 2 - 1, y / w * 2 - h / w) to poses
 * (batch, J, 3) in metres, camera frame (x right, y down, z away from the camera), relative to the root joint.
 * Row-major. `keypoint_count` and `pose_count` are the arrays' lengths in floats, checked against the batch. Keypoints
 * that are not finite or lie more than 1000 image widths away are refused and nothing is written; poses that are not
 * finite (weights that mean nothing) answer PSTMO_EDGE_STATUS_NOT_FINITE after `poses` was written. After
 * PSTMO_EDGE_STATUS_DEVICE_FAILED (a GPU alone) some of `poses` may have been written. */
PSTMO_EDGE_API pstmo_edge_status pstmo_edge_engine_infer(pstmo_edge_engine* engine, const float* keypoints,
                                                         size_t keypoint_count, uint32_t batch, float* poses,
                                                         size_t pose_count) PSTMO_EDGE_NOEXCEPT;

/* The sentence behind the engine's last failure, "" if none failed, cut to `text_size` bytes with its closing zero. */
PSTMO_EDGE_API pstmo_edge_status pstmo_edge_engine_error_read(pstmo_edge_engine* engine, char* text,
                                                              size_t text_size) PSTMO_EDGE_NOEXCEPT;

/* ---- stream ------------------------------------------------------------------------------------------------------ */

/* One person in front of one camera: frames go in as they arrive, poses come out. */
typedef struct pstmo_edge_stream pstmo_edge_stream;

#define PSTMO_EDGE_LOOKAHEAD_MODEL (-1) /* as many frames as the model was trained with */

typedef struct pstmo_edge_stream_options {
  uint32_t size;         /* in: sizeof(pstmo_edge_stream_options) */
  uint32_t image_width;  /* pixels, 1 .. 65536 */
  uint32_t image_height; /* pixels, 1 .. 65536 */
  int32_t lookahead;     /* window frames a pose waits for: 0 (live) .. info.lookahead_frames, or ..._LOOKAHEAD_MODEL */
  double fps;            /* the camera's frames a second, 1 .. 1000; each frame's own time is its timestamp */
  double max_gap;        /* seconds without a measured joint that end a sequence: 2 / fps .. 10 */
  float min_confidence;  /* a joint below it is missing */
  uint32_t backlog; /* moments (of the model's clock) a ready pose waits to be read before it is dropped: 1 .. 4096 */
  const char* skeleton; /* the joint set of the keypoints, refused unless it is the model's; NULL: not checked */
} pstmo_edge_stream_options;

/* Live, 30 frames a second; the image's size is to be set. */
#define PSTMO_EDGE_STREAM_OPTIONS_INIT {(uint32_t)sizeof(pstmo_edge_stream_options), 0, 0, 0, 30.0, 0.5, 0.3f, 8, NULL}

/* Create a stream of an engine. On failure *stream is untouched and the sentence is the engine's error. */
PSTMO_EDGE_API pstmo_edge_status pstmo_edge_stream_create(pstmo_edge_engine* engine,
                                                          const pstmo_edge_stream_options* options,
                                                          pstmo_edge_stream** stream) PSTMO_EDGE_NOEXCEPT;

/* Release the stream; NULL is allowed. */
PSTMO_EDGE_API void pstmo_edge_stream_close(pstmo_edge_stream* stream) PSTMO_EDGE_NOEXCEPT;

/* Push one frame: 17 joints of x, y in pixels and confidence, in the order of the engine's skeleton, and the time of
 * the frame in seconds on any clock (at most 1e10 in size, rising).
 *
 * A joint whose values are not finite, whose confidence is below the limit, or that lies more than 1000 image widths
 * away is missing: it is held where it was last seen and moves with the body (never seen: at the mean of the joints
 * that were). Once it is seen again, poses that wait for that frame, and all later ones, have it interpolated between
 * the two sightings instead; poses already due stay as they are, whenever they are read. Every pose that used a missing
 * joint is flagged, interpolated or not.
 *
 * A timestamp that is not finite, repeated or earlier than the last one answers PSTMO_EDGE_STATUS_TIMESTAMP_REJECTED
 * and the frame is counted as rejected; one earlier by more than max_gap is a clock that was set, and starts anew like
 * any other gap. Frames between two moments of the model's clock
 * are interpolated; see docs/c-api.md for the clock. */
PSTMO_EDGE_API pstmo_edge_status pstmo_edge_stream_push(pstmo_edge_stream* stream, const float* keypoints,
                                                        size_t keypoint_count, double timestamp) PSTMO_EDGE_NOEXCEPT;

/* End the sequence: poses that wait for frames that will not come become ready, their windows padded with the last
 * frame as in training. The next push starts a new sequence. */
PSTMO_EDGE_API pstmo_edge_status pstmo_edge_stream_finish(pstmo_edge_stream* stream) PSTMO_EDGE_NOEXCEPT;

/* How far a pose can be trusted: VALID alone, or what speaks against it. */
#define PSTMO_EDGE_POSE_VALID 1u    /* every joint of every frame it used was measured */
#define PSTMO_EDGE_POSE_DEGRADED 2u /* a joint of a frame it used was missing, or a frame was, and was filled in */
#define PSTMO_EDGE_POSE_STALE 4u    /* no joint of its own frame was measured: all were filled in */
#define PSTMO_EDGE_POSE_GAP 8u      /* its window was cut short by a gap and padded there */

typedef struct pstmo_edge_pose {
  uint32_t size;                      /* in: sizeof(pstmo_edge_pose) */
  uint32_t flags;                     /* PSTMO_EDGE_POSE_... */
  uint32_t missing;                   /* bit j is set where joint j of the pose's own frame was missing */
  uint32_t filled_frames;             /* frames of its window with something missing, 0 .. T */
  uint64_t frame;                     /* the number of the push whose pose it is, from 0, rejected ones counted */
  double timestamp;                   /* seconds: the time of the pose */
  double lookahead_ms;                /* how much later the newest frame that it used was */
  float joints[PSTMO_EDGE_JOINTS][3]; /* metres, camera frame, relative to the root joint */
  uint32_t regained;                  /* those of `missing` that were seen again in time: interpolated */
} pstmo_edge_pose;

#define PSTMO_EDGE_POSE_INIT {(uint32_t)sizeof(pstmo_edge_pose), 0, 0, 0, 0, 0.0, 0.0, {{0.0f}}, 0}

/* Compute and take the oldest pose that is ready; PSTMO_EDGE_STATUS_NO_RESULT where none is. One push makes at most one
 * pose ready, but a gap and finish make many: read until NO_RESULT. */
PSTMO_EDGE_API pstmo_edge_status pstmo_edge_stream_read(pstmo_edge_stream* stream,
                                                        pstmo_edge_pose* pose) PSTMO_EDGE_NOEXCEPT;

/* Read `count` streams of one engine at once: as pstmo_edge_stream_read for each, but the windows of all that have a
 * pose ready are lifted in one batch, which is what a GPU is for. statuses[i] answers for streams[i] and poses[i]
 * (whose size is set): OK, NO_RESULT or NOT_FINITE. A stream may be given once. Anything but OK as the answer of the
 * call itself, and no pose was taken; where that is DEVICE_FAILED, `poses` and `statuses` may have been written. The
 * sentence is the engine's error. */
PSTMO_EDGE_API pstmo_edge_status pstmo_edge_streams_read(pstmo_edge_stream* const* streams, size_t count,
                                                         pstmo_edge_pose* poses,
                                                         pstmo_edge_status* statuses) PSTMO_EDGE_NOEXCEPT;

/* Where every pushed frame went: received == delivered + dropped + rejected + pending, at any moment. */
typedef struct pstmo_edge_stream_counters {
  uint32_t size;               /* in: sizeof(pstmo_edge_stream_counters) */
  uint32_t pending;            /* frames whose pose waits for later frames, or to be read */
  uint64_t received;           /* frames pushed, refused calls (a null pointer, BUSY) not counted */
  uint64_t delivered;          /* poses read */
  uint64_t dropped;            /* frames without a pose: the sum of the four below */
  uint64_t rejected;           /* frames whose timestamp was rejected */
  uint64_t dropped_unread;     /* their pose was not read within the backlog */
  uint64_t dropped_by_rate;    /* the camera is faster than the model's clock */
  uint64_t dropped_empty;      /* no person: no joint was measured before the first or after a gap */
  uint64_t dropped_not_finite; /* their pose was not finite */
  uint64_t gaps;               /* sequences that a gap ended */
} pstmo_edge_stream_counters;

#define PSTMO_EDGE_STREAM_COUNTERS_INIT {(uint32_t)sizeof(pstmo_edge_stream_counters), 0, 0, 0, 0, 0, 0, 0, 0, 0, 0}

PSTMO_EDGE_API pstmo_edge_status
pstmo_edge_stream_counters_read(pstmo_edge_stream* stream, pstmo_edge_stream_counters* counters) PSTMO_EDGE_NOEXCEPT;

/* The sentence behind the stream's last failure; see pstmo_edge_engine_error_read. */
PSTMO_EDGE_API pstmo_edge_status pstmo_edge_stream_error_read(pstmo_edge_stream* stream, char* text,
                                                              size_t text_size) PSTMO_EDGE_NOEXCEPT;

#ifdef __cplusplus
} /* extern "C" */
#endif

#endif /* PSTMO_EDGE_H_ */
