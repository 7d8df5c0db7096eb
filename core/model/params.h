/* params.h - a model's parameter declarations, the engines' side. What models call is in ds.h.
 *
 * Parameters also have a place each in one flat buffer, in the order of declaration: ZeRO
 * partitions that buffer, fused optimizers sweep it, checkpoints stream it. Places are in elements
 * and hold for any dtype.
 */
#ifndef DS_MODEL_PARAMS_H
#define DS_MODEL_PARAMS_H

#include "base/status.h"
#include "ds.h"

/* Every parameter begins at a multiple of this many elements of the flat buffer. */
enum { DS_PARAM_ALIGN = 64 };

DS_MUST_USE ds_status ds_params_create(ds_params **out, ds_error *err);
void ds_params_destroy(ds_params *p);
/* The first failure of ds_params_add() and its like. */
DS_MUST_USE ds_status ds_params_status(const ds_params *p, ds_error *err);

/* index must be in [0, count) below. */
int64_t ds_params_numel(const ds_params *p, int index);
ds_init ds_params_init(const ds_params *p, int index, double *scale); /* scale may be NULL */
bool ds_params_transposed(const ds_params *p, int index);
/* Elements before the parameter in the flat buffer. */
int64_t ds_params_offset(const ds_params *p, int index);
/* Elements of the flat buffer, padding included; a multiple of DS_PARAM_ALIGN. */
int64_t ds_params_total(const ds_params *p);
/* The index of a name; -1 when there is none. */
int ds_params_find(const ds_params *p, const char *name);

/* What the model said of tensor parallelism (ds.h): false where it said nothing. */
bool ds_params_split(const ds_params *p, int index, ds_split *split, ds_split_by *by);
bool ds_params_heads(const ds_params *p, int64_t *query, int64_t *kv, int64_t *dim);
/* Adds parameter `index` of `from` in another shape of the same rank, which may have no elements:
 * name, initialization, transposition and what was said of tensor parallelism come along. Failures
 * stay in p. */
void ds_params_add_like(ds_params *p, const ds_params *from, int index, const int64_t *shape);

/* The initial values of a parameter, numel floats. They depend on the seed, the name, the init kind
 * and the number of elements only: not on the order of parameters, the rank, or the backend. */
DS_MUST_USE ds_status ds_params_init_values(const ds_params *p, int index, uint64_t seed,
                                            float *out);

#endif
