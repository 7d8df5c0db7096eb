/* test_dispatch.c - ops and products on plugins that have few or none: staged to the reference,
 * with the same bits as on the reference itself, counted and ruled by policy. */
#include "backend/backend_impl.h"
#include "backend/describe.h"
#include "backend/plugin_folder.h"
#include "base/rng.h"

enum { MEMORY = 1 << 16 };

/* One block of device memory on a backend, so that tensors can share it. */
typedef struct bench {
  ds_backend *b;
  unsigned char *memory;
} bench;

static plugin_folder folder;
static memory_log log_;

static bench bench_open(const char *json) {
  bench t = {0};
  ds_error err;
  void *p = NULL;
  CHECK_OK(open_backend(json, &folder, &log_, &t.b, &err), err);
  CHECK_OK(ds_backend_alloc(t.b, MEMORY, &p, &err), err);
  t.memory = p;
  /* The same numbers everywhere: small floats, which every op takes. */
  float host[MEMORY / sizeof(float)];
  ds_rng rng;
  ds_rng_init(&rng, 7, 0);
  for (size_t i = 0; i < sizeof host / sizeof *host; i++)
    host[i] = (float)ds_rng_uniform(&rng) * 2 - 1;
  CHECK_OK(ds_backend_upload(t.b, p, host, sizeof host, &err), err);
  return t;
}

static void bench_close(bench *t) {
  ds_backend_free(t->b, t->memory, MEMORY);
  ds_backend_close(t->b);
}

/* At `at` floats into the block; strides NULL = contiguous. */
static ds_tensor tensor(const bench *t, size_t at, int32_t rank, const int64_t *shape,
                        const int64_t *stride) {
  ds_tensor x = {.data = t->memory + at * sizeof(float), .dtype = DS_F32, .rank = rank};
  int64_t step = 1;
  for (int32_t i = rank - 1; i >= 0; i--) {
    x.shape[i] = shape[i];
    x.stride[i] = stride ? stride[i] : step;
    step *= shape[i];
  }
  return x;
}

static ds_status run(bench *t, uint32_t id, const ds_tensor *const *in, uint32_t n_in,
                     const ds_tensor *const *out, uint32_t n_out, uint32_t accumulate,
                     const ds_attr *attr, uint32_t n_attr, ds_error *err) {
  ds_op op = {.size = sizeof op,
              .id = id,
              .n_in = n_in,
              .n_out = n_out,
              .n_attr = n_attr,
              .accumulate = accumulate,
              .in = in,
              .out = out,
              .attr = attr};
  return ds_backend_op(t->b, &op, err);
}

typedef ds_status work(bench *t, ds_error *err);

/* Causal attention on a fused [B,T,3,H,D] block, o strided as well, lse optional and absent. */
static ds_status fused_attention(bench *t, ds_error *err) {
  const int64_t shape[] = {2, 5, 3, 8}, stride[] = {5 * 72, 72, 8, 1};
  const int64_t stride_o[] = {5 * 32, 32, 8, 1};
  ds_tensor q = tensor(t, 0, 4, shape, stride), k = tensor(t, 24, 4, shape, stride);
  ds_tensor v = tensor(t, 48, 4, shape, stride), o = tensor(t, 2000, 4, shape, stride_o);
  return run(t, DS_OP_ATTENTION, (const ds_tensor *[]){&q, &k, &v, NULL}, 4,
             (const ds_tensor *[]){&o, NULL}, 2, 0, NULL, 0, err);
}

static ds_status norm_with_statistics(bench *t, ds_error *err) {
  const int64_t shape[] = {6, 16}, columns[] = {16}, rows[] = {6};
  ds_tensor x = tensor(t, 0, 2, shape, NULL), w = tensor(t, 200, 1, columns, NULL);
  ds_tensor y = tensor(t, 400, 2, shape, NULL), mean = tensor(t, 600, 1, rows, NULL);
  ds_tensor rstd = tensor(t, 700, 1, rows, NULL);
  return run(t, DS_OP_LAYER_NORM, (const ds_tensor *[]){&x, &w}, 2,
             (const ds_tensor *[]){&y, &mean, &rstd}, 3, 0, NULL, 0, err);
}

