/* gemm.c - the gemm table: checks a product and gives it to the vendor's library or to own kernels. */
#include "blas.h"

#include <string.h>

/* With more rows than this the library's kernels for narrow products keep up with reading B once. */
enum { FEW_ROWS = 4 };

/* The most memory that sums may take on their way to an epilogue. */
enum { SUMS_BYTES_MAX = 256 << 20 };

static bool operand_type(int32_t dtype) {
  return dtype == DS_F32 || dtype == DS_BF16 || dtype == DS_F16 || dtype == DS_F8E4M3 ||
         dtype == DS_F8E5M2;
}

static bool result_type(int32_t dtype) {
  return dtype == DS_F32 || dtype == DS_BF16 || dtype == DS_F16;
}

static bool empty(const ds_gemm *g) {
  return g->m == 0 || g->n == 0 || g->batch == 0;
}

static ds_status check_form(const ds_gemm *g, ds_error *err) {
  const uint32_t known = DS_GEMM_TRANS_A | DS_GEMM_TRANS_B | DS_GEMM_SCALES;
  if (!DS_HAS(g, c))
    return gpu_fail(err, DS_ERR_INVALID, "gemm: size is %u; set it to sizeof(ds_gemm)", g->size);
  if (g->flags & DS_GEMM_PACKED_B)
    return gpu_fail(err, DS_ERR_UNSUPPORTED, "gemm: nothing is packed here; give the plain B");
  if (g->flags & ~known)
    return gpu_fail(err, DS_ERR_UNSUPPORTED, "gemm: unknown flags 0x%x", g->flags & ~known);
  if ((g->flags & DS_GEMM_SCALES) && !DS_HAS(g, scale_b))
    return gpu_fail(err, DS_ERR_INVALID,
                    "gemm: DS_GEMM_SCALES, but a size of %u has no room for the scales", g->size);
  if (g->epilogue < DS_EPILOGUE_NONE || g->epilogue > DS_EPILOGUE_SILU)
    return gpu_fail(err, DS_ERR_UNSUPPORTED, "gemm: unknown epilogue %d", (int)g->epilogue);
  if (g->beta != 0.0f && g->beta != 1.0f)
    return gpu_fail(err, DS_ERR_INVALID, "gemm: beta is %g; it may be 0 or 1", (double)g->beta);
  return DS_OK;
}

static ds_status check_types(const ds_gemm *g, ds_error *err) {
  if (!operand_type(g->dtype_a) || !operand_type(g->dtype_b))
    return gpu_fail(err, DS_ERR_UNSUPPORTED,
                    "gemm: A has dtype %d, B %d; f32, bf16, f16, f8e4m3 and f8e5m2 are offered",
                    (int)g->dtype_a, (int)g->dtype_b);
  if (!result_type(g->dtype_c) || !result_type(g->dtype_bias))
    return gpu_fail(err, DS_ERR_UNSUPPORTED,
                    "gemm: C has dtype %d, the bias %d; f32, bf16 and f16 are offered",
                    (int)g->dtype_c, (int)g->dtype_bias);
  return DS_OK;
}

/* Sizes are kept far enough below 2^63 that no address overflows. */
static ds_status check_sizes(const ds_gemm *g, ds_error *err) {
  const int64_t most = INT64_MAX / 64;
  const struct {
    const char *name;
    int64_t row, ld;
  } all[] = {{"lda", g->flags & DS_GEMM_TRANS_A ? g->m : g->k, g->lda},
             {"ldb", g->flags & DS_GEMM_TRANS_B ? g->k : g->n, g->ldb},
             {"ldc", g->n, g->ldc}};
  if (g->m < 0 || g->n < 0 || g->k < 0 || g->batch < 0)
    return gpu_fail(err, DS_ERR_INVALID,
                    "gemm: m %lld, n %lld, k %lld, batch %lld: one is negative", (long long)g->m,
                    (long long)g->n, (long long)g->k, (long long)g->batch);
  for (size_t i = 0; i < sizeof all / sizeof *all; i++)
    if (all[i].ld < all[i].row || all[i].ld > most)
      return gpu_fail(err, DS_ERR_INVALID, "gemm: %s is %lld, its rows have %lld elements",
                      all[i].name, (long long)all[i].ld, (long long)all[i].row);
  if (g->batch > 1 && !empty(g) && g->stride_c == 0)
    return gpu_fail(err, DS_ERR_INVALID, "gemm: stride_c is 0; the %lld results would overlap",
                    (long long)g->batch);
  return DS_OK;
}

