/* The C ABI as a C program meets it: what works, and every wrong use. argv[1]: a tiny bundle. */
#include <float.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "check.h"
#include "pstmo_edge.h"

enum { FRAMES = 9, JOINTS = PSTMO_EDGE_JOINTS, WINDOW = FRAMES * JOINTS * 2, POSE = JOINTS * 3 };

static pstmo_edge_engine* open_engine(const char* path) {
  pstmo_edge_engine* engine = NULL;
  char error[256] = "";
  CHECK(pstmo_edge_engine_open(path, NULL, &engine, error, sizeof error) == PSTMO_EDGE_STATUS_OK);
  CHECK(engine != NULL);
  if (engine == NULL) {
    fprintf(stderr, "%s\n", error);
    exit(1);
  }
  return engine;
}

static pstmo_edge_stream_options camera(void) {
  pstmo_edge_stream_options options = PSTMO_EDGE_STREAM_OPTIONS_INIT;
  options.image_width = 1920;
  options.image_height = 1080;
  options.fps = 50;
  return options;
}

static void fill_frame(float frame[POSE], int number) {
  for (int j = 0; j < JOINTS; ++j) {
    frame[3 * j] = 900.0f + 20.0f * (float)(j % 5) + (float)number;
    frame[3 * j + 1] = 300.0f + 30.0f * (float)j;
    frame[3 * j + 2] = 0.9f;
  }
}

static void every_status_has_a_sentence(void) {
  for (pstmo_edge_status status = 0; status <= PSTMO_EDGE_STATUS_DEVICE_FAILED; ++status) {
    CHECK(strcmp(pstmo_edge_status_describe(status), "unknown status") != 0);
    for (pstmo_edge_status other = 0; other < status; ++other) {
      CHECK(strcmp(pstmo_edge_status_describe(status), pstmo_edge_status_describe(other)) != 0);
    }
  }
  CHECK(strcmp(pstmo_edge_status_describe(-1), "unknown status") == 0);
  CHECK(strcmp(pstmo_edge_status_describe(PSTMO_EDGE_STATUS_DEVICE_FAILED + 1), "unknown status") == 0);
}

