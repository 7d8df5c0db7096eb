/* quant_convert.cu - plain values to quantized ones and back.
 *
 * A team of neighbouring threads goes along a group, or along a span of one that is long: 8 or 32 lanes of a wave, or the
 * whole block. Values go by N at once, 16 bytes of plain ones, where groups lie so; by one elsewhere, and 4-bit
 * ones by the two of a byte. */
#include "quant_value.h"

namespace {

enum { THREADS = 256, PARTS = 1024, SPAN = 8192, ROW_STEP = 512 };

/* ---- scales */

/* Of some values and 0; NaN where one of them is. */
struct bounds {
  float low, high;
};

GPU_DEVICE float nan_min(float a, float b) {
  return a < b || a != a ? a : b;
}
GPU_DEVICE float nan_max(float a, float b) {
  return a > b || a != a ? a : b;
}
GPU_DEVICE bounds join(bounds a, bounds b) {
  return bounds{nan_min(a.low, b.low), nan_max(a.high, b.high)};
}

/* Over a team; every thread of the block comes. all: THREADS / 32, shared. */
GPU_DEVICE bounds team_bounds(bounds b, int team, bounds *all) {
  for (int by = (team < 32 ? team : 32) / 2; by > 0; by /= 2)
    b = join(b, bounds{gpu_shuffle_xor(b.low, by), gpu_shuffle_xor(b.high, by)});
  if (team <= 32) return b; /* so for the whole block */
  if (threadIdx.x % 32 == 0) all[threadIdx.x / 32] = b;
  gpu_sync();
  b = all[0];
  for (int i = 1; i < THREADS / 32; i++) b = join(b, all[i]);
  return b;
}

template <typename T, int N> GPU_DEVICE bounds vector_bounds(bounds b, const T *x) {
  const gpu_vec<T, N> v = *reinterpret_cast<const gpu_vec<T, N> *>(x);
#pragma unroll
  for (int i = 0; i < N; i++) b = join(b, bounds{gpu_f32(v.at[i]), gpu_f32(v.at[i])});
  return b;
}

/* A scale too small for f32 counts as that of zeros. */
template <int Q> GPU_DEVICE quant_scale scale_of(bounds b, bool asymmetric) {
  const float most = quant_most<Q>();
  quant_scale s = {nan_max(-b.low, b.high) / most, 0.0f, -most};
  if (asymmetric) {
    s.least -= 1.0f;
    s.scale = (b.high - b.low) / (most - s.least);
    const float zero = s.least - b.low / s.scale;
    if (zero >= s.least && s.scale != 0.0f) s.zero = rintf(fminf(zero, most)); /* not for NaN */
  }
  if (s.scale == 0.0f) s.scale = 1.0f;
  return s;
}

template <int Q> GPU_DEVICE void put_scale(const gpu_quant &q, int64_t group, quant_scale s) {
  q.scales[group] = s.scale;
  if (q.zeros != nullptr) q.zeros[group] = (int8_t)s.zero;
}

/* ---- values */

/* N neighbours, from place `at` on, a multiple of N; N is even for 4 bits. */
template <typename T, int Q, int N>
GPU_DEVICE void encode(void *values, const T *x, int64_t at, quant_scale s) {
  enum { BYTES = Q == DS_I4 ? N / 2 : N };
  static_assert(Q != DS_I4 || N % 2 == 0, "two to a byte");
  const gpu_vec<T, N> v = *reinterpret_cast<const gpu_vec<T, N> *>(x + at);
  gpu_vec<uint8_t, BYTES> out;
#pragma unroll
  for (int i = 0; i < BYTES; i++) {
    const unsigned first = quant_encode<Q>(gpu_f32(v.at[i * N / BYTES]), s);
    const unsigned last = quant_encode<Q>(gpu_f32(v.at[(i + 1) * N / BYTES - 1]), s);
    out.at[i] = (uint8_t)(Q == DS_I4 ? first | last << 4 : first);
  }
  *reinterpret_cast<gpu_vec<uint8_t, BYTES> *>(static_cast<uint8_t *>(values) + at * BYTES / N) =
      out;
}

template <typename T, int Q, int N>
GPU_DEVICE void decode(const void *values, T *x, int64_t at, quant_scale s) {
  enum { BYTES = N == 1 || Q != DS_I4 ? N : N / 2 };
  gpu_vec<T, N> v;
  if (N == 1) {
    v.at[0] = gpu_from<T>(quant_value<Q>(quant_code_at<Q>(values, at), s));
  } else {
    const gpu_vec<uint8_t, BYTES> in = *reinterpret_cast<const gpu_vec<uint8_t, BYTES> *>(
        static_cast<const uint8_t *>(values) + at * BYTES / N);
#pragma unroll
    for (int i = 0; i < N; i++)
      v.at[i] = gpu_from<T>(quant_value<Q>(Q == DS_I4 ? in.at[i / 2] >> 4 * (i % 2) : in.at[i], s));
  }
  *reinterpret_cast<gpu_vec<T, N> *>(x + at) = v;
}

/* ---- kernels */

/* Where a thread works: elements [at, end) of its team's group, by `step`, its own ones from `mine` on. */
struct place {
  int64_t group, mine, end;
};

/* team: its threads, a power of two. spans: of a group; 1: groups whole. A team past the last one gets nothing. */
GPU_DEVICE place my_place(const gpu_quant &q, int team, int n, int64_t spans) {
  const int mine = (int)threadIdx.x % team;
  const int64_t which = (int64_t)blockIdx.x * (THREADS / team) + (int)threadIdx.x / team;
  const int64_t group = spans == 1 ? which : which / spans, at = (which - group * spans) * SPAN;
  if (group >= q.groups) return place{0, 0, 0};
  const int64_t left = q.group - at, count = spans > 1 && left > SPAN ? (int64_t)SPAN : left;
  return place{group, group * q.group + at + mine * n, group * q.group + at + count};
}

/* Scales of whole groups and, unless that is another kernel's, their values. Bounds go by N, values by B. */
template <typename T, int Q, int N, int B>
GPU_KERNEL(THREADS)
quantize_groups(gpu_quant q, const T *x, int team, bool values) {
  GPU_SHARED(bounds, all, THREADS / 32);
  const place p = my_place(q, team, N, 1), out = my_place(q, team, B, 1);
  bounds b = {0.0f, 0.0f};
  for (int64_t i = p.mine; i < p.end; i += team * N) b = vector_bounds<T, N>(b, x + i);
  b = team_bounds(b, team, all);
  if (p.end == 0) return;
  const quant_scale s = scale_of<Q>(b, q.zeros != nullptr);
  if ((int)threadIdx.x % team == 0) put_scale<Q>(q, p.group, s);
  for (int64_t i = out.mine; values && i < out.end; i += team * B)
    encode<T, Q, B>(q.values, x, i, s);
}

/* One group: bounds of parts, then of all, then the values. */
template <typename T, int N> GPU_KERNEL(THREADS) tensor_bounds(const T *x, int64_t n, bounds *out) {
  GPU_SHARED(bounds, all, THREADS / 32);
  bounds b = {0.0f, 0.0f};
  const int64_t step = (int64_t)gridDim.x * THREADS * N;
  for (int64_t i = ((int64_t)blockIdx.x * THREADS + threadIdx.x) * N; i < n; i += step)
    b = vector_bounds<T, N>(b, x + i);
  b = team_bounds(b, THREADS, all);
  if (threadIdx.x == 0) out[blockIdx.x] = b;
}
template <int Q> GPU_KERNEL(THREADS) tensor_scale(gpu_quant q, const bounds *parts, int n) {
  GPU_SHARED(bounds, all, THREADS / 32);
  bounds b = {0.0f, 0.0f};
  for (int i = (int)threadIdx.x; i < n; i += THREADS) b = join(b, parts[i]);
  b = team_bounds(b, THREADS, all);
  if (threadIdx.x == 0) put_scale<Q>(q, 0, scale_of<Q>(b, q.zeros != nullptr));
}

/* Values by scales that are there. */
template <typename T, int Q, int B>
GPU_KERNEL(THREADS)
quantize_values(gpu_quant q, const T *x, int64_t spans) {
  const place p = my_place(q, THREADS, B, spans);
  if (p.end == 0) return;
  const quant_scale s = quant_stored_scale<Q>(q, p.group);
  for (int64_t i = p.mine; i < p.end; i += THREADS * B) encode<T, Q, B>(q.values, x, i, s);
}
/* 4 bits in odd groups: the values of a byte may have two scales. */
template <typename T> GPU_KERNEL(THREADS) quantize_bytes(gpu_quant q, const T *x, int64_t bytes) {
  const int64_t i = (int64_t)blockIdx.x * THREADS + threadIdx.x;
  if (i >= bytes) return;
  unsigned code[2];
#pragma unroll
  for (int k = 0; k < 2; k++) {
    const quant_scale s = quant_stored_scale<DS_I4>(q, (2 * i + k) / q.group);
    code[k] = quant_encode<DS_I4>(gpu_f32(x[2 * i + k]), s);
  }
  static_cast<uint8_t *>(q.values)[i] = (uint8_t)(code[0] | code[1] << 4);
}

template <typename T, int Q, int N>
GPU_KERNEL(THREADS)
dequantize(gpu_quant q, T *x, int team, int64_t spans) {
  const place p = my_place(q, team, N, spans);
  if (p.end == 0) return;
  const quant_scale s = quant_stored_scale<Q>(q, p.group);
  for (int64_t i = p.mine; i < p.end; i += team * N) decode<T, Q, N>(q.values, x, i, s);
}

/* A row of A a block, to int8 with a scale of its own; zeros up to `room`. */
template <typename T>
GPU_KERNEL(THREADS)
quantize_rows(const T *a, int64_t cols, int64_t lda, int64_t room, int8_t *codes, float *scales,
              int32_t *sums) {
  GPU_SHARED(bounds, all, THREADS / 32);
  const T *row = a + (int64_t)blockIdx.x * lda;
  codes += (int64_t)blockIdx.x * room;
  sums += (int64_t)blockIdx.x * (room / GPU_QUANT_SUM);
  bounds b = {0.0f, 0.0f};
  for (int64_t i = threadIdx.x; i < cols; i += THREADS) b = vector_bounds<T, 1>(b, row + i);
  b = team_bounds(b, THREADS, all);
  const quant_scale s = scale_of<DS_I8>(b, false);
  if (threadIdx.x == 0) scales[blockIdx.x] = s.scale;
  for (int64_t begin = 0; begin < room; begin += THREADS * 4) {
    const int64_t i = begin + (int64_t)threadIdx.x * 4;
    gpu_vec<int8_t, 4> v;
    int sum = 0;
#pragma unroll
    for (int k = 0; k < 4; k++) {
      v.at[k] = i + k < cols ? (int8_t)quant_encode<DS_I8>(gpu_f32(row[i + k]), s) : (int8_t)0;
      sum += v.at[k];
    }
#pragma unroll
    for (int by = GPU_QUANT_SUM / 8; by > 0; by /= 2) sum += gpu_shuffle_xor(sum, by);
    if (i < room) *reinterpret_cast<gpu_vec<int8_t, 4> *>(codes + i) = v;
    if (i < room && i % GPU_QUANT_SUM == 0) sums[i / GPU_QUANT_SUM] = sum;
  }
}

/* ---- launches */

dim3 grid_of(int64_t items, int64_t each) {
  return dim3((unsigned)((items + each - 1) / each));
}

/* Whether groups begin where 16 bytes of plain values and their codes do. */
template <typename T> bool in_vectors(const gpu_quant &q, const void *x) {
  const unsigned n = 16 / sizeof(T);
  const uintptr_t codes = q.qtype == DS_I4 ? n / 2 : n;
  return q.group % n == 0 && (uintptr_t)x % 16 == 0 && (uintptr_t)q.values % codes == 0;
}

/* Threads for a group, of which each has some values by N. */
int team_of(const gpu_quant &q, int n) {
  return q.group >= 2048 ? THREADS : q.group > 16 * n ? 32 : 8;
}

template <typename T, int Q, int N, int B>
gpuError_t launch_groups(gpuStream_t s, const gpu_quant &q, const T *x, bool values) {
  const int team = team_of(q, N);
  auto k = quantize_groups<T, Q, N, B>;
  return GPU_LAUNCH(k, grid_of(q.groups, THREADS / team), dim3(THREADS), 0, s, q, x, team, values);
}

template <typename T, int Q, int N, int B>
gpuError_t launch_tensor(gpuStream_t s, const gpu_quant &q, const T *x, bounds *parts) {
  const int64_t blocks = (q.group + THREADS * N * 4 - 1) / (THREADS * N * 4);
  const int n = blocks < PARTS ? (int)blocks : (int)PARTS;
  auto first = tensor_bounds<T, N>;
  gpuError_t e = GPU_LAUNCH(first, dim3((unsigned)n), dim3(THREADS), 0, s, x, q.group, parts);
  if (e != gpuSuccess) return e;
  auto second = tensor_scale<Q>;
  e = GPU_LAUNCH(second, dim3(1), dim3(THREADS), 0, s, q, parts, n);
  if (e != gpuSuccess) return e;
  const int64_t spans = (q.group + SPAN - 1) / SPAN;
  auto third = quantize_values<T, Q, B>;
  return GPU_LAUNCH(third, grid_of(spans, 1), dim3(THREADS), 0, s, q, x, spans);
}

template <typename T, int Q>
gpuError_t launch_quantize(gpuStream_t s, const gpu_quant &q, const T *x, void *scratch) {
  enum { N = 16 / sizeof(T), B = Q == DS_I4 ? 2 : 1 };
  const bool wide = in_vectors<T>(q, x);
  if (q.row_groups == 0) {
    bounds *parts = static_cast<bounds *>(scratch);
    return wide ? launch_tensor<T, Q, N, N>(s, q, x, parts)
                : launch_tensor<T, Q, 1, B>(s, q, x, parts);
  }
  if (wide) return launch_groups<T, Q, N, N>(s, q, x, true);
  const bool odd = Q == DS_I4 && q.group % 2 != 0;
  gpuError_t e = launch_groups<T, Q, 1, B>(s, q, x, !odd);
  if (e != gpuSuccess || !odd) return e;
  const int64_t bytes = q.rows * q.cols / 2;
  auto k = quantize_bytes<T>;
  return GPU_LAUNCH(k, grid_of(bytes, THREADS), dim3(THREADS), 0, s, q, x, bytes);
}

template <typename T, int Q, int N>
gpuError_t launch_dequantize_by(gpuStream_t s, const gpu_quant &q, T *x) {
  const int team = team_of(q, N);
  const int64_t spans = (q.group + SPAN - 1) / SPAN;
  auto k = dequantize<T, Q, N>;
  return GPU_LAUNCH(k, grid_of(q.groups * spans, THREADS / team), dim3(THREADS), 0, s, q, x, team,
                    spans);
}
template <typename T, int Q> gpuError_t launch_dequantize(gpuStream_t s, const gpu_quant &q, T *x) {
  return in_vectors<T>(q, x) ? launch_dequantize_by<T, Q, 16 / sizeof(T)>(s, q, x)
                             : launch_dequantize_by<T, Q, 1>(s, q, x);
}

template <typename T>
gpuError_t quantize_of(gpuStream_t s, const gpu_quant &q, const T *x, void *scratch) {
  switch (q.qtype) {
    case DS_I8: return launch_quantize<T, DS_I8>(s, q, x, scratch);
    case DS_I4: return launch_quantize<T, DS_I4>(s, q, x, scratch);
    case DS_F8E4M3: return launch_quantize<T, DS_F8E4M3>(s, q, x, scratch);
    default: return launch_quantize<T, DS_F8E5M2>(s, q, x, scratch);
  }
}
template <typename T> gpuError_t dequantize_of(gpuStream_t s, const gpu_quant &q, T *x) {
  switch (q.qtype) {
    case DS_I8: return launch_dequantize<T, DS_I8>(s, q, x);
    case DS_I4: return launch_dequantize<T, DS_I4>(s, q, x);
    case DS_F8E4M3: return launch_dequantize<T, DS_F8E4M3>(s, q, x);
    default: return launch_dequantize<T, DS_F8E5M2>(s, q, x);
  }
}

} // namespace

