/* Elasticity's arithmetic, against figures that DeepSpeed's own code gives (0.19.6: those of its
 * tests, then configs drawn at random), and a definition checked by brute force. */
#include "train/elasticity.h"

#include "test.h"

#include <stdlib.h>

static ds_elasticity make(int64_t most, const int *micro, int version) {
  ds_elasticity e = {.max_batch = most,
                     .min_gpus = 1,
                     .max_gpus = 10000,
                     .version = version,
                     .prefer_larger = true,
                     .gpus_per_node = 1,
                     .model_parallel = 1};
  while (e.n_micro < 4 && *micro) e.micro[e.n_micro++] = *micro++;
  return e;
}

/* The example of DeepSpeed's documentation and tests. */
static void test_documented(void) {
  static const int64_t want[] = {32,  34,  36,  48,  51,  64,  68,  72,  96,  102, 136, 144,
                                 153, 192, 204, 272, 288, 306, 408, 576, 612, 816, 1224};
  ds_error err;
  int64_t batch, *valid = NULL;
  int n;
  ds_elastic_sizes s;
  ds_elasticity e = make(10000, (int[]){8, 12, 16, 17}, 1);
  e.min_gpus = 32;
  e.max_gpus = 1500;
  CHECK_OK(ds_elasticity_check(&e, &err), err);
  CHECK_OK(ds_elasticity_find(&e, &batch, &valid, &n, &err), err);
  CHECK(batch == 9792 && n == 23 && memcmp(valid, want, sizeof want) == 0);
  free(valid);
  CHECK_OK(ds_elasticity_resolve(&e, 64, &s, &err), err);
  CHECK(s.batch == 9792 && s.micro == 17 && s.accumulation == 9);
  CHECK_FAILS(ds_elasticity_resolve(&e, 128, &s, &err), DS_ERR_INVALID, err,
              "128 ranks are not among those that a train batch of 9792 divides over: 32, 34");
  e = make(32, (int[]){1, 2, 3, 7}, 1);
  CHECK_OK(ds_elasticity_resolve(&e, 4, &s, &err), err);
  CHECK(s.batch == 24 && s.micro == 3 && s.accumulation == 2);
  e = make(100, (int[]){8, 10, 12, 0}, 1); /* their least common multiple, 120, is too much */
  CHECK_OK(ds_elasticity_find(&e, &batch, &valid, &n, &err), err);
  CHECK(batch <= 100);
  free(valid);
}

typedef struct row {
  int max_batch, micro[4], min_gpus, max_gpus, version, larger, node, parallel, ranks;
  int batch, best_micro, count; /* micro 0: refused; count -1: a batch of its own */
  int64_t sum;                  /* of the valid numbers */
} row;

