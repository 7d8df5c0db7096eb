/* attention_backward.cu - the gradients of attention, from lse and delta = rowsum(do o) (Dao 2023,
 * "FlashAttention-2"). With s the scaled scores, everything for one query and one key:
 *
 *   p = exp(s - lse)    dp = do v    ds = p (dp - delta)
 *   dq = scale sum over keys of ds k      dk = scale sum over queries of ds q      dv = sum over queries of p do
 *
 * Two kernels, each with the sums of its own side in registers, that both compute p and ds: two products of seven are done
 * twice, but nothing is added up in memory, and the order of sums is fixed. */
#include "attention_tile.h"

GPU_DEVICE int64_t attention_stat(const gpu_attention &p, int b, int h) {
  return ((int64_t)b * p.heads + h) * p.time;
}

/* ---------------------------------------------------------------- delta */

/* 32 lanes a row of do and o. */
template <typename T> GPU_KERNEL(256) attention_delta(const gpu_attention p) {
  const int64_t rows = (int64_t)p.batch * p.heads * p.time;
  const int64_t row = (int64_t)blockIdx.x * (blockDim.x / 32) + threadIdx.x / 32;
  float sum = 0;
  if (row < rows) {
    const int t = (int)(row % p.time), h = (int)(row / p.time % p.heads);
    const int64_t b = row / p.time / p.heads;
    const T *o =
        static_cast<const T *>(p.o.data) + b * p.o.batch + h * p.o.head + (int64_t)t * p.o.row;
    const T *d_o = static_cast<const T *>(p.d_o.data) + b * p.d_o.batch + h * p.d_o.head +
                   (int64_t)t * p.d_o.row;
    if (p.vector) {
      typedef gpu_vec<T, 16 / sizeof(T)> chunk;
      enum { PER = 16 / sizeof(T) };
      for (int c = (int)threadIdx.x % 32; c < p.dim / PER; c += 32) {
        const chunk x = reinterpret_cast<const chunk *>(o)[c];
        const chunk y = reinterpret_cast<const chunk *>(d_o)[c];
#pragma unroll
        for (int i = 0; i < PER; i++) sum = fmaf(gpu_f32(x.at[i]), gpu_f32(y.at[i]), sum);
      }
    } else {
      for (int c = (int)threadIdx.x % 32; c < p.dim; c += 32)
        sum = fmaf(gpu_f32(o[c]), gpu_f32(d_o[c]), sum);
    }
  }
#pragma unroll
  for (int by = 16; by; by /= 2) sum += gpu_shuffle_xor(sum, by);
  if (row < rows && threadIdx.x % 32 == 0) p.scratch[row] = sum;
}

/* ---------------------------------------------------------------- dq */

/* A block has a tile of queries of one head. K and V come through shared memory, dp first: it needs the values, which
 * were loaded while dq was summed up, and meanwhile the keys come. */