extern "C" gpuError_t gpu_quant_quantize(gpuStream_t s, const gpu_quant *q, const void *x,
                                         void *scratch) {
  return q->dtype == DS_F32 ? quantize_of(s, *q, static_cast<const float *>(x), scratch)
                            : quantize_of(s, *q, static_cast<const gpu_bf16 *>(x), scratch);
}

extern "C" gpuError_t gpu_quant_dequantize(gpuStream_t s, const gpu_quant *q, void *x) {
  return q->dtype == DS_F32 ? dequantize_of(s, *q, static_cast<float *>(x))
                            : dequantize_of(s, *q, static_cast<gpu_bf16 *>(x));
}

extern "C" int64_t gpu_quant_row_bytes(int64_t cols) {
  return (cols + ROW_STEP - 1) / ROW_STEP * ROW_STEP;
}

template <typename T>
static gpuError_t launch_rows(gpuStream_t s, const gpu_quant &q, const gpu_quant_product &p,
                              int8_t *codes, float *scales, int32_t *sums) {
  auto k = quantize_rows<T>;
  return GPU_LAUNCH(k, dim3((unsigned)p.m), dim3(THREADS), 0, s, static_cast<const T *>(p.a),
                    q.cols, p.lda, gpu_quant_row_bytes(q.cols), codes, scales, sums);
}

extern "C" gpuError_t gpu_quant_rows(gpuStream_t s, const gpu_quant *q, const gpu_quant_product *p,
                                     int8_t *codes, float *scales, int32_t *sums) {
  return q->dtype == DS_F32 ? launch_rows<float>(s, *q, *p, codes, scales, sums)
                            : launch_rows<gpu_bf16>(s, *q, *p, codes, scales, sums);
}
