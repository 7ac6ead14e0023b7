/* Threads: several handles at once are equal to one after the other; one handle from two threads answers BUSY and is
 * never corrupted. argv[1]: a tiny bundle, argv[2]: calls a thread. Run under ThreadSanitizer in CI. */
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#include "check.h"
#include "pstmo_edge.h"

enum { HANDLES = 8, FRAMES = 9, WINDOW = FRAMES * PSTMO_EDGE_JOINTS * 2, POSE = PSTMO_EDGE_JOINTS * 3 };

static const char* path;
static int calls;

static void frame_at(int number, float frame[POSE]) {
  for (int j = 0; j < PSTMO_EDGE_JOINTS; ++j) {
    frame[3 * j] = (float)(300 + (number * 7 + j * 31) % 900);
    frame[3 * j + 1] = (float)(200 + (number * 5 + j * 47) % 700);
    frame[3 * j + 2] = (number + j) % 29 == 0 ? 0.0f : 0.9f;
  }
}

static pstmo_edge_engine* open_engine(uint32_t threads) {
  pstmo_edge_engine_options options = PSTMO_EDGE_ENGINE_OPTIONS_INIT;
  pstmo_edge_engine* engine = NULL;
  options.threads = threads;
  if (pstmo_edge_engine_open(path, &options, &engine, NULL, 0) != PSTMO_EDGE_STATUS_OK) abort();
  return engine;
}

static pstmo_edge_stream* open_stream(pstmo_edge_engine* engine) {
  pstmo_edge_stream_options options = PSTMO_EDGE_STREAM_OPTIONS_INIT;
  pstmo_edge_stream* stream = NULL;
  options.image_width = 1280, options.image_height = 720, options.fps = 50;
  if (pstmo_edge_stream_create(engine, &options, &stream) != PSTMO_EDGE_STATUS_OK) abort();
  return stream;
}

/* One camera of its own; the result is a sum over the bits of all its poses. */
static void* run_camera(void* out) {
  pstmo_edge_engine* engine = open_engine(1 + (uint32_t)(size_t)out % 2);
  pstmo_edge_stream* stream = open_stream(engine);
  uint64_t hash = 1469598103934665603u;
  for (int i = 0; i < calls; ++i) {
    float frame[POSE];
    pstmo_edge_pose pose = PSTMO_EDGE_POSE_INIT;
    frame_at(i, frame);
    if (pstmo_edge_stream_push(stream, frame, POSE, i / 50.0) != PSTMO_EDGE_STATUS_OK) abort();
    if (pstmo_edge_stream_read(stream, &pose) != PSTMO_EDGE_STATUS_OK) abort();
    for (int k = 0; k < POSE; ++k) {
      uint32_t bits;
      memcpy(&bits, &pose.joints[k / 3][k % 3], sizeof bits);
      hash = (hash ^ bits) * 1099511628211u;
    }
  }
  pstmo_edge_stream_close(stream);
  pstmo_edge_engine_close(engine);
  return (void*)(size_t)hash;
}

static void many_handles_are_equal_to_one(void) {
  pthread_t threads[HANDLES];
  const void* expected = run_camera((void*)0);
  for (size_t i = 0; i < HANDLES; ++i) pthread_create(&threads[i], NULL, run_camera, (void*)i);
  for (size_t i = 0; i < HANDLES; ++i) {
    void* found = NULL;
    pthread_join(threads[i], &found);
    CHECK(found == expected);
  }
}

struct shared {
  pstmo_edge_engine* engine;
  pstmo_edge_stream* stream;
  float keypoints[WINDOW], expected[POSE];
  atomic_int ok, busy, wrong;
};

static void count(struct shared* shared, pstmo_edge_status status, int is_right) {
  if (status == PSTMO_EDGE_STATUS_BUSY) {
    atomic_fetch_add(&shared->busy, 1);
  } else if (is_right) {
    atomic_fetch_add(&shared->ok, 1);
  } else {
    atomic_fetch_add(&shared->wrong, 1);
  }
}

/* Two of these share one engine and one stream. */
static void* run_sharer(void* given) {
  struct shared* shared = given;
  for (int i = 0; i < calls; ++i) {
    float poses[POSE], frame[POSE];
    char text[64];
    pstmo_edge_pose pose = PSTMO_EDGE_POSE_INIT;
    pstmo_edge_stream_counters counters = PSTMO_EDGE_STREAM_COUNTERS_INIT;
    pstmo_edge_status status = pstmo_edge_engine_infer(shared->engine, shared->keypoints, WINDOW, 1, poses, POSE);
    count(shared, status, status == PSTMO_EDGE_STATUS_OK && memcmp(poses, shared->expected, sizeof poses) == 0);
    frame_at(i, frame);
    status = pstmo_edge_stream_push(shared->stream, frame, POSE, i / 50.0);
    count(shared, status, status == PSTMO_EDGE_STATUS_OK || status == PSTMO_EDGE_STATUS_TIMESTAMP_REJECTED);
    status = pstmo_edge_stream_read(shared->stream, &pose);
    count(shared, status, status == PSTMO_EDGE_STATUS_OK || status == PSTMO_EDGE_STATUS_NO_RESULT);
    status = pstmo_edge_stream_error_read(shared->stream, text, sizeof text);
    count(shared, status, status == PSTMO_EDGE_STATUS_OK);
    status = pstmo_edge_stream_counters_read(shared->stream, &counters);
    count(shared, status,
          counters.received == counters.delivered + counters.dropped + counters.rejected + counters.pending);
  }
  return NULL;
}

static void one_handle_from_two_threads(void) {
  static struct shared shared;
  pthread_t threads[2];
  shared.engine = open_engine(2);
  shared.stream = open_stream(shared.engine);
  for (int i = 0; i < WINDOW; ++i) shared.keypoints[i] = 0.001f * (float)(i % 700) - 0.3f;
  CHECK(pstmo_edge_engine_infer(shared.engine, shared.keypoints, WINDOW, 1, shared.expected, POSE) ==
        PSTMO_EDGE_STATUS_OK);
  for (int i = 0; i < 2; ++i) pthread_create(&threads[i], NULL, run_sharer, &shared);
  for (int i = 0; i < 2; ++i) pthread_join(threads[i], NULL);
  printf("calls a thread: %d\none handle, two threads: %d ok, %d busy, %d wrong\n", calls, shared.ok, shared.busy,
         shared.wrong);
  CHECK(shared.wrong == 0);
  CHECK(shared.ok + shared.busy == 10 * calls);
  CHECK(shared.ok > 0);
  pstmo_edge_stream_close(shared.stream);
  pstmo_edge_engine_close(shared.engine);
}

int main(int argc, char** argv) {
  path = argc > 1 ? argv[1] : "";
  calls = argc > 2 ? atoi(argv[2]) : 1000;
  many_handles_are_equal_to_one();
  one_handle_from_two_threads();
  return check_result();
}