static const row rows[] = {
    {32, {32, 0, 0, 0}, 8, 1500, 1, 1, 1, 1, 8, 32, 0, 0, 0},
    {65536, {16, 4, 2, 0}, 8, 100, 1, 1, 1, 1, 6, 55440, 0, 33, 1397},
    {256, {4, 0, 0, 0}, 8, 16, 1, 1, 1, 1, 64, 240, 0, 3, 37},
    {10000, {12, 8, 6, 16}, 1, 16, 2, 1, 4, 1, 128, 9984, 6, -1, 128},
    {4096, {21, 0, 0, 0}, 1, 100, 2, 1, 8, 2, 96, 4032, 21, -1, 96},
    {32, {2, 1, 8, 12}, 8, 1500, 1, 1, 1, 1, 48, 32, 0, 3, 56},
    {2000, {6, 4, 2, 17}, 1, 16, 2, 1, 1, 1, 128, 1792, 2, -1, 128},
    {1000, {27, 24, 0, 0}, 8, 10000, 1, 1, 1, 1, 5, 864, 0, 7, 131},
    {10000, {16, 32, 24, 1}, 2, 1500, 1, 1, 1, 1, 3, 7560, 24, 58, 11537},
    {10000, {4, 7, 1, 0}, 8, 16, 1, 1, 1, 1, 32, 7560, 0, 6, 68},
    {32, {4, 8, 12, 24}, 1, 1500, 1, 1, 1, 1, 128, 32, 0, 4, 15},
    {256, {4, 24, 1, 0}, 8, 100, 1, 0, 1, 1, 3, 240, 0, 12, 363},
    {65536, {23, 15, 0, 0}, 8, 10000, 2, 0, 4, 1, 8, 49680, 23, 32, 15088},
    {256, {6, 24, 0, 0}, 2, 100, 1, 0, 1, 1, 1, 216, 0, 8, 90},
    {100, {4, 0, 0, 0}, 8, 1500, 1, 0, 1, 1, 5, 96, 0, 3, 44},
    {4096, {6, 1, 0, 0}, 1, 16, 1, 1, 1, 1, 8, 2520, 1, 13, 96},
    {1000, {1, 12, 0, 0}, 2, 10000, 2, 0, 8, 2, 64, 960, 1, 20, 2976},
    {65536, {29, 0, 0, 0}, 1, 10000, 1, 1, 1, 1, 5, 48720, 29, 40, 5952},
    {100, {4, 0, 0, 0}, 1, 10000, 1, 1, 1, 1, 128, 96, 0, 8, 60},
    {65536, {18, 3, 0, 0}, 1, 10000, 1, 1, 1, 1, 1, 60480, 18, 82, 49008},
    {10000, {18, 29, 0, 0}, 8, 10000, 1, 0, 1, 1, 8, 6480, 18, 18, 1149},
    {4096, {8, 10, 24, 0}, 1, 100, 1, 0, 1, 1, 96, 2880, 10, 25, 702},
    {32, {11, 15, 28, 26}, 1, 1500, 1, 1, 1, 1, 24, 30, 0, 2, 3},
    {2000, {29, 2, 25, 22}, 8, 10000, 1, 1, 1, 1, 3, 1680, 0, 25, 2852},
    {256, {2, 0, 0, 0}, 1, 100, 1, 1, 1, 1, 6, 240, 2, 15, 240},
    {100, {16, 4, 17, 0}, 32, 100, 2, 1, 1, 1, 6, 96, 16, -1, 6},
    {32, {6, 0, 0, 0}, 1, 4, 2, 1, 1, 1, 3, 18, 6, -1, 3},
    {1000, {13, 0, 0, 0}, 8, 1500, 1, 1, 1, 1, 96, 780, 0, 6, 147},
    {4096, {24, 8, 6, 2}, 1, 16, 1, 0, 1, 1, 5, 3360, 24, 13, 103},
    {2000, {1, 2, 0, 0}, 32, 100, 2, 1, 1, 1, 3, 1998, 2, -1, 3},
    {65536, {32, 6, 8, 0}, 1, 1500, 2, 1, 4, 1, 96, 60480, 6, 47, 15444},
    {1000, {21, 16, 3, 0}, 1, 16, 1, 1, 1, 1, 1, 720, 16, 12, 91},
    {4096, {13, 16, 1, 0}, 1, 100, 2, 0, 1, 1, 48, 3744, 13, -1, 48},
    {4096, {15, 6, 10, 0}, 32, 10000, 1, 1, 1, 1, 24, 3600, 0, 19, 2846},
    {32, {24, 7, 0, 0}, 2, 1500, 1, 1, 1, 1, 1, 28, 0, 2, 6},
    {10000, {5, 6, 31, 17}, 1, 100, 1, 1, 1, 1, 7, 7560, 6, 32, 971},
    {10000, {5, 31, 19, 3}, 8, 16, 1, 1, 1, 1, 5, 8400, 0, 6, 75},
    {1000, {32, 4, 1, 0}, 2, 4, 2, 1, 8, 4, 4, 960, 4, 24, 3024},
    {10000, {30, 8, 13, 0}, 1, 4, 1, 0, 1, 1, 1, 6720, 30, 4, 10},
    {65536, {9, 18, 8, 0}, 32, 100, 1, 1, 1, 1, 128, 60480, 0, 18, 1067},
    {2000, {2, 6, 1, 12}, 1, 100, 1, 1, 1, 1, 48, 1680, 1, 27, 741},
    {1000, {13, 24, 28, 0}, 1, 1500, 1, 0, 1, 1, 7, 780, 0, 12, 168},
    {100, {15, 29, 22, 28}, 1, 10000, 1, 1, 1, 1, 3, 90, 15, 4, 12},
    {2000, {6, 12, 8, 0}, 8, 16, 1, 0, 1, 1, 64, 1440, 0, 6, 70},
    {4096, {16, 8, 0, 0}, 1, 4, 2, 1, 8, 2, 32, 3840, 8, 16, 1440},
    {65536, {2, 8, 0, 0}, 1, 1500, 1, 1, 1, 1, 96, 55440, 0, 81, 20931},
    {1000, {4, 0, 0, 0}, 1, 1500, 2, 0, 8, 1, 128, 512, 4, -1, 128},
    {32, {29, 16, 7, 15}, 1, 16, 1, 1, 1, 1, 4, 28, 7, 3, 7},
};

