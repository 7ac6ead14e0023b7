/* footprint BUNDLE TRIES [MILLISECONDS]: what an engine costs a program that opens it, each time in a new process.
 * From open to the first pose of a stream that waits for nothing may take so long (0: any time, the default), and at
 * most 40 MB may be resident. Prints the worst of all tries. */
#define _POSIX_C_SOURCE 200809L /* clock_gettime, fork */
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "check.h"
#include "pstmo_edge.h"

enum { POSE = PSTMO_EDGE_JOINTS * 3, MOST_BYTES = 40000000 };

typedef struct {
  double open_ms, pose_ms; /* until the engine was open, until the first pose was read */
  long peak_bytes;
} cost;

static double now_ms(void) {
  struct timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  return (double)now.tv_sec * 1e3 + (double)now.tv_nsec / 1e6;
}

/* The most that was resident at any time. */
static long peak_bytes(void) {
  char line[128];
  long kilobytes = 0;
  FILE* file = fopen("/proc/self/status", "r");
  while (file != NULL && fgets(line, sizeof line, file) != NULL) {
    if (strncmp(line, "VmHWM:", 6) == 0) kilobytes = atol(line + 6);
  }
  if (file != NULL) fclose(file);
  return kilobytes * 1024;
}

static int first_pose(const char* path, cost* found) {
  pstmo_edge_engine_options options = PSTMO_EDGE_ENGINE_OPTIONS_INIT;
  pstmo_edge_stream_options camera = PSTMO_EDGE_STREAM_OPTIONS_INIT;
  pstmo_edge_pose pose = PSTMO_EDGE_POSE_INIT;
  pstmo_edge_engine* engine = NULL;
  pstmo_edge_stream* stream = NULL;
  char error[256] = "";
  float frame[POSE];
  for (int j = 0; j < PSTMO_EDGE_JOINTS; ++j) {
    frame[3 * j] = (float)(600 + j * 10), frame[3 * j + 1] = (float)(200 + j * 30), frame[3 * j + 2] = 0.9f;
  }
  options.threads = 2;
  camera.image_width = 1280, camera.image_height = 720, camera.fps = 50, camera.lookahead = 0;
  const double start = now_ms();
  if (pstmo_edge_engine_open(path, &options, &engine, error, sizeof error) != PSTMO_EDGE_STATUS_OK) {
    return fprintf(stderr, "%s\n", error), 1;
  }
  found->open_ms = now_ms() - start;
  int failed = pstmo_edge_stream_create(engine, &camera, &stream) != PSTMO_EDGE_STATUS_OK ||
               pstmo_edge_stream_push(stream, frame, POSE, 0.0) != PSTMO_EDGE_STATUS_OK ||
               pstmo_edge_stream_read(stream, &pose) != PSTMO_EDGE_STATUS_OK || !isfinite(pose.joints[1][0]);
  found->pose_ms = now_ms() - start;
  found->peak_bytes = peak_bytes();
  pstmo_edge_stream_close(stream);
  pstmo_edge_engine_close(engine);
  return failed;
}

/* In a child, which has nothing of what an engine before it left. */
static int in_a_process(const char* path, cost* found) {
  int ends[2], status = 1;
  if (pipe(ends) != 0) return 1;
  const pid_t child = fork();
  if (child == 0) {
    const int failed = first_pose(path, found);
    _exit(failed || write(ends[1], found, sizeof *found) != (ssize_t)sizeof *found);
  }
  const int whole = child > 0 && waitpid(child, &status, 0) == child && status == 0 &&
                    read(ends[0], found, sizeof *found) == (ssize_t)sizeof *found;
  close(ends[0]);
  close(ends[1]);
  return !whole;
}

int main(int argc, char** argv) {
  if (argc < 3) return fprintf(stderr, "footprint BUNDLE TRIES [MILLISECONDS]\n"), 2;
  const double limit_ms = argc > 3 ? atof(argv[3]) : 0;
  cost worst = {0, 0, 0};
  for (int i = atoi(argv[2]); i > 0; --i) {
    cost found = {0, 0, 0};
    CHECK(in_a_process(argv[1], &found) == 0);
    CHECK(found.peak_bytes > 0 && found.peak_bytes < MOST_BYTES);
    CHECK(limit_ms == 0 || found.pose_ms < limit_ms);
    worst.open_ms = fmax(worst.open_ms, found.open_ms), worst.pose_ms = fmax(worst.pose_ms, found.pose_ms);
    worst.peak_bytes = found.peak_bytes > worst.peak_bytes ? found.peak_bytes : worst.peak_bytes;
  }
  printf("{\"tries\": %d, \"open_ms\": %.1f, \"first_pose_ms\": %.1f, \"peak_resident_bytes\": %ld}\n", atoi(argv[2]),
         worst.open_ms, worst.pose_ms, worst.peak_bytes);
  return check_result();
}
