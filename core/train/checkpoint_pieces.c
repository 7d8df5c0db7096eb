#include "train/checkpoint_pieces.h"

#include <stdlib.h>
#include <string.h>

int ds_engine_n_states(const ds_engine *e) {
  return e->optimizer ? e->optimizer->vtable->n_states : 0;
}

/* One of the ranks of its ZeRO group has it to save; and of the groups that have the same part of the
 * parameter one. */
static ds_piece piece_at(void *ctx, int i) {
  const ds_engine *e = ctx;
  ds_piece p = *ds_zero_piece(e->zero, i);
  p.mine = p.mine && (!e->shards || e->shards[p.param].counted);
  return p;
}

static ds_status read_piece(void *ctx, int kind, int i, int64_t from, int64_t n, float *host,
                            ds_error *err) {
  ds_engine *e = ctx;
  return ds_zero_read(e->zero, kind, i, from, n, host, err);
}

static ds_status write_piece(void *ctx, int kind, int i, int64_t from, int64_t n, const float *host,
                             ds_error *err) {
  ds_engine *e = ctx;
  return ds_zero_write(e->zero, kind, i, from, n, host, err);
}

ds_status ds_engine_pieces_init(ds_engine_pieces *out, ds_engine *e, ds_error *err) {
  size_t n = (size_t)e->n_params;
  *out = (ds_engine_pieces){.n_params = e->n_params};
  out->pieces = (ds_pieces){e, ds_zero_n_pieces(e->zero), piece_at, read_piece, write_piece};
  out->masters = calloc(n, sizeof *out->masters);
  out->states = calloc(n, sizeof *out->states);
  if (!out->masters || !out->states) return ds_fail_memory(err, "a checkpoint");
  for (int i = 0; i < e->n_params; i++) {
    ds_stored *s = &out->states[i];
    s->shard = e->shards ? &e->shards[i] : NULL;
    s->rank = ds_params_shape(e->params, i, s->whole);
    out->masters[i] = *s;
    out->masters[i].transposed = ds_params_transposed(e->params, i);
  }
  return DS_OK;
}

void ds_engine_pieces_finish(ds_engine_pieces *p) {
  free(p->masters);
  free(p->states);
  memset(p, 0, sizeof *p);
}
