/* test_quant.c - products with quantized values by each way that plugins/gpu has, against the formula of ds_abi.h in
 * double: shapes that reach what `ds conform` has too small ones for - several panels, parts of the columns, large tiles, values brought
 * back by panels - and launches as on a device with many or few multiprocessors. What lies between C's rows must stay
 * as it was; a second run must give the same bits. */
#include <inttypes.h>
#include <math.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "gpu.h"
#include "kernels/quant.h"

static uint64_t state = 1;

static uint32_t next(void) {
  state = state * 6364136223846793005u + 1442695040888963407u;
  return (uint32_t)(state >> 33);
}
static int64_t range(int64_t lo, int64_t hi) {
  return lo + (int64_t)next() % (hi - lo + 1);
}
static bool chance(int one_in) {
  return next() % (unsigned)one_in == 0;
}

static void must(bool fine, const char *what) {
  if (fine) return;
  printf("FAIL %s (%s)\n", what, gpuGetErrorString(gpuPeekAtLastError()));
  exit(1);
}

/* ---------------------------------------------------------------- numbers */

static double fp8(uint32_t bits, int fraction_bits, int bias) {
  const uint32_t fraction = bits & ((1u << fraction_bits) - 1);
  const int exponent = (int)(bits >> fraction_bits & ((1u << (7 - fraction_bits)) - 1));
  const double size =
      exponent == 0 ? ldexp(fraction, 1 - bias - fraction_bits)
                    : ldexp((1u << fraction_bits) + fraction, exponent - bias - fraction_bits);
  return bits & 128 ? -size : size;
}

static double plain(int dtype, const void *array, int64_t i) {
  const uint32_t bits = dtype == DS_F32 ? 0 : (uint32_t)((const uint16_t *)array)[i] << 16;
  float x;
  memcpy(&x, dtype == DS_F32 ? (const char *)array + 4 * i : (const char *)&bits, sizeof x);
  return (double)x;
}

/* A number of about 1 that bf16 can hold. */
static void put_plain(int dtype, void *array, int64_t i) {
  const float x = (float)range(-255, 255) / 128.0f;
  uint32_t bits;
  memcpy(&bits, &x, sizeof bits);
  if (dtype == DS_F32)
    memcpy((char *)array + 4 * i, &x, sizeof x);
  else
    ((uint16_t *)array)[i] = (uint16_t)(bits >> 16);
}

/* ---------------------------------------------------------------- one product */

enum way { TABLE, FEW, MANY, WAYS };
static const char *const way_names[] = {"table", "few", "many"};

typedef struct array {
  void *here;
  char *device; /* the first element; `offset` bytes lie before it */
  size_t bytes, offset;
} array;

typedef struct test {
  ds_quant q;
  ds_quant_gemm g;
  enum way way;
  int multiprocessors;
  bool extreme; /* the largest sums */
  array values, scales, zeros, a, bias, c;
  double *weights, *activations; /* as the product sees them */
  char name[200];
} test;

static size_t plain_bytes(const test *t) {
  return t->q.dtype == DS_F32 ? 4 : 2;
}

static array make(ds_stream *s, size_t bytes, size_t offset) {
  array x = {calloc(bytes + 1, 1), NULL, bytes, offset};
  void *device = NULL;
  must(x.here != NULL && gpuMalloc(&device, bytes + offset + 1) == gpuSuccess, "memory");
  x.device = (char *)device + offset;
  (void)s;
  return x;
}
static void upload(ds_stream *s, const array *x) {
  must(gpuMemcpyAsync(x->device, x->here, x->bytes, gpuMemcpyHostToDevice, s->handle) == gpuSuccess,
       "upload");
}
static void drop(array *x) {
  if (x->here == NULL) return;
  must(gpuFree(x->device - x->offset) == gpuSuccess, "free");
  free(x->here);
}

static int64_t group_of(const test *t, int64_t i) {
  return t->q.flags & DS_QUANT_PER_TENSOR ? 0 : i / t->q.group;
}

