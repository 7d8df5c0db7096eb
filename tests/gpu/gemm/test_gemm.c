/* test_gemm.c - products of the GPU plugins against the formula of ds_abi.h in double: each kernel of kernels/gemm.h in every form
 * it can be launched in, and the gemm table over whatever vendor's library it was linked with and finds. All types (f16 too,
 * which `ds conform` leaves to this), shapes around the tiles, transposed, strided, unaligned, recorded. What lies
 * between C's rows must stay as it was. */
#include <inttypes.h>
#include <math.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "gpu.h"
#include "kernels/gemm.h"

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

/* ---------------------------------------------------------------- numbers, by the formats' definitions */

static size_t bytes_of(int dtype) {
  return dtype == DS_F32 ? 4 : dtype == DS_BF16 || dtype == DS_F16 ? 2 : 1;
}

static double decode(uint32_t bits, int exponent_bits, int fraction_bits, int bias) {
  const uint32_t fraction = bits & ((1u << fraction_bits) - 1);
  const int exponent = (int)(bits >> fraction_bits & ((1u << exponent_bits) - 1));
  const double size =
      exponent == 0 ? ldexp(fraction, 1 - bias - fraction_bits)
                    : ldexp((1u << fraction_bits) + fraction, exponent - bias - fraction_bits);
  return bits >> (exponent_bits + fraction_bits) & 1 ? -size : size;
}

static double get(int dtype, const void *array, int64_t i) {
  const uint16_t *halves = array;
  const uint8_t *bytes = array;
  switch (dtype) {
    case DS_F32: return (double)((const float *)array)[i];
    case DS_BF16: return decode(halves[i], 8, 7, 127);
    case DS_F16: return decode(halves[i], 5, 10, 15);
    case DS_F8E4M3: return decode(bytes[i], 4, 3, 7);
    default: return decode(bytes[i], 5, 2, 15);
  }
}

/* Random numbers of about 1, of every sign and fraction; now and then a subnormal one. */
static void put_random(int dtype, void *array, int64_t i) {
  const uint32_t sign = next() & 1, near = (uint32_t)range(-3, 1);
  const bool tiny = chance(16);
  uint16_t *halves = array;
  uint8_t *bytes = array;
  switch (dtype) {
    case DS_F32: ((float *)array)[i] = (float)range(-2000000, 2000000) / 1e6f; break;
    case DS_BF16: halves[i] = (uint16_t)(sign << 15 | (127 + near) << 7 | (next() & 0x7f)); break;
    case DS_F16:
      halves[i] = (uint16_t)(sign << 15 | (tiny ? 0 : 15 + near) << 10 | (next() & 0x3ff));
      break;
    case DS_F8E4M3:
      bytes[i] = (uint8_t)(sign << 7 | (tiny ? 0 : 7 + near) << 3 | (next() & 7));
      break;
    default: bytes[i] = (uint8_t)(sign << 7 | (tiny ? 0 : 15 + near) << 2 | (next() & 3)); break;
  }
}

/* How far a result of that type may be off by its last rounding. */
static double rounding(int dtype, double v) {
  const double size = fabs(v);
  return dtype == DS_F32    ? size * 0x1p-24
         : dtype == DS_BF16 ? size * 0x1.02p-8
                            : fmax(size, 0x1p-14) * 0x1.02p-11;
}

/* ---------------------------------------------------------------- device memory */

static int failures;

static void must(gpuError_t code, const char *what) {
  if (code == gpuSuccess) return;
  printf("FAIL %s: %s (%s)\n", what, gpuGetErrorName(code), gpuGetErrorString(code));
  exit(1);
}

/* Elements of a dtype, on the host and on the device. `offset`: the first lies so many elements in. */
typedef struct array {
  int dtype;
  int64_t count, offset;
  char *host;
  void *device;
} array;

static size_t size_of(const array *x) {
  return (size_t)(x->count + x->offset) * bytes_of(x->dtype);
}
static void *first(const array *x) {
  return (char *)x->device + (size_t)x->offset * bytes_of(x->dtype);
}
static const void *first_here(const array *x) {
  return x->host + (size_t)x->offset * bytes_of(x->dtype);
}