static void test_row(const row *r) {
  ds_error err = {DS_OK, ""};
  int64_t batch, *valid = NULL, sum = 0;
  int n = 0;
  ds_elastic_sizes s = {0};
  ds_elasticity e = make(r->max_batch, r->micro, r->version);
  e.min_gpus = r->min_gpus;
  e.max_gpus = r->max_gpus;
  e.prefer_larger = r->larger;
  e.gpus_per_node = r->node;
  e.model_parallel = r->parallel;
  CHECK_OK(ds_elasticity_check(&e, &err), err);
  CHECK_OK(ds_elasticity_find(&e, &batch, &valid, &n, &err), err);
  for (int i = 0; i < n; i++) sum += valid[i];
  if (r->count >= 0) CHECK(batch == r->batch && n == r->count && sum == r->sum);
  free(valid);
  ds_status status = ds_elasticity_resolve(&e, r->ranks, &s, &err);
  CHECK((status == DS_OK) == (r->best_micro > 0));
  if (status == DS_OK) {
    CHECK(s.batch == r->batch && s.micro == r->best_micro);
    CHECK(s.micro * s.accumulation * r->ranks == s.batch && s.batch <= r->max_batch);
  }
  if (test_failures) fprintf(stderr, "row %d: %s\n", (int)(r - rows), err.message);
}

/* Every number up to the limit, by the definition in the header. */
static void test_definition(void) {
  ds_error err;
  int64_t batch, *valid = NULL;
  int n;
  const ds_elasticity e = make(500, (int[]){3, 4, 10, 0}, 1);
  CHECK_OK(ds_elasticity_find(&e, &batch, &valid, &n, &err), err);
  for (int64_t ranks = 1; ranks <= 600; ranks++) {
    bool divides = false, listed = false;
    for (int i = 0; i < e.n_micro; i++) divides = divides || batch % (e.micro[i] * ranks) == 0;
    for (int i = 0; i < n; i++) listed = listed || valid[i] == ranks;
    CHECK(divides == listed);
  }
  free(valid);
}

static void test_bad(void) {
  ds_error err;
  ds_elastic_sizes s;
  ds_elasticity e = make(16, (int[]){8, 17, 0}, 1);
  CHECK_FAILS(ds_elasticity_check(&e, &err), DS_ERR_INVALID, err, "17 is not from 1 to 16");
  e.micro[1] = -1;
  CHECK_FAILS(ds_elasticity_check(&e, &err), DS_ERR_INVALID, err, "-1 is not from 1 to 16");
  e.n_micro = 0;
  CHECK_FAILS(ds_elasticity_check(&e, &err), DS_ERR_INVALID, err, "needs 1 to");
  e = make(16, (int[]){8, 0}, 3);
  CHECK_FAILS(ds_elasticity_check(&e, &err), DS_ERR_UNSUPPORTED, err, "0.1 or 0.2");
  e = make(16, (int[]){8, 0}, 1);
  e.model_parallel = 2;
  CHECK_FAILS(ds_elasticity_check(&e, &err), DS_ERR_UNSUPPORTED, err, "needs version 0.2");
  e.version = 2;
  CHECK_FAILS(ds_elasticity_check(&e, &err), DS_ERR_INVALID, err, "multiple of");
  e = make(16, (int[]){8, 0}, 1);
  e.max_gpus = 3;
  e.min_gpus = 4;
  CHECK_FAILS(ds_elasticity_check(&e, &err), DS_ERR_INVALID, err, "min_gpus");
  e = make(16, (int[]){8, 0}, 2);
  CHECK_FAILS(ds_elasticity_resolve(&e, 3, &s, &err), DS_ERR_INVALID, err, "3 ranks");
  e = make(64, (int[]){4, 0}, 2);
  e.gpus_per_node = 4;
  CHECK_FAILS(ds_elasticity_resolve(&e, 6, &s, &err), DS_ERR_INVALID, err, "6 ranks"); /* of 4 */
  e = make(INT64_MAX, (int[]){1, 0}, 1);
  e.micro[0] = INT64_MAX / 2;
  e.micro[1] = INT64_MAX / 3;
  e.n_micro = 2; /* no common multiple that fits */
  CHECK_OK(ds_elasticity_check(&e, &err), err);
  CHECK_OK(ds_elasticity_resolve(&e, 1, &s, &err), err);
  CHECK(s.accumulation >= 1 && s.batch == s.micro * s.accumulation);
}

int main(void) {
  test_documented();
  for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) test_row(&rows[i]);
  test_definition();
  test_bad();
  return TEST_RESULT();
}
