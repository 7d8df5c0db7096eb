/* test_reference.c - the reference backend against numbers worked out by hand, and what it refuses.
 */
#include "backend/reference/reference.h"

#include <stdarg.h>
#include <stdlib.h>

#include "test.h"

#define COUNT(array) ((uint32_t)(sizeof(array) / sizeof *(array)))

static ds_error err;

/* A contiguous tensor. */
static ds_tensor tensor(int32_t dtype, void *data, int rank, ...) {
  ds_tensor t = {.data = data, .dtype = dtype, .rank = rank};
  va_list list;
  va_start(list, rank);
  for (int i = 0; i < rank; i++) t.shape[i] = va_arg(list, int);
  va_end(list);
  int64_t step = 1;
  for (int i = rank - 1; i >= 0; i--) {
    t.stride[i] = step;
    step *= t.shape[i];
  }
  return t;
}

/* An op with scratch as it asks for. Absent tensors are NULL; acc are its accumulate bits. */
static ds_status run(uint32_t id, uint32_t n_in, const ds_tensor *const *in, uint32_t n_out,
                     const ds_tensor *const *out, uint32_t n_attr, const ds_attr *attr,
                     uint32_t acc) {
  const ds_ops_table *ops = ds_reference_plugin()->ops;
  ds_op op = {sizeof op, id, n_in, n_out, n_attr, acc, in, out, attr, NULL, 0};
  op.workspace_size = ops->workspace(NULL, &op);
  op.workspace = op.workspace_size ? malloc(op.workspace_size) : NULL;
  int supported = ops->supports(NULL, &op);
  ds_status status = ops->run(NULL, &op, &err);
  if (status == DS_OK) CHECK(supported);
  free(op.workspace);
  return status;
}

#define IN(...)                                                                                    \
  COUNT(((const ds_tensor *[]){__VA_ARGS__})), (const ds_tensor *[]) {                             \
    __VA_ARGS__                                                                                    \
  }
#define OUT(...) IN(__VA_ARGS__)
#define ATTR(...)                                                                                  \
  COUNT(((const ds_attr[]){__VA_ARGS__})), (const ds_attr[]) {                                     \
    __VA_ARGS__                                                                                    \
  }
#define NO_ATTR 0, NULL

static void check_row(const float *got, const double *expected, int n) {
  for (int i = 0; i < n; i++) CHECK_NEAR((double)got[i], expected[i], 1e-6);
}
#define CHECK_ROW(got, ...)                                                                        \
  check_row(got, (const double[]){__VA_ARGS__}, (int)COUNT(((const double[]){__VA_ARGS__})))

/* ---------------------------------------------------------------- plugin and device */

static void test_plugin(void) {
  const ds_plugin *p = ds_reference_plugin();
  const ds_note *n = ds_reference_note();
  CHECK(strcmp(p->name, "reference") == 0 && strcmp(n->name, p->name) == 0);
  CHECK(strcmp(n->version, p->version) == 0);
  CHECK(n->priority == 0 && n->size == sizeof *n && n->abi.max_minor == DS_ABI_MINOR);
  CHECK(p->device && p->gemm && p->quant && p->comm && p->ops && !p->graph);
  CHECK(DS_HAS(p->device, event_sync) && DS_HAS(p->ops, run));
}

static void test_options(void) {
  const ds_device_table *d = ds_reference_plugin()->device;
  static const char *const fine[] = {NULL, "{}", " {\n\t} "};
  static const char *const wrong[] = {"{\"threads\": 2}", "", "{", "[]", "{} x", "null"};
  for (uint32_t i = 0; i < COUNT(fine); i++) {
    ds_device *dev = NULL;
    CHECK_OK(d->open(0, fine[i], &dev, &err), err);
    d->close(dev);
  }
  for (uint32_t i = 0; i < COUNT(wrong); i++) {
    ds_device *dev = NULL;
    CHECK_FAILS(d->open(0, wrong[i], &dev, &err), DS_ERR_INVALID, err, "no options");
    CHECK(strstr(err.message, wrong[i]) != NULL);
  }
  ds_device *dev = NULL;
  CHECK_FAILS(d->open(1, NULL, &dev, &err), DS_ERR_NOT_FOUND, err, "no device 1");
}

