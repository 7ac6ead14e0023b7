/* A camera loop in C: keypoints come in, poses go out.
 *
 *   camera BUNDLE KEYPOINTS.csv WIDTH HEIGHT FPS
 *
 * Each line of the file is one frame: a timestamp in seconds, then x, y (pixels) and confidence of 17 joints in the
 * order of the engine's skeleton. In a camera the same loop is fed by a detector. Compile it against the installed
 * library:
 *
 *   cc -std=c11 camera.c -o camera $(pkg-config --cflags --libs pstmo_edge)
 */
#include <pstmo_edge.h>
#include <stdio.h>
#include <stdlib.h>

enum { FRAME = PSTMO_EDGE_JOINTS * 3 };

/* One line of the file; 0 at its end. A line that cannot be read is a frame whose joints are all missing. */
static int read_frame(FILE* file, double* timestamp, float frame[FRAME]) {
  if (fscanf(file, " %lf", timestamp) != 1) return 0;
  for (int i = 0; i < FRAME; ++i) {
    if (fscanf(file, " , %f", &frame[i]) != 1) frame[i] = 0.0f;
  }
  return 1;
}

static void print_pose(const pstmo_edge_pose* pose) {
  printf("%.6f %s", pose->timestamp, pose->flags == PSTMO_EDGE_POSE_VALID ? "valid" : "doubtful");
  for (int j = 0; j < PSTMO_EDGE_JOINTS; ++j) {
    printf(" %.4f %.4f %.4f", (double)pose->joints[j][0], (double)pose->joints[j][1], (double)pose->joints[j][2]);
  }
  printf("\n");
}

/* Every pose that is ready: one a frame as a rule, many after a gap and at the end. */
static pstmo_edge_status print_ready(pstmo_edge_stream* stream) {
  pstmo_edge_pose pose = PSTMO_EDGE_POSE_INIT;
  pstmo_edge_status status;
  while ((status = pstmo_edge_stream_read(stream, &pose)) == PSTMO_EDGE_STATUS_OK) print_pose(&pose);
  return status == PSTMO_EDGE_STATUS_NO_RESULT ? PSTMO_EDGE_STATUS_OK : status;
}

static int run(pstmo_edge_stream* stream, FILE* file) {
  double timestamp;
  float frame[FRAME];
  char error[256];
  while (read_frame(file, &timestamp, frame)) {
    pstmo_edge_status status = pstmo_edge_stream_push(stream, frame, FRAME, timestamp);
    if (status == PSTMO_EDGE_STATUS_TIMESTAMP_REJECTED) continue; /* counted by the library */
    if (status == PSTMO_EDGE_STATUS_OK) status = print_ready(stream);
    if (status != PSTMO_EDGE_STATUS_OK) {
      pstmo_edge_stream_error_read(stream, error, sizeof error);
      fprintf(stderr, "%s\n", error);
      return 1;
    }
  }
  pstmo_edge_stream_finish(stream);
  print_ready(stream);

  pstmo_edge_stream_counters counters = PSTMO_EDGE_STREAM_COUNTERS_INIT;
  pstmo_edge_stream_counters_read(stream, &counters);
  fprintf(stderr, "%llu frames: %llu poses, %llu dropped, %llu rejected\n", (unsigned long long)counters.received,
          (unsigned long long)counters.delivered, (unsigned long long)counters.dropped,
          (unsigned long long)counters.rejected);
  return 0;
}

int main(int argc, char** argv) {
  if (argc != 6) {
    fprintf(stderr, "usage: camera BUNDLE KEYPOINTS.csv WIDTH HEIGHT FPS\n");
    return 2;
  }
  FILE* file = fopen(argv[2], "r");
  if (file == NULL) {
    perror(argv[2]);
    return 1;
  }
  char error[256];
  pstmo_edge_engine* engine = NULL;
  if (pstmo_edge_engine_open(argv[1], NULL, &engine, error, sizeof error) != PSTMO_EDGE_STATUS_OK) {
    fprintf(stderr, "%s\n", error);
    fclose(file);
    return 1;
  }
  pstmo_edge_stream_options options = PSTMO_EDGE_STREAM_OPTIONS_INIT;
  options.image_width = (uint32_t)strtoul(argv[3], NULL, 10);
  options.image_height = (uint32_t)strtoul(argv[4], NULL, 10);
  options.fps = strtod(argv[5], NULL);
  pstmo_edge_stream* stream = NULL;
  int failed = 1;
  if (pstmo_edge_stream_create(engine, &options, &stream) == PSTMO_EDGE_STATUS_OK) {
    failed = run(stream, file);
  } else {
    pstmo_edge_engine_error_read(engine, error, sizeof error);
    fprintf(stderr, "%s\n", error);
  }
  pstmo_edge_stream_close(stream);
  pstmo_edge_engine_close(engine);
  fclose(file);
  return failed;
}