static array make(gpuStream_t s, int dtype, int64_t count, int64_t offset) {
  array x = {dtype, count, offset, NULL, NULL};
  x.host = calloc(size_of(&x) + 1, 1);
  if (x.host == NULL) exit(1);
  for (int64_t i = 0; i < count + offset; i++) put_random(dtype, x.host, i);
  must(gpuMalloc(&x.device, size_of(&x) + 1), "memory");
  must(gpuMemcpyAsync(x.device, x.host, size_of(&x), gpuMemcpyHostToDevice, s), "upload");
  return x;
}

static void drop(array *x) {
  must(gpuFree(x->device), "free");
  free(x->host);
}

/* ---------------------------------------------------------------- the formula */

static double activation(int kind, double x) {
  switch (kind) {
    case DS_EPILOGUE_GELU_TANH:
      return 0.5 * x * (1 + tanh(sqrt(2 / acos(-1)) * (x + 0.044715 * x * x * x)));
    case DS_EPILOGUE_GELU_ERF: return 0.5 * x * (1 + erf(x / sqrt(2)));
    case DS_EPILOGUE_RELU: return x > 0 ? x : 0;
    case DS_EPILOGUE_SILU: return x / (1 + exp(-x));
    default: return x;
  }
}

typedef struct test {
  gpu_product p;
  array a, b, bias, c, scales, sums; /* sums: for the pass over a library's */
  const char *name;
} test;

/* Element (i, j) of matrix `batch`: alpha A B with the scales, and the sum of the magnitudes. */
static double product(const test *t, int64_t batch, int64_t i, int64_t j, double *size) {
  const gpu_product *p = &t->p;
  double alpha = (double)p->alpha, sum = 0;
  *size = 0;
  if (p->scale_a) alpha *= get(DS_F32, first_here(&t->scales), 0);
  if (p->scale_b) alpha *= get(DS_F32, first_here(&t->scales), 1);
  if (t->sums.host) {
    sum = get(DS_F32, t->sums.host, (batch * p->m + i) * (p->n + 3) + j);
    *size = fabs(sum);
  }
  for (int64_t k = 0; k < p->k && t->sums.host == NULL; k++) {
    const double v = get(p->dtype_a, first_here(&t->a),
                         batch * p->stride_a + (p->trans_a ? k * p->lda + i : i * p->lda + k)) *
                     get(p->dtype_b, first_here(&t->b),
                         batch * p->stride_b + (p->trans_b ? j * p->ldb + k : k * p->ldb + j));
    sum += v;
    *size += fabs(v);
  }
  *size *= fabs(alpha);
  return alpha * sum;
}

static void compare(const test *t, const void *got) {
  const gpu_product *p = &t->p;
  char *covered = calloc((size_t)t->c.count + 1, 1);
  for (int64_t b = 0; b < p->batch; b++)
    for (int64_t e = 0; e < p->m * p->n; e++) {
      const int64_t i = e / p->n, j = e % p->n, at = b * p->stride_c + i * p->ldc + j;
      double size, want = product(t, b, i, j, &size);
      if (p->bias) want += get(p->dtype_bias, first_here(&t->bias), j);
      if (p->bias) size += fabs(get(p->dtype_bias, first_here(&t->bias), j));
      want = activation(p->epilogue, want);
      if (p->beta != 0) want += get(p->dtype_c, first_here(&t->c), at);
      const double is =
          get(p->dtype_c, (const char *)got + t->c.offset * (int64_t)bytes_of(p->dtype_c), at);
      covered[at] = 1;
      if (!(fabs(is - want) <= rounding(p->dtype_c, want) + 2e-6 * (size + fabs(want)) + 1e-30)) {
        printf("FAIL %s: batch %" PRId64 " row %" PRId64 " column %" PRId64 ": %.9g, not %.9g\n",
               t->name, b, i, j, is, want);
        failures++;
        free(covered);
        return;
      }
    }
  const size_t each = bytes_of(p->dtype_c);
  for (int64_t at = -t->c.offset; at < t->c.count; at++) {
    const size_t place = (size_t)(at + t->c.offset) * each;
    if ((at < 0 || !covered[at]) &&
        memcmp((const char *)got + place, t->c.host + place, each) != 0) {
      printf("FAIL %s: element %" PRId64 ", which is no part of C, was written\n", t->name, at);
      failures++;
      break;
    }
  }
  free(covered);
}

