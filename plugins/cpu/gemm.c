/* gemm.c - the gemm table: checks a product and gives it to whom it suits. */
#include "gemm_convert.h"
#include "gemm_onednn.h"
#include "gemv.h"

#include <limits.h>
#include <string.h>

/* Below this many elements a constant B stays in cache as it is. */
enum { PACK_ELEMENTS_MIN = 64 * 64 };

static bool operand_type(int32_t dtype) {
  return dtype == DS_F32 || dtype == DS_BF16 || dtype == DS_F16;
}

static bool empty(const ds_gemm *g) {
  return g->m == 0 || g->n == 0 || g->batch == 0;
}

/* Whether ld reaches from one stored row of an operand to the next. */
static bool fits(int64_t rows, int64_t cols, bool transposed, int64_t ld) {
  return ld >= (transposed ? rows : cols) && ld <= INT64_MAX / 8;
}

static ds_status check_numbers(const ds_gemm *g, ds_error *err) {
  if (!DS_HAS(g, c))
    return ds_cpu_fail(err, DS_ERR_INVALID,
                       "cpu gemm: size is %u, which is no ds_gemm; set it to sizeof(ds_gemm)",
                       g->size);
  if (g->flags & ~(uint32_t)(DS_GEMM_TRANS_A | DS_GEMM_TRANS_B | DS_GEMM_PACKED_B))
    return ds_cpu_fail(err, DS_ERR_UNSUPPORTED, "cpu gemm: unknown flags 0x%x", g->flags);
  if (g->m < 0 || g->n < 0 || g->k < 0 || g->batch < 0)
    return ds_cpu_fail(err, DS_ERR_INVALID,
                       "cpu gemm: m=%lld n=%lld k=%lld batch=%lld: none may be negative",
                       (long long)g->m, (long long)g->n, (long long)g->k, (long long)g->batch);
  if (g->epilogue < DS_EPILOGUE_NONE || g->epilogue > DS_EPILOGUE_SILU)
    return ds_cpu_fail(err, DS_ERR_UNSUPPORTED, "cpu gemm: unknown epilogue %d", g->epilogue);
  if (g->beta != 0.0f && g->beta != 1.0f)
    return ds_cpu_fail(err, DS_ERR_INVALID, "cpu gemm: beta is %g; it may be 0 or 1",
                       (double)g->beta);
  return DS_OK;
}

static ds_status check_layout(const ds_gemm *g, ds_error *err) {
  bool packed = g->flags & DS_GEMM_PACKED_B;
  if (!operand_type(g->dtype_a) || !operand_type(g->dtype_b) || !operand_type(g->dtype_c))
    return ds_cpu_fail(err, DS_ERR_UNSUPPORTED,
                       "cpu gemm: %s x %s -> %s; only f32, bf16 and f16 are",
                       ds_cpu_dtype_name(g->dtype_a), ds_cpu_dtype_name(g->dtype_b),
                       ds_cpu_dtype_name(g->dtype_c));
  if (packed && g->batch > 1)
    return ds_cpu_fail(err, DS_ERR_UNSUPPORTED, "cpu gemm: packed B with a batch of %lld",
                       (long long)g->batch);
  if (!empty(g) && (!fits(g->m, g->k, g->flags & DS_GEMM_TRANS_A, g->lda) ||
                    (!packed && !fits(g->k, g->n, g->flags & DS_GEMM_TRANS_B, g->ldb)) ||
                    !fits(g->m, g->n, false, g->ldc)))
    return ds_cpu_fail(err, DS_ERR_INVALID,
                       "cpu gemm: lda=%lld ldb=%lld ldc=%lld are too small for m=%lld n=%lld "
                       "k=%lld (flags 0x%x)",
                       (long long)g->lda, (long long)g->ldb, (long long)g->ldc, (long long)g->m,
                       (long long)g->n, (long long)g->k, g->flags);
  if (g->batch > 1 && g->stride_c < (g->m - 1) * g->ldc + g->n)
    return ds_cpu_fail(err, DS_ERR_INVALID,
                       "cpu gemm: stride_c=%lld makes the %lld results overlap",
                       (long long)g->stride_c, (long long)g->batch);
  return DS_OK;
}

/* A bias type is only looked at where there is a bias; `supports` sees no pointers and takes
 * whatever run can take. */
static ds_status check_bias(const ds_gemm *g, ds_error *err) {
  if (g->bias == NULL || operand_type(g->dtype_bias)) return DS_OK;
  return ds_cpu_fail(err, DS_ERR_UNSUPPORTED, "cpu gemm: a bias of %s; only f32, bf16 and f16 are",
                     ds_cpu_dtype_name(g->dtype_bias));
}

