/* bench_model.h - the model that train and decode measure, and how much work it is. */
#ifndef DS_CLI_BENCH_MODEL_H
#define DS_CLI_BENCH_MODEL_H

#include "base/status.h"
#include "ds.h"

typedef struct bench_model {
  ds_model *model;
  ds_model_info info;
  int64_t width;  /* of a token's vector */
  double params;  /* all of them */
  double matrix;  /* those that every token is multiplied with, the output head among them */
  double head;    /* the output head's */
  double weights; /* those that are read for one token: all but rows of lookup tables */
} bench_model;

/* path: a Hugging Face folder or config.json; NULL = GPT-2 124M with random weights. */
DS_MUST_USE ds_status bench_model_open(const char *path, bench_model *out, ds_error *err);
void bench_model_finish(bench_model *m);

/* Floating-point operations, a multiply-add counting two. Attention is causal: half of T x T, which
 * is all that has to be done. Norms, activations and the update are not counted. */
double bench_model_train_flops(const bench_model *m, int64_t batch, int64_t seq_len);
/* Of reading a prompt of n tokens when only the last one's logits are wanted. */
double bench_model_prompt_flops(const bench_model *m, int64_t n);

#endif
