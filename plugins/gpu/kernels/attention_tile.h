/* attention_tile.h - what the kernels of attention share: which keys a query sees, and tiles of rows in shared memory.
 *
 * A tile holds rows of D elements (a multiple of 16; past the tensor's own dim: zeros), each followed by 16
 * bytes of nothing: rows are then an odd number of 16-byte chunks apart, and the eight rows that ldmatrix
 * reads at once lie in different banks. */
#ifndef DS_GPU_ATTENTION_TILE_H
#define DS_GPU_ATTENTION_TILE_H

#include "attention.h"
#include "mma.h"

#define GPU_ATTENTION_LOG2E 1.44269504088896340736f

template <typename T, int D> struct attention_tile {
  enum { CHUNK = 16 / sizeof(T), STRIDE = D + CHUNK, CHUNKS = D / CHUNK };

  /* Rows first .. first+ROWS-1 of a tensor; those from `end` on are zeros and not read. By all threads;
   * gpu_copy_commit and gpu_copy_wait are the caller's. */
  template <int ROWS, int THREADS>
  GPU_DEVICE void load(T *tile, const T *tensor, int stride, int first, int end, int dim,
                       bool vector) {
    const int thread = (int)threadIdx.x;
    if (vector && THREADS % CHUNKS == 0) { /* a thread stays in its columns */
      const int row = thread / CHUNKS, at = thread % CHUNKS * CHUNK;
      const int step = THREADS < CHUNKS ? 1 : THREADS / CHUNKS;
      const T *from = tensor + (int64_t)(first + row) * stride + at;
      tile += row * STRIDE + at;
      const int rows = at < dim ? end - first - row : 0;
#pragma unroll 4
      for (int i = 0; i < ROWS; i += step, from += (int64_t)step * stride)
        if (ROWS % step == 0 || i + row < ROWS) gpu_copy16(tile + i * STRIDE, from, i < rows);
    } else if (vector) {
#pragma unroll 4
      for (int c = thread; c < ROWS * CHUNKS; c += THREADS) {
        const int row = c / CHUNKS, at = c % CHUNKS * CHUNK;
        gpu_copy16(tile + row * STRIDE + at, tensor + (int64_t)(first + row) * stride + at,
                   first + row < end && at < dim);
      }
    } else {
#pragma unroll 1
      for (int e = thread; e < ROWS * D; e += THREADS) {
        const int row = e / D, at = e % D;
        tile[row * STRIDE + at] = first + row < end && at < dim
                                      ? tensor[(int64_t)(first + row) * stride + at]
                                      : gpu_from<T>(0);
      }
    }
  }

  /* The ROWS rows of a tile that one wave wrote, by that wave. */
  template <int ROWS>
  GPU_DEVICE void store(const T *tile, T *tensor, int stride, int first, int end, int dim,
                        bool vector) {
    gpu_sync_wave();
    if (vector) {
#pragma unroll 2
      for (int c = gpu_lane(); c < ROWS * CHUNKS; c += GPU_WAVE) {
        const int row = c / CHUNKS, at = c % CHUNKS * CHUNK;
        if (first + row < end && at < dim)
          *reinterpret_cast<uint4 *>(tensor + (int64_t)(first + row) * stride + at) =
              *reinterpret_cast<const uint4 *>(tile + row * STRIDE + at);
      }
    } else {
#pragma unroll 1
      for (int e = gpu_lane(); e < ROWS * D; e += GPU_WAVE) {
        const int row = e / D, at = e % D;
        if (first + row < end && at < dim)
          tensor[(int64_t)(first + row) * stride + at] = tile[row * STRIDE + at];
      }
    }
  }

  /* sums += rows rows^T: MT x 16 rows of one tile with NT x 16 of another. */
  template <int MT, int NT>
  GPU_DEVICE void multiply_rows(gpu_mma_c (&sums)[MT][NT], const T *rows, const T *others) {
#pragma unroll
    for (int d = 0; d < D; d += 16) {
      gpu_mma_a<T> a[MT];
#pragma unroll
      for (int m = 0; m < MT; m++)
        gpu_mma_load_a(a[m], [&](int r, int c) { return rows + (16 * m + r) * STRIDE + d + c; });
#pragma unroll
      for (int n = 0; n < NT; n++) {
        gpu_mma_b<T> b;
        gpu_mma_load_b_trans(b,
                             [&](int r, int c) { return others + (16 * n + r) * STRIDE + d + c; });
#pragma unroll
        for (int m = 0; m < MT; m++) gpu_mma(sums[m][n], a[m], b);
      }
    }
  }

  /* sums += weights rows: MT x NT tiles of weights, rounded to T, with NT x 16 rows of a tile. */
  template <int MT, int NT>
  GPU_DEVICE void multiply_sums(gpu_mma_c (&sums)[MT][D / 16], const gpu_mma_c (&weights)[MT][NT],
                                const T *rows) {
#pragma unroll
    for (int n = 0; n < NT; n++) {
      gpu_mma_a<T> a[MT];
#pragma unroll
      for (int m = 0; m < MT; m++) gpu_mma_as_a(a[m], weights[m][n]);
#pragma unroll
      for (int d = 0; d < D / 16; d++) {
        gpu_mma_b<T> b;
        gpu_mma_load_b(b, [&](int r, int c) { return rows + (16 * n + r) * STRIDE + 16 * d + c; });
#pragma unroll
        for (int m = 0; m < MT; m++) gpu_mma(sums[m][d], a[m], b);
      }
    }
  }

  /* MT x D/16 sums of one wave, times factor, to rows first .. of a tensor, by way of `tile`, which is
   * free; added to what is there if `add`. */
  template <int MT>
  GPU_DEVICE void put(gpu_mma_c (&sums)[MT][D / 16], float factor, T *tile, T *tensor, int stride,
                      int first, int end, int dim, bool vector, bool add) {
    const int lane = gpu_lane();
    gpu_sync_wave();
#pragma unroll
    for (int m = 0; m < MT; m++)
#pragma unroll
      for (int n = 0; n < D / 16; n++)
#pragma unroll
        for (int i = 0; i < 256 / GPU_WAVE; i++) {
          const int row = 16 * m + gpu_mma_c::row(lane, i), at = 16 * n + gpu_mma_c::col(lane, i);
          float v = sums[m][n].at[i] * factor;
          if (add && first + row < end && at < dim)
            v += gpu_f32(tensor[(int64_t)(first + row) * stride + at]);
          tile[row * STRIDE + at] = gpu_from<T>(v);
        }
    store<16 * MT>(tile, tensor, stride, first, end, dim, vector);
  }
};

