#include "train/checkpoint_pieces.h"

#include <stdlib.h>
#include <string.h>

int ds_engine_n_states(const ds_engine *e) {
  return e->optimizer ? e->optimizer->vtable->n_states : 0;
}

/* Every rank has all of it: they share the writing, each a stretch of the flat buffer. */
static ds_pieces_part part_at(void *ctx, int i) {
  const ds_engine *e = ctx;
  int64_t place = ds_params_offset(e->params, i) / DS_PARAM_ALIGN;
  int64_t all = e->flat.count / DS_PARAM_ALIGN;
  return (ds_pieces_part){.param = i,
                          .end = ds_params_numel(e->params, i),
                          .mine = place * e->world.size / all == e->world.rank};
}

static float *numbers(const ds_engine *e, int kind, int i, int64_t from) {
  float *flat = kind == 0 ? e->flat.master : e->flat.state[kind - 1];
  return flat + ds_params_offset(e->params, i) + from;
}

static ds_status read_part(void *ctx, int kind, int i, int64_t from, int64_t n, float *host,
                           ds_error *err) {
  ds_engine *e = ctx;
  return ds_backend_download(e->backend, host, numbers(e, kind, i, from), (size_t)n * sizeof *host,
                             err);
}

static ds_status write_part(void *ctx, int kind, int i, int64_t from, int64_t n, const float *host,
                            ds_error *err) {
  ds_engine *e = ctx;
  return ds_backend_upload(e->backend, numbers(e, kind, i, from), host, (size_t)n * sizeof *host,
                           err);
}

ds_status ds_engine_pieces_init(ds_engine_pieces *out, ds_engine *e, ds_error *err) {
  size_t n = (size_t)e->n_params;
  *out = (ds_engine_pieces){.n_params = e->n_params};
  out->pieces = (ds_pieces){e, e->n_params, part_at, read_part, write_part};
  out->masters = calloc(n, sizeof *out->masters);
  out->states = calloc(n, sizeof *out->states);
  if (!out->masters || !out->states) return ds_fail_memory(err, "a checkpoint");
  for (int i = 0; i < e->n_params; i++) {
    ds_stored *s = &out->states[i];
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

ds_status ds_engine_pieces_settle(ds_engine *e, ds_error *err) {
  return ds_flat_refresh(&e->flat, e->ctx, 0, e->flat.count, err);
}