static void test_device(void) {
  const ds_device_table *d = ds_reference_plugin()->device;
  ds_device *dev = NULL;
  ds_stream *s = NULL;
  ds_event *e = NULL;
  void *a = NULL, *b = NULL;
  char text[6] = "";
  ds_device_info info = {.size = sizeof info};
  CHECK_OK(d->open(0, NULL, &dev, &err), err);
  CHECK_OK(d->info(dev, &info, &err), err);
  CHECK(info.flags == (DS_DEVICE_HOST_ACCESSIBLE | DS_DEVICE_SYNCHRONOUS) && info.threads == 1);
  info = (ds_device_info){.size = 8, .threads = 77};
  CHECK_OK(d->info(dev, &info, &err), err);
  CHECK(info.size == 8 && info.threads == 77); /* an older, smaller struct is not written past */
  CHECK_OK(d->stream_create(dev, &s, &err), err);
  CHECK_OK(d->event_create(dev, &e, &err), err);
  CHECK_OK(d->alloc(dev, 100, &a, &err), err);
  CHECK_OK(d->alloc(dev, 1, &b, &err), err);
  CHECK((uintptr_t)a % 64 == 0 && (uintptr_t)b % 64 == 0);
  CHECK_OK(d->fill(s, a, 'x', 100, &err), err);
  CHECK_OK(d->upload(s, a, "hello", 3, &err), err);
  CHECK_OK(d->copy(s, (char *)a + 50, a, 4, &err), err);
  CHECK_OK(d->event_record(e, s, &err), err);
  CHECK_OK(d->event_wait(e, s, &err), err);
  CHECK_OK(d->event_sync(e, &err), err);
  CHECK_OK(d->download(s, text, (char *)a + 50, 5, &err), err);
  CHECK(strcmp(text, "helxx") == 0);
  CHECK_FAILS(d->alloc(dev, 0, &b, &err), DS_ERR_INVALID, err, "0 bytes");
  void *huge = NULL;
  CHECK_FAILS(d->alloc(dev, SIZE_MAX, &huge, &err), DS_ERR_MEMORY, err, "bytes left");
  d->free(dev, a);
  d->free(dev, b);
  d->free(dev, NULL);
  d->event_destroy(e);
  d->stream_destroy(s);
  d->close(dev);
  d->close(NULL);
}

/* ---------------------------------------------------------------- gemm, quant, comm */

static void test_gemm(void) {
  const ds_gemm_table *t = ds_reference_plugin()->gemm;
  float a[] = {1, 2, 3, 4, 5, 6}, b[] = {1, 0, 0, 1, 1, 1}, bias[] = {-5, 1};
  float c[] = {NAN, NAN, NAN, NAN};
  ds_gemm g = {.size = sizeof g,
               .m = 2,
               .n = 2,
               .k = 3,
               .lda = 3,
               .ldb = 2,
               .ldc = 2,
               .batch = 1,
               .alpha = 1,
               .a = a,
               .b = b,
               .c = c};
  CHECK_OK(t->run(NULL, &g, &err), err);
  CHECK_ROW(c, 4, 5, 10, 11);
  g.bias = bias;
  g.epilogue = DS_EPILOGUE_RELU;
  g.beta = 1;
  CHECK_OK(t->run(NULL, &g, &err), err);
  CHECK_ROW(c, 4, 11, 15, 23); /* relu(4-5), relu(5+1), ... on top of what was there */
  /* The same matrices stored transposed: A is [3,2], B is [2,3]. */
  float at[] = {1, 4, 2, 5, 3, 6}, bt[] = {1, 0, 1, 0, 1, 1};
  ds_gemm h = {.size = sizeof h,
               .flags = DS_GEMM_TRANS_A | DS_GEMM_TRANS_B,
               .m = 2,
               .n = 2,
               .k = 3,
               .lda = 2,
               .ldb = 3,
               .ldc = 2,
               .batch = 1,
               .alpha = 2,
               .a = at,
               .b = bt,
               .c = c};
  CHECK_OK(t->run(NULL, &h, &err), err);
  CHECK_ROW(c, 8, 10, 20, 22);
  h.k = 0;
  h.bias = bias;
  h.flags = 0;
  CHECK_OK(t->run(NULL, &h, &err), err);
  CHECK_ROW(c, -5, 1, -5, 1);
}

static void test_gemm_refuses(void) {
  const ds_gemm_table *t = ds_reference_plugin()->gemm;
  float x[4] = {0};
  const ds_gemm fine = {.size = sizeof fine,
                        .m = 2,
                        .n = 2,
                        .k = 2,
                        .lda = 2,
                        .ldb = 2,
                        .ldc = 2,
                        .batch = 1,
                        .alpha = 1,
                        .a = x,
                        .b = x,
                        .c = x};
  ds_gemm g = fine;
  CHECK(t->supports(NULL, &g));
  g.lda = 1;
  CHECK(!t->supports(NULL, &g));
  CHECK_FAILS(t->run(NULL, &g, &err), DS_ERR_INVALID, err, "lda is 1");
  g = fine;
  g.beta = 0.5f;
  CHECK_FAILS(t->run(NULL, &g, &err), DS_ERR_INVALID, err, "beta is 0.5");
  g = fine;
  g.dtype_b = DS_F64;
  CHECK_FAILS(t->run(NULL, &g, &err), DS_ERR_UNSUPPORTED, err, "B has dtype 3");
  g = fine;
  g.flags = DS_GEMM_PACKED_B;
  CHECK_FAILS(t->run(NULL, &g, &err), DS_ERR_UNSUPPORTED, err, "packs nothing");
  g = fine;
  g.b = NULL;
  CHECK_FAILS(t->run(NULL, &g, &err), DS_ERR_INVALID, err, "B is NULL");
  g.m = 0;
  CHECK_OK(t->run(NULL, &g, &err), err);
}

