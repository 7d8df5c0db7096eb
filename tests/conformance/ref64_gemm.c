/* ref64_gemm.c - C = epilogue(alpha A B + bias) + beta C in float64, as ds_abi.h writes it. */
#include "harness.h"

void ref64_gemm(const gemm64 *g) {
  for (int64_t i = 0; i < g->m; i++)
    for (int64_t j = 0; j < g->n; j++) {
      double sum = 0, mag = 0;
      for (int64_t l = 0; l < g->k; l++) {
        double a = g->trans_a ? g->a[l * g->lda + i] : g->a[i * g->lda + l];
        double b = g->trans_b ? g->b[j * g->ldb + l] : g->b[l * g->ldb + j];
        sum += a * b;
        mag += fabs(a * b);
      }
      double bias = g->bias ? g->bias[j] : 0, *c = &g->c[i * g->ldc + j];
      double old = g->beta != 0 ? g->beta * *c : 0;
      *c = ref64_activation(g->epilogue, g->alpha * sum + bias) + old;
      if (g->mag) g->mag[i * g->ldc + j] = fabs(g->alpha) * mag + fabs(bias) + fabs(old);
    }
}
