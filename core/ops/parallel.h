/* parallel.h - tensor parallelism in a context: which part of a value this rank has, and the places
 * where ranks exchange (Shoeybi et al. 2019; Korthikanti et al. 2022).
 *
 * A model is written as for one rank. Its linears and embeddings look at how their parameter is
 * divided (ds_split in ds.h):
 *
 *     column-parallel linear   its x enters the group: the same on all ranks, gradients are summed.
 *                              Linears of one x share that. Its result is a part of the columns
 *     row-parallel linear      takes such a part; the products leave the group: they are summed
 *     embedding by vocabulary  looks up its own rows, others count as zero; the sum leaves
 *     head by vocabulary       as column-parallel; ds_cross_entropy never brings logits together
 *
 * With sequence parallelism what leaves is scattered instead: each rank has an n-th of the rows
 * (tokens, in the order b * T + t), until they are gathered where they enter again. Norms and
 * residuals in between then work on [rows / n, C]. The rows must be a multiple of the ranks.
 *
 * Ops that would need what other ranks have refuse: a norm of a part of the columns, attention over
 * a part of the sequence.
 */
#ifndef DS_OPS_PARALLEL_H
#define DS_OPS_PARALLEL_H

#include "backend/group.h"
#include "ops/ctx.h"

/* How a parameter is divided. */
typedef struct ds_param_split {
  ds_split split;
  int64_t begin, whole; /* of DS_SPLIT_VOCAB: the first row here, and the rows of all ranks */
  const char *name;     /* in messages */
  ds_group *sum;        /* NULL, or ranks over which the gradient is summed, at its last use of each
                           backward pass */
} ds_param_split;

/* group: the ranks that have the parts; NULL, or a group of one: nothing is divided. splits: one per
 * parameter index; both stay the caller's and must stay valid. sequence: sequence parallelism. */
void ds_ctx_bind_tensor(ds_ctx *ctx, ds_group *group, const ds_param_split *splits, bool sequence);

/* Sums over the group of gradients of column-parallel products' inputs go to this stream, while the
 * backend's computes the gradients of their weights. NULL: all goes to the backend's stream. The
 * caller's; it must outlive the context's work. Without sequence parallelism only. */
void ds_ctx_bind_tensor_side(ds_ctx *ctx, ds_side *side);

/* What this rank has of a value. */
typedef enum ds_part {
  DS_PART_WHOLE,
  DS_PART_COLUMNS, /* of the last dimension: heads, or hidden width */
  DS_PART_VOCAB,   /* of the last dimension: logits */
  DS_PART_ROWS     /* of all other dimensions: tokens */
} ds_part;

/* A result that the caller is to have whole: logits by vocabulary and rows are brought together,
 * without a gradient; a part of other columns is an error. */
ds_value *ds_parallel_whole(ds_ctx *ctx, ds_value *x);

/* ---- for op files. NULL, or false, after recording the failure */

const char *ds_parallel_part_name(ds_part part);
/* v's memory is free for the work to come: nothing reads it again. */
void ds_parallel_drop(ds_ctx *ctx, ds_value *v);
/* How w is divided; NULL where it isn't. */
const ds_param_split *ds_parallel_split(const ds_ctx *ctx, const ds_value *w);
/* Whether the op can work on what is here of its inputs, and what its outputs are a part of. */
bool ds_parallel_check(ds_ctx *ctx, uint32_t op, ds_value *const *in, int n_in,
                       ds_value *const *out, int n_out);
/* The same of a linear: of x, what its weight takes. */
bool ds_parallel_check_linear(ds_ctx *ctx, const ds_value *x, const ds_value *w);
/* x, whole, as the input of a column-parallel product. */
ds_value *ds_parallel_enter(ds_ctx *ctx, ds_value *x);
/* In the walk: a product that read x has added to its gradient. */
DS_MUST_USE ds_status ds_parallel_added(ds_ctx *ctx, ds_value *x, ds_error *err);
/* The backend's stream waits for what the side has. */
DS_MUST_USE ds_status ds_parallel_join(ds_ctx *ctx, ds_error *err);
/* The sum over ranks of y [...,C], in place; or this rank's rows of it. */
ds_value *ds_parallel_leave(ds_ctx *ctx, ds_value *y);
/* This rank's rows of contiguous ids, flat, where each has its own rows; else ids. */
ds_value *ds_parallel_ids(ds_ctx *ctx, ds_value *ids);
DS_MUST_USE ds_status ds_parallel_begin(ds_ctx *ctx, ds_error *err); /* a new tape */
/* Of a parameter whose gradient is summed over ranks, where this walk's goes; *existed: something is
 * there. False: where a gradient always goes. */
bool ds_parallel_summed(const ds_ctx *ctx, int param);
DS_MUST_USE ds_status ds_parallel_grad(ds_ctx *ctx, ds_value *param, ds_tensor *out, bool *existed,
                                       ds_error *err);
/* Nothing adds to the parameter's gradient any more in this walk. */
DS_MUST_USE ds_status ds_parallel_done(ds_ctx *ctx, int param, ds_error *err);
/* Keeps the elements of an i32 input, so that a rank can tell which are its own. */
bool ds_parallel_keep_ids(ds_ctx *ctx, ds_value *v, const int32_t *host, size_t n);
/* The elements of a contiguous i32 value: kept ones, or read back. They stay until the next keep or
 * read. */
const int32_t *ds_parallel_read_ids(ds_ctx *ctx, ds_value *v);

#endif
