/* check.c - runs a test case on the plugin and compares all of its memory with what must be there.
 *
 * Every allocation is compared as a whole: bytes that belong to an output hold the expected value
 * within tolerance; every other byte (guard zones, gaps of strided tensors, inputs) is as it was.
 */
#include "record.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

void check_fail(tally *t, const char *format, ...) {
  t->failed++;
  if (t->message[0]) return; /* the first failure is the one to look at */
  va_list args;
  va_start(args, format);
  vsnprintf(t->message, sizeof t->message, format, args);
  va_end(args);
}

bool check_wanted(const conformance *k, const char *name) {
  return !k->only || strcmp(k->only, name) == 0;
}

void check_unsupported(tally *t, const char *format, ...) {
  va_list args;
  if (t->cases == 0) t->cases = 1;
  t->unsupported = t->cases;
  va_start(args, format);
  vsnprintf(t->message, sizeof t->message, format, args);
  va_end(args);
}

void check_doing(conformance *k, const char *format, ...) {
  va_list args;
  va_start(args, format);
  vsnprintf(k->doing, DOING, format, args);
  va_end(args);
}

ds_error check_error_new(void) {
  ds_error err;
  memset(&err, 'x', sizeof err);
  return err;
}

const char *check_text(ds_status returned, const ds_error *err) {
  if (returned == DS_OK) return "";
  if (!memchr(err->message, 0, sizeof err->message))
    return err->message[0] == 'x' ? "(no message)" : "(a message without an end)";
  return err->message;
}

bool check_explained(ds_status returned, const ds_error *err) {
  return returned > DS_OK && returned <= DS_ERR_ABORTED && err->status == returned &&
         err->message[0] && memchr(err->message, 0, sizeof err->message);
}

void check_report(conformance *k, const tally *t, const char *name, const char *dtype) {
  record r = {.kind = RECORD_LINE,
              .outcome = OUTCOME_PASS,
              .cases = t->cases,
              .unsupported = t->unsupported,
              .failed = t->failed,
              .max_err = t->max_err,
              .max_share = t->max_share,
              .tol = t->tol};
  if (t->failed) {
    r.outcome = OUTCOME_FAIL;
    k->failed++;
  } else if (t->unsupported == t->cases) {
    r.outcome = OUTCOME_UNSUPPORTED;
    k->unsupported++;
  } else {
    k->passed++;
  }
  record_name(&r, k->section, name, dtype);
  snprintf(r.message, sizeof r.message, "%s", t->message);
  record_write(k->report, &r);
}

/* ---------------------------------------------------------------- guarded device memory */

static unsigned char pattern(size_t i) {
  return (unsigned char)(0xa5 ^ (i * 29));
}

bool check_make(conformance *k, guarded *g, size_t bytes, tally *t) {
  ds_error err;
  size_t all = bytes + 2 * GUARD;
  *g = (guarded){.bytes = bytes};
  g->image = malloc(all);
  if (!g->image) {
    fprintf(stderr, "conformance: out of host memory (%zu bytes)\n", all);
    exit(2);
  }
  for (size_t i = 0; i < all; i++) g->image[i] = pattern(i);
  if (k->plugin->device->alloc(k->dev, all, &g->base, &err) != DS_OK) {
    check_fail(t, "alloc of %zu bytes: %s", all, err.message);
    g->base = NULL;
    return false;
  }
  return true;
}

bool check_upload(conformance *k, const guarded *g, tally *t) {
  ds_error err;
  if (k->plugin->device->upload(k->stream, g->base, g->image, g->bytes + 2 * GUARD, &err) == DS_OK)
    return true;
  check_fail(t, "upload: %s", err.message);
  return false;
}

bool check_download(conformance *k, const guarded *g, unsigned char *to, tally *t) {
  ds_error err;
  if (k->plugin->device->download(k->stream, to, g->base, g->bytes + 2 * GUARD, &err) == DS_OK)
    return true;
  check_fail(t, "download: %s", err.message);
  return false;
}

void check_drop(conformance *k, guarded *g) {
  k->plugin->device->free(k->dev, g->base);
  free(g->image);
  memset(g, 0, sizeof *g);
}

/* ---------------------------------------------------------------- comparing */

bool check_close(double got, double expected, double bound) {
  if (isnan(expected)) return isnan(got);
  if (isinf(expected)) return got == expected;
  return fabs(got - expected) <= bound; /* false for NaN */
}

/* Results below the normal range of f32 may be flushed; nothing smaller can be told apart. In f16 half
 * a step below its normal range, once for what is stored and once for what is added to. */