static void make_values(ds_stream *s, test *t) {
  const int64_t n = t->q.rows * t->q.cols, groups = group_of(t, n - 1) + 1;
  const bool i4 = t->q.qtype == DS_I4;
  t->values = make(s, (size_t)(i4 ? n / 2 : n), !t->extreme && chance(4) ? 1 : 0);
  t->scales = make(s, (size_t)groups * 4, 0);
  t->zeros = make(s, (size_t)groups, 0);
  t->weights = malloc((size_t)n * sizeof *t->weights);
  must(t->weights != NULL, "memory");
  uint8_t *codes = t->values.here;
  int8_t *zeros = t->zeros.here;
  float *scales = t->scales.here;
  for (int64_t i = 0; i < (int64_t)t->values.bytes; i++) {
    codes[i] = t->extreme ? 0x80 : (uint8_t)next();
    if (t->q.qtype == DS_F8E4M3 && (codes[i] & 127) == 127) codes[i] = 0;
    if (t->q.qtype == DS_F8E5M2 && (codes[i] & 127) > 123) codes[i] = 0;
  }
  const double most = i4 ? 7 : t->q.qtype == DS_I8 ? 127 : t->q.qtype == DS_F8E4M3 ? 448 : 57344;
  for (int64_t i = 0; i < groups; i++) {
    scales[i] = (float)((0.5 + (double)(next() & 1023) / 1024) / most);
    zeros[i] =
        (int8_t)(t->q.flags & DS_QUANT_ASYMMETRIC ? i4 ? range(-8, 7) : range(-128, 127) : 0);
  }
  for (int64_t i = 0; i < n; i++) {
    const uint8_t byte = codes[i4 ? i / 2 : i];
    const int nibble = i % 2 ? byte >> 4 : byte & 15;
    const double code = i4                        ? (nibble < 8 ? nibble : nibble - 16)
                        : t->q.qtype == DS_I8     ? (int8_t)byte
                        : t->q.qtype == DS_F8E4M3 ? fp8(byte, 3, 7)
                                                  : fp8(byte, 2, 15);
    t->weights[i] = (double)scales[group_of(t, i)] * (code - zeros[group_of(t, i)]);
  }
  upload(s, &t->values);
  upload(s, &t->scales);
  upload(s, &t->zeros);
  t->q.values = t->values.device;
  t->q.scales = (float *)(void *)t->scales.device;
  t->q.zeros = t->q.flags & DS_QUANT_ASYMMETRIC ? (int8_t *)t->zeros.device : NULL;
}

/* With dynamic scales A's rows are of whole numbers up to 127, which are their own codes. */
static void make_plain(ds_stream *s, test *t) {
  const int64_t m = t->g.m, cols = t->q.cols;
  const size_t size = plain_bytes(t);
  t->a = make(s, (size_t)(m * t->g.lda) * size, chance(4) ? size : 0);
  t->bias = make(s, (size_t)t->q.rows * size, 0);
  t->c = make(s, (size_t)(m * t->g.ldc) * size, chance(4) ? size : 0);
  t->activations = malloc((size_t)(m * cols) * sizeof *t->activations);
  must(t->activations != NULL, "memory");
  for (int64_t i = 0; i < m * t->g.lda; i++) put_plain(t->q.dtype, t->a.here, i);
  for (int64_t i = 0; i < t->q.rows; i++) put_plain(t->q.dtype, t->bias.here, i);
  if (t->g.flags & DS_QUANT_GEMM_DYNAMIC)
    for (int64_t i = 0; i < m; i++)
      for (int64_t k = 0; k < cols; k++) {
        const float x = t->extreme || k == i % cols ? 127.0f : (float)range(-127, 127);
        uint32_t bits;
        memcpy(&bits, &x, sizeof bits);
        if (t->q.dtype == DS_F32)
          ((float *)t->a.here)[i * t->g.lda + k] = x;
        else
          ((uint16_t *)t->a.here)[i * t->g.lda + k] = (uint16_t)(bits >> 16);
      }
  for (int64_t i = 0; i < m * cols; i++)
    t->activations[i] = plain(t->q.dtype, t->a.here, i / cols * t->g.lda + i % cols);
  upload(s, &t->a);
  upload(s, &t->bias);
  t->g.a = t->a.device;
  t->g.bias = chance(2) ? t->bias.device : NULL;
  t->g.c = t->c.device;
}

/* As quant.c describes it to kernels. */
static gpu_quant described(const test *t) {
  const bool whole = t->q.flags & DS_QUANT_PER_TENSOR;
  gpu_quant q = {.qtype = t->q.qtype, .dtype = t->q.dtype, .rows = t->q.rows, .cols = t->q.cols};
  q.group = whole ? q.rows * q.cols : t->q.group;
  q.row_groups = whole ? 0 : q.cols / q.group;
  q.groups = whole ? 1 : q.rows * q.row_groups;
  q.group_cols = whole ? q.cols : q.group;
  q.values = t->q.values;
  q.scales = t->q.scales;
  q.zeros = t->q.zeros;
  return q;
}

