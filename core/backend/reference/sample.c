/* sample.c - one id a row from logits: the largest, or drawn with temperature, top-k and top-p (nucleus
 * sampling, Holtzman et al. 2020). */
#include <math.h>
#include <stdlib.h>

#include "backend/reference/element.h"
#include "backend/reference/op.h"
#include "base/status.h"

typedef struct candidate {
  double p;
  float logit;
  int32_t id;
} candidate;

static size_t sample_workspace(const ds_reference_args *a) {
  return (size_t)ds_reference_dim(a, 'V') * sizeof(candidate);
}

static ds_status sample_check(const ds_reference_args *a, ds_error *err) {
  double temperature = ds_reference_attr_f(a, 0, 1), top_p = ds_reference_attr_f(a, 2, 1);
  int64_t top_k = ds_reference_attr_i(a, 1, 0), width = ds_reference_dim(a, 'V');
  if (!(temperature >= 0) || isinf(temperature)) {
    return ds_fail(err, DS_ERR_INVALID,
                   "sample: attribute 0 (temperature) is %g, must be finite and not negative",
                   temperature);
  }
  if (top_k < 0) {
    return ds_fail(err, DS_ERR_INVALID,
                   "sample: attribute 1 (top_k) is %lld, must be 0 (all) or more",
                   (long long)top_k);
  }
  if (!(top_p > 0 && top_p <= 1)) {
    return ds_fail(err, DS_ERR_INVALID,
                   "sample: attribute 2 (top_p) is %g, must be above 0 and at most 1", top_p);
  }
  if (width <= INT32_MAX) return DS_OK;
  return ds_fail(err, DS_ERR_INVALID, "sample: rows of %lld logits have no index of type i32",
                 (long long)width);
}

/* The row's candidates in the order of ids; the largest, of equals the first, in *best. */
static int64_t gather(const ds_tensor *x, int64_t at, int64_t width, int32_t banned, candidate *c,
                      candidate *best) {
  int64_t n = 0;
  for (int64_t i = 0; i < width; i++) {
    float logit = ds_element_get(x, at + i);
    if (i == banned || !isfinite(logit)) continue;
    c[n] = (candidate){.logit = logit, .id = (int32_t)i};
    if (n == 0 || logit > best->logit) *best = c[n];
    n++;
  }
  return n;
}

static int by_logit(const void *a, const void *b) {
  const candidate *x = a, *y = b;
  if (x->logit != y->logit) return x->logit < y->logit ? 1 : -1;
  return (x->id > y->id) - (x->id < y->id);
}

static int by_id(const void *a, const void *b) {
  const candidate *x = a, *y = b;
  return (x->id > y->id) - (x->id < y->id);
}

/* How many of the n first stay, by top_k and then top_p. */
static int64_t cut(const candidate *c, int64_t n, int64_t top_k, double top_p) {
  double all = 0, have = 0;
  if (top_k > 0 && top_k < n) n = top_k;
  for (int64_t i = 0; i < n; i++) all += c[i].p;
  for (int64_t i = 0; i < n && top_p < 1; i++) {
    have += c[i].p;
    if (have >= top_p * all) return i + 1;
  }
  return n;
}

static int32_t drawn(const candidate *c, int64_t n, double draw) {
  double all = 0, have = 0;
  for (int64_t i = 0; i < n; i++) all += c[i].p;
  for (int64_t i = 0; i < n; i++) {
    have += c[i].p;
    if (have > draw * all) return c[i].id;
  }
  return c[n - 1].id;
}

static int32_t pick(const ds_reference_args *a, int64_t row, candidate *c) {
  const ds_tensor *x = ds_reference_in(a, 0), *banned = ds_reference_in(a, 2);
  double temperature = ds_reference_attr_f(a, 0, 1), top_p = ds_reference_attr_f(a, 2, 1);
  int64_t width = ds_reference_dim(a, 'V'), top_k = ds_reference_attr_i(a, 1, 0);
  candidate best = {.id = -1};
  int64_t n =
      gather(x, row * width, width, banned ? ((const int32_t *)banned->data)[row] : -1, c, &best);
  if (n == 0 || temperature == 0) return best.id;
  for (int64_t i = 0; i < n; i++) {
    c[i].p = exp(((double)c[i].logit - (double)best.logit) / temperature);
  }
  if (top_k > 0 || top_p < 1) {
    qsort(c, (size_t)n, sizeof *c, by_logit);
    n = cut(c, n, top_k, top_p);
    qsort(c, (size_t)n, sizeof *c, by_id);
  }
  return drawn(c, n, (double)ds_element_get(ds_reference_in(a, 1), row));
}

static ds_status sample_run(const ds_reference_args *a, ds_error *err) {
  (void)err;
  int32_t *id = ds_reference_out(a, 0)->data;
  int64_t rows = ds_reference_dim(a, 'R');
  for (int64_t r = 0; r < rows; r++) id[r] = pick(a, r, a->op->workspace);
  return DS_OK;
}

const ds_reference_op ds_reference_op_sample = {
    .in = {{"logits", "RV", DS_REFERENCE_X, 0, 0},
           {"draw", "R", DS_REFERENCE_F32, 0, 0},
           {"banned", "R", DS_REFERENCE_I32, DS_REFERENCE_OPTIONAL, 0}},
    .out = {{"id", "R", DS_REFERENCE_I32, 0, 0}},
    .check = sample_check,
    .workspace = sample_workspace,
    .run = sample_run,
};