static void test_quant(void) {
  const ds_quant_table *t = ds_reference_plugin()->quant;
  /* Two groups of two: scales 7/7 and, all zero, 1. 2.5 lies between: half to even gives 2. */
  float x[] = {-7, 2.5f, 0, 0}, scales[2], back[4], c[1], a[] = {1, 1, 1, 1}, bias[] = {0.5f};
  uint8_t packed[2];
  int8_t bytes[4];
  ds_quant q = {.size = sizeof q,
                .qtype = DS_I4,
                .dtype = DS_F32,
                .rows = 1,
                .cols = 4,
                .group = 2,
                .values = packed,
                .scales = scales};
  const ds_quant_gemm g = {
      .size = sizeof g, .m = 1, .lda = 4, .ldc = 1, .a = a, .bias = bias, .c = c};
  CHECK_OK(t->quantize(NULL, &q, x, &err), err);
  CHECK_ROW(scales, 1, 1);
  CHECK(packed[0] == 0x29 && packed[1] == 0); /* low nibble first: -7 is 9 */
  CHECK_OK(t->dequantize(NULL, &q, back, &err), err);
  CHECK_ROW(back, -7, 2, 0, 0);
  CHECK_OK(t->gemm(NULL, &q, &g, &err), err);
  CHECK_ROW(c, -4.5);
  q.qtype = DS_I8;
  q.group = 4;
  q.values = bytes;
  CHECK_OK(t->quantize(NULL, &q, x, &err), err);
  CHECK(bytes[0] == -127 && bytes[1] == 45 && bytes[2] == 0); /* 2.5 * 127 / 7 = 45.4 */
  CHECK_NEAR((double)scales[0], 7.0 / 127, 1e-8);
  q.group = 3;
  CHECK(!t->supports(NULL, &q, NULL));
  CHECK_FAILS(t->quantize(NULL, &q, x, &err), DS_ERR_INVALID, err,
              "group 3 does not divide cols 4");
  q.size -= 1;
  CHECK_FAILS(t->quantize(NULL, &q, x, &err), DS_ERR_INVALID, err, "quant: size is");
}

static void test_quant_asymmetric(void) {
  const ds_quant_table *t = ds_reference_plugin()->quant;
  /* From -1 to 254 in steps of 1: z = -128 + 1. The second group has no negative number, and its
   * scale is 2; 3 / 2 is a tie, which goes to 2. */
  float x[] = {-1, 254, 2.5f, 510, 3, 0}, scales[2], back[6];
  int8_t values[6], zeros[2];
  ds_quant q = {.size = sizeof q,
                .flags = DS_QUANT_ASYMMETRIC,
                .qtype = DS_I8,
                .dtype = DS_F32,
                .rows = 2,
                .cols = 3,
                .group = 3,
                .values = values,
                .scales = scales,
                .zeros = zeros};
  CHECK_OK(t->quantize(NULL, &q, x, &err), err);
  CHECK_ROW(scales, 1, 2);
  CHECK(zeros[0] == -127 && zeros[1] == -128);
  CHECK(values[0] == -128 && values[1] == 127 && values[2] == -125);
  CHECK(values[3] == 127 && values[4] == -126 && values[5] == -128);
  CHECK_OK(t->dequantize(NULL, &q, back, &err), err);
  CHECK_ROW(back, -1, 254, 2, 510, 4, 0);
  q.qtype = DS_F8E4M3;
  CHECK_FAILS(t->quantize(NULL, &q, x, &err), DS_ERR_INVALID, err, "no zero points");
}

/* Dynamic: A's row becomes 127, 1 (a tie) and -64 in steps of 2; C is that, not A's sum. */
static void test_quant_dynamic(void) {
  const ds_quant_table *t = ds_reference_plugin()->quant;
  float scale = 0.5f, a[] = {254, 3, -127, 99}, c[] = {7, 7};
  int8_t values[] = {1, 1, 1};
  const ds_quant q = {.size = sizeof q,
                      .flags = DS_QUANT_PER_TENSOR,
                      .qtype = DS_I8,
                      .dtype = DS_F32,
                      .rows = 1,
                      .cols = 3,
                      .values = values,
                      .scales = &scale};
  ds_quant_gemm g = {.size = sizeof g, .m = 1, .lda = 4, .ldc = 2, .a = a, .c = c};
  CHECK_OK(t->gemm(NULL, &q, &g, &err), err);
  CHECK_ROW(c, 65, 7);
  g.flags = DS_QUANT_GEMM_DYNAMIC;
  CHECK_OK(t->gemm(NULL, &q, &g, &err), err);
  CHECK_ROW(c, 65, 7); /* 127 + 2 - 64 */
  g.lda = 2;
  CHECK_FAILS(t->gemm(NULL, &q, &g, &err), DS_ERR_INVALID, err, "lda 2");
}

/* Every code of both formats against sign * fraction * 2^exponent, and what lies halfway between
 * two neighbours: the one whose last bit is 0. Scale 1, because the largest number is there. */