static void run_kernels(ds_stream *s, const test *t) {
  const gpu_quant q = described(t);
  const bool dynamic = t->g.flags & DS_QUANT_GEMM_DYNAMIC;
  const int64_t room = gpu_quant_row_bytes(q.cols);
  gpu_quant_product p = {
      .m = t->g.m, .lda = t->g.lda, .ldc = t->g.ldc, .a = t->g.a, .bias = t->g.bias, .c = t->g.c};
  void *codes = NULL, *sums = NULL, *scales = NULL, *scratch = NULL;
  if (dynamic) {
    must(gpuMalloc(&codes, (size_t)(p.m * room)) == gpuSuccess &&
             gpuMalloc(&sums, (size_t)(p.m * room / GPU_QUANT_SUM * 4)) == gpuSuccess &&
             gpuMalloc(&scales, (size_t)p.m * 4) == gpuSuccess,
         "memory");
    p.codes = codes;
    p.sums = sums;
    p.scales = scales;
    must(gpu_quant_rows(s->handle, &q, &p, codes, scales, sums) == gpuSuccess,
         "launch of quant_rows");
  }
  const size_t bytes = t->way == MANY ? gpu_quant_gemm_scratch(&q, p.m, t->multiprocessors) : 0;
  must(gpuMalloc(&scratch, bytes + 1) == gpuSuccess, "memory");
  must((t->way == FEW
            ? gpu_quant_gemv(s->handle, &q, &p, t->multiprocessors)
            : gpu_quant_gemm(s->handle, &q, &p, t->multiprocessors, scratch)) == gpuSuccess,
       "launch of a product");
  must(gpuStreamSynchronize(s->handle) == gpuSuccess, t->name);
  void *all[] = {codes, sums, scales, scratch};
  for (size_t i = 0; i < sizeof all / sizeof *all; i++)
    if (all[i] != NULL) must(gpuFree(all[i]) == gpuSuccess, "free");
}

static void run(ds_stream *s, const test *t, void *out) {
  ds_error err = {.message = ""};
  memset(t->c.here, 0x5a, t->c.bytes);
  upload(s, &t->c);
  if (t->way != TABLE)
    run_kernels(s, t);
  else if (gpu_quant_table.gemm(s, &t->q, &t->g, &err) != DS_OK)
    must(false, err.message);
  must(gpuMemcpyAsync(out, t->c.device, t->c.bytes, gpuMemcpyDeviceToHost, s->handle) ==
               gpuSuccess &&
           gpuStreamSynchronize(s->handle) == gpuSuccess,
       t->name);
}

static int check(const test *t, const void *out) {
  const bool bf16 = t->q.dtype == DS_BF16, dynamic = t->g.flags & DS_QUANT_GEMM_DYNAMIC;
  const double tolerance = dynamic ? 2e-6 : bf16 ? 4e-3 : 1e-5;
  for (int64_t i = 0; i < t->g.m; i++)
    for (int64_t j = 0; j < t->g.ldc; j++) {
      const int64_t at = i * t->g.ldc + j;
      if (j >= t->q.rows) {
        if (memcmp((const char *)out + (size_t)at * plain_bytes(t),
                   (const char *)t->c.here + (size_t)at * plain_bytes(t), plain_bytes(t)) == 0)
          continue;
        printf("FAIL %s: what lies behind row %" PRId64 " of C changed\n", t->name, i);
        return 1;
      }
      double sum = t->g.bias != NULL ? plain(t->q.dtype, t->bias.here, j) : 0, size = fabs(sum);
      for (int64_t k = 0; k < t->q.cols; k++) {
        const double term = t->activations[i * t->q.cols + k] * t->weights[j * t->q.cols + k];
        sum += term;
        size += fabs(term);
      }
      const double got = plain(t->q.dtype, out, at);
      if (fabs(got - sum) <= tolerance * size + (bf16 ? fabs(sum) / 255 : 0)) continue;
      printf("FAIL %s: C[%" PRId64 ",%" PRId64
             "] is %.9g, not %.9g; off by %.3g of the sum of magnitudes\n",
             t->name, i, j, got, sum, fabs(got - sum) / size);
      return 1;
    }
  return 0;
}

static int one(ds_stream *s, test *t) {
  static const char *const types[] = {
      [DS_I8] = "i8", [DS_I4] = "i4", [DS_F8E4M3] = "f8e4m3", [DS_F8E5M2] = "f8e5m2"};
  snprintf(t->name, sizeof t->name,
           "%s %s of %s%s%s: m=%" PRId64 " rows=%" PRId64 " cols=%" PRId64 " group=%" PRId64
           "%s lda=%" PRId64 " multiprocessors=%d",
           way_names[t->way], types[t->q.qtype], t->q.dtype == DS_F32 ? "f32" : "bf16",
           t->q.flags & DS_QUANT_ASYMMETRIC ? " asymmetric" : "",
           t->g.flags & DS_QUANT_GEMM_DYNAMIC ? " dynamic" : "", t->g.m, t->q.rows, t->q.cols,
           t->q.group, t->q.flags & DS_QUANT_PER_TENSOR ? " (one for all)" : "", t->g.lda,
           t->multiprocessors);
  t->q.size = sizeof t->q;
  t->g.size = sizeof t->g;
  make_values(s, t);
  make_plain(s, t);
  char *out = malloc(2 * t->c.bytes + 1);
  must(out != NULL, "memory");
  run(s, t, out);
  run(s, t, out + t->c.bytes);
  int failed = check(t, out);
  if (!failed && memcmp(out, out + t->c.bytes, t->c.bytes) != 0) {
    printf("FAIL %s: the second run differs\n", t->name);
    failed = 1;
  }
  free(out);
  free(t->weights);
  free(t->activations);
  array *all[] = {&t->values, &t->scales, &t->zeros, &t->a, &t->bias, &t->c};
  for (size_t i = 0; i < sizeof all / sizeof *all; i++) drop(all[i]);
  return failed;
}