static double tiny(int32_t dtype) {
  return dtype == DS_F16 ? 0x1p-24 : 1e-35;
}

/* Beyond `from` a result may round to infinity, beyond `to` it must. */
static bool may_overflow(int32_t dtype, double *expected) {
  const double from = dtype == DS_F16 ? 65400 : 3.3e38, to = dtype == DS_F16 ? 65700 : INFINITY;
  if (fabs(*expected) <= from || !isfinite(*expected)) return false;
  if (fabs(*expected) > to) *expected = copysign(INFINITY, *expected);
  return isfinite(*expected);
}

static bool note_error(tally *t, double got, double expected, double bound, double mag) {
  double error = fabs(got - expected);
  if (isfinite(error)) {
    if (mag > 0 && error > 1e-30 && error / mag > t->max_err) t->max_err = error / mag;
    if (bound > 0 && error / bound > t->max_share) t->max_share = error / bound;
  }
  return check_close(got, expected, bound);
}

/* Compares one output inside its downloaded store and marks its bytes in `mine`. */
static bool check_output(const test_case *c, int i, const unsigned char *store, unsigned char *mine,
                         tally *t) {
  const slot *s = &c->out[i];
  const unsigned char *data = store + GUARD;
  size_t size = harness_dtype_size(s->dtype);
  double tol = c->spec->tol;
  double tol_x = c->x != DS_F32 ? c->spec->tol_x : 0;
  bool ok = true;
  for (int64_t e = 0; e < s->n; e++) {
    int64_t at = case_offset(s, e);
    memset(mine + GUARD + (size_t)at * size, 1, size);
    if (!ok || s->any) continue;
    double got = harness_load(s->dtype, data, at);
    double prior = s->prior ? s->prior[e] : 0;
    double expected = s->prior ? s->val[e] + prior : s->val[e], bound = 0; /* keeps -0 */
    double mag = (s->mag ? s->mag[e] : fabs(s->val[e])) + fabs(prior);
    if (s->exact || s->dtype == DS_I32) {
      expected = harness_round(s->dtype, expected);
      if (signbit(got) != signbit(expected) && !isnan(expected)) bound = -1;
    } else {
      double rounded = fabs(expected) + (s->prior ? fabs(s->val[e]) : 0);
      bound = 1.01 * harness_half_ulp(s->dtype) * rounded + tol * mag + tiny(s->dtype);
      if (s->mag_x) bound += tol_x * s->mag_x[e];
      if (may_overflow(s->dtype, &expected)) continue;
    }
    ok = note_error(t, got, expected, bound, mag);
    if (ok) continue;
    char text[1100];
    case_describe(c, text, sizeof text);
    check_fail(t, "out %d element %lld is %.9g, expected %.9g +- %.2g; %s", i, (long long)e, got,
               expected, bound, text);
  }
  return ok;
}

/* Which tensor a byte of a store is in, for the message. */
static const char *place(const test_case *c, int store, size_t byte, size_t bytes) {
  if (byte < GUARD) return "the guard zone before it";
  if (byte >= bytes + GUARD) return "the guard zone after it";
  for (int i = 0; i < MAX_IN; i++) {
    const slot *s = &c->in[i];
    if (!s->present || s->store != store) continue;
    for (int64_t e = 0; e < s->n; e++)
      if (case_offset(s, e) == (int64_t)((byte - GUARD) / harness_dtype_size(s->dtype)))
        return "an input";
  }
  return "a gap between its rows";
}

static void check_untouched(const test_case *c, int store, const guarded *g,
                            const unsigned char *got, const unsigned char *mine, tally *t) {
  for (size_t b = 0; b < g->bytes + 2 * GUARD; b++) {
    if (mine[b] || got[b] == g->image[b]) continue;
    char text[1100];
    case_describe(c, text, sizeof text);
    check_fail(t, "memory that is no output was written: byte %lld of store %d, %s; %s",
               (long long)b - GUARD, store, place(c, store, b, g->bytes), text);
    return;
  }
}

/* ---------------------------------------------------------------- running a case */

static uint32_t used_slots(const slot *s, uint32_t max, bool trim) {
  uint32_t n = max;
  while (trim && n > 0 && !s[n - 1].present) n--;
  return n;
}

static void describe_tensor(const slot *s, ds_tensor *t, const guarded *stores) {
  *t = (ds_tensor){.dtype = s->dtype, .rank = s->rank};
  memcpy(t->shape, s->shape, sizeof t->shape);
  memcpy(t->stride, s->stride, sizeof t->stride);
  const guarded *g = &stores[s->store];
  if (g->base) t->data = GUARDED_AT(g, s->offset * (int64_t)harness_dtype_size(s->dtype));
}

