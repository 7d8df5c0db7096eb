/* gemm.c - the gemm table: any mix of f32, bf16 and f16, and of the two fp8 in A and B; batches,
 * epilogues, scales. */
#include <string.h>

#include "backend/reference/activation.h"
#include "backend/reference/element.h"
#include "backend/reference/fp8.h"
#include "backend/reference/tables.h"
#include "backend/reference/tile.h"
#include "base/status.h"

_Static_assert((int)DS_EPILOGUE_GELU_TANH == (int)DS_ACTIVATION_GELU_TANH &&
                   (int)DS_EPILOGUE_GELU_ERF == (int)DS_ACTIVATION_GELU_ERF &&
                   (int)DS_EPILOGUE_RELU == (int)DS_ACTIVATION_RELU &&
                   (int)DS_EPILOGUE_SILU == (int)DS_ACTIVATION_SILU,
               "epilogues are activations by number");

/* A matrix with a step for each index, so that a transposed one is like any other. */
typedef struct matrix {
  int32_t dtype;
  const void *data;
  int64_t offset, row, col;
} matrix;

static int is_fp8(int32_t dtype) {
  return dtype == DS_F8E4M3 || dtype == DS_F8E5M2;
}

static int is_float(int32_t dtype) {
  return dtype == DS_F32 || dtype == DS_BF16 || dtype == DS_F16;
}

static ds_status check_dtypes(const ds_gemm *g, ds_error *err) {
  const struct {
    const char *name;
    int32_t dtype;
    int fp8;
  } all[] = {
      {"A", g->dtype_a, 1}, {"B", g->dtype_b, 1}, {"C", g->dtype_c, 0}, {"bias", g->dtype_bias, 0}};
  for (size_t i = 0; i < sizeof all / sizeof *all; i++) {
    if (is_float(all[i].dtype)) continue;
    if (all[i].fp8 && is_fp8(all[i].dtype)) continue;
    return ds_fail(err, DS_ERR_UNSUPPORTED,
                   "gemm: %s has dtype %d; f32, bf16 and f16%s are offered", all[i].name,
                   (int)all[i].dtype, all[i].fp8 ? ", and fp8," : "");
  }
  return DS_OK;
}

static ds_status check_sizes(const ds_gemm *g, ds_error *err) {
  if (g->m < 0 || g->n < 0 || g->k < 0 || g->batch < 0) {
    return ds_fail(err, DS_ERR_INVALID, "gemm: negative size: m %lld, n %lld, k %lld, batch %lld",
                   (long long)g->m, (long long)g->n, (long long)g->k, (long long)g->batch);
  }
  const struct {
    const char *name;
    int64_t stored, ld;
  } all[] = {{"lda", g->flags & DS_GEMM_TRANS_A ? g->m : g->k, g->lda},
             {"ldb", g->flags & DS_GEMM_TRANS_B ? g->k : g->n, g->ldb},
             {"ldc", g->n, g->ldc}};
  for (size_t i = 0; i < sizeof all / sizeof *all; i++) {
    if (all[i].ld >= all[i].stored) continue;
    return ds_fail(err, DS_ERR_INVALID, "gemm: %s is %lld, its stored rows have %lld elements",
                   all[i].name, (long long)all[i].ld, (long long)all[i].stored);
  }
  if (g->batch > 1 && g->m > 0 && g->n > 0 && g->stride_c == 0) {
    return ds_fail(err, DS_ERR_INVALID, "gemm: stride_c is 0, the %lld results would overlap",
                   (long long)g->batch);
  }
  return DS_OK;
}

static ds_status check(const ds_gemm *g, ds_error *err) {
  const uint32_t known = DS_GEMM_TRANS_A | DS_GEMM_TRANS_B | DS_GEMM_SCALES;
  if (!DS_HAS(g, c) || ((g->flags & DS_GEMM_SCALES) && !DS_HAS(g, scale_b))) {
    return ds_fail(err, DS_ERR_INVALID, "gemm: size is %u, must be at least %zu (sizeof(ds_gemm))",
                   (unsigned)g->size, sizeof(ds_gemm));
  }
  if (g->flags & DS_GEMM_PACKED_B) {
    return ds_fail(err, DS_ERR_UNSUPPORTED, "gemm: the reference backend packs nothing");
  }
  if (g->flags & ~known) {
    return ds_fail(err, DS_ERR_UNSUPPORTED, "gemm: unknown flags 0x%x", (unsigned)g->flags);
  }
  if (g->epilogue < DS_EPILOGUE_NONE || g->epilogue > DS_EPILOGUE_SILU) {
    return ds_fail(err, DS_ERR_UNSUPPORTED, "gemm: unknown epilogue %d", (int)g->epilogue);
  }
  if (g->beta != 0.0f && g->beta != 1.0f) {
    return ds_fail(err, DS_ERR_INVALID, "gemm: beta is %g, must be 0 or 1", (double)g->beta);
  }
  DS_TRY(check_dtypes(g, err));
  return check_sizes(g, err);
}