static ds_status accumulated_gradient(bench *t, ds_error *err) {
  const int64_t shape[] = {33};
  const ds_attr kind = {.i = DS_ACTIVATION_SILU};
  ds_tensor dy = tensor(t, 0, 1, shape, NULL), x = tensor(t, 50, 1, shape, NULL);
  ds_tensor dx = tensor(t, 100, 1, shape, NULL);
  return run(t, DS_OP_ACTIVATION_BACKWARD, (const ds_tensor *[]){&dy, &x}, 2,
             (const ds_tensor *[]){&dx}, 1, 1, &kind, 1, err);
}

static ds_status in_place_update(bench *t, ds_error *err) {
  const int64_t shape[] = {40};
  const double values[] = {0.01, 0.9, 0.99, 1e-8, 0.1, 1, 0.5, 0.5, 1};
  ds_attr attr[9];
  for (int i = 0; i < 9; i++) attr[i].f = values[i];
  ds_tensor g = tensor(t, 0, 1, shape, NULL), p = tensor(t, 40, 1, shape, NULL);
  ds_tensor m = tensor(t, 80, 1, shape, NULL), v = tensor(t, 0, 1, shape, NULL);
  v.data = t->memory + 120 * sizeof(float);
  const ds_tensor *in[] = {&g, &p, &m, &v}, *out[] = {&p, &m, &v};
  const ds_tensor *square_in[] = {&v, &v}, *square_out[] = {&v};
  DS_TRY(run(t, DS_OP_MUL, square_in, 2, square_out, 1, 0, NULL, 0, err)); /* v >= 0 */
  return run(t, DS_OP_ADAMW, in, 4, out, 3, 0, attr, 9, err);
}

static ds_status empty_copy(bench *t, ds_error *err) {
  const int64_t shape[] = {0, 4};
  ds_tensor x = tensor(t, 0, 2, shape, NULL), y = tensor(t, 90, 2, shape, NULL);
  x.data = y.data = NULL;
  return run(t, DS_OP_COPY, (const ds_tensor *[]){&x}, 1, (const ds_tensor *[]){&y}, 1, 0, NULL, 0,
             err);
}

static ds_gemm product(const bench *t, uint32_t flags) {
  const float *f = (const float *)(const void *)t->memory;
  return (ds_gemm){.size = sizeof(ds_gemm),
                   .flags = flags,
                   .m = 5,
                   .n = 6,
                   .k = 7,
                   .lda = 9,
                   .ldb = 8,
                   .ldc = 10,
                   .batch = 3,
                   .stride_a = 70,
                   .stride_b = 80,
                   .stride_c = 60,
                   .alpha = 0.5f,
                   .beta = 1,
                   .epilogue = DS_EPILOGUE_RELU,
                   .a = f,
                   .b = f + 1000,
                   .bias = f + 2000,
                   .c = t->memory + 3000 * sizeof(float)};
}

static ds_status plain_gemm(bench *t, ds_error *err) {
  ds_gemm g = product(t, 0);
  return ds_backend_gemm(t->b, &g, err);
}

static ds_status transposed_gemm(bench *t, ds_error *err) {
  ds_gemm g = product(t, DS_GEMM_TRANS_A | DS_GEMM_TRANS_B);
  g.bias = NULL;
  g.beta = 0;
  g.batch = 1;
  return ds_backend_gemm(t->b, &g, err);
}

static ds_status empty_gemm(bench *t, ds_error *err) {
  ds_gemm g = product(t, 0);
  g.m = 0;
  g.a = g.b = NULL;
  g.c = NULL;
  return ds_backend_gemm(t->b, &g, err);
}

