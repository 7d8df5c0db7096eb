/* move.cu - strided copies, rows chosen by id, rows appended. */
#include "move.h"

#include "vector.h"

namespace {

enum { THREADS = 256 };

/* ---------------------------------------------------------------- copy */

/* n of vectors: the last dimension in vectors of N. */
struct copy_shape {
  uint32_t items;
  gpu_divider n1, n2, n3;
  int64_t xs[4], ys[4];
  bool add;
};

template <typename X, typename Y, int N>
GPU_KERNEL(THREADS)
copy_kernel(const X *x, Y *y, copy_shape c) {
  constexpr int U = 4;
  float v[U][N], was[N];
  int64_t to[U];
  const uint32_t first = blockIdx.x * (THREADS * U) + threadIdx.x;
#pragma unroll
  for (int u = 0; u < U; u++) {
    const uint32_t i = first + u * THREADS;
    if (i >= c.items) break;
    uint32_t i1, i2, i3;
    const uint32_t rest = gpu_divide(i, c.n3, &i3), outer = gpu_divide(rest, c.n2, &i2);
    const uint32_t i0 = gpu_divide(outer, c.n1, &i1);
    gpu_read<N>(x + i0 * c.xs[0] + i1 * c.xs[1] + i2 * c.xs[2] + i3 * c.xs[3], v[u]);
    to[u] = i0 * c.ys[0] + i1 * c.ys[1] + i2 * c.ys[2] + i3 * c.ys[3];
  }
#pragma unroll
  for (int u = 0; u < U; u++) {
    if (first + u * THREADS >= c.items) break;
    if (c.add) {
      gpu_read<N>(y + to[u], was);
#pragma unroll
      for (int j = 0; j < N; j++) v[u][j] += was[j];
    }
    gpu_write<N>(y + to[u], v[u]);
  }
}

/* Dimensions of one are dropped and neighbours joined that step alike: a contiguous tensor becomes one row. */
static void join(gpu_copy_args *a) {
  int64_t n[4] = {1, 1, 1, 1}, xs[4] = {0}, ys[4] = {0};
  int at = 3;
  for (int d = 3; d >= 0; d--) {
    if (a->n[d] == 1) continue;
    const bool joins =
        n[at] > 1 && a->x_stride[d] == xs[at] * n[at] && a->y_stride[d] == ys[at] * n[at];
    if (!joins && n[at] > 1) at--;
    if (!joins) {
      xs[at] = a->x_stride[d];
      ys[at] = a->y_stride[d];
    }
    n[at] *= a->n[d];
  }
  for (int d = 0; d < 4; d++) {
    a->n[d] = n[d];
    a->x_stride[d] = xs[d];
    a->y_stride[d] = ys[d];
  }
}

template <typename X, typename Y, int N>
static gpuError_t copy_by(gpuStream_t s, const gpu_copy_args *a) {
  copy_shape c = {};
  c.items = (uint32_t)(a->n[0] * a->n[1] * a->n[2] * (a->n[3] / N));
  c.n1 = gpu_divide_by((uint32_t)a->n[1]);
  c.n2 = gpu_divide_by((uint32_t)a->n[2]);
  c.n3 = gpu_divide_by((uint32_t)(a->n[3] / N));
  for (int d = 0; d < 4; d++) {
    c.xs[d] = a->x_stride[d] * (d == 3 ? N : 1);
    c.ys[d] = a->y_stride[d] * (d == 3 ? N : 1);
  }
  c.add = a->add;
  auto kernel = copy_kernel<X, Y, N>;
  return GPU_LAUNCH(kernel, gpu_blocks(c.items, THREADS * 4), THREADS, 0, s,
                    static_cast<const X *>(a->x), static_cast<Y *>(a->y), c);
}

/* Halves of what is more than gpu_divide can count. */
template <typename X, typename Y> static gpuError_t copy(gpuStream_t s, gpu_copy_args a) {
  constexpr int N = 8;
  if (a.n[0] * a.n[1] * a.n[2] * a.n[3] > GPU_DIVIDE_MAX) {
    int most = 0;
    for (int d = 1; d < 4; d++)
      if (a.n[d] > a.n[most]) most = d;
    gpu_copy_args first = a, second = a;
    first.n[most] = a.n[most] / (2 * N) * N; /* a multiple of N stays one */
    second.n[most] -= first.n[most];
    second.x = static_cast<const X *>(a.x) + first.n[most] * a.x_stride[most];
    second.y = static_cast<Y *>(a.y) + first.n[most] * a.y_stride[most];
    const gpuError_t e = copy<X, Y>(s, first);
    return e == gpuSuccess ? copy<X, Y>(s, second) : e;
  }
  int64_t steps = a.n[3];
  for (int d = 0; d < 3; d++) steps |= a.x_stride[d] | a.y_stride[d];
  const bool rows = a.x_stride[3] == 1 && a.y_stride[3] == 1;
  return rows && steps % N == 0 && gpu_aligned(a.x, a.y) ? copy_by<X, Y, N>(s, &a)
                                                         : copy_by<X, Y, 1>(s, &a);
}

template <typename X> static gpuError_t copy_from(gpuStream_t s, const gpu_copy_args &a) {
  switch (a.to) {
    case DS_F32: return copy<X, float>(s, a);
    case DS_BF16: return copy<X, gpu_bf16>(s, a);
    default: return copy<X, gpu_f16>(s, a);
  }
}

} // namespace

