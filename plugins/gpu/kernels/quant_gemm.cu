/* quant_gemm.cu - many rows of A against quantized values: which way, and the one in f32, on the multiply-add units.
 *
 * A tile of C a block; values are brought back into shared memory, 16 columns at a time, while the next ones are on their way from memory. */
#include "quant_tile.h"

namespace {

/* Columns whose sums are made by themselves before they join the others: a single long one would drift. */
enum { SPAN = 512 };

/* 16 x 16 threads; each has P x P squares of 4 x 4 elements, 64 apart. */
template <int P> struct square {
  enum { SIDE = 64 * P, DEPTH = 16, ROOM = SIDE + 4 };
};

/* What of the operands lies in whole pieces of four columns. */
struct alignment {
  bool a, b;
  quant_divisor group_pieces; /* pieces of a group within a row */
};

/* Four columns of A as floats, zeros where there are none. */
template <typename T>
GPU_DEVICE void load_a(float (&x)[4], const gpu_quant &q, const gpu_quant_product &p, int64_t row,
                       int64_t col, bool aligned) {
#pragma unroll
  for (int i = 0; i < 4; i++) x[i] = 0.0f;
  if (row >= p.m || col >= q.cols) return;
  const T *from = static_cast<const T *>(p.a) + row * p.lda + col;
  if (aligned) {
    const gpu_vec<T, 4> v = *reinterpret_cast<const gpu_vec<T, 4> *>(from);
#pragma unroll
    for (int i = 0; i < 4; i++) x[i] = gpu_f32(v.at[i]);
  } else {
#pragma unroll
    for (int i = 0; i < 4; i++)
      if (col + i < q.cols) x[i] = gpu_f32(from[i]);
  }
}
GPU_DEVICE void load_codes(float (&x)[4], const gpu_quant &q, const gpu_quant_product &p,
                           int64_t room, int64_t row, int64_t col) {
  gpu_vec<int8_t, 4> v = {{0, 0, 0, 0}};
  if (row < p.m && col < q.cols)
    v = *reinterpret_cast<const gpu_vec<int8_t, 4> *>(p.codes + row * room + col);
#pragma unroll
  for (int i = 0; i < 4; i++) x[i] = (float)v.at[i];
}

/* Four columns of values. */
template <int Q>
GPU_DEVICE void load_b(float (&x)[4], const gpu_quant &q, int64_t row, int64_t col,
                       const alignment &lies) {
#pragma unroll
  for (int i = 0; i < 4; i++) x[i] = 0.0f;
  if (row >= q.rows || col >= q.cols) return;
  if (lies.b) {
    enum { BYTES = Q == DS_I4 ? 2 : 4 };
    const gpu_vec<uint8_t, BYTES> v = *reinterpret_cast<const gpu_vec<uint8_t, BYTES> *>(
        static_cast<const uint8_t *>(q.values) + (row * q.cols + col) / 4 * BYTES);
    const int64_t in_row =
        q.row_groups > 1 ? quant_divide((uint32_t)(col / 4), lies.group_pieces) : 0;
    const quant_scale s = quant_stored_scale<Q>(q, row * q.row_groups + in_row);
#pragma unroll
    for (int i = 0; i < 4; i++)
      x[i] = quant_value<Q>(Q == DS_I4 ? v.at[i / 2] >> 4 * (i % 2) : v.at[i % BYTES], s);
  } else {
#pragma unroll
    for (int i = 0; i < 4; i++)
      if (col + i < q.cols)
        x[i] = quant_value<Q>(quant_code_at<Q>(q.values, row * q.cols + col + i),
                              quant_stored_scale<Q>(q, quant_group_of(q, row, col + i)));
  }
}

template <int P>
GPU_DEVICE void multiply(float (&sum)[P][P][4][4], const float *a, const float *b, int y, int x) {
#pragma unroll 4
  for (int k = 0; k < square<P>::DEPTH; k++) {
    gpu_vec<float, 4> va[P], vb[P];
#pragma unroll
    for (int i = 0; i < P; i++) {
      va[i] =
          *reinterpret_cast<const gpu_vec<float, 4> *>(a + k * square<P>::ROOM + 64 * i + 4 * y);
      vb[i] =
          *reinterpret_cast<const gpu_vec<float, 4> *>(b + k * square<P>::ROOM + 64 * i + 4 * x);
    }
#pragma unroll
    for (int i = 0; i < P; i++)
#pragma unroll
      for (int j = 0; j < P; j++)
#pragma unroll
        for (int r = 0; r < 4; r++)
#pragma unroll
          for (int c = 0; c < 4; c++)
            sum[i][j][r][c] = fmaf(va[i].at[r], vb[j].at[c], sum[i][j][r][c]);
  }
}

template <int P> GPU_DEVICE void add(float (&total)[P][P][4][4], float (&sum)[P][P][4][4]) {
#pragma unroll
  for (int i = 0; i < P; i++)
#pragma unroll
    for (int j = 0; j < P; j++)
#pragma unroll
      for (int r = 0; r < 4; r++)
#pragma unroll
        for (int c = 0; c < 4; c++) {
          total[i][j][r][c] += sum[i][j][r][c];
          sum[i][j][r][c] = 0.0f;
        }
}

/* A is of T, or whole numbers, which stand in rows of `room`. */
template <typename T, int Q, int P>
GPU_KERNEL(QUANT_THREADS)
f32_gemm(gpu_quant q, gpu_quant_product p, alignment lies, int64_t room) {
  typedef square<P> tile;
  GPU_SHARED(float, a, tile::DEPTH *tile::ROOM);
  GPU_SHARED(float, b, tile::DEPTH *tile::ROOM);
  const int64_t m0 = (int64_t)blockIdx.y * tile::SIDE, n0 = (int64_t)blockIdx.x * tile::SIDE;
  const int y = (int)threadIdx.x / 16, x = (int)threadIdx.x % 16;
  const int row = (int)threadIdx.x / 4, col = (int)threadIdx.x % 4 * 4;
  float total[P][P][4][4] = {}, sum[P][P][4][4] = {}, next_a[P][4], next_b[P][4];
  const auto load = [&](int64_t k) {
#pragma unroll
    for (int i = 0; i < P; i++) {
      if (p.codes != nullptr)
        load_codes(next_a[i], q, p, room, m0 + row + 64 * i, k + col);
      else
        load_a<T>(next_a[i], q, p, m0 + row + 64 * i, k + col, lies.a);
      load_b<Q>(next_b[i], q, n0 + row + 64 * i, k + col, lies);
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
    multiply<P>(sum, a, b, y, x);
    if ((k + tile::DEPTH) % SPAN == 0 || k + tile::DEPTH >= q.cols) add<P>(total, sum);
  }
#pragma unroll
  for (int i = 0; i < P; i++)
#pragma unroll
    for (int r = 0; r < 4; r++)
#pragma unroll
      for (int j = 0; j < P; j++)
#pragma unroll
        for (int c = 0; c < 4; c++)
          quant_put<T>(q, p, m0 + 64 * i + 4 * y + r, n0 + 64 * j + 4 * x + c, total[i][j][r][c]);
}

/* ---- launches */

template <typename T> alignment alignment_of(const gpu_quant &q, const gpu_quant_product &p) {
  alignment lies;
  lies.a = q.cols % 4 == 0 && p.lda % 4 == 0 && (uintptr_t)p.a % (4 * sizeof(T)) == 0;
  lies.b = q.cols % 4 == 0 && q.cols / 4 < INT32_MAX / 2 && (uintptr_t)q.values % 4 == 0 &&
           (q.row_groups <= 1 || q.group_cols % 4 == 0);
  lies.group_pieces = quant_divisor_of((uint32_t)(lies.b ? q.group_cols / 4 : 1));
  return lies;
}

template <typename T, int Q, int P>
gpuError_t launch_tile(gpuStream_t s, const gpu_quant &q, const gpu_quant_product &p) {
  enum { SIDE = square<P>::SIDE };
  const dim3 grid((unsigned)((q.rows + SIDE - 1) / SIDE), (unsigned)((p.m + SIDE - 1) / SIDE));
  auto k = f32_gemm<T, Q, P>;
  return GPU_LAUNCH(k, grid, dim3(QUANT_THREADS), 0, s, q, p, alignment_of<T>(q, p),
                    gpu_quant_row_bytes(q.cols));
}
template <typename T, int Q>
gpuError_t launch(gpuStream_t s, const gpu_quant &q, const gpu_quant_product &p) {
  return p.m <= 64 ? launch_tile<T, Q, 1>(s, q, p) : launch_tile<T, Q, 2>(s, q, p);
}
gpuError_t launch_f32(gpuStream_t s, const gpu_quant &q, const gpu_quant_product &p) {
  switch (q.qtype) {
    case DS_I8: return launch<float, DS_I8>(s, q, p);
    case DS_I4: return launch<float, DS_I4>(s, q, p);
    case DS_F8E4M3: return launch<float, DS_F8E4M3>(s, q, p);
    default: return launch<float, DS_F8E5M2>(s, q, p);
  }
}

} // namespace

extern "C" size_t gpu_quant_gemm_scratch(const gpu_quant *q, int64_t m, int multiprocessors) {
  const int parts = q->dtype == DS_BF16 ? quant_bf16_parts(*q, m, multiprocessors) : 1;
  return parts > 1 ? (size_t)parts * (size_t)m * (size_t)q->rows * sizeof(float) : 0;
}

extern "C" gpuError_t gpu_quant_gemm(gpuStream_t s, const gpu_quant *q, const gpu_quant_product *p,
                                     int multiprocessors, void *scratch) {
  if (p->codes != nullptr) {
    if (quant_int8_takes(*q)) return quant_int8_gemm(s, *q, *p);
    return q->dtype == DS_F32 ? launch<float, DS_I8>(s, *q, *p)
                              : launch<gpu_bf16, DS_I8>(s, *q, *p);
  }
  if (q->dtype == DS_F32) return launch_f32(s, *q, *p);
  return quant_bf16_gemm(s, *q, *p, quant_bf16_parts(*q, p->m, multiprocessors),
                         static_cast<float *>(scratch));
}
