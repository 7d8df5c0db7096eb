/* attention_forward.cu - attention in one pass over the keys, with the sum and the maximum of a row's
 * exponentials kept as it goes (Dao 2023, "FlashAttention-2"; Milakov & Gimelshein 2018).
 *
 * A block has a tile of queries of one head, a wave MT x 16 of them. Tiles of BN keys and values come through
 * shared memory, the keys of the next while this one's values are used and the other way round. Scores
 * and probabilities stay in registers. */
#include "attention_tile.h"

template <typename T, int D, int MT, int BN, int WAVES> struct attention_forward_shape {
  typedef attention_tile<T, D> tile;
  enum { ROWS = 16 * MT * WAVES, SHARED = (ROWS + 2 * BN) * tile::STRIDE * (int)sizeof(T) };
};

/* Scores become exponentials; maximum and sum (this lane's part of it) of each row go on, and the output so far is
 * scaled to the new maximum. For 16 rows. */
template <int NT, int DT>
GPU_DEVICE void attention_softmax(gpu_mma_c (&s)[NT], gpu_mma_c (&o)[DT],
                                  float (&most)[gpu_mma_c::ROWS], float (&sum)[gpu_mma_c::ROWS],
                                  float scale) {
  float factor[gpu_mma_c::ROWS], offset[gpu_mma_c::ROWS];
  bool grew = false;
#pragma unroll
  for (int r = 0; r < gpu_mma_c::ROWS; r++) {
    float top = -INFINITY;
#pragma unroll
    for (int n = 0; n < NT; n++)
#pragma unroll
      for (int i = 0; i < 256 / GPU_WAVE; i++)
        if (gpu_mma_c::row_of(i) == r) top = fmaxf(top, s[n].at[i]);
    top = fmaxf(most[r], gpu_mma_row_max(top));
    offset[r] = top == -INFINITY ? 0 : top * scale;
    factor[r] = gpu_exp2_fast(most[r] * scale - offset[r]);
    grew |= top != most[r];
    most[r] = top;
    sum[r] *= factor[r];
  }
#pragma unroll
  for (int n = 0; n < NT; n++)
#pragma unroll
    for (int i = 0; i < 256 / GPU_WAVE; i++) {
      const int r = gpu_mma_c::row_of(i);
      s[n].at[i] = gpu_exp2_fast(fmaf(s[n].at[i], scale, -offset[r]));
      sum[r] += s[n].at[i];
    }
  if (gpu_any(grew)) {
#pragma unroll
    for (int n = 0; n < DT; n++)
#pragma unroll
      for (int i = 0; i < 256 / GPU_WAVE; i++) o[n].at[i] *= factor[gpu_mma_c::row_of(i)];
  }
}