static void null_is_refused(pstmo_edge_engine* engine, pstmo_edge_stream* stream) {
  pstmo_edge_engine* other = NULL;
  pstmo_edge_stream* none = NULL;
  pstmo_edge_stream_options options = camera();
  float values[WINDOW] = {0};
  char text[8] = "before";
  CHECK(pstmo_edge_engine_open(NULL, NULL, &other, NULL, 0) == PSTMO_EDGE_STATUS_NULL_ARGUMENT);
  CHECK(pstmo_edge_engine_open("x", NULL, NULL, text, sizeof text) == PSTMO_EDGE_STATUS_NULL_ARGUMENT);
  CHECK(strcmp(text, "a requi") == 0); /* cut, with its closing zero */
  pstmo_edge_engine_close(NULL);
  pstmo_edge_stream_close(NULL);
  CHECK(pstmo_edge_engine_info_read(NULL, NULL) == PSTMO_EDGE_STATUS_NULL_ARGUMENT);
  CHECK(pstmo_edge_engine_info_read(engine, NULL) == PSTMO_EDGE_STATUS_NULL_ARGUMENT);
  CHECK(pstmo_edge_engine_joint_describe(NULL, 0) == NULL);
  CHECK(pstmo_edge_engine_infer(NULL, values, WINDOW, 1, values, POSE) == PSTMO_EDGE_STATUS_NULL_ARGUMENT);
  CHECK(pstmo_edge_engine_infer(engine, NULL, WINDOW, 1, values, POSE) == PSTMO_EDGE_STATUS_NULL_ARGUMENT);
  CHECK(pstmo_edge_engine_infer(engine, values, WINDOW, 1, NULL, POSE) == PSTMO_EDGE_STATUS_NULL_ARGUMENT);
  CHECK(pstmo_edge_engine_error_read(NULL, text, sizeof text) == PSTMO_EDGE_STATUS_NULL_ARGUMENT);
  CHECK(pstmo_edge_engine_error_read(engine, NULL, 8) == PSTMO_EDGE_STATUS_NULL_ARGUMENT);
  CHECK(pstmo_edge_engine_error_read(engine, text, 0) == PSTMO_EDGE_STATUS_NULL_ARGUMENT);
  CHECK(pstmo_edge_stream_create(NULL, &options, &none) == PSTMO_EDGE_STATUS_NULL_ARGUMENT);
  CHECK(pstmo_edge_stream_create(engine, NULL, &none) == PSTMO_EDGE_STATUS_NULL_ARGUMENT);
  CHECK(pstmo_edge_stream_create(engine, &options, NULL) == PSTMO_EDGE_STATUS_NULL_ARGUMENT);
  CHECK(none == NULL);
  CHECK(pstmo_edge_stream_push(NULL, values, POSE, 0) == PSTMO_EDGE_STATUS_NULL_ARGUMENT);
  CHECK(pstmo_edge_stream_push(stream, NULL, POSE, 0) == PSTMO_EDGE_STATUS_NULL_ARGUMENT);
  CHECK(pstmo_edge_stream_finish(NULL) == PSTMO_EDGE_STATUS_NULL_ARGUMENT);
  CHECK(pstmo_edge_stream_read(NULL, NULL) == PSTMO_EDGE_STATUS_NULL_ARGUMENT);
  CHECK(pstmo_edge_stream_read(stream, NULL) == PSTMO_EDGE_STATUS_NULL_ARGUMENT);
  CHECK(pstmo_edge_stream_counters_read(NULL, NULL) == PSTMO_EDGE_STATUS_NULL_ARGUMENT);
  CHECK(pstmo_edge_stream_counters_read(stream, NULL) == PSTMO_EDGE_STATUS_NULL_ARGUMENT);
  CHECK(pstmo_edge_stream_error_read(NULL, text, 8) == PSTMO_EDGE_STATUS_NULL_ARGUMENT);
  CHECK(pstmo_edge_stream_error_read(stream, NULL, 8) == PSTMO_EDGE_STATUS_NULL_ARGUMENT);
  CHECK(pstmo_edge_version_read(NULL) == PSTMO_EDGE_STATUS_NULL_ARGUMENT);
  CHECK(pstmo_edge_cpu_features_read(NULL) == PSTMO_EDGE_STATUS_NULL_ARGUMENT);
}

static void small_structs_are_refused_and_left_alone(pstmo_edge_engine* engine, pstmo_edge_stream* stream,
                                                     const char* path) {
  pstmo_edge_engine_options engine_options = PSTMO_EDGE_ENGINE_OPTIONS_INIT;
  pstmo_edge_engine* other = NULL;
  pstmo_edge_stream* none = NULL;
  engine_options.size = (uint32_t)offsetof(pstmo_edge_engine_options, device); /* its first version */
  engine_options.device = "nonsense behind the end";
  CHECK(pstmo_edge_engine_open(path, &engine_options, &other, NULL, 0) == PSTMO_EDGE_STATUS_OK);
  pstmo_edge_engine_close(other);
  other = NULL;
  engine_options.size -= 1;
  CHECK(pstmo_edge_engine_open(path, &engine_options, &other, NULL, 0) == PSTMO_EDGE_STATUS_STRUCT_TOO_SMALL);
  CHECK(other == NULL);
  pstmo_edge_stream_options options = camera();
  options.size = 4;
  CHECK(pstmo_edge_stream_create(engine, &options, &none) == PSTMO_EDGE_STATUS_STRUCT_TOO_SMALL);
  pstmo_edge_engine_info info = PSTMO_EDGE_ENGINE_INFO_INIT;
  info.size -= 1;
  CHECK(pstmo_edge_engine_info_read(engine, &info) == PSTMO_EDGE_STATUS_STRUCT_TOO_SMALL);
  CHECK(info.frames == 0 && info.model == NULL);
  pstmo_edge_pose pose = PSTMO_EDGE_POSE_INIT;
  pose.size = 0;
  CHECK(pstmo_edge_stream_read(stream, &pose) == PSTMO_EDGE_STATUS_STRUCT_TOO_SMALL);
  pstmo_edge_stream_counters counters = PSTMO_EDGE_STREAM_COUNTERS_INIT;
  counters.size -= 8;
  CHECK(pstmo_edge_stream_counters_read(stream, &counters) == PSTMO_EDGE_STATUS_STRUCT_TOO_SMALL);
  counters.size = (uint32_t)sizeof counters + 64; /* a newer program's */
  CHECK(pstmo_edge_stream_counters_read(stream, &counters) == PSTMO_EDGE_STATUS_OK);
  CHECK(counters.size == sizeof counters + 64);
}

