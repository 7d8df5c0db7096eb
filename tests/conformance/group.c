#include "group.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

bool group_create(conformance *k, group *g, const int32_t *of, int size, int64_t timeout_ms,
                  tally *t) {
  rank_state *r = rank_of(k);
  ds_error err;
  *g = (group){.size = size, .own = -1};
  for (int i = 0; i < size; i++) {
    g->of[i] = of ? of[i] : i;
    if (g->of[i] == r->rank) g->own = i;
  }
  kv_folder_next(&r->kv, g->of[0]);
  check_doing(k, "comm create of %d ranks", size);
  ds_status st =
      k->plugin->comm->create(k->dev, g->of, size, &r->kv.store, timeout_ms, &g->comm, &err);
  if (st == DS_OK && g->comm) return true;
  g->comm = NULL;
  check_fail(t, "create of %d ranks: %.300s", size, st == DS_OK ? "gave NULL" : err.message);
  return false;
}

void group_destroy(conformance *k, group *g) {
  check_doing(k, "comm destroy");
  if (g->comm) k->plugin->comm->destroy(g->comm);
  g->comm = NULL;
}

void group_meet(conformance *k, tally *t) {
  rank_state *r = rank_of(k);
  char name[32];
  snprintf(name, sizeof name, "gate%d", r->gates++);
  r->kv.number = 1000 * r->gates; /* also where one rank made more communicators than another */
  if (!kv_folder_gate(r->folder, name, r->seat, r->size, r->limit))
    check_fail(t, "another rank did not come as far as this one");
}

/* Whole numbers where the dtype has no others, and so that sums of a few fit. */
double group_value(const conformance *k, int32_t dtype, int r, int64_t i) {
  uint64_t state = k->seed ^ ((uint64_t)r << 40) ^ ((uint64_t)i * 0x9e3779b97f4a7c15u);
  double u = harness_uniform(&state);
  switch (dtype) {
    case DS_F32:
    case DS_BF16:
    case DS_F16:
    case DS_F64: return harness_round(dtype, 4 * u - 2);
    case DS_U8: return (double)(int)(25 * u);
    case DS_I8: return (double)((int)(50 * u) - 25);
    default: return (double)((int)(20000 * u) - 10000);
  }
}

/* harness_store knows the types of ops only. */
static void put(int32_t dtype, void *base, int64_t i, double v) {
  if (dtype == DS_I64)
    ((int64_t *)base)[i] = (int64_t)v;
  else if (dtype == DS_U8)
    ((uint8_t *)base)[i] = (uint8_t)v;
  else if (dtype == DS_I8)
    ((int8_t *)base)[i] = (int8_t)v;
  else
    harness_store(dtype, base, i, v);
}

static double take(int32_t dtype, const void *base, int64_t i) {
  if (dtype == DS_I64) return (double)((const int64_t *)base)[i];
  if (dtype == DS_U8) return (double)((const uint8_t *)base)[i];
  return harness_load(dtype, base, i);
}

bool group_room(conformance *k, guarded *b, int32_t dtype, int64_t n, int r, tally *t) {
  size_t bytes = (size_t)n * harness_dtype_size(dtype);
  if (!check_make(k, b, bytes ? bytes : 1, t)) return false;
  for (int64_t i = 0; i < n && r >= 0; i++)
    put(dtype, b->image + GUARD, i, group_value(k, dtype, r, i));
  ds_error err;
  if (!check_upload(k, b, t)) return false;
  if (k->plugin->device->stream_sync(k->stream, &err) == DS_OK)
    return true; /* any stream may use it */
  check_fail(t, "stream_sync: %.300s", err.message);
  return false;
}

bool group_check(conformance *k, const guarded *b, int32_t dtype, int64_t n, expectation e,
                 const char *what, tally *t) {
  size_t all = b->bytes + 2 * GUARD, used = (size_t)n * harness_dtype_size(dtype);
  unsigned char *got = malloc(all);
  bool ok = got && check_download(k, b, got, t);
  if (!got) check_fail(t, "out of host memory");
  for (int64_t i = 0; i < n && ok; i++) {
    double bound = 0, want = e.want(e.ctx, i, &bound), v = take(dtype, got + GUARD, i);
    double error = fabs(v - want);
    if (fabs(want) > 0 && error / fabs(want) > t->max_err && isfinite(error) && error > 1e-30)
      t->max_err = fmin(error / fabs(want), 1e30);
    ok = check_close(v, want, bound);
    if (!ok)
      check_fail(t, "%s: element %lld of %lld is %.9g, wanted %.9g +- %.2g", what, (long long)i,
                 (long long)n, v, want, bound);
  }
  if (ok && (memcmp(got, b->image, GUARD) != 0 ||
             memcmp(got + GUARD + used, b->image + GUARD + used, all - GUARD - used) != 0)) {
    check_fail(t, "%s: wrote outside its %lld elements", what, (long long)n);
    ok = false;
  }
  free(got);
  return ok;
}