template <typename T, int D, int MT, int BN, int WAVES>
GPU_KERNEL(WAVES *GPU_WAVE)
attention_dq(const gpu_attention p) {
  typedef attention_tile<T, D> tile;
  enum { STRIDE = tile::STRIDE, ROWS = 16 * MT * WAVES, THREADS = WAVES * GPU_WAVE };
  GPU_SHARED_DYNAMIC(T, shared);
  T *const sk = shared + 2 * ROWS * STRIDE, *const sv = sk + BN * STRIDE;
  const int tiles = (p.time + ROWS - 1) / ROWS, bh = (int)(blockIdx.x / tiles);
  const int h = bh % p.heads, b = bh / p.heads, g = h / (p.heads / p.groups);
  const int first = (tiles - 1 - (int)(blockIdx.x % tiles)) * ROWS; /* the longest first */
  const T *k = static_cast<const T *>(p.k.data) + b * p.k.batch + g * p.k.head;
  const T *v = static_cast<const T *>(p.v.data) + b * p.v.batch + g * p.v.head;
  const attention_sight sight = attention_sight_of(p, b);
  const int behind = first + ROWS < p.time ? first + ROWS : p.time;
  const int from = attention_begin(sight, first) / BN * BN, to = attention_end(sight, behind - 1);

  const int lane = gpu_lane(), wave = (int)threadIdx.x / GPU_WAVE;
  const int t0 = first + wave * 16 * MT; /* this wave's first query */
  T *const sq = shared + wave * 16 * MT * STRIDE, *const sdo = sq + ROWS * STRIDE;
  gpu_mma_c out[MT][D / 16];
  float lse[MT][gpu_mma_c::ROWS], delta[MT][gpu_mma_c::ROWS];
#pragma unroll
  for (int m = 0; m < MT; m++) {
#pragma unroll
    for (int n = 0; n < D / 16; n++) gpu_mma_zero(out[m][n]);
#pragma unroll
    for (int i = 0; i < 256 / GPU_WAVE; i++) {
      const int t = t0 + 16 * m + gpu_mma_c::row(lane, i), r = gpu_mma_c::row_of(i);
      const int64_t at = attention_stat(p, b, h) + t;
      lse[m][r] = t < p.time ? p.lse[at] * GPU_ATTENTION_LOG2E : 0;
      delta[m][r] = t < p.time ? p.scratch[at] : 0;
    }
  }
  tile::template load<ROWS, THREADS>(
      shared, static_cast<const T *>(p.q.data) + b * p.q.batch + h * p.q.head, p.q.row, first,
      p.time, p.dim, p.vector);
  tile::template load<ROWS, THREADS>(
      shared + ROWS * STRIDE, static_cast<const T *>(p.d_o.data) + b * p.d_o.batch + h * p.d_o.head,
      p.d_o.row, first, p.time, p.dim, p.vector);
  tile::template load<BN, THREADS>(sv, v, p.v.row, from, sight.len, p.dim, p.vector);
  gpu_copy_commit();

  for (int j0 = from; j0 < to; j0 += BN) {
    const bool some = t0 < p.time && j0 < attention_end(sight, t0 + 16 * MT - 1) &&
                      j0 + BN > attention_begin(sight, t0);
    const bool whole =
        j0 + BN <= attention_end(sight, t0) && j0 >= attention_begin(sight, t0 + 16 * MT - 1);
    gpu_copy_wait<0>();
    gpu_sync(); /* values are there; the keys before were used */
    tile::template load<BN, THREADS>(sk, k, p.k.row, j0, sight.len, p.dim, p.vector);
    gpu_copy_commit();
    gpu_mma_c s[MT][BN / 16], dp[MT][BN / 16];
#pragma unroll
    for (int m = 0; m < MT; m++)
#pragma unroll
      for (int n = 0; n < BN / 16; n++) gpu_mma_zero(s[m][n]), gpu_mma_zero(dp[m][n]);
    if (some) tile::template multiply_rows<MT, BN / 16>(dp, sdo, sv);
    gpu_copy_wait<0>();
    gpu_sync(); /* keys are there; the values were used */
    if (j0 + BN < to)
      tile::template load<BN, THREADS>(sv, v, p.v.row, j0 + BN, sight.len, p.dim, p.vector);
    gpu_copy_commit();
    if (some) {
      tile::template multiply_rows<MT, BN / 16>(s, sq, sk);
#pragma unroll
      for (int m = 0; m < MT; m++)
#pragma unroll
        for (int n = 0; n < BN / 16; n++)
#pragma unroll
          for (int i = 0; i < 256 / GPU_WAVE; i++) {
            const int r = gpu_mma_c::row_of(i);
            const float e =
                gpu_exp2_fast(fmaf(s[m][n].at[i], p.scale * GPU_ATTENTION_LOG2E, -lse[m][r]));
            s[m][n].at[i] = e * (dp[m][n].at[i] - delta[m][r]);
          }
      if (!whole) attention_mask(s, sight, t0, j0, 0);
      tile::template multiply_sums<MT, BN / 16>(out, s, sk);
    }
  }
  gpu_copy_wait<0>();
  gpu_sync(); /* of a block that saw nothing: the copies of all, before put takes their place */
  T *dq = static_cast<T *>(p.dq.data) + b * p.dq.batch + h * p.dq.head;
  tile::template put<MT>(out, p.scale, sq, dq, p.dq.row, t0, p.time, p.dim, p.vector,
                         p.accumulate & 1);
}