static void limits(uint32_t id, uint32_t *n_in, uint32_t *n_out) {
  switch (id) {
#define DS_OP(number, upper, lower, ins, outs, attrs)                                              \
  case number:                                                                                     \
    *n_in = ins;                                                                                   \
    *n_out = outs;                                                                                 \
    break;
#include "ds_ops.def"
#undef DS_OP
    default: *n_in = *n_out = 0;
  }
}

static void describe_op(test_case *c, device_call *r) {
  bool trim_in = c->trim & 1, trim_out = c->trim & 2, trim_attr = c->trim & 4;
  uint32_t max_in, max_out;
  limits(c->spec->id, &max_in, &max_out);
  for (int i = 0; i < MAX_IN; i++) {
    describe_tensor(&c->in[i], &r->tensor_in[i], r->stores);
    r->in[i] = c->in[i].present ? &r->tensor_in[i] : NULL;
  }
  for (int i = 0; i < MAX_OUT; i++) {
    describe_tensor(&c->out[i], &r->tensor_out[i], r->stores);
    r->out[i] = c->out[i].present ? &r->tensor_out[i] : NULL;
  }
  int n_attr = c->n_attr;
  while (trim_attr && n_attr > 0 && c->attr_default[n_attr - 1]) n_attr--;
  r->op = (ds_op){.size = sizeof r->op,
                  .id = c->spec->id,
                  .n_in = used_slots(c->in, max_in, trim_in),
                  .n_out = used_slots(c->out, max_out, trim_out),
                  .n_attr = (uint32_t)n_attr,
                  .accumulate = c->accumulate,
                  .in = r->in,
                  .out = r->out,
                  .attr = n_attr ? c->attr : NULL};
}

static size_t store_bytes(const test_case *c, int store) {
  size_t bytes = 0;
  for (int i = 0; i < MAX_IN + MAX_OUT; i++) {
    const slot *s = i < MAX_IN ? &c->in[i] : &c->out[i - MAX_IN];
    if (!s->present || s->store != store || s->n == 0) continue;
    size_t end = (size_t)(case_offset(s, s->n - 1) + 1) * harness_dtype_size(s->dtype);
    if (end > bytes) bytes = end;
  }
  return bytes;
}

/* What an output holds that must be overwritten. */
static double poison(int32_t dtype) {
  if (harness_dtype_size(dtype) == 1) return 0x5a;
  return dtype == DS_I32 ? -77777777.0 : (double)NAN;
}

static void fill_image(const test_case *c, device_call *r) {
  for (int i = 0; i < MAX_OUT; i++) {
    const slot *s = &c->out[i];
    unsigned char *data = s->present ? r->stores[s->store].image + GUARD : NULL;
    for (int64_t e = 0; data && e < s->n; e++)
      harness_store(s->dtype, data, case_offset(s, e), s->prior ? s->prior[e] : poison(s->dtype));
  }
  for (int i = 0; i < MAX_IN; i++) {
    const slot *s = &c->in[i];
    unsigned char *data = s->present ? r->stores[s->store].image + GUARD : NULL;
    for (int64_t e = 0; data && e < s->n; e++)
      harness_store(s->dtype, data, case_offset(s, e), s->val[e]);
  }
  if (r->workspace.base) memset(r->workspace.image + GUARD, 0xff, r->workspace.bytes);
}

static bool make_stores(conformance *k, test_case *c, device_call *r, tally *t) {
  for (int i = 0; i < c->n_stores; i++) {
    size_t bytes = store_bytes(c, i);
    if (bytes && !check_make(k, &r->stores[i], bytes, t)) return false;
  }
  describe_op(c, r);
  const ds_ops_table *ops = k->plugin->ops;
  if (c->spec->hooks) return true;
  size_t bytes = DS_HAS(ops, workspace) && ops->workspace ? ops->workspace(k->dev, &r->op) : 0;
  if (bytes == 0) return true;
  if (!check_make(k, &r->workspace, bytes, t)) return false;
  r->op.workspace = GUARDED_AT(&r->workspace, 0);
  r->op.workspace_size = bytes;
  return true;
}

ds_status check_launch(conformance *k, const test_case *c, const device_call *r, ds_error *err) {
  if (!c->spec->hooks) return k->plugin->ops->run(k->stream, &r->op, err);
  void *in[MAX_IN], *out[MAX_OUT];
  for (int i = 0; i < MAX_IN; i++) in[i] = r->in[i] ? r->in[i]->data : NULL;
  for (int i = 0; i < MAX_OUT; i++) out[i] = r->out[i] ? r->out[i]->data : NULL;
  return c->spec->hooks->run(k, c, in, out, err);
}

