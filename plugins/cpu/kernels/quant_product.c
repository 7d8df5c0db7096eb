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

/* sum + a * (scale * x) for x of 8-bit floats. E4M3's NaN isn't told here: it sets the highest bit
 * of its lane of nan. */
INLINE vf add_fp8(vf sum, vub x, vf a, vf scale, vh *nan, const int qtype) {
  vh h = widen(x);
  if (qtype == DS_F8E5M2) return vfrom_f16(h << 8) * scale * a + sum;
  *nan |= (h << 7 & 0x3f80) + 0x4080;
  return vfrom_f16(h << 7 & 0xbf80) * 256.0f * scale * a + sum;
}

/* One row of A and one of 8-bit floats, in registers. */
INLINE float meet_fp8(const ds_cpu_quant_product *p, int64_t row, const int qtype) {
  const ds_quant *q = p->q;
  const uint8_t *x = (const uint8_t *)q->values + row * q->cols;
  const float *a = p->a;
  vf even = vset(0.0f), odd = vset(0.0f);
  vh nan = {0};
  for (int64_t col = 0, end; col < q->cols; col = end) {
    const vf scale = vset(q->scales[ds_cpu_quant_group(q, row, col)]);
    end = ds_cpu_quant_per_tensor(q) ? q->cols : col + q->group;
    int64_t k = col;
    for (; k + 2 * VL <= end; k += 2 * VL) {
      even = add_fp8(even, load_bytes(x + k, VL), vload(a + k), scale, &nan, qtype);
      odd = add_fp8(odd, load_bytes(x + k + VL, VL), vload(a + k + VL), scale, &nan, qtype);
    }
    VLOOP(t, lanes, k, end, {
      even = add_fp8(even, load_bytes(x + t, lanes), ld(a, t, lanes, DS_F32), scale, &nan, qtype);
    });
  }
  for (int l = 0; l < VL; l++)
    if (nan[l] & 0x8000) return __builtin_nanf("");
  return vhsum(even + odd);
}

INLINE void put(const ds_cpu_quant_product *p, int64_t i, int64_t row, float sum) {
  if (p->bias != NULL) sum += ld1(p->bias, row, p->q->dtype);
  st1(p->c, i * p->ldc + row, p->q->dtype, sum);
}

INLINE void product_rows(const ds_cpu_quant_product *p, int64_t lo, int64_t hi, const int qtype) {
  const ds_quant *q = p->q;
  float x[PIECE];
  const bool fp8 = qtype == DS_F8E4M3 || qtype == DS_F8E5M2;
  for (int64_t row = lo; row < hi; row++) {
    if (fp8 && p->m == 1) { /* which has no zero points */
      put(p, 0, row, meet_fp8(p, row, qtype));
      continue;
    }
    vf total[2 * DS_CPU_QUANT_ROWS];
    for (int i = 0; i < 2 * DS_CPU_QUANT_ROWS; i++) total[i] = vset(0.0f);
    for (int64_t col = 0; col < q->cols; col += PIECE) {
      int64_t n = q->cols - col < PIECE ? q->cols - col : PIECE;
      decode_row(q, row, col, n, x, 0, qtype, DS_F32);
      meet(p, x, col, n, total);
    }
    for (int64_t i = 0; i < p->m; i++) {
      put(p, i, row, vhsum(total[2 * i] + total[2 * i + 1]));
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