/* The same A for a whole batch, whose B's overlap. */
static ds_status overlapping_gemm(bench *t, ds_error *err) {
  ds_gemm g = product(t, 0);
  g.stride_a = 0;
  g.stride_b = 3;
  return ds_backend_gemm(t->b, &g, err);
}

/* One row read four times, into every second element of rows with gaps, and added there. */
static ds_status scattered_copy(bench *t, ds_error *err) {
  const int64_t shape[] = {4, 9}, from[] = {0, 1}, to[] = {30, 2};
  ds_tensor x = tensor(t, 7, 2, shape, from), y = tensor(t, 50, 2, shape, to);
  return run(t, DS_OP_COPY, (const ds_tensor *[]){&x}, 1, (const ds_tensor *[]){&y}, 1, 1, NULL, 0,
             err);
}

/* Halves of one block, interleaved by rows; gradients go to the places of another. */
static ds_status interleaved_gradients(bench *t, ds_error *err) {
  const int64_t shape[] = {5, 6}, rows[] = {12, 1};
  ds_tensor dy = tensor(t, 0, 2, shape, NULL);
  ds_tensor gate = tensor(t, 100, 2, shape, rows), up = tensor(t, 106, 2, shape, rows);
  ds_tensor dgate = tensor(t, 200, 2, shape, rows), dup = tensor(t, 206, 2, shape, rows);
  return run(t, DS_OP_SWIGLU_BACKWARD, (const ds_tensor *[]){&dy, &gate, &up}, 3,
             (const ds_tensor *[]){&dgate, &dup}, 2, 2, NULL, 0, err);
}

static ds_quant quantized(const bench *t, int32_t qtype) {
  return (ds_quant){.size = sizeof(ds_quant),
                    .qtype = qtype,
                    .dtype = DS_F32,
                    .rows = 6,
                    .cols = 16,
                    .group = 8,
                    .values = t->memory + 8192,
                    .scales = (float *)(void *)(t->memory + 9000)};
}

/* There and back again, each in its place. */
static ds_status quantize(bench *t, int32_t qtype, ds_error *err) {
  ds_quant q = quantized(t, qtype);
  DS_TRY(ds_backend_quantize(t->b, &q, t->memory, err));
  return ds_backend_dequantize(t->b, &q, t->memory + 1024, err);
}

static ds_status quantize_i8(bench *t, ds_error *err) {
  return quantize(t, DS_I8, err);
}

static ds_status quantize_i4(bench *t, ds_error *err) {
  return quantize(t, DS_I4, err);
}

static ds_quant_gemm quant_product(const bench *t) {
  return (ds_quant_gemm){.size = sizeof(ds_quant_gemm),
                         .m = 3,
                         .lda = 16,
                         .ldc = 6,
                         .a = t->memory + 4000,
                         .bias = t->memory + 5000,
                         .c = t->memory + 12000};
}

static ds_status quant_gemm(bench *t, ds_error *err) {
  ds_quant q = quantized(t, DS_I4);
  ds_quant_gemm g = quant_product(t);
  DS_TRY(ds_backend_quantize(t->b, &q, t->memory, err));
  DS_TRY(ds_backend_quant_gemm(t->b, &q, &g, err));
  g.m = 0; /* nothing to do, and nothing to read */
  g.a = g.bias = g.c = NULL;
  return ds_backend_quant_gemm(t->b, &q, &g, err);
}

