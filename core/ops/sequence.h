/* sequence.h - sequence parallelism in a context (DeepSpeed-Ulysses; Jacobs et al. 2023): each rank
 * of a group has a stretch of every sequence, rank r the tokens [r T/s, (r+1) T/s) of T.
 *
 * A model is written as for one rank and doesn't notice. What looks at each token by itself works
 * on the stretch. Positions begin where the stretch does. Attention needs all tokens: ranks
 * exchange, and each attends with its part of the heads over the whole sequence, and they exchange
 * back:
 *
 *     q, k, v [B,T/s,H,D] -- all-to-all --> [B,T,H/s,D] -- attention -->
 *             [B,T,H/s,D] -- all-to-all --> [B,T/s,H,D]
 *
 * s must divide the heads H. Fewer key/value heads G than s are sent to several ranks, s/G to each;
 * G must divide s, or s G.
 *
 * The loss (ds_cross_entropy) is the mean over the targets of all stretches that count, the same on
 * all ranks. Its gradients are made so that their mean over the ranks is right: that is what ranks
 * with the same parameters do anyhow. So is a mean over elements, ds_mean, of which each rank has
 * as many.
 */
#ifndef DS_OPS_SEQUENCE_H
#define DS_OPS_SEQUENCE_H

#include "backend/group.h"
#include "ops/ctx.h"

/* group: NULL, or of one: sequences are whole. It stays the caller's and must stay valid. */
void ds_ctx_bind_sequence(ds_ctx *ctx, ds_group *group);

/* ---- for op files. NULL, or false, after recording the failure */

/* The first position here, of stretches of `length` tokens. */
int64_t ds_sequence_begin(const ds_ctx *ctx, int64_t length);
/* Whether heads can be divided: of queries, and of keys. */
bool ds_sequence_check_heads(ds_ctx *ctx, int64_t heads, int64_t kv_heads);
/* x [B,T/s,H,D] -> [B,T,H/s,D], or [B,T,1,D] where there are fewer heads than ranks; strided. */
ds_value *ds_sequence_to_heads(ds_ctx *ctx, ds_value *x);
/* y [B,T,H/s,D] -> [B,T/s,H,D] */
ds_value *ds_sequence_to_tokens(ds_ctx *ctx, ds_value *y);
/* loss f32[1]: the mean over `count` f32[1] targets here. Becomes that over all ranks' targets, and
 * count what makes gradients right. */
bool ds_sequence_mean_loss(ds_ctx *ctx, ds_value *loss, ds_value *count);

#endif