static void test_quant_fp8(void) {
  const ds_quant_table *t = ds_reference_plugin()->quant;
  for (int e5m2 = 0; e5m2 < 2; e5m2++) {
    const int bits = e5m2 ? 2 : 3, bias = e5m2 ? 15 : 7, finite = e5m2 ? 124 : 127;
    uint8_t codes[256], again[256];
    float x[256], scale = 1;
    ds_quant q = {.size = sizeof q,
                  .flags = DS_QUANT_PER_TENSOR,
                  .qtype = e5m2 ? DS_F8E5M2 : DS_F8E4M3,
                  .dtype = DS_F32,
                  .rows = 1,
                  .cols = 256,
                  .values = codes,
                  .scales = &scale};
    for (int i = 0; i < 256; i++) codes[i] = (uint8_t)i;
    CHECK_OK(t->dequantize(NULL, &q, x, &err), err);
    for (int i = 0; i < 256; i++) {
      int exponent = (i & 127) >> bits, fraction = i & ((1 << bits) - 1);
      double value = exponent ? ldexp((1 << bits) + fraction, exponent - bias - bits)
                              : ldexp(fraction, 1 - bias - bits);
      if ((i & 127) < finite)
        CHECK((double)x[i] == (i & 128 ? -value : value));
      else
        CHECK(e5m2 && fraction == 0 ? isinf(x[i]) != 0 : isnan(x[i]) != 0);
    }
    for (int i = 0; i < 256; i++) { /* in place of infinities and NaN: the largest number */
      int last = (i & 127) >= finite - 1;
      int low = last ? (i & 128) + finite - 1 : i;
      codes[i] = (uint8_t)(last || i % 2 == 0 ? low : low + 1);
      x[i] = 0.5f * x[low] + 0.5f * x[last ? low : low + 1];
    }
    q.values = again;
    CHECK_OK(t->quantize(NULL, &q, x, &err), err);
    CHECK(scale == 1);
    for (int i = 0; i < 256; i++) CHECK(again[i] == codes[i]);
  }
}

static void test_comm(void) {
  const ds_comm_table *t = ds_reference_plugin()->comm;
  ds_comm_world w = {.size = sizeof w};
  CHECK_OK(t->world(&w, &err), err);
  CHECK(w.rank == 0 && w.world_size == 1 && w.local_rank == 0 && w.local_size == 1);
  int32_t ranks[] = {0, 1};
  ds_comm *c = NULL;
  CHECK_FAILS(t->create(NULL, ranks, 2, NULL, 0, &c, &err), DS_ERR_UNSUPPORTED, err, "2 ranks");
  CHECK_FAILS(t->create(NULL, ranks + 1, 1, NULL, 0, &c, &err), DS_ERR_INVALID, err, "no rank 1");
  CHECK_OK(t->create(NULL, ranks, 1, NULL, 0, &c, &err), err);
  float a[] = {1, 2, 3}, b[] = {0, 0, 9};
  CHECK_OK(t->allreduce(c, NULL, a, b, 2, DS_F32, DS_REDUCE_MEAN, &err), err);
  CHECK_ROW(b, 1, 2, 9);
  CHECK_OK(t->allreduce(c, NULL, a, a, 3, DS_F32, DS_REDUCE_SUM, &err), err);
  CHECK_OK(t->reduce_scatter(c, NULL, a + 1, b, 1, DS_F32, DS_REDUCE_MAX, &err), err);
  CHECK_OK(t->allgather(c, NULL, a, b + 1, 1, DS_F32, &err), err);
  CHECK_OK(t->alltoall(c, NULL, a + 2, b + 2, 1, DS_F32, &err), err);
  CHECK_ROW(b, 2, 1, 3);
  CHECK_OK(t->broadcast(c, NULL, a, 3, DS_F32, 0, &err), err);
  CHECK_OK(t->barrier(c, NULL, &err), err);
  CHECK_FAILS(t->broadcast(c, NULL, a, 3, DS_F32, 1, &err), DS_ERR_INVALID, err, "no rank 1");
  CHECK_FAILS(t->send(c, NULL, a, 1, DS_F32, 0, &err), DS_ERR_UNSUPPORTED, err, "this rank itself");
  CHECK_FAILS(t->recv(c, NULL, a, 1, DS_F32, 3, &err), DS_ERR_INVALID, err, "no rank 3");
  CHECK_FAILS(t->allgather(c, NULL, a, b, 1, 99, &err), DS_ERR_UNSUPPORTED, err,
              "dtype 99 is unknown");
  CHECK_FAILS(t->allreduce(c, NULL, a, b, -1, DS_F32, DS_REDUCE_SUM, &err), DS_ERR_INVALID, err,
              "count -1");
  t->destroy(c);
  t->destroy(NULL);
}

/* ---------------------------------------------------------------- ops by hand */

static void test_norms(void) {
  /* The row 1 3 has mean 2 and variance 1; without eps it becomes -1 1. */
  float x[] = {1, 3}, w[] = {2, 4}, b[] = {0, 1}, y[2], mean[1], rstd[1];
  ds_tensor tx = tensor(DS_F32, x, 2, 1, 2), tw = tensor(DS_F32, w, 1, 2);
  ds_tensor tb = tensor(DS_F32, b, 1, 2), ty = tensor(DS_F32, y, 2, 1, 2);
  ds_tensor tm = tensor(DS_F32, mean, 1, 1), tr = tensor(DS_F32, rstd, 1, 1);
  CHECK_OK(run(DS_OP_LAYER_NORM, IN(&tx, &tw, &tb), OUT(&ty, &tm, &tr), ATTR({.f = 0}), 0), err);
  CHECK_ROW(y, -2, 5);
  CHECK_ROW(mean, 2);
  CHECK_ROW(rstd, 1);
  /* g = dy w = 2 0: mean(g) 1, mean(g n) -1, so dx = g - 1 + n = 0 0. */
  float dy[] = {1, 0}, dx[] = {5, 5}, dw[] = {1, 1}, db[2];
  ds_tensor tdy = tensor(DS_F32, dy, 2, 1, 2), tdx = tensor(DS_F32, dx, 2, 1, 2);
  ds_tensor tdw = tensor(DS_F32, dw, 1, 2), tdb = tensor(DS_F32, db, 1, 2);
  CHECK_OK(run(DS_OP_LAYER_NORM_BACKWARD, IN(&tdy, &tx, &tw, &tm, &tr), OUT(&tdx, &tdw, &tdb),
               NO_ATTR, 1u << 1),
           err);
  CHECK_ROW(dx, 0, 0);
  CHECK_ROW(dw, 0, 1); /* added to 1 1 */
  CHECK_ROW(db, 1, 0);
  /* RMS of 1 3 is sqrt(5). */
  CHECK_OK(run(DS_OP_RMS_NORM, IN(&tx, &tw), OUT(&ty), ATTR({.f = 0}), 0), err);
  CHECK_ROW(y, 2 / sqrt(5), 12 / sqrt(5));
}

