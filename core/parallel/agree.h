/* agree.h - whether all ranks mean the same: the same code, config, model and data.
 *
 * Each rank lists facts, a name and a text each. Rank 0's are the measure. Where they are equal, that
 * costs a broadcast of some bytes and one reduction; where not, the lowest rank that differs looks for
 * the first fact in the lists that it has otherwise, and every rank fails with the same words:
 *
 *     ranks disagree: "train_micro_batch_size_per_gpu" is 4 on rank 0 but 8 on rank 2
 */
#ifndef DS_PARALLEL_AGREE_H
#define DS_PARALLEL_AGREE_H

#include "base/json.h"
#include "base/str.h"
#include "parallel/world.h"

/* Facts so far. Zero-initialize; ds_agree_finish() frees. */
typedef struct ds_agree {
  ds_str facts; /* "name\0text\0" ... */
} ds_agree;

/* A failure (no memory) shows in ds_agree_status. */
void ds_agree_add(ds_agree *a, const char *name, const char *fmt, ...)
    __attribute__((format(printf, 3, 4)));
/* Every value below an object as a fact of its own, named by its place ("bf16.enabled") after prefix;
 * arrays are one fact. Left out are places that begin with one of but[n_but], a whole key or more. */
void ds_agree_add_json(ds_agree *a, const char *prefix, const cJSON *object, const char *const *but,
                       int n_but);
DS_MUST_USE ds_status ds_agree_status(const ds_agree *a, ds_error *err);
void ds_agree_finish(ds_agree *a);

/* Collective over the world: DS_ERR_INVALID on all ranks where one has other facts than rank 0. Every
 * rank must have its facts: ds_world_agree about ds_agree_status before. */
DS_MUST_USE ds_status ds_agree_check(const ds_agree *a, ds_world *w, ds_error *err);

/* The first difference between rank 0's facts and those of `rank`, in words; false: there is none. */
bool ds_agree_compare(const char *first, size_t first_bytes, const char *mine, size_t mine_bytes,
                      int rank, char *out, size_t room);

#endif
