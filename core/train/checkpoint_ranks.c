#include "train/checkpoint_ranks.h"

#include "base/checksum.h"
#include "base/status.h"

#include <string.h>

enum { LIMBS = 8, LIMB = 256 };

/* op over n floats in host memory; broadcast: rank 0's instead. In the world's own device memory: a
 * collective that was given up may write to it later. */
static ds_status combine(ds_world *w, float *x, size_t n, bool broadcast, ds_reduce op,
                         ds_error *err) {
  DS_TRY(ds_backend_upload(w->backend, w->flag, x, n * sizeof *x, err));
  DS_TRY(broadcast ? ds_world_broadcast(w, w->flag, (int64_t)n, err)
                   : ds_world_allreduce(w, w->flag, (int64_t)n, op, err));
  return ds_backend_download(w->backend, x, w->flag, n * sizeof *x, err);
}

static void to_limbs(uint64_t value, float out[LIMBS]) {
  for (int i = 0; i < LIMBS; i++) out[i] = (float)(value >> 8 * i & (LIMB - 1));
}

ds_status ds_ranks_tell(ds_world *w, char text[DS_RANKS_TEXT], ds_error *err) {
  if (w->size == 1) return DS_OK;
  float x[DS_RANKS_TEXT] = {0};
  for (size_t i = 0; w->rank == 0 && i + 1 < DS_RANKS_TEXT && text[i]; i++)
    x[i] = (float)(unsigned char)text[i];
  DS_TRY(combine(w, x, DS_RANKS_TEXT, true, DS_REDUCE_SUM, err));
  for (size_t i = 0; i < DS_RANKS_TEXT; i++) text[i] = (char)(unsigned char)x[i];
  return DS_OK;
}

ds_status ds_ranks_same(ds_world *w, const char *text, bool *same, ds_error *err) {
  *same = true;
  if (w->size == 1) return DS_OK;
  /* The most and, as the most of what is left to the top, the least of every limb. */
  float x[2 * LIMBS];
  to_limbs(text ? ds_checksum(text, strlen(text)) : 0, x);
  for (int i = 0; i < LIMBS; i++) x[LIMBS + i] = LIMB - 1 - x[i];
  DS_TRY(combine(w, x, 2 * LIMBS, false, DS_REDUCE_MAX, err));
  for (int i = 0; i < LIMBS; i++) *same = *same && x[i] == LIMB - 1 - x[LIMBS + i];
  return DS_OK;
}

ds_status ds_ranks_sum(ds_world *w, uint64_t *value, ds_error *err) {
  if (w->size == 1) return DS_OK;
  float x[LIMBS];
  to_limbs(*value, x);
  DS_TRY(combine(w, x, LIMBS, false, DS_REDUCE_SUM, err));
  *value = 0;
  for (int i = 0; i < LIMBS; i++) *value += (uint64_t)x[i] << 8 * i;
  return DS_OK;
}