/* ---------------------------------------------------------------- cases */

enum kernel {
  SIMT_SMALL,
  SIMT_LARGE,
  MMA_SMALL,
  MMA_LARGE,
  GEMV_MANY,
  GEMV_FEW,
  EPILOGUE,
  TABLE,
  KERNELS
};
static const char *const names[] = {
    "simt 64",  "simt 128", "mma 64", "mma 128", "gemv, a large device", "gemv, a small device",
    "epilogue", "table"};

static void must_do(ds_status st, const ds_error *err) {
  if (st == DS_OK) return;
  printf("FAIL the table: %s\n", err->message);
  exit(1);
}

/* Through the table, now and then by a graph. */
static gpuError_t call(ds_stream *s, const gpu_product *p) {
  const ds_gemm g = {.size = sizeof g,
                     .flags = (p->trans_a ? DS_GEMM_TRANS_A : 0u) |
                              (p->trans_b ? DS_GEMM_TRANS_B : 0u) |
                              (p->scale_a || p->scale_b ? DS_GEMM_SCALES : 0u),
                     .m = p->m,
                     .n = p->n,
                     .k = p->k,
                     .lda = p->lda,
                     .ldb = p->ldb,
                     .ldc = p->ldc,
                     .batch = p->batch,
                     .stride_a = p->stride_a,
                     .stride_b = p->stride_b,
                     .stride_c = p->stride_c,
                     .dtype_a = p->dtype_a,
                     .dtype_b = p->dtype_b,
                     .dtype_c = p->dtype_c,
                     .dtype_bias = p->bias ? p->dtype_bias : DS_F32,
                     .epilogue = p->epilogue,
                     .alpha = p->alpha,
                     .beta = p->beta,
                     .a = p->a,
                     .b = p->b,
                     .bias = p->bias,
                     .c = p->c,
                     .scale_a = p->scale_a,
                     .scale_b = p->scale_b};
  ds_error err;
  ds_graph *graph = NULL;
  const bool record = chance(8);
  if (!gpu_gemm_table.supports(s->dev, &g)) {
    printf("FAIL the table: supports says no\n");
    exit(1);
  }
  if (record) must_do(gpu_graph_table.begin(s, &err), &err);
  must_do(gpu_gemm_table.run(s, &g, &err), &err);
  if (!record) return gpuSuccess;
  must_do(gpu_graph_table.end(s, &graph, &err), &err);
  must_do(gpu_graph_table.launch(s, graph, &err), &err);
  must_do(gpu_device_table.stream_sync(s, &err), &err);
  gpu_graph_table.destroy(graph);
  return gpuSuccess;
}

/* The same problem with another result, bias and scales: what is kept of it must not hang on them. */
static void call_elsewhere(ds_stream *s, const test *t) {
  gpu_product p = t->p;
  array c = make(s->handle, t->c.dtype, t->c.count, t->c.offset);
  array bias = make(s->handle, t->bias.dtype, t->bias.count, t->bias.offset);
  array scales = make(s->handle, DS_F32, 2, 0);
  p.c = first(&c);
  if (p.bias) p.bias = first(&bias);
  if (p.scale_a) p.scale_a = first(&scales);
  if (p.scale_b) p.scale_b = (const float *)first(&scales) + 1;
  must(call(s, &p), "elsewhere");
  must(gpuStreamSynchronize(s->handle), "elsewhere");
  drop(&c);
  drop(&bias);
  drop(&scales);
}