/* Own kernels count their tiles, of 64 x 64 and 8 deep or more, with 31 bits. */
static ds_status check_tiles(const ds_gemm *g, ds_error *err) {
  const int64_t rows = g->m / 64 + 1, cols = g->n / 64 + 1;
  if (rows > INT32_MAX || cols > INT32_MAX / rows || g->batch > INT32_MAX / (rows * cols) ||
      g->k / 8 >= INT32_MAX)
    return gpu_fail(err, DS_ERR_UNSUPPORTED,
                    "gemm: m %lld, n %lld, k %lld, batch %lld make more tiles than a launch takes",
                    (long long)g->m, (long long)g->n, (long long)g->k, (long long)g->batch);
  return DS_OK;
}

static ds_status check(const ds_gemm *g, ds_error *err) {
  ds_status st = check_form(g, err);
  if (st == DS_OK) st = check_types(g, err);
  if (st == DS_OK) st = check_sizes(g, err);
  if (st == DS_OK) st = check_tiles(g, err);
  return st;
}

static ds_status check_pointers(const ds_gemm *g, ds_error *err) {
  if (g->c != NULL && (g->k == 0 || (g->a != NULL && g->b != NULL))) return DS_OK;
  return gpu_fail(err, DS_ERR_INVALID, "gemm: %s is NULL",
                  g->c == NULL   ? "C"
                  : g->a == NULL ? "A"
                                 : "B");
}

static int supports(ds_device *dev, const ds_gemm *g) {
  (void)dev;
  return check(g, NULL) == DS_OK;
}

/* What the caller has of a ds_gemm: an older one's is shorter than ours. */
static ds_gemm complete(const ds_gemm *g) {
  ds_gemm all = {0};
  memcpy(&all, g, g->size < sizeof all ? g->size : sizeof all);
  all.size = sizeof all;
  if (!(g->flags & DS_GEMM_SCALES)) all.scale_a = all.scale_b = NULL;
  if (all.batch == 1) all.stride_a = all.stride_b = all.stride_c = 0;
  return all;
}

static gpu_product product_of(const ds_gemm *g) {
  return (gpu_product){.m = g->m,
                       .n = g->n,
                       .k = g->k,
                       .batch = g->batch,
                       .lda = g->lda,
                       .ldb = g->ldb,
                       .ldc = g->ldc,
                       .stride_a = g->stride_a,
                       .stride_b = g->stride_b,
                       .stride_c = g->stride_c,
                       .a = g->a,
                       .b = g->b,
                       .bias = g->bias,
                       .c = g->c,
                       .scale_a = g->scale_a,
                       .scale_b = g->scale_b,
                       .dtype_a = g->dtype_a,
                       .dtype_b = g->dtype_b,
                       .dtype_c = g->dtype_c,
                       .dtype_bias = g->dtype_bias,
                       .trans_a = (g->flags & DS_GEMM_TRANS_A) != 0,
                       .trans_b = (g->flags & DS_GEMM_TRANS_B) != 0,
                       .epilogue = g->epilogue,
                       .alpha = g->alpha,
                       .beta = g->beta};
}

static ds_status own(ds_stream *s, const ds_gemm *g, ds_error *err) {
  const ds_device *dev = s->dev;
  const gpu_product p = product_of(g);
  if (gpu_gemv_takes(&p))
    return gpu_given(s, gpu_gemv(s->handle, &p, dev->multiprocessors), "gemm (few rows)", err);
  if (gpu_gemm_mma_takes(&p))
    return gpu_given(s, gpu_gemm_mma(s->handle, &p, dev->wave, dev->multiprocessors),
                     "gemm (matrix units)", err);
  return gpu_given(s, gpu_gemm_simt(s->handle, &p, dev->multiprocessors), "gemm", err);
}

