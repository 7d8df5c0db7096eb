/* masked_ops.h - what no golden model uses, straight on a backend and against the formulas: the
 * remaining ops, a packed product, quantization. */
#ifndef DS_TEST_MASKED_OPS_H
#define DS_TEST_MASKED_OPS_H

#include "../unit/test.h"

#include "backend/backend.h"
#include "tensor/tensor.h"

#include <stdlib.h>

enum { BLOCK = 1 << 17, ROWS = 6, COLS = 64 };

/* One block of device memory, handed out from the front. */
typedef struct ops_bench {
  ds_backend *b;
  int32_t dtype;
  char *block;
  size_t used;
} ops_bench;

static inline ds_backend *masked_ops_open(const char *json, ds_error *err) {
  ds_backend_config config;
  ds_backend *b = NULL;
  ds_logger silent = {0};
  cJSON *section = cJSON_Parse(json);
  if (ds_backend_config_parse(section, &config, err) == DS_OK) {
    if (ds_backend_open(&config, &silent, &b, err) != DS_OK) b = NULL;
    ds_backend_config_finish(&config);
  }
  cJSON_Delete(section);
  return b;
}

static inline ds_tensor place(ops_bench *t, int32_t dtype, int64_t rows, int64_t cols) {
  ds_tensor x = ds_tensor_make(t->block + t->used, dtype, 2, (int64_t[]){rows, cols});
  t->used += (ds_tensor_bytes(&x) + 63) / 64 * 64;
  CHECK(t->used <= BLOCK);
  return x;
}

/* Numbers in [-1,1) that differ from call to call; host gets them as they are on the device. */
static inline ds_tensor fresh(ops_bench *t, int64_t rows, int64_t cols, float *host) {
  static unsigned state = 12345;
  size_t n = (size_t)(rows * cols);
  uint32_t raw[COLS * COLS];
  ds_tensor x = place(t, t->dtype, rows, cols);
  ds_error err;
  for (size_t i = 0; i < n; i++) {
    state = state * 1664525u + 1013904223u;
    host[i] = (float)(state >> 8) / (1 << 23) - 1;
  }
  CHECK(ds_convert_from_f32(raw, t->dtype, host, n));
  CHECK_OK(ds_backend_upload(t->b, x.data, raw, n * ds_dtype_size(t->dtype), &err), err);
  CHECK(ds_convert_to_f32(host, raw, t->dtype, n));
  return x;
}

static inline void read_back(ops_bench *t, const ds_tensor *x, float *host) {
  uint32_t raw[COLS * COLS];
  size_t n = (size_t)ds_tensor_numel(x);
  ds_error err;
  CHECK_OK(ds_backend_download(t->b, raw, x->data, n * ds_dtype_size(x->dtype), &err), err);
  if (x->dtype == DS_I32)
    for (size_t i = 0; i < n; i++) host[i] = (float)(int32_t)raw[i];
  else
    CHECK(ds_convert_to_f32(host, raw, x->dtype, n));
}

static inline void expect(ops_bench *t, const char *what, const ds_tensor *x, const double *want,
                          double tolerance) {
  float have[COLS * COLS];
  size_t n = (size_t)ds_tensor_numel(x);
  read_back(t, x, have);
  for (size_t i = 0; i < n; i++) {
    double d = fabs((double)have[i] - want[i]);
    if (!(d <= tolerance))
      fprintf(stderr, "%s: element %zu: %g, not %g\n", what, i, (double)have[i], want[i]);
    CHECK(d <= tolerance);
    if (!(d <= tolerance)) break;
  }
}

/* Runs an op on up to two inputs and compares its one output. */
static inline void check_op(ops_bench *t, uint32_t id, const ds_tensor *x, const ds_tensor *y,
                            ds_tensor out, ds_attr attr, const double *want) {
  const ds_tensor *in[] = {x, y}, *outs[] = {&out};
  bool has_attr = id == DS_OP_SCALE || id == DS_OP_FILL || id == DS_OP_ACTIVATION ||
                  id == DS_OP_ACTIVATION_BACKWARD;
  ds_error err;
  ds_op op = {.size = sizeof op,
              .id = id,
              .n_in = y   ? 2
                      : x ? 1
                          : 0,
              .n_out = 1,
              .n_attr = has_attr ? 1 : 0,
              .in = in,
              .out = outs,
              .attr = &attr};
  CHECK_OK(ds_backend_op(t->b, &op, &err), err);
  expect(t, ds_op_name(id), &out, want, t->dtype == DS_BF16 ? 0.02 : 1e-5);
}

