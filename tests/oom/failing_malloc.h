/* failing_malloc.h - a malloc of the test program's own, before the C library's: counts what is
 * outstanding, and refuses the allocation number `fail_at` while armed. Include it in one file of a
 * program without threads. */
#ifndef DS_TEST_FAILING_MALLOC_H
#define DS_TEST_FAILING_MALLOC_H

#include <errno.h>
#include <malloc.h>
#include <stdlib.h>
#include <string.h>

extern void *__libc_malloc(size_t);
extern void *__libc_calloc(size_t, size_t);
extern void *__libc_realloc(void *, size_t);
extern void *__libc_memalign(size_t, size_t);
extern void __libc_free(void *);

static long allocation, fail_at, outstanding; /* single-threaded */
static int armed;

static int refuse(void) {
  return armed && ++allocation == fail_at;
}

/* Nobody may count on what memory holds when it comes or after it has gone. The ends are enough, of
 * arenas of many megabytes: glibc's own MALLOC_PERTURB_ fills those whole, each time. */
static void spoil(void *p, size_t n, int byte) {
  enum { END = 16384 };
  if (!p) return;
  size_t end = n < END ? n : END;
  memset(p, byte, end);
  memset((char *)p + n - end, byte, end);
}

void *malloc(size_t n) {
  void *p = refuse() ? NULL : __libc_malloc(n);
  spoil(p, n, 0xa5);
  outstanding += p != NULL;
  return p;
}
void *calloc(size_t n, size_t size) {
  void *p = refuse() ? NULL : __libc_calloc(n, size);
  outstanding += p != NULL;
  return p;
}
void *realloc(void *old, size_t n) {
  if (refuse()) return NULL;
  void *p = __libc_realloc(old, n);
  outstanding += !old && p;
  return p;
}
void *aligned_alloc(size_t align, size_t n) {
  void *p = refuse() ? NULL : __libc_memalign(align, n);
  spoil(p, n, 0xa5);
  outstanding += p != NULL;
  return p;
}
int posix_memalign(void **out, size_t align, size_t n) {
  *out = aligned_alloc(align, n);
  return *out ? 0 : ENOMEM;
}
void free(void *p) {
  outstanding -= p != NULL;
  spoil(p, p ? malloc_usable_size(p) : 0, 0x5a);
  __libc_free(p);
}

#endif