static void info_is_the_manifest(pstmo_edge_engine* engine) {
  pstmo_edge_engine_info info = PSTMO_EDGE_ENGINE_INFO_INIT;
  CHECK(pstmo_edge_engine_info_read(engine, &info) == PSTMO_EDGE_STATUS_OK);
  CHECK(info.size == sizeof info);
  CHECK(info.frames == FRAMES && info.joints == JOINTS && info.channels == 2 && info.t_downsample == 1);
  CHECK(info.target_index == 4 && info.lookahead_frames == 4 && info.threads >= 1);
  CHECK(info.frame_rate == 50.0 && info.lookahead_ms == 80.0);
  CHECK(strcmp(info.model, "p-stmo-s") == 0 && strcmp(info.precision, "fp32") == 0);
  CHECK(strcmp(info.skeleton, "human36m-17") == 0 && strcmp(info.pose_skeleton, "human36m-17") == 0);
  CHECK(strcmp(info.target, "generic") == 0 && strlen(info.isa) > 0);
  CHECK(strcmp(pstmo_edge_engine_joint_describe(engine, 2), "RKnee") == 0);
  CHECK(pstmo_edge_engine_joint_describe(engine, JOINTS) == NULL);
}

static void a_gpu_is_refused_in_one_line(const char* path) {
  const char* const devices[] = {"cuda", "cuda:99", "gpu"};
  for (size_t i = 0; i < sizeof devices / sizeof devices[0]; ++i) {
    pstmo_edge_engine_options options = PSTMO_EDGE_ENGINE_OPTIONS_INIT;
    pstmo_edge_engine* none = NULL;
    char error[512] = "";
    options.device = devices[i];
    const pstmo_edge_status status = pstmo_edge_engine_open(path, &options, &none, error, sizeof error);
    /* where there is a GPU too: the bundle holds no kernels for one */
    CHECK(status == (i < 2 ? PSTMO_EDGE_STATUS_DEVICE_UNAVAILABLE : PSTMO_EDGE_STATUS_INVALID_ARGUMENT));
    CHECK(none == NULL && strlen(error) > 20 && strchr(error, '\n') == NULL);
  }
}

static void bad_engine_options_are_refused(const char* path) {
  const char* const isas[] = {"avx1024", "", "AVX2"};
  pstmo_edge_engine_options options = PSTMO_EDGE_ENGINE_OPTIONS_INIT;
  pstmo_edge_engine* engine = NULL;
  char error[256] = "";
  for (size_t i = 0; i < sizeof isas / sizeof *isas; ++i) {
    options.isa = isas[i];
    CHECK(pstmo_edge_engine_open(path, &options, &engine, error, sizeof error) == PSTMO_EDGE_STATUS_INVALID_ARGUMENT);
    CHECK(strstr(error, "use auto, portable") != NULL);
  }
#if defined(__x86_64__)
  options.isa = "neon";
#else
  options.isa = "avx2";
#endif
  CHECK(pstmo_edge_engine_open(path, &options, &engine, error, sizeof error) == PSTMO_EDGE_STATUS_CPU_UNSUPPORTED);
  options.isa = NULL;
  options.threads = 65;
  CHECK(pstmo_edge_engine_open(path, &options, &engine, error, sizeof error) == PSTMO_EDGE_STATUS_INVALID_ARGUMENT);
  CHECK(strstr(error, "65 threads") != NULL);
  CHECK(engine == NULL);
  options.threads = 1;
  options.isa = "portable";
  CHECK(pstmo_edge_engine_open(path, &options, &engine, error, sizeof error) == PSTMO_EDGE_STATUS_OK);
  pstmo_edge_engine_close(engine);
}

