/* quant_tile.h - tiles of C on the matrix units, by waves and fragments. For quant_gemm*.cu. */
#ifndef DS_GPU_KERNELS_QUANT_TILE_H
#define DS_GPU_KERNELS_QUANT_TILE_H

#include "mma.h"
#include "quant_value.h"

enum { QUANT_THREADS = 256 };

/* A wave has MF x NF fragments of 16 x 16; WM waves stand side by side in m, the others in n. NF32: for waves of 32. */
template <int WM_, int MF_, int NF32> struct quant_tile {
  enum {
    WM = WM_,
    WN = QUANT_THREADS / GPU_WAVE / WM,
    MF = MF_,
    NF = NF32 * GPU_WAVE / 32,
    M = WM * MF * 16,
    N = QUANT_THREADS / 32 / WM * NF32 * 16
  };
  /* Where this thread's wave has its fragments. */
  GPU_DEVICE int wave_m() { return (int)threadIdx.x / GPU_WAVE % WM * MF * 16; }
  GPU_DEVICE int wave_n() { return (int)threadIdx.x / GPU_WAVE / WM * NF * 16; }
};

template <typename Tile, typename C> GPU_DEVICE void quant_zero_sums(C (&c)[Tile::MF][Tile::NF]) {
#pragma unroll
  for (int i = 0; i < Tile::MF; i++)
#pragma unroll
    for (int j = 0; j < Tile::NF; j++) gpu_mma_zero(c[i][j]);
}

/* One step of fragments from rows of A and B in shared memory, ROOM elements apart. */
template <typename Tile, typename A, typename B, int ROOM, typename C, typename E>
GPU_DEVICE void quant_multiply(C (&c)[Tile::MF][Tile::NF], const E *a, const E *b) {
  const E *of_a = a + Tile::wave_m() * ROOM, *of_b = b + Tile::wave_n() * ROOM;
  A fa[Tile::MF];
#pragma unroll
  for (int i = 0; i < Tile::MF; i++)
    gpu_mma_load_a(fa[i], [&](int m, int k) { return of_a + (i * 16 + m) * ROOM + k; });
#pragma unroll
  for (int j = 0; j < Tile::NF; j++) {
    B fb;
    gpu_mma_load_b_trans(fb, [&](int n, int k) { return of_b + (j * 16 + n) * ROOM + k; });
#pragma unroll
    for (int i = 0; i < Tile::MF; i++) gpu_mma(c[i][j], fa[i], fb);
  }
}

/* A finished sum to C. */
template <typename T>
GPU_DEVICE void quant_put(const gpu_quant &q, const gpu_quant_product &p, int64_t m, int64_t n,
                          float sum) {
  if (m >= p.m || n >= q.rows) return;
  if (p.codes != nullptr) sum *= p.scales[m];
  if (p.bias != nullptr) sum += gpu_f32(static_cast<const T *>(p.bias)[n]);
  static_cast<T *>(p.c)[m * p.ldc + n] = gpu_from<T>(sum);
}

/* quant_gemm_int8.cu: rows of values of 16 bytes, groups of whole steps of 32 columns whose sums fit into 32 bits. */
bool quant_int8_takes(const gpu_quant &q);
gpuError_t quant_int8_gemm(gpuStream_t s, const gpu_quant &q, const gpu_quant_product &p);
/* quant_gemm_bf16.cu: A, C and the bias are bf16. */
int quant_bf16_parts(const gpu_quant &q, int64_t m, int multiprocessors);
gpuError_t quant_bf16_gemm(gpuStream_t s, const gpu_quant &q, const gpu_quant_product &p, int parts,
                           float *sums);

#endif
