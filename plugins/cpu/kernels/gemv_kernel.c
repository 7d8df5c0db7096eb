/* gemv_kernel.c - C = epilogue(alpha A B^T + bias) + beta C for up to 8 rows of A.
 *
 * The time goes into reading B, so it is read in order, each element once, with what comes next
 * fetched ahead.
 */
#include "../gemv.h"
#include "kernel.h"
#include "simd.h"

/* Columns of C that are finished together, so that the epilogue works on whole vectors. */
enum { BLOCK = 64 };
/* Bytes of B to fetch ahead of use, at least: the latency of memory at full speed. */
enum { AHEAD = 4096 };
/* Bytes of A that stay in the first cache while B streams past. */
enum { A_RESIDENT = 16384 };

typedef struct block {
  const ds_gemm *g;
  int64_t n0;                         /* the first column */
  float sum[DS_CPU_GEMV_ROWS][BLOCK]; /* A B^T */
} block;

/* What one step along k takes in: a vector of B's own type. */
#if VL == 16 && defined(__AVX512BF16__)
enum { DOTS = 1 };
INLINE vf dot(vf acc, const void *a, const void *b, int64_t at, int n) {
  const uint16_t *pa = (const uint16_t *)a + at, *pb = (const uint16_t *)b + at;
  __mmask32 lanes = n == 32 ? ~(__mmask32)0 : ((__mmask32)1 << n) - 1;
  __m512i va = _mm512_maskz_loadu_epi16(lanes, pa), vb = _mm512_maskz_loadu_epi16(lanes, pb);
  return _mm512_dpbf16_ps(acc, (__m512bh)va, (__m512bh)vb);
}
#else
enum { DOTS = 0 };
INLINE vf dot(vf acc, const void *a, const void *b, int64_t at, int n) {
  (void)a, (void)b, (void)at, (void)n;
  return acc;
}
#endif

/* acc[i][j] += A[i][at..] . B[j][at..], n elements (at most one vector). */
INLINE void step(vf *acc, const char *const *a, const char *const *b, int64_t at, int n,
                 const int rows, const int cols, const int dt_a, const int dt_b) {
  if (DOTS && dt_a == DS_BF16) {
    for (int j = 0; j < cols; j++)
      for (int i = 0; i < rows; i++) acc[i * cols + j] = dot(acc[i * cols + j], a[i], b[j], at, n);
    return;
  }
  vf x[8];
  for (int j = 0; j < cols; j++) x[j] = ld(b[j], at, n, dt_b);
  for (int i = 0; i < rows; i++) {
    vf y = ld(a[i], at, n, DS_F32);
    for (int j = 0; j < cols; j++) acc[i * cols + j] = y * x[j] + acc[i * cols + j];
  }
}

/* Sums for columns [col, col+cols) of the block. */
INLINE void columns(block *k, int col, const int rows, const int cols, const int dt_a,
                    const int dt_b) {
  const ds_gemm *g = k->g;
  const int lanes = DOTS && dt_a == DS_BF16 ? 2 * VL : VL;
  const char *a[DS_CPU_GEMV_ROWS], *b[8];
  vf acc[32];
  for (int i = 0; i < rows; i++) { /* rows that aren't there stand in for the last one */
    int64_t row = i < g->m ? i : g->m - 1;
    a[i] = (const char *)g->a + row * g->lda * dtype_size(dt_a);
  }
  for (int j = 0; j < cols; j++)
    b[j] = (const char *)g->b + (k->n0 + col + j) * g->ldb * dtype_size(dt_b);
  for (int i = 0; i < rows * cols; i++) acc[i] = vset(0.0f);
  const int64_t block_bytes = cols * g->ldb * dtype_size(dt_b);
  const int64_t ahead = (AHEAD + block_bytes - 1) / block_bytes * block_bytes;
  int64_t at = 0;
  for (; at + lanes <= g->k; at += lanes) {
    for (int j = 0; j < cols; j++) __builtin_prefetch(b[j] + ahead + at * dtype_size(dt_b));
    step(acc, a, b, at, lanes, rows, cols, dt_a, dt_b);
  }
  if (at < g->k) step(acc, a, b, at, (int)(g->k - at), rows, cols, dt_a, dt_b);
  for (int i = 0; i < rows; i++)
    for (int j = 0; j < cols; j++) k->sum[i][col + j] = vhsum(acc[i * cols + j]);
}

