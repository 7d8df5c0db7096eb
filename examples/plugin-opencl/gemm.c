/* gemm.c - products: every form of f32, by one of three kernels. */
#include "opencl.h"

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

static int gemm_supports(ds_device *dev, const ds_gemm *g) {
  (void)dev;
  return check(g, NULL) == DS_OK;
}

/* A tile of C a group. With a few rows (a token, a handful of sequences) that would mostly compute
 * what is thrown away: then an element of C a group where B's columns lie contiguous, else an
 * element a work-item. */
static int choose(const ds_gemm *g, grid *out) {
  if (g->m > 8) {
    *out = (grid){
        {(size_t)(g->n + TILE - 1) / TILE, (size_t)(g->m + TILE - 1) / TILE, (size_t)g->batch},
        {8, 8, 1}};
    return K_gemm_tile;
  }
  if (g->flags & DS_GEMM_TRANS_B) {
    *out = (grid){{(size_t)g->n, (size_t)g->m, (size_t)g->batch}, {LANES, 1, 1}};
    return K_gemm_dot;
  }
  *out =
      (grid){{(size_t)(g->n + LANES - 1) / LANES, (size_t)g->m, (size_t)g->batch}, {LANES, 1, 1}};
  return K_gemm_column;
}

static ds_status gemm_run(ds_stream *s, const ds_gemm *g, ds_error *err) {
  const ds_status st = check(g, err);
  if (st != DS_OK) return st;
  const bool ta = g->flags & DS_GEMM_TRANS_A, tb = g->flags & DS_GEMM_TRANS_B;
  grid work;
  const int kernel = choose(g, &work);
  return launch(s, kernel, work,
                ARGS(P(g->k ? g->a : NULL), P(g->k ? g->b : NULL), P(g->bias), P(g->c), L(g->m),
                     L(g->n), L(g->k), L(ta ? 1 : g->lda), L(ta ? g->lda : 1), L(tb ? 1 : g->ldb),
                     L(tb ? g->ldb : 1), L(g->ldc), L(g->stride_a), L(g->stride_b), L(g->stride_c),
                     L(g->epilogue), F(g->alpha), F(g->beta)),
                err);
}

const ds_gemm_table opencl_gemm = {
    .base = {sizeof(ds_gemm_table), DS_ABI_MAJOR, DS_ABI_MINOR},
    .supports = gemm_supports,
    .run = gemm_run,
};
