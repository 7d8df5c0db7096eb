/* test_wide.cpp - kernels at sizes that `ds conform` doesn't reach: rows longer than registers hold, vocabularies, many
 * blocks, an id that fills chunk after chunk. By the emulation, against formulas in double. */
#include <initializer_list>
#include <math.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "ds_abi.h"
#include "kernels/attention.h"
#include "kernels/elementwise.h"
#include "kernels/norm.h"
#include "kernels/optimizer.h"
#include "kernels/rows.h"
#include "kernels/sample.h"
#include "kernels/scatter.h"

static int failures, checks;
static gpuStream_t stream;

static uint64_t state = 1;
static double uniform() {
  state = state * 6364136223846793005u + 1442695040888963407u;
  return (double)(state >> 11) / 9007199254740992.0;
}

static float bf16(float x) {
  uint32_t u;
  memcpy(&u, &x, 4);
  u = (u + 0x7fffu + (u >> 16 & 1)) & 0xffff0000u;
  memcpy(&x, &u, 4);
  return x;
}

/* Numbers on the host, and their copy on the device in some type. */
struct numbers {
  int64_t n;
  int dtype;
  float *host;
  void *device;
};
static size_t size_of(int dtype) {
  return dtype == DS_BF16 ? 2 : 4;
}
static numbers make(int64_t n, int dtype, double middle, double spread) {
  numbers a = {n, dtype, (float *)malloc((size_t)n * 4), nullptr};
  const size_t size = size_of(dtype);
  char *bytes = (char *)malloc((size_t)n * size);
  for (int64_t i = 0; i < n; i++) {
    const float v = (float)(middle + spread * (uniform() + uniform() + uniform() - 1.5));
    a.host[i] = dtype == DS_BF16 ? bf16(v) : v;
    memcpy(bytes + (size_t)i * size, (char *)&a.host[i] + 4 - size, size); /* little-endian */
  }
  if (gpuMalloc(&a.device, (size_t)n * size) != gpuSuccess) abort();
  (void)gpuMemcpyAsync(a.device, bytes, (size_t)n * size, gpuMemcpyHostToDevice, stream);
  (void)gpuStreamSynchronize(stream);
  free(bytes);
  return a;
}
static void fetch(numbers *a) {
  const size_t size = size_of(a->dtype);
  char *bytes = (char *)malloc((size_t)a->n * size);
  (void)gpuMemcpyAsync(bytes, a->device, (size_t)a->n * size, gpuMemcpyDeviceToHost, stream);
  if (gpuStreamSynchronize(stream) != gpuSuccess) failures++;
  memset(a->host, 0, (size_t)a->n * 4);
  for (int64_t i = 0; i < a->n; i++)
    memcpy((char *)&a->host[i] + 4 - size, bytes + (size_t)i * size, size);
  free(bytes);
}
/* The host's 32-bit words, of ids too, to the device. */
static int32_t *words(numbers *a) {
  return reinterpret_cast<int32_t *>(a->host);
}
static void send(numbers *a) {
  (void)gpuMemcpyAsync(a->device, a->host, (size_t)a->n * 4, gpuMemcpyHostToDevice, stream);
  (void)gpuStreamSynchronize(stream);
}
static void drop(numbers *a) {
  (void)gpuFree(a->device);
  free(a->host);
}

static void expect(const char *what, int64_t at, double got, double wanted, double bound) {
  checks++;
  if (fabs(got - wanted) <= bound || (isnan(got) && isnan(wanted))) return;
  if (failures++ < 20) printf("%s [%lld]: %.9g, not %.9g\n", what, (long long)at, got, wanted);
}
static double last_bit(int dtype) {
  return dtype == DS_BF16 ? 1 / 256.0 : 1 / 16777216.0;
}
static void launched(const char *what, gpuError_t e) {
  if (e != gpuSuccess && failures++ < 20) printf("%s: error %d\n", what, (int)e);
}

