/* vocab.h - tables and heads divided by vocabulary: what embedding.c, linear.c and loss.c call under
 * tensor parallelism (parallel.h). */
#ifndef DS_OPS_VOCAB_H
#define DS_OPS_VOCAB_H

#include "ops/tape.h"

/* ids i32[...], whole -> [...,C], or this rank's rows of it; backward: with ids and dy as
 * DS_OP_EMBEDDING_BACKWARD takes them, in[0] the ids and in[1] the table. */
ds_value *ds_vocab_embedding(ds_ctx *ctx, ds_value *ids, ds_value *table, const ds_param_split *s,
                             ds_backward_fn backward);

/* Columns of a buffer for logits of `width`: at least one more, which no token has. With it the
 * gradient of a row whose target another rank has is the op's for a target that is nobody's. */
int64_t ds_vocab_padded(int64_t width);
/* Fills the columns from width on with what counts as no logit. */
bool ds_vocab_pad(ds_ctx *ctx, ds_value *buffer, int64_t width);
/* logits [R,V] (DS_PART_VOCAB, rows strided), targets i32[R] of all tokens -> f32[1]; backward: as
 * DS_OP_CROSS_ENTROPY_BACKWARD takes them, in[0] the logits, in[1] the targets, out[1] the
 * log-sum-exps and out[2] the count. */
ds_value *ds_vocab_loss(ds_ctx *ctx, ds_value *logits, ds_value *targets, int64_t ignore,
                        ds_backward_fn backward);

#endif