/* Every byte of the block, gaps included, must be as after the same work on the reference. */
static void test_same_bits(const char *backend) {
  static work *const works[] = {fused_attention,
                                norm_with_statistics,
                                accumulated_gradient,
                                in_place_update,
                                empty_copy,
                                plain_gemm,
                                transposed_gemm,
                                empty_gemm,
                                overlapping_gemm,
                                scattered_copy,
                                interleaved_gradients,
                                quantize_i8,
                                quantize_i4,
                                quant_gemm};
  for (size_t i = 0; i < sizeof works / sizeof *works; i++) {
    unsigned char got[MEMORY], want[MEMORY];
    ds_error err;
    char json[64];
    bench reference = bench_open("\"reference\"");
    CHECK_OK(works[i](&reference, &err), err);
    CHECK(ds_backend_stats_get(reference.b).fallback_ops == 0);
    CHECK_OK(ds_backend_download(reference.b, want, reference.memory, MEMORY, &err), err);
    bench_close(&reference);
    snprintf(json, sizeof json, "{\"name\": \"%s\", \"fallback\": \"allow\"}", backend);
    bench t = bench_open(json);
    CHECK_OK(works[i](&t, &err), err);
    ds_backend_counters c = ds_backend_stats_get(t.b);
    CHECK(c.fallback_ops == c.ops + c.gemms + c.quants && c.fallback_ops > 0);
    CHECK(c.seconds > 0);
    CHECK_OK(ds_backend_download(t.b, got, t.memory, MEMORY, &err), err);
    CHECK(memcmp(got, want, MEMORY) == 0);
    CHECK(log_.warnings == 0);
    bench_close(&t);
  }
}

/* The plugin's own op runs there, with the workspace it asked for. */
static void test_own_op(void) {
  const int64_t shape[] = {100};
  ds_error err;
  bench t = bench_open("\"partial\"");
  ds_tensor a = tensor(&t, 0, 1, shape, NULL), b = tensor(&t, 100, 1, shape, NULL);
  ds_tensor y = tensor(&t, 200, 1, shape, NULL);
  const ds_tensor *in[] = {&a, &b}, *out[] = {&y};
  float got[300];
  uint64_t allocs = 0;
  for (int i = 0; i < 3; i++) {
    CHECK_OK(run(&t, DS_OP_ADD, in, 2, out, 1, 0, NULL, 0, &err), err);
    if (i == 0) allocs = ds_backend_stats_get(t.b).allocs;
  }
  ds_backend_counters c = ds_backend_stats_get(t.b);
  CHECK(c.ops == 3 && c.fallback_ops == 0 && c.gemms == 0);
  CHECK(c.allocs == 2 && c.allocs == allocs); /* the block, and the workspace once */
  CHECK(c.bytes_held == MEMORY + 400);
  CHECK_OK(ds_backend_download(t.b, got, t.memory, sizeof got, &err), err);
  for (int i = 0; i < 100; i++) CHECK(got[200 + i] == got[i] + got[100 + i]);
  bench_close(&t);
}

static void test_errors(void) {
  const int64_t shape[] = {4}, wrong[] = {5};
  ds_error err;
  bench t = bench_open("{\"name\": \"floor\", \"device\": 1}");
  ds_tensor x = tensor(&t, 0, 1, shape, NULL), y = tensor(&t, 9, 1, wrong, NULL);
  CHECK_FAILS(run(&t, DS_OP_SCALE, (const ds_tensor *[]){&x}, 1, (const ds_tensor *[]){&y}, 1, 0,
                  NULL, 0, &err),
              DS_ERR_INVALID, err, "floor:1: scale: ");
  CHECK_FAILS(run(&t, 4711, NULL, 0, NULL, 0, 0, NULL, 0, &err), DS_ERR_UNSUPPORTED, err,
              "floor:1: unknown: ");
  void *p;
  CHECK_FAILS(ds_backend_alloc(t.b, (size_t)1 << 50, &p, &err), DS_ERR_MEMORY, err,
              "floor:1: alloc of 1125899906842624 bytes: far memory is exhausted");
  CHECK(!p);
  bench_close(&t);
  t = bench_open("\"partial\"");
  x = tensor(&t, 0, 1, shape, NULL);
  CHECK_FAILS(run(&t, DS_OP_SCALE, (const ds_tensor *[]){&x}, 1, (const ds_tensor *[]){&x}, 1, 0,
                  NULL, 0, &err),
              DS_ERR_DEVICE, err, "partial, stream 0: scale: the device fell off");
  CHECK(strncmp(err.message, "partial, stream 0: scale: the", 29) == 0); /* not said twice */
  bench_close(&t);
}

