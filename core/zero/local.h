/* local.h - a model's parameters as this rank has them: the declarations cut down by shards. */
#ifndef DS_ZERO_LOCAL_H
#define DS_ZERO_LOCAL_H

#include "model/params.h"
#include "ops/parallel.h"
#include "parallel/shard.h"

/* What rank of `size` has under tensor parallelism, by parameter: new (free()). See ds_shard_plan. */
DS_MUST_USE ds_status ds_local_plan(const ds_params *whole, int rank, int size, bool sequence,
                                    ds_shard **out, ds_error *err);
/* The declarations of what is here: same indices, names, initializations, transpositions. A
 * parameter that isn't present has no elements. To be destroyed. */
DS_MUST_USE ds_status ds_params_localize(const ds_params *whole, const ds_shard *shards,
                                         ds_params **out, ds_error *err);
/* How the context is to see the parameters (ops/parallel.h): new (free()), by parameter; names are
 * those of `whole`. */
DS_MUST_USE ds_status ds_local_splits(const ds_params *whole, const ds_shard *shards,
                                      ds_param_split **out, ds_error *err);

#endif