extern "C" gpuError_t gpu_copy_strided(gpuStream_t s, const gpu_copy_args *from) {
  gpu_copy_args a = *from;
  if (a.n[0] == 0 || a.n[1] == 0 || a.n[2] == 0 || a.n[3] == 0) return gpuSuccess;
  join(&a);
  switch (a.from) {
    case DS_F32: return copy_from<float>(s, a);
    case DS_BF16: return copy_from<gpu_bf16>(s, a);
    default: return copy_from<gpu_f16>(s, a);
  }
}

/* ---------------------------------------------------------------- rows by id, rows appended */

namespace {

/* Rows move as units of 16 bytes, or of an element where they aren't aligned: these move no floats, but bits. */
template <typename U>
GPU_KERNEL(THREADS)
take_rows_kernel(const int32_t *ids, const U *table, U *y, uint32_t items, gpu_divider cols,
                 int64_t entries, U nan) {
  constexpr int N = 4;
  const uint32_t first = blockIdx.x * (THREADS * N) + threadIdx.x;
  U v[N];
#pragma unroll
  for (int u = 0; u < N; u++) {
    const uint32_t i = first + u * THREADS;
    if (i >= items) break;
    uint32_t col;
    const int64_t id = ids[gpu_divide(i, cols, &col)];
    v[u] = nan;
    if (id >= 0 && id < entries) v[u] = table[id * cols.by + col];
  }
#pragma unroll
  for (int u = 0; u < N; u++)
    if (first + u * THREADS < items) y[first + u * THREADS] = v[u];
}

template <typename U>
static gpuError_t take_rows(gpuStream_t s, const int32_t *ids, const void *table, void *y,
                            int64_t rows, int64_t entries, int64_t units, U nan) {
  const int64_t most = GPU_DIVIDE_MAX / units;
  for (int64_t done = 0, now; done < rows; done += now) {
    now = rows - done < most ? rows - done : most;
    auto kernel = take_rows_kernel<U>;
    const gpuError_t e =
        GPU_LAUNCH(kernel, gpu_blocks(now * units, THREADS * 4), THREADS, 0, s, ids + done,
                   static_cast<const U *>(table), static_cast<U *>(y) + done * units,
                   (uint32_t)(now * units), gpu_divide_by((uint32_t)units), entries, nan);
    if (e != gpuSuccess) return e;
  }
  return gpuSuccess;
}

} // namespace