static void test_no_data(void) {
  const int64_t shape[] = {4};
  ds_error err;
  bench t = bench_open("\"floor\"");
  ds_tensor x = tensor(&t, 0, 1, shape, NULL), y = x;
  y.data = NULL;
  CHECK_FAILS(run(&t, DS_OP_ACTIVATION, (const ds_tensor *[]){&x}, 1, (const ds_tensor *[]){&y}, 1,
                  0, (const ds_attr[]){{.i = DS_ACTIVATION_RELU}}, 1, &err),
              DS_ERR_INVALID, err, "no data");
  bench_close(&t);
}

static void test_policies(void) {
  ds_error err;
  bench t = bench_open("\"floor\""); /* "warn" is the default */
  int before = log_.warnings;
  for (int i = 0; i < 3; i++) CHECK_OK(norm_with_statistics(&t, &err), err);
  CHECK(log_.warnings == before + 1 && strstr(log_.text, "layer_norm"));
  for (int i = 0; i < 3; i++) CHECK_OK(plain_gemm(&t, &err), err);
  CHECK(log_.warnings == before + 2 && strstr(log_.text, "gemm"));
  CHECK(ds_backend_stats_get(t.b).fallback_ops == 6);
  /* What is wrong in itself is no fallback, whatever the policy. */
  const int64_t shape[] = {4}, wrong[] = {5};
  ds_tensor x = tensor(&t, 0, 1, shape, NULL), y = tensor(&t, 9, 1, wrong, NULL);
  CHECK_FAILS(run(&t, DS_OP_SCALE, (const ds_tensor *[]){&x}, 1, (const ds_tensor *[]){&y}, 1, 0,
                  NULL, 0, &err),
              DS_ERR_INVALID, err, "scale");
  CHECK_FAILS(run(&t, 4711, NULL, 0, NULL, 0, 0, NULL, 0, &err), DS_ERR_UNSUPPORTED, err, "4711");
  CHECK(ds_backend_stats_get(t.b).fallback_ops == 6 && log_.warnings == before + 2);
  bench_close(&t);

  t = bench_open("{\"name\": \"partial\", \"fallback\": \"error\"}");
  CHECK_FAILS(
      norm_with_statistics(&t, &err), DS_ERR_UNSUPPORTED, err,
      "partial: layer_norm (in f32[6,16] f32[16] out f32[6,16] f32[6] f32[6]): partial knows "
      "only add, and \"fallback\": \"error\" in the config's \"backend\" forbids");
  CHECK_FAILS(plain_gemm(&t, &err), DS_ERR_UNSUPPORTED, err, "partial multiplies nothing");
  CHECK(strstr(err.message, "f32[5,7] . f32[7,6] -> f32[5,6]"));
  CHECK(ds_backend_stats_get(t.b).fallback_ops == 0);
  bench_close(&t);
}

static void test_packing(void) {
  ds_error err;
  bench t = bench_open("\"partial\"");
  ds_gemm g = product(&t, 0);
  CHECK(ds_backend_pack_size(t.b, &g) == 0); /* its pack_size says 64, its supports no */
  g.flags = DS_GEMM_PACKED_B;
  CHECK_FAILS(ds_backend_gemm(t.b, &g, &err), DS_ERR_UNSUPPORTED, err, "packed B");
  CHECK(ds_backend_stats_get(t.b).fallback_ops == 0);
  bench_close(&t);
  t = bench_open("\"floor\"");
  CHECK(ds_backend_pack_size(t.b, &g) == 0);
  CHECK_FAILS(ds_backend_pack(t.b, &g, t.memory, &err), DS_ERR_UNSUPPORTED, err, "packs nothing");
  bench_close(&t);
}

