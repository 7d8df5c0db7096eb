/* shard.h - which part of a model's parameters this rank holds under tensor and pipeline
 * parallelism. (ZeRO then partitions what is held: zero/layout.h.)
 *
 * A model declares its parameters whole. A shard says what of one a rank has: all of it, some runs
 * of indices along one dimension, or nothing (another pipeline stage's). Runs of different ranks may
 * overlap (replicated key/value heads).
 *
 * The rules are those of DeepSpeed's AutoTP: a matrix's role is told by the last parts of its name.
 * Row-parallel are o_proj, out_proj, down_proj, attention.dense, dense_4h_to_h, w2, wo and c_proj;
 * embeddings and heads (wte, embed_tokens, word_embeddings, tok_embeddings, lm_head, embed_out) are
 * divided by vocabulary, tables of positions (wpe, embed_positions, position_embeddings) not at all; all
 * other matrices are column-parallel. A bias goes with its matrix, but for that of a row-parallel one,
 * which is whole, as other vectors are. A model may say otherwise (ds_params_set_split).
 *
 * What isn't attention is divided evenly: of N indices rank r of n has N/n, and one more where r <
 * N mod n. Attention is divided by its heads. With at least as many key/value heads as ranks, rank r
 * has kv/n + (r < kv mod n) of them and the query heads that go with those. With fewer, key/value head
 * g is held by n/kv + (g < n mod kv) ranks, neighbours, among whom its query heads are divided.
 */
#ifndef DS_PARALLEL_SHARD_H
#define DS_PARALLEL_SHARD_H

#include "backend/group.h"

enum { DS_SHARD_RUNS = 3 };

typedef struct ds_shard {
  bool present; /* false: this rank holds nothing of it; the shape's first dimension is 0 */
  ds_split split;
  int dim; /* that is split; -1: none */
  int n_runs;
  struct {
    int64_t begin, end; /* of the whole's indices along dim, in the order they have here */
  } runs[DS_SHARD_RUNS];
  int32_t rank;
  int64_t shape[DS_MAX_RANK]; /* of what is here */
  bool counted; /* this rank counts it in the norm of all gradients: one of those that hold
                                 the same elements does */
  int sum_first, sum_count; /* ranks of the tensor group that hold the same elements but whose
                               gradients of them differ: the gradient is their sum. 0: none */
  ds_group *sum;            /* these ranks, once ds_shard_connect made it; not owned */
} ds_shard;

/* ---- the rules */

/* A parameter as its model declares it. */
typedef struct ds_shard_param {
  const char *name;
  int32_t rank;
  int64_t shape[DS_MAX_RANK];
  bool declared; /* split and by are the model's own words */
  ds_split split;
  ds_split_by by;
} ds_shard_param;

/* Of the model's attention; all 0: not known. */
typedef struct ds_shard_heads {
  int64_t query, kv, dim;
} ds_shard_heads;

/* What rank of `size` has of n parameters, to out[n]. sequence: norms run on parts of the sequence
 * (sequence parallelism), so that the gradients of undivided parameters are summed over the ranks.
 * sum stays NULL. Errors name the parameter, the sizes and what would do. */
DS_MUST_USE ds_status ds_shard_plan(const ds_shard_param *params, int n,
                                    const ds_shard_heads *heads, int rank, int size, bool sequence,
                                    ds_shard *out, ds_error *err);
/* How many heads a rank of `size` has; size <= heads->query. */
void ds_shard_count_heads(const ds_shard_heads *heads, int rank, int size, int64_t *query,
                          int64_t *kv);
/* Sets sum. Collective over tensor, the group that was planned for. *replicas (NULL where there are
 * none) is a new group, of the ranks that share a key/value head; the caller's to destroy, after the
 * shards' last use. */
DS_MUST_USE ds_status ds_shard_connect(ds_shard *shards, int n, ds_group *tensor,
                                       ds_group **replicas, ds_error *err);

/* ---- where what is here lies in the whole; both row by row */

int64_t ds_shard_numel(const ds_shard *s); /* elements here */

typedef struct ds_shard_run {
  int64_t local, whole; /* first element here and in the whole parameter */
  int64_t count;
} ds_shard_run;

typedef struct ds_shard_walk {
  const ds_shard *shard;
  int64_t inner;   /* elements that one index along dim has in a row */
  int64_t stride;  /* elements of the whole for one index of the dimensions before dim */
  int64_t at, end; /* elements here */
} ds_shard_walk;

/* Elements [begin, end) of what is here, as runs in the order they have here; whole: the parameter's
 * shape. As few runs as there are: neighbours are joined. */
void ds_shard_walk_begin(ds_shard_walk *w, const ds_shard *s, const int64_t *whole, int64_t begin,
                         int64_t end);
/* False at the end. */
bool ds_shard_walk_next(ds_shard_walk *w, ds_shard_run *run);

/* Between the parameter's elements and those here, of element_size bytes, in host memory. take fills
 * local; put leaves alone what isn't here. */
void ds_shard_take(const ds_shard *s, const int64_t *shape, size_t element_size, const void *whole,
                   void *local);
void ds_shard_put(const ds_shard *s, const int64_t *shape, size_t element_size, const void *local,
                  void *whole);

#endif
