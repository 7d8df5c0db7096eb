/* flat.h - a model's numbers in training: each kind one flat, aligned allocation on the device.
 *
 * Masters and gradients are f32, in the layout of model/params.h; states are the optimizer's. In
 * bf16 there is a bf16 copy of the masters to compute with; in f32 the masters are computed with.
 */
#ifndef DS_TRAIN_FLAT_H
#define DS_TRAIN_FLAT_H

#include "backend/backend.h"
#include "ds.h"

typedef struct ds_flat {
  ds_backend *backend;
  int64_t count; /* elements of each buffer */
  float *master, *grad, *state[4];
  uint16_t *compute; /* NULL in f32 */
} ds_flat;

/* Everything is zero afterwards. out is finished on failure. */
DS_MUST_USE ds_status ds_flat_init(ds_flat *out, ds_backend *b, int64_t count, bool bf16,
                                   int n_states, ds_error *err);
void ds_flat_finish(ds_flat *f);
/* Everything is zero. */
DS_MUST_USE ds_status ds_flat_clear(ds_flat *f, ds_error *err);
/* The bf16 copy of elements [begin, begin + n), from the masters. Nothing to do in f32. */
DS_MUST_USE ds_status ds_flat_refresh(ds_flat *f, ds_ctx *ctx, int64_t begin, int64_t n,
                                      ds_error *err);

#endif