static void bad_stream_options_are_refused(pstmo_edge_engine* engine) {
  pstmo_edge_stream_options wrong[16];
  size_t count = 0;
  for (size_t i = 0; i < 16; ++i) wrong[i] = camera();
  wrong[count++].image_width = 0;
  wrong[count++].image_height = 65537;
  wrong[count++].lookahead = 5;
  wrong[count++].lookahead = -2;
  wrong[count++].fps = 0.5;
  wrong[count++].fps = NAN;
  wrong[count++].fps = 1001;
  wrong[count++].max_gap = 0;
  wrong[count++].max_gap = NAN;
  wrong[count++].max_gap = 11;
  wrong[count++].min_confidence = NAN;
  wrong[count++].min_confidence = -1;
  wrong[count++].backlog = 0;
  wrong[count++].backlog = 5000;
  wrong[count++].skeleton = "coco-17";
  for (size_t i = 0; i < count; ++i) {
    pstmo_edge_stream* stream = NULL;
    char text[256] = "";
    CHECK(pstmo_edge_stream_create(engine, &wrong[i], &stream) == PSTMO_EDGE_STATUS_INVALID_ARGUMENT);
    CHECK(stream == NULL);
    CHECK(pstmo_edge_engine_error_read(engine, text, sizeof text) == PSTMO_EDGE_STATUS_OK && strlen(text) > 20);
  }
}

static void infer_checks_sizes_and_values(pstmo_edge_engine* engine) {
  static float keypoints[2 * WINDOW], poses[2 * POSE], again[2 * POSE];
  for (int i = 0; i < 2 * WINDOW; ++i) keypoints[i] = 0.4f * sinf((float)i);
  CHECK(pstmo_edge_engine_infer(engine, keypoints, 2 * WINDOW, 2, poses, 2 * POSE) == PSTMO_EDGE_STATUS_OK);
  for (int i = 0; i < 2 * POSE; ++i) CHECK(isfinite(poses[i]));
  CHECK(pstmo_edge_engine_infer(engine, keypoints + WINDOW, WINDOW, 1, again, POSE) == PSTMO_EDGE_STATUS_OK);
  CHECK(memcmp(again, poses + POSE, POSE * sizeof(float)) == 0); /* a window does not depend on its batch */

  memset(again, 7, sizeof again);
  memcpy(poses, again, sizeof poses);
  const size_t wrong[][3] = {{0, 0, 0},
                             {WINDOW, 2, POSE},
                             {2 * WINDOW, 2, POSE},
                             {2 * WINDOW - 1, 2, 2 * POSE},
                             {SIZE_MAX, 2, 2 * POSE},
                             {WINDOW, 4294967295u, POSE}};
  for (size_t i = 0; i < sizeof wrong / sizeof *wrong; ++i) {
    CHECK(pstmo_edge_engine_infer(engine, keypoints, wrong[i][0], (uint32_t)wrong[i][1], poses, wrong[i][2]) ==
          PSTMO_EDGE_STATUS_INVALID_ARGUMENT);
  }
  const float bad[] = {NAN, INFINITY, -INFINITY, FLT_MAX, 1001.0f};
  for (size_t i = 0; i < sizeof bad / sizeof *bad; ++i) {
    char text[256] = "";
    const float kept = keypoints[2 * WINDOW - 1];
    keypoints[2 * WINDOW - 1] = bad[i];
    CHECK(pstmo_edge_engine_infer(engine, keypoints, 2 * WINDOW, 2, poses, 2 * POSE) == PSTMO_EDGE_STATUS_NOT_FINITE);
    CHECK(pstmo_edge_engine_error_read(engine, text, sizeof text) == PSTMO_EDGE_STATUS_OK);
    CHECK(strstr(text, "NaN") != NULL);
    keypoints[2 * WINDOW - 1] = kept;
  }
  CHECK(memcmp(poses, again, sizeof poses) == 0); /* nothing was written */
}

