#include "allocations.h"

#include <errno.h>
#include <stdatomic.h>
#include <stddef.h>

/* A program's own malloc takes the place of the C library's, for the C++ library too. These are what glibc's malloc is
 * called inside. */
void* __libc_malloc(size_t size);
void* __libc_calloc(size_t count, size_t size);
void* __libc_realloc(void* old, size_t size);
void* __libc_memalign(size_t alignment, size_t size);
void __libc_free(void* memory);

static atomic_uint_least64_t done, first_failure, last_failure, failed;
static atomic_int_least64_t live;

uint64_t allocations_count(void) { return atomic_load(&done); }
int64_t allocations_live(void) { return atomic_load(&live); }
uint64_t allocations_failed(void) { return atomic_load(&failed); }

void allocations_fail(uint64_t number, uint64_t more) {
  atomic_store(&failed, 0);
  const uint64_t first = number == 0 ? 0 : atomic_load(&done) + number;
  atomic_store(&last_failure, first + more);
  atomic_store(&first_failure, first);
}

/* Whether this allocation may go on. */
static int allowed(void) {
  const uint64_t number = atomic_fetch_add(&done, 1) + 1, first = atomic_load(&first_failure);
  if (first == 0 || number < first || number > atomic_load(&last_failure)) return 1;
  atomic_fetch_add(&failed, 1);
  errno = ENOMEM;
  return 0;
}

static void* counted(void* memory) {
  if (memory != NULL) atomic_fetch_add(&live, 1);
  return memory;
}

#pragma GCC visibility push(default) /* hidden symbols take nobody's place */

void* malloc(size_t size) { return allowed() ? counted(__libc_malloc(size)) : NULL; }

void* calloc(size_t count, size_t size) { return allowed() ? counted(__libc_calloc(count, size)) : NULL; }

void* realloc(void* old, size_t size) {
  if (!allowed()) return NULL;
  void* memory = __libc_realloc(old, size);
  return old == NULL ? counted(memory) : memory;
}

void* memalign(size_t alignment, size_t size) { return allowed() ? counted(__libc_memalign(alignment, size)) : NULL; }

void* aligned_alloc(size_t alignment, size_t size) { return memalign(alignment, size); }

int posix_memalign(void** memory, size_t alignment, size_t size) {
  void* got = memalign(alignment, size);
  if (got == NULL) return ENOMEM;
  *memory = got;
  return 0;
}

void free(void* memory) {
  if (memory != NULL) atomic_fetch_sub(&live, 1);
  __libc_free(memory);
}

#pragma GCC visibility pop
