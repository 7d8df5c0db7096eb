/* quant.c - the quant table: checks, and which way a product goes.
 *
 * A few rows meet the quantized values as they are, at the speed of memory. Tiles serve more; with many rows of
 * bf16 the values are brought back, panel by panel, and the product is an ordinary one, by the vendor's library.
 * With dynamic scales it is whole numbers all the way, for any number of rows.
 */
#include "gpu.h"
#include "kernels/quant.h"

/* Rows of A that go one way. PANEL_BYTES: of values brought back, which stay in the card's cache; CODES_BYTES: of A in whole
 * numbers; MOST_ROWS: of one launch. */
enum { FEW_ROWS_BF16 = 8, FEW_ROWS = 16, MANY_ROWS = 256, MOST_ROWS = 1 << 20 };
enum { PANEL_BYTES = 32 << 20, CODES_BYTES = 256 << 20 };

/* ---------------------------------------------------------------- checks */

static bool is_fp8(int32_t qtype) {
  return qtype == DS_F8E4M3 || qtype == DS_F8E5M2;
}

static ds_status check(const ds_quant *q, ds_error *err) {
  if (!DS_HAS(q, zeros))
    return gpu_fail(err, DS_ERR_INVALID,
                    GPU_PLUGIN_NAME " quant: size is %u, ds_quant has %zu bytes", q->size,
                    sizeof *q);
  if (q->flags & ~(uint32_t)(DS_QUANT_ASYMMETRIC | DS_QUANT_PER_TENSOR))
    return gpu_fail(err, DS_ERR_UNSUPPORTED, GPU_PLUGIN_NAME " quant: unknown flags 0x%x",
                    q->flags);
  if ((q->qtype != DS_I8 && q->qtype != DS_I4 && !is_fp8(q->qtype)) ||
      (q->dtype != DS_F32 && q->dtype != DS_BF16))
    return gpu_fail(
        err, DS_ERR_UNSUPPORTED,
        GPU_PLUGIN_NAME
        " quant: dtype %d of dtype %d; i8, i4, f8e4m3 and f8e5m2 of f32 and bf16 are there",
        (int)q->qtype, (int)q->dtype);
  if (q->flags & DS_QUANT_ASYMMETRIC && is_fp8(q->qtype))
    return gpu_fail(err, DS_ERR_INVALID,
                    GPU_PLUGIN_NAME " quant: fp8 has no zero points (asymmetric)");
  if (q->rows < 0 || q->cols < 0 || (q->cols > 0 && q->rows > INT64_MAX / 64 / q->cols))
    return gpu_fail(err, DS_ERR_INVALID,
                    GPU_PLUGIN_NAME " quant: impossible size: rows=%lld cols=%lld",
                    (long long)q->rows, (long long)q->cols);
  if (!(q->flags & DS_QUANT_PER_TENSOR) && q->cols > 0 && (q->group < 1 || q->cols % q->group != 0))
    return gpu_fail(err, DS_ERR_INVALID,
                    GPU_PLUGIN_NAME
                    " quant: rows=%lld cols=%lld group=%lld: the group must divide cols",
                    (long long)q->rows, (long long)q->cols, (long long)q->group);
  if (q->qtype == DS_I4 && q->cols % 2 != 0)
    return gpu_fail(err, DS_ERR_INVALID,
                    GPU_PLUGIN_NAME " quant: i4 with cols=%lld; two share a byte, so cols is even",
                    (long long)q->cols);
  return DS_OK;
}

static ds_status check_gemm(const ds_quant *q, const ds_quant_gemm *g, ds_error *err) {
  if (!DS_HAS(g, c))
    return gpu_fail(err, DS_ERR_INVALID,
                    GPU_PLUGIN_NAME " quant: size is %u, ds_quant_gemm has %zu bytes", g->size,
                    sizeof *g);
  if (g->flags & ~(uint32_t)DS_QUANT_GEMM_DYNAMIC)
    return gpu_fail(err, DS_ERR_UNSUPPORTED,
                    GPU_PLUGIN_NAME " quant: unknown flags 0x%x of a product", g->flags);
  if (g->flags & DS_QUANT_GEMM_DYNAMIC && q->qtype != DS_I8)
    return gpu_fail(err, DS_ERR_INVALID,
                    GPU_PLUGIN_NAME
                    " quant: dynamic activation scales are for i8, this is dtype %d",
                    (int)q->qtype);
  if (g->m < 0 || (g->m > 0 && (g->lda < q->cols || g->ldc < q->rows)))
    return gpu_fail(err, DS_ERR_INVALID,
                    GPU_PLUGIN_NAME
                    " quant: m=%lld lda=%lld ldc=%lld do not suit rows=%lld cols=%lld",
                    (long long)g->m, (long long)g->lda, (long long)g->ldc, (long long)q->rows,
                    (long long)q->cols);
  return DS_OK;
}