static bool run_once(conformance *k, test_case *c, device_call *r, tally *t) {
  ds_error err = {0};
  for (int i = 0; i < c->n_stores; i++)
    if (r->stores[i].base && !check_upload(k, &r->stores[i], t)) return false;
  if (r->workspace.base && !check_upload(k, &r->workspace, t)) return false;
  ds_status st = check_launch(k, c, r, &err);
  const char *where = "run";
  if (st == DS_OK) {
    st = k->plugin->device->stream_sync(k->stream, &err);
    where = "stream_sync";
  }
  if (st == DS_OK) return true;
  char text[600];
  case_describe(c, text, sizeof text);
  check_fail(t, "%s gave status %d: %.300s; %s", where, (int)st, err.message, text);
  return false;
}

static unsigned char *scratch(test_case *c, size_t bytes) {
  return harness_alloc(&c->mem, bytes, 1);
}

static bool compare_stores(conformance *k, test_case *c, device_call *r, unsigned char **first,
                           tally *t) {
  for (int i = 0; i < c->n_stores; i++) {
    const guarded *g = &r->stores[i];
    if (!g->base) continue;
    size_t all = g->bytes + 2 * GUARD;
    first[i] = scratch(c, all);
    unsigned char *mine = scratch(c, all);
    if (!check_download(k, g, first[i], t)) return false;
    bool ok = true;
    for (int o = 0; o < MAX_OUT && ok; o++)
      if (c->out[o].present && c->out[o].store == i) ok = check_output(c, o, first[i], mine, t);
    if (!ok) return false;
    check_untouched(c, i, g, first[i], mine, t);
  }
  if (!r->workspace.base) return true;
  size_t all = r->workspace.bytes + 2 * GUARD;
  unsigned char *got = scratch(c, all);
  if (!check_download(k, &r->workspace, got, t)) return false;
  if (memcmp(got, r->workspace.image, GUARD) != 0 ||
      memcmp(got + all - GUARD, r->workspace.image + all - GUARD, GUARD) != 0)
    check_fail(t, "wrote outside the workspace of %zu bytes it asked for", r->workspace.bytes);
  return true;
}

/* The same inputs must give the same bits. */
static void check_repeat(conformance *k, test_case *c, device_call *r, unsigned char **first,
                         tally *t) {
  if (!run_once(k, c, r, t)) return;
  for (int i = 0; i < c->n_stores; i++) {
    if (!r->stores[i].base) continue;
    size_t all = r->stores[i].bytes + 2 * GUARD;
    unsigned char *again = scratch(c, all);
    if (!check_download(k, &r->stores[i], again, t)) return;
    if (memcmp(first[i], again, all) == 0) continue;
    char text[600];
    case_describe(c, text, sizeof text);
    check_fail(t, "a second run gave other bits; %s", text);
    return;
  }
}

static bool supported(conformance *k, test_case *c, device_call *r, bool described) {
  if (!described) describe_op(c, r);
  if (c->spec->hooks) return c->spec->hooks->supports(k, c) != 0;
  return k->plugin->ops && k->plugin->ops->supports(k->dev, &r->op) != 0;
}

bool check_start(conformance *k, test_case *c, device_call *r, tally *t) {
  t->cases++;
  if (!supported(k, c, r, false)) {
    t->unsupported++;
    return false;
  }
  if (!make_stores(k, c, r, t)) return false;
  if (!supported(k, c, r, true)) {
    check_fail(t, "supports() answered otherwise when the data pointers were set");
    return false;
  }
  fill_image(c, r);
  return run_once(k, c, r, t);
}

void check_stop(conformance *k, device_call *r) {
  for (int i = 0; i < MAX_STORES; i++) check_drop(k, &r->stores[i]);
  check_drop(k, &r->workspace);
}

void check_case(conformance *k, test_case *c, tally *t) {
  device_call *r = harness_alloc(&c->mem, 1, sizeof *r);
  unsigned char *first[MAX_STORES] = {0};
  int failed = t->failed;
  char text[DOING - 64];
  case_describe(c, text, sizeof text);
  check_doing(k, "%s, %s", c->spec->name, text);
  if (c->spec->tol > t->tol) t->tol = c->spec->tol;
  c->spec->reference(c);
  if (check_start(k, c, r, t) && compare_stores(k, c, r, first, t) && t->failed == failed)
    check_repeat(k, c, r, first, t);
  check_stop(k, r);
}