static void test_attention(void) {
  /* Two tokens, one head of width 1, scale 1. Token 0 sees itself; token 1 sees scores 0 and ln 3,
   * so weights 1/4 and 3/4. */
  float q[] = {7, 1}, k[2], v[] = {4, 8}, o[2], lse[2];
  k[0] = 0;
  k[1] = logf(3);
  ds_tensor tq = tensor(DS_F32, q, 4, 1, 2, 1, 1), tk = tensor(DS_F32, k, 4, 1, 2, 1, 1);
  ds_tensor tv = tensor(DS_F32, v, 4, 1, 2, 1, 1), to = tensor(DS_F32, o, 4, 1, 2, 1, 1);
  ds_tensor tl = tensor(DS_F32, lse, 3, 1, 1, 2);
  CHECK_OK(run(DS_OP_ATTENTION, IN(&tq, &tk, &tv), OUT(&to, &tl), NO_ATTR, 0), err);
  CHECK_ROW(o, 4, 7);
  CHECK_ROW(lse, 0, log(4));
  /* With do = 0 1: dp = 4 8, delta = 7, ds = 1/4 (4-7), 3/4 (8-7). */
  float d_o[] = {0, 1}, dq[2], dk[2], dv[2];
  ds_tensor tdo = tensor(DS_F32, d_o, 4, 1, 2, 1, 1), tdq = tensor(DS_F32, dq, 4, 1, 2, 1, 1);
  ds_tensor tdk = tensor(DS_F32, dk, 4, 1, 2, 1, 1), tdv = tensor(DS_F32, dv, 4, 1, 2, 1, 1);
  CHECK_OK(run(DS_OP_ATTENTION_BACKWARD, IN(&tdo, &tq, &tk, &tv, &to, &tl), OUT(&tdq, &tdk, &tdv),
               NO_ATTR, 0),
           err);
  CHECK_ROW(dq, 0, 0.75 * log(3));
  CHECK_ROW(dk, -0.75, 0.75);
  CHECK_ROW(dv, 0.25, 0.75);
  /* One key in use: token 1 stands at position 0, token 0 before it, seeing nothing. */
  int32_t len[] = {1};
  ds_tensor tn = tensor(DS_I32, len, 1, 1);
  CHECK_OK(run(DS_OP_ATTENTION, IN(&tq, &tk, &tv, &tn), OUT(&to, &tl), NO_ATTR, 0), err);
  CHECK_ROW(o, 0, 4);
  CHECK(isinf(lse[0]) && lse[0] < 0);
  len[0] = 3;
  CHECK_FAILS(run(DS_OP_ATTENTION, IN(&tq, &tk, &tv, &tn), OUT(&to, &tl), NO_ATTR, 0),
              DS_ERR_INVALID, err, "\"kv_len\"[0] is 3, there are 2 keys");
}

static void test_cross_entropy(void) {
  float logits[8] = {0}, loss[1], lse[2], count[1], dloss[] = {1}, d[8];
  int32_t targets[] = {3, -100};
  ds_tensor tx = tensor(DS_F32, logits, 2, 2, 4), tt = tensor(DS_I32, targets, 1, 2);
  ds_tensor tl = tensor(DS_F32, loss, 0), te = tensor(DS_F32, lse, 1, 2);
  ds_tensor tc = tensor(DS_F32, count, 1, 1), tg = tensor(DS_F32, dloss, 1, 1);
  ds_tensor td = tensor(DS_F32, d, 2, 2, 4);
  CHECK_OK(run(DS_OP_CROSS_ENTROPY, IN(&tx, &tt), OUT(&tl, &te, &tc), NO_ATTR, 0), err);
  CHECK_ROW(loss, log(4));
  CHECK_ROW(count, 1);
  CHECK_OK(run(DS_OP_CROSS_ENTROPY_BACKWARD, IN(&tg, &tx, &tt, &te, &tc), OUT(&td), NO_ATTR, 0),
           err);
  CHECK_ROW(d, 0.25, 0.25, 0.25, -0.75, 0, 0, 0, 0);
  targets[0] = 4;
  CHECK_OK(run(DS_OP_CROSS_ENTROPY, IN(&tx, &tt), OUT(&tl, &te, &tc), NO_ATTR, 0), err);
  CHECK(isnan(loss[0]));
  targets[0] = -100;
  CHECK_OK(run(DS_OP_CROSS_ENTROPY, IN(&tx, &tt), OUT(&tl, &te, &tc), NO_ATTR, 0), err);
  CHECK_ROW(loss, 0);
  CHECK_OK(run(DS_OP_CROSS_ENTROPY_BACKWARD, IN(&tg, &tx, &tt, &te, &tc), OUT(&td), NO_ATTR, 0),
           err);
  CHECK_ROW(d, 0, 0, 0, 0, 0, 0, 0, 0); /* not 0/0 */
}

