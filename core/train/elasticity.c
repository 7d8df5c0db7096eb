#include "train/elasticity.h"

#include "base/str.h"

#include <stdlib.h>
#include <string.h>

/* Numbers with more divisors than any smaller one; as far as a batch may grow. */
static const int64_t composite[] = {1,      2,      4,      6,      12,     24,     36,     48,
                                    60,     120,    180,    240,    360,    720,    840,    1260,
                                    1680,   2520,   5040,   7560,   10080,  15120,  20160,  25200,
                                    27720,  45360,  50400,  55440,  83160,  110880, 166320, 221760,
                                    277200, 332640, 498960, 554400, 665280, 720720};
enum { N_COMPOSITE = sizeof composite / sizeof *composite, RANKS_MAX = 1 << 24 };

typedef struct numbers {
  int64_t *at;
  size_t room;
  int count;
} numbers;

static ds_status push(numbers *n, int64_t value, ds_error *err) {
  DS_TRY(ds_reserve(&n->at, &n->room, (size_t)n->count + 1, sizeof *n->at, "elasticity", err));
  n->at[n->count++] = value;
  return DS_OK;
}

static int compare(const void *a, const void *b) {
  int64_t x = *(const int64_t *)a, y = *(const int64_t *)b;
  return (x > y) - (x < y);
}

static void sort_unique(numbers *n) {
  int kept = 0;
  if (n->count > 1) qsort(n->at, (size_t)n->count, sizeof *n->at, compare);
  for (int i = 0; i < n->count; i++)
    if (kept == 0 || n->at[kept - 1] != n->at[i]) n->at[kept++] = n->at[i];
  n->count = kept;
}

ds_status ds_elasticity_check(const ds_elasticity *e, ds_error *err) {
  if (e->version != 1 && e->version != 2)
    return ds_fail(err, DS_ERR_UNSUPPORTED, "elasticity.version: must be 0.1 or 0.2");
  if (e->n_micro < 1 || e->n_micro > DS_ELASTICITY_MICRO_MAX)
    return ds_fail(err, DS_ERR_INVALID, "elasticity.micro_batch_sizes: needs 1 to %d numbers",
                   (int)DS_ELASTICITY_MICRO_MAX);
  const int64_t nodes = e->version == 2 ? e->gpus_per_node : 1;
  const int64_t parallel = e->version == 2 ? e->model_parallel : 1;
  if (e->version == 1 && e->model_parallel > 1)
    return ds_fail(err, DS_ERR_UNSUPPORTED,
                   "elasticity.model_parallel_size: is %lld, which needs version 0.2",
                   (long long)e->model_parallel);
  if (nodes < 1 || parallel < 1 || nodes % parallel != 0)
    return ds_fail(
        err, DS_ERR_INVALID,
        "elasticity.num_gpus_per_node: %lld must be a multiple of model_parallel_size %lld",
        (long long)nodes, (long long)parallel);
  if (e->min_gpus < 1 || e->max_gpus < e->min_gpus)
    return ds_fail(err, DS_ERR_INVALID,
                   "elasticity.min_gpus, max_gpus: 1 <= %lld <= %lld doesn't hold",
                   (long long)e->min_gpus, (long long)e->max_gpus);
  const int64_t limit = e->max_batch / (nodes / parallel);
  for (int i = 0; i < e->n_micro; i++)
    if (e->micro[i] < 1 || e->micro[i] > limit)
      return ds_fail(
          err, DS_ERR_INVALID,
          "elasticity.micro_batch_sizes: %lld is not from 1 to %lld (max_train_batch_size"
          "%s)",
          (long long)e->micro[i], (long long)limit, nodes > 1 ? " by the ranks of a node" : "");
  return DS_OK;
}

static int64_t gcd(int64_t a, int64_t b) {
  while (b) {
    int64_t rest = a % b;
    a = b;
    b = rest;
  }
  return a;
}

/* Of the micro batches; INT64_MAX where it doesn't fit. */
static int64_t common_multiple(const ds_elasticity *e) {
  int64_t m = 1;
  for (int i = 0; i < e->n_micro; i++)
    if (__builtin_mul_overflow(m / gcd(m, e->micro[i]), e->micro[i], &m)) return INT64_MAX;
  return m;
}

/* Over how many ranks a batch divides, within bounds. */
static ds_status find_valid(const ds_elasticity *e, int64_t batch, int64_t least, int64_t most,
                            numbers *out, ds_error *err) {
  out->count = 0;
  for (int i = 0; i < e->n_micro; i++) {
    if (batch % e->micro[i] != 0) continue;
    const int64_t n = batch / e->micro[i];
    for (int64_t d = 1; d <= n / d && d <= most; d++) {
      if (n % d != 0) continue;
      if (d >= least && d <= most) DS_TRY(push(out, d, err));
      if (n / d >= least && n / d <= most) DS_TRY(push(out, n / d, err));
    }
  }
  sort_unique(out);
  return DS_OK;
}

