#include "bench_alloc.h"

#include "ds_abi.h"

#include <dlfcn.h>
#include <errno.h>
#include <malloc.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#if defined(__GLIBC__) && !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__)
#define COUNTED 1
#else
#define COUNTED 0
#endif

/* Callers are told apart by return address; the table is only read when counting is over, because
 * looking up whose an address is may itself allocate. */
enum { CALLERS = 512 };

static atomic_bool counting;
static atomic_uint_least64_t calls, bytes;
static struct {
  _Atomic(void *) address;
  atomic_uint_least64_t calls;
} callers[CALLERS + 1]; /* the last takes what finds no place */

bool bench_alloc_counts(void) {
  return COUNTED;
}

void bench_alloc_reset(void) {
  calls = bytes = 0;
  for (int i = 0; i <= CALLERS; i++) {
    callers[i].address = NULL;
    callers[i].calls = 0;
  }
}

void bench_alloc_start(void) {
  counting = true;
}

void bench_alloc_stop(void) {
  counting = false;
}

uint64_t bench_alloc_calls(void) {
  return calls;
}

#if COUNTED
static void count(size_t size, void *caller) {
  if (!atomic_load_explicit(&counting, memory_order_relaxed)) return;
  calls++;
  bytes += size;
  size_t at = ((uintptr_t)caller >> 2) % CALLERS;
  for (int tries = 0; tries < CALLERS; tries++, at = (at + 1) % CALLERS) {
    void *free_place = NULL;
    if (callers[at].address == caller ||
        atomic_compare_exchange_strong(&callers[at].address, &free_place, caller) ||
        free_place == caller) {
      callers[at].calls++;
      return;
    }
  }
  callers[CALLERS].calls++;
}

#define COUNT(size) count(size, __builtin_return_address(0))

void *__libc_malloc(size_t size);
void *__libc_calloc(size_t n, size_t size);
void *__libc_realloc(void *p, size_t size);
void *__libc_memalign(size_t alignment, size_t size);

DS_EXPORT void *malloc(size_t size) {
  COUNT(size);
  return __libc_malloc(size);
}

DS_EXPORT void *calloc(size_t n, size_t size) {
  COUNT(n * size);
  return __libc_calloc(n, size);
}

DS_EXPORT void *realloc(void *p, size_t size) {
  COUNT(size);
  return __libc_realloc(p, size);
}

DS_EXPORT void *memalign(size_t alignment, size_t size) {
  COUNT(size);
  return __libc_memalign(alignment, size);
}

DS_EXPORT void *aligned_alloc(size_t alignment, size_t size) {
  COUNT(size);
  return __libc_memalign(alignment, size);
}

DS_EXPORT int posix_memalign(void **out, size_t alignment, size_t size) {
  COUNT(size);
  if (alignment % sizeof(void *) != 0 || (alignment & (alignment - 1)) != 0 || alignment == 0)
    return EINVAL;
  void *p = __libc_memalign(alignment, size);
  if (!p) return ENOMEM;
  *out = p;
  return 0;
}
#endif

/* The file that holds the code at an address, without its folder. */
static const char *file_of(void *address) {
  Dl_info info;
  if (!address || !dladdr(address, &info) || !info.dli_fname) return "?";
  const char *slash = strrchr(info.dli_fname, '/');
  return slash ? slash + 1 : info.dli_fname;
}

uint64_t bench_alloc_own_calls(void) {
  Dl_info own, info;
  uint64_t n = 0;
  if (!dladdr((void *)(uintptr_t)&bench_alloc_own_calls, &own)) return calls;
  for (int i = 0; i < CALLERS; i++)
    if (callers[i].calls && dladdr(callers[i].address, &info) && info.dli_fbase == own.dli_fbase)
      n += callers[i].calls;
  return n;
}

/* {"libfoo.so": calls, ...} */
static cJSON *by_file(void) {
  cJSON *o = cJSON_CreateObject();
  for (int i = 0; i <= CALLERS; i++) {
    if (!callers[i].calls) continue;
    const char *file = file_of(callers[i].address);
    cJSON *item = cJSON_GetObjectItemCaseSensitive(o, file);
    if (!item) item = cJSON_AddNumberToObject(o, file, 0);
    if (item) cJSON_SetNumberValue(item, item->valuedouble + (double)callers[i].calls);
  }
  return o;
}

void bench_alloc_json(cJSON *object) {
  if (!COUNTED) {
    cJSON_AddNullToObject(object, "host_allocs");
    return;
  }
  cJSON *o = cJSON_AddObjectToObject(object, "host_allocs");
  cJSON_AddNumberToObject(o, "calls", (double)calls);
  cJSON_AddNumberToObject(o, "bytes", (double)bytes);
  cJSON_AddNumberToObject(o, "own_calls", (double)bench_alloc_own_calls());
  cJSON_AddItemToObject(o, "by", by_file());
}

void bench_alloc_describe(char *out, unsigned long size) {
  if (!COUNTED) {
    snprintf(out, size, "not counted in this build");
    return;
  }
  unsigned long at = (unsigned long)snprintf(out, size, "%llu", (unsigned long long)calls);
  cJSON *by = by_file();
  const char *before = " (";
  const cJSON *item;
  cJSON_ArrayForEach(item, by) {
    if (at < size)
      at += (unsigned long)snprintf(out + at, size - at, "%s%s %.0f", before, item->string,
                                    item->valuedouble);
    before = ", ";
  }
  if (at < size && calls) snprintf(out + at, size - at, ", %llu bytes)", (unsigned long long)bytes);
  cJSON_Delete(by);
}
