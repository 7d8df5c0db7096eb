/* quant.h - what quant.c asks of the kernels in kernels/quant_*.c, one set per instruction set.
 *
 * q is checked and not empty. Rows of quantized values are independent: work is spread over them.
 */
#ifndef DS_CPU_QUANT_H
#define DS_CPU_QUANT_H

#include <stdbool.h>

#include "ds_abi.h"

/* ---- plain values to quantized ones and back: quant_convert.c */

typedef struct ds_cpu_quantize {
  const ds_quant *q;
  const void *x;
  float *bounds; /* scratch: two a thread */
} ds_cpu_quantize;

typedef struct ds_cpu_dequantize {
  const ds_quant *q;
  int64_t row, rows; /* which part */
  void *x;           /* [rows,cols] of dtype */
  int32_t dtype;     /* DS_F32 or DS_BF16 */
} ds_cpu_dequantize;

/* ---- a few rows of A, in f32: quant_product.c */

enum { DS_CPU_QUANT_ROWS = 4 }; /* the most rows of A in one call */

/* c[m,rows] = a . x^T + bias; any form of quantization. */
typedef struct ds_cpu_quant_product {
  const ds_quant *q;
  int64_t m, lda, ldc;
  const float *a;
  const void *bias; /* or NULL; bias and c are of q->dtype */
  void *c;
} ds_cpu_quant_product;

/* ---- the same in whole numbers, for DS_I8 and DS_I4: quant_dot.c
 *
 * Columns go by chunks of one vector of bytes (of stored values). A is first brought into whole
 * numbers of 1 to 3 bytes, which share a scale within a chunk, or within a row when scales are
 * dynamic. With 3 bytes that rounds each by at most 2.4e-7 of the chunk's largest number (6e-8 for
 * DS_I4), with 2 (for bf16) by 1.6e-5. Dot products of bytes are exact in 32 bits; every chunk's is
 * then scaled and added up in f32. In long rows this is within 1e-5 of the sum of magnitudes, even
 * where one number of a chunk is a hundred times the others; DS_CPU_QUANT_SHORT are too few for it.
 */
enum { DS_CPU_QUANT_SHORT = 256 };

typedef struct ds_cpu_quant_dot {
  const ds_quant *q;
  const ds_quant_gemm *g;
  bool dynamic;
  int parts;      /* bytes of a whole number */
  int64_t chunks; /* of a row */
  int8_t *a;      /* [m, chunks] blocks of: parts, each a chunk of bytes; sums of those, by lane */
  float *scales;  /* [m, chunks], or [m] when dynamic */
} ds_cpu_quant_dot;

typedef struct ds_cpu_quant_kernels {
  void (*quantize)(const ds_cpu_quantize *t, int threads);
  void (*dequantize)(const ds_cpu_dequantize *t, int threads);
  void (*product)(const ds_cpu_quant_product *p, int threads);
  int lanes; /* 32-bit lanes of a vector */
  /* Fills d->a and d->scales. A scale is not finite where A isn't. */
  void (*pack)(const ds_cpu_quant_dot *d, int threads);
  void (*dot)(const ds_cpu_quant_dot *d, int threads);
} ds_cpu_quant_kernels;

extern const ds_cpu_quant_kernels ds_cpu_quant_base, ds_cpu_quant_avx2, ds_cpu_quant_avx512,
    ds_cpu_quant_avx512_bf16;

/* ---- what both sides know */

static inline bool ds_cpu_quant_per_tensor(const ds_quant *q) {
  return q->flags & DS_QUANT_PER_TENSOR;
}

static inline bool ds_cpu_quant_asymmetric(const ds_quant *q) {
  return q->flags & DS_QUANT_ASYMMETRIC;
}

/* The group of a value. */
static inline int64_t ds_cpu_quant_group(const ds_quant *q, int64_t row, int64_t col) {
  return ds_cpu_quant_per_tensor(q) ? 0 : row * (q->cols / q->group) + col / q->group;
}

/* Columns of a chunk; those of one lane stand in 4 bytes. */
static inline int64_t ds_cpu_quant_lane(const ds_quant *q) {
  return q->qtype == DS_I4 ? 8 : 4;
}

static inline int64_t ds_cpu_quant_chunk(const ds_quant *q, int lanes) {
  return ds_cpu_quant_lane(q) * lanes;
}

/* Bytes of a block of A: of one row and chunk. */
static inline int64_t ds_cpu_quant_block(const ds_quant *q, int lanes, int parts) {
  return parts * ds_cpu_quant_chunk(q, lanes) + lanes * (int64_t)sizeof(int32_t);
}

/* Whether all of a chunk is in one group. */
static inline bool ds_cpu_quant_one_group(const ds_quant *q, int lanes) {
  return ds_cpu_quant_per_tensor(q) || q->group == q->cols ||
         q->group % ds_cpu_quant_chunk(q, lanes) == 0;
}

/* Whether dot takes such groups: one a chunk, or equal shares of its lanes. */
static inline bool ds_cpu_quant_dots(const ds_quant *q, int lanes) {
  return (q->qtype == DS_I8 || q->qtype == DS_I4) &&
         (ds_cpu_quant_one_group(q, lanes) ||
          (ds_cpu_quant_chunk(q, lanes) % q->group == 0 && q->group % ds_cpu_quant_lane(q) == 0));
}

#endif
