/* gemm_simt.cu - products on the multiply-add units.
 *
 * A block of 256 threads makes a tile of C, SIDE x SIDE; a thread makes (SIDE/16)^2 of it in registers. Tiles of A and B
 * pass through shared memory as f32 with k outermost, in two buffers: the next is fetched while one is used. */
#include "gemm_finish.h"

namespace {

enum { THREADS = 256 };

template <int SIDE> struct shape {
  enum {
    DEPTH = 1024 / SIDE, /* of a tile in k: a thread fetches four elements of each operand */
    PITCH = SIDE + 4,    /* spreads a column over the banks; rows stay aligned to 16 bytes */
    EACH = SIDE / 16
  };
};

/* Where this thread's four elements lie in a tile; they are neighbours in memory. */
template <int SIDE> struct quad {
  int row, k;
  GPU_DEVICE quad of(bool k_contiguous) {
    const int t = (int)threadIdx.x;
    enum { K4 = shape<SIDE>::DEPTH / 4, R4 = SIDE / 4 };
    return k_contiguous ? quad{t / K4, t % K4 * 4} : quad{t % R4 * 4, t / R4};
  }
};

/* This thread's way through an operand: from tile to tile in k. */
struct source {
  const char *next;
  int64_t step;   /* bytes to the next tile */
  int64_t k_left; /* how much of k there is from `next` on; none for rows that don't exist */
  int rows_left;  /* of the four neighbours, where they are rows */
  int dtype;
  bool k_contiguous;
};

template <int SIDE>
GPU_DEVICE source source_of(const void *data, int dtype, int64_t row0, int64_t rows, int64_t depth,
                            int64_t ld, bool k_contiguous) {
  const quad<SIDE> q = quad<SIDE>::of(k_contiguous);
  const int64_t row = row0 + q.row, left = rows - row;
  source s;
  s.next = static_cast<const char *>(
      gemm_at(dtype, data, k_contiguous ? row * ld + q.k : q.k * ld + row));
  s.step = static_cast<const char *>(
               gemm_at(dtype, data, shape<SIDE>::DEPTH * (k_contiguous ? (int64_t)1 : ld))) -
           static_cast<const char *>(data);
  s.k_left = left > 0 ? depth - q.k : 0;
  s.rows_left = left < 4 ? (int)left : 4;
  s.dtype = dtype;
  s.k_contiguous = k_contiguous;
  return s;
}

/* WIDE: f32, aligned, with whole quads: one load. */
template <int SIDE, bool WIDE> GPU_DEVICE float4 fetch(source &s) {
  float4 v = {0, 0, 0, 0};
  if (WIDE) {
    if (s.k_left > 0) v = *reinterpret_cast<const float4 *>(s.next);
  } else if (s.k_left > 0) {
    const int64_t left = s.k_contiguous ? s.k_left : s.rows_left;
    v.x = gemm_load(s.dtype, s.next, 0);
    if (left > 1) v.y = gemm_load(s.dtype, s.next, 1);
    if (left > 2) v.z = gemm_load(s.dtype, s.next, 2);
    if (left > 3) v.w = gemm_load(s.dtype, s.next, 3);
  }
  s.next += s.step;
  s.k_left -= shape<SIDE>::DEPTH;
  return v;
}

template <int SIDE> GPU_DEVICE void put(float *tile, bool k_contiguous, float4 v) {
  enum { PITCH = shape<SIDE>::PITCH };
  const quad<SIDE> q = quad<SIDE>::of(k_contiguous);
  float *to = tile + q.k * PITCH + q.row;
  if (k_contiguous) {
    to[0] = v.x;
    to[PITCH] = v.y;
    to[2 * PITCH] = v.z;
    to[3 * PITCH] = v.w;
  } else {
    *reinterpret_cast<float4 *>(to) = v;
  }
}

/* A thread's rows (and columns) of the tile: quads 64 apart. */
template <int SIDE> GPU_DEVICE void take(const float *from, float (&v)[shape<SIDE>::EACH]) {
#pragma unroll
  for (int q = 0; q < SIDE / 64; q++) {
    const float4 x = *reinterpret_cast<const float4 *>(from + 64 * q);
    v[4 * q] = x.x;
    v[4 * q + 1] = x.y;
    v[4 * q + 2] = x.z;
    v[4 * q + 3] = x.w;
  }
}

template <int SIDE, bool WIDE> GPU_KERNEL(THREADS, WIDE ? 2 : 1) simt(gpu_product p, bool wide_c) {
  enum { DEPTH = shape<SIDE>::DEPTH, PITCH = shape<SIDE>::PITCH, EACH = shape<SIDE>::EACH };
  GPU_SHARED(float, tiles_a, 2 * DEPTH * PITCH);
  GPU_SHARED(float, tiles_b, 2 * DEPTH * PITCH);
  const gemm_place place = gemm_place_of<SIDE, SIDE>(p);
  source a = source_of<SIDE>(gemm_at(p.dtype_a, p.a, place.batch * p.stride_a), p.dtype_a, place.i,
                             p.m, p.k, p.lda, !p.trans_a);
  source b = source_of<SIDE>(gemm_at(p.dtype_b, p.b, place.batch * p.stride_b), p.dtype_b, place.j,
                             p.n, p.k, p.ldb, p.trans_b != 0);
  const int ty = (int)threadIdx.x / 16 * 4, tx = (int)threadIdx.x % 16 * 4;

  float sums[EACH][EACH] = {};
  put<SIDE>(tiles_a, a.k_contiguous, fetch<SIDE, WIDE>(a));
  put<SIDE>(tiles_b, b.k_contiguous, fetch<SIDE, WIDE>(b));
  gpu_sync();
  int buffer = 0;
  for (int left = (int)((p.k + DEPTH - 1) / DEPTH); left > 0; left--) {
    const bool more = left > 1;
    float4 next_a = {0, 0, 0, 0}, next_b = {0, 0, 0, 0};
    if (more) {
      next_a = fetch<SIDE, WIDE>(a);
      next_b = fetch<SIDE, WIDE>(b);
    }
    const float *from_a = tiles_a + buffer * DEPTH * PITCH + ty;
    const float *from_b = tiles_b + buffer * DEPTH * PITCH + tx;
#pragma unroll
    for (int k = 0; k < DEPTH; k++) {
      float row[EACH], col[EACH];
      take<SIDE>(from_a + k * PITCH, row);
      take<SIDE>(from_b + k * PITCH, col);
#pragma unroll
      for (int r = 0; r < EACH; r++)
#pragma unroll
        for (int c = 0; c < EACH; c++) sums[r][c] = fmaf(row[r], col[c], sums[r][c]);
    }
    buffer ^= 1;
    if (more) {
      put<SIDE>(tiles_a + buffer * DEPTH * PITCH, a.k_contiguous, next_a);
      put<SIDE>(tiles_b + buffer * DEPTH * PITCH, b.k_contiguous, next_b);
    }
    gpu_sync();
  }

  const float alpha = gemm_alpha(p);
#pragma unroll
  for (int r = 0; r < EACH; r++) {
    const int64_t i = place.i + ty + r % 4 + r / 4 * 64;
    if (i >= p.m) continue;
#pragma unroll
    for (int q = 0; q < EACH / 4; q++) {
      const int64_t j = place.j + tx + 64 * q;
      if (j >= p.n) continue;
      float v[4];
#pragma unroll
      for (int e = 0; e < 4; e++) v[e] = alpha * sums[r][4 * q + e];
      gemm_finish_row(p, place.batch * p.stride_c + i * p.ldc + j, j,
                      p.n - j < 4 ? (int)(p.n - j) : 4, wide_c, v);
    }
  }
}

bool whole_quads(int dtype, const void *data, int64_t row_length, int64_t ld, int64_t stride) {
  return dtype == DS_F32 && row_length % 4 == 0 && gemm_aligned(dtype, data, ld, stride);
}

template <int SIDE> gpuError_t launch(gpuStream_t s, const gpu_product *p) {
  const int64_t blocks = (p->m + SIDE - 1) / SIDE * ((p->n + SIDE - 1) / SIDE) * p->batch;
  const bool many = p->batch > 1;
  const bool wide =
      whole_quads(p->dtype_a, p->a, p->trans_a ? p->m : p->k, p->lda, many ? p->stride_a : 0) &&
      whole_quads(p->dtype_b, p->b, p->trans_b ? p->k : p->n, p->ldb, many ? p->stride_b : 0);
  auto kernel = wide ? simt<SIDE, true> : simt<SIDE, false>;
  return GPU_LAUNCH(kernel, dim3((unsigned)blocks), dim3(THREADS), 0, s, *p, gemm_wide(p, 4));
}

} // namespace

/* The large tile reads less, the small one fills a device that would stand idle. */
extern "C" gpuError_t gpu_gemm_simt(gpuStream_t s, const gpu_product *p, int multiprocessors) {
  if (p->m == 0 || p->n == 0 || p->batch == 0) return gpuSuccess;
  const int64_t large = (p->m + 127) / 128 * ((p->n + 127) / 128) * p->batch;
  return large >= multiprocessors ? launch<128>(s, p) : launch<64>(s, p);
}
