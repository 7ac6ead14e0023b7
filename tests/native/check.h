/* The whole test framework: CHECK counts and prints what failed, the test's main returns check_result(). */
#ifndef PSTMO_EDGE_TESTS_NATIVE_CHECK_H_
#define PSTMO_EDGE_TESTS_NATIVE_CHECK_H_

#include <stdio.h>

static int checks_done = 0;
static int checks_failed = 0;

#define CHECK(condition)                                                      \
  do {                                                                        \
    ++checks_done;                                                            \
    if (!(condition)) {                                                       \
      ++checks_failed;                                                        \
      fprintf(stderr, "%s:%d: failed: %s\n", __FILE__, __LINE__, #condition); \
    }                                                                         \
  } while (0)

/* Also fails where nothing was checked. */
static inline int check_result(void) {
  printf("%d checks, %d failed\n", checks_done, checks_failed);
  return checks_failed > 0 || checks_done == 0;
}

#endif /* PSTMO_EDGE_TESTS_NATIVE_CHECK_H_ */
