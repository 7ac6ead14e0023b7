/* soak BUNDLE FRAMES: frames as a camera brings them, with what goes wrong over years, through one stream.
 * Resident memory may grow by 1 MB at most, nothing may be allocated, and every result must be finite and flagged. */
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "allocations.h"
#include "check.h"
#include "pstmo_edge.h"

enum { POSE = PSTMO_EDGE_JOINTS * 3 };

static uint32_t state = 2463534242u;

static uint32_t random_bits(void) {
  state ^= state << 13, state ^= state >> 17, state ^= state << 5;
  return state;
}

static int one_in(uint32_t n) { return random_bits() % n == 0; }

static long resident_bytes(void) {
  long pages = 0;
  FILE* file = fopen("/proc/self/statm", "r");
  if (file == NULL || fscanf(file, "%*d %ld", &pages) != 1) pages = 0;
  if (file != NULL) fclose(file);
  return pages * sysconf(_SC_PAGESIZE);
}

static void frame_at(uint64_t number, int person, float frame[POSE]) {
  const float bad[] = {NAN, INFINITY, -INFINITY, 1e38f, -1e30f};
  for (int j = 0; j < PSTMO_EDGE_JOINTS; ++j) {
    frame[3 * j] = (float)(300 + 400 * person) + (float)((number * 3 + (uint64_t)j * 31) % 300);
    frame[3 * j + 1] = (float)(200 + (number * 2 + (uint64_t)j * 47) % 700);
    frame[3 * j + 2] = 0.9f;
    if (one_in(60)) frame[3 * j + 2] = 0.1f;
    if (one_in(400)) frame[3 * j + (int)(random_bits() % 3)] = bad[random_bits() % 5];
  }
}

int main(int argc, char** argv) {
  if (argc < 3) return fprintf(stderr, "soak BUNDLE FRAMES\n"), 2;
  const uint64_t frames = strtoull(argv[2], NULL, 10);
  pstmo_edge_engine_options options = PSTMO_EDGE_ENGINE_OPTIONS_INIT;
  pstmo_edge_stream_options camera = PSTMO_EDGE_STREAM_OPTIONS_INIT;
  pstmo_edge_engine* engine = NULL;
  pstmo_edge_stream* stream = NULL;
  char error[256] = "";
  options.threads = 1;
  camera.image_width = 1920, camera.image_height = 1080, camera.fps = 50, camera.lookahead = 1;
  CHECK(pstmo_edge_engine_open(argv[1], &options, &engine, error, sizeof error) == PSTMO_EDGE_STATUS_OK);
  CHECK(pstmo_edge_stream_create(engine, &camera, &stream) == PSTMO_EDGE_STATUS_OK);
  if (stream == NULL) return fprintf(stderr, "%s\n", error), 1;

  uint64_t allocations = 0, not_finite = 0, unflagged = 0, results = 0, by_flag[16] = {0};
  long resident = 0;
  double time = 0;
  int away = 0, person = 0;
  for (uint64_t i = 0; i < frames; ++i) {
    float frame[POSE];
    pstmo_edge_pose pose = PSTMO_EDGE_POSE_INIT;
    if (i == frames / 10) { /* what is touched for the first time has been touched */
      resident = resident_bytes();
      allocations = allocations_count(); /* reading the former allocates */
    }
    time += 0.02 + 0.0001 * (double)(random_bits() % 41) - 0.002;
    if (one_in(500)) time += 0.001 * (double)(random_bits() % 900);     /* a hole */
    if (one_in(20000)) time = 0.001 * (double)(random_bits() % 100000); /* the clock is set */
    if (one_in(3000)) person = !person;                                 /* another person */
    if (away == 0 && one_in(2000)) away = (int)(random_bits() % 100);
    frame_at(i, person, frame);
    if (away > 0) --away;
    for (int j = 0; away > 0 && j < PSTMO_EDGE_JOINTS; ++j) frame[3 * j + 2] = 0;
    double stamp = time;
    if (one_in(1000)) stamp = one_in(2) ? NAN : time - 0.05; /* repeated, out of order or none */
    const pstmo_edge_status pushed = pstmo_edge_stream_push(stream, frame, POSE, stamp);
    if (pushed != PSTMO_EDGE_STATUS_OK) CHECK(pushed == PSTMO_EDGE_STATUS_TIMESTAMP_REJECTED);
    if (one_in(50)) continue; /* the program was slow */
    while (pstmo_edge_stream_read(stream, &pose) == PSTMO_EDGE_STATUS_OK) {
      ++results;
      ++by_flag[pose.flags & 15];
      for (int k = 0; k < POSE; ++k) not_finite += isfinite(pose.joints[k / 3][k % 3]) ? 0 : 1;
      const int valid = (pose.flags & PSTMO_EDGE_POSE_VALID) != 0;
      const int filled = pose.missing != 0 || pose.filled_frames != 0;
      if (pose.flags == 0 || (valid && (pose.flags != PSTMO_EDGE_POSE_VALID || filled))) ++unflagged;
    }
  }
  allocations = allocations_count() - allocations;
  resident = resident_bytes() - resident;
  pstmo_edge_stream_counters counters = PSTMO_EDGE_STREAM_COUNTERS_INIT;
  CHECK(pstmo_edge_stream_counters_read(stream, &counters) == PSTMO_EDGE_STATUS_OK);
  CHECK(counters.received == frames && counters.delivered == results);
  CHECK(counters.received == counters.delivered + counters.dropped + counters.rejected + counters.pending);
  CHECK(allocations == 0);
  CHECK(resident < 1 << 20);
  CHECK(not_finite == 0 && unflagged == 0);
  CHECK(results > frames / 2 && by_flag[1] > 0 && counters.gaps > 0 && counters.rejected > 0);
  printf(
      "{\"frames\": %llu, \"results\": %llu, \"valid\": %llu, \"dropped\": %llu, \"rejected\": %llu, \"gaps\": %llu, "
      "\"allocations\": %llu, \"resident_growth_bytes\": %ld, \"not_finite\": %llu, \"unflagged\": %llu}\n",
      (unsigned long long)frames, (unsigned long long)results, (unsigned long long)by_flag[1],
      (unsigned long long)counters.dropped, (unsigned long long)counters.rejected, (unsigned long long)counters.gaps,
      (unsigned long long)allocations, resident, (unsigned long long)not_finite, (unsigned long long)unflagged);
  pstmo_edge_stream_close(stream);
  pstmo_edge_engine_close(engine);
  return check_result();
}
