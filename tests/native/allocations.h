/* Counts what the whole process allocates, and makes one allocation fail. Needs glibc; not with a sanitizer. */
#ifndef PSTMO_EDGE_TESTS_NATIVE_ALLOCATIONS_H_
#define PSTMO_EDGE_TESTS_NATIVE_ALLOCATIONS_H_

#include <stdint.h>

/* Allocations since the program began: malloc, calloc, realloc, aligned ones, and operator new behind them. */
uint64_t allocations_count(void);

/* Allocations not freed yet. */
int64_t allocations_live(void);

/* The `number`-th allocation from now on fails (from 1), and then `more` after it; 0: none does. */
void allocations_fail(uint64_t number, uint64_t more);

/* How many were made to fail since then. */
uint64_t allocations_failed(void);

#endif /* PSTMO_EDGE_TESTS_NATIVE_ALLOCATIONS_H_ */