static ds_status check(const ds_device *dev, const ds_gemm *g, ds_error *err) {
  ds_status st = check_numbers(g, err);
  if (st == DS_OK) st = check_layout(g, err);
  if (st == DS_OK) st = check_bias(g, err);
  if (st == DS_OK && (g->flags & DS_GEMM_PACKED_B) &&
      !ds_cpu_onednn_takes(dev, g->dtype_a, g->dtype_b, g->dtype_c))
    st = ds_cpu_fail(err, DS_ERR_UNSUPPORTED, "cpu gemm: no packed B for %s x %s -> %s here",
                     ds_cpu_dtype_name(g->dtype_a), ds_cpu_dtype_name(g->dtype_b),
                     ds_cpu_dtype_name(g->dtype_c));
  return st;
}

/* What the caller has of a ds_gemm: an older one's is shorter than ours, and ends where it says. */
static ds_gemm complete(const ds_gemm *g) {
  ds_gemm all = {0};
  memcpy(&all, g, g->size < sizeof all ? g->size : sizeof all);
  all.size = g->size;
  return all;
}

static int supports(ds_device *dev, const ds_gemm *g) {
  ds_gemm shape = complete(g);
  shape.bias = NULL;
  return check(dev, &shape, NULL) == DS_OK;
}

/* One A and one B for the whole batch: no library routine knows such a batch. */
static ds_status run_same(ds_stream *s, const ds_gemm *g, ds_error *err);

static ds_status product(ds_stream *s, const ds_gemm *g, ds_error *err) {
  ds_status st = check(s->dev, g, err);
  if (st != DS_OK || empty(g)) return st;
  if (g->k == 0 || g->alpha == 0.0f) return ds_cpu_gemm_bias_only(s, g, err);
  if (g->batch > 1 && g->stride_a == 0 && g->stride_b == 0) return run_same(s, g, err);
  if (ds_cpu_gemv_takes(g)) return ds_cpu_gemv_run(s, g, err);
  if (ds_cpu_onednn_takes(s->dev, g->dtype_a, g->dtype_b, g->dtype_c))
    return ds_cpu_onednn_run(s, g, err);
  return ds_cpu_gemm_convert_run(s, g, err);
}

static ds_status run_same(ds_stream *s, const ds_gemm *g, ds_error *err) {
  ds_status st = DS_OK;
  for (int64_t b = 0; b < g->batch && st == DS_OK; b++) {
    ds_gemm one = *g;
    one.batch = 1;
    one.c = (char *)g->c + ds_cpu_dtype_bytes(g->dtype_c, b * g->stride_c);
    st = product(s, &one, err);
  }
  return st;
}

static ds_status run(ds_stream *s, const ds_gemm *g, ds_error *err) {
  ds_gemm all = complete(g);
  ds_status st = ds_cpu_ready(s, err);
  return st == DS_OK ? product(s, &all, err) : st;
}

static size_t pack_size(ds_device *dev, const ds_gemm *given) {
  ds_gemm all = complete(given), *g = &all;
  if (!supports(dev, g) || empty(g) || g->batch > 1 || g->k == 0 || (g->flags & DS_GEMM_PACKED_B) ||
      ds_cpu_gemv_takes(g) || !ds_cpu_onednn_takes(dev, g->dtype_a, g->dtype_b, g->dtype_c) ||
      g->n < 64 || g->k < 64 || g->n * g->k < PACK_ELEMENTS_MIN)
    return 0;
  return ds_cpu_onednn_pack_size(dev, g);
}

static ds_status pack_b(ds_stream *s, const ds_gemm *given, void *packed, ds_error *err) {
  ds_gemm all = complete(given), *g = &all;
  ds_status st = ds_cpu_ready(s, err);
  if (st != DS_OK) return st;
  if (pack_size(s->dev, g) == 0)
    return ds_cpu_fail(err, DS_ERR_UNSUPPORTED,
                       "cpu gemm: B of k=%lld n=%lld is not packed here; ask pack_size first",
                       (long long)g->k, (long long)g->n);
  return ds_cpu_onednn_pack(s, g, packed, err);
}

const ds_gemm_table ds_cpu_gemm_table = {
    .base = {sizeof(ds_gemm_table), DS_ABI_MAJOR, DS_ABI_MINOR},
    .supports = supports,
    .run = run,
    .pack_size = pack_size,
    .pack_b = pack_b,
};