static void norms(int dtype, int64_t rows, int64_t cols) {
  numbers x = make(rows * cols, dtype, 0.4, 2), w = make(cols, dtype, 1, 0.4),
          dy = make(rows * cols, dtype, 0, 1), y = make(rows * cols, dtype, 0, 0),
          dx = make(rows * cols, dtype, 0, 0), mean = make(rows, DS_F32, 0, 0),
          rstd = make(rows, DS_F32, 0, 0), dw = make(cols, DS_F32, 0, 0),
          db = make(cols, DS_F32, 0, 0);
  const int cards = 3;
  numbers parts = make((int64_t)gpu_column_parts(rows, cols, cards) * 2, DS_F32, NAN, 0);
  gpu_norm_args a = {};
  a.x = x.device, a.weight = w.device, a.y = y.device, a.layer = true, a.eps = 1e-5f;
  a.mean = (float *)mean.device, a.rstd = (float *)rstd.device, a.rows = rows, a.cols = cols;
  launched("norm", gpu_norm(stream, dtype, &a));
  gpu_norm_backward_args b = {};
  b.dy = dy.device, b.x = x.device, b.weight = w.device, b.mean = a.mean, b.rstd = a.rstd;
  b.dx = dx.device, b.dweight = (float *)dw.device, b.dbias = (float *)db.device;
  b.parts = (float *)parts.device, b.rows = rows, b.cols = cols, b.layer = true;
  launched("norm_backward", gpu_norm_backward(stream, dtype, &b, cards));
  numbers *all[] = {&y, &dx, &mean, &rstd, &dw, &db};
  for (numbers *n : all) fetch(n);
  double *sw = (double *)calloc((size_t)cols, 8), *sb = (double *)calloc((size_t)cols, 8);
  for (int64_t r = 0; r < rows; r++) {
    const float *xr = x.host + r * cols, *dr = dy.host + r * cols;
    double m = 0, v = 0, sa = 0, san = 0;
    for (int64_t c = 0; c < cols; c++) m += (double)xr[c] / (double)cols;
    for (int64_t c = 0; c < cols; c++) v += (xr[c] - m) * (xr[c] - m) / (double)cols;
    const double s = 1 / sqrt(v + 1e-5);
    for (int64_t c = 0; c < cols; c++) {
      const double n = (xr[c] - m) * s, g = (double)dr[c] * w.host[c];
      sa += g / (double)cols, san += g * n / (double)cols;
      sw[c] += dr[c] * n, sb[c] += dr[c];
    }
    expect("mean", r, mean.host[r], m, 1e-6);
    expect("rstd", r, rstd.host[r], s, 1e-6);
    for (int64_t c = 0; c < cols; c++) {
      const double n = (xr[c] - m) * s, d = s * ((double)dr[c] * w.host[c] - sa - n * san);
      const double wanted = n * w.host[c];
      expect("norm", r * cols + c, y.host[r * cols + c], wanted,
             last_bit(dtype) * fabs(wanted) + 4e-6);
      expect("norm dx", r * cols + c, dx.host[r * cols + c], d, last_bit(dtype) * fabs(d) + 4e-6);
    }
  }
  for (int64_t c = 0; c < cols; c++) {
    expect("dweight", c, dw.host[c], sw[c], 2e-5);
    expect("dbias", c, db.host[c], sb[c], 2e-5);
  }
  free(sw);
  free(sb);
  numbers *made[] = {&x, &w, &dy, &y, &dx, &mean, &rstd, &dw, &db, &parts};
  for (numbers *n : made) drop(n);
}