static gpuError_t launch(enum kernel which, ds_stream *on, const test *t) {
  const gpu_product *p = &t->p;
  const gpuStream_t s = on->handle;
  switch (which) {
    case TABLE: return call(on, p);
    case SIMT_SMALL: return gpu_gemm_simt(s, p, 1 << 20);
    case SIMT_LARGE: return gpu_gemm_simt(s, p, 1);
    case MMA_SMALL: return gpu_gemm_mma(s, p, gpu_device_wave(0), 1 << 20);
    case MMA_LARGE: return gpu_gemm_mma(s, p, gpu_device_wave(0), 1);
    case GEMV_MANY: return gpu_gemv(s, p, 1 << 20);
    case GEMV_FEW: return gpu_gemv(s, p, 1);
    default: return gpu_gemm_epilogue(s, p, t->sums.device, p->n + 3, p->m * (p->n + 3));
  }
}

static void choose_types(enum kernel which, gpu_product *p) {
  static const int all[] = {DS_F32, DS_BF16, DS_F16, DS_F8E4M3, DS_F8E5M2};
  p->dtype_a = p->dtype_b = all[next() % 3];
  if (which <= SIMT_LARGE && chance(2)) {
    p->dtype_a = all[next() % 5];
    p->dtype_b = all[next() % 5];
  }
  if (which == MMA_SMALL || which == MMA_LARGE) {
    p->dtype_a = p->dtype_b = chance(2) ? DS_BF16 : DS_F16;
    if (chance(3)) {
      p->dtype_a = all[3 + next() % 2];
      p->dtype_b = all[3 + next() % 2];
    }
  }
  p->dtype_c = all[next() % 3];
  p->dtype_bias = all[next() % 3];
  if (which != TABLE) return;
  const int kind = (int)range(0, 8); /* libraries take pairs of one type */
  if (kind < 6) p->dtype_a = p->dtype_b = all[kind / 2];
  if (kind == 6 || kind == 7) {
    p->dtype_a = all[3 + next() % 2];
    p->dtype_b = all[3 + next() % 2];
  }
  if (chance(2)) p->dtype_c = kind < 6 ? p->dtype_a : DS_BF16;
  if (!chance(4)) p->dtype_bias = p->dtype_c;
}

/* A stored matrix's rows and matrices; `step`: what lengths are multiples of. */
static int64_t pad(int64_t n, int64_t step) {
  return n + (chance(2) ? 0 : range(1, 3) * step);
}

static void choose_shape(enum kernel which, gpu_product *p, int64_t step) {
  const bool rows_by_rows = which == TABLE && (chance(2) || (p->dtype_a > DS_F16 && chance(2)));
  const bool gemv = which == GEMV_MANY || which == GEMV_FEW;
  const int64_t side = which == SIMT_LARGE || which == MMA_LARGE ? 300 : 150;
  p->m = gemv ? range(1, GPU_GEMV_ROWS) : chance(4) ? range(1, 9) : range(1, side);
  p->n = gemv && chance(2) ? range(1, 600) : range(1, side);
  p->k = chance(16) ? 0 : gemv ? range(1, 2500) : range(1, 100);
  if (which == TABLE && chance(2)) p->k = chance(3) ? range(1280, 1400) : range(256, 400);
  if (!gemv) p->m = (p->m + step - 1) / step * step;
  p->n = (p->n + step - 1) / step * step;
  p->k = (p->k + step - 1) / step * step;
  p->trans_a = gemv || rows_by_rows ? 0 : chance(2);
  p->trans_b = rows_by_rows || chance(2);
  p->batch = chance(4) ? range(2, 3) : 1;
  p->lda = pad(p->trans_a ? p->m : p->k, step);
  p->ldb = pad(p->trans_b ? p->k : p->n, step);
  p->ldc = pad(p->n, step);
  p->stride_a = chance(4) ? 0 : pad((p->trans_a ? p->k : p->m) * p->lda, step);
  p->stride_b = chance(4) ? 0 : pad((p->trans_b ? p->n : p->k) * p->ldb, step);
  p->stride_c = pad(p->m * p->ldc, step);
}