/* A device without copy and fill, larger than what goes through the host at a time. */
static void test_transfers(void) {
  enum { LARGE = 5 << 20, PART = (3 << 20) - 7 };
  ds_error err;
  void *p = NULL;
  bench t = bench_open("\"floor\"");
  int before = log_.warnings;
  unsigned char *host = malloc(LARGE), *got = malloc(LARGE);
  CHECK_OK(ds_backend_alloc(t.b, LARGE, &p, &err), err);
  CHECK(host && got && p);
  unsigned char *memory = p;
  for (size_t i = 0; i < LARGE; i++) host[i] = (unsigned char)(i * 2654435761u >> 24);
  CHECK_OK(ds_backend_upload(t.b, p, host, LARGE, &err), err);
  CHECK_OK(ds_backend_fill(t.b, memory + 3, 0xab, PART, &err), err);
  CHECK_OK(ds_backend_copy(t.b, memory + PART + 8, memory, LARGE - PART - 8, &err), err);
  CHECK_OK(ds_backend_copy(t.b, NULL, NULL, 0, &err), err);
  CHECK_OK(ds_backend_download(t.b, got, p, LARGE, &err), err);
  memset(host + 3, 0xab, PART);
  memcpy(host + PART + 8, host, LARGE - PART - 8);
  CHECK(memcmp(got, host, LARGE) == 0);
  CHECK(t.b->staging_size == 1 << 20); /* and no more */
  CHECK(log_.warnings == before + 2 && strstr(log_.text, "device copy (u8[2097151]) goes through"));
  CHECK_OK(scattered_copy(&t, &err), err); /* an op of that name is something else */
  CHECK(log_.warnings == before + 3 && strstr(log_.text, "floor:0: copy (in f32[4,9] out"));
  CHECK(ds_backend_stats_get(t.b).fallback_ops == 1);
  CHECK_OK(ds_backend_sync(t.b, &err), err);
  ds_backend_free(t.b, p, LARGE);
  CHECK_OK(ds_backend_alloc(t.b, 0, &p, &err), err);
  CHECK(p != NULL && ds_backend_stats_get(t.b).bytes_held == MEMORY);
  ds_backend_free(t.b, p, 0);
  ds_backend_free(t.b, NULL, 0);
  bench_close(&t);
  free(host);
  free(got);

  t = bench_open("{\"name\": \"floor\", \"fallback\": \"error\"}");
  CHECK_FAILS(ds_backend_copy(t.b, t.memory + 200, t.memory, 100, &err), DS_ERR_UNSUPPORTED, err,
              "floor:0: device copy (u8[100]): the plugin's device table has no copy, and");
  CHECK_FAILS(ds_backend_fill(t.b, t.memory, 1, 7, &err), DS_ERR_UNSUPPORTED, err,
              "floor:0: device fill (u8[7]): the plugin's device table has no fill, and");
  bench_close(&t);
  t = bench_open("\"partial\""); /* which has them */
  CHECK_OK(ds_backend_fill(t.b, t.memory, 0, 64, &err), err);
  CHECK_OK(ds_backend_copy(t.b, t.memory + 64, t.memory, 64, &err), err);
  CHECK(log_.warnings == 0);
  bench_close(&t);
}

/* Rows without elements: no group, whatever `group` says; a product is its bias. */
static void test_quant_of_nothing(void) {
  ds_error err;
  bench t = bench_open("\"floor\"");
  ds_quant q = quantized(&t, DS_I8);
  ds_quant_gemm g = quant_product(&t);
  float bias[6], c[3 * 6];
  q.cols = q.group = 0;
  CHECK_OK(ds_backend_quantize(t.b, &q, t.memory, &err), err);
  CHECK_OK(ds_backend_dequantize(t.b, &q, t.memory, &err), err);
  CHECK_OK(ds_backend_quant_gemm(t.b, &q, &g, &err), err);
  CHECK_OK(ds_backend_download(t.b, bias, g.bias, sizeof bias, &err), err);
  CHECK_OK(ds_backend_download(t.b, c, g.c, sizeof c, &err), err);
  for (int i = 0; i < 3; i++) CHECK(memcmp(c + 6 * i, bias, sizeof bias) == 0);
  bench_close(&t);
}