static void scores(int dtype, int64_t rows, int64_t cols) {
  numbers x = make(rows * cols, dtype, 3, 8), y = make(rows * cols, dtype, 0, 0),
          ids = make(rows, DS_F32, 0, 0), t = make(rows, DS_F32, 0, 0),
          lse = make(rows, DS_F32, 0, 0), losses = make(rows, DS_F32, 0, 0),
          loss = make(2, DS_F32, 0, 0), one = make(1, DS_F32, 1, 0),
          dx = make(rows * cols, dtype, 0, 0);
  int32_t *targets = words(&t);
  float *sums = (float *)loss.device;
  for (int64_t r = 0; r < rows; r++) targets[r] = (int32_t)(uniform() * (double)cols);
  targets[0] = -100;
  send(&t);
  launched("softmax", gpu_softmax(stream, dtype, x.device, y.device, rows, cols));
  launched("argmax", gpu_argmax(stream, dtype, x.device, (int32_t *)ids.device, rows, cols));
  launched("cross_entropy", gpu_cross_entropy(stream, dtype, x.device, (int32_t *)t.device, sums,
                                              (float *)lse.device, sums + 1, (float *)losses.device,
                                              rows, cols, -100));
  launched("cross_entropy_backward",
           gpu_cross_entropy_backward(stream, dtype, (float *)one.device, x.device,
                                      (int32_t *)t.device, (float *)lse.device, sums + 1, dx.device,
                                      rows, cols, -100));
  numbers *all[] = {&y, &lse, &loss, &dx, &ids};
  for (numbers *n : all) fetch(n);
  double total = 0;
  for (int64_t r = 0; r < rows; r++) {
    const float *xr = x.host + r * cols;
    double most = xr[0], sum = 0;
    int64_t best = 0;
    for (int64_t c = 1; c < cols; c++)
      if (xr[c] > xr[best]) best = c;
    most = xr[best];
    for (int64_t c = 0; c < cols; c++) sum += exp(xr[c] - most);
    expect("argmax", r, words(&ids)[r], (double)best, 0);
    expect("lse", r, lse.host[r], most + log(sum), 4e-6);
    if (r > 0) total += most + log(sum) - xr[targets[r]];
    for (int64_t c = 0; c < cols; c++) {
      const double p = exp(xr[c] - most) / sum;
      const double d = r > 0 ? (p - (c == targets[r])) / (double)(rows - 1) : 0;
      expect("softmax", c, y.host[r * cols + c], p, (last_bit(dtype) + 2e-5) * p + 1e-30);
      expect("dlogits", c, dx.host[r * cols + c], d, last_bit(dtype) * fabs(d) + 4e-6 * p);
    }
  }
  expect("loss", 0, loss.host[0], total / (double)(rows - 1), 1e-5);
  expect("count", 0, loss.host[1], (double)(rows - 1), 0);
  numbers *made[] = {&x, &y, &ids, &t, &lse, &losses, &loss, &one, &dx};
  for (numbers *n : made) drop(n);
}

static void scatter(int dtype, int64_t rows, int64_t entries, int64_t cols, bool add) {
  numbers id = make(rows, DS_F32, 0, 0), dy = make(rows * cols, dtype, 0, 1),
          table = make(entries * cols, DS_F32, 0.5, 1);
  double *sum = (double *)calloc((size_t)(entries * cols), 8);
  int32_t *ids = words(&id);
  void *scratch = nullptr;
  const size_t bytes = gpu_scatter_scratch(rows, entries, cols);
  if (gpuMalloc(&scratch, bytes) != gpuSuccess) abort();
  for (int64_t r = 0; r < rows; r++) {
    ids[r] = uniform() < 0.4 ? 17 : (int32_t)(uniform() * (double)(entries + 9)) - 4;
    for (int64_t c = 0; c < cols && ids[r] >= 0 && ids[r] < entries; c++)
      sum[ids[r] * cols + c] += dy.host[r * cols + c];
  }
  send(&id);
  for (int64_t i = 0; add && i < entries * cols; i++) sum[i] += table.host[i];
  launched("scatter", gpu_scatter_rows(stream, dtype, (int32_t *)id.device, dy.device,
                                       (float *)table.device, rows, entries, cols, add, scratch));
  fetch(&table);
  for (int64_t i = 0; i < entries * cols; i++) expect("scatter", i, table.host[i], sum[i], 1e-4);
  free(sum);
  (void)gpuFree(scratch);
  numbers *made[] = {&id, &dy, &table};
  for (numbers *n : made) drop(n);
}

