/* bench_samples.h - repeated measurements of one thing, and their spread. */
#ifndef DS_CLI_BENCH_SAMPLES_H
#define DS_CLI_BENCH_SAMPLES_H

#include <cjson/cJSON.h>

enum { BENCH_SAMPLES_MAX = 512 };

/* Zero-initialize. What comes after the last place is dropped. */
typedef struct bench_samples {
  int count;
  double values[BENCH_SAMPLES_MAX];
} bench_samples;

void bench_samples_add(bench_samples *s, double value);
/* NAN when there are none. */
double bench_samples_median(const bench_samples *s);
double bench_samples_min(const bench_samples *s);
double bench_samples_max(const bench_samples *s);
/* {"median":..,"min":..,"max":..}, or null when there are none. */
void bench_samples_json(const bench_samples *s, cJSON *object, const char *key);

#endif
