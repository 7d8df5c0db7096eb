/* bench.h - what the benchmarks share: samples and their spread, common options, the machine's
 * limits beside every figure, and the two forms of output.
 *
 * A figure means little alone: the machine may be shared, and its clock and memory bandwidth move.
 * So each timing is taken between two probes of the limit it is held against (bench_probe.h), and
 * what is reported is the median over the pairs, with minimum and maximum.
 */
#ifndef DS_CLI_BENCH_H
#define DS_CLI_BENCH_H

#include "backend/backend.h"
#include "bench_probe.h"
#include "bench_samples.h"
#include "cli.h"

enum { BENCH_LIST_MAX = 16 };

/* The part of the command line that every benchmark has. */
typedef struct bench_common {
  const char *backend; /* --backend; NULL = auto */
  int64_t threads;     /* --threads; 0 = the backend's default */
  bool json;
} bench_common;

/* Entries for a command's options. */
#define BENCH_COMMON_OPTIONS(c)                                                                    \
  {"--backend", OPTION_STRING, &(c)->backend, "NAME", "the backend to measure (auto)"},            \
      {"--threads", OPTION_INT, &(c)->threads, "N",                                                \
       "worker threads, for backends with that option (their default)"},                           \
  {                                                                                                \
    "--json", OPTION_FLAG, &(c)->json, NULL, "one JSON object on stdout"                           \
  }

/* The backend under test and the machine's probes. */
typedef struct bench {
  const bench_common *common;
  char *section; /* the config's "backend", as JSON text */
  ds_backend *backend;
  bench_probe *probe; /* NULL: the device is not the host, whose limits say nothing of it */
  cJSON *root, *results;
} bench;

/* name: "gemm", ... On failure out is finished. */
DS_MUST_USE ds_status bench_open(const char *name, const bench_common *common, bench *out,
                                 ds_error *err);
/* Adds the machine's limits and prints: the JSON object, or the line that ends the table. */
DS_MUST_USE ds_status bench_report(bench *b, ds_error *err);
void bench_finish(bench *b);
int bench_threads(const bench *b); /* the backend's workers */
/* A new object in "results"; NULL when out of memory, which cJSON's functions take. */
cJSON *bench_result(bench *b);
/* Adds value, or null when it is not finite. */
void bench_add_number(cJSON *object, const char *key, double value);

/* New device memory filled with numbers of ordinary size: zeros, denormals and infinities have other
 * speeds. On failure what *out has is the caller's to free all the same. */
DS_MUST_USE ds_status bench_make_random(ds_backend *b, int32_t dtype, size_t bytes, void **out,
                                        ds_error *err);

/* "64 256", "64,256" to numbers from 1 to max; an empty list keeps the defaults in out[*count].
 * False after telling the mistake. */
bool bench_numbers(const char *who, const char *what, const option_list *list, int64_t max,
                   int64_t out[BENCH_LIST_MAX], int *count);
/* "f32", "bf16" or "both". False after telling the mistake. */
bool bench_dtypes(const char *who, const char *text, int32_t out[2], int *count);

/* The benchmarks; as the cmd_ functions of cli.h. */
int bench_comm(int argc, char **argv);
int bench_decode(int argc, char **argv);
int bench_dispatch(int argc, char **argv);
int bench_gemm(int argc, char **argv);
int bench_ops(int argc, char **argv);
int bench_quant(int argc, char **argv);
int bench_train(int argc, char **argv);

#endif