static void a_stream_gives_poses_and_counts(pstmo_edge_engine* engine, pstmo_edge_stream* stream) {
  float frame[POSE];
  pstmo_edge_pose pose = PSTMO_EDGE_POSE_INIT;
  pstmo_edge_stream_counters counters = PSTMO_EDGE_STREAM_COUNTERS_INIT;
  char text[256] = "";
  (void)engine;
  CHECK(pstmo_edge_stream_read(stream, &pose) == PSTMO_EDGE_STATUS_NO_RESULT);
  for (int i = 0; i < 20; ++i) {
    fill_frame(frame, i);
    CHECK(pstmo_edge_stream_push(stream, frame, POSE, 100.0 + i / 50.0) == PSTMO_EDGE_STATUS_OK);
    CHECK(pstmo_edge_stream_read(stream, &pose) == PSTMO_EDGE_STATUS_OK);
    CHECK(pose.size == sizeof pose && pose.frame == (uint64_t)i && pose.timestamp == 100.0 + i / 50.0);
    CHECK(pose.flags == PSTMO_EDGE_POSE_VALID && pose.missing == 0 && pose.lookahead_ms == 0);
    for (int j = 0; j < JOINTS; ++j) CHECK(isfinite(pose.joints[j][0] + pose.joints[j][1] + pose.joints[j][2]));
    CHECK(pstmo_edge_stream_read(stream, &pose) == PSTMO_EDGE_STATUS_NO_RESULT);
  }
  const double refused[] = {NAN, INFINITY, -INFINITY, 1e11, 100.0 + 19 / 50.0, 100.3};
  for (size_t i = 0; i < sizeof refused / sizeof *refused; ++i) {
    CHECK(pstmo_edge_stream_push(stream, frame, POSE, refused[i]) == PSTMO_EDGE_STATUS_TIMESTAMP_REJECTED);
    CHECK(pstmo_edge_stream_error_read(stream, text, sizeof text) == PSTMO_EDGE_STATUS_OK);
    CHECK(strstr(text, "timestamp") != NULL);
  }
  CHECK(pstmo_edge_stream_push(stream, frame, POSE - 1, 200.0) == PSTMO_EDGE_STATUS_INVALID_ARGUMENT);
  CHECK(pstmo_edge_stream_finish(stream) == PSTMO_EDGE_STATUS_OK);
  CHECK(pstmo_edge_stream_counters_read(stream, &counters) == PSTMO_EDGE_STATUS_OK);
  CHECK(counters.received == 26 && counters.delivered == 20 && counters.rejected == 6);
  CHECK(counters.dropped == 0 && counters.pending == 0 && counters.gaps == 0);
}

static void an_engine_outlives_its_handle(const char* path) {
  pstmo_edge_engine* engine = open_engine(path);
  pstmo_edge_stream_options options = camera();
  pstmo_edge_stream *one = NULL, *two = NULL;
  float frame[POSE];
  pstmo_edge_pose pose = PSTMO_EDGE_POSE_INIT;
  CHECK(pstmo_edge_stream_create(engine, &options, &one) == PSTMO_EDGE_STATUS_OK);
  CHECK(pstmo_edge_stream_create(engine, &options, &two) == PSTMO_EDGE_STATUS_OK);
  pstmo_edge_engine_close(engine);
  fill_frame(frame, 0);
  pstmo_edge_stream_close(one);
  CHECK(pstmo_edge_stream_push(two, frame, POSE, 0) == PSTMO_EDGE_STATUS_OK);
  CHECK(pstmo_edge_stream_read(two, &pose) == PSTMO_EDGE_STATUS_OK);
  pstmo_edge_stream_close(two);
}

int main(int argc, char** argv) {
  const char* path = argc > 1 ? argv[1] : "";
  pstmo_edge_engine* engine = open_engine(path);
  pstmo_edge_stream_options options = camera();
  pstmo_edge_stream* stream = NULL;
  options.skeleton = "human36m-17";
  CHECK(pstmo_edge_stream_create(engine, &options, &stream) == PSTMO_EDGE_STATUS_OK);
  every_status_has_a_sentence();
  null_is_refused(engine, stream);
  small_structs_are_refused_and_left_alone(engine, stream, path);
  info_is_the_manifest(engine);
  bad_engine_options_are_refused(path);
  a_gpu_is_refused_in_one_line(path);
  bad_stream_options_are_refused(engine);
  infer_checks_sizes_and_values(engine);
  a_stream_gives_poses_and_counts(engine, stream);
  an_engine_outlives_its_handle(path);
  pstmo_edge_stream_close(stream);
  pstmo_edge_engine_close(engine);
  return check_result();
}
