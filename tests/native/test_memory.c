/* Memory: none is taken after create, every allocation is made to fail in turn, nothing is lost.
 * argv[1]: a tiny bundle, argv[2]: try each step-th allocation only (an emulator takes long), argv[3]: a stand-in for
 * the CUDA driver, and the bundle is opened there. */
#include <dlfcn.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "allocations.h"
#include "check.h"
#include "pstmo_edge.h"

enum { FRAMES = 9, WINDOW = FRAMES * PSTMO_EDGE_JOINTS * 2, POSE = PSTMO_EDGE_JOINTS * 3 };

static const char *path, *driver;

static void frame_at(int number, float frame[POSE]) {
  for (int j = 0; j < PSTMO_EDGE_JOINTS; ++j) {
    frame[3 * j] = (float)(300 + (number * 7 + j * 31) % 900);
    frame[3 * j + 1] = (number + j) % 37 == 0 ? NAN : (float)(200 + (number * 5 + j * 47) % 700);
    frame[3 * j + 2] = (number / 100) % 7 == 6 ? 0.0f : 0.9f; /* nobody there for a while, now and then */
  }
}

/* Times with jitter, holes, repeats and a clock that is set. */
static double time_at(int number) {
  const double time = number / 50.0 + (number % 5) * 0.001 + number / 200 * 3.0;
  if (number % 97 == 5) return time - 0.03;
  if (number % 501 == 7) return NAN;
  return number % 1000 == 999 ? 1.0 : time;
}

/* Open, create, push, read, close; the first status that is not OK (rejected frames do not count). */
static pstmo_edge_status whole_life(int frames, uint64_t* allocations_of_frames) {
  static float keypoints[WINDOW], poses[POSE], frame[POSE];
  pstmo_edge_engine_options options = PSTMO_EDGE_ENGINE_OPTIONS_INIT;
  pstmo_edge_stream_options camera = PSTMO_EDGE_STREAM_OPTIONS_INIT;
  pstmo_edge_engine* engine = NULL;
  pstmo_edge_stream* stream = NULL;
  char error[256] = "";
  options.threads = 2;
  if (driver != NULL) options.device = "cuda", options.driver = driver, options.max_batch = 2;
  camera.image_width = 1280, camera.image_height = 720, camera.fps = 50, camera.lookahead = 2;
  pstmo_edge_status status = pstmo_edge_engine_open(path, &options, &engine, error, sizeof error);
  CHECK((status == PSTMO_EDGE_STATUS_OK) == (engine != NULL));
  CHECK((status == PSTMO_EDGE_STATUS_OK) == (error[0] == '\0'));
  if (status != PSTMO_EDGE_STATUS_OK) return status;
  status = pstmo_edge_stream_create(engine, &camera, &stream);
  CHECK((status == PSTMO_EDGE_STATUS_OK) == (stream != NULL));
  const uint64_t before = allocations_count();
  if (status == PSTMO_EDGE_STATUS_OK) status = pstmo_edge_engine_infer(engine, keypoints, WINDOW, 1, poses, POSE);
  for (int i = 0; i < frames && status == PSTMO_EDGE_STATUS_OK; ++i) {
    pstmo_edge_pose pose = PSTMO_EDGE_POSE_INIT;
    frame_at(i, frame);
    const pstmo_edge_status pushed = pstmo_edge_stream_push(stream, frame, POSE, time_at(i));
    if (pushed != PSTMO_EDGE_STATUS_TIMESTAMP_REJECTED) status = pushed;
    while (i % 300 < 250 && pstmo_edge_stream_read(stream, &pose) == PSTMO_EDGE_STATUS_OK) {
    }
    if (i % 400 == 399) pstmo_edge_stream_finish(stream);
    pstmo_edge_stream_error_read(stream, error, sizeof error);
  }
  *allocations_of_frames = allocations_count() - before;
  pstmo_edge_stream_close(stream);
  pstmo_edge_engine_close(engine);
  return status;
}

static void frames_allocate_nothing(void) {
  uint64_t allocations = 1;
  const int64_t live = allocations_live();
  CHECK(whole_life(6000, &allocations) == PSTMO_EDGE_STATUS_OK);
  CHECK(allocations == 0);
  CHECK(allocations_live() == live);
  printf("6000 frames: %llu allocations\n", (unsigned long long)allocations);
}

/* Where the driver is what gets no memory, it says so, or cannot be loaded. */
static int is_expected(pstmo_edge_status status) {
  const int of_driver = status == PSTMO_EDGE_STATUS_DEVICE_FAILED || status == PSTMO_EDGE_STATUS_DEVICE_UNAVAILABLE;
  return status == PSTMO_EDGE_STATUS_OUT_OF_MEMORY || (driver != NULL && of_driver);
}

/* A driver that computes nothing, so that it allocates nothing either. */
static void set_up_driver(void) {
  void (*set)(int, int, int, size_t, int) = NULL;
  void* library = driver == NULL ? NULL : dlopen(driver, RTLD_NOW | RTLD_LOCAL);
  if (library == NULL) return;
  *(void**)&set = dlsym(library, "standin_set");
  CHECK(set != NULL);
  if (set != NULL) set(87, 1, 12060, (size_t)1 << 30, 0);
}

/* Allocation 1, 2, 3, ... (or each `step`-th) fails, alone or with all that follow, until one life needs none of them.
 */
static void every_allocation_may_fail(uint64_t more, uint64_t step) {
  uint64_t number = 1 - step, tried = 0, ignored = 0, swallowed = 0;
  pstmo_edge_status status;
  do {
    const int64_t live = allocations_live();
    number += step;
    ++tried;
    allocations_fail(number, more);
    status = whole_life(3, &ignored);
    const uint64_t failed = allocations_failed();
    allocations_fail(0, 0);
    CHECK(allocations_live() == live);
    if (failed == 0) break;
    CHECK(is_expected(status));
    if (status == PSTMO_EDGE_STATUS_OK) ++swallowed;
  } while (number < 100000);
  CHECK(status == PSTMO_EDGE_STATUS_OK);
  CHECK(number > 100); /* else nothing was tried */
  printf("%llu allocations made to fail in turn, %llu swallowed\n", (unsigned long long)tried - 1,
         (unsigned long long)swallowed);
}

int main(int argc, char** argv) {
  uint64_t ignored;
  const uint64_t step = argc > 2 ? strtoull(argv[2], NULL, 10) : 1;
  path = argc > 1 ? argv[1] : "";
  driver = argc > 3 ? argv[3] : NULL;
  set_up_driver();
  CHECK(whole_life(3, &ignored) == PSTMO_EDGE_STATUS_OK); /* what the C library keeps for itself is taken now */
  frames_allocate_nothing();
  every_allocation_may_fail(0, step);
  every_allocation_may_fail(UINT64_MAX / 2, step);
  return check_result();
}
