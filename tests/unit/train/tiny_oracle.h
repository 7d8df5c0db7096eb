/* tiny_oracle.h - an independent AdamW on tiny.h's regression, in float64. */
#ifndef DS_TEST_TINY_ORACLE_H
#define DS_TEST_TINY_ORACLE_H

#include "tiny.h"

enum { N = TINY_OUT * TINY_IN + TINY_OUT };

typedef struct oracle {
  double p[N], m[N], v[N], norm, loss;
  int t;
} oracle;

static inline void oracle_grad(oracle *o, int from, int n, double g[N]) {
  memset(g, 0, N * sizeof *g);
  o->loss = 0;
  for (int i = from; i < from + n; i++)
    for (int r = 0; r < TINY_OUT; r++) {
      double d = o->p[TINY_OUT * TINY_IN + r] - (double)tiny_t[i][r];
      for (int k = 0; k < TINY_IN; k++) d += o->p[r * TINY_IN + k] * (double)tiny_x[i][k];
      o->loss += d * d / (n * TINY_OUT);
      for (int k = 0; k < TINY_IN; k++)
        g[r * TINY_IN + k] += 2 * d * (double)tiny_x[i][k] / (n * TINY_OUT);
      g[TINY_OUT * TINY_IN + r] += 2 * d / (n * TINY_OUT);
    }
}

static inline void oracle_step(oracle *o, int from, int n, double lr, double wd, double clip,
                               bool decoupled) {
  double g[N], squares = 0;
  oracle_grad(o, from, n, g);
  for (int i = 0; i < N; i++) squares += g[i] * g[i];
  o->norm = sqrt(squares);
  double c = clip > 0 ? (o->norm + 1e-6) / clip : 0;
  o->t++;
  for (int i = 0; i < N; i++) {
    double x = c > 1 ? g[i] / c : g[i];
    if (!decoupled) x += wd * o->p[i];
    o->m[i] = 0.9 * o->m[i] + 0.1 * x;
    o->v[i] = 0.999 * o->v[i] + 0.001 * x * x;
    double mh = o->m[i] / (1 - pow(0.9, o->t)), vh = o->v[i] / (1 - pow(0.999, o->t));
    o->p[i] -= lr * (mh / (sqrt(vh) + 1e-8) + (decoupled ? wd * o->p[i] : 0));
  }
}

#endif
