/* timing.c - measures a few large shapes on the plugin: the best of several runs, as GF/s where
 * arithmetic limits and as GB/s of inputs and outputs where memory does. */
#include "harness.h"

#include <stdio.h>
#include <time.h>

static double now(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static double bytes_moved(const test_case *c) {
  double bytes = 0;
  for (int i = 0; i < MAX_IN; i++)
    if (c->in[i].present) bytes += (double)c->in[i].n * (double)harness_dtype_size(c->in[i].dtype);
  for (int i = 0; i < MAX_OUT; i++)
    if (c->out[i].present && !c->out[i].any)
      bytes += (double)c->out[i].n * (double)harness_dtype_size(c->out[i].dtype);
  return bytes;
}

/* Two products of T x S x D in the forward pass, five in the gradient; half of it is masked. */
static double attention_flops(const test_case *c) {
  bool backward = c->spec->id == DS_OP_ATTENTION_BACKWARD;
  const slot *q = &c->in[backward ? 1 : 0], *k = &c->in[backward ? 2 : 1];
  return (backward ? 5.0 : 2.0) * (double)q->n * (double)k->shape[1];
}

static void measure(conformance *k, test_case *c, const char *name, const char *dtype,
                    double flops) {
  tally t = {0};
  device_call *r = harness_alloc(&c->mem, 1, sizeof *r);
  double best = 1e30, start = now();
  bool ok = check_start(k, c, r, &t);
  for (int i = 0; ok && i < 100 && (i < 3 || now() - start < 0.5); i++) {
    ds_error err = {0};
    double begin = now();
    ds_status st = check_launch(k, c, r, &err);
    if (st == DS_OK) st = k->plugin->device->stream_sync(k->stream, &err);
    if (st != DS_OK) check_fail(&t, "%s", err.message);
    ok = st == DS_OK;
    best = fmin(best, now() - begin);
  }
  check_stop(k, r);
  if (ok)
    printf("%-28s %-14s %9.3f ms  %9.1f %s\n", name, dtype, 1e3 * best,
           1e-9 * (flops > 0 ? flops : bytes_moved(c)) / best, flops > 0 ? "GF/s" : "GB/s");
  else
    printf("%-28s %-14s %s\n", name, dtype, t.failed ? t.message : "unsupported");
  if (t.failed) k->failed++;
  fflush(stdout);
}

static void time_gemm(conformance *k) {
  static const int64_t sizes[][3] = {
      {512, 768, 768}, {512, 3072, 768}, {1024, 1024, 1024}, {1, 4096, 4096}};
  static const char *const types[] = {"f32", "bf16"};
  for (int v = 0; v < 2; v++)
    for (int i = 0; i < 4; i++)
      for (int packed = 0; packed < 2; packed++) {
        char name[64];
        test_case c;
        const int64_t *s = sizes[i];
        snprintf(name, sizeof name, "gemm %lldx%lldx%lld%s", (long long)s[0], (long long)s[1],
                 (long long)s[2], packed ? " packed" : "");
        if (cases_gemm_sized(k, &c, v, s, packed))
          measure(k, &c, name, types[v],
                  s[0] == 1 ? 0 : 2 * (double)s[0] * (double)s[1] * (double)s[2]);
        case_finish(&c);
      }
}

static void time_op(conformance *k, const op_spec *spec, int variant) {
  char dtype[24];
  test_case c;
  case_init(&c, spec, variant, 0, k->seed);
  c.big = true;
  spec->make(&c);
  ops_variant_name(spec, variant, dtype, sizeof dtype);
  bool attention = spec->id == DS_OP_ATTENTION || spec->id == DS_OP_ATTENTION_BACKWARD;
  measure(k, &c, spec->name, dtype, attention ? attention_flops(&c) : 0);
  case_finish(&c);
}

void timing_all(conformance *k) {
  if (k->plugin->gemm && check_wanted(k, "gemm")) time_gemm(k);
  for (int i = 0; i < ops_count && k->plugin->ops; i++)
    for (int v = 0; v < ops_table[i].variants && check_wanted(k, ops_table[i].name); v++)
      time_op(k, &ops_table[i], v);
}
