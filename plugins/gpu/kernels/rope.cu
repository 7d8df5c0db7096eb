/* rope.cu - rotary positions: a thread turns a few pairs of up to four heads, by one sine and cosine each. */
#include "rope.h"

#include "vector.h"

namespace {

enum { THREADS = 128, HEADS = 4 };

/* The sine and cosine of pos * inv_freq. The angle is made in half turns to twice float's accuracy, whole turns are
 * dropped, which is exact, and a quarter turn or less is left for the series. */
GPU_DEVICE void turn(float pos, float inv_freq, float *sine, float *cosine) {
  const float pi_hi = 0.31830987334251404f, pi_lo = 1.2841276486597053e-8f; /* 1 / pi */
  const float hi = inv_freq * pi_hi;
  const float lo = fmaf(inv_freq, pi_lo, fmaf(inv_freq, pi_hi, -hi));
  const float t = pos * hi, rest = fmaf(pos, lo, fmaf(pos, hi, -t));
  const float a = fmaf(-2.0f, rintf(0.5f * t), t) + rest; /* in about [-1,1] */
  const float quarters = rintf(2.0f * a), x = 3.14159265358979f * fmaf(-0.5f, quarters, a);
  const float s = x * x;
  const float sin_x =
      x *
      fmaf(s,
           fmaf(s, fmaf(s, fmaf(s, 2.7557319e-6f, -1.9841270e-4f), 8.3333333e-3f), -1.6666667e-1f),
           1.0f);
  const float cos_x =
      fmaf(s, fmaf(s, fmaf(s, fmaf(s, 2.4801587e-5f, -1.3888889e-3f), 4.1666667e-2f), -0.5f), 1.0f);
  const int q = (int)quarters & 3;
  const float u = q & 1 ? cos_x : sin_x, v = q & 1 ? sin_x : cos_x;
  *sine = q & 2 ? -u : u;
  *cosine = q == 1 || q == 2 ? -v : v;
}

template <typename T> struct rope_args {
  const T *x;
  T *y;
  const int32_t *pos;
  const float *inv_freq;
  int64_t xs[3], ys[3];
  bool interleaved, inverse, add;
  int heads, dim, pairs;
  uint32_t items;
  gpu_divider slots, head_groups, time; /* of a head; of a position; of a batch */
};

template <int N, typename T> GPU_DEVICE void put(T *y, float (&v)[N], bool add) {
  float was[N];
  if (add) {
    gpu_read<N>(y, was);
#pragma unroll
    for (int j = 0; j < N; j++) v[j] += was[j];
  }
  gpu_write<N>(y, v);
}

/* N pairs that begin at pair p of one head. */
template <int N, typename T>
GPU_DEVICE void rotate(const T *x, T *y, int p, const rope_args<T> &a, const float (&sine)[N],
                       const float (&cosine)[N]) {
  if (a.interleaved && N > 1) {
    float v[2 * N];
    gpu_read<2 * N>(x + 2 * p, v);
#pragma unroll
    for (int j = 0; j < N; j++) {
      const float one = v[2 * j], two = v[2 * j + 1];
      v[2 * j] = one * cosine[j] - two * sine[j];
      v[2 * j + 1] = two * cosine[j] + one * sine[j];
    }
    put<2 * N>(y + 2 * p, v, a.add);
  } else {
    /* A single pair may stand at any address, together or apart. */
    const int64_t first = a.interleaved ? 2 * p : p,
                  second = a.interleaved ? first + 1 : p + a.pairs;
    float one[N], two[N];
    gpu_read<N>(x + first, one);
    gpu_read<N>(x + second, two);
#pragma unroll
    for (int j = 0; j < N; j++) {
      const float u = one[j] * cosine[j] - two[j] * sine[j];
      two[j] = two[j] * cosine[j] + one[j] * sine[j];
      one[j] = u;
    }
    put<N>(y + first, one, a.add);
    put<N>(y + second, two, a.add);
  }
}

/* A head's slots: N pairs each, then N of the elements behind the pairs. */
template <typename T, int N> GPU_KERNEL(THREADS) rope_kernel(rope_args<T> a) {
  const uint32_t item = blockIdx.x * THREADS + threadIdx.x;
  if (item >= a.items) return;
  uint32_t slot, head_group, t;
  const uint32_t rest = gpu_divide(item, a.slots, &slot);
  const uint32_t row = gpu_divide(rest, a.head_groups, &head_group);
  const int64_t b = gpu_divide(row, a.time, &t);
  const int first = (int)head_group * HEADS;
  const int last = first + HEADS < a.heads ? first + HEADS : a.heads;
  const T *x = a.x + b * a.xs[0] + t * a.xs[1];
  T *y = a.y + b * a.ys[0] + t * a.ys[1];
  const int p = (int)slot * N;
  if (p < a.pairs) {
    float sine[N], cosine[N];
    const float pos = (float)a.pos[row] * (a.inverse ? -1.0f : 1.0f);
#pragma unroll
    for (int j = 0; j < N; j++) turn(pos, a.inv_freq[p + j], &sine[j], &cosine[j]);
#pragma unroll 1
    for (int h = first; h < last; h++)
      rotate<N>(x + h * a.xs[2], y + h * a.ys[2], p, a, sine, cosine);
  } else {
    float v[N];
    for (int h = first; h < last; h++) {
      gpu_read<N>(x + h * a.xs[2] + a.pairs + p, v);
      put<N>(y + h * a.ys[2] + a.pairs + p, v, a.add);
    }
  }
}

/* As many batches, and then times, a launch as gpu_divide can count. */
template <typename T, int N>
static gpuError_t launch(gpuStream_t s, rope_args<T> a, int64_t batch, int64_t time) {
  const int64_t slots = (a.pairs + (a.dim - 2 * a.pairs)) / N;
  const int64_t groups = (a.heads + HEADS - 1) / HEADS, most = GPU_DIVIDE_MAX / (slots * groups);
  a.slots = gpu_divide_by((uint32_t)slots);
  a.head_groups = gpu_divide_by((uint32_t)groups);
  const int64_t batches = time <= most ? most / time : 1, times = time <= most ? time : most;
  for (int64_t b = 0; b < batch; b += batches)
    for (int64_t t = 0; t < time; t += times) {
      const int64_t nb = batch - b < batches ? batch - b : batches;
      const int64_t nt = time - t < times ? time - t : times;
      rope_args<T> now = a;
      now.time = gpu_divide_by((uint32_t)nt);
      now.x += b * a.xs[0] + t * a.xs[1];
      now.y += b * a.ys[0] + t * a.ys[1];
      now.pos += b * time + t;
      now.items = (uint32_t)(nb * nt * slots * groups);
      auto kernel = rope_kernel<T, N>;
      const gpuError_t e = GPU_LAUNCH(kernel, gpu_blocks(now.items, THREADS), THREADS, 0, s, now);
      if (e != gpuSuccess) return e;
    }
  return gpuSuccess;
}

template <typename T> static gpuError_t rope(gpuStream_t s, const gpu_rope_args *from) {
  constexpr int N = 16 / (int)sizeof(T);
  rope_args<T> a = {};
  a.x = static_cast<const T *>(from->x);
  a.y = static_cast<T *>(from->y);
  a.pos = from->pos;
  a.inv_freq = from->inv_freq;
  int64_t steps = from->pairs | from->dim;
  for (int d = 0; d < 3; d++) {
    a.xs[d] = from->x_stride[d];
    a.ys[d] = from->y_stride[d];
    steps |= a.xs[d] | a.ys[d];
  }
  a.interleaved = from->interleaved;
  a.inverse = from->inverse;
  a.add = from->add;
  a.heads = (int)from->heads;
  a.dim = (int)from->dim;
  a.pairs = (int)from->pairs;
  return steps % N == 0 && gpu_aligned(a.x, a.y) ? launch<T, N>(s, a, from->batch, from->time)
                                                 : launch<T, 1>(s, a, from->batch, from->time);
}

} // namespace

extern "C" gpuError_t gpu_rope(gpuStream_t s, int dtype, const gpu_rope_args *a) {
  if (a->batch == 0 || a->time == 0 || a->heads == 0 || a->dim == 0) return gpuSuccess;
  GPU_DTYPE_SWITCH(dtype, T, return (rope<T>(s, a)));
}