/* ---------------------------------------------------------------- dk, dv */

/* Neither probability nor gradient where a query doesn't see a key, or isn't there. Queries stand in columns. */
template <int MT, int NT>
GPU_DEVICE void attention_mask_transposed(gpu_mma_c (&s)[MT][NT], gpu_mma_c (&ds)[MT][NT],
                                          const attention_sight &sight, int t0, int j0, int time) {
  const int lane = gpu_lane();
#pragma unroll
  for (int n = 0; n < NT; n++)
#pragma unroll
    for (int i = 0; i < 256 / GPU_WAVE; i++) {
      const int t = t0 + 16 * n + gpu_mma_c::col(lane, i);
      const int begin = attention_begin(sight, t), end = t < time ? attention_end(sight, t) : 0;
#pragma unroll
      for (int m = 0; m < MT; m++) {
        const int j = j0 + 16 * m + gpu_mma_c::row(lane, i);
        if (j < begin || j >= end) s[m][n].at[i] = ds[m][n].at[i] = 0;
      }
    }
}

/* A block has a tile of keys and values of one group, and takes the queries of the group's heads one head after the
 * other. Scores stand transposed, keys in rows. The next do comes while dk is summed up, q during dp. SIDES: 1 dk,
 * 2 dv, 3 both; one at a time where registers don't hold both. */
