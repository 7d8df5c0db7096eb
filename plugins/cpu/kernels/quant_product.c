/* quant_product.c - products of a few rows with quantized values of any form, in f32: a piece of a
 * row is brought back into the first cache and met by all rows of A there. */
#include "quant_kernel.h"
#include "quant_value.h"

enum { PIECE = 1024 };

INLINE void meet(const ds_cpu_quant_product *p, const float *x, int64_t col, int64_t n,
                 vf total[2 * DS_CPU_QUANT_ROWS]) {
  for (int64_t i = 0; i < p->m; i++) {
    const float *a = p->a + i * p->lda + col;
    vf even = total[2 * i], odd = total[2 * i + 1];
    int64_t k = 0;
    for (; k + 2 * VL <= n; k += 2 * VL) {
      even = vload(a + k) * vload(x + k) + even;
      odd = vload(a + k + VL) * vload(x + k + VL) + odd;
    }
    VLOOP(t, lanes, k, n, { even = ld(a, t, lanes, DS_F32) * ld(x, t, lanes, DS_F32) + even; });
    total[2 * i] = even;
    total[2 * i + 1] = odd;
  }
}

INLINE void product_rows(const ds_cpu_quant_product *p, int64_t lo, int64_t hi, const int qtype) {
  const ds_quant *q = p->q;
  float x[PIECE];
  for (int64_t row = lo; row < hi; row++) {
    vf total[2 * DS_CPU_QUANT_ROWS];
    for (int i = 0; i < 2 * DS_CPU_QUANT_ROWS; i++) total[i] = vset(0.0f);
    for (int64_t col = 0; col < q->cols; col += PIECE) {
      int64_t n = q->cols - col < PIECE ? q->cols - col : PIECE;
      decode_row(q, row, col, n, x, 0, qtype, DS_F32);
      meet(p, x, col, n, total);
    }
    for (int64_t i = 0; i < p->m; i++) {
      float sum = vhsum(total[2 * i] + total[2 * i + 1]);
      if (p->bias != NULL) sum += ld1(p->bias, row, q->dtype);
      st1(p->c, i * p->ldc + row, q->dtype, sum);
    }
  }
}

static void product_range(const void *ctx, int64_t lo, int64_t hi, int part) {
  const ds_cpu_quant_product *p = ctx;
  (void)part;
  switch (p->q->qtype) {
    case DS_I8: product_rows(p, lo, hi, DS_I8); break;
    case DS_I4: product_rows(p, lo, hi, DS_I4); break;
    case DS_F8E4M3: product_rows(p, lo, hi, DS_F8E4M3); break;
    default: product_rows(p, lo, hi, DS_F8E5M2);
  }
}

static void product(const ds_cpu_quant_product *p, int threads) {
  int parts = ds_cpu_parts(threads, (double)p->q->rows * (double)p->q->cols);
  parallel_range(parts, p->q->rows, 16, product_range, p);
}

const ds_cpu_quant_kernels K(quant) = {.quantize = K(quant_quantize),
                                       .dequantize = K(quant_dequantize),
                                       .product = product,
                                       .lanes = VL,
                                       .pack = K(quant_pack),
                                       .dot = K(quant_dot)};