static void test_adamw(void) {
  /* First step, betas 0.9 and 0.99: m/c1 = g and v/c2 = g^2, so p loses lr (wd p + sign g). */
  float g[] = {4}, p[] = {1}, m[] = {0}, v[] = {0};
  uint16_t p16[1];
  ds_tensor tg = tensor(DS_F32, g, 1, 1), tp = tensor(DS_F32, p, 1, 1);
  ds_tensor tm = tensor(DS_F32, m, 1, 1), tv = tensor(DS_F32, v, 1, 1);
  ds_tensor th = tensor(DS_BF16, p16, 1, 1);
  ds_attr at[] = {{.f = 0.5},  {.f = 0.9}, {.f = 0.99}, {.f = 0}, {.f = 0.2},
                  {.f = 0.25}, {.f = 0.1}, {.f = 0.01}, {.f = 1}};
  CHECK_OK(run(DS_OP_ADAMW, IN(&tg, &tp, &tm, &tv), OUT(&tp, &tm, &tv, &th), 9, at, 0), err);
  CHECK_ROW(p, 1 - 0.5 * (0.2 + 1));
  CHECK_ROW(m, 0.1);
  CHECK_ROW(v, 0.01);
  CHECK(p16[0] == 0x3ecd); /* 0.4 */
  /* Adam adds wd p to the gradient instead, which the first step's sign hides. */
  p[0] = 1;
  m[0] = v[0] = 0;
  at[8].f = 0;
  CHECK_OK(run(DS_OP_ADAMW, IN(&tg, &tp, &tm, &tv), OUT(&tp, &tm, &tv), 9, at, 0), err);
  CHECK_ROW(p, 0.5);
  CHECK_ROW(m, 0.12);
  CHECK_FAILS(run(DS_OP_ADAMW, IN(&tg, &tp, &tm, &tv), OUT(&tp, &tm, &tv), 8, at, 0),
              DS_ERR_INVALID, err, "decoupled");
  ds_tensor other = tensor(DS_F32, (float[1]){0}, 1, 1);
  CHECK_FAILS(run(DS_OP_ADAMW, IN(&tg, &tp, &tm, &tv), OUT(&other, &tm, &tv), 9, at, 0),
              DS_ERR_INVALID, err, "\"p\" must be the input");
}

static void test_embedding(void) {
  float table[] = {1, 2, 3, 4}, y[6], dtable[] = {10, 10, 10, 10};
  int32_t ids[] = {1, 0, 1};
  ds_tensor ti = tensor(DS_I32, ids, 1, 3), tt = tensor(DS_F32, table, 2, 2, 2);
  ds_tensor ty = tensor(DS_F32, y, 2, 3, 2), td = tensor(DS_F32, dtable, 2, 2, 2);
  CHECK_OK(run(DS_OP_EMBEDDING, IN(&ti, &tt), OUT(&ty), NO_ATTR, 0), err);
  CHECK_ROW(y, 3, 4, 1, 2, 3, 4);
  CHECK_OK(run(DS_OP_EMBEDDING_BACKWARD, IN(&ti, &ty), OUT(&td), NO_ATTR, 1), err);
  CHECK_ROW(dtable, 11, 12, 16, 18);
  CHECK_OK(run(DS_OP_EMBEDDING_BACKWARD, IN(&ti, &ty), OUT(&td), NO_ATTR, 0), err);
  CHECK_ROW(dtable, 1, 2, 6, 8);
  ids[0] = 2;
  ids[1] = -1;
  CHECK_OK(run(DS_OP_EMBEDDING, IN(&ti, &tt), OUT(&ty), NO_ATTR, 0), err);
  CHECK(isnan(y[0]) && isnan(y[3]) && y[4] == 3);
  /* Ids of rank 2 where y has rank 3: [R] and [R,C] fold their leading dimensions. */
  ids[0] = ids[1] = 0;
  ti = tensor(DS_I32, ids, 2, 3, 1);
  ty = tensor(DS_F32, y, 3, 1, 3, 2);
  CHECK_OK(run(DS_OP_EMBEDDING, IN(&ti, &tt), OUT(&ty), NO_ATTR, 0), err);
  CHECK_ROW(y, 1, 2, 1, 2, 3, 4);
}

static void test_rope(void) {
  /* A quarter turn takes (1,0) to (0,1); the third element is no part of a pair. */
  float x[] = {1, 0, 5}, y[3], inv_freq[] = {(float)M_PI_2};
  int32_t pos[] = {1};
  ds_tensor tx = tensor(DS_F32, x, 4, 1, 1, 1, 3), ty = tensor(DS_F32, y, 4, 1, 1, 1, 3);
  ds_tensor tp = tensor(DS_I32, pos, 2, 1, 1), tf = tensor(DS_F32, inv_freq, 1, 1);
  CHECK_OK(run(DS_OP_ROPE, IN(&tx, &tp, &tf), OUT(&ty), NO_ATTR, 0), err);
  CHECK_ROW(y, 0, 1, 5);
  CHECK_OK(run(DS_OP_ROPE, IN(&ty, &tp, &tf), OUT(&ty), ATTR({.i = 1}, {.i = 1}), 0), err);
  CHECK_ROW(y, 1, 0, 5);
  CHECK_FAILS(run(DS_OP_ROPE, IN(&ty, &tp, &tf), OUT(&ty), NO_ATTR, 1), DS_ERR_INVALID, err,
              "can't be accumulated into while it is \"x\"");
}

