/* prove.c - holds the analytic float64 gradients against central differences of the float64
 * forward pass, so that what judges the kernels is itself judged. Nothing here touches the plugin.
 *
 * With L = sum(dy * y), the gradient at x is (L(x + h) - L(x - h)) / 2h up to h^2; with h = 1e-5
 * truncation and rounding are both near 1e-10, far below the 1e-6 asked for.
 */
#include "harness.h"

#include <stdio.h>

static const double step = 1e-5, allowed = 1e-6;

static double loss(test_case *f, const test_case *c) {
  double sum = 0;
  f->spec->reference(f);
  for (int64_t e = 0; e < f->out[c->dy_out].n; e++)
    sum += c->in[c->dy_in].val[e] * f->out[c->dy_out].val[e];
  return sum;
}

static double difference(test_case *f, const test_case *c, double *x) {
  double x0 = *x;
  *x = x0 + step;
  double up = loss(f, c);
  *x = x0 - step;
  double down = loss(f, c);
  *x = x0;
  return (up - down) / (2 * step);
}

static void prove_case(test_case *c, tally *t) {
  c->spec->reference(c);
  t->cases++;
  for (int o = 0; o < MAX_OUT; o++) {
    const slot *s = &c->out[o];
    for (int64_t e = 0; s->present && e < s->n; e++) {
      double got = s->val[e];
      double expected = difference(c->forward, c, &c->forward->in[c->gradient_of[o]].val[e]);
      double scale = 1 + fabs(expected), error = fabs(got - expected) / scale;
      if (error > t->max_err) t->max_err = error;
      if (!check_close(got, expected, allowed * scale))
        check_fail(t, "case %d: gradient %d element %lld is %.9g, finite difference %.9g", c->index,
                   o, (long long)e, got, expected);
    }
  }
}

/* The gradient of a GEMM with an epilogue, by the chain rule over the pieces the harness uses:
 * z = alpha a b + bias, dz = dc act'(z), da = alpha dz b^T, dbias = column sums of dz. */
static void prove_epilogue(int32_t kind, uint64_t seed, tally *t) {
  enum { M = 3, N = 4, K = 5 };
  double a[M * K], b[K * N], bias[N], dc[M * N], z[M * N] = {0}, y[M * N] = {0}, da[M * K] = {0};
  uint64_t rng = seed;
  for (int i = 0; i < M * K; i++) a[i] = harness_normal(&rng);
  for (int i = 0; i < K * N; i++) b[i] = harness_normal(&rng);
  for (int i = 0; i < N; i++) bias[i] = harness_normal(&rng);
  for (int i = 0; i < M * N; i++) dc[i] = harness_normal(&rng);
  gemm64 g = {.m = M, .n = N, .k = K, .lda = K, .ldb = N, .ldc = N, .alpha = 0.7};
  g.a = a, g.b = b, g.bias = bias, g.c = z;
  ref64_gemm(&g);
  g.c = y, g.epilogue = kind;
  for (int i = 0; i < M * N; i++) z[i] = dc[i] * (kind ? ref64_activation_slope(kind, z[i]) : 1);
  gemm64 back = {.m = M, .n = K, .k = N, .lda = N, .ldb = N, .ldc = K, .alpha = 0.7};
  back.trans_b = true, back.a = z, back.b = b, back.c = da;
  ref64_gemm(&back);
  t->cases++;
  for (int i = 0; i < M * K + N; i++) {
    double *x = i < M * K ? &a[i] : &bias[i - M * K], x0 = *x, expected = 0, got = 0;
    for (int side = 1; side >= -1; side -= 2) {
      *x = x0 + side * step;
      ref64_gemm(&g);
      for (int e = 0; e < M * N; e++) expected += side * dc[e] * y[e] / (2 * step);
    }
    *x = x0;
    if (i < M * K) got = da[i];
    for (int r = 0; i >= M * K && r < M; r++) got += z[r * N + i - M * K];
    double error = fabs(got - expected) / (1 + fabs(expected));
    if (error > t->max_err) t->max_err = error;
    if (error > allowed)
      check_fail(t, "epilogue %d, element %d is %.9g, finite difference %.9g", kind, i, got,
                 expected);
  }
}

void prove_all(conformance *k) {
  for (int i = 0; i < ops_count; i++) {
    const op_spec *spec = &ops_table[i];
    tally t = {.tol = allowed};
    for (int n = 0; n < 12; n++) {
      test_case c;
      case_init(&c, spec, 0, n, k->seed);
      c.proof = true;
      spec->make(&c);
      if (c.forward) prove_case(&c, &t);
      case_finish(&c);
    }
    if (t.cases && check_wanted(k, spec->name)) check_report(k, &t, spec->name, "f64");
  }
  tally t = {.tol = allowed};
  for (int32_t kind = DS_EPILOGUE_NONE; kind <= DS_EPILOGUE_SILU; kind++)
    prove_epilogue(kind, k->seed + (uint64_t)kind, &t);
  if (check_wanted(k, "gemm")) check_report(k, &t, "gemm", "f64");
}