template <typename T, int D, int MT, int BN, int WAVES>
GPU_KERNEL(WAVES *GPU_WAVE)
attention_forward(const gpu_attention p) {
  typedef attention_tile<T, D> tile;
  enum { STRIDE = tile::STRIDE, ROWS = 16 * MT * WAVES, THREADS = WAVES * GPU_WAVE };
  GPU_SHARED_DYNAMIC(T, shared);
  T *const sk = shared + ROWS * STRIDE, *const sv = sk + BN * STRIDE;
  const int tiles = (p.time + ROWS - 1) / ROWS, bh = (int)(blockIdx.x / tiles);
  const int h = bh % p.heads, b = bh / p.heads, g = h / (p.heads / p.groups);
  const int first = (tiles - 1 - (int)(blockIdx.x % tiles)) * ROWS; /* the longest first */
  const T *q = static_cast<const T *>(p.q.data) + b * p.q.batch + h * p.q.head;
  const T *k = static_cast<const T *>(p.k.data) + b * p.k.batch + g * p.k.head;
  const T *v = static_cast<const T *>(p.v.data) + b * p.v.batch + g * p.v.head;
  T *o = static_cast<T *>(p.o.data) + b * p.o.batch + h * p.o.head;
  const attention_sight sight = attention_sight_of(p, b);
  const int behind = first + ROWS < p.time ? first + ROWS : p.time;
  const int from = attention_begin(sight, first) / BN * BN, to = attention_end(sight, behind - 1);

  const int lane = gpu_lane(), wave = (int)threadIdx.x / GPU_WAVE;
  const int t0 = first + wave * 16 * MT; /* this wave's first query */
  T *const sq = shared + wave * 16 * MT * STRIDE;
  gpu_mma_c out[MT][D / 16];
  float most[MT][gpu_mma_c::ROWS], sum[MT][gpu_mma_c::ROWS];
#pragma unroll
  for (int m = 0; m < MT; m++) {
#pragma unroll
    for (int n = 0; n < D / 16; n++) gpu_mma_zero(out[m][n]);
#pragma unroll
    for (int r = 0; r < gpu_mma_c::ROWS; r++) most[m][r] = -INFINITY, sum[m][r] = 0;
  }
  tile::template load<ROWS, THREADS>(shared, q, p.q.row, first, p.time, p.dim, p.vector);
  tile::template load<BN, THREADS>(sk, k, p.k.row, from, sight.len, p.dim, p.vector);
  gpu_copy_commit();

  for (int j0 = from; j0 < to; j0 += BN) {
    /* Some query of this wave sees some key here; every query sees every key. */
    const bool some = t0 < p.time && j0 < attention_end(sight, t0 + 16 * MT - 1) &&
                      j0 + BN > attention_begin(sight, t0);
    const bool whole =
        j0 + BN <= attention_end(sight, t0) && j0 >= attention_begin(sight, t0 + 16 * MT - 1);
    gpu_copy_wait<0>();
    gpu_sync(); /* keys are there; the values before were used */
    tile::template load<BN, THREADS>(sv, v, p.v.row, j0, sight.len, p.dim, p.vector);
    gpu_copy_commit();
    gpu_mma_c s[MT][BN / 16];
    if (some) {
#pragma unroll
      for (int m = 0; m < MT; m++)
#pragma unroll
        for (int n = 0; n < BN / 16; n++) gpu_mma_zero(s[m][n]);
      tile::template multiply_rows<MT, BN / 16>(s, sq, sk);
    }
    gpu_copy_wait<0>();
    gpu_sync(); /* values are there; the keys were used */
    if (j0 + BN < to)
      tile::template load<BN, THREADS>(sk, k, p.k.row, j0 + BN, sight.len, p.dim, p.vector);
    gpu_copy_commit();
    if (some) {
      if (!whole) attention_mask(s, sight, t0, j0, -INFINITY);
#pragma unroll
      for (int m = 0; m < MT; m++)
        attention_softmax(s[m], out[m], most[m], sum[m], p.scale * GPU_ATTENTION_LOG2E);
      tile::template multiply_sums<MT, BN / 16>(out, s, sv);
    }
  }
  gpu_copy_wait<0>();
  gpu_sync(); /* of a block that saw nothing: the copies of all, before put takes their place */

#pragma unroll
  for (int m = 0; m < MT; m++) {
    float inverse[gpu_mma_c::ROWS];
#pragma unroll
    for (int r = 0; r < gpu_mma_c::ROWS; r++) {
      sum[m][r] = gpu_mma_row_sum(sum[m][r]);
      inverse[r] = 1 / sum[m][r];
    }
#pragma unroll
    for (int i = 0; i < 256 / GPU_WAVE; i++) {
      const int r = gpu_mma_c::row_of(i), t = t0 + 16 * m + gpu_mma_c::row(lane, i);
      const bool sees = attention_begin(sight, t) < attention_end(sight, t);
      if (!sees) inverse[r] = 0;
      if (p.lse && t < p.time && gpu_mma_c::col(lane, i) == 0)
        p.lse[((int64_t)b * p.heads + h) * p.time + t] =
            sees ? most[m][r] * p.scale + logf(sum[m][r]) : -INFINITY;
#pragma unroll
      for (int n = 0; n < D / 16; n++) out[m][n].at[i] *= inverse[r];
    }
  }
  tile::template put<MT>(out, 1, sq, o, p.o.row, t0, p.time, p.dim, p.vector, false);
}

/* ---------------------------------------------------------------- launches */

template <typename T, int D, int MT, int BN, int WAVES>
static gpuError_t attention_launch(gpuStream_t s, const gpu_attention *a, int64_t *shared) {
  typedef attention_forward_shape<T, D, MT, BN, WAVES> shape;
  if (shared) {
    *shared = shape::SHARED;
    return gpuSuccess;
  }
  const int64_t tiles = (a->time + shape::ROWS - 1) / shape::ROWS;
  auto kernel = attention_forward<T, D, MT, BN, WAVES>;
  if (!tiles || !a->batch || !a->heads) return gpuSuccess;
  const gpuError_t code = GPU_ALLOW_SHARED(kernel, shape::SHARED);
  if (code != gpuSuccess) return code;
  return GPU_LAUNCH(kernel, dim3((unsigned)(tiles * a->batch * a->heads)),
                    dim3((unsigned)(WAVES * a->wave)), shape::SHARED, s, *a);
}

/* Tiles are as large as registers allow and 64 KiB of shared memory, the least that a card has. */
static gpuError_t attention_choose(gpuStream_t s, const gpu_attention *a, int64_t *shared) {
  if (a->dtype == 0) { /* DS_F32 */
    if (a->dim <= 64) return attention_launch<float, 64, 1, 32, 4>(s, a, shared);
    if (a->dim <= 128) return attention_launch<float, 128, 1, 16, 4>(s, a, shared);
    return attention_launch<float, 256, 1, 16, 1>(s, a, shared);
  }
  if (a->dim <= 64) return attention_launch<gpu_bf16, 64, 2, 64, 4>(s, a, shared);
  if (a->dim <= 80) return attention_launch<gpu_bf16, 80, 2, 32, 4>(s, a, shared);
  if (a->dim <= 96) return attention_launch<gpu_bf16, 96, 2, 32, 4>(s, a, shared);
  if (a->dim <= 128) return attention_launch<gpu_bf16, 128, 2, 32, 4>(s, a, shared);
  return attention_launch<gpu_bf16, 256, 1, 16, 4>(s, a, shared);
}

extern "C" int64_t gpu_attention_forward_shared(const gpu_attention *a) {
  int64_t bytes = 0;
  const gpuError_t code = attention_choose(nullptr, a, &bytes);
  return code == gpuSuccess ? bytes : 0;
}

extern "C" gpuError_t gpu_attention_forward(gpuStream_t s, const gpu_attention *a) {
  return attention_choose(s, a, nullptr);
}