static void test_quant_errors(void) {
  ds_error err;
  bench t = bench_open("\"floor\"");
  ds_quant q = quantized(&t, DS_I8);
  ds_quant_gemm g = quant_product(&t);
  q.group = 5;
  CHECK_FAILS(ds_backend_quantize(t.b, &q, t.memory, &err), DS_ERR_INVALID, err,
              "floor:0: quantize: ");
  CHECK(strstr(err.message, "group 5 does not divide cols 16"));
  q = quantized(&t, DS_F64);
  CHECK_FAILS(ds_backend_dequantize(t.b, &q, t.memory, &err), DS_ERR_UNSUPPORTED, err,
              "floor:0: dequantize: ");
  q = quantized(&t, DS_I8);
  g.m = -1;
  CHECK_FAILS(ds_backend_quant_gemm(t.b, &q, &g, &err), DS_ERR_INVALID, err,
              "floor:0: quant gemm: ");
  g = quant_product(&t);
  g.c = NULL;
  CHECK_FAILS(ds_backend_quant_gemm(t.b, &q, &g, &err), DS_ERR_INVALID, err,
              "floor:0: quant gemm: C has no data");
  bench_close(&t);
  t = bench_open("{\"name\": \"floor\", \"fallback\": \"error\"}");
  q = quantized(&t, DS_I4);
  g = quant_product(&t);
  CHECK_FAILS(ds_backend_quantize(t.b, &q, t.memory, &err), DS_ERR_UNSUPPORTED, err,
              "floor:0: quantize (i4[6,16] group 8 of f32): the plugin has no quant table, and");
  CHECK_FAILS(ds_backend_quant_gemm(t.b, &q, &g, &err), DS_ERR_UNSUPPORTED, err,
              "floor:0: quant gemm (f32[3,16] . i4[6,16] group 8 of f32): the plugin has no");
  CHECK(ds_backend_stats_get(t.b).fallback_ops == 0);
  bench_close(&t);
}

static const ds_op_stats *find_stats(const ds_backend_stats *s, const char *name) {
  for (size_t i = 0; i < s->n_per_op; i++)
    if (strcmp(s->per_op[i].name, name) == 0) return &s->per_op[i];
  return NULL;
}

