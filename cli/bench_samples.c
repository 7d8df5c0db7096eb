#include "bench_samples.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

void bench_samples_add(bench_samples *s, double value) {
  if (s->count < BENCH_SAMPLES_MAX) s->values[s->count++] = value;
}

static int compare(const void *a, const void *b) {
  double x = *(const double *)a, y = *(const double *)b;
  return (x > y) - (x < y);
}

/* The value a fraction `at` of the way up. */
static double quantile(const bench_samples *s, double at) {
  double sorted[BENCH_SAMPLES_MAX];
  if (s->count == 0) return NAN;
  memcpy(sorted, s->values, (size_t)s->count * sizeof *sorted);
  qsort(sorted, (size_t)s->count, sizeof *sorted, compare);
  double place = at * (s->count - 1);
  int low = (int)floor(place), high = (int)ceil(place);
  return 0.5 * (sorted[low] + sorted[high]);
}

double bench_samples_median(const bench_samples *s) {
  return quantile(s, 0.5);
}

double bench_samples_min(const bench_samples *s) {
  return quantile(s, 0);
}

double bench_samples_max(const bench_samples *s) {
  return quantile(s, 1);
}

void bench_samples_json(const bench_samples *s, cJSON *object, const char *key) {
  if (s->count == 0) {
    cJSON_AddNullToObject(object, key);
    return;
  }
  cJSON *o = cJSON_AddObjectToObject(object, key);
  cJSON_AddNumberToObject(o, "median", bench_samples_median(s));
  cJSON_AddNumberToObject(o, "min", bench_samples_min(s));
  cJSON_AddNumberToObject(o, "max", bench_samples_max(s));
}