/* Which keys the queries of one batch see. */
struct attention_sight {
  int len, before; /* keys in use; the position of query 0 */
  int causal, window;
};

GPU_DEVICE attention_sight attention_sight_of(const gpu_attention &p, int b) {
  const int given = p.kv_len ? p.kv_len[b] : p.keys;
  const int len = given < 0 ? 0 : given > p.keys ? p.keys : given;
  return {len, len - p.time, p.causal, p.window};
}
/* Query t sees keys begin .. end-1: none where end <= begin. Both grow with t. */
GPU_DEVICE int attention_begin(const attention_sight &sight, int t) {
  const int first = sight.before + t - sight.window + 1;
  return sight.window > 0 && first > 0 ? first : 0;
}
GPU_DEVICE int attention_end(const attention_sight &sight, int t) {
  const int behind = sight.before + t + 1;
  return sight.causal && behind < sight.len ? behind : sight.len;
}
/* The first query that sees key j or a later one, and one more than the last of `time` queries that sees j or an
 * earlier one. */
GPU_DEVICE int attention_first_of(const attention_sight &sight, int j) {
  return sight.causal && j > sight.before ? j - sight.before : 0;
}
GPU_DEVICE int attention_last_of(const attention_sight &sight, int j, int time) {
  const int behind = j - sight.before + sight.window;
  return sight.window > 0 && behind < time ? behind : time;
}

/* Becomes `hidden` where a query, from t0 on in rows, doesn't see a key, from j0 on in columns. */
template <int MT, int NT>
GPU_DEVICE void attention_mask(gpu_mma_c (&s)[MT][NT], const attention_sight &sight, int t0, int j0,
                               float hidden) {
  const int lane = gpu_lane();
#pragma unroll
  for (int m = 0; m < MT; m++)
#pragma unroll
    for (int i = 0; i < 256 / GPU_WAVE; i++) {
      const int t = t0 + 16 * m + gpu_mma_c::row(lane, i);
      const int begin = attention_begin(sight, t), end = attention_end(sight, t);
#pragma unroll
      for (int n = 0; n < NT; n++) {
        const int j = j0 + 16 * n + gpu_mma_c::col(lane, i);
        if (j < begin || j >= end) s[m][n].at[i] = hidden;
      }
    }
}

#endif