INLINE void sums(block *k, int count, const int rows, const int cols, const int dt_a,
                 const int dt_b) {
  int col = 0;
  for (; col + cols <= count; col += cols) columns(k, col, rows, cols, dt_a, dt_b);
  for (; col < count; col++) columns(k, col, rows, 1, dt_a, dt_b);
}

/* One column at a time reads B as one stream, which memory likes best. When A is too large for the
 * first cache beside it, reading A again for every column costs more: then as many columns at a
 * time as there are registers for. */
#define SUMS(name, dt_a, dt_b)                                                                     \
  static void name(block *k, int count) {                                                          \
    const int64_t m = k->g->m;                                                                     \
    if (m * k->g->k * dtype_size(dt_a) < A_RESIDENT) {                                             \
      if (m == 1)                                                                                  \
        sums(k, count, 1, 1, dt_a, dt_b);                                                          \
      else if (m == 2)                                                                             \
        sums(k, count, 2, 1, dt_a, dt_b);                                                          \
      else if (m <= 4)                                                                             \
        sums(k, count, 4, 1, dt_a, dt_b);                                                          \
      else                                                                                         \
        sums(k, count, 8, 1, dt_a, dt_b);                                                          \
    } else {                                                                                       \
      if (m == 1)                                                                                  \
        sums(k, count, 1, 4, dt_a, dt_b);                                                          \
      else if (m == 2)                                                                             \
        sums(k, count, 2, VL == 16 ? 4 : 2, dt_a, dt_b);                                           \
      else if (m <= 4)                                                                             \
        sums(k, count, 4, VL == 16 ? 4 : 2, dt_a, dt_b);                                           \
      else                                                                                         \
        sums(k, count, 8, VL == 16 ? 2 : 1, dt_a, dt_b);                                           \
    }                                                                                              \
  }
SUMS(sums_f32, DS_F32, DS_F32)
SUMS(sums_mixed, DS_F32, DS_BF16)
SUMS(sums_bf16, DS_BF16, DS_BF16)

INLINE vf epilogue(vf x, int kind) {
  switch (kind) {
    case DS_EPILOGUE_GELU_TANH: return x * vsigmoid(1.5957691216f * (x + 0.044715f * x * x * x));
    case DS_EPILOGUE_GELU_ERF: return x * vnormal_cdf(x);
    case DS_EPILOGUE_RELU: return vsel(x < 0.0f, vset(0.0f), x);
    case DS_EPILOGUE_SILU: return x * vsigmoid(x);
    default: return x;
  }
}

static void finish(const block *k, int count) {
  const ds_gemm *g = k->g;
  for (int64_t i = 0; i < g->m; i++)
    VLOOP(j, n, 0, count, {
      vf y = g->alpha * ld(k->sum[i], j, n, DS_F32);
      if (g->bias != NULL) y += ld(g->bias, k->n0 + j, n, g->dtype_bias);
      y = epilogue(y, g->epilogue);
      int64_t to = i * g->ldc + k->n0 + j;
      if (g->beta != 0.0f) y += ld(g->c, to, n, g->dtype_c);
      st(g->c, to, n, g->dtype_c, y);
    });
}

static void range(const void *ctx, int64_t lo, int64_t hi, int part) {
  (void)part;
  block k;
  k.g = ctx;
  for (k.n0 = lo; k.n0 < hi; k.n0 += BLOCK) {
    int count = hi - k.n0 < BLOCK ? (int)(hi - k.n0) : BLOCK;
    if (k.g->dtype_b == DS_F32)
      sums_f32(&k, count);
    else if (k.g->dtype_a == DS_F32)
      sums_mixed(&k, count);
    else
      sums_bf16(&k, count);
    finish(&k, count);
  }
}

void K(gemv)(const ds_gemm *g, int threads) {
  double bytes = (double)g->n * (double)g->k * (double)dtype_size(g->dtype_b);
  parallel_range(ds_cpu_parts(threads, bytes), g->n, 16, range, g);
}
