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

static int64_t largest(const float *logits, int64_t n, int32_t banned) {
  int64_t best = -1;
  for (int64_t i = 0; i < n; i++)
    if (i != banned && isfinite(logits[i]) && (best < 0 || logits[i] > logits[best])) best = i;
  return best;
}

static int by_logit(const void *a, const void *b) {
  const ds_sampler_candidate *x = a, *y = b;
  if (x->logit != y->logit) return x->logit < y->logit ? 1 : -1;
  return (x->id > y->id) - (x->id < y->id);
}

static int by_id(const void *a, const void *b) {
  const ds_sampler_candidate *x = a, *y = b;
  return (x->id > y->id) - (x->id < y->id);
}

/* Softmax weights at this temperature into the candidates; returns how many there are. */
static int64_t weigh(ds_sampler *s, const float *logits, int32_t banned, float max) {
  int64_t n = 0;
  for (int64_t i = 0; i < s->vocab_size; i++) {
    if (i == banned || !isfinite(logits[i])) continue;
    double p = exp(((double)logits[i] - (double)max) / s->temperature);
    s->candidates[n++] = (ds_sampler_candidate){p, logits[i], (int32_t)i};
  }
  return n;
}

/* How many of the n sorted candidates top-k and top-p leave. */
static int64_t cut(const ds_sampler *s, int64_t n) {
  double all = 0, have = 0;
  if (s->top_k > 0 && s->top_k < n) n = s->top_k;
  for (int64_t i = 0; i < n; i++) all += s->candidates[i].p;
  for (int64_t i = 0; i < n && s->top_p < 1; i++) {
    have += s->candidates[i].p;
    if (have >= s->top_p * all) return i + 1;
  }
  return n;
}

float ds_sampler_draw(ds_sampler *s) {
  if (s->temperature == 0) return 0;
  float draw = (float)ds_rng_uniform(&s->rng);
  return draw < 1 ? draw : 0x1.fffffep-1f; /* rounded up */
}

ds_status ds_sampler_no_token(ds_error *err) {
  return ds_fail(err, DS_ERR_NUMERIC, "the model gave no finite logit; its weights may be bad");
}

ds_status ds_sampler_pick(ds_sampler *s, const float *logits, int32_t banned, float draw,
                          int32_t *token, ds_error *err) {
  int64_t best = largest(logits, s->vocab_size, banned);
  if (best < 0) return ds_sampler_no_token(err);
  *token = (int32_t)best;
  if (s->temperature == 0) return DS_OK;
  int64_t n = weigh(s, logits, banned, logits[best]);
  if (s->top_k > 0 || s->top_p < 1) {
    qsort(s->candidates, (size_t)n, sizeof *s->candidates, by_logit);
    n = cut(s, n);
    qsort(s->candidates, (size_t)n, sizeof *s->candidates, by_id);
  }
  double all = 0, have = 0;
  for (int64_t i = 0; i < n; i++) all += s->candidates[i].p;
  for (int64_t i = 0; i < n; i++) {
    have += s->candidates[i].p;
    *token = s->candidates[i].id; /* the last where rounding left a crumb */
    if (have > (double)draw * all) break;
  }
  return DS_OK;
}