static inline void check_elementwise(ops_bench *t) {
  enum { N = ROWS * COLS };
  float x[N], y[N];
  double want[N], sum = 0;
  const ds_attr none = {.i = 0};
  ds_tensor a = fresh(t, ROWS, COLS, x), b = fresh(t, ROWS, COLS, y);
  for (int i = 0; i < N; i++) want[i] = (double)x[i] * (double)y[i];
  check_op(t, DS_OP_MUL, &a, &b, place(t, t->dtype, ROWS, COLS), none, want);
  for (int i = 0; i < N; i++) want[i] = 2.5 * (double)x[i];
  check_op(t, DS_OP_SCALE, &a, NULL, place(t, t->dtype, ROWS, COLS), (ds_attr){.f = 2.5}, want);
  for (int i = 0; i < N; i++) want[i] = 0.75;
  check_op(t, DS_OP_FILL, NULL, NULL, place(t, t->dtype, ROWS, COLS), (ds_attr){.f = 0.75}, want);
  for (int i = 0; i < N; i++) sum += (double)x[i];
  want[0] = sum / N;
  ds_tensor one = ds_tensor_make(place(t, DS_F32, 1, 1).data, DS_F32, 1, (int64_t[]){1});
  check_op(t, DS_OP_MEAN, &a, NULL, one, none, want);
  for (int i = 0; i < N; i++) want[i] = sum / N / N;
  check_op(t, DS_OP_MEAN_BACKWARD, &one, NULL, place(t, t->dtype, ROWS, COLS), none, want);
}

static inline void check_rows(ops_bench *t) {
  enum { N = ROWS * COLS };
  static const int32_t ids[3] = {4, 0, 4};
  float x[N];
  double want[N];
  const ds_attr none = {.i = 0};
  ds_error err;
  ds_tensor a = fresh(t, ROWS, COLS, x);
  for (int r = 0; r < ROWS; r++) {
    double total = 0;
    for (int c = 0; c < COLS; c++) total += exp((double)x[r * COLS + c]);
    for (int c = 0; c < COLS; c++) want[r * COLS + c] = exp((double)x[r * COLS + c]) / total;
  }
  check_op(t, DS_OP_SOFTMAX, &a, NULL, place(t, t->dtype, ROWS, COLS), none, want);
  for (int r = 0; r < ROWS; r++) {
    want[r] = 0;
    for (int c = 0; c < COLS; c++)
      if (x[r * COLS + c] > x[r * COLS + (int)want[r]]) want[r] = c;
  }
  ds_tensor best = ds_tensor_make(place(t, DS_I32, 1, ROWS).data, DS_I32, 1, (int64_t[]){ROWS});
  check_op(t, DS_OP_ARGMAX, &a, NULL, best, none, want);
  ds_tensor k = ds_tensor_make(place(t, DS_I32, 1, 3).data, DS_I32, 1, (int64_t[]){3});
  CHECK_OK(ds_backend_upload(t->b, k.data, ids, sizeof ids, &err), err);
  for (int i = 0; i < 3 * COLS; i++) want[i] = (double)x[ids[i / COLS] * COLS + i % COLS];
  check_op(t, DS_OP_GATHER_ROWS, &a, &k, place(t, t->dtype, 3, COLS), none, want);
}