static int gemm_supports(ds_device *dev, const ds_gemm *g) {
  (void)dev;
  return check(g, NULL) == DS_OK;
}

static float element(const matrix *x, int64_t at) {
  if (is_fp8(x->dtype)) return ds_fp8_decode(x->dtype, ((const uint8_t *)x->data)[at]);
  return ds_element_load(x->dtype, x->data, at);
}

static void load(const matrix *x, int64_t row0, int64_t rows, int64_t col0, int64_t cols,
                 float *out, int64_t width) {
  for (int64_t i = 0; i < rows; i++) {
    int64_t at = x->offset + (row0 + i) * x->row + col0 * x->col;
    for (int64_t j = 0; j < cols; j++) {
      out[i * width + j] = element(x, at + j * x->col);
    }
  }
}

/* What the sums are multiplied by. */
static double factor(const ds_gemm *g) {
  double v = (double)g->alpha;
  if (!(g->flags & DS_GEMM_SCALES)) return v;
  if (g->scale_a) v *= (double)*g->scale_a;
  if (g->scale_b) v *= (double)*g->scale_b;
  return v;
}

static void store(const ds_gemm *g, const ds_tile *t, int64_t offset, int64_t i0, int64_t m,
                  int64_t j0, int64_t n) {
  const double scale = factor(g);
  for (int64_t i = 0; i < m; i++) {
    for (int64_t j = 0; j < n; j++) {
      int64_t at = offset + (i0 + i) * g->ldc + j0 + j;
      double v = scale * t->c[i][j];
      if (g->bias) v += (double)ds_element_load(g->dtype_bias, g->bias, j0 + j);
      if (g->epilogue != DS_EPILOGUE_NONE) v = ds_activation_value(g->epilogue, v);
      if (g->beta != 0.0f) v += (double)ds_element_load(g->dtype_c, g->c, at);
      ds_element_store(g->dtype_c, g->c, at, (float)v);
    }
  }
}

static void product(const ds_gemm *g, const matrix *a, const matrix *b, int64_t offset_c) {
  ds_tile t;
  for (int64_t i = 0; i < g->m; i += DS_TILE_M) {
    int64_t m = ds_tile_part(g->m - i, DS_TILE_M);
    for (int64_t j = 0; j < g->n; j += DS_TILE_N) {
      int64_t n = ds_tile_part(g->n - j, DS_TILE_N);
      memset(t.c, 0, sizeof t.c);
      for (int64_t p = 0; p < g->k; p += DS_TILE_K) {
        int64_t k = ds_tile_part(g->k - p, DS_TILE_K);
        load(a, i, m, p, k, t.a[0], DS_TILE_K);
        load(b, p, k, j, n, t.b[0], DS_TILE_N);
        ds_tile_product(&t, m, n, k);
      }
      store(g, &t, offset_c, i, m, j, n);
    }
  }
}

static ds_status gemm_run(ds_stream *s, const ds_gemm *g, ds_error *err) {
  (void)s;
  DS_TRY(check(g, err));
  if (g->m == 0 || g->n == 0 || g->batch == 0) return DS_OK;
  if (!g->c || (g->k > 0 && (!g->a || !g->b))) {
    return ds_fail(err, DS_ERR_INVALID, "gemm: %s is NULL", !g->c ? "C" : !g->a ? "A" : "B");
  }
  int trans_a = (g->flags & DS_GEMM_TRANS_A) != 0, trans_b = (g->flags & DS_GEMM_TRANS_B) != 0;
  matrix a = {g->dtype_a, g->a, 0, trans_a ? 1 : g->lda, trans_a ? g->lda : 1};
  matrix b = {g->dtype_b, g->b, 0, trans_b ? 1 : g->ldb, trans_b ? g->ldb : 1};
  for (int64_t i = 0; i < g->batch; i++) {
    a.offset = i * g->stride_a;
    b.offset = i * g->stride_b;
    product(g, &a, &b, i * g->stride_c);
  }
  return DS_OK;
}

const ds_gemm_table ds_reference_gemm = {
    .base = DS_REFERENCE_TABLE(ds_gemm_table),
    .supports = gemm_supports,
    .run = gemm_run,
};