static void test_rounding(void) {
  /* bf16 keeps 8 bits: ties go to the even neighbour; NaN stays NaN even if its bits lie low. */
  float x[] = {1.00390625f, 1.01171875f, 3.4e38f, 0};
  uint16_t b[4], h[4];
  uint32_t low_nan = 0x7f800001u;
  memcpy(&x[3], &low_nan, sizeof low_nan);
  ds_tensor tx = tensor(DS_F32, x, 1, 4), tb = tensor(DS_BF16, b, 1, 4);
  ds_tensor th = tensor(DS_F16, h, 1, 4);
  CHECK_OK(run(DS_OP_COPY, IN(&tx), OUT(&tb), NO_ATTR, 0), err);
  CHECK(b[0] == 0x3f80 && b[1] == 0x3f82 && b[2] == 0x7f80 && (b[3] & 0x7f) != 0);
  /* f16: its largest, what already rounds to infinity, half the least and just above that. */
  float y[] = {65519, 65520, 0x1p-25f, 0x1.1p-25f};
  ds_tensor ty = tensor(DS_F32, y, 1, 4);
  CHECK_OK(run(DS_OP_COPY, IN(&ty), OUT(&th), NO_ATTR, 0), err);
  CHECK(h[0] == 0x7bff && h[1] == 0x7c00 && h[2] == 0 && h[3] == 1);
  CHECK_OK(run(DS_OP_COPY, IN(&th), OUT(&ty), NO_ATTR, 0), err);
  CHECK(y[0] == 65504 && isinf(y[1]) && y[2] == 0 && y[3] == 0x1p-24f);
}

static void test_copy_transposes(void) {
  float x[] = {1, 2, 3, 4, 5, 6}, y[6];
  ds_tensor tx = tensor(DS_F32, x, 2, 2, 3), ty = tensor(DS_F32, y, 2, 2, 3);
  ty.stride[0] = 1;
  ty.stride[1] = 2;
  CHECK_OK(run(DS_OP_COPY, IN(&tx), OUT(&ty), NO_ATTR, 0), err);
  CHECK_ROW(y, 1, 4, 2, 5, 3, 6);
  ty.stride[1] = 0;
  CHECK_FAILS(run(DS_OP_COPY, IN(&tx), OUT(&ty), NO_ATTR, 0), DS_ERR_INVALID, err,
              "overlaps itself");
}

static void test_argmax(void) {
  float x[] = {NAN, 2, 2, NAN, NAN, -INFINITY};
  int32_t y[2];
  ds_tensor tx = tensor(DS_F32, x, 2, 2, 3), ty = tensor(DS_I32, y, 1, 2);
  CHECK_OK(run(DS_OP_ARGMAX, IN(&tx), OUT(&ty), NO_ATTR, 0), err);
  CHECK(y[0] == 1 && y[1] == 2);
}

/* ---------------------------------------------------------------- what is refused */

/* Each op names itself and the first thing that is missing; none is left out of the table. */
static void test_every_op_is_there(void) {
  static const struct {
    uint32_t id;
    const char *name;
  } ops[] = {
#define DS_OP(id, upper, lower, n_in, n_out, n_attr) {id, #lower},
#include "ds_ops.def"
#undef DS_OP
  };
  for (uint32_t i = 0; i < COUNT(ops); i++) {
    CHECK_FAILS(run(ops[i].id, 0, NULL, 0, NULL, NO_ATTR, 0), DS_ERR_INVALID, err, "is missing");
    CHECK(strncmp(err.message, ops[i].name, strlen(ops[i].name)) == 0);
  }
  CHECK_FAILS(run(0, 0, NULL, 0, NULL, NO_ATTR, 0), DS_ERR_UNSUPPORTED, err, "no op 0");
  CHECK_FAILS(run(9999, 0, NULL, 0, NULL, NO_ATTR, 0), DS_ERR_UNSUPPORTED, err, "no op 9999");
}