static int supports(ds_device *dev, const ds_quant *q, const ds_quant_gemm *g) {
  (void)dev;
  return check(q, NULL) == DS_OK && (g == NULL || check_gemm(q, g, NULL) == DS_OK);
}

/* ---------------------------------------------------------------- there and back */

static bool empty(const ds_quant *q) {
  return q->rows == 0 || q->cols == 0;
}

/* Rows [row, row + rows) of q, which isn't empty. */
static gpu_quant part_of(const ds_quant *q, int64_t row, int64_t rows) {
  const bool whole = q->flags & DS_QUANT_PER_TENSOR;
  gpu_quant p = {.qtype = q->qtype, .dtype = q->dtype, .rows = rows, .cols = q->cols};
  p.group = whole ? rows * q->cols : q->group;
  p.row_groups = whole ? 0 : q->cols / q->group;
  p.groups = whole ? 1 : rows * p.row_groups;
  p.group_cols = whole ? q->cols : q->group;
  p.values = (char *)q->values + row * q->cols / (q->qtype == DS_I4 ? 2 : 1);
  p.scales = q->scales + row * p.row_groups;
  if (q->flags & DS_QUANT_ASYMMETRIC) p.zeros = q->zeros + row * p.row_groups;
  return p;
}

static ds_status give_quantize(ds_stream *s, const ds_quant *q, const void *x, ds_error *err) {
  ds_status st = gpu_ready(s, err);
  if (st == DS_OK) st = check(q, err);
  if (st != DS_OK || empty(q)) return st;
  const gpu_quant p = part_of(q, 0, q->rows);
  void *scratch = NULL;
  if (p.row_groups == 0) st = gpu_scratch(s, GPU_SCRATCH_QUANT, GPU_QUANT_SCRATCH, &scratch, err);
  if (st != DS_OK) return st;
  return gpu_given(s, gpu_quant_quantize(s->handle, &p, x, scratch), "quantize", err);
}

static ds_status give_dequantize(ds_stream *s, const ds_quant *q, void *x, ds_error *err) {
  ds_status st = gpu_ready(s, err);
  if (st == DS_OK) st = check(q, err);
  if (st != DS_OK || empty(q)) return st;
  const gpu_quant p = part_of(q, 0, q->rows);
  return gpu_given(s, gpu_quant_dequantize(s->handle, &p, x), "dequantize", err);
}

/* ---------------------------------------------------------------- products */

static int64_t bytes_of(const ds_quant *q) {
  return q->dtype == DS_F32 ? 4 : 2;
}

/* The product with values that are there as `b`, or, without columns, with none. n: rows of b. */
static ds_status plain_product(ds_stream *s, const ds_quant *q, const ds_quant_gemm *g,
                               const void *b, int64_t row, int64_t n, ds_error *err) {
  const ds_gemm p = {.size = sizeof p,
                     .flags = DS_GEMM_TRANS_B,
                     .m = g->m,
                     .n = n,
                     .k = q->cols,
                     .lda = g->lda,
                     .ldb = q->cols,
                     .ldc = g->ldc,
                     .batch = 1,
                     .dtype_a = q->dtype,
                     .dtype_b = q->dtype,
                     .dtype_c = q->dtype,
                     .dtype_bias = g->bias != NULL ? q->dtype : DS_F32,
                     .alpha = 1.0f,
                     .a = g->a,
                     .b = b,
                     .bias = g->bias != NULL ? (const char *)g->bias + row * bytes_of(q) : NULL,
                     .c = (char *)g->c + row * bytes_of(q)};
  return gpu_gemm_table.run(s, &p, err);
}

static ds_status many_rows(ds_stream *s, const ds_quant *q, const ds_quant_gemm *g, ds_error *err) {
  const int64_t row_bytes = q->cols * bytes_of(q);
  int64_t rows = PANEL_BYTES / row_bytes / 128 * 128;
  if (rows < 128) rows = 128;
  if (rows > q->rows) rows = q->rows;
  void *panel = NULL;
  ds_status st = gpu_scratch(s, GPU_SCRATCH_QUANT, (size_t)(rows * row_bytes), &panel, err);
  for (int64_t row = 0; row < q->rows && st == DS_OK; row += rows) {
    const int64_t n = q->rows - row < rows ? q->rows - row : rows;
    const gpu_quant p = part_of(q, row, n);
    st = gpu_given(s, gpu_quant_dequantize(s->handle, &p, panel), "dequantize for a product", err);
    if (st == DS_OK) st = plain_product(s, q, g, panel, row, n, err);
  }
  return st;
}

