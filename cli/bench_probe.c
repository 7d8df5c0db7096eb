#include "bench_probe.h"

#include "bench_kernels.h"
#include "bench_samples.h"
#include "cli.h"

#include <math.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

enum { ARRAY_MIN = 256 << 20, ARRAY_MAX = 1 << 30, CACHES = 8 };

/* How long one probe runs, and how long the backend's worker threads get to fall asleep before. */
static const double probe_seconds = 0.03;
static const long settle_nanoseconds = 10000000;

struct bench_probe {
  int threads;
  bench_kernels kernels;
  unsigned char *array;
  size_t bytes;
  bench_samples f32, bf16, read;
};

/* One thread's part of a probe. */
typedef struct work {
  pthread_t thread;
  bench_peak_fn *peak; /* or, when NULL, reading: */
  bench_read_fn *read;
  const unsigned char *array;
  size_t bytes;
  double rate; /* out: operations or bytes a second */
} work;

static void *run_work(void *arg) {
  enum { PIECE = 1 << 20 };
  work *w = arg;
  double begin = cli_now(), elapsed, done = 0;
  size_t at = 0;
  do {
    if (w->peak) {
      done += w->peak();
    } else {
      size_t n = w->bytes - at < PIECE ? w->bytes - at : PIECE;
      w->read(w->array + at, n);
      done += (double)n;
      at = at + n < w->bytes ? at + n : 0;
    }
    elapsed = cli_now() - begin;
  } while (elapsed < probe_seconds);
  w->rate = done / elapsed;
  return NULL;
}

/* The sum of the threads' rates in 1e9 a second; NAN when there are no resources for threads. */
static double run_threads(bench_probe *p, bench_peak_fn *peak) {
  double total = 0;
  size_t part = p->bytes / (size_t)p->threads / sizeof(double[8]) * sizeof(double[8]);
  work *list = calloc((size_t)p->threads, sizeof *list);
  if (!list) return NAN;
  nanosleep(&(struct timespec){.tv_nsec = settle_nanoseconds}, NULL);
  int made = 0;
  for (bool ok = true; ok && made < p->threads; made += ok) {
    work *w = &list[made];
    *w = (work){.peak = peak,
                .read = p->kernels.read,
                .array = p->array + part * (size_t)made,
                .bytes = part};
    ok = pthread_create(&w->thread, NULL, run_work, w) == 0;
    if (!ok) total = NAN;
  }
  for (int i = 0; i < made; i++) {
    pthread_join(list[i].thread, NULL);
    total += list[i].rate;
  }
  free(list);
  return 1e-9 * total;
}

static size_t array_bytes(void) {
  long cache = sysconf(_SC_LEVEL3_CACHE_SIZE);
  size_t bytes = cache > 0 ? CACHES * (size_t)cache : ARRAY_MIN;
  if (bytes < ARRAY_MIN) return ARRAY_MIN;
  return bytes > ARRAY_MAX ? ARRAY_MAX : bytes;
}

ds_status bench_probe_create(int threads, bench_probe **out, ds_error *err) {
  bench_probe *p = calloc(1, sizeof *p);
  *out = p;
  if (!p) return ds_fail_memory(err, "the machine's probe");
  p->threads = threads;
  p->kernels = bench_kernels_choose();
  return DS_OK;
}

void bench_probe_destroy(bench_probe *p) {
  if (!p) return;
  if (p->array) munmap(p->array, p->bytes);
  free(p);
}

/* Touching so much memory for the first time takes a while, so only who reads it pays. */
static bool make_array(bench_probe *p) {
  if (p->array) return true;
  size_t bytes = array_bytes();
  void *array = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (array == MAP_FAILED) return false;
  madvise(array, bytes, MADV_HUGEPAGE);
  memset(array, 1, bytes);
  p->array = array;
  p->bytes = bytes;
  return true;
}

double bench_probe_peak(bench_probe *p, int32_t dtype) {
  if (!p) return NAN;
  bool dots = dtype == DS_BF16 && p->kernels.bf16;
  double rate = run_threads(p, dots ? p->kernels.bf16 : p->kernels.f32);
  if (!isnan(rate)) bench_samples_add(dots ? &p->bf16 : &p->f32, rate);
  return rate;
}

double bench_probe_read(bench_probe *p) {
  if (!p || !make_array(p)) return NAN;
  double rate = run_threads(p, NULL);
  if (!isnan(rate)) bench_samples_add(&p->read, rate);
  return rate;
}

void bench_probe_json(bench_probe *p, cJSON *machine) {
  static const bench_samples none;
  if (p && p->f32.count == 0) bench_probe_peak(p, DS_F32);
  if (p && p->bf16.count == 0) bench_probe_peak(p, DS_BF16);
  if (p && p->read.count == 0) bench_probe_read(p);
  cJSON_AddStringToObject(machine, "instructions", p ? p->kernels.name : "");
  bench_samples_json(p ? &p->f32 : &none, machine, "peak_f32_gflops");
  bench_samples_json(p ? &p->bf16 : &none, machine, "peak_bf16_gflops");
  bench_samples_json(p ? &p->read : &none, machine, "read_gb_s");
}

static void print(const char *what, const bench_samples *s, const char *unit) {
  if (s->count == 0) return;
  printf("  %-22s %8.1f %s (%.1f to %.1f in %d probes)\n", what, bench_samples_median(s), unit,
         bench_samples_min(s), bench_samples_max(s), s->count);
}

void bench_probe_print(const bench_probe *p) {
  if (!p || p->f32.count + p->bf16.count + p->read.count == 0) return;
  printf("\nthe machine meanwhile, %d thread%s, %s:\n", p->threads, p->threads == 1 ? "" : "s",
         p->kernels.name);
  print("f32 multiply-add peak", &p->f32, "GF/s");
  print("bf16 dot product peak", &p->bf16, "GF/s");
  print("memory read", &p->read, "GB/s");
}
