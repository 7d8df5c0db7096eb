#include "work.h"

#include <string.h>

ds_status work_init(conformance *k, work *w, ds_device *dev, ds_error *err) {
  const ds_device_table *d = k->plugin->device;
  *w = (work){.dev = dev};
  ds_status st = d->alloc(dev, WORK_BYTES, &w->a, err);
  if (st != DS_OK) {
    w->a = NULL;
    return st;
  }
  st = d->alloc(dev, WORK_BYTES, &w->b, err);
  if (st != DS_OK) {
    w->b = NULL;
    return st;
  }
  st = d->alloc(dev, WORK_BYTES, &w->c, err);
  if (st != DS_OK) w->c = NULL;
  return st;
}

void work_finish(conformance *k, work *w) {
  const ds_device_table *d = k->plugin->device;
  if (w->a) d->free(w->dev, w->a);
  if (w->b) d->free(w->dev, w->b);
  if (w->c) d->free(w->dev, w->c);
  memset(w, 0, sizeof *w);
}

ds_status work_launch(conformance *k, work *w, ds_stream *s, ds_error *err) {
  const ds_plugin *p = k->plugin;
  const ds_gemm g = {.size = sizeof g,
                     .m = WORK_N,
                     .n = WORK_N,
                     .k = WORK_N,
                     .lda = WORK_N,
                     .ldb = WORK_N,
                     .ldc = WORK_N,
                     .batch = 1,
                     .alpha = 1,
                     .a = w->a,
                     .b = w->b,
                     .c = w->c};
  ds_tensor a = {.data = w->a, .rank = 2, .shape = {WORK_N, WORK_N}, .stride = {WORK_N, 1}}, c = a;
  c.data = w->c;
  const ds_tensor *in[] = {&a, &c}, *out[] = {&c};
  const ds_op add = {
      .size = sizeof add, .id = DS_OP_ADD, .n_in = 2, .n_out = 1, .in = in, .out = out};
  ds_status st = DS_OK;
  if (p->gemm && p->gemm->supports(w->dev, &g))
    st = p->gemm->run(s, &g, err);
  else if (p->device->copy)
    st = p->device->copy(s, w->c, w->b, WORK_BYTES, err);
  bool adds = p->ops && p->ops->supports(w->dev, &add);
  if (adds && p->ops->workspace && p->ops->workspace(w->dev, &add) > 0) adds = false;
  if (st == DS_OK && adds) st = p->ops->run(s, &add, err);
  return st;
}

ds_status work_do(conformance *k, work *w, ds_stream *s, uint64_t seed, float *out, ds_error *err) {
  const ds_device_table *d = k->plugin->device;
  float host[WORK_N * WORK_N];
  uint64_t rng = seed;
  ds_status st = DS_OK;
  for (int m = 0; m < 3 && st == DS_OK; m++) { /* the source is reused at once */
    for (int i = 0; i < WORK_N * WORK_N; i++) host[i] = (float)harness_normal(&rng);
    st = d->upload(s, m == 0 ? w->a : m == 1 ? w->b : w->c, host, WORK_BYTES, err);
  }
  if (st == DS_OK) st = work_launch(k, w, s, err);
  if (st == DS_OK) st = d->download(s, out, w->c, WORK_BYTES, err);
  return st;
}

ds_status work_on(conformance *k, ds_device *dev, ds_stream *s, uint64_t seed, float *out,
                  ds_error *err) {
  work w;
  ds_status st = work_init(k, &w, dev, err);
  if (st == DS_OK) st = work_do(k, &w, s, seed, out, err);
  work_finish(k, &w);
  return st;
}
