/* swiglu.cu - silu(gate) * up and its gradient, over rows with steps. */
#include "swiglu.h"

#include "activation.h"
#include "vector.h"

namespace {

enum { THREADS = 256 };

/* Rows of `cols` vectors; a thread has one, or two that are half of all apart. */
template <typename T> struct swiglu_args {
  const T *dy, *gate, *up;
  T *y, *dgate, *dup;
  int64_t gate_step, up_step, dgate_step, dup_step;
  bool add_gate, add_up;
  uint32_t vectors;
  gpu_divider cols;
};

template <typename T, int N> GPU_KERNEL(THREADS) swiglu_kernel(swiglu_args<T> a) {
  constexpr int U = 2;
  float gate[U][N], up[U][N];
  const uint32_t first = blockIdx.x * (THREADS * U) + threadIdx.x;
#pragma unroll
  for (int u = 0; u < U; u++) {
    const uint32_t i = first + u * THREADS;
    if (i >= a.vectors) break;
    uint32_t col;
    const int64_t row = gpu_divide(i, a.cols, &col);
    gpu_read<N>(a.gate + row * a.gate_step + (int64_t)col * N, gate[u]);
    gpu_read<N>(a.up + row * a.up_step + (int64_t)col * N, up[u]);
  }
#pragma unroll
  for (int u = 0; u < U; u++) {
    const uint32_t i = first + u * THREADS;
    if (i >= a.vectors) break;
#pragma unroll
    for (int j = 0; j < N; j++) up[u][j] *= gpu_activation<DS_ACTIVATION_SILU>(gate[u][j]);
    gpu_write<N>(a.y + (int64_t)i * N, up[u]);
  }
}

template <typename T, int N> GPU_KERNEL(THREADS) swiglu_backward_kernel(swiglu_args<T> a) {
  float dy[N], gate[N], up[N], was[N];
  const uint32_t i = blockIdx.x * THREADS + threadIdx.x;
  if (i >= a.vectors) return;
  uint32_t col;
  const int64_t row = gpu_divide(i, a.cols, &col), at = (int64_t)col * N;
  T *dgate = a.dgate + row * a.dgate_step + at, *dup = a.dup + row * a.dup_step + at;
  gpu_read<N>(a.dy + (int64_t)i * N, dy);
  gpu_read<N>(a.gate + row * a.gate_step + at, gate);
  gpu_read<N>(a.up + row * a.up_step + at, up);
#pragma unroll
  for (int j = 0; j < N; j++) {
    const float s = gpu_sigmoid(gate[j]), slope = s * fmaf(gate[j], 1.0f - s, 1.0f);
    up[j] = dy[j] * up[j] * slope;
    gate[j] = dy[j] * gate[j] * s;
  }
  if (a.add_gate) {
    gpu_read<N>(dgate, was);
#pragma unroll
    for (int j = 0; j < N; j++) up[j] += was[j];
  }
  if (a.add_up) {
    gpu_read<N>(dup, was);
#pragma unroll
    for (int j = 0; j < N; j++) gate[j] += was[j];
  }
  gpu_write<N>(dgate, up);
  gpu_write<N>(dup, gate);
}

template <typename T> static swiglu_args<T> skip_rows(swiglu_args<T> a, int64_t n, int64_t cols) {
  if (a.dy) a.dy += n * cols;
  if (a.y) a.y += n * cols;
  a.gate += n * a.gate_step;
  a.up += n * a.up_step;
  if (a.dgate) a.dgate += n * a.dgate_step;
  if (a.dup) a.dup += n * a.dup_step;
  return a;
}

/* As many rows a launch as gpu_divide can count. */
template <typename T, int N>
static gpuError_t launch(gpuStream_t s, swiglu_args<T> a, int64_t rows, int64_t cols) {
  const int64_t vectors = cols / N, most = GPU_DIVIDE_MAX / vectors;
  a.cols = gpu_divide_by((uint32_t)vectors);
  for (int64_t done = 0, now; done < rows; done += now) {
    now = rows - done < most ? rows - done : most;
    a.vectors = (uint32_t)(now * vectors);
    auto kernel = a.y ? swiglu_kernel<T, N> : swiglu_backward_kernel<T, N>;
    const gpuError_t e =
        GPU_LAUNCH(kernel, gpu_blocks(a.vectors, a.y ? 2 * THREADS : THREADS), THREADS, 0, s, a);
    if (e != gpuSuccess) return e;
    a = skip_rows(a, now, cols);
  }
  return gpuSuccess;
}

template <typename T>
static gpuError_t swiglu(gpuStream_t s, const swiglu_args<T> &a, int64_t rows, int64_t cols) {
  constexpr int N = 8;
  if (rows == 0 || cols == 0) return gpuSuccess;
  const int64_t steps = a.gate_step | a.up_step | a.dgate_step | a.dup_step | cols;
  const bool vectors = steps % N == 0 && gpu_aligned(a.dy, a.gate, a.up, a.y, a.dgate, a.dup);
  return vectors ? launch<T, N>(s, a, rows, cols) : launch<T, 1>(s, a, rows, cols);
}

} // namespace

extern "C" gpuError_t gpu_swiglu(gpuStream_t s, int dtype, gpu_rows gate, gpu_rows up, void *y,
                                 int64_t rows, int64_t cols) {
  GPU_DTYPE_SWITCH(dtype, T, {
    swiglu_args<T> a = {};
    a.gate = static_cast<const T *>(gate.data);
    a.up = static_cast<const T *>(up.data);
    a.y = static_cast<T *>(y);
    a.gate_step = gate.step;
    a.up_step = up.step;
    return swiglu(s, a, rows, cols);
  });
}

extern "C" gpuError_t gpu_swiglu_backward(gpuStream_t s, int dtype, const void *dy, gpu_rows gate,
                                          gpu_rows up, gpu_rows dgate, gpu_rows dup, int64_t rows,
                                          int64_t cols, bool add_gate, bool add_up) {
  GPU_DTYPE_SWITCH(dtype, T, {
    swiglu_args<T> a = {};
    a.dy = static_cast<const T *>(dy);
    a.gate = static_cast<const T *>(gate.data);
    a.up = static_cast<const T *>(up.data);
    a.dgate = static_cast<T *>(dgate.data);
    a.dup = static_cast<T *>(dup.data);
    a.gate_step = gate.step;
    a.up_step = up.step;
    a.dgate_step = dgate.step;
    a.dup_step = dup.step;
    a.add_gate = add_gate;
    a.add_up = add_up;
    return swiglu(s, a, rows, cols);
  });
}