template <typename T, int D, int MT, int BN, int WAVES, int SIDES>
GPU_KERNEL(WAVES *GPU_WAVE)
attention_dkv(const gpu_attention p) {
  typedef attention_tile<T, D> tile;
  enum { STRIDE = tile::STRIDE, ROWS = 16 * MT * WAVES, THREADS = WAVES * GPU_WAVE };
  GPU_SHARED_DYNAMIC(T, shared);
  GPU_SHARED(float, slse, BN);
  GPU_SHARED(float, sdelta, BN);
  T *const sq = shared + 2 * ROWS * STRIDE, *const sdo = sq + BN * STRIDE;
  const int tiles = (p.keys + ROWS - 1) / ROWS, bg = (int)(blockIdx.x / tiles);
  const int g = bg % p.groups, b = bg / p.groups, heads = p.heads / p.groups;
  const int first = (int)(blockIdx.x % tiles) * ROWS; /* the longest first */
  const attention_sight sight = attention_sight_of(p, b);
  const int from = attention_first_of(sight, first) / BN * BN;
  const int to = first < sight.len ? attention_last_of(sight, first + ROWS - 1, p.time) : 0;

  const int lane = gpu_lane(), wave = (int)threadIdx.x / GPU_WAVE;
  const int j0 = first + wave * 16 * MT; /* this wave's first key */
  T *const sk = shared + wave * 16 * MT * STRIDE, *const sv = sk + ROWS * STRIDE;
  gpu_mma_c dk[MT][D / 16], dv[MT][D / 16];
#pragma unroll
  for (int m = 0; m < MT; m++)
#pragma unroll
    for (int n = 0; n < D / 16; n++) gpu_mma_zero(dk[m][n]), gpu_mma_zero(dv[m][n]);
  const auto load_do = [&](int h, int t) {
    tile::template load<BN, THREADS>(
        sdo, static_cast<const T *>(p.d_o.data) + b * p.d_o.batch + h * p.d_o.head, p.d_o.row, t,
        p.time, p.dim, p.vector);
  };
  tile::template load<ROWS, THREADS>(
      shared, static_cast<const T *>(p.k.data) + b * p.k.batch + g * p.k.head, p.k.row, first,
      sight.len, p.dim, p.vector);
  tile::template load<ROWS, THREADS>(
      shared + ROWS * STRIDE, static_cast<const T *>(p.v.data) + b * p.v.batch + g * p.v.head,
      p.v.row, first, sight.len, p.dim, p.vector);
  int h = g * heads, t0 = from;
  const int behind = from < to ? h + heads : h;
  if (h < behind) load_do(h, t0);
  gpu_copy_commit();

  while (h < behind) {
    gpu_copy_wait<0>();
    gpu_sync(); /* do is there; the q before was used */
    tile::template load<BN, THREADS>(
        sq, static_cast<const T *>(p.q.data) + b * p.q.batch + h * p.q.head, p.q.row, t0, p.time,
        p.dim, p.vector);
    gpu_copy_commit();
#pragma unroll 1
    for (int i = (int)threadIdx.x; i < BN; i += THREADS) {
      const int64_t at = attention_stat(p, b, h) + t0 + i;
      slse[i] = t0 + i < p.time ? p.lse[at] * GPU_ATTENTION_LOG2E : 0;
      sdelta[i] = t0 + i < p.time ? p.scratch[at] : 0;
    }
    gpu_mma_c s[MT][BN / 16], dp[MT][BN / 16];
#pragma unroll
    for (int m = 0; m < MT; m++)
#pragma unroll
      for (int n = 0; n < BN / 16; n++) gpu_mma_zero(s[m][n]), gpu_mma_zero(dp[m][n]);
    if (SIDES & 1) tile::template multiply_rows<MT, BN / 16>(dp, sv, sdo);
    gpu_copy_wait<0>();
    gpu_sync(); /* q, lse and delta are there */
    tile::template multiply_rows<MT, BN / 16>(s, sk, sq);
    const bool whole = t0 + BN <= p.time && j0 + 16 * MT <= attention_end(sight, t0) &&
                       j0 >= attention_begin(sight, t0 + BN - 1);
#pragma unroll
    for (int n = 0; n < BN / 16; n++)
#pragma unroll
      for (int i = 0; i < 256 / GPU_WAVE; i++) {
        const int at = 16 * n + gpu_mma_c::col(lane, i);
        const float lse = slse[at], delta = sdelta[at];
#pragma unroll
        for (int m = 0; m < MT; m++) {
          s[m][n].at[i] = gpu_exp2_fast(fmaf(s[m][n].at[i], p.scale * GPU_ATTENTION_LOG2E, -lse));
          dp[m][n].at[i] = s[m][n].at[i] * (dp[m][n].at[i] - delta);
        }
      }
    if (!whole) attention_mask_transposed(s, dp, sight, t0, j0, p.time);
    if (SIDES & 2) tile::template multiply_sums<MT, BN / 16>(dv, s, sdo);
    gpu_sync();                     /* do was used */
    const bool more = t0 + BN < to; /* of this head */
    h = more ? h : h + 1;
    t0 = more ? t0 + BN : from;
    if (h < behind) load_do(h, t0);
    gpu_copy_commit();
    if (SIDES & 1) tile::template multiply_sums<MT, BN / 16>(dk, dp, sq);
  }
  gpu_copy_wait<0>();
  gpu_sync(); /* of a block that nobody sees: the copies of all, before put takes their place */
  T *dk_out = static_cast<T *>(p.dk.data) + b * p.dk.batch + g * p.dk.head;
  T *dv_out = static_cast<T *>(p.dv.data) + b * p.dv.batch + g * p.dv.head;
  if (SIDES & 1)
    tile::template put<MT>(dk, p.scale, sk, dk_out, p.dk.row, j0, p.keys, p.dim, p.vector,
                           p.accumulate & 2);
  if (SIDES & 2)
    tile::template put<MT>(dv, 1, sv, dv_out, p.dv.row, j0, p.keys, p.dim, p.vector,
                           p.accumulate & 4);
}

/* ---------------------------------------------------------------- launches */