/* Rows [i, i + m) of A by kernels of our own. */
static ds_status own_product(ds_stream *s, const gpu_quant *q, const gpu_quant_product *p, bool few,
                             ds_error *err) {
  const int multiprocessors = s->dev->multiprocessors;
  if (few)
    return gpu_given(s, gpu_quant_gemv(s->handle, q, p, multiprocessors), "quantized product", err);
  const size_t bytes = p->codes != NULL ? 0 : gpu_quant_gemm_scratch(q, p->m, multiprocessors);
  void *scratch = NULL;
  const ds_status st = bytes > 0 ? gpu_scratch(s, GPU_SCRATCH_QUANT, bytes, &scratch, err) : DS_OK;
  if (st != DS_OK) return st;
  return gpu_given(s, gpu_quant_gemm(s->handle, q, p, multiprocessors, scratch),
                   "quantized product", err);
}

/* A as whole numbers: codes, then their sums, then scales. */
static ds_status quantize_rows(ds_stream *s, const gpu_quant *q, gpu_quant_product *p,
                               ds_error *err) {
  const int64_t room = gpu_quant_row_bytes(q->cols), sums = room / GPU_QUANT_SUM;
  const size_t bytes = (size_t)(p->m * (room + sums * 4 + 4));
  void *scratch = NULL;
  const ds_status st = gpu_scratch(s, GPU_SCRATCH_QUANT, bytes, &scratch, err);
  if (st != DS_OK) return st;
  int8_t *codes = scratch;
  int32_t *of_codes = (int32_t *)(codes + p->m * room);
  float *scales = (float *)(of_codes + p->m * sums);
  p->codes = codes;
  p->sums = of_codes;
  p->scales = scales;
  return gpu_given(s, gpu_quant_rows(s->handle, q, p, codes, scales, of_codes),
                   "quantize rows for a product", err);
}

static ds_status give_product(ds_stream *s, const ds_quant *q, const ds_quant_gemm *g,
                              ds_error *err) {
  ds_status st = gpu_ready(s, err);
  if (st == DS_OK) st = check(q, err);
  if (st == DS_OK) st = check_gemm(q, g, err);
  if (st != DS_OK || g->m == 0 || q->rows == 0) return st;
  if (q->cols == 0) return plain_product(s, q, g, NULL, 0, q->rows, err);
  const bool dynamic = g->flags & DS_QUANT_GEMM_DYNAMIC, bf16 = q->dtype == DS_BF16;
  if (!dynamic && bf16 && g->m > MANY_ROWS) return many_rows(s, q, g, err);
  const gpu_quant whole = part_of(q, 0, q->rows);
  const bool few = g->m <= (bf16 && !dynamic ? FEW_ROWS_BF16 : FEW_ROWS);
  int64_t most = dynamic ? CODES_BYTES / gpu_quant_row_bytes(q->cols) / 128 * 128 : MOST_ROWS;
  if (most < 128) most = 128;
  for (int64_t i = 0; i < g->m && st == DS_OK; i += most) {
    gpu_quant_product p = {.m = g->m - i < most ? g->m - i : most,
                           .lda = g->lda,
                           .ldc = g->ldc,
                           .a = (const char *)g->a + i * g->lda * bytes_of(q),
                           .bias = g->bias,
                           .c = (char *)g->c + i * g->ldc * bytes_of(q)};
    if (dynamic) st = quantize_rows(s, &whole, &p, err);
    if (st == DS_OK) st = own_product(s, &whole, &p, few, err);
  }
  return st;
}

/* ---------------------------------------------------------------- the table */

static ds_status quantize(ds_stream *s, const ds_quant *q, const void *x, ds_error *err) {
  return gpu_done(s, give_quantize(s, q, x, err), err);
}

static ds_status dequantize(ds_stream *s, const ds_quant *q, void *x, ds_error *err) {
  return gpu_done(s, give_dequantize(s, q, x, err), err);
}

static ds_status product(ds_stream *s, const ds_quant *q, const ds_quant_gemm *g, ds_error *err) {
  return gpu_done(s, give_product(s, q, g, err), err);
}

const ds_quant_table gpu_quant_table = {
    .base = {sizeof(ds_quant_table), DS_ABI_MAJOR, DS_ABI_MINOR},
    .supports = supports,
    .quantize = quantize,
    .dequantize = dequantize,
    .gemm = product,
};
