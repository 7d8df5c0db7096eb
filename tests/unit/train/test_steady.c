/* A steady-state step allocates nothing: host allocations are counted here, by standing in front of
 * the C library's, device allocations by the backend. */
#include "tiny.h"

#include <dlfcn.h>

static volatile bool counting; /* volatile: compilers know that malloc changes no variable */
static volatile int counted;

static void *next_function(const char *name) {
  return dlsym(RTLD_NEXT, name);
}

/* dlsym itself may ask for memory before malloc is known; a small arena serves that. */
static char early[4096];
static size_t early_used;

void *malloc(size_t n) {
  static void *(*next)(size_t);
  if (!next) {
    void *p = next_function("malloc");
    memcpy(&next, &p, sizeof next);
  }
  counted += counting;
  return next(n);
}

void *calloc(size_t n, size_t size) {
  static void *(*next)(size_t, size_t);
  static bool looking;
  if (!next && looking) {
    void *p = early + early_used;
    early_used += (n * size + 15) / 16 * 16;
    return early_used <= sizeof early ? p : NULL;
  }
  if (!next) {
    looking = true;
    void *p = next_function("calloc");
    memcpy(&next, &p, sizeof next);
  }
  counted += counting;
  return next(n, size);
}

void *realloc(void *old, size_t n) {
  static void *(*next)(void *, size_t);
  if (!next) {
    void *p = next_function("realloc");
    memcpy(&next, &p, sizeof next);
  }
  counted += counting;
  return next(old, n);
}

static void check_steady(const char *config) {
  ds_error err;
  tiny_run r = {0};
  float loss;
  ds_backend_stats before = {.size = sizeof before}, after = before;
  CHECK_OK(tiny_open(&r, config, NULL, true, &err), err);
  for (int i = 0; i < 3; i++) CHECK_OK(ds_engine_train_batch(r.engine, &loss, &err), err);
  CHECK_OK(ds_engine_backend_stats(r.engine, &before, &err), err);
  counted = 0;
  counting = true;
  ds_status status = DS_OK;
  for (int i = 0; i < 40 && status == DS_OK; i++) /* through several epochs */
    status = ds_engine_train_batch(r.engine, &loss, &err);
  counting = false;
  CHECK_OK(status, err);
  CHECK_OK(ds_engine_backend_stats(r.engine, &after, &err), err);
  CHECK(counted == 0);
  if (counted) fprintf(stderr, "%d host allocations in 40 steps: %s\n", counted, config);
  CHECK(after.device_allocs == before.device_allocs && after.device_bytes == before.device_bytes);
  CHECK(after.ops > before.ops);
  tiny_close(&r);
}

int main(void) {
  counting = true;
  void *volatile p = malloc(1); /* the counter counts */
  counting = false;
  free(p);
  CHECK(counted == 1);
  check_steady("{" TINY_BACKEND ", \"train_batch_size\": 8, \"gradient_accumulation_steps\": 2, "
               "\"optimizer\": {\"type\": \"AdamW\"}, \"scheduler\": {\"type\": \"WarmupLR\"}}");
  check_steady("{" TINY_BACKEND ", \"train_batch_size\": 8, \"bf16\": {\"enabled\": true}, "
               "\"optimizer\": {\"type\": \"AdamW\"}}");
  return TEST_RESULT();
}
