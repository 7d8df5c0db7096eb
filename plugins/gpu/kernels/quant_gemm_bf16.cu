/* quant_gemm_bf16.cu - bf16 rows of A against quantized values on the matrix units.
 *
 * Steps of 32 columns. A, and values as they are stored, are copied into shared memory some steps ahead; a step's values are
 * brought back from there to bf16, 16 of a row a thread, into one of two buffers, while other waves still multiply from the other. Where C has
 * few tiles, several blocks share one, each a part of the columns, and another kernel adds their sums up. */
#include "quant_tile.h"

namespace {

enum { DEPTH = 32, ROOM = DEPTH + 8, PIECE = 16, LEAST_PART = 512, MOST_PARTS = 16 };

/* Shared memory, in order: A by stages, stored values by stages, values of two steps. */
template <int Q, typename Tile> struct layout {
  static_assert((int)Tile::N * DEPTH == QUANT_THREADS * PIECE, "a piece a thread");
  enum {
    STAGES = Tile::M > 64 ? 3 : 4,
    A = Tile::M * ROOM,                              /* elements of a stage */
    STORED = Tile::N * DEPTH / (Q == DS_I4 ? 2 : 1), /* bytes of a stage */
    B = Tile::N * ROOM,
    BYTES = STAGES * (2 * A + STORED) + 2 * 2 * B
  };
};

/* What of the operands lies in whole pieces. */
struct alignment {
  bool a, b;
  quant_divisor group_pieces; /* pieces of a group within a row */
};

/* 32 columns of A from `k` on. */
template <typename Tile>
GPU_DEVICE void copy_a(gpu_bf16 *to, const gpu_quant_product &p, int64_t m0, int64_t k, int64_t end,
                       bool aligned) {
  for (int at = (int)threadIdx.x; at < Tile::M * (DEPTH / 8); at += QUANT_THREADS) {
    const int64_t row = m0 + at / (DEPTH / 8), col = k + at % (DEPTH / 8) * 8;
    const bool valid = row < p.m && col < end;
    const gpu_bf16 *from = static_cast<const gpu_bf16 *>(p.a) + (valid ? row * p.lda + col : 0);
    gpu_bf16 *here = to + at / (DEPTH / 8) * ROOM + at % (DEPTH / 8) * 8;
    if (aligned) {
      gpu_copy16(here, from, valid);
    } else {
      gpu_vec<gpu_bf16, 8> v;
#pragma unroll
      for (int i = 0; i < 8; i++) v.at[i] = valid && col + i < end ? from[i] : gpu_bf16{0};
      *reinterpret_cast<gpu_vec<gpu_bf16, 8> *>(here) = v;
    }
  }
}

/* The values of 32 columns as they are stored, if they lie so. */
template <int Q, typename Tile>
GPU_DEVICE void copy_stored(uint8_t *to, const gpu_quant &q, int64_t n0, int64_t k, int64_t end) {
  enum { PER = Q == DS_I4 ? 32 : 16, ROW = DEPTH / PER };
  const int at = (int)threadIdx.x;
  if (at >= Tile::N * ROW) return;
  const int64_t row = n0 + at / ROW, col = k + at % ROW * PER;
  const bool valid = row < q.rows && col < end;
  gpu_copy16(to + at * 16,
             static_cast<const uint8_t *>(q.values) + (valid ? (row * q.cols + col) / PER * 16 : 0),
             valid);
}

/* The scale and zero point of this thread's piece of a step. */
struct piece_scale {
  float scale, zero;
};
GPU_DEVICE piece_scale scale_at(const gpu_quant &q, int64_t n0, int64_t k, const alignment &lies) {
  const int64_t row = n0 + threadIdx.x / 2, col = k + threadIdx.x % 2 * PIECE;
  if (!lies.b || row >= q.rows || col >= q.cols) return piece_scale{0.0f, 0.0f};
  const int64_t in_row =
      q.row_groups > 1 ? quant_divide((uint32_t)(col / PIECE), lies.group_pieces) : 0;
  const int64_t group = row * q.row_groups + in_row;
  return piece_scale{q.scales[group], q.zeros != nullptr ? (float)q.zeros[group] : 0.0f};
}

template <int Q> GPU_DEVICE void put_values(gpu_bf16 *b, const uint8_t *stored, piece_scale s) {
  enum { WORDS = Q == DS_I4 ? 2 : 4 };
  const gpu_vec<uint32_t, WORDS> v =
      *reinterpret_cast<const gpu_vec<uint32_t, WORDS> *>(stored + threadIdx.x * WORDS * 4);
  uint32_t out[PIECE / 2];
#pragma unroll
  for (int j = 0; j < PIECE / 4; j++) {
    float x[4];
    quant_decode4<Q>(x, v.at, j, s.zero);
    out[2 * j] = gpu_mma_pack<gpu_bf16>(x[0] * s.scale, x[1] * s.scale);
    out[2 * j + 1] = gpu_mma_pack<gpu_bf16>(x[2] * s.scale, x[3] * s.scale);
  }
  uint4 *to = reinterpret_cast<uint4 *>(b + threadIdx.x / 2 * ROOM + threadIdx.x % 2 * PIECE);
  to[0] = make_uint4(out[0], out[1], out[2], out[3]);
  to[1] = make_uint4(out[4], out[5], out[6], out[7]);
}
/* From anywhere, one by one. */
template <int Q>
GPU_DEVICE void put_plain(gpu_bf16 *b, const gpu_quant &q, int64_t n0, int64_t k, int64_t end) {
  const int64_t row = n0 + threadIdx.x / 2;
  for (int i = 0; i < PIECE; i++) {
    const int64_t col = k + threadIdx.x % 2 * PIECE + i;
    float x = 0.0f;
    if (row < q.rows && col < end)
      x = quant_value<Q>(quant_code_at<Q>(q.values, row * q.cols + col),
                         quant_stored_scale<Q>(q, quant_group_of(q, row, col)));
    b[threadIdx.x / 2 * ROOM + threadIdx.x % 2 * PIECE + i] = gpu_from<gpu_bf16>(x);
  }
}

/* part: columns of a block, whole steps. sums: [parts,m,rows] in f32, or NULL: one part. */
template <int Q, int WM, int MF, int NF32>
GPU_KERNEL(QUANT_THREADS)
bf16_gemm(gpu_quant q, gpu_quant_product p, alignment lies, int64_t part, float *sums) {
  typedef quant_tile<WM, MF, NF32> tile;
  typedef layout<Q, tile> in;
  GPU_SHARED_DYNAMIC(gpu_bf16, a);
  uint8_t *stored = reinterpret_cast<uint8_t *>(a + in::STAGES * in::A);
  gpu_bf16 *b = reinterpret_cast<gpu_bf16 *>(stored + in::STAGES * in::STORED);
  const int64_t m0 = (int64_t)blockIdx.y * tile::M, n0 = (int64_t)blockIdx.x * tile::N;
  const int64_t begin = (int64_t)blockIdx.z * part;
  const int64_t end = begin + part < q.cols ? begin + part : q.cols;
  const auto load = [&](int64_t k, int stage) {
    if (k < end) {
      copy_a<tile>(a + stage * in::A, p, m0, k, end, lies.a);
      if (lies.b) copy_stored<Q, tile>(stored + stage * in::STORED, q, n0, k, end);
    }
    gpu_copy_commit();
  };
  gpu_mma_c c[tile::MF][tile::NF];
  quant_zero_sums<tile>(c);
#pragma unroll
  for (int i = 0; i < in::STAGES - 1; i++) load(begin + i * DEPTH, i);
  piece_scale next = scale_at(q, n0, begin, lies);
  gpu_copy_wait<in::STAGES - 2>();
  gpu_sync();
  int stage = 0, turn = 0;
  for (int64_t k = begin; k < end; k += DEPTH) {
    gpu_bf16 *now = b + turn * in::B;
    if (lies.b)
      put_values<Q>(now, stored + stage * in::STORED, next);
    else
      put_plain<Q>(now, q, n0, k, end);
    next = scale_at(q, n0, k + DEPTH, lies);
    gpu_copy_wait<in::STAGES - 3>();
    gpu_sync(); /* all have this step's values, and the next one's as stored */
    load(k + (in::STAGES - 1) * DEPTH, stage == 0 ? in::STAGES - 1 : stage - 1);
#pragma unroll
    for (int step = 0; step < DEPTH; step += 16)
      quant_multiply<tile, gpu_mma_a<gpu_bf16>, gpu_mma_b<gpu_bf16>, ROOM>(
          c, a + stage * in::A + step, now + step);
    stage = stage == in::STAGES - 1 ? 0 : stage + 1;
    turn ^= 1;
  }
#pragma unroll
  for (int i = 0; i < tile::MF; i++)
#pragma unroll
    for (int j = 0; j < tile::NF; j++)
#pragma unroll
      for (int e = 0; e < 256 / GPU_WAVE; e++) {
        const int64_t m = m0 + tile::wave_m() + i * 16 + gpu_mma_c::row(gpu_lane(), e);
        const int64_t n = n0 + tile::wave_n() + j * 16 + gpu_mma_c::col(gpu_lane(), e);
        if (sums == nullptr)
          quant_put<gpu_bf16>(q, p, m, n, c[i][j].at[e]);
        else if (m < p.m && n < q.rows)
          sums[((int64_t)blockIdx.z * p.m + m) * q.rows + n] = c[i][j].at[e];
      }
}

GPU_KERNEL(QUANT_THREADS)
add_parts(gpu_quant q, gpu_quant_product p, const float *sums, int parts) {
  const int64_t at = (int64_t)blockIdx.x * QUANT_THREADS + threadIdx.x, count = p.m * q.rows;
  if (at >= count) return;
  float sum = 0.0f;
  for (int i = 0; i < parts; i++) sum += sums[i * count + at];
  quant_put<gpu_bf16>(q, p, at / q.rows, at % q.rows, sum);
}

/* ---- launches */

alignment alignment_of(const gpu_quant &q, const gpu_quant_product &p) {
  const int64_t piece = q.qtype == DS_I4 ? 32 : 16;
  alignment lies;
  lies.a = q.cols % 8 == 0 && p.lda % 8 == 0 && (uintptr_t)p.a % 16 == 0;
  lies.b = q.cols % piece == 0 && q.cols / PIECE < INT32_MAX / 2 && (uintptr_t)q.values % 16 == 0 &&
           (q.row_groups <= 1 || q.group_cols % PIECE == 0);
  lies.group_pieces = quant_divisor_of((uint32_t)(lies.b ? q.group_cols / PIECE : 1));
  return lies;
}

/* Columns of a part: whole steps. */
int64_t part_of(int64_t cols, int parts) {
  return ((cols + parts - 1) / parts + DEPTH - 1) / DEPTH * DEPTH;
}

template <int Q, int WM, int MF, int NF32>
gpuError_t launch_tile(gpuStream_t s, const gpu_quant &q, const gpu_quant_product &p, int parts,
                       float *sums) {
  typedef quant_tile<WM, MF, NF32> tile;
  enum { BYTES = layout<Q, tile>::BYTES };
  const dim3 grid((unsigned)((q.rows + tile::N - 1) / tile::N),
                  (unsigned)((p.m + tile::M - 1) / tile::M), (unsigned)parts);
  auto k = bf16_gemm<Q, WM, MF, NF32>;
  const gpuError_t e = GPU_ALLOW_SHARED(k, BYTES);
  if (e != gpuSuccess) return e;
  return GPU_LAUNCH(k, grid, dim3(QUANT_THREADS), BYTES, s, q, p, alignment_of(q, p),
                    part_of(q.cols, parts), parts > 1 ? sums : nullptr);
}

template <int Q>
gpuError_t launch(gpuStream_t s, const gpu_quant &q, const gpu_quant_product &p, int parts,
                  float *sums) {
  if (p.m <= 16) return launch_tile<Q, 1, 1, 1>(s, q, p, parts, sums);
  if (p.m <= 64) return launch_tile<Q, 2, 2, 2>(s, q, p, parts, sums);
  return launch_tile<Q, 2, 4, 2>(s, q, p, parts, sums);
}

gpuError_t launch_type(gpuStream_t s, const gpu_quant &q, const gpu_quant_product &p, int parts,
                       float *sums) {
  switch (q.qtype) {
    case DS_I8: return launch<DS_I8>(s, q, p, parts, sums);
    case DS_I4: return launch<DS_I4>(s, q, p, parts, sums);
    case DS_F8E4M3: return launch<DS_F8E4M3>(s, q, p, parts, sums);
    default: return launch<DS_F8E5M2>(s, q, p, parts, sums);
  }
}

} // namespace

/* So many that each multiprocessor has two blocks, none of them too short. */
int quant_bf16_parts(const gpu_quant &q, int64_t m, int multiprocessors) {
  const int64_t tile = m <= 16 ? 16 : m <= 64 ? 64 : 128;
  const int64_t blocks = (q.rows + 127) / 128 * ((m + tile - 1) / tile);
  int64_t parts = 2 * (int64_t)multiprocessors / blocks;
  if (parts > q.cols / LEAST_PART) parts = q.cols / LEAST_PART;
  if (parts > MOST_PARTS) parts = MOST_PARTS;
  return parts < 1 ? 1 : (int)parts;
}

gpuError_t quant_bf16_gemm(gpuStream_t s, const gpu_quant &q, const gpu_quant_product &p, int parts,
                           float *sums) {
  const gpuError_t e = launch_type(s, q, p, parts, sums);
  if (e != gpuSuccess || parts == 1) return e;
  const int64_t count = p.m * q.rows;
  return GPU_LAUNCH(add_parts, dim3((unsigned)((count + QUANT_THREADS - 1) / QUANT_THREADS)),
                    dim3(QUANT_THREADS), 0, s, q, p, sums, parts);
}
