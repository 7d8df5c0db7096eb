/* quant.h - what quant.c asks of the kernels in kernels/quant_kernel.c.
 *
 * There is one set of them per instruction set. Rows of quantized values are independent: work is
 * spread over them. q is checked by quant.c (I4: an even group, so that no byte is shared).
 */
#ifndef DS_CPU_QUANT_H
#define DS_CPU_QUANT_H

#include "ds_abi.h"

enum { DS_CPU_QUANT_ROWS = 4 }; /* the most rows of A in one product */

typedef struct ds_cpu_quant_rows {
  const ds_quant *q;
  void *x; /* [rows,cols] of q->dtype, or of f32 where wide is set */
  void *values;
  float *scales;
  int wide;
} ds_cpu_quant_rows;

/* c[m,rows] = a . (scales * values)^T + bias, for m <= DS_CPU_QUANT_ROWS. a is f32 [m,cols]; for I4
 * the values of each group of a stand in another order: first those of even place, then the odd
 * ones, as they come out of the bytes. bias (or NULL) and c are of q->dtype. */
typedef struct ds_cpu_quant_product {
  const ds_quant *q;
  int64_t m;
  const float *a;
  const void *values, *bias;
  const float *scales;
  void *c;
} ds_cpu_quant_product;

typedef struct ds_cpu_quant_kernels {
  void (*quantize)(const ds_cpu_quant_rows *r, int threads);
  void (*dequantize)(const ds_cpu_quant_rows *r, int threads);
  void (*product)(const ds_cpu_quant_product *p, int threads);
} ds_cpu_quant_kernels;

extern const ds_cpu_quant_kernels ds_cpu_quant_base, ds_cpu_quant_avx2, ds_cpu_quant_avx512,
    ds_cpu_quant_avx512_bf16;

#endif
