/* quant_gemv.cu - a few rows of A against quantized values, which are read once.
 *
 * 32 lanes take R rows of values, 16 bytes of each at a time, and have the next 16 on their way meanwhile. A stands in
 * shared memory, in panels of columns: as floats, or in whole numbers. There the four columns that lanes read at
 * once lie together, so that no two lanes want the same bank. A lane's 16 bytes are in one group: their sum is made of
 * values before the scale, which then multiplies it. */
#include "quant_value.h"

namespace {

enum { LANES = 32, TEAMS = 8, THREADS = LANES * TEAMS, ROOM = 32768 /* bytes of A */ };

/* Columns in 16 bytes of values. */
template <int Q> GPU_DEVICE constexpr int chunk() {
  return Q == DS_I4 ? 32 : 16;
}

/* c + a . b of four signed bytes. */
GPU_DEVICE int dot4(int c, uint32_t a, uint32_t b) {
#if defined(__CUDA_ARCH__)
  return __dp4a((int)a, (int)b, c);
#elif defined(__gfx906__) || defined(__gfx908__) || defined(__gfx90a__) || defined(__gfx940__) ||  \
    defined(__gfx941__) || defined(__gfx942__) || defined(__gfx1011__) || defined(__gfx1012__) ||  \
    defined(__gfx1030__) || defined(__gfx1031__) || defined(__gfx1032__)
  return __builtin_amdgcn_sdot4((int)a, (int)b, c, false);
#else
#pragma unroll
  for (int i = 0; i < 32; i += 8) c += (int8_t)(a >> i) * (int8_t)(b >> i);
  return c;
#endif
}

/* ---- A in shared memory */

/* Where the four columns from `col` on stand in a panel of floats. */
template <int Q> GPU_DEVICE int float_at(int col) {
  enum { C = chunk<Q>() };
  return col / (LANES * C) * (LANES * C) + (col % C / 4 * LANES + col / C % LANES) * 4;
}

template <typename T, int Q>
GPU_DEVICE void stage_row(float *panel, const T *a, int64_t cols, int width, bool in_vectors) {
  for (int col = (int)threadIdx.x * 4; col < width; col += THREADS * 4) {
    gpu_vec<float, 4> v = {{0, 0, 0, 0}};
    if (in_vectors && col + 4 <= cols) {
      const gpu_vec<T, 4> x = *reinterpret_cast<const gpu_vec<T, 4> *>(a + col);
#pragma unroll
      for (int i = 0; i < 4; i++) v.at[i] = gpu_f32(x.at[i]);
    } else {
#pragma unroll
      for (int i = 0; i < 4; i++)
        if (col + i < cols) v.at[i] = gpu_f32(a[col + i]);
    }
    *reinterpret_cast<gpu_vec<float, 4> *>(panel + float_at<Q>(col)) = v;
  }
}

/* Columns [at, at + PANEL) of M rows, zeros behind the last. */
template <typename T, int Q, int M>
GPU_DEVICE void stage(float *panel, const gpu_quant_product &p, int64_t at, int64_t cols) {
  enum { PANEL = ROOM / M / 4 };
  const T *a = static_cast<const T *>(p.a);
  const bool in_vectors = (uintptr_t)a % (4 * sizeof(T)) == 0 && p.lda % 4 == 0;
  enum { STEP = LANES * chunk<Q>() };
  const int64_t left = (cols - at + STEP - 1) / STEP * STEP;
  const int width = left < PANEL ? (int)left : (int)PANEL;
  for (int m = 0; m < M; m++) {
    const int64_t row = m < p.m ? m : p.m - 1;
    stage_row<T, Q>(panel + m * PANEL, a + row * p.lda + at, cols - at, width, in_vectors);
  }
}
template <typename T, int Q, int M>
GPU_DEVICE void stage(int8_t *panel, const gpu_quant_product &p, int64_t at, int64_t cols) {
  enum { PANEL = ROOM / M, STEP = LANES * 16 };
  const int64_t room = (cols + STEP - 1) / STEP * STEP, left = room - at;
  const int width = left < PANEL ? (int)left : (int)PANEL;
  for (int m = 0; m < M; m++) {
    const int8_t *a = p.codes + (m < p.m ? m : p.m - 1) * room + at;
    for (int col = (int)threadIdx.x * 16; col < width; col += THREADS * 16)
      *reinterpret_cast<uint4 *>(panel + m * PANEL + col) =
          *reinterpret_cast<const uint4 *>(a + col);
  }
}

/* ---- 16 bytes of R rows with the same columns of M rows of A */

template <int Q, int M, int R>
GPU_DEVICE void multiply(float (&total)[R][M], const uint32_t (&words)[R][4], const float *a,
                         const float (&scale)[R], const float (&zero)[R]) {
  enum { PANEL = ROOM / M / 4 };
  const int lane = (int)threadIdx.x % LANES;
  float part[R][M] = {};
#pragma unroll
  for (int j = 0; j < chunk<Q>() / 4; j++) {
    float x[R][4];
#pragma unroll
    for (int r = 0; r < R; r++) quant_decode4<Q>(x[r], words[r], j, zero[r]);
#pragma unroll
    for (int m = 0; m < M; m++) {
      const gpu_vec<float, 4> v =
          *reinterpret_cast<const gpu_vec<float, 4> *>(a + m * PANEL + (j * LANES + lane) * 4);
#pragma unroll
      for (int r = 0; r < R; r++)
#pragma unroll
        for (int i = 0; i < 4; i++) part[r][m] = fmaf(v.at[i], x[r][i], part[r][m]);
    }
  }
#pragma unroll
  for (int r = 0; r < R; r++)
#pragma unroll
    for (int m = 0; m < M; m++) total[r][m] = fmaf(scale[r], part[r][m], total[r][m]);
}

template <int Q, int M, int R>
GPU_DEVICE void multiply(float (&total)[R][M], const uint32_t (&words)[R][4], const int8_t *a,
                         const float (&scale)[R], const float (&zero)[R]) {
  enum { PANEL = ROOM / M };
  const int lane = (int)threadIdx.x % LANES;
#pragma unroll
  for (int m = 0; m < M; m++) {
    const gpu_vec<uint32_t, 4> v =
        *reinterpret_cast<const gpu_vec<uint32_t, 4> *>(a + m * PANEL + lane * 16);
    int sum = 0;
#pragma unroll
    for (int j = 0; j < 4; j++) sum = dot4(sum, v.at[j], 0x01010101u);
#pragma unroll
    for (int r = 0; r < R; r++) {
      int part = -(int)zero[r] * sum;
#pragma unroll
      for (int j = 0; j < 4; j++) part = dot4(part, v.at[j], words[r][j]);
      total[r][m] = fmaf(scale[r], (float)part, total[r][m]);
    }
  }
}

/* ---- kernels */

/* total[r][m] over the lanes, to C; a lane writes one of them. */
template <typename T, int M, int R>
GPU_DEVICE void finish(float (&total)[R][M], const gpu_quant &q, const gpu_quant_product &p,
                       int64_t first) {
  const int lane = (int)threadIdx.x % LANES;
  static_assert(R * M <= LANES, "one a lane");
  float mine = 0.0f;
#pragma unroll
  for (int r = 0; r < R; r++)
#pragma unroll
    for (int m = 0; m < M; m++) {
#pragma unroll
      for (int by = LANES / 2; by > 0; by /= 2) total[r][m] += gpu_shuffle_xor(total[r][m], by);
      if (lane == r * M + m) mine = total[r][m];
    }
  const int64_t row = first + lane / M, m = lane % M;
  if (lane >= R * M || row >= q.rows || m >= p.m) return;
  if (q.row_groups <= 1) mine *= q.scales[row * q.row_groups];
  if (p.codes != nullptr) mine *= p.scales[m];
  if (p.bias != nullptr) mine += gpu_f32(static_cast<const T *>(p.bias)[row]);
  static_cast<T *>(p.c)[m * p.ldc + row] = gpu_from<T>(mine);
}

/* E: what A is in shared memory. chunks: of a group within a row. */
template <typename T, int Q, int M, int R, typename E>
GPU_KERNEL(THREADS)
gemv(gpu_quant q, gpu_quant_product p, quant_divisor chunks) {
  enum {
    C = chunk<Q>(),
    STEP = LANES * C,
    PANEL = ROOM / M / sizeof(E),
    BYTES = Q == DS_I4 ? 2 : 1
  };
  static_assert(PANEL % STEP == 0, "whole steps");
  GPU_SHARED(E, panel, ROOM / sizeof(E));
  const int lane = (int)threadIdx.x % LANES, team = (int)threadIdx.x / LANES;
  const int64_t first = ((int64_t)blockIdx.x * (THREADS / LANES) + team) * R;
  const bool grouped = q.row_groups > 1, asymmetric = q.zeros != nullptr;
  int64_t rows[R];
  float total[R][M] = {}, scale[R], zero[R];
  uint32_t words[R][4];
#pragma unroll
  for (int r = 0; r < R; r++) {
    rows[r] = first + r < q.rows ? first + r : q.rows - 1;
    scale[r] = 1.0f;
    zero[r] = asymmetric ? (float)q.zeros[rows[r] * q.row_groups] : 0.0f;
  }
  const auto load = [&](int64_t col) {
#pragma unroll
    for (int r = 0; r < R; r++) {
      gpu_vec<uint32_t, 4> v = {{0, 0, 0, 0}};
      if (col < q.cols)
        v = *reinterpret_cast<const gpu_vec<uint32_t, 4> *>(static_cast<const uint8_t *>(q.values) +
                                                            (rows[r] * q.cols + col) / BYTES);
#pragma unroll
      for (int i = 0; i < 4; i++) words[r][i] = v.at[i];
    }
  };
  load(lane * C);
  for (int64_t at = 0; at < q.cols; at += PANEL) {
    gpu_sync();
    stage<T, Q, M>(panel, p, at, q.cols);
    gpu_sync();
    for (int64_t col = at + lane * C; col - lane * C < at + PANEL && col - lane * C < q.cols;
         col += STEP) {
      uint32_t now[R][4];
#pragma unroll
      for (int r = 0; r < R; r++)
#pragma unroll
        for (int i = 0; i < 4; i++) now[r][i] = words[r][i];
      load(col + STEP);
      if (grouped) {
        const bool inside = col < q.cols;
        const uint32_t group = inside ? quant_divide((uint32_t)(col / C), chunks) : 0u;
#pragma unroll
        for (int r = 0; r < R; r++) {
          scale[r] = inside ? q.scales[rows[r] * q.row_groups + group] : 0.0f;
          zero[r] = asymmetric ? (float)q.zeros[rows[r] * q.row_groups + group] : 0.0f;
        }
      }
      multiply<Q, M, R>(total, now, panel + (col - lane * C - at), scale, zero);
    }
  }
  finish<T, M, R>(total, q, p, first);
}

/* Any shape and alignment: a value a lane at a time. */
template <typename T, int Q>
GPU_KERNEL(THREADS)
gemv_plain(gpu_quant q, gpu_quant_product p, int64_t room) {
  enum { M = GPU_QUANT_GEMV_ROWS };
  const int lane = (int)threadIdx.x % LANES;
  const int64_t first = (int64_t)blockIdx.x * TEAMS + threadIdx.x / LANES;
  const int64_t row = first < q.rows ? first : q.rows - 1;
  float total[1][M] = {};
  for (int64_t col = lane; col < q.cols; col += LANES) {
    const quant_scale s = quant_stored_scale<Q>(q, quant_group_of(q, row, col));
    const float x = quant_decode<Q>(quant_code_at<Q>(q.values, row * q.cols + col)) - s.zero;
    const float scaled = q.row_groups > 1 ? s.scale * x : x;
#pragma unroll
    for (int m = 0; m < M; m++)
      if (m < p.m)
        total[0][m] =
            fmaf(p.codes != nullptr ? (float)p.codes[m * room + col]
                                    : gpu_f32(static_cast<const T *>(p.a)[m * p.lda + col]),
                 scaled, total[0][m]);
  }
  finish<T, M, 1>(total, q, p, first);
}

/* ---- launches */

bool in_vectors(const gpu_quant &q) {
  const int64_t c = q.qtype == DS_I4 ? 32 : 16;
  return q.cols % c == 0 && (q.row_groups <= 1 || q.group_cols % c == 0) &&
         q.cols / c < INT32_MAX / 2 && (uintptr_t)q.values % 16 == 0;
}

template <typename T, int Q, int M, int R, typename E>
gpuError_t launch_gemv(gpuStream_t s, const gpu_quant &q, const gpu_quant_product &p) {
  const int64_t blocks = (q.rows + TEAMS * R - 1) / (TEAMS * R);
  auto k = gemv<T, Q, M, R, E>;
  return GPU_LAUNCH(k, dim3((unsigned)blocks), dim3(THREADS), 0, s, q, p,
                    quant_divisor_of((uint32_t)(q.group_cols / (Q == DS_I4 ? 32 : 16))));
}

/* With few rows of values, one a team instead of four: more teams to load. */
template <typename T, int Q, typename E>
gpuError_t launch_rows(gpuStream_t s, const gpu_quant &q, const gpu_quant_product &p,
                       int multiprocessors) {
  if (p.m == 1 && q.rows < (int64_t)multiprocessors * TEAMS * 2)
    return launch_gemv<T, Q, 1, 1, E>(s, q, p);
  if (p.m == 1) return launch_gemv<T, Q, 1, 4, E>(s, q, p);
  if (p.m == 2) return launch_gemv<T, Q, 2, 4, E>(s, q, p);
  if (p.m <= 4) return launch_gemv<T, Q, 4, 4, E>(s, q, p);
  return launch_gemv<T, Q, 8, 4, E>(s, q, p);
}

template <typename T, int Q>
gpuError_t launch_type(gpuStream_t s, const gpu_quant &q, const gpu_quant_product &p,
                       int multiprocessors) {
  if (in_vectors(q)) return launch_rows<T, Q, float>(s, q, p, multiprocessors);
  auto k = gemv_plain<T, Q>;
  return GPU_LAUNCH(k, dim3((unsigned)((q.rows + TEAMS - 1) / TEAMS)), dim3(THREADS), 0, s, q, p,
                    gpu_quant_row_bytes(q.cols));
}

template <typename T>
gpuError_t launch(gpuStream_t s, const gpu_quant &q, const gpu_quant_product &p,
                  int multiprocessors) {
  if (p.codes != nullptr && in_vectors(q))
    return launch_rows<T, DS_I8, int8_t>(s, q, p, multiprocessors);
  switch (q.qtype) {
    case DS_I8: return launch_type<T, DS_I8>(s, q, p, multiprocessors);
    case DS_I4: return launch_type<T, DS_I4>(s, q, p, multiprocessors);
    case DS_F8E4M3: return launch_type<T, DS_F8E4M3>(s, q, p, multiprocessors);
    default: return launch_type<T, DS_F8E5M2>(s, q, p, multiprocessors);
  }
}

} // namespace

extern "C" gpuError_t gpu_quant_gemv(gpuStream_t s, const gpu_quant *q, const gpu_quant_product *p,
                                     int multiprocessors) {
  const int64_t bytes = q->dtype == DS_F32 ? 4 : 2, room = gpu_quant_row_bytes(q->cols);
  for (int64_t i = 0; i < p->m; i += GPU_QUANT_GEMV_ROWS) {
    gpu_quant_product part = *p;
    const int64_t left = p->m - i;
    part.m = left < GPU_QUANT_GEMV_ROWS ? left : (int64_t)GPU_QUANT_GEMV_ROWS;
    part.a = static_cast<const char *>(p->a) + i * p->lda * bytes;
    part.c = static_cast<char *>(p->c) + i * p->ldc * bytes;
    if (p->codes != nullptr) {
      part.codes = p->codes + i * room;
      part.scales = p->scales + i;
    }
    const gpuError_t e = q->dtype == DS_F32 ? launch<float>(s, *q, part, multiprocessors)
                                            : launch<gpu_bf16>(s, *q, part, multiprocessors);
    if (e != gpuSuccess) return e;
  }
  return gpuSuccess;
}