/* C = A . B^T with B packed, if the backend packs. */
static inline void check_packed(ops_bench *t) {
  enum { N = COLS * COLS }; /* rows enough that packing pays */
  float a[N], b[N];
  double want[N];
  ds_error err;
  ds_tensor x = fresh(t, COLS, COLS, a), w = fresh(t, COLS, COLS, b);
  ds_tensor y = place(t, t->dtype, COLS, COLS);
  void *packed = NULL;
  ds_gemm g = {.size = sizeof g,
               .flags = DS_GEMM_TRANS_B,
               .m = COLS,
               .n = COLS,
               .k = COLS,
               .lda = COLS,
               .ldb = COLS,
               .ldc = COLS,
               .batch = 1,
               .dtype_a = t->dtype,
               .dtype_b = t->dtype,
               .dtype_c = t->dtype,
               .alpha = 1,
               .a = x.data,
               .b = w.data,
               .c = y.data};
  for (int i = 0; i < N; i++) {
    want[i] = 0;
    for (int k = 0; k < COLS; k++)
      want[i] += (double)a[i / COLS * COLS + k] * (double)b[i % COLS * COLS + k];
  }
  size_t bytes = ds_backend_pack_size(t->b, &g);
  if (bytes > 0) {
    CHECK_OK(ds_backend_alloc(t->b, bytes, &packed, &err), err);
    CHECK_OK(ds_backend_pack(t->b, &g, packed, &err), err);
    g.b = packed;
    g.flags |= DS_GEMM_PACKED_B;
  }
  CHECK_OK(ds_backend_gemm(t->b, &g, &err), err);
  expect(t, "gemm", &y, want, t->dtype == DS_BF16 ? 0.1 : 1e-4);
  ds_backend_free(t->b, packed, bytes);
}

/* DS_I8 by groups of 32: within half a step of x, and the product is that of what comes back. */
static inline void check_quant(ops_bench *t) {
  enum { N = COLS * COLS, GROUP = 32 };
  float x[N], a[ROWS * COLS], scales[N / GROUP], back[N];
  double want[N], bf16 = t->dtype == DS_BF16;
  ds_error err;
  ds_tensor w = fresh(t, COLS, COLS, x), in = fresh(t, ROWS, COLS, a);
  ds_tensor again = place(t, t->dtype, COLS, COLS), y = place(t, t->dtype, ROWS, COLS);
  ds_tensor values = place(t, DS_I8, COLS, COLS), s = place(t, DS_F32, 1, N / GROUP);
  ds_quant q = {.size = sizeof q,
                .qtype = DS_I8,
                .dtype = t->dtype,
                .rows = COLS,
                .cols = COLS,
                .group = GROUP,
                .values = values.data,
                .scales = s.data};
  ds_quant_gemm g = {
      .size = sizeof g, .m = ROWS, .lda = COLS, .ldc = COLS, .a = in.data, .c = y.data};
  CHECK_OK(ds_backend_quantize(t->b, &q, w.data, &err), err);
  read_back(t, &s, scales);
  for (int i = 0; i < N / GROUP; i++) {
    float most = 0;
    for (int k = 0; k < GROUP; k++) most = fmaxf(most, fabsf(x[i * GROUP + k]));
    CHECK_NEAR(scales[i], most / 127, 1e-8);
  }
  CHECK_OK(ds_backend_dequantize(t->b, &q, again.data, &err), err);
  read_back(t, &again, back);
  for (int i = 0; i < N; i++)
    CHECK_NEAR(back[i], x[i], 0.5 * (double)scales[i / GROUP] + 1e-6 + 4e-3 * bf16);
  CHECK_OK(ds_backend_quant_gemm(t->b, &q, &g, &err), err);
  for (int i = 0; i < ROWS * COLS; i++) {
    want[i] = 0;
    for (int k = 0; k < COLS; k++)
      want[i] += (double)a[i / COLS * COLS + k] * (double)back[i % COLS * COLS + k];
  }
  expect(t, "quant gemm", &y, want, bf16 ? 0.1 : 1e-4);
}

/* All of it, in f32 or bf16. */
static inline void masked_ops_run(ds_backend *b, int32_t dtype) {
  static const char zeros[64];
  char got[64];
  ops_bench t = {.b = b, .dtype = dtype};
  void *p = NULL;
  ds_error err;
  CHECK_OK(ds_backend_alloc(b, BLOCK, &p, &err), err);
  if (!p) return;
  t.block = p;
  check_elementwise(&t);
  check_rows(&t);
  check_packed(&t);
  check_quant(&t);
  CHECK_OK(ds_backend_fill(b, t.block, 0, 64, &err), err);
  CHECK_OK(ds_backend_copy(b, t.block + 4096, t.block, 64, &err), err);
  CHECK_OK(ds_backend_download(b, got, t.block + 4096, 64, &err), err);
  CHECK(memcmp(got, zeros, 64) == 0);
  ds_backend_free(b, p, BLOCK);
}

#endif