/* The vendor's library, opened at a device's first product that asks for it; NULL where there is none. */
static gpu_blas *library(ds_device *dev) {
  pthread_mutex_lock(&dev->lock);
  if (!dev->blas_tried) {
    dev->blas = gpu_blas_open(dev, &dev->blas_missing);
    if (dev->blas == NULL && dev->blas_missing != NULL) gpu_log(DS_LOG_WARN, dev->blas_missing);
  }
  dev->blas_tried = true;
  gpu_blas *blas = dev->blas;
  pthread_mutex_unlock(&dev->lock);
  return blas;
}

/* Sums by the library, in f32, in C or in scratch; then the epilogue by a pass over C. */
static ds_status in_two_steps(gpu_blas *blas, ds_stream *s, const ds_gemm *g, ds_error *err) {
  const gpu_product p = product_of(g);
  const bool in_place = g->dtype_c == DS_F32 && g->beta == 0.0f;
  ds_status st = DS_OK;
  ds_gemm sums = *g;
  sums.flags &= ~(uint32_t)DS_GEMM_SCALES;
  sums.scale_a = sums.scale_b = NULL;
  sums.bias = NULL;
  sums.dtype_bias = sums.dtype_c = DS_F32;
  sums.epilogue = DS_EPILOGUE_NONE;
  sums.alpha = 1.0f;
  sums.beta = 0.0f;
  if (!in_place) {
    sums.ldc = g->n;
    sums.stride_c = g->batch > 1 ? g->m * g->n : 0;
  }
  if (!gpu_blas_takes(blas, &sums) ||
      (!in_place && g->m > SUMS_BYTES_MAX / (int64_t)sizeof(float) / g->n / g->batch))
    return DS_ERR_UNSUPPORTED;
  if (!in_place)
    st = gpu_scratch(s, GPU_SCRATCH_SUMS, (size_t)(g->batch * g->m * g->n) * sizeof(float), &sums.c,
                     err);
  if (st == DS_OK) st = gpu_blas_run(blas, s, &sums, err);
  if (st != DS_OK) return st;
  return gpu_given(s, gpu_gemm_epilogue(s->handle, &p, sums.c, sums.ldc, sums.stride_c),
                   "gemm (epilogue)", err);
}

static ds_status by_library(ds_stream *s, const ds_gemm *g, ds_error *err) {
  gpu_blas *blas = library(s->dev);
  if (blas == NULL) return DS_ERR_UNSUPPORTED;
  if (gpu_blas_takes(blas, g)) return gpu_blas_run(blas, s, g, err);
  return g->k >= gpu_blas_pass_depth ? in_two_steps(blas, s, g, err) : DS_ERR_UNSUPPORTED;
}

static ds_status product(ds_stream *s, const ds_gemm *g, ds_error *err) {
  const gpu_product p = product_of(g);
  ds_status st = DS_ERR_UNSUPPORTED;
  if (g->k > 0 && !(g->m <= FEW_ROWS && gpu_gemv_takes(&p))) st = by_library(s, g, err);
  return st == DS_ERR_UNSUPPORTED ? own(s, g, err) : st;
}

static ds_status run(ds_stream *s, const ds_gemm *g, ds_error *err) {
  ds_status st = gpu_ready(s, err);
  if (st == DS_OK) st = check(g, err);
  if (st == DS_OK && !empty(g)) {
    const ds_gemm all = complete(g);
    st = check_pointers(&all, err);
    if (st == DS_OK) st = product(s, &all, err);
  }
  return gpu_done(s, st, err);
}

const ds_gemm_table gpu_gemm_table = {
    .base = {sizeof(ds_gemm_table), DS_ABI_MAJOR, DS_ABI_MINOR},
    .supports = supports,
    .run = run,
};