static void test_stats(void) {
  static const struct {
    const char *name;
    uint64_t calls, fallbacks;
  } want[] = {{"layer_norm", 2, 2}, {"copy", 1, 1},        {"gemm", 1, 1},   {"quantize", 1, 1},
              {"dequantize", 1, 1}, {"device copy", 3, 3}, {"upload", 1, 0}, {"download", 1, 0}};
  enum { N = sizeof want / sizeof *want };
  ds_error err;
  char byte;
  double seconds = 0;
  bench t = bench_open("{\"name\": \"floor\", \"fallback\": \"allow\"}");
  for (int i = 0; i < 2; i++) CHECK_OK(norm_with_statistics(&t, &err), err);
  CHECK_OK(scattered_copy(&t, &err), err);
  CHECK_OK(plain_gemm(&t, &err), err);
  CHECK_OK(quantize_i8(&t, &err), err);
  for (int i = 0; i < 3; i++)
    CHECK_OK(ds_backend_copy(t.b, t.memory + 64, t.memory, 64, &err), err);
  CHECK_OK(ds_backend_download(t.b, &byte, t.memory, 1, &err), err);
  ds_backend_stats s = {.size = sizeof s};
  CHECK_OK(ds_backend_stats_fill(t.b, &s, &err), err);
  CHECK(s.size == sizeof s && s.ops == 6 && s.fallback_ops == 6 && s.n_per_op == N);
  CHECK(strcmp(s.backend, "floor") == 0 && s.device_allocs == 1 && s.device_bytes == MEMORY);
  for (size_t i = 0; i < N; i++) {
    const ds_op_stats *k = find_stats(&s, want[i].name);
    CHECK(k && k->calls == want[i].calls && k->fallbacks == want[i].fallbacks && k->seconds > 0);
    if (k) seconds += k->seconds;
  }
  CHECK_NEAR(seconds, s.backend_seconds, 1e-9 * seconds); /* one pace of the clock for all */

  /* A caller from when the entries were not there, one from the future, one who forgot. */
  ds_backend_stats old = {.size = offsetof(ds_backend_stats, per_op), .n_per_op = 77};
  CHECK_OK(ds_backend_stats_fill(t.b, &old, &err), err);
  CHECK(old.size == offsetof(ds_backend_stats, per_op) && old.ops == 6 && !old.per_op &&
        old.n_per_op == 77);
  struct {
    ds_backend_stats s;
    char more[16];
  } later = {.s = {.size = sizeof later}, .more = "untouched"};
  CHECK_OK(ds_backend_stats_fill(t.b, &later.s, &err), err);
  CHECK(later.s.size == sizeof s && later.s.n_per_op == N && strcmp(later.more, "untouched") == 0);
  s.size = 0;
  CHECK_FAILS(ds_backend_stats_fill(t.b, &s, &err), DS_ERR_INVALID, err, "set size");
  CHECK_FAILS(ds_backend_stats_fill(t.b, NULL, &err), DS_ERR_INVALID, err, "set size");
  bench_close(&t);
}

static void test_ranges(void) {
  uintptr_t lo, hi;
  ds_tensor t = {.data = (void *)(uintptr_t)1000, .dtype = DS_F32, .rank = 2, .shape = {3, 4}};
  t.stride[0] = 10;
  t.stride[1] = 1;
  CHECK(ds_describe_range(&t, &lo, &hi) && lo == 1000 && hi == 1000 + 24 * 4);
  t.stride[0] = -10;
  CHECK(ds_describe_range(&t, &lo, &hi) && lo == 1000 - 80 && hi == 1000 + 16);
  t.shape[1] = 0;
  CHECK(ds_describe_range(&t, &lo, &hi) && lo == hi);
  t.shape[1] = 4;
  t.stride[0] = INT64_MAX / 2;
  CHECK(!ds_describe_range(&t, &lo, &hi));
  t.stride[0] = 10;
  t.shape[0] = -1;
  CHECK(!ds_describe_range(&t, &lo, &hi));
  t.shape[0] = 3;
  t.rank = 7;
  CHECK(!ds_describe_range(&t, &lo, &hi));
  t.rank = 2;
  t.dtype = 99;
  CHECK(!ds_describe_range(&t, &lo, &hi));
  t.dtype = DS_I4;
  CHECK(ds_describe_range(&t, &lo, &hi) && hi == 1012);
}

int main(void) {
  unsetenv("DS_BACKEND");
  plugin_folder_make(&folder);
  plugin_folder_link(&folder, "floor");
  plugin_folder_link(&folder, "partial");
  test_same_bits("floor");
  test_same_bits("partial");
  test_own_op();
  test_errors();
  test_no_data();
  test_policies();
  test_packing();
  test_transfers();
  test_quant_of_nothing();
  test_quant_errors();
  test_stats();
  test_ranges();
  CHECK(strcmp(ds_op_name(DS_OP_ATTENTION), "attention") == 0);
  CHECK(strcmp(ds_op_name(0), "unknown") == 0 && strcmp(ds_op_name(999), "unknown") == 0);
  plugin_folder_remove(&folder);
  return TEST_RESULT();
}