extern "C" gpuError_t gpu_take_rows(gpuStream_t s, int dtype, const int32_t *ids, const void *table,
                                    void *y, int64_t rows, int64_t entries, int64_t cols) {
  const uint32_t nan32 = 0x7fc00000u, nan16 = 0x7fc07fc0u, nan = dtype == DS_F32 ? nan32 : nan16;
  const int64_t size = dtype == DS_F32 ? 4 : 2;
  if (rows == 0 || cols == 0) return gpuSuccess;
  if (cols * size % 16 == 0 && gpu_aligned(table, y)) {
    const uint4 wide = {nan, nan, nan, nan};
    return take_rows(s, ids, table, y, rows, entries, cols * size / 16, wide);
  }
  return size == 4 ? take_rows(s, ids, table, y, rows, entries, cols, nan32)
                   : take_rows(s, ids, table, y, rows, entries, cols, (uint16_t)nan16);
}

namespace {

template <typename U> struct append_args {
  const U *x;
  U *y;
  const int32_t *at;
  int64_t xs[3], ys[3], keys, start; /* start: the first time */
  uint32_t items;
  gpu_divider time, groups, units;
};

template <typename U> GPU_KERNEL(THREADS) append_rows_kernel(append_args<U> a) {
  const uint32_t i = blockIdx.x * THREADS + threadIdx.x;
  if (i >= a.items) return;
  uint32_t t, g, unit;
  const uint32_t rest = gpu_divide(i, a.units, &unit), row = gpu_divide(rest, a.groups, &g);
  const int64_t b = gpu_divide(row, a.time, &t), to = a.at[b] + a.start + t;
  if (to >= 0 && to < a.keys)
    a.y[b * a.ys[0] + to * a.ys[1] + g * a.ys[2] + unit] =
        a.x[b * a.xs[0] + t * a.xs[1] + g * a.xs[2] + unit];
}

/* per: elements in a unit. As many batches, and then times, a launch as gpu_divide can count. */
template <typename U>
static gpuError_t append_rows(gpuStream_t s, const gpu_append_args *from, int64_t per) {
  append_args<U> a = {};
  const int64_t units = from->dim / per, each = units * from->groups, most = GPU_DIVIDE_MAX / each;
  const int64_t time = from->time, batch = from->batch;
  const int64_t batches = time <= most ? most / time : 1, times = time <= most ? time : most;
  for (int d = 0; d < 3; d++) {
    a.xs[d] = from->x_stride[d] / per;
    a.ys[d] = from->y_stride[d] / per;
  }
  a.groups = gpu_divide_by((uint32_t)from->groups);
  a.units = gpu_divide_by((uint32_t)units);
  a.keys = from->keys;
  for (int64_t b = 0; b < batch; b += batches)
    for (int64_t t = 0; t < time; t += times) {
      const int64_t nb = batch - b < batches ? batch - b : batches;
      const int64_t nt = time - t < times ? time - t : times;
      a.time = gpu_divide_by((uint32_t)nt);
      a.x = static_cast<const U *>(from->x) + b * a.xs[0] + t * a.xs[1];
      a.y = static_cast<U *>(from->y) + b * a.ys[0];
      a.at = from->at + b;
      a.start = t;
      a.items = (uint32_t)(nb * nt * each);
      auto kernel = append_rows_kernel<U>;
      const gpuError_t e = GPU_LAUNCH(kernel, gpu_blocks(a.items, THREADS), THREADS, 0, s, a);
      if (e != gpuSuccess) return e;
    }
  return gpuSuccess;
}

} // namespace

extern "C" gpuError_t gpu_append_rows(gpuStream_t s, int dtype, const gpu_append_args *a) {
  const int64_t size = dtype == DS_F32 ? 4 : 2, per = 16 / size;
  if (a->batch == 0 || a->time == 0 || a->groups == 0 || a->dim == 0 || a->keys == 0)
    return gpuSuccess;
  int64_t steps = a->dim;
  for (int d = 0; d < 3; d++) steps |= a->x_stride[d] | a->y_stride[d];
  if (steps % per == 0 && gpu_aligned(a->x, a->y)) return append_rows<uint4>(s, a, per);
  return size == 4 ? append_rows<uint32_t>(s, a, 1) : append_rows<uint16_t>(s, a, 1);
}