static void test_bad_tensors(void) {
  float x[8] = {0}, y[8];
  ds_tensor a = tensor(DS_F32, x, 1, 4), b = tensor(DS_F32, x, 1, 3);
  ds_tensor t = tensor(DS_F32, y, 1, 4), h = tensor(DS_BF16, x, 1, 4), w = tensor(DS_F16, x, 1, 4);
  CHECK_FAILS(run(DS_OP_ADD, IN(&a, &b), OUT(&t), NO_ATTR, 0), DS_ERR_INVALID, err,
              "add: \"b\" of shape [3] has N = 3, but \"a\" has N = 4");
  CHECK_FAILS(run(DS_OP_ADD, IN(&a, &h), OUT(&t), NO_ATTR, 0), DS_ERR_INVALID, err,
              "add: \"b\" is bf16, must be f32");
  CHECK_FAILS(run(DS_OP_ADD, IN(&w, &w), OUT(&t), NO_ATTR, 0), DS_ERR_INVALID, err,
              "add: \"y\" is f32, must be f16");
  w.dtype = -1;
  CHECK_FAILS(run(DS_OP_ADD, IN(&w, &w), OUT(&w), NO_ATTR, 0), DS_ERR_UNSUPPORTED, err,
              "add: \"a\" is unknown, must be f32, bf16 or f16");
  CHECK_FAILS(run(DS_OP_ADD, IN(&a, &w), OUT(&t), NO_ATTR, 0), DS_ERR_UNSUPPORTED, err,
              "add: \"b\" is unknown, must be f32");
  CHECK_FAILS(run(DS_OP_ADD, IN(&a, NULL), OUT(&t), NO_ATTR, 0), DS_ERR_INVALID, err,
              "add: input \"b\" is missing");
  CHECK_FAILS(run(DS_OP_ADD, IN(&a, &a, &a), OUT(&t), NO_ATTR, 0), DS_ERR_UNSUPPORTED, err,
              "at most 2 inputs");
  CHECK_FAILS(run(DS_OP_ADD, IN(&a, &a), OUT(&t), NO_ATTR, 1), DS_ERR_INVALID, err,
              "add: output 0 (\"y\") can't be accumulated into");
  a.data = NULL;
  CHECK_FAILS(run(DS_OP_ADD, IN(&t, &a), OUT(&t), NO_ATTR, 0), DS_ERR_INVALID, err,
              "add: \"b\" of shape [4] has a NULL data pointer");
  a = tensor(DS_F32, x, 2, 2, 2);
  a.stride[0] = 4;
  CHECK_FAILS(run(DS_OP_SCALE, IN(&a), OUT(&t), NO_ATTR, 0), DS_ERR_INVALID, err,
              "scale: \"x\" of shape [2,2] must be contiguous");
  a.shape[0] = -1;
  CHECK_FAILS(run(DS_OP_SCALE, IN(&a), OUT(&t), NO_ATTR, 0), DS_ERR_INVALID, err, "impossible");
  a.shape[0] = a.shape[1] = INT64_MAX / 2;
  CHECK_FAILS(run(DS_OP_SCALE, IN(&a), OUT(&t), NO_ATTR, 0), DS_ERR_INVALID, err, "impossible");
  a.rank = DS_MAX_RANK + 1;
  CHECK_FAILS(run(DS_OP_SCALE, IN(&a), OUT(&t), NO_ATTR, 0), DS_ERR_INVALID, err, "rank 7");
}

static void test_bad_use(void) {
  float x[8] = {0}, y[8];
  ds_tensor q = tensor(DS_F32, x, 4, 1, 1, 3, 1), k = tensor(DS_F32, x, 4, 1, 1, 2, 1);
  ds_tensor o = tensor(DS_F32, y, 4, 1, 1, 3, 1), row = tensor(DS_F32, x, 2, 1, 4);
  ds_tensor w = tensor(DS_F32, y, 1, 4), i = tensor(DS_I32, y, 1, 4);
  CHECK_FAILS(run(DS_OP_ATTENTION, IN(&q, &k, &k), OUT(&o), NO_ATTR, 0), DS_ERR_INVALID, err,
              "2 key/value heads do not divide 3 query heads");
  CHECK_FAILS(run(DS_OP_RMS_NORM, IN(&row, &w), OUT(&row), NO_ATTR, 0), DS_ERR_INVALID, err,
              "rms_norm: output \"y\" must not be the input \"x\"");
  CHECK_FAILS(run(DS_OP_ACTIVATION, IN(&row), OUT(&w), ATTR({.i = 7}), 0), DS_ERR_UNSUPPORTED, err,
              "no activation kind 7");
  CHECK_FAILS(run(DS_OP_FILL, 0, NULL, OUT(&i), ATTR({.f = 0.5}), 0), DS_ERR_INVALID, err,
              "0.5 is no value");
  ds_tensor q2 = tensor(DS_F32, x, 4, 1, 1, 1, 2), o2 = tensor(DS_F32, y, 4, 1, 1, 1, 2);
  const ds_tensor *in[] = {&q2, &q2, &q2}, *out[] = {&o2};
  ds_op op = {
      .size = sizeof op, .id = DS_OP_ATTENTION, .n_in = 3, .n_out = 1, .in = in, .out = out};
  const ds_ops_table *ops = ds_reference_plugin()->ops;
  CHECK(ops->supports(NULL, &op) && ops->workspace(NULL, &op) > 0);
  CHECK_FAILS(ops->run(NULL, &op, &err), DS_ERR_INVALID, err, "attention: needs a workspace");
  op.size = 8;
  CHECK(!ops->supports(NULL, &op));
  CHECK(ops->run(NULL, &op, NULL) == DS_ERR_INVALID); /* err may be NULL */
}

int main(void) {
  test_plugin();
  test_options();
  test_device();
  test_gemm();
  test_gemm_refuses();
  test_quant();
  test_quant_asymmetric();
  test_quant_dynamic();
  test_quant_fp8();
  test_comm();
  test_norms();
  test_attention();
  test_cross_entropy();
  test_adamw();
  test_embedding();
  test_rope();
  test_rounding();
  test_copy_transposes();
  test_argmax();
  test_every_op_is_there();
  test_bad_tensors();
  test_bad_use();
  return TEST_RESULT();
}
