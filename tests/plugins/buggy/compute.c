/* compute.c - the reference's products, quantization and ops, with the bug in them. */
#include "buggy.h"

#include <fenv.h>
#include <math.h>
#include <signal.h>
#include <stdatomic.h>
#include <unistd.h>

#include "backend/reference/element.h"

/* ---------------------------------------------------------------- gemm */

static int gemm_supports(ds_device *dev, const ds_gemm *g) {
  static atomic_uint asked;
  if (BUG == BUG_FLIPS && atomic_fetch_add(&asked, 1) % 1000 == 999) return 0;
  if (BUG == BUG_READS_PAST_GEMM && ((const volatile unsigned char *)(g + 1))[0] == 1) return 0;
  return ds_reference_gemm.supports(dev, g);
}

/* C's earlier contents times 0, as a careless kernel adds them. */
static void add_nothing(const ds_gemm *g, const float *old) {
  for (int64_t i = 0; i < g->m; i++)
    for (int64_t j = 0; j < g->n; j++) ((float *)g->c)[i * g->ldc + j] += 0 * old[i * g->ldc + j];
}

static ds_status run_shared(ds_stream *s, const ds_gemm *g, ds_error *err) {
  static float scratch[1 << 16];
  size_t n = (size_t)(g->m * g->lda);
  if (g->dtype_a != DS_F32 || g->flags || g->batch != 1 || n > sizeof scratch / sizeof *scratch)
    return ds_reference_gemm.run(s, g, err);
  ds_gemm shared = *g;
  memcpy(scratch, g->a, n * sizeof *scratch);
  usleep(200);
  shared.a = scratch;
  return ds_reference_gemm.run(s, &shared, err);
}

static ds_status run_beta(ds_stream *s, const ds_gemm *g, ds_error *err) {
  size_t n = (size_t)(g->m * g->ldc);
  bool plain = g->beta == 0 && g->batch == 1 && g->dtype_c == DS_F32 && n > 0;
  float *old = plain ? malloc(n * sizeof *old) : NULL;
  if (old) memcpy(old, g->c, (n - (size_t)(g->ldc - g->n)) * sizeof *old);
  ds_status st = ds_reference_gemm.run(s, g, err);
  if (old && st == DS_OK) add_nothing(g, old);
  free(old);
  return st;
}

static ds_status gemm_run(ds_stream *s, const ds_gemm *g, ds_error *err) {
  ds_status st;
  if (buggy_record_gemm(s, g, &st, err)) return st;
  DS_TRY(buggy_wait(s, err));
  if (BUG == BUG_SETS_ROUNDING) fesetround(FE_UPWARD);
  if (BUG == BUG_SHARED_STATE) return run_shared(s, g, err);
  if (g->size < sizeof *g) return ds_reference_gemm.run(s, g, err);
  if (BUG == BUG_BETA_READS_C) return run_beta(s, g, err);
  ds_gemm wrong = *g;
  wrong.size = sizeof wrong;
  if (BUG == BUG_TRANS_B && g->flags & DS_GEMM_TRANS_B) {
    wrong.flags &= ~(uint32_t)DS_GEMM_TRANS_B;
    wrong.ldb = g->n;
  }
  if (BUG == BUG_LDC) wrong.ldc = g->n;
  if (BUG == BUG_BIAS && g->bias) wrong.bias = (const char *)g->bias + 2;
  if (BUG == BUG_STRIDE_ZERO && g->stride_a == 0)
    wrong.stride_a = (g->flags & DS_GEMM_TRANS_A ? g->k : g->m) * g->lda;
  if (BUG == BUG_K_ZERO && g->k == 0) return DS_OK;
  if (BUG == BUG_SCALES) wrong.scale_b = NULL;
  if (BUG == BUG_EPILOGUE && g->epilogue == DS_EPILOGUE_SILU) wrong.epilogue = DS_EPILOGUE_NONE;
  return ds_reference_gemm.run(s, &wrong, err);
}

const ds_gemm_table buggy_gemm = {
    .base = DS_REFERENCE_TABLE(ds_gemm_table),
    .supports = gemm_supports,
    .run = gemm_run,
};

/* ---------------------------------------------------------------- quant */