template <typename T, int D, int MT, int BN, int WAVES, int SIDES>
static gpuError_t attention_launch_dkv(gpuStream_t s, const gpu_attention *a, size_t bytes) {
  enum { ROWS = 16 * MT * WAVES };
  const int64_t blocks = (int64_t)(a->keys + ROWS - 1) / ROWS * a->batch * a->groups;
  auto dkv = attention_dkv<T, D, MT, BN, WAVES, SIDES>;
  if (!blocks) return gpuSuccess;
  const gpuError_t code = GPU_ALLOW_SHARED(dkv, bytes);
  if (code != gpuSuccess) return code;
  return GPU_LAUNCH(dkv, dim3((unsigned)blocks), dim3((unsigned)(WAVES * a->wave)), bytes, s, *a);
}

template <typename T, int D, int MT, int BN, int WAVES>
static gpuError_t attention_launch_dq(gpuStream_t s, const gpu_attention *a, size_t bytes) {
  enum { ROWS = 16 * MT * WAVES };
  const int64_t rows = (int64_t)a->batch * a->heads * a->time;
  const int64_t blocks = (int64_t)(a->time + ROWS - 1) / ROWS * a->batch * a->heads;
  auto delta = attention_delta<T>;
  auto dq = attention_dq<T, D, MT, BN, WAVES>;
  if (!blocks) return gpuSuccess;
  gpuError_t code = GPU_LAUNCH(delta, dim3((unsigned)((rows + 7) / 8)), dim3(256), 0, s, *a);
  if (code == gpuSuccess) code = GPU_ALLOW_SHARED(dq, bytes);
  if (code != gpuSuccess) return code;
  return GPU_LAUNCH(dq, dim3((unsigned)blocks), dim3((unsigned)(WAVES * a->wave)), bytes, s, *a);
}

/* SIDES as attention_dkv. */
template <typename T, int D, int MT, int BN, int WAVES, int SIDES>
static gpuError_t attention_launch(gpuStream_t s, const gpu_attention *a, int64_t *shared) {
  const size_t bytes = (2 * 16 * MT * WAVES + 2 * BN) * attention_tile<T, D>::STRIDE * sizeof(T);
  if (shared) {
    *shared = (int64_t)(bytes + 2 * BN * sizeof(float));
    return gpuSuccess;
  }
  gpuError_t code = attention_launch_dq<T, D, MT, BN, WAVES>(s, a, bytes);
  if (code == gpuSuccess) code = attention_launch_dkv<T, D, MT, BN, WAVES, SIDES>(s, a, bytes);
  if (code != gpuSuccess || SIDES == 3) return code;
  return attention_launch_dkv<T, D, MT, BN, WAVES, 3 - SIDES % 3>(s, a, bytes);
}

/* Tiles are as large as registers allow and 64 KiB of shared memory, the least that a card has; f32 beyond 128 takes a
 * little more than that (attention.c refuses it there). */
static gpuError_t attention_choose(gpuStream_t s, const gpu_attention *a, int64_t *shared) {
  if (a->dtype == 0) { /* DS_F32 */
    if (a->dim <= 64) return attention_launch<float, 64, 1, 32, 4, 3>(s, a, shared);
    if (a->dim <= 128) return attention_launch<float, 128, 1, 16, 2, 3>(s, a, shared);
    return attention_launch<float, 256, 1, 16, 1, 1>(s, a, shared);
  }
  if (a->dim <= 64) return attention_launch<gpu_bf16, 64, 2, 32, 4, 3>(s, a, shared);
  if (a->dim <= 80) return attention_launch<gpu_bf16, 80, 1, 32, 4, 3>(s, a, shared);
  if (a->dim <= 96) return attention_launch<gpu_bf16, 96, 1, 32, 4, 3>(s, a, shared);
  if (a->dim <= 128) return attention_launch<gpu_bf16, 128, 1, 32, 4, 3>(s, a, shared);
  return attention_launch<gpu_bf16, 256, 1, 16, 2, 1>(s, a, shared);
}

extern "C" int64_t gpu_attention_backward_shared(const gpu_attention *a) {
  int64_t bytes = 0;
  const gpuError_t code = attention_choose(nullptr, a, &bytes);
  return code == gpuSuccess ? bytes : 0;
}

extern "C" gpuError_t gpu_attention_backward(gpuStream_t s, const gpu_attention *a) {
  return attention_choose(s, a, nullptr);
}
