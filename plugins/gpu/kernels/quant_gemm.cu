/* quant_gemm.cu - many rows of A against quantized values: tiles of C, whose values are brought back, or copied as they
 * are, into shared memory.
 *
 * A tile's next columns are on their way from memory while the ones before are multiplied. */
#include "mma.h"
#include "quant_value.h"

namespace {

enum { THREADS = 256 };

/* ---- pieces of rows: N columns of a row from `col` on, zeros behind its end */

/* wide: rows and groups are whole pieces, and lie so in memory. */
template <typename T, int N>
GPU_DEVICE void load_a(gpu_vec<T, N> &v, const gpu_quant &q, const gpu_quant_product &p, int64_t row,
                       int64_t col, bool wide) {
  const T *a = static_cast<const T *>(p.a) + row * p.lda + col;
  const bool inside = row < p.m;
#pragma unroll
  for (int i = 0; i < N; i++) v.at[i] = T();
  if (wide) {
    if (inside && col < q.cols) v = *reinterpret_cast<const gpu_vec<T, N> *>(a);
  } else {
#pragma unroll
    for (int i = 0; i < N; i++)
      if (inside && col + i < q.cols) v.at[i] = a[i];
  }
}

/* N values as they are stored, in 4 bits at the low end, and the scale of each or of all. */
template <int Q, int N> struct codes {
  gpu_vec<uint8_t, Q == DS_I4 ? N / 2 : N> bytes;
  float scale, zero;
};
template <int Q, int N>
GPU_DEVICE void load_codes(codes<Q, N> &v, const gpu_quant &q, int64_t row, int64_t col) {
  enum { BYTES = sizeof v.bytes };
  v.scale = v.zero = 0.0f;
#pragma unroll
  for (int i = 0; i < BYTES; i++) v.bytes.at[i] = 0;
  if (row >= q.rows || col >= q.cols) return;
  v.bytes = *reinterpret_cast<const gpu_vec<uint8_t, BYTES> *>(static_cast<const uint8_t *>(q.values) +
                                                              (row * q.cols + col) * BYTES / N);
  const int64_t group = quant_group_of(q, row, col);
  v.scale = q.scales[group];
  if (q.zeros != nullptr) v.zero = (float)q.zeros[group];
}
template <int Q, int N> GPU_DEVICE float value_of(const codes<Q, N> &v, int i) {
  const unsigned code = Q == DS_I4 ? v.bytes.at[i / 2] >> 4 * (i % 2) : v.bytes.at[i];
  return v.scale * (quant_decode<Q>(code) - v.zero);
}
template <int Q> GPU_DEVICE float value_at(const gpu_quant &q, int64_t row, int64_t col) {
  if (row >= q.rows || col >= q.cols) return 0.0f;
  return quant_value<Q>(quant_code_at<Q>(q.values, row * q.cols + col),
                        quant_stored_scale<Q>(q, quant_group_of(q, row, col)));
}

template <typename T>
GPU_DEVICE void put_c(const gpu_quant &q, const gpu_quant_product &p, int64_t m, int64_t n, float sum) {
  if (m >= p.m || n >= q.rows) return;
  if (p.codes != nullptr) sum *= p.scales[m];
  if (p.bias != nullptr) sum += gpu_f32(static_cast<const T *>(p.bias)[n]);
  static_cast<T *>(p.c)[m * p.ldc + n] = gpu_from<T>(sum);
}

/* ---- on the multiply-add units, in f32
 *
 * 16 x 16 threads; each has P x P squares of 4 x 4 elements, 64 apart. Every form of A, T or whole numbers, and of
 * alignment. */
template <int P> struct simt_tile {
  enum { SIDE = 64 * P, DEPTH = 16, ROOM = SIDE + 4, PIECES = SIDE * DEPTH / 4 / THREADS };
};

/* Four columns of A from anywhere as floats. */
template <typename T>
GPU_DEVICE void float_a(float (&x)[4], const gpu_quant &q, const gpu_quant_product &p, int64_t room,
                        int64_t row, int64_t col, bool wide) {
  if (p.codes == nullptr) {
    gpu_vec<T, 4> v;
    load_a<T, 4>(v, q, p, row, col, wide);
#pragma unroll
    for (int i = 0; i < 4; i++) x[i] = gpu_f32(v.at[i]);
    return;
  }
  gpu_vec<int8_t, 4> v = {{0, 0, 0, 0}};
  if (row < p.m && col < q.cols) v = *reinterpret_cast<const gpu_vec<int8_t, 4> *>(p.codes + row * room + col);
#pragma unroll
  for (int i = 0; i < 4; i++) x[i] = (float)v.at[i];
}
template <int Q>
GPU_DEVICE void float_b(float (&x)[4], const gpu_quant &q, int64_t row, int64_t col, bool wide) {
  if (wide) {
    codes<Q, 4> v;
    load_codes<Q, 4>(v, q, row, col);
#pragma unroll
    for (int i = 0; i < 4; i++) x[i] = value_of<Q, 4>(v, i);
  } else {
#pragma unroll
    for (int i = 0; i < 4; i++) x[i] = value_at<Q>(q, row, col + i);
  }
}

template <int P>
GPU_DEVICE void simt_multiply(float (&sum)[P][P][4][4], const float *a, const float *b, int y, int x) {
  typedef simt_tile<P> tile;
#pragma unroll 4
  for (int k = 0; k < tile::DEPTH; k++) {
    gpu_vec<float, 4> va[P], vb[P];
#pragma unroll
    for (int i = 0; i < P; i++) {
      va[i] = *reinterpret_cast<const gpu_vec<float, 4> *>(a + k * tile::ROOM + 64 * i + 4 * y);
      vb[i] = *reinterpret_cast<const gpu_vec<float, 4> *>(b + k * tile::ROOM + 64 * i + 4 * x);
    }
#pragma unroll
    for (int i = 0; i < P; i++)
#pragma unroll
      for (int j = 0; j < P; j++)
#pragma unroll
        for (int r = 0; r < 4; r++)
#pragma unroll
          for (int c = 0; c < 4; c++) sum[i][j][r][c] = fmaf(va[i].at[r], vb[j].at[c], sum[i][j][r][c]);
  }
}

template <typename T, int Q, int P>
GPU_KERNEL(THREADS)
simt_gemm(gpu_quant q, gpu_quant_product p, int64_t room, bool wide_a, bool wide_b) {
  typedef simt_tile<P> tile;
  GPU_SHARED(float, a, tile::DEPTH * tile::ROOM);
  GPU_SHARED(float, b, tile::DEPTH * tile::ROOM);
  const int64_t m0 = (int64_t)blockIdx.y * tile::SIDE, n0 = (int64_t)blockIdx.x * tile::SIDE;
  const int y = (int)threadIdx.x / 16, x = (int)threadIdx.x % 16;
  const int row = (int)threadIdx.x / 4, col = (int)threadIdx.x % 4 * 4;
  float sum[P][P][4][4] = {}, next_a[P][4], next_b[P][4];
  const auto load = [&](int64_t k) {
#pragma unroll
    for (int i = 0; i < P; i++) {
      float_a<T>(next_a[i], q, p, room, m0 + row + 64 * i, k + col, wide_a);
      float_b<Q>(next_b[i], q, n0 + row + 64 * i, k + col, wide_b);
    }
  };
  load(0);
  for (int64_t k = 0; k < q.cols; k += tile::DEPTH) {
    gpu_sync();
#pragma unroll
    for (int i = 0; i < P; i++)
#pragma unroll
      for (int e = 0; e < 4; e++) {
        a[(col + e) * tile::ROOM + row + 64 * i] = next_a[i][e];
        b[(col + e) * tile::ROOM + row + 64 * i] = next_b[i][e];
      }
    gpu_sync();
    if (k + tile::DEPTH < q.cols) load(k + tile::DEPTH);
    simt_multiply<P>(sum, a, b, y, x);
  }
#pragma unroll
  for (int i = 0; i < P; i++)
#pragma unroll
    for (int r = 0; r < 4; r++)
#pragma unroll
      for (int j = 0; j < P; j++)
#pragma unroll
        for (int c = 0; c < 4; c++)
          put_c<T>(q, p, m0 + 64 * i + 4 * y + r, n0 + 64 * j + 4 * x + c, sum[i][j][r][c]);
}

/* ---- on the matrix units
 *
 * A wave has MF x NF fragments of 16 x 16; WM waves stand side by side in m, the others in n. */
template <int WM_, int MF_, int NF32> struct mma_tile {
  enum {
    WM = WM_,
    WN = THREADS / GPU_WAVE / WM,
    MF = MF_,
    NF = NF32 * GPU_WAVE / 32,
    M = WM * MF * 16,
    N = WN * NF * 16
  };
};

/* For all elements of a lane: f(row, column, sum) within the tile. */
template <typename Tile, typename C, typename F>
GPU_DEVICE void for_elements(const C (&c)[Tile::MF][Tile::NF], const F &f) {
  const int wave = (int)threadIdx.x / GPU_WAVE, lane = gpu_lane();
#pragma unroll
  for (int i = 0; i < Tile::MF; i++)
#pragma unroll
    for (int j = 0; j < Tile::NF; j++)
#pragma unroll
      for (int e = 0; e < 256 / GPU_WAVE; e++)
        f(((int)(wave % Tile::WM) * Tile::MF + i) * 16 + C::row(lane, e),
          ((int)(wave / Tile::WM) * Tile::NF + j) * 16 + C::col(lane, e), c[i][j].at[e]);
}

/* One step of fragments from rows of A and B in shared memory, `room` elements apart. */
template <typename Tile, typename A, typename B, typename C, typename E>
GPU_DEVICE void mma_step(C (&c)[Tile::MF][Tile::NF], const E *a, const E *b, int room) {
  const int wave = (int)threadIdx.x / GPU_WAVE;
  const E *of_a = a + (wave % Tile::WM) * Tile::MF * 16 * room;
  const E *of_b = b + (wave / Tile::WM) * Tile::NF * 16 * room;
  A fa[Tile::MF];
#pragma unroll
  for (int i = 0; i < Tile::MF; i++)
    gpu_mma_load_a(fa[i], [&](int m, int k) { return of_a + (i * 16 + m) * room + k; });
#pragma unroll
  for (int j = 0; j < Tile::NF; j++) {
    B fb;
    gpu_mma_load_b_trans(fb, [&](int n, int k) { return of_b + (j * 16 + n) * room + k; });
#pragma unroll
    for (int i = 0; i < Tile::MF; i++) gpu_mma(c[i][j], fa[i], fb);
  }
}

/* bf16, values rounded to it; 32 columns at a time, in pieces of 8. A row's room keeps fragments' rows in different
 * banks. */
template <int Q, typename Tile> struct bf16_loader {
  enum { DEPTH = 32, ROOM = DEPTH + 8, ROW = DEPTH / 8 };
  enum { A = (Tile::M * ROW + THREADS - 1) / THREADS, B = Tile::N * ROW / THREADS };
  gpu_vec<gpu_bf16, 8> a[A], b[B];
  codes<Q, 8> stored[B];
};

template <int Q, typename Tile>
GPU_DEVICE void load_bf16(bf16_loader<Q, Tile> &l, const gpu_quant &q, const gpu_quant_product &p, int64_t m0,
                          int64_t n0, int64_t k, bool wide_a, bool wide_b) {
  typedef bf16_loader<Q, Tile> loader;
#pragma unroll
  for (int i = 0; i < loader::A; i++) {
    const int at = i * THREADS + (int)threadIdx.x;
    if (at < Tile::M * loader::ROW)
      load_a<gpu_bf16, 8>(l.a[i], q, p, m0 + at / loader::ROW, k + at % loader::ROW * 8, wide_a);
  }
#pragma unroll
  for (int i = 0; i < loader::B; i++) {
    const int at = i * THREADS + (int)threadIdx.x;
    const int64_t row = n0 + at / loader::ROW, col = k + at % loader::ROW * 8;
    if (wide_b)
      load_codes<Q, 8>(l.stored[i], q, row, col);
    else
#pragma unroll
      for (int e = 0; e < 8; e++) l.b[i].at[e] = gpu_from<gpu_bf16>(value_at<Q>(q, row, col + e));
  }
}
template <int Q, typename Tile>
GPU_DEVICE void store_bf16(bf16_loader<Q, Tile> &l, gpu_bf16 *a, gpu_bf16 *b, bool wide_b) {
  typedef bf16_loader<Q, Tile> loader;
#pragma unroll
  for (int i = 0; i < loader::A; i++) {
    const int at = i * THREADS + (int)threadIdx.x;
    if (at < Tile::M * loader::ROW)
      *reinterpret_cast<gpu_vec<gpu_bf16, 8> *>(a + at / loader::ROW * loader::ROOM + at % loader::ROW * 8) = l.a[i];
  }
#pragma unroll
  for (int i = 0; i < loader::B; i++) {
    const int at = i * THREADS + (int)threadIdx.x;
    if (wide_b)
#pragma unroll
      for (int e = 0; e < 8; e++) l.b[i].at[e] = gpu_from<gpu_bf16>(value_of<Q, 8>(l.stored[i], e));
    *reinterpret_cast<gpu_vec<gpu_bf16, 8> *>(b + at / loader::ROW * loader::ROOM + at % loader::ROW * 8) = l.b[i];
  }
}

template <int Q, int WM, int MF, int NF32>
GPU_KERNEL(THREADS) bf16_gemm(gpu_quant q, gpu_quant_product p, bool wide_a, bool wide_b) {
  typedef mma_tile<WM, MF, NF32> tile;
  typedef bf16_loader<Q, tile> loader;
  GPU_SHARED(gpu_bf16, a, 2 * tile::M * loader::ROOM);
  GPU_SHARED(gpu_bf16, b, 2 * tile::N * loader::ROOM);
  const int64_t m0 = (int64_t)blockIdx.y * tile::M, n0 = (int64_t)blockIdx.x * tile::N;
  gpu_mma_c c[tile::MF][tile::NF];
#pragma unroll
  for (int i = 0; i < tile::MF; i++)
#pragma unroll
    for (int j = 0; j < tile::NF; j++) gpu_mma_zero(c[i][j]);
  loader l;
  load_bf16<Q, tile>(l, q, p, m0, n0, 0, wide_a, wide_b);
  int turn = 0; /* two buffers: one barrier a step */
  for (int64_t k = 0; k < q.cols; k += loader::DEPTH) {
    gpu_bf16 *now_a = a + turn * tile::M * loader::ROOM, *now_b = b + turn * tile::N * loader::ROOM;
    store_bf16<Q, tile>(l, now_a, now_b, wide_b);
    gpu_sync();
    if (k + loader::DEPTH < q.cols) load_bf16<Q, tile>(l, q, p, m0, n0, k + loader::DEPTH, wide_a, wide_b);
#pragma unroll
    for (int step = 0; step < loader::DEPTH; step += 16)
      mma_step<tile, gpu_mma_a<gpu_bf16>, gpu_mma_b<gpu_bf16>>(c, now_a + step, now_b + step, loader::ROOM);
    turn ^= 1;
  }
  for_elements<tile>(c, [&](int m, int n, float sum) { put_c<gpu_bf16>(q, p, m0 + m, n0 + n, sum); });
}

/* int8 with int8: 64 columns at a time, copied as they are; sums of a group in whole numbers, then scaled. Rows of 16 bytes,
 * groups of whole steps of 32. */
enum { INT8_DEPTH = 64, INT8_ROOM = INT8_DEPTH + 16, INT8_STAGES = 3 };

GPU_DEVICE void copy_int8(int8_t *to, const int8_t *from, int64_t stride, int64_t row, int64_t rows, int64_t col,
                          int64_t cols, int count) {
  for (int at = (int)threadIdx.x; at < count * (INT8_DEPTH / 16); at += THREADS) {
    const int64_t r = row + at / (INT8_DEPTH / 16), c = col + at % (INT8_DEPTH / 16) * 16;
    const bool valid = r < rows && c < cols;
    gpu_copy16(to + at / (INT8_DEPTH / 16) * INT8_ROOM + at % (INT8_DEPTH / 16) * 16,
               valid ? from + r * stride + c : from, valid);
  }
}

/* Whole sums of the group at `col` of each row of values join the others; then they begin anew. */
template <typename Tile>
GPU_DEVICE void scale_sums(float (&total)[Tile::MF][Tile::NF][256 / GPU_WAVE], gpu_mma_c32 (&c)[Tile::MF][Tile::NF],
                           const int (&sum_a)[Tile::MF][gpu_mma_c32::ROWS], const gpu_quant &q, int64_t n0, int64_t col) {
  const int lane = gpu_lane(), wave = (int)threadIdx.x / GPU_WAVE;
#pragma unroll
  for (int j = 0; j < Tile::NF; j++)
#pragma unroll
    for (int e = 0; e < 256 / GPU_WAVE; e++) {
      const int64_t n = n0 + (wave / Tile::WM * Tile::NF + j) * 16 + gpu_mma_c32::col(lane, e);
      const int64_t group = quant_group_of(q, n < q.rows ? n : q.rows - 1, col);
      const float scale = q.scales[group];
      const int zero = q.zeros != nullptr ? q.zeros[group] : 0;
#pragma unroll
      for (int i = 0; i < Tile::MF; i++) {
        const int whole = c[i][j].at[e] - zero * sum_a[i][gpu_mma_c32::row_of(e)];
        total[i][j][e] = fmaf(scale, (float)whole, total[i][j][e]);
      }
    }
#pragma unroll
  for (int i = 0; i < Tile::MF; i++)
#pragma unroll
    for (int j = 0; j < Tile::NF; j++) gpu_mma_zero(c[i][j]);
}

/* sums: of A's numbers, by row and 32 columns. */
template <typename T, int WM, int MF, int NF32>
GPU_KERNEL(THREADS) int8_gemm(gpu_quant q, gpu_quant_product p, int64_t room, int64_t period) {
  typedef mma_tile<WM, MF, NF32> tile;
  GPU_SHARED(int8_t, a, INT8_STAGES * tile::M * INT8_ROOM);
  GPU_SHARED(int8_t, b, INT8_STAGES * tile::N * INT8_ROOM);
  const int64_t m0 = (int64_t)blockIdx.y * tile::M, n0 = (int64_t)blockIdx.x * tile::N;
  const int lane = gpu_lane(), wave = (int)threadIdx.x / GPU_WAVE;
  gpu_mma_c32 c[tile::MF][tile::NF];
  float total[tile::MF][tile::NF][256 / GPU_WAVE] = {};
  int sum_a[tile::MF][gpu_mma_c32::ROWS] = {};
#pragma unroll
  for (int i = 0; i < tile::MF; i++)
#pragma unroll
    for (int j = 0; j < tile::NF; j++) gpu_mma_zero(c[i][j]);
  const auto load = [&](int64_t col, int stage) {
    if (col < q.cols) {
      copy_int8(a + stage * tile::M * INT8_ROOM, p.codes, room, m0, p.m, col, room, tile::M);
      copy_int8(b + stage * tile::N * INT8_ROOM, static_cast<const int8_t *>(q.values), q.cols, n0, q.rows, col,
                q.cols, tile::N);
    }
    gpu_copy_commit();
  };
  load(0, 0);
  load(INT8_DEPTH, 1);
  int stage = 0;
  for (int64_t k = 0; k < q.cols; k += INT8_DEPTH) {
    gpu_copy_wait<INT8_STAGES - 2>();
    gpu_sync();
    load(k + 2 * INT8_DEPTH, stage == 0 ? 2 : stage - 1);
#pragma unroll
    for (int step = 0; step < INT8_DEPTH; step += 32) {
      mma_step<tile, gpu_mma_a8, gpu_mma_b8>(c, a + stage * tile::M * INT8_ROOM + step,
                                             b + stage * tile::N * INT8_ROOM + step, INT8_ROOM);
      if (q.zeros != nullptr)
#pragma unroll
        for (int i = 0; i < tile::MF; i++)
#pragma unroll
          for (int e = 0; e < 256 / GPU_WAVE; e++) {
            const int64_t m = m0 + (wave % tile::WM * tile::MF + i) * 16 + gpu_mma_c32::row(lane, e);
            if (e == 0 || gpu_mma_c32::row_of(e) != gpu_mma_c32::row_of(e - 1))
              if (gpu_mma_c32::row_of(e) >= 0 && m < p.m && e < 256 / GPU_WAVE / (GPU_WAVE == 32 ? 2 : 1))
                sum_a[i][gpu_mma_c32::row_of(e)] += p.sums[m * (room / 32) + (k + step) / 32];
          }
      if ((k + step + 32) % period == 0 || k + step + 32 >= q.cols) {
      }
    }
    stage = stage == 2 ? 0 : stage + 1;
  }
}

} // namespace