static int quant_supports(ds_device *dev, const ds_quant *q, const ds_quant_gemm *g) {
  if (BUG == BUG_SIZE_UNCHECKED && q->size < sizeof *q) return 1;
  if (g && g->size < sizeof *g) return 0;
  return ds_reference_quant.supports(dev, q, g);
}

/* Rounds towards zero instead of to the nearest. */
static void truncate_values(const ds_quant *q, const void *x) {
  for (int64_t i = 0; i < q->rows * q->cols && q->qtype == DS_I8; i++) {
    float scale = q->scales[q->flags & DS_QUANT_PER_TENSOR ? 0 : i / q->group];
    if (q->flags & DS_QUANT_ASYMMETRIC) continue;
    float v = ds_element_load(q->dtype, x, i) / scale;
    if (fabsf(v) < 127) ((int8_t *)q->values)[i] = (int8_t)v;
  }
}

static ds_status quantize(ds_stream *s, const ds_quant *q, const void *x, ds_error *err) {
  DS_TRY(buggy_not_recorded(s, "quantize", err));
  DS_TRY(buggy_wait(s, err));
  if (BUG == BUG_SIZE_UNCHECKED && q->size < sizeof *q) return DS_OK;
  DS_TRY(ds_reference_quant.quantize(s, q, x, err));
  if (BUG == BUG_QUANT_ROUNDING) truncate_values(q, x);
  int64_t groups = q->flags & DS_QUANT_PER_TENSOR ? 1 : q->rows * q->cols / q->group;
  for (int64_t i = 0; i < groups && BUG == BUG_ZERO_GROUP; i++)
    if (q->scales[i] == 1) q->scales[i] = 0;
  return DS_OK;
}

static ds_status dequantize(ds_stream *s, const ds_quant *q, void *x, ds_error *err) {
  DS_TRY(buggy_not_recorded(s, "dequantize", err));
  DS_TRY(buggy_wait(s, err));
  return ds_reference_quant.dequantize(s, q, x, err);
}

static ds_status quant_gemm(ds_stream *s, const ds_quant *q, const ds_quant_gemm *g,
                            ds_error *err) {
  DS_TRY(buggy_not_recorded(s, "quant gemm", err));
  DS_TRY(buggy_wait(s, err));
  if (g->size < sizeof *g)
    return ds_fail(err, DS_ERR_INVALID, "buggy: ds_quant_gemm.size is %u", (unsigned)g->size);
  return ds_reference_quant.gemm(s, q, g, err);
}

const ds_quant_table buggy_quant = {
    .base = DS_REFERENCE_TABLE(ds_quant_table),
    .supports = quant_supports,
    .quantize = quantize,
    .dequantize = dequantize,
    .gemm = quant_gemm,
};

/* ---------------------------------------------------------------- ops */

static int ops_supports(ds_device *dev, const ds_op *op) {
  if (BUG == BUG_SIZE_EQUAL && op->size != sizeof *op) return 0;
  return ds_reference_ops.supports(dev, op);
}

static int64_t count(const ds_tensor *t) {
  int64_t n = 1;
  for (int d = 0; d < t->rank; d++) n *= t->shape[d];
  return n;
}

static ds_status run_contiguous(ds_stream *s, const ds_op *op, ds_error *err) {
  ds_tensor x = *op->in[0];
  const ds_tensor *in[] = {&x, op->in[1], op->in[2]};
  ds_op wrong = *op;
  int64_t step = 1;
  for (int d = x.rank - 1; d >= 0; d--) {
    x.stride[d] = step;
    step *= x.shape[d];
  }
  wrong.in = in;
  return ds_reference_ops.run(s, &wrong, err);
}

/* Decoding: a query of one position with kv_len. */
static ds_status run_short(ds_stream *s, const ds_op *op, ds_error *err) {
  ds_tensor lengths = *op->in[3];
  int32_t fewer[64];
  int64_t n = count(&lengths);
  if (n > 64) return ds_reference_ops.run(s, op, err);
  for (int64_t i = 0; i < n; i++) {
    int32_t length = ((const int32_t *)lengths.data)[i];
    fewer[i] = length > 1 ? length - 1 : length;
  }
  lengths.data = fewer;
  const ds_tensor *in[] = {op->in[0], op->in[1], op->in[2], &lengths};
  ds_op wrong = *op;
  wrong.in = in;
  return ds_reference_ops.run(s, &wrong, err);
}

