/* gemv.cu - a few rows against a matrix: what a token costs. B is read once, 16 bytes a lane and load, with several
 * loads of every lane under way; A is small and comes from the cache.
 *
 * rows()     B stored [n,k]: 32 lanes make R elements of a row of C, or `split` times 32 lanes do, each a part of k.
 * columns()  B stored [k,n]: a lane has V neighbouring columns, LANES of them lie side by side, and the rest of the
 *            block shares out k.
 *
 * V elements make 16 bytes; V = 1 takes what isn't aligned. M bounds the rows of A. Rows that don't
 * exist are read as the last that does, and thrown away. The second bound of the kernels says that
 * registers are there to be used: without it ptxas puts the loads one behind the other. */
#include "gemm_finish.h"

namespace {

enum { THREADS = 256, GROUPS = THREADS / 32 };

template <typename T, int V> GPU_DEVICE gpu_vec<T, V> load(const T *p) {
  return *reinterpret_cast<const gpu_vec<T, V> *>(p);
}

template <typename T, int V>
GPU_DEVICE float dot(const gpu_vec<T, V> &a, const gpu_vec<T, V> &b, float sum) {
#pragma unroll
  for (int e = 0; e < V; e++) sum = fmaf(gpu_f32(a.at[e]), gpu_f32(b.at[e]), sum);
  return sum;
}

/* Loads of B under way for each lane: R of each of DEEP places in k. */
template <int M> struct plan {
  enum { R = M <= 2 ? 2 : 4, DEEP = M == 1 ? 4 : M == 2 ? 2 : 1 };
};

template <typename T, int V, int M>
GPU_KERNEL(THREADS, M <= 2   ? 3
                    : M <= 4 ? 2
                             : 1)
rows(gpu_product p, int split) {
  enum { R = plan<M>::R, DEEP = plan<M>::DEEP };
  GPU_SHARED(float, partial, GROUPS *R *M);
  const int group = (int)threadIdx.x / 32, lane = (int)threadIdx.x % 32;
  const int sets = GROUPS / split; /* of R elements of C a block */
  const unsigned blocks = (unsigned)((p.n + sets * R - 1) / (sets * R));
  const int64_t batch = blockIdx.x / blocks;
  const int64_t j0 = ((int64_t)(blockIdx.x % blocks) * sets + group / split) * R;
  const T *a = static_cast<const T *>(p.a) + batch * p.stride_a;
  const T *b = static_cast<const T *>(p.b) + batch * p.stride_b;
  const T *row_a[M], *row_b[R];
#pragma unroll
  for (int m = 0; m < M; m++) row_a[m] = a + (m < p.m ? m : p.m - 1) * p.lda;
#pragma unroll
  for (int r = 0; r < R; r++) row_b[r] = b + (j0 + r < p.n ? j0 + r : p.n - 1) * p.ldb;

  float sums[R][M] = {};
  const int64_t step = (int64_t)split * 32 * V;
  int64_t k = ((int64_t)(group % split) * 32 + lane) * V;
  for (; k + (DEEP - 1) * step + V <= p.k; k += DEEP * step) {
    gpu_vec<T, V> of_b[DEEP][R];
#pragma unroll
    for (int d = 0; d < DEEP; d++)
#pragma unroll
      for (int r = 0; r < R; r++) of_b[d][r] = load<T, V>(row_b[r] + k + d * step);
#pragma unroll
    for (int d = 0; d < DEEP; d++)
#pragma unroll
      for (int m = 0; m < M; m++) {
        const gpu_vec<T, V> of_a = load<T, V>(row_a[m] + k + d * step);
#pragma unroll
        for (int r = 0; r < R; r++) sums[r][m] = dot(of_a, of_b[d][r], sums[r][m]);
      }
  }
  for (; k + V <= p.k; k += step) {
#pragma unroll
    for (int m = 0; m < M; m++)
#pragma unroll
      for (int r = 0; r < R; r++)
        sums[r][m] = dot(load<T, V>(row_a[m] + k), load<T, V>(row_b[r] + k), sums[r][m]);
  }
  /* The last k % V: only one lane comes to stand there. */
  for (; k < p.k; k++) {
#pragma unroll
    for (int m = 0; m < M; m++)
#pragma unroll
      for (int r = 0; r < R; r++)
        sums[r][m] = fmaf(gpu_f32(row_a[m][k]), gpu_f32(row_b[r][k]), sums[r][m]);
  }

#pragma unroll
  for (int r = 0; r < R; r++)
#pragma unroll
    for (int m = 0; m < M; m++) {
#pragma unroll
      for (int by = 16; by > 0; by /= 2) sums[r][m] += gpu_shuffle_down(sums[r][m], by);
      if (lane == 0) partial[(group * R + r) * M + m] = sums[r][m];
    }
  gpu_sync();
  const int r = lane / M, m = lane % M;
  if (group % split == 0 && r < R && j0 + r < p.n && m < p.m) {
    float v[1] = {0.0f};
    for (int part = 0; part < split; part++) v[0] += partial[((group + part) * R + r) * M + m];
    v[0] *= gemm_alpha(p);
    gemm_finish_row(p, batch * p.stride_c + m * p.ldc + j0 + r, j0 + r, 1, false, v);
  }
}

template <typename T, int V, int M, int LANES>
GPU_KERNEL(THREADS, M <= 2   ? 3
                    : M <= 4 ? 2
                             : 1)
columns(gpu_product p) {
  enum { WIDTH = LANES * V, SHARE = THREADS / LANES, DEEP = M <= 2 && V > 1 ? 8 : 4 };
  GPU_SHARED(float, partial, GROUPS *M *WIDTH);
  const int group = (int)threadIdx.x / 32, lane = (int)threadIdx.x % 32;
  const unsigned blocks = (unsigned)((p.n + WIDTH - 1) / WIDTH);
  const int64_t batch = blockIdx.x / blocks;
  const int64_t j0 = (int64_t)(blockIdx.x % blocks) * WIDTH;
  const int64_t j = j0 + lane % LANES * V;
  const T *a = static_cast<const T *>(p.a) + batch * p.stride_a;
  const T *b = static_cast<const T *>(p.b) + batch * p.stride_b + (j < p.n ? j : j0);
  const T *row_a[M];
#pragma unroll
  for (int m = 0; m < M; m++) row_a[m] = a + (m < p.m ? m : p.m - 1) * p.lda;

  float sums[M][V] = {};
  int64_t k = (int)threadIdx.x / LANES;
  for (; k + (DEEP - 1) * SHARE < p.k; k += DEEP * SHARE) {
    gpu_vec<T, V> of_b[DEEP];
#pragma unroll
    for (int d = 0; d < DEEP; d++) of_b[d] = load<T, V>(b + (k + d * SHARE) * p.ldb);
#pragma unroll
    for (int d = 0; d < DEEP; d++)
#pragma unroll
      for (int m = 0; m < M; m++) {
        const float x = gpu_f32(row_a[m][k + d * SHARE]);
#pragma unroll
        for (int e = 0; e < V; e++) sums[m][e] = fmaf(x, gpu_f32(of_b[d].at[e]), sums[m][e]);
      }
  }
  for (; k < p.k; k += SHARE) {
    const gpu_vec<T, V> of_b = load<T, V>(b + k * p.ldb);
#pragma unroll
    for (int m = 0; m < M; m++) {
      const float x = gpu_f32(row_a[m][k]);
#pragma unroll
      for (int e = 0; e < V; e++) sums[m][e] = fmaf(x, gpu_f32(of_b.at[e]), sums[m][e]);
    }
  }

#pragma unroll
  for (int m = 0; m < M; m++)
#pragma unroll
    for (int e = 0; e < V; e++) {
#pragma unroll
      for (int by = 16; by >= LANES; by /= 2) sums[m][e] += gpu_shuffle_down(sums[m][e], by);
      if (lane < LANES) partial[(group * M + m) * WIDTH + lane * V + e] = sums[m][e];
    }
  gpu_sync();
  for (int t = (int)threadIdx.x; t < M * WIDTH; t += THREADS) {
    const int m = t / WIDTH;
    const int64_t col = j0 + t % WIDTH;
    if (m >= p.m || col >= p.n) continue;
    float v[1] = {0.0f};
    for (int g = 0; g < GROUPS; g++) v[0] += partial[g * M * WIDTH + t];
    v[0] *= gemm_alpha(p);
    gemm_finish_row(p, batch * p.stride_c + m * p.ldc + col, col, 1, false, v);
  }
}

/* As few parts of k as fill the device twice; every lane has something to read. */
template <typename T, int V, int M>
gpuError_t launch_rows(gpuStream_t s, const gpu_product *p, int multiprocessors) {
  enum { R = plan<M>::R };
  int split = 1;
  while (split < GROUPS && p->k >= (int64_t)split * 2 * 32 * V &&
         (p->n + R - 1) / R * p->batch * split < (int64_t)multiprocessors * 2 * GROUPS)
    split *= 2;
  const int64_t each = (int64_t)GROUPS / split * R;
  const int64_t blocks = (p->n + each - 1) / each * p->batch;
  auto kernel = rows<T, V, M>;
  return GPU_LAUNCH(kernel, dim3((unsigned)blocks), dim3(THREADS), 0, s, *p, split);
}

template <typename T, int V, int M, int LANES>
gpuError_t launch_columns(gpuStream_t s, const gpu_product *p) {
  const int64_t blocks = (p->n + LANES * V - 1) / (LANES * V) * p->batch;
  auto kernel = columns<T, V, M, LANES>;
  return GPU_LAUNCH(kernel, dim3((unsigned)blocks), dim3(THREADS), 0, s, *p);
}

template <typename T, int V, int M>
gpuError_t launch(gpuStream_t s, const gpu_product *p, int multiprocessors) {
  if (p->trans_b) return launch_rows<T, V, M>(s, p, multiprocessors);
  enum { NARROW = V == 1 ? 32 : 4, BROAD = V == 1 ? 32 : 8 };
  const bool narrow = p->n * p->batch < (int64_t)multiprocessors * 2 * BROAD * V;
  return narrow ? launch_columns<T, V, M, NARROW>(s, p) : launch_columns<T, V, M, BROAD>(s, p);
}

template <typename T, int V>
gpuError_t launch_rows_of_a(gpuStream_t s, const gpu_product *p, int multiprocessors) {
  if (p->m == 1) return launch<T, V, 1>(s, p, multiprocessors);
  if (p->m == 2) return launch<T, V, 2>(s, p, multiprocessors);
  if (p->m <= 4) return launch<T, V, 4>(s, p, multiprocessors);
  return launch<T, V, 8>(s, p, multiprocessors);
}

template <typename T> gpuError_t launch_type(gpuStream_t s, const gpu_product *p, int processors) {
  enum { V = 16 / sizeof(T) };
  const int64_t stride_a = p->batch > 1 ? p->stride_a : 0,
                stride_b = p->batch > 1 ? p->stride_b : 0;
  const bool aligned_a = gemm_aligned(p->dtype_a, p->a, p->m > 1 ? p->lda : 0, stride_a);
  const bool aligned_b = gemm_aligned(p->dtype_b, p->b, p->ldb, stride_b);
  const bool wide = aligned_b && (p->trans_b ? aligned_a : p->n % V == 0);
  return wide ? launch_rows_of_a<T, V>(s, p, processors) : launch_rows_of_a<T, 1>(s, p, processors);
}

} // namespace

extern "C" int gpu_gemv_takes(const gpu_product *p) {
  return p->m <= GPU_GEMV_ROWS && p->dtype_a == p->dtype_b &&
         (p->dtype_a == DS_F32 || p->dtype_a == DS_BF16 || p->dtype_a == DS_F16) &&
         (!p->trans_a || (p->m == 1 && p->lda == 1)) && p->n * p->batch <= INT32_MAX;
}

extern "C" gpuError_t gpu_gemv(gpuStream_t s, const gpu_product *p, int multiprocessors) {
  if (p->m == 0 || p->n == 0 || p->batch == 0) return gpuSuccess;
  switch (p->dtype_a) {
    case DS_F32: return launch_type<float>(s, p, multiprocessors);
    case DS_BF16: return launch_type<gpu_bf16>(s, p, multiprocessors);
    default: return launch_type<gpu_f16>(s, p, multiprocessors);
  }
}
