#include "train/checkpoint_ranks.h"

#include "base/checksum.h"
#include "base/status.h"

#include <string.h>

enum { LIMBS = 8, LIMB = 256 };

/* In the world's own device memory: a collective that was given up may write to it later. */
static ds_status combine(ds_world *w, float *x, int64_t n, ds_reduce op, ds_error *err) {
  size_t bytes = (size_t)n * sizeof *x;
  DS_TRY(ds_backend_upload(w->backend, w->flag, x, bytes, err));
  DS_TRY(ds_world_allreduce(w, w->flag, n, op, err));
  return ds_backend_download(w->backend, x, w->flag, bytes, err);
}

static void to_limbs(uint64_t value, float out[LIMBS]) {
  for (int i = 0; i < LIMBS; i++) out[i] = (float)(value >> 8 * i & (LIMB - 1));
}

ds_status ds_ranks_same(ds_world *w, const char *text, bool *same, ds_error *err) {
  *same = true;
  if (w->size == 1) return DS_OK;
  /* The most and, as the most of what is left to the top, the least of every limb. */
  float x[2 * LIMBS];
  to_limbs(text ? ds_checksum(text, strlen(text)) : 0, x);
  for (int i = 0; i < LIMBS; i++) x[LIMBS + i] = LIMB - 1 - x[i];
  DS_TRY(combine(w, x, 2 * LIMBS, DS_REDUCE_MAX, err));
  for (int i = 0; i < LIMBS; i++) *same = *same && x[i] == LIMB - 1 - x[LIMBS + i];
  return DS_OK;
}

ds_status ds_ranks_sum(ds_world *w, uint64_t *value, ds_error *err) {
  if (w->size == 1) return DS_OK;
  float x[LIMBS];
  to_limbs(*value, x);
  DS_TRY(combine(w, x, LIMBS, DS_REDUCE_SUM, err));
  *value = 0;
  for (int i = 0; i < LIMBS; i++) *value += (uint64_t)x[i] << 8 * i;
  return DS_OK;
}
