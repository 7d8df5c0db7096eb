/* sampler.h - the next token from logits: greedy, or drawn with temperature, top-k and top-p
 * (nucleus sampling, Holtzman et al. 2020). The same settings and seed give the same tokens, and but
 * for rounding the same as the op `sample`, whose rules (ds_ops.def) these are. */
#ifndef DS_INFER_SAMPLER_H
#define DS_INFER_SAMPLER_H

#include "base/rng.h"
#include "base/status.h"

typedef struct ds_sampler_candidate {
  double p;
  float logit;
  int32_t id;
} ds_sampler_candidate;

typedef struct ds_sampler {
  double temperature; /* 0 = greedy */
  int64_t top_k;      /* 0 = all */
  double top_p;       /* 1 = all */
  ds_rng rng;
  ds_sampler_candidate *candidates; /* [V] scratch */
  int64_t vocab_size;
} ds_sampler;

/* Room for a vocabulary. */
DS_MUST_USE ds_status ds_sampler_init(ds_sampler *s, int64_t vocab_size, ds_error *err);
void ds_sampler_finish(ds_sampler *s);
/* Values out of range are DS_ERR_INVALID naming the setting. */
DS_MUST_USE ds_status ds_sampler_set(ds_sampler *s, double temperature, int64_t top_k, double top_p,
                                     uint64_t seed, ds_error *err);
/* The next number in [0,1), one a token; 0 without asking for one where it isn't used. */
float ds_sampler_draw(ds_sampler *s);
/* Picks from logits f32[V]; `banned` (or -1) is never picked. DS_ERR_NUMERIC when no logit is a
 * finite number. Ties go to the smaller id. */
DS_MUST_USE ds_status ds_sampler_pick(ds_sampler *s, const float *logits, int32_t banned,
                                      float draw, int32_t *token, ds_error *err);
/* That failure. */
ds_status ds_sampler_no_token(ds_error *err);

#endif
