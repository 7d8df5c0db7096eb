/* shard.h - which part of a model's parameters this rank holds under tensor and pipeline
 * parallelism. (ZeRO then partitions what is held: zero/layout.h.)
 *
 * A model declares its parameters whole. A shard says what of one a rank has: all of it, some runs
 * of indices along one dimension, or nothing (another pipeline stage's). Runs of different ranks may
 * overlap (replicated key/value heads).
 */
#ifndef DS_PARALLEL_SHARD_H
#define DS_PARALLEL_SHARD_H

#include "backend/group.h"

typedef enum ds_split {
  DS_SPLIT_NONE,   /* every rank has all of it */
  DS_SPLIT_COLUMN, /* [N,K] by N: the linear's output is split, and its bias with it */
  DS_SPLIT_ROW,    /* [N,K] by K: its input is split; the products are summed over the ranks */
  DS_SPLIT_VOCAB   /* [V,C] by V: an embedding's rows, a head's outputs */
} ds_split;

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
  bool counted;  /* this rank counts it in the norm of all gradients: one of those that hold
                                 the same elements does */
  ds_group *sum; /* NULL, or ranks that hold the same elements but whose gradients of them differ:
                    the gradient is their sum over the group. Not owned */
} ds_shard;

#endif
