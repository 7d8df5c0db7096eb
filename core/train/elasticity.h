/* elasticity.h - DeepSpeed's elasticity 0.1 and 0.2: one train batch that divides over as many
 * numbers of ranks as possible, so that a job can go on with fewer or more of them. Pure arithmetic.
 *
 * 0.1: bases are the micro batches and their least common multiple. Each is scaled by the largest
 * highly composite number that keeps it within max_train_batch_size. The batch with the most valid
 * numbers of ranks wins, of equals the larger one (prefer_larger_batch) or the smaller. A number of
 * ranks is valid when batch / ranks is a multiple of one of the micro batches.
 * 0.2: the same in whole nodes of num_gpus_per_node ranks, model_parallel_size of which make one
 * data-parallel rank. A number that isn't valid gets a batch of its own: the largest multiple of
 * ranks x micro batch within the limit (the smallest of these without prefer_larger_batch).
 * (deepspeed/elasticity/elasticity.py, as of 0.19.)
 */
#ifndef DS_TRAIN_ELASTICITY_H
#define DS_TRAIN_ELASTICITY_H

#include "base/status.h"

#include <stdbool.h>
#include <stdint.h>

enum { DS_ELASTICITY_MICRO_MAX = 64 };

typedef struct ds_elasticity {
  int64_t max_batch;                      /* max_train_batch_size */
  int64_t micro[DS_ELASTICITY_MICRO_MAX]; /* micro_batch_sizes */
  int n_micro;
  int64_t min_gpus, max_gpus;
  int version; /* 1: 0.1; 2: 0.2 */
  bool prefer_larger;
  int64_t gpus_per_node, model_parallel; /* 0.2 */
} ds_elasticity;

typedef struct ds_elastic_sizes {
  int64_t batch, micro, accumulation; /* batch = micro x accumulation x data-parallel ranks */
} ds_elastic_sizes;

/* What can't be: no micro batch, one below 1 or above the limit, a version that isn't there, ... */
DS_MUST_USE ds_status ds_elasticity_check(const ds_elasticity *e, ds_error *err);
/* The batch, and the valid numbers of data-parallel ranks for it, ascending; free(*valid). *n may be
 * 0. e is checked. */
DS_MUST_USE ds_status ds_elasticity_find(const ds_elasticity *e, int64_t *batch, int64_t **valid,
                                         int *n, ds_error *err);
/* For a number of data-parallel ranks: the batch, and the largest micro batch that divides it.
 * DS_ERR_INVALID with the valid numbers when it is none of them (0.1; 0.2: broken nodes, or more
 * ranks than the limit has samples). */
DS_MUST_USE ds_status ds_elasticity_resolve(const ds_elasticity *e, int64_t ranks,
                                            ds_elastic_sizes *out, ds_error *err);

#endif