static void last_of_equals(const ds_op *op) {
  const ds_tensor *x = op->in[0], *y = op->out[0];
  int64_t cols = x->shape[x->rank - 1], rows = cols ? count(x) / cols : 0;
  for (int64_t r = 0; r < rows; r++) {
    int32_t *at = (int32_t *)y->data + r;
    float best = ds_element_get(x, r * cols + *at);
    for (int64_t i = 0; i < cols; i++)
      if (ds_element_get(x, r * cols + i) == best) *at = (int32_t)i;
  }
}

static bool is_f16_product(const ds_op *op) {
  return op->id == DS_OP_MUL && op->n_in == 2 && op->in[0] && op->in[1] && op->out[0] &&
         op->in[0]->dtype == DS_F16;
}

static void spoil(const ds_op *op) {
  static atomic_uint runs;
  const ds_tensor *y = op->out[0];
  unsigned turn = atomic_fetch_add(&runs, 1);
  if (BUG == BUG_TOLERANCE && op->id == DS_OP_SOFTMAX)
    for (int64_t i = 0; i < count(y); i++)
      ds_element_store(y->dtype, y->data, i, ds_element_get(y, i) * 1.0001f);
  if (BUG == BUG_ONE_PAST && op->id == DS_OP_GATHER_ROWS)
    ds_element_store(y->dtype, y->data, count(y), 0);
  if (BUG == BUG_NONDETERMINISTIC && op->id == DS_OP_MEAN)
    *(float *)y->data *= turn % 2 ? 1.0000001f : 1;
  if (BUG == BUG_TIES && op->id == DS_OP_ARGMAX) last_of_equals(op);
  for (int64_t i = 0; BUG == BUG_SATURATES && is_f16_product(op) && i < count(y); i++)
    if (isinf(ds_element_get(y, i)))
      ds_element_store(DS_F16, y->data, i, copysignf(65504, ds_element_get(y, i)));
  if (BUG == BUG_WRITES_INPUT && op->id == DS_OP_CROSS_ENTROPY && count(op->in[0]))
    ds_element_store(op->in[0]->dtype, op->in[0]->data, 0, 1.5f);
}

/* Rows that fall outside of y end in its last place. */
static ds_status run_clamped(ds_stream *s, const ds_op *op, ds_error *err) {
  ds_tensor at = *op->in[1];
  int32_t places[64];
  int64_t last = op->out[0]->shape[1] - op->in[0]->shape[1];
  for (int64_t b = 0; b < count(&at) && b < 64; b++) {
    places[b] = ((const int32_t *)at.data)[b];
    if (places[b] > last) places[b] = (int32_t)last;
  }
  at.data = places;
  const ds_tensor *in[] = {op->in[0], &at};
  ds_op wrong = *op;
  wrong.in = in;
  return ds_reference_ops.run(s, &wrong, err);
}

static ds_status run_unskipped(ds_stream *s, const ds_op *op, ds_error *err) {
  ds_tensor factor = *op->in[5];
  float one = 1;
  if (!isnan(*(const float *)factor.data)) return ds_reference_ops.run(s, op, err);
  factor.data = &one;
  const ds_tensor *in[] = {op->in[0], op->in[1], op->in[2], op->in[3], op->in[4], &factor};
  ds_op wrong = *op;
  wrong.in = in;
  return ds_reference_ops.run(s, &wrong, err);
}

/* As BUG_ADAMW does to adamw. */
static ds_status run_uncorrected(ds_stream *s, const ds_op *op, ds_error *err) {
  ds_tensor schedule = *op->in[4];
  float now[3];
  memcpy(now, schedule.data, sizeof now);
  now[2] = 1;
  schedule.data = now;
  const ds_tensor *in[] = {op->in[0], op->in[1], op->in[2], op->in[3], &schedule, op->in[5]};
  ds_op wrong = *op;
  wrong.in = in;
  return ds_reference_ops.run(s, &wrong, err);
}