/* ---------------------------------------------------------------- which */

/* Shapes that matter: way, m, rows, cols, group (0: of a row, -1: one for all), multiprocessors. */
static const struct {
  enum way way;
  int64_t m, rows, cols, group;
  int multiprocessors;
} shapes[] = {
    {FEW, 1, 37, 9216, 0, 1},   /* two panels; four rows a team */
    {FEW, 1, 9, 9216, 64, 100}, /* one row a team */
    {FEW, 2, 33, 4608, 32, 1},     {FEW, 3, 20, 2560, -1, 1},   {FEW, 8, 41, 2304, 256, 1},
    {FEW, 11, 18, 1088, 0, 1},     /* two launches */
    {FEW, 5, 10, 330, 30, 1},      /* plain */
    {MANY, 16, 200, 2048, 32, 8},  /* parts */
    {MANY, 16, 130, 1600, 0, 100}, /* parts of different length */
    {MANY, 33, 129, 1056, 96, 4},  {MANY, 64, 65, 576, -1, 1},  {MANY, 65, 130, 288, 32, 1},
    {MANY, 130, 140, 96, 48, 1},   {MANY, 40, 70, 75, 25, 1},   {MANY, 70, 66, 90, 6, 1},
    {TABLE, 300, 150, 64, 16, 0},  {TABLE, 16, 70, 544, 32, 0}, {TABLE, 9, 70, 544, 0, 0},
};

static int shape(ds_stream *s, int i, int kind) {
  static const int types[] = {DS_I8, DS_I4, DS_I8, DS_I4, DS_F8E4M3, DS_F8E5M2, DS_I8, DS_I8};
  test t = {.way = shapes[i].way, .multiprocessors = shapes[i].multiprocessors};
  t.q.qtype = types[kind / 2];
  t.q.dtype = kind % 2 ? DS_BF16 : DS_F32;
  if (kind / 2 == 2 || kind / 2 == 3 || kind / 2 == 7) t.q.flags |= DS_QUANT_ASYMMETRIC;
  if (kind / 2 >= 6) t.g.flags = DS_QUANT_GEMM_DYNAMIC;
  t.q.rows = shapes[i].rows;
  t.q.cols = shapes[i].cols + (t.q.qtype == DS_I4 && shapes[i].cols % 2 ? shapes[i].cols : 0);
  t.q.group = shapes[i].group > 0 ? shapes[i].group : t.q.cols;
  if (shapes[i].group < 0) t.q.flags |= DS_QUANT_PER_TENSOR;
  t.g.m = shapes[i].m;
  t.g.lda = t.q.cols + (chance(3) ? range(1, 9) : 0);
  t.g.ldc = t.q.rows + (chance(3) ? range(1, 9) : 0);
  return one(s, &t);
}

/* A sum of int8 products that would leave 32 bits, were it not scaled on the way. */
static int longest(ds_stream *s, enum way way) {
  test t = {.way = way, .multiprocessors = 1, .extreme = true};
  t.q.qtype = DS_I8;
  t.q.flags = DS_QUANT_ASYMMETRIC;
  t.g.flags = DS_QUANT_GEMM_DYNAMIC;
  t.g.m = 2;
  t.q.rows = t.g.ldc = 3;
  t.q.cols = t.q.group = t.g.lda = 1 << 17;
  return one(s, &t);
}

int main(int argc, char **argv) {
  const int every = argc > 1 ? atoi(argv[1]) : 1; /* one of so many */
  const int kinds = 16, count = (int)(sizeof shapes / sizeof *shapes) * kinds;
  ds_device *dev = NULL;
  ds_stream *s = NULL;
  ds_error err = {.message = ""};
  int failed = 0, done = 0;
  must(gpu_device_table.open(0, NULL, &dev, &err) == DS_OK, err.message);
  must(gpu_device_table.stream_create(dev, &s, &err) == DS_OK, err.message);
  for (int i = 0; i < count; i++) {
    if (i % every != 0) continue;
    failed += shape(s, i / kinds, i % kinds);
    done++;
  }
  failed += longest(s, FEW) + longest(s, MANY);
  gpu_device_table.stream_destroy(s);
  gpu_device_table.close(dev);
  printf("%d of %d products failed\n", failed, done + 2);
  return failed || done == 0;
}