static int64_t scaled(int64_t base, int64_t limit) {
  int i = N_COMPOSITE - 1;
  while (composite[i] > limit / base) i--;
  return composite[i] * base;
}

/* 0.1, with bounds and limit given: 0.2 asks in nodes. */
static ds_status find_best(const ds_elasticity *e, int64_t limit, int64_t least, int64_t most,
                           int64_t *batch, numbers *best, ds_error *err) {
  numbers now = {0};
  ds_status status = DS_OK;
  *batch = e->micro[0];
  for (int i = 1; i < e->n_micro; i++)
    if (e->micro[i] < *batch) *batch = e->micro[i];
  for (int i = 0; i <= e->n_micro && status == DS_OK; i++) {
    const int64_t base = i < e->n_micro ? e->micro[i] : common_multiple(e);
    if (base > limit) continue;
    const int64_t candidate = scaled(base, limit);
    status = find_valid(e, candidate, least, most, &now, err);
    const bool nicer = e->prefer_larger ? candidate > *batch : candidate < *batch;
    if (status != DS_OK || now.count < best->count || (now.count == best->count && !nicer))
      continue;
    const numbers swap = *best;
    *best = now;
    now = swap;
    *batch = candidate;
  }
  free(now.at);
  return status;
}

ds_status ds_elasticity_find(const ds_elasticity *e, int64_t *batch, int64_t **valid, int *n,
                             ds_error *err) {
  numbers best = {0};
  const int64_t node = e->version == 2 ? e->gpus_per_node : 1;
  const int64_t dp = e->version == 2 ? node / e->model_parallel : 1; /* of a node */
  const int64_t limit = e->max_batch / dp;
  int64_t least = e->min_gpus / node, most = e->max_gpus / node;
  if (least == 0) least = 1;
  if (most == 0) { /* less than a node: no bound, as there */
    most = limit;
    for (int i = 0; i < e->n_micro; i++)
      if (limit / e->micro[i] > most || i == 0) most = limit / e->micro[i];
  }
  if (most > RANKS_MAX) most = RANKS_MAX;
  ds_status status = find_best(e, limit, least, most, batch, &best, err);
  if (status != DS_OK) {
    free(best.at);
    return status;
  }
  *batch *= dp;
  for (int i = 0; i < best.count; i++) best.at[i] *= dp;
  *valid = best.at;
  *n = best.count;
  return DS_OK;
}

/* 0.2, for a number of ranks that the batch doesn't divide over: a batch of its own; 0: none. */
static int64_t own_batch(const ds_elasticity *e, int64_t ranks) {
  int64_t best = 0;
  const int64_t dp = e->gpus_per_node / e->model_parallel;
  if (ranks % dp != 0) return 0;
  for (int i = 0; i < e->n_micro; i++) {
    int64_t least;
    if (__builtin_mul_overflow(e->micro[i], ranks, &least)) continue;
    const int64_t batch = e->max_batch / least * least;
    if (batch == 0) continue; /* there, a batch of 0 */
    if (best == 0 || (e->prefer_larger ? batch > best : batch < best)) best = batch;
  }
  return best;
}

static ds_status refuse(int64_t ranks, int64_t batch, const int64_t *valid, int n, ds_error *err) {
  ds_str list = {0};
  for (int i = 0; i < n && list.length < 400; i++)
    ds_str_printf(&list, "%s%lld", i ? ", " : "", (long long)valid[i]);
  ds_status status = ds_str_status(&list, err);
  if (status == DS_OK)
    status =
        ds_fail(err, DS_ERR_INVALID,
                "elasticity: %lld ranks are not among those that a train batch of %lld divides "
                "over: %s%s",
                (long long)ranks, (long long)batch, n ? list.data : "none",
                list.length >= 400 ? ", ..." : "");
  ds_str_finish(&list);
  return status;
}

ds_status ds_elasticity_resolve(const ds_elasticity *e, int64_t ranks, ds_elastic_sizes *out,
                                ds_error *err) {
  int64_t batch, *valid = NULL;
  int n = 0;
  bool found = false;
  DS_TRY(ds_elasticity_find(e, &batch, &valid, &n, err));
  for (int i = 0; i < n; i++) found = found || valid[i] == ranks;
  ds_status status = DS_OK;
  const int64_t own = found || e->version == 1 ? 0 : own_batch(e, ranks);
  if (own > 0)
    batch = own;
  else if (!found)
    status = refuse(ranks, batch, valid, n, err);
  free(valid);
  if (status != DS_OK) return status;
  *out = (ds_elastic_sizes){.batch = batch};
  for (int i = 0; i < e->n_micro; i++)
    if (batch / ranks % e->micro[i] == 0 && e->micro[i] > out->micro) out->micro = e->micro[i];
  out->accumulation = batch / ranks / out->micro;
  return DS_OK;
}
