/* gemm.c - matrix products, where nearly all time of training goes: the first table to add.
 *
 * A real plugin calls its vendor's library here and does what that lacks (an epilogue, a bias) in a
 * kernel after it. */
#include "plugin.h"

/* DS_OK, or why not. The least to take is every form of f32 x f32 -> f32. */
static ds_status check(const ds_gemm *g, ds_error *err) {
  const int64_t a_cols = g->flags & DS_GEMM_TRANS_A ? g->m : g->k;
  const int64_t b_cols = g->flags & DS_GEMM_TRANS_B ? g->k : g->n;
  if (!DS_HAS(g, c)) return fail(err, DS_ERR_INVALID, "gemm: the description is too small");
  if (g->dtype_a != DS_F32 || g->dtype_b != DS_F32 || g->dtype_c != DS_F32 ||
      g->dtype_bias != DS_F32)
    return fail(err, DS_ERR_UNSUPPORTED, "gemm: only f32 is offered");
  if (g->flags & ~(uint32_t)(DS_GEMM_TRANS_A | DS_GEMM_TRANS_B))
    return fail(err, DS_ERR_UNSUPPORTED, "gemm: unknown flags 0x%x; B is never packed", g->flags);
  if (g->epilogue < DS_EPILOGUE_NONE || g->epilogue > DS_EPILOGUE_SILU)
    return fail(err, DS_ERR_UNSUPPORTED, "gemm: unknown epilogue %d", g->epilogue);
  if (g->m < 0 || g->n < 0 || g->k < 0 || g->batch < 0)
    return fail(err, DS_ERR_INVALID, "gemm: a negative size");
  if (g->lda < a_cols || g->ldb < b_cols || g->ldc < g->n)
    return fail(err, DS_ERR_INVALID, "gemm: rows lie closer than they are long");
  if (g->beta != 0 && g->beta != 1)
    return fail(err, DS_ERR_INVALID, "gemm: beta is %g; only 0 and 1 are possible",
                (double)g->beta);
  return DS_OK;
}

/* [any-thread]: looks at shapes and types, never at pointers. */
static int gemm_supports(ds_device *dev, const ds_gemm *g) {
  (void)dev;
  return check(g, NULL) == DS_OK;
}

/* One matrix of the batch. A transposed matrix is one with its two steps exchanged. */
static void product(const ds_gemm *g, const float *a, const float *b, float *c) {
  const float *bias = g->bias;
  const int ta = g->flags & DS_GEMM_TRANS_A, tb = g->flags & DS_GEMM_TRANS_B;
  const int64_t a_row = ta ? 1 : g->lda, a_col = ta ? g->lda : 1;
  const int64_t b_row = tb ? 1 : g->ldb, b_col = tb ? g->ldb : 1;
  for (int64_t i = 0; i < g->m; i++)
    for (int64_t j = 0; j < g->n; j++) {
      double sum = 0;
      for (int64_t p = 0; p < g->k; p++)
        sum += (double)a[i * a_row + p * a_col] * (double)b[p * b_row + j * b_col];
      float v = activate(g->epilogue, (float)(g->alpha * sum + (bias ? bias[j] : 0)));
      float *out = &c[i * g->ldc + j];
      *out = g->beta == 0 ? v : v + *out; /* with beta 0, C is not read: it may hold NaN */
    }
}

/* [per-stream]. g and what it points to may be gone when this returns: an accelerator copies what
 * it needs into the launch. A is read when the work's turn comes. */
static ds_status gemm_run(ds_stream *s, const ds_gemm *g, ds_error *err) {
  (void)s;
  const ds_status st = check(g, err);
  if (st != DS_OK) return st; /* UNSUPPORTED: core falls back */
  const float *a = g->a, *b = g->b;
  float *c = g->c;
  if (g->m == 0 || g->n == 0) return DS_OK; /* pointers may be NULL */
  for (int64_t i = 0; i < g->batch; i++)
    product(g, g->k ? a + i * g->stride_a : a, g->k ? b + i * g->stride_b : b, c + i * g->stride_c);
  return DS_OK;
}

/* pack_size and pack_b would let core hand over constant weights once, in the layout that your
 * kernels like best. Without them, weights come as they are. */
const ds_gemm_table gemm_table = {
    .base = {sizeof(ds_gemm_table), DS_ABI_MAJOR, DS_ABI_MINOR},
    .supports = gemm_supports,
    .run = gemm_run,
};