static void totals(int dtype, int64_t n) {
  numbers x = make(n, dtype, 0.1, 1), y = make(n, dtype, 0, 0), out = make(4, DS_F32, 0, 0);
  double *device = (double *)out.device, got;
  void *parts = nullptr;
  if (gpuMalloc(&parts, GPU_TOTAL_PARTS * sizeof(double)) != gpuSuccess) abort();
  double sum = 0, squares = 0;
  for (int64_t i = 0; i < n; i++) sum += x.host[i], squares += (double)x.host[i] * x.host[i];
  launched("sum_squares",
           gpu_sum_squares(stream, dtype, x.device, device, n, false, (double *)parts));
  launched("mean", gpu_mean(stream, dtype, x.device, (float *)(device + 1), n, (double *)parts));
  launched("scale", gpu_scale(stream, dtype, -3, x.device, y.device, n, false));
  fetch(&y);
  fetch(&out);
  memcpy(&got, out.host, sizeof got);
  expect("sum_squares", 0, got, squares, 1e-12 * squares);
  expect("mean", 0, out.host[2], sum / (double)n, 1e-6);
  for (int64_t i = 0; i < n; i++)
    expect("scale", i, y.host[i], -3 * (double)x.host[i],
           last_bit(dtype) * 3 * fabs((double)x.host[i]));
  (void)gpuFree(parts);
  numbers *made[] = {&x, &y, &out};
  for (numbers *m : made) drop(m);
}

/* By sorting, in double. */
struct candidate {
  double p;
  int id;
};
static int by_p(const void *a, const void *b) {
  const candidate *x = (const candidate *)a, *y = (const candidate *)b;
  return x->p != y->p ? (x->p < y->p) - (x->p > y->p) : x->id - y->id;
}
static int by_id(const void *a, const void *b) {
  return ((const candidate *)a)->id - ((const candidate *)b)->id;
}
static int chosen(const float *x, int64_t cols, int64_t k, double top_p, double draw,
                  candidate *list) {
  double most = x[0], all = 0, have = 0;
  int64_t stay = 0;
  for (int64_t i = 1; i < cols; i++) most = fmax(most, x[i]);
  for (int64_t i = 0; i < cols; i++) list[i] = {exp((x[i] - most) / 0.8), (int)i};
  qsort(list, (size_t)cols, sizeof *list, by_p);
  if (k == 0 || k > cols) k = cols;
  for (int64_t i = 0; i < k; i++) all += list[i].p;
  for (; stay < k && (top_p >= 1 || have < top_p * all); stay++) have += list[stay].p;
  qsort(list, (size_t)stay, sizeof *list, by_id);
  all = have;
  have = 0;
  for (int64_t i = 0; i < stay; i++)
    if ((have += list[i].p) > draw * all) return list[i].id;
  return list[stay - 1].id;
}
static void samples(int dtype, int64_t rows, int64_t cols, int64_t k, double top_p) {
  numbers x = make(rows * cols, dtype, 0, 12), draw = make(rows, DS_F32, 0, 0),
          id = make(rows, DS_F32, 0, 0);
  candidate *list = (candidate *)malloc((size_t)cols * sizeof *list);
  gpu_sample_args a = {};
  a.logits = x.device, a.draw = (float *)draw.device, a.id = (int32_t *)id.device;
  a.rows = rows, a.cols = cols, a.top_k = k, a.top_p = top_p, a.temperature = 0.8;
  for (int64_t r = 0; r < rows; r++) draw.host[r] = (float)uniform();
  send(&draw);
  launched("sample", gpu_sample(stream, dtype, &a));
  fetch(&id);
  for (int64_t r = 0; r < rows; r++)
    expect("sample", r, words(&id)[r],
           chosen(x.host + r * cols, cols, k, top_p, draw.host[r], list), 0);
  free(list);
  numbers *made[] = {&x, &draw, &id};
  for (numbers *n : made) drop(n);
}