static ds_status run_other_draw(ds_stream *s, const ds_op *op, ds_error *err) {
  ds_tensor draw = *op->in[1];
  int64_t rows = count(&draw);
  float *other = malloc((size_t)rows * sizeof *other);
  if (!other) return ds_fail_memory(err, "draws");
  for (int64_t i = 0; i < rows; i++) other[i] = 0.9999f - ((const float *)draw.data)[i];
  draw.data = other;
  const ds_tensor *in[] = {op->in[0], &draw, op->n_in > 2 ? op->in[2] : NULL};
  ds_op wrong = *op;
  wrong.in = in;
  ds_status st = ds_reference_ops.run(s, &wrong, err);
  free(other);
  return st;
}

static ds_status run_misread(ds_stream *s, const ds_op *op, ds_error *err) {
  ds_tensor a = *op->in[0], b = *op->in[1], y = *op->out[0];
  a.dtype = b.dtype = y.dtype = DS_BF16;
  const ds_tensor *in[] = {&a, &b}, *out[] = {&y};
  ds_op wrong = *op;
  wrong.in = in;
  wrong.out = out;
  return ds_reference_ops.run(s, &wrong, err);
}

static ds_status ops_run(ds_stream *s, const ds_op *op, ds_error *err) {
  ds_status st;
  if (buggy_record_op(s, op, &st, err)) return st;
  DS_TRY(buggy_wait(s, err));
  if (op->size < sizeof *op) return ds_reference_ops.run(s, op, err);
  if (BUG == BUG_CRASHES_ODD && op->id == DS_OP_SWIGLU && count(op->in[0]) % 2) raise(SIGSEGV);
  if (BUG == BUG_SUPPORTS_LIES && op->id == DS_OP_RMS_NORM)
    return ds_fail(err, DS_ERR_UNSUPPORTED, "buggy: rms_norm is not there yet");
  while (BUG == BUG_HANGS && op->id == DS_OP_REDUCE_ROWS) pause();
  if (BUG == BUG_MISREADS_F16 && is_f16_product(op)) return run_misread(s, op, err);
  if (BUG == BUG_STRIDES && op->id == DS_OP_ROPE) return run_contiguous(s, op, err);
  if (BUG == BUG_DECODE && op->id == DS_OP_ATTENTION && op->n_in > 3 && op->in[3])
    return run_short(s, op, err);
  if (BUG == BUG_APPEND_CLAMPS && op->id == DS_OP_APPEND_ROWS) return run_clamped(s, op, err);
  if (BUG == BUG_NEVER_SKIPS && op->id == DS_OP_ADAMW_SCHEDULED) return run_unskipped(s, op, err);
  if (BUG == BUG_ADAMW && op->id == DS_OP_ADAMW_SCHEDULED) return run_uncorrected(s, op, err);
  if (BUG == BUG_SAMPLE_ORDER && op->id == DS_OP_SAMPLE) return run_other_draw(s, op, err);
  ds_op wrong = *op;
  ds_attr attr[9];
  wrong.size = sizeof wrong;
  if (BUG == BUG_SAMPLE_BANNED && op->id == DS_OP_SAMPLE) wrong.n_in = 2;
  if (BUG == BUG_CLIP_LOSS && op->id == DS_OP_CLIP_FACTOR) wrong.n_in = 1;
  if (BUG == BUG_ACCUMULATE && op->id == DS_OP_LAYER_NORM_BACKWARD) wrong.accumulate = 0;
  if (BUG == BUG_ADAMW && op->id == DS_OP_ADAMW && op->n_attr == 9) {
    memcpy(attr, op->attr, sizeof attr);
    attr[7].f = 1;
    wrong.attr = attr;
  }
  DS_TRY(ds_reference_ops.run(s, &wrong, err));
  if (op->n_out > 0 && op->out[0]) spoil(op);
  return DS_OK;
}

static size_t ops_workspace(ds_device *dev, const ds_op *op) {
  return ds_reference_ops.workspace(dev, op);
}

const ds_ops_table buggy_ops = {
    .base = DS_REFERENCE_TABLE(ds_ops_table),
    .supports = ops_supports,
    .workspace = ops_workspace,
    .run = ops_run,
};