static void run_case(enum kernel which, ds_stream *on) {
  const gpuStream_t s = on->handle;
  test t = {.name = names[which]};
  gpu_product *p = &t.p;
  const bool aligned = chance(2);
  const int64_t step = aligned ? 16 : 1, offset = aligned ? 0 : range(0, 3);
  choose_types(which, p);
  choose_shape(which, p, step);
  p->epilogue = chance(2) ? (int)DS_EPILOGUE_NONE : (int)range(1, 4);
  p->alpha = chance(2) ? 1.0f : -0.75f;
  p->beta = chance(2) ? 1.0f : 0.0f;
  if (which == TABLE && p->epilogue != DS_EPILOGUE_NONE) { /* what libraries have, mostly */
    p->epilogue = chance(4) ? p->epilogue : chance(2) ? DS_EPILOGUE_RELU : DS_EPILOGUE_GELU_TANH;
    p->beta = chance(4) ? 1.0f : 0.0f;
  }
  t.a = make(s, p->dtype_a, (p->batch - 1) * p->stride_a + (p->trans_a ? p->k : p->m) * p->lda,
             offset);
  t.b = make(s, p->dtype_b, (p->batch - 1) * p->stride_b + (p->trans_b ? p->n : p->k) * p->ldb,
             offset);
  t.c = make(s, p->dtype_c, p->batch * p->stride_c, offset);
  t.bias = make(s, p->dtype_bias, p->n, offset);
  t.scales = make(s, DS_F32, 2, 0);
  if (which == EPILOGUE) t.sums = make(s, DS_F32, p->batch * p->m * (p->n + 3), 0);
  p->a = first(&t.a);
  p->b = first(&t.b);
  p->c = first(&t.c);
  if (chance(2)) p->bias = first(&t.bias);
  const int rare = which == TABLE && p->dtype_a <= DS_F16 ? 12 : 3; /* for fp8 only, in libraries */
  if (chance(rare)) p->scale_a = first(&t.scales);
  if (chance(rare)) p->scale_b = (const float *)first(&t.scales) + 1;

  char *got = malloc(size_of(&t.c) + 1);
  if (which == TABLE && chance(2)) call_elsewhere(on, &t);
  must(launch(which, on, &t), t.name);
  must(gpuStreamSynchronize(s), t.name);
  must(gpuMemcpyAsync(got, t.c.device, size_of(&t.c), gpuMemcpyDeviceToHost, s), "download");
  must(gpuStreamSynchronize(s), "download");
  const int before = failures;
  compare(&t, got);
  if (failures > before)
    printf("  m %" PRId64 " n %" PRId64 " k %" PRId64 " batch %" PRId64
           " dtypes %d %d %d %d trans %d %d "
           "epilogue %d beta %g aligned %d\n",
           p->m, p->n, p->k, p->batch, p->dtype_a, p->dtype_b, p->dtype_c, p->dtype_bias,
           p->trans_a, p->trans_b, p->epilogue, (double)p->beta, aligned);
  free(got);
  drop(&t.a);
  drop(&t.b);
  drop(&t.c);
  drop(&t.bias);
  drop(&t.scales);
  if (which == EPILOGUE) drop(&t.sums);
}

/* Arguments: "kernels" or "table", how many cases of each, the seed. */
int main(int argc, char **argv) {
  const bool table = argc > 1 && strcmp(argv[1], "table") == 0;
  const int cases = argc > 2 ? atoi(argv[2]) : 40;
  if (argc > 3) state = strtoull(argv[3], NULL, 10);
  ds_device *dev = NULL;
  ds_stream *s = NULL;
  ds_error err;
  must_do(gpu_device_table.open(0, NULL, &dev, &err), &err);
  must_do(gpu_device_table.stream_create(dev, &s, &err), &err);
  for (int which = table ? TABLE : 0; which < (table ? KERNELS : TABLE); which++) {
    const int before = failures;
    for (int i = 0; i < cases && failures == before; i++) run_case((enum kernel)which, s);
    printf("%-22s up to %d cases, %d wrong values\n", names[which], cases, failures - before);
  }
  gpu_device_table.stream_destroy(s);
  gpu_device_table.close(dev);
  return failures != 0;
}