/* A query behind `length` keys of a cache with room for more: what attention says by kv_len alone, and
 * with a view of just the keys in use, which is how recorded tokens and others see the cache. */
static void decodes(int dtype, int length, int room) {
  enum { HEADS = 4, GROUPS = 2, DIM = 64, MOST = 12 };
  numbers q = make(HEADS * DIM, dtype, 0, 2), k = make((int64_t)room * GROUPS * DIM, dtype, 0, 2),
          v = make(k.n, dtype, 0, 1), len = make(1, DS_F32, 0, 0),
          scratch = make(HEADS * MOST * (DIM + 2), DS_F32, 0, 0);
  numbers o[2] = {make(q.n, dtype, 9, 0), make(q.n, dtype, 9, 0)};
  words(&len)[0] = length;
  send(&len);
  for (int i = 0; i < 2; i++) {
    gpu_attention a = {};
    a.dtype = dtype, a.batch = a.time = 1, a.keys = i ? room : length;
    a.heads = HEADS, a.groups = GROUPS, a.dim = DIM, a.causal = 1, a.scale = 0.125f;
    a.vector = 1, a.wave = GPU_WAVE, a.kv_len = (int32_t *)len.device;
    a.q = a.o = {q.device, HEADS * DIM, DIM, HEADS * DIM};
    a.o.data = o[i].device;
    a.k = a.v = {k.device, k.n, DIM, GROUPS * DIM};
    a.v.data = v.device;
    a.scratch = (float *)scratch.device;
    a.splits = (a.keys + GPU_ATTENTION_LEAST_KEYS - 1) / GPU_ATTENTION_LEAST_KEYS;
    if (a.splits > MOST) a.splits = MOST;
    launched("attention of few", gpu_attention_few(stream, &a));
    fetch(&o[i]);
  }
  for (int h = 0; h < HEADS; h++) {
    double sum = 0, want[DIM] = {};
    for (int j = 0; j < length; j++) {
      const int64_t at = ((int64_t)j * GROUPS + h / (HEADS / GROUPS)) * DIM;
      double score = 0;
      for (int e = 0; e < DIM; e++)
        score += (double)q.host[h * DIM + e] * (double)k.host[at + e] / 8;
      sum += exp(score);
      for (int e = 0; e < DIM; e++) want[e] += exp(score) * (double)v.host[at + e];
    }
    for (int e = 0; e < DIM; e++)
      expect("attention of few", h * DIM + e, o[0].host[h * DIM + e], want[e] / sum,
             1e-5 + 2 * last_bit(dtype));
  }
  for (int64_t i = 0; i < q.n; i++)
    expect("attention of few, in a larger cache", i, o[1].host[i], o[0].host[i], 0);
  numbers *made[] = {&q, &k, &v, &len, &scratch, &o[0], &o[1]};
  for (numbers *n : made) drop(n);
}

int main() {
  if (gpuStreamCreate(&stream) != gpuSuccess) return 1;
  for (int dtype : {DS_F32, DS_BF16}) {
    for (int64_t cols : {1600, 4096, 8192, 12288, 16384, 20001}) norms(dtype, 35, cols);
    for (int64_t cols : {2048, 8200, 16384, 20001, 50257}) scores(dtype, 3, cols);
    totals(dtype, 3 * 4096 + 5);
    totals(dtype, 300007);
    samples(dtype, 2, 50257, 50, 1);
    samples(dtype, 2, 50257, 0, 0.9);
    samples(dtype, 2, 50257, 200, 0.7);
    for (int length : {1, 63, 65, 333, 900}) decodes(dtype, length, 1000);
  }
  scatter(DS_F32, 5000, 70000, 16, false);
  scatter(DS_BF16, 5000, 70000, 8, true);
  scatter(DS_BF16, 3000, 300, 301, false);
  printf("%d checks, %d failed\n", checks, failures);
  return failures > 0;
}
