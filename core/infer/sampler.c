#include "infer/sampler.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

ds_status ds_sampler_init(ds_sampler *s, int64_t vocab_size, ds_error *err) {
  memset(s, 0, sizeof *s);
  s->vocab_size = vocab_size;
  s->top_p = 1;
  s->candidates = malloc((size_t)vocab_size * sizeof *s->candidates);
  return s->candidates ? DS_OK : ds_fail_memory(err, "the sampler");
}

void ds_sampler_finish(ds_sampler *s) {
  free(s->candidates);
  memset(s, 0, sizeof *s);
}

ds_status ds_sampler_set(ds_sampler *s, double temperature, int64_t top_k, double top_p,
                         uint64_t seed, ds_error *err) {
  if (!(temperature >= 0) || isinf(temperature))
    return ds_fail(err, DS_ERR_INVALID, "temperature must be 0 or more, not %g", temperature);
  if (top_k < 0)
    return ds_fail(err, DS_ERR_INVALID, "top_k must be 0 (all) or more, not %lld",
                   (long long)top_k);
  if (!(top_p > 0 && top_p <= 1))
    return ds_fail(err, DS_ERR_INVALID, "top_p must be above 0 and at most 1, not %g", top_p);
  s->temperature = temperature;
  s->top_k = top_k;
  s->top_p = top_p;
  ds_rng_init(&s->rng, seed, 0);
  return DS_OK;
}

static ds_status greedy(const float *logits, int64_t n, int32_t banned, int32_t *token,
                        ds_error *err) {
  int64_t best = -1;
  for (int64_t i = 0; i < n; i++)
    if (i != banned && isfinite(logits[i]) && (best < 0 || logits[i] > logits[best])) best = i;
  if (best < 0)
    return ds_fail(err, DS_ERR_NUMERIC, "the model gave no finite logit; its weights may be bad");
  *token = (int32_t)best;
  return DS_OK;
}

static int descending(const void *a, const void *b) {
  const ds_sampler_candidate *x = a, *y = b;
  if (x->p != y->p) return x->p < y->p ? 1 : -1;
  return (x->id > y->id) - (x->id < y->id);
}

/* Softmax weights at this temperature into the candidates; returns how many there are. */
static int64_t weigh(ds_sampler *s, const float *logits, int32_t banned, float max) {
  int64_t n = 0;
  for (int64_t i = 0; i < s->vocab_size; i++) {
    if (i == banned || !isfinite(logits[i])) continue;
    float p = (float)exp(((double)logits[i] - max) / s->temperature);
    s->candidates[n++] = (ds_sampler_candidate){p, (int32_t)i};
  }
  return n;
}

/* How many of the n sorted candidates top-k and top-p leave; their weight in *sum. */
static int64_t cut(const ds_sampler *s, int64_t n, double *sum) {
  if (s->top_k > 0 && s->top_k < n) n = s->top_k;
  *sum = 0;
  for (int64_t i = 0; i < n; i++) *sum += s->candidates[i].p;
  if (s->top_p >= 1) return n;
  double limit = s->top_p * *sum, have = 0;
  for (int64_t i = 0; i < n; i++) {
    have += s->candidates[i].p;
    if (have >= limit) {
      *sum = have;
      return i + 1;
    }
  }
  return n;
}

ds_status ds_sampler_pick(ds_sampler *s, const float *logits, int32_t banned, int32_t *token,
                          ds_error *err) {
  int32_t best = -1;
  DS_TRY(greedy(logits, s->vocab_size, banned, &best, err));
  *token = best;
  if (s->temperature == 0) return DS_OK;
  int64_t n = weigh(s, logits, banned, logits[best]);
  if (s->top_k > 0 || s->top_p < 1)
    qsort(s->candidates, (size_t)n, sizeof *s->candidates, descending);
  double sum;
  n = cut(s, n, &sum);
  double draw = ds_rng_uniform(&s->rng) * sum;
  for (int64_t i = 0; i < n; i++) {
    draw -= s->candidates[i].p;
    if (draw < 0) {
      *token = s->candidates[i].id;
      return DS_OK;
    }
  }
  *token = s->candidates[n - 1].id; /* rounding left a crumb */
  return DS_OK;
}
