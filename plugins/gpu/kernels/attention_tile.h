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

  __device__ __forceinline__ attention_sight(const gpu_attention &p, int b)
      : causal(p.causal), window(p.window) {
    const int given = p.kv_len ? p.kv_len[b] : p.keys;
    len = given < 0 ? 0 : given > p.keys ? p.keys : given;
    before = len - p.time;
  }
  /* Query t sees keys begin(t) .. end(t)-1: none where end <= begin. Both grow with t. */
  __device__ __forceinline__ int begin(int t) const {
    const int first = before + t - window + 1;
    return window > 0 && first > 0 ? first : 0;
  }
  __device__ __forceinline__ int end(int t) const {
    const int behind = before + t + 1;
    return causal && behind < len ? behind : len;
  }
};

#endif
