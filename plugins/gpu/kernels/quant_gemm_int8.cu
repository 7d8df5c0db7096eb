/* quant_gemm_int8.cu - int8 with int8 on the matrix units: both are copied into shared memory as they are; the sums of a
 * group are whole numbers, then scaled. */
#include "quant_tile.h"

namespace {

/* PERIOD: columns after which whole sums are scaled at the latest: 2 * 128 * 128 * 2^15 still fits. */
enum { DEPTH = 64, ROOM = DEPTH + 16, ROW = DEPTH / 16, PERIOD = 1 << 15 };

/* `count` rows from `row` on, a piece of 16 bytes a thread at a time; zeros where there are none. */
GPU_DEVICE void copy(int8_t *to, int count, const int8_t *from, int64_t stride, int64_t row,
                     int64_t rows, int64_t col, int64_t cols) {
  for (int at = (int)threadIdx.x; at < count * ROW; at += QUANT_THREADS) {
    const int64_t r = row + at / ROW, c = col + at % ROW * 16;
    const bool valid = r < rows && c < cols;
    gpu_copy16(to + at / ROW * ROOM + at % ROW * 16, valid ? from + r * stride + c : from, valid);
  }
}

/* The sums of A's codes in 32 columns, for each row that this lane has elements of. */
template <typename Tile>
GPU_DEVICE void add_sums(int (&sum_a)[Tile::MF][gpu_mma_c32::ROWS], const gpu_quant_product &p,
                         int64_t m0, int64_t stride, int64_t at) {
#pragma unroll
  for (int i = 0; i < Tile::MF; i++)
#pragma unroll
    for (int r = 0; r < gpu_mma_c32::ROWS; r++) {
      const int of_row = r * (4 / gpu_mma_c32::ROWS); /* an element of this row */
      const int64_t m = m0 + Tile::wave_m() + i * 16 + gpu_mma_c32::row(gpu_lane(), of_row);
      if (m < p.m) sum_a[i][r] += p.sums[m * stride + at];
    }
}

/* Whole sums of a group join the others; they begin anew. group: within a row. */
template <typename Tile>
GPU_DEVICE void scale_sums(float (&total)[Tile::MF][Tile::NF][256 / GPU_WAVE],
                           gpu_mma_c32 (&c)[Tile::MF][Tile::NF],
                           int (&sum_a)[Tile::MF][gpu_mma_c32::ROWS], const gpu_quant &q,
                           int64_t n0, int64_t group) {
#pragma unroll
  for (int j = 0; j < Tile::NF; j++)
#pragma unroll
    for (int e = 0; e < 256 / GPU_WAVE; e++) {
      const int64_t n = n0 + Tile::wave_n() + j * 16 + gpu_mma_c32::col(gpu_lane(), e);
      const int64_t of_n = (n < q.rows ? n : q.rows - 1) * q.row_groups + group;
      const float scale = q.scales[of_n];
      const int zero = q.zeros != nullptr ? q.zeros[of_n] : 0;
#pragma unroll
      for (int i = 0; i < Tile::MF; i++)
        total[i][j][e] =
            fmaf(scale, (float)(c[i][j].at[e] - zero * sum_a[i][gpu_mma_c32::row_of(e)]),
                 total[i][j][e]);
    }
  quant_zero_sums<Tile>(c);
#pragma unroll
  for (int i = 0; i < Tile::MF; i++)
#pragma unroll
    for (int r = 0; r < gpu_mma_c32::ROWS; r++) sum_a[i][r] = 0;
}

/* room: bytes of a row of A's codes. groups: how many steps of 32 columns are one of q's. */
template <typename T, int STAGES, int WM, int MF, int NF32>
GPU_KERNEL(QUANT_THREADS)
int8_gemm(gpu_quant q, gpu_quant_product p, int64_t room, quant_divisor group_steps) {
  typedef quant_tile<WM, MF, NF32> tile;
  GPU_SHARED(int8_t, a, STAGES * tile::M * ROOM);
  GPU_SHARED(int8_t, b, STAGES * tile::N * ROOM);
  const int64_t m0 = (int64_t)blockIdx.y * tile::M, n0 = (int64_t)blockIdx.x * tile::N;
  const int64_t period = q.row_groups > 1 ? q.group_cols : (int64_t)PERIOD;
  gpu_mma_c32 c[tile::MF][tile::NF];
  float total[tile::MF][tile::NF][256 / GPU_WAVE] = {};
  int sum_a[tile::MF][gpu_mma_c32::ROWS] = {};
  quant_zero_sums<tile>(c);
  const auto load = [&](int64_t col, int stage) {
    if (col < q.cols) {
      copy(a + stage * tile::M * ROOM, tile::M, p.codes, room, m0, p.m, col, room);
      copy(b + stage * tile::N * ROOM, tile::N, static_cast<const int8_t *>(q.values), q.cols, n0,
           q.rows, col, q.cols);
    }
    gpu_copy_commit();
  };
#pragma unroll
  for (int i = 0; i < STAGES - 1; i++) load(i * DEPTH, i);
  int stage = 0;
  int64_t left = period; /* of the group */
  for (int64_t k = 0; k < q.cols; k += DEPTH) {
    gpu_copy_wait<STAGES - 2>();
    gpu_sync();
    load(k + (STAGES - 1) * DEPTH, stage == 0 ? STAGES - 1 : stage - 1);
    for (int step = 0; step < DEPTH && k + step < q.cols; step += 32) {
      quant_multiply<tile, gpu_mma_a8, gpu_mma_b8, ROOM>(c, a + stage * tile::M * ROOM + step,
                                                         b + stage * tile::N * ROOM + step);
      if (q.zeros != nullptr)
        add_sums<tile>(sum_a, p, m0, room / GPU_QUANT_SUM, (k + step) / GPU_QUANT_SUM);
      left -= 32;
      if (left <= 0 || k + step + 32 >= q.cols) {
        const uint32_t at = (uint32_t)((k + step) / 32);
        scale_sums<tile>(total, c, sum_a, q, n0,
                         q.row_groups > 1 ? quant_divide(at, group_steps) : 0);
        left = period;
      }
    }
    stage = stage == STAGES - 1 ? 0 : stage + 1;
  }
#pragma unroll
  for (int i = 0; i < tile::MF; i++)
#pragma unroll
    for (int j = 0; j < tile::NF; j++)
#pragma unroll
      for (int e = 0; e < 256 / GPU_WAVE; e++)
        quant_put<T>(q, p, m0 + tile::wave_m() + i * 16 + gpu_mma_c32::row(gpu_lane(), e),
                     n0 + tile::wave_n() + j * 16 + gpu_mma_c32::col(gpu_lane(), e),
                     total[i][j][e]);
}

template <typename T, int STAGES, int WM, int MF, int NF32>
gpuError_t launch(gpuStream_t s, const gpu_quant &q, const gpu_quant_product &p) {
  enum { M = WM * MF * 16, N = QUANT_THREADS / 32 / WM * NF32 * 16 };
  const dim3 grid((unsigned)((q.rows + N - 1) / N), (unsigned)((p.m + M - 1) / M));
  auto k = int8_gemm<T, STAGES, WM, MF, NF32>;
  return GPU_LAUNCH(k, grid, dim3(QUANT_THREADS), 0, s, q, p, gpu_quant_row_bytes(q.cols),
                    quant_divisor_of((uint32_t)(q.group_cols / 32 > 0 ? q.group_cols / 32 : 1)));
}

template <typename T>
gpuError_t launch(gpuStream_t s, const gpu_quant &q, const gpu_quant_product &p) {
  return p.m <= 64 ? launch<T, 3, 2, 2, 2>(s, q, p) : launch<T, 2, 2, 4, 2>(s, q, p);
}

} // namespace

bool quant_int8_takes(const gpu_quant &q) {
  return q.qtype == DS_I8 && q.cols % 16 == 0 && q.cols / 32 < INT32_MAX / 2 &&
         (uintptr_t)q.values % 16 == 0 &&
         (q.row_groups <= 1 || (q.group_cols % 32 == 0 && q.group_cols <= PERIOD));
}

gpuError_t quant_int8_gemm(gpuStream_t s, const gpu_quant &q, const gpu_quant_product &p) {
  return q.dtype == DS_F32 ? launch<float>(s, q, p) : launch<gpu_bf16>(s, q, p);
}
