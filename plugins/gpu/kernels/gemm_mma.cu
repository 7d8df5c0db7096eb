/* gemm_mma.cu - products on the matrix units: bf16, f16, and fp8 as f16, which holds all of its values.
 *
 * Four waves make a tile of C, SIDE x SIDE, each a quarter of it. Tiles of A and B, DEPTH deep in k, go through shared memory
 * in a ring of STAGES: while one is multiplied the next are on their way (gpu_copy16). Rows of 16-byte chunks are
 * stored with the chunks' order changed from row to row, so that neither the copies nor the fragments' loads
 * meet in a bank.
 *
 * An operand lies in shared memory as in global memory: [row][k], or [k][row] where it is transposed. Without alignment its
 * elements come one by one, and always to [row][k]. */
#include "gemm_finish.h"
#include "mma.h"

namespace {

enum { WAVES = 4, THREADS_MAX = WAVES * 64, DEPTH = 32, STAGES = 3, CHUNK = 8 };

enum how { BY_K, BY_ROW, ONE_BY_ONE }; /* which neighbours of an operand are copied as a chunk */

/* The place of chunk c of row r in a tile of rows of PER chunks. Rows of four chunks share the eight
 * places of all banks by twos. */
template <int PER> GPU_DEVICE int place_of(int r, int c) {
  return (r * PER + (c ^ (PER == 4 ? r / 2 % 4 : r % 8))) * CHUNK;
}

template <int SIDE, how HOW> GPU_DEVICE int at_row_k(int row, int k) {
  return HOW == BY_ROW ? place_of<SIDE / CHUNK>(k, row / CHUNK) + row % CHUNK
                       : place_of<DEPTH / CHUNK>(row, k / CHUNK) + k % CHUNK;
}

/* An operand of one product: row r, depth k lies at r * row_step + k * k_step. */
struct operand {
  const void *data;
  int dtype;
  int64_t rows, depth, row_step, k_step;
};

GPU_DEVICE void take(int, const void *p, int64_t i, gpu_bf16 &out) {
  out = static_cast<const gpu_bf16 *>(p)[i];
}
GPU_DEVICE void take(int dtype, const void *p, int64_t i, gpu_f16 &out) {
  if (dtype == DS_F16)
    out = static_cast<const gpu_f16 *>(p)[i];
  else
    out = gpu_from<gpu_f16>(gemm_load(dtype, p, i));
}

/* One tile of an operand into shared memory; what lies outside of the operand is zero. */
template <int SIDE, how HOW, typename T>
GPU_DEVICE void fill(T *tile, const operand &x, int64_t row0, int64_t k0) {
  enum { THREADS = WAVES * GPU_WAVE, CHUNKS = SIDE * DEPTH / CHUNK };
  const T *data = static_cast<const T *>(x.data);
#pragma unroll
  for (int part = 0; part < CHUNKS / THREADS; part++) {
    const int t = part * THREADS + (int)threadIdx.x;
    if (HOW == BY_K) {
      const int r = t / (DEPTH / CHUNK), c = t % (DEPTH / CHUNK);
      const int64_t row = row0 + r, k = k0 + c * CHUNK;
      gpu_copy16(tile + place_of<DEPTH / CHUNK>(r, c), data + row * x.row_step + k,
                 row < x.rows && k < x.depth);
    } else if (HOW == BY_ROW) {
      const int r = t / (SIDE / CHUNK), c = t % (SIDE / CHUNK);
      const int64_t k = k0 + r, row = row0 + c * CHUNK;
      gpu_copy16(tile + place_of<SIDE / CHUNK>(r, c), data + k * x.k_step + row,
                 row < x.rows && k < x.depth);
    } else {
      /* Neighbouring threads take neighbours in memory. */
      const bool along_k = x.k_step == 1;
      const int r = along_k ? t / (DEPTH / CHUNK) : t % SIDE;
      const int c = along_k ? t % (DEPTH / CHUNK) : t / SIDE;
      const int64_t row = row0 + r, k = k0 + c * CHUNK;
      gpu_vec<T, CHUNK> v;
#pragma unroll
      for (int e = 0; e < CHUNK; e++) {
        v.at[e] = T{0};
        if (row < x.rows && k + e < x.depth)
          take(x.dtype, x.data, row * x.row_step + (k + e) * x.k_step, v.at[e]);
      }
      *reinterpret_cast<gpu_vec<T, CHUNK> *>(tile + place_of<DEPTH / CHUNK>(r, c)) = v;
    }
  }
}

template <int SIDE, how HOW, typename T>
GPU_DEVICE void load_a(gpu_mma_a<T> &a, const T *tile, int row0, int k0) {
  if (HOW == BY_ROW)
    gpu_mma_load_a_trans(
        a, [=](int k, int m) { return tile + at_row_k<SIDE, HOW>(row0 + m, k0 + k); });
  else
    gpu_mma_load_a(a, [=](int m, int k) { return tile + at_row_k<SIDE, HOW>(row0 + m, k0 + k); });
}
template <int SIDE, how HOW, typename T>
GPU_DEVICE void load_b(gpu_mma_b<T> &b, const T *tile, int row0, int k0) {
  if (HOW == BY_ROW)
    gpu_mma_load_b(b, [=](int k, int n) { return tile + at_row_k<SIDE, HOW>(row0 + n, k0 + k); });
  else
    gpu_mma_load_b_trans(
        b, [=](int n, int k) { return tile + at_row_k<SIDE, HOW>(row0 + n, k0 + k); });
}

/* A wave's part of C, 16 rows at a time, through shared memory: a lane then has eight neighbours. */
template <int SIDE>
GPU_DEVICE void finish(const gpu_product &p, const gemm_place &place, float *stage,
                       const gpu_mma_c (&sums)[SIDE / 32][SIDE / 32], int row0, int col0,
                       bool wide) {
  enum { HALF = SIDE / 2, PITCH = HALF + 4, PER_ROW = HALF / CHUNK };
  const int lane = gpu_lane();
  const float alpha = gemm_alpha(p);
#pragma unroll
  for (int r = 0; r < SIDE / 32; r++) {
#pragma unroll
    for (int c = 0; c < SIDE / 32; c++)
#pragma unroll
      for (int i = 0; i < 256 / GPU_WAVE; i++)
        stage[gpu_mma_c::row(lane, i) * PITCH + 16 * c + gpu_mma_c::col(lane, i)] =
            alpha * sums[r][c].at[i];
    gpu_sync_wave();
#pragma unroll 1
    for (int t = lane; t < 16 * PER_ROW; t += GPU_WAVE) {
      const int64_t i = place.i + row0 + 16 * r + t / PER_ROW;
      const int64_t j = place.j + col0 + t % PER_ROW * CHUNK;
      float v[CHUNK];
#pragma unroll
      for (int e = 0; e < CHUNK; e++) v[e] = stage[t / PER_ROW * PITCH + t % PER_ROW * CHUNK + e];
      if (i < p.m && j < p.n)
        gemm_finish_row(p, place.batch * p.stride_c + i * p.ldc + j, j,
                        p.n - j < CHUNK ? (int)(p.n - j) : CHUNK, wide, v);
    }
    gpu_sync_wave();
  }
}

template <typename T, int SIDE, how A, how B>
GPU_KERNEL(THREADS_MAX)
tensor(gpu_product p, bool wide_c) {
  enum { PARTS = SIDE / 32, TILE = SIDE * DEPTH };
  GPU_SHARED(T, ring, STAGES * 2 * TILE);
  const gemm_place place = gemm_place_of<SIDE, SIDE>(p);
  const operand a = {gemm_at(p.dtype_a, p.a, place.batch * p.stride_a),
                     p.dtype_a,
                     p.m,
                     p.k,
                     p.trans_a ? 1 : p.lda,
                     p.trans_a ? p.lda : 1};
  const operand b = {gemm_at(p.dtype_b, p.b, place.batch * p.stride_b),
                     p.dtype_b,
                     p.n,
                     p.k,
                     p.trans_b ? p.ldb : 1,
                     p.trans_b ? 1 : p.ldb};
  const int wave = (int)threadIdx.x / GPU_WAVE;
  const int row0 = wave / 2 * (SIDE / 2), col0 = wave % 2 * (SIDE / 2);

  gpu_mma_c sums[PARTS][PARTS];
#pragma unroll
  for (int r = 0; r < PARTS; r++)
#pragma unroll
    for (int c = 0; c < PARTS; c++) gpu_mma_zero(sums[r][c]);

#pragma unroll
  for (int stage = 0; stage < STAGES - 1; stage++) {
    fill<SIDE, A>(ring + stage * 2 * TILE, a, place.i, stage * DEPTH);
    fill<SIDE, B>(ring + stage * 2 * TILE + TILE, b, place.j, stage * DEPTH);
    gpu_copy_commit();
  }
  int now = 0, next = STAGES - 1;
  for (int64_t k0 = 0; k0 < p.k; k0 += DEPTH) {
    gpu_copy_wait<STAGES - 2>();
    gpu_sync(); /* this stage is there, and the one filled next is no longer read */
    const int64_t ahead = k0 + (STAGES - 1) * DEPTH;
    if (ahead < p.k) {
      fill<SIDE, A>(ring + next * 2 * TILE, a, place.i, ahead);
      fill<SIDE, B>(ring + next * 2 * TILE + TILE, b, place.j, ahead);
    }
    gpu_copy_commit();
    const T *tile_a = ring + now * 2 * TILE, *tile_b = tile_a + TILE;
    gpu_mma_a<T> of_a[DEPTH / 16][PARTS];
    gpu_mma_b<T> of_b[DEPTH / 16][PARTS];
#pragma unroll
    for (int k = 0; k < DEPTH / 16; k++) {
#pragma unroll
      for (int r = 0; r < PARTS; r++) load_a<SIDE, A>(of_a[k][r], tile_a, row0 + 16 * r, 16 * k);
#pragma unroll
      for (int c = 0; c < PARTS; c++) load_b<SIDE, B>(of_b[k][c], tile_b, col0 + 16 * c, 16 * k);
    }
#pragma unroll
    for (int k = 0; k < DEPTH / 16; k++)
#pragma unroll
      for (int r = 0; r < PARTS; r++)
#pragma unroll
        for (int c = 0; c < PARTS; c++) gpu_mma(sums[r][c], of_a[k][r], of_b[k][c]);
    now = now + 1 == STAGES ? 0 : now + 1;
    next = next + 1 == STAGES ? 0 : next + 1;
  }
  gpu_copy_wait<0>();
  gpu_sync();
  enum { PITCH = SIDE / 2 + 4 };
  finish<SIDE>(p, place, reinterpret_cast<float *>(ring) + wave * 16 * PITCH, sums, row0, col0,
               wide_c);
}

typedef gpuError_t launcher(gpuStream_t s, const gpu_product *p, int wave);

template <typename T, int SIDE, how A, how B>
gpuError_t launch(gpuStream_t s, const gpu_product *p, int wave) {
  const int64_t blocks = (p->m + SIDE - 1) / SIDE * ((p->n + SIDE - 1) / SIDE) * p->batch;
  auto kernel = tensor<T, SIDE, A, B>;
  return GPU_LAUNCH(kernel, dim3((unsigned)blocks), dim3((unsigned)(WAVES * wave)), 0, s, *p,
                    gemm_wide(p, CHUNK));
}

/* Whether an operand's rows come in whole, aligned chunks. */
bool whole_chunks(int dtype, const void *data, int64_t row_length, int64_t ld, int64_t stride) {
  return (dtype == DS_BF16 || dtype == DS_F16) && row_length % CHUNK == 0 &&
         gemm_aligned(dtype, data, ld, stride);
}

template <typename T, int SIDE> launcher *choose(const gpu_product *p) {
  const bool many = p->batch > 1;
  if (!whole_chunks(p->dtype_a, p->a, p->trans_a ? p->m : p->k, p->lda, many ? p->stride_a : 0) ||
      !whole_chunks(p->dtype_b, p->b, p->trans_b ? p->k : p->n, p->ldb, many ? p->stride_b : 0))
    return launch<T, SIDE, ONE_BY_ONE, ONE_BY_ONE>;
  if (p->trans_a)
    return p->trans_b ? launch<T, SIDE, BY_ROW, BY_K> : launch<T, SIDE, BY_ROW, BY_ROW>;
  return p->trans_b ? launch<T, SIDE, BY_K, BY_K> : launch<T, SIDE, BY_K, BY_ROW>;
}

bool fp8(int dtype) {
  return dtype == DS_F8E4M3 || dtype == DS_F8E5M2;
}

} // namespace

extern "C" int gpu_gemm_mma_takes(const gpu_product *p) {
  return (p->dtype_a == DS_BF16 && p->dtype_b == DS_BF16) ||
         (p->dtype_a == DS_F16 && p->dtype_b == DS_F16) || (fp8(p->dtype_a) && fp8(p->dtype_b));
}

extern "C" gpuError_t gpu_gemm_mma(gpuStream_t s, const gpu_product *p, int wave,
                                   int multiprocessors) {
  if (p->m == 0 || p->n == 0 || p->batch == 0) return gpuSuccess;
  const int64_t large = (p->m + 127) / 128 * ((p->n + 127) / 128) * p->batch;
  launcher *run;
  if (p->dtype_a == DS_BF16)
    run = large >= multiprocessors ? choose<gpu_bf16, 128>(p) : choose<gpu_bf16, 64>(p);
  else
    run = large >= multiprocessors ? choose<gpu_f16, 128>(p) : choose<gpu_f16, 64>(p);
  return run(s, p, wave);
}
