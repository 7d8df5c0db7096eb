/* mma.h - products of 16x16x16 tiles by one wave, on matrix cores where the device has them.
 *
 * A tile is spread over the lanes of a wave: a fragment is one lane's part of it. For T gpu_bf16 or gpu_f16:
 *
 *   gpu_mma_a<T>   of A, 16 x 16 (m x k)      at[256 / GPU_WAVE] of type T
 *   gpu_mma_b<T>   of B, 16 x 16 (k x n)      at[256 / GPU_WAVE] of type T
 *   gpu_mma_c      of C, 16 x 16 (m x n)      at[256 / GPU_WAVE] of type float
 *   F::row(lane, i), F::col(lane, i)          which element of the tile at[i] of a lane is
 *
 *   gpu_mma_zero(c)               c = 0
 *   gpu_mma(c, a, b)              c += a b
 *   gpu_mma_as_a(a, c)            a = c, rounded to T: what one product gave goes into the next
 *   gpu_mma_load_a(a, at)         at(m, k): a pointer to A's elements [m][k .. k+7]
 *   gpu_mma_load_a_trans(a, at)   at(k, m): a pointer to A's elements [m .. m+7][k]
 *   gpu_mma_load_b(b, at)         at(k, n): a pointer to B's elements [k][n .. n+7]
 *   gpu_mma_load_b_trans(b, at)   at(n, k): a pointer to B's elements [k .. k+7][n]
 *                                 Pointers into shared memory, 16-byte aligned; at is called with a
 *                                 second argument that is a multiple of 8.
 *
 * A lane holds elements of gpu_mma_c::ROWS rows of C: at[i] is of its row number row_of(i), and
 *
 *   gpu_mma_row_max(v), gpu_mma_row_sum(v)    over the lanes that share a row with this one
 *
 * T float: the same products exactly in f32 by FMA, each lane with whole rows of A and columns of B;
 * no load_a_trans, and at[] of gpu_mma_a and gpu_mma_b is their own affair.
 *
 * In int8, 16x16x32: gpu_mma_a8 (16 x 32) and gpu_mma_b8 (32 x 16), at[512 / GPU_WAVE] of int8_t;
 * gpu_mma_c32, at[256 / GPU_WAVE] of int32_t, laid out as gpu_mma_c; gpu_mma_zero, gpu_mma,
 * gpu_mma_load_a and gpu_mma_load_b_trans as above, with pointers to 16 elements.
 *
 * All of it but row, col and row_of is for all lanes of a wave at once. The layouts are those of PTX (mma.m16n8k16,
 * m16n8k32) for waves of 32 and of MFMA (16x16x16) for waves of 64, also where there are no matrix
 * cores and lanes exchange their parts: sm_75 in bf16, gfx9 before gfx908, RDNA, the emulation. */
#ifndef DS_GPU_MMA_H
#define DS_GPU_MMA_H

#include "port.h"

#if defined(__CUDA_ARCH__)
#if __CUDA_ARCH__ >= 800
#define GPU_MMA_PTX 2 /* m16n8k16, int8 */
#elif __CUDA_ARCH__ >= 750
#define GPU_MMA_PTX 1 /* ldmatrix; m16n8k8 in f16 */
#endif
#elif defined(__gfx908__) || defined(__gfx90a__) || defined(__gfx940__) || defined(__gfx941__) ||  \
    defined(__gfx942__) || defined(__gfx950__)
#define GPU_MMA_MFMA 1
#endif
#ifndef GPU_MMA_PTX
#define GPU_MMA_PTX 0
#endif
#ifndef GPU_MMA_MFMA
#define GPU_MMA_MFMA 0
#endif

/* ---------------------------------------------------------------- fragments */

/* N elements, also as words of 32 bits. */
template <typename T, int N> struct gpu_mma_part {
  union {
    T at[N];
    uint32_t words[N * sizeof(T) / 4];
  };
};

template <typename T> struct gpu_mma_a : gpu_mma_part<T, 256 / GPU_WAVE> {
#if GPU_WAVE == 32
  GPU_DEVICE int row(int lane, int i) {
    return lane / 4 + 8 * (i >> 1 & 1);
  }
  GPU_DEVICE int col(int lane, int i) {
    return 2 * (lane % 4) + (i & 1) + 8 * (i >> 2);
  }
#else
  GPU_DEVICE int row(int lane, int) {
    return lane % 16;
  }
  GPU_DEVICE int col(int lane, int i) {
    return 4 * (lane / 16) + i;
  }
#endif
};

template <typename T> struct gpu_mma_b : gpu_mma_part<T, 256 / GPU_WAVE> {
#if GPU_WAVE == 32
  GPU_DEVICE int row(int lane, int i) {
    return 2 * (lane % 4) + (i & 1) + 8 * (i >> 1 & 1);
  }
  GPU_DEVICE int col(int lane, int i) {
    return lane / 4 + 8 * (i >> 2);
  }
#else
  GPU_DEVICE int row(int lane, int i) {
    return 4 * (lane / 16) + i;
  }
  GPU_DEVICE int col(int lane, int) {
    return lane % 16;
  }
#endif
};

struct gpu_mma_a8 : gpu_mma_part<int8_t, 512 / GPU_WAVE> {
#if GPU_WAVE == 32
  GPU_DEVICE int row(int lane, int i) {
    return lane / 4 + 8 * (i >> 2 & 1);
  }
  GPU_DEVICE int col(int lane, int i) {
    return 4 * (lane % 4) + (i & 3) + 16 * (i >> 3);
  }
#else
  GPU_DEVICE int row(int lane, int) {
    return lane % 16;
  }
  GPU_DEVICE int col(int lane, int i) {
    return 4 * (lane / 16) + (i & 3) + 16 * (i >> 2);
  }
#endif
};

struct gpu_mma_b8 : gpu_mma_part<int8_t, 512 / GPU_WAVE> {
#if GPU_WAVE == 32
  GPU_DEVICE int row(int lane, int i) {
    return 4 * (lane % 4) + (i & 3) + 16 * (i >> 2 & 1);
  }
  GPU_DEVICE int col(int lane, int i) {
    return lane / 4 + 8 * (i >> 3);
  }
#else
  GPU_DEVICE int row(int lane, int i) {
    return 4 * (lane / 16) + (i & 3) + 16 * (i >> 2);
  }
  GPU_DEVICE int col(int lane, int) {
    return lane % 16;
  }
#endif
};

template <typename V> struct gpu_mma_sums {
  V at[256 / GPU_WAVE];
#if GPU_WAVE == 32
  enum { ROWS = 2 };
  GPU_DEVICE int row(int lane, int i) {
    return lane / 4 + 8 * (i >> 1 & 1);
  }
  GPU_DEVICE int col(int lane, int i) {
    return 2 * (lane % 4) + (i & 1) + 8 * (i >> 2);
  }
  GPU_DEVICE constexpr int row_of(int i) {
    return i >> 1 & 1;
  }
#else
  enum { ROWS = 4 };
  GPU_DEVICE int row(int lane, int i) {
    return 4 * (lane / 16) + i;
  }
  GPU_DEVICE int col(int lane, int) {
    return lane % 16;
  }
  GPU_DEVICE constexpr int row_of(int i) {
    return i;
  }
#endif
};
typedef gpu_mma_sums<float> gpu_mma_c;
typedef gpu_mma_sums<int32_t> gpu_mma_c32;

template <typename V> GPU_DEVICE void gpu_mma_zero(gpu_mma_sums<V> &c) {
#pragma unroll
  for (int i = 0; i < 256 / GPU_WAVE; i++) c.at[i] = 0;
}

enum { GPU_MMA_ROW_LANES = GPU_WAVE == 32 ? 4 : 16 }; /* neighbours */

GPU_DEVICE float gpu_mma_row_max(float v) {
#pragma unroll
  for (int by = 1; by < GPU_MMA_ROW_LANES; by *= 2) v = fmaxf(v, gpu_shuffle_xor(v, by));
  return v;
}
GPU_DEVICE float gpu_mma_row_sum(float v) {
#pragma unroll
  for (int by = 1; by < GPU_MMA_ROW_LANES; by *= 2) v += gpu_shuffle_xor(v, by);
  return v;
}

/* ---------------------------------------------------------------- f32 */

/* What a lane's part of C is made of: whole rows of A, whole columns of B. */
enum { GPU_MMA_COLS = 256 / GPU_WAVE / gpu_mma_c::ROWS };
GPU_DEVICE constexpr int gpu_mma_col_of(int i) {
  return GPU_WAVE == 32 ? (i & 1) + 2 * (i >> 2) : 0;
}
template <> struct gpu_mma_a<float> { float at[gpu_mma_c::ROWS][16]; };
template <> struct gpu_mma_b<float> { float at[GPU_MMA_COLS][16]; };

template <typename At> GPU_DEVICE void gpu_mma_load_a(gpu_mma_a<float> &a, const At &at) {
  const int lane = gpu_lane();
#pragma unroll
  for (int i = 0; i < 256 / GPU_WAVE; i++) {
    if (gpu_mma_col_of(i)) continue; /* one of each row */
#pragma unroll
    for (int k = 0; k < 16; k++)
      a.at[gpu_mma_c::row_of(i)][k] = at(gpu_mma_c::row(lane, i), k / 8 * 8)[k % 8];
  }
}
template <typename At> GPU_DEVICE void gpu_mma_load_b_trans(gpu_mma_b<float> &b, const At &at) {
  const int lane = gpu_lane();
#pragma unroll
  for (int i = 0; i < 256 / GPU_WAVE; i++) {
    if (gpu_mma_c::row_of(i)) continue;
#pragma unroll
    for (int k = 0; k < 16; k++)
      b.at[gpu_mma_col_of(i)][k] = at(gpu_mma_c::col(lane, i), k / 8 * 8)[k % 8];
  }
}
template <typename At> GPU_DEVICE void gpu_mma_load_b(gpu_mma_b<float> &b, const At &at) {
  const int lane = gpu_lane();
#pragma unroll
  for (int i = 0; i < 256 / GPU_WAVE; i++) {
    if (gpu_mma_c::row_of(i)) continue;
    const int col = gpu_mma_c::col(lane, i);
#pragma unroll
    for (int k = 0; k < 16; k++) b.at[gpu_mma_col_of(i)][k] = at(k, col / 8 * 8)[col % 8];
  }
}
GPU_DEVICE void gpu_mma_as_a(gpu_mma_a<float> &a, const gpu_mma_c &c) {
#pragma unroll
  for (int of = 0; of < GPU_MMA_ROW_LANES; of++)
#pragma unroll
    for (int i = 0; i < 256 / GPU_WAVE; i++)
      a.at[gpu_mma_c::row_of(i)][gpu_mma_c::col(of, i)] =
          gpu_shuffle(c.at[i], of, GPU_MMA_ROW_LANES);
}
GPU_DEVICE void gpu_mma(gpu_mma_c &c, const gpu_mma_a<float> &a, const gpu_mma_b<float> &b) {
#pragma unroll
  for (int k = 0; k < 16; k++)
#pragma unroll
    for (int i = 0; i < 256 / GPU_WAVE; i++)
      c.at[i] = fmaf(a.at[gpu_mma_c::row_of(i)][k], b.at[gpu_mma_col_of(i)][k], c.at[i]);
}

/* ---------------------------------------------------------------- conversion */

/* low, then high, in memory's order. */
template <typename T> GPU_DEVICE uint32_t gpu_mma_pack(float low, float high) {
  return (uint32_t)gpu_from<T>(low).bits | (uint32_t)gpu_from<T>(high).bits << 16;
}
#if GPU_MMA_PTX >= 2
template <> __device__ __forceinline__ uint32_t gpu_mma_pack<gpu_bf16>(float low, float high) {
  uint32_t both;
  asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(both) : "f"(high), "f"(low));
  return both;
}
#endif
#if GPU_MMA_PTX
template <> __device__ __forceinline__ uint32_t gpu_mma_pack<gpu_f16>(float low, float high) {
  uint32_t both;
  asm("{.reg .f16 l, h; cvt.rn.f16.f32 l, %1; cvt.rn.f16.f32 h, %2; mov.b32 %0, {l, h};}"
      : "=r"(both)
      : "f"(low), "f"(high));
  return both;
}
#endif

#if GPU_WAVE == 32
template <typename T> GPU_DEVICE void gpu_mma_as_a(gpu_mma_a<T> &a, const gpu_mma_c &c) {
#pragma unroll
  for (int w = 0; w < 4; w++) a.words[w] = gpu_mma_pack<T>(c.at[2 * w], c.at[2 * w + 1]);
}
#else
/* A lane has four rows of one column of C and needs four columns of one row. */
template <typename T> GPU_DEVICE void gpu_mma_as_a(gpu_mma_a<T> &a, const gpu_mma_c &c) {
  const int lane = gpu_lane(), row = lane % 16;
  const uint32_t low = gpu_mma_pack<T>(c.at[0], c.at[1]);
  const uint32_t high = gpu_mma_pack<T>(c.at[2], c.at[3]);
#pragma unroll
  for (int i = 0; i < 4; i++) {
    const int from = 16 * (row / 4) + 4 * (lane / 16) + i;
    const uint32_t of_low = gpu_shuffle(low, from, 64), of_high = gpu_shuffle(high, from, 64);
    a.at[i].bits = (uint16_t)((row & 2 ? of_high : of_low) >> 16 * (row & 1));
  }
}
#endif

/* ---------------------------------------------------------------- loads */

#if GPU_MMA_PTX

GPU_DEVICE void gpu_mma_ldmatrix(uint32_t (&w)[4], const void *row) {
  const unsigned from = (unsigned)__cvta_generic_to_shared(row);
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(w[0]), "=r"(w[1]), "=r"(w[2]), "=r"(w[3])
               : "r"(from)
               : "memory");
}
GPU_DEVICE void gpu_mma_ldmatrix_trans(uint32_t (&w)[4], const void *row) {
  const unsigned from = (unsigned)__cvta_generic_to_shared(row);
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(w[0]), "=r"(w[1]), "=r"(w[2]), "=r"(w[3])
               : "r"(from)
               : "memory");
}

/* Each lane names one row of the four 8x8 matrices that make up the tile. */
template <typename T, typename At> GPU_DEVICE void gpu_mma_load_a(gpu_mma_a<T> &a, const At &at) {
  const int lane = gpu_lane();
  gpu_mma_ldmatrix(a.words, at(lane % 16, 8 * (lane / 16)));
}
template <typename T, typename At>
GPU_DEVICE void gpu_mma_load_a_trans(gpu_mma_a<T> &a, const At &at) {
  const int lane = gpu_lane();
  gpu_mma_ldmatrix_trans(a.words, at(lane % 8 + 8 * (lane / 16), 8 * (lane / 8 % 2)));
}
template <typename T, typename At> GPU_DEVICE void gpu_mma_load_b(gpu_mma_b<T> &b, const At &at) {
  const int lane = gpu_lane();
  gpu_mma_ldmatrix_trans(b.words, at(lane % 16, 8 * (lane / 16)));
}
template <typename T, typename At>
GPU_DEVICE void gpu_mma_load_b_trans(gpu_mma_b<T> &b, const At &at) {
  const int lane = gpu_lane();
  gpu_mma_ldmatrix(b.words, at(lane % 8 + 8 * (lane / 16), 8 * (lane / 8 % 2)));
}
template <typename At> GPU_DEVICE void gpu_mma_load_a(gpu_mma_a8 &a, const At &at) {
  const int lane = gpu_lane();
  gpu_mma_ldmatrix(a.words, at(lane % 16, 16 * (lane / 16)));
}
template <typename At> GPU_DEVICE void gpu_mma_load_b_trans(gpu_mma_b8 &b, const At &at) {
  const int lane = gpu_lane();
  gpu_mma_ldmatrix(b.words, at(lane % 8 + 8 * (lane / 16), 16 * (lane / 8 % 2)));
}

#else

/* A word of a fragment is neighbours of a row in memory unless the load transposes. */
template <typename F, typename At>
GPU_DEVICE void gpu_mma_load_words(F &f, bool is_b, const At &at) {
  enum { PER = 4 / sizeof f.at[0], ROW = 16 / sizeof f.at[0] };
  const int lane = gpu_lane();
#pragma unroll
  for (int w = 0; w < 128 / GPU_WAVE; w++) {
    const int row = F::row(lane, PER * w), col = F::col(lane, PER * w);
    const int outer = is_b ? col : row, inner = is_b ? row : col;
    f.words[w] = *reinterpret_cast<const uint32_t *>(at(outer, inner / ROW * ROW) + inner % ROW);
  }
}
template <typename F, typename At>
GPU_DEVICE void gpu_mma_load_elements(F &f, bool is_b, const At &at) {
  const int lane = gpu_lane();
#pragma unroll
  for (int i = 0; i < 256 / GPU_WAVE; i++) {
    const int row = F::row(lane, i), col = F::col(lane, i);
    const int outer = is_b ? row : col, inner = is_b ? col : row;
    f.at[i] = at(outer, inner / 8 * 8)[inner % 8];
  }
}
template <typename T, typename At> GPU_DEVICE void gpu_mma_load_a(gpu_mma_a<T> &a, const At &at) {
  gpu_mma_load_words(a, false, at);
}
template <typename T, typename At>
GPU_DEVICE void gpu_mma_load_a_trans(gpu_mma_a<T> &a, const At &at) {
  gpu_mma_load_elements(a, false, at);
}
template <typename T, typename At> GPU_DEVICE void gpu_mma_load_b(gpu_mma_b<T> &b, const At &at) {
  gpu_mma_load_elements(b, true, at);
}
template <typename T, typename At>
GPU_DEVICE void gpu_mma_load_b_trans(gpu_mma_b<T> &b, const At &at) {
  gpu_mma_load_words(b, true, at);
}
template <typename At> GPU_DEVICE void gpu_mma_load_a(gpu_mma_a8 &a, const At &at) {
  gpu_mma_load_words(a, false, at);
}
template <typename At> GPU_DEVICE void gpu_mma_load_b_trans(gpu_mma_b8 &b, const At &at) {
  gpu_mma_load_words(b, true, at);
}

#endif

/* ---------------------------------------------------------------- products without matrix cores */

/* The words of one fragment of all lanes. */
#if defined(GPU_EMULATED)
struct gpu_mma_words {
  const void *const *of;
  uint32_t operator()(int w, int lane) const { return static_cast<const uint32_t *>(of[lane])[w]; }
};
#else
struct gpu_mma_words {
  const uint32_t *mine;
  __device__ __forceinline__ uint32_t operator()(int w, int lane) const {
    return gpu_shuffle(mine[w], lane, GPU_WAVE);
  }
};
#endif

template <typename T> GPU_DEVICE float gpu_mma_dot(float sum, uint32_t a, uint32_t b, T) {
  sum = fmaf(gpu_f32(T{(uint16_t)a}), gpu_f32(T{(uint16_t)b}), sum);
  return fmaf(gpu_f32(T{(uint16_t)(a >> 16)}), gpu_f32(T{(uint16_t)(b >> 16)}), sum);
}
GPU_DEVICE int32_t gpu_mma_dot(int32_t sum, uint32_t a, uint32_t b, int8_t) {
#pragma unroll
  for (int i = 0; i < 32; i += 8) sum += (int8_t)(a >> i) * (int8_t)(b >> i);
  return sum;
}

/* Each lane fetches the rows of A and the columns of B that its part of C is made of, a word of each
 * at a time. */
template <typename E, typename V>
GPU_DEVICE void gpu_mma_exchange(gpu_mma_sums<V> &c, const gpu_mma_words &a,
                                 const gpu_mma_words &b) {
  const int lane = gpu_lane();
#if GPU_WAVE == 32
#pragma unroll
  for (int step = 0; step < 8; step++) {
    const int of = step % 4, half = step / 4;
    uint32_t rows[2], cols[4];
#pragma unroll
    for (int r = 0; r < 2; r++) rows[r] = a(r + 2 * half, lane / 4 * 4 + of);
#pragma unroll
    for (int n = 0; n < 4; n++) cols[n] = b(half + 2 * (n / 2), (2 * (lane % 4) + n % 2) * 4 + of);
#pragma unroll
    for (int i = 0; i < 8; i++)
      c.at[i] = gpu_mma_dot(c.at[i], rows[i / 2 % 2], cols[i / 4 * 2 + i % 2], E());
  }
#else
#pragma unroll
  for (int step = 0; step < 8; step++) {
    const int from = 16 * (step / 2), w = step % 2;
    const uint32_t col = b(w, from + lane % 16);
#pragma unroll
    for (int i = 0; i < 4; i++)
      c.at[i] = gpu_mma_dot(c.at[i], a(w, from + 4 * (lane / 16) + i), col, E());
  }
#endif
}

/* A function of its own, or compiling a kernel with many products would take minutes. */
#if defined(GPU_EMULATED)
#define GPU_MMA_CALL static __attribute__((noinline))
#else
#define GPU_MMA_CALL static __device__ __noinline__
#endif
template <typename E, typename V, typename A, typename B>
GPU_MMA_CALL gpu_mma_sums<V> gpu_mma_without_cores(gpu_mma_sums<V> c, const A a, const B b) {
#if defined(GPU_EMULATED)
  const void *of_a[GPU_WAVE];
  const void *const *all = simt_wave_gather(a.words);
  for (int i = 0; i < GPU_WAVE; i++) of_a[i] = all[i];
  gpu_mma_exchange<E>(c, gpu_mma_words{of_a}, gpu_mma_words{simt_wave_gather(b.words)});
  simt_wave_gather(nullptr); /* nobody changes a or b before everybody has read them */
#else
  gpu_mma_exchange<E>(c, gpu_mma_words{a.words}, gpu_mma_words{b.words});
#endif
  return c;
}

/* ---------------------------------------------------------------- products */

#if GPU_MMA_PTX >= 2

#define GPU_MMA_M16N8(shape_types, c, n, a, b)                                                     \
  asm("mma.sync.aligned." shape_types                                                              \
      " {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"                           \
      : GPU_MMA_INOUT((c).at[4 * (n)]), GPU_MMA_INOUT((c).at[4 * (n) + 1]),                        \
        GPU_MMA_INOUT((c).at[4 * (n) + 2]), GPU_MMA_INOUT((c).at[4 * (n) + 3])                     \
      : "r"((a).words[0]), "r"((a).words[1]), "r"((a).words[2]), "r"((a).words[3]),                \
        "r"((b).words[2 * (n)]), "r"((b).words[2 * (n) + 1]))

#define GPU_MMA_INOUT(v) "+f"(v)
GPU_DEVICE void gpu_mma(gpu_mma_c &c, const gpu_mma_a<gpu_bf16> &a, const gpu_mma_b<gpu_bf16> &b) {
  GPU_MMA_M16N8("m16n8k16.row.col.f32.bf16.bf16.f32", c, 0, a, b);
  GPU_MMA_M16N8("m16n8k16.row.col.f32.bf16.bf16.f32", c, 1, a, b);
}
GPU_DEVICE void gpu_mma(gpu_mma_c &c, const gpu_mma_a<gpu_f16> &a, const gpu_mma_b<gpu_f16> &b) {
  GPU_MMA_M16N8("m16n8k16.row.col.f32.f16.f16.f32", c, 0, a, b);
  GPU_MMA_M16N8("m16n8k16.row.col.f32.f16.f16.f32", c, 1, a, b);
}
#undef GPU_MMA_INOUT
#define GPU_MMA_INOUT(v) "+r"(v)
GPU_DEVICE void gpu_mma(gpu_mma_c32 &c, const gpu_mma_a8 &a, const gpu_mma_b8 &b) {
  GPU_MMA_M16N8("m16n8k32.row.col.s32.s8.s8.s32", c, 0, a, b);
  GPU_MMA_M16N8("m16n8k32.row.col.s32.s8.s8.s32", c, 1, a, b);
}
#undef GPU_MMA_INOUT
#undef GPU_MMA_M16N8

#elif GPU_MMA_MFMA

typedef float gpu_mma_f32x4 __attribute__((ext_vector_type(4)));
typedef int gpu_mma_i32x4 __attribute__((ext_vector_type(4)));
typedef short gpu_mma_i16x2 __attribute__((ext_vector_type(2)));
typedef short gpu_mma_i16x4 __attribute__((ext_vector_type(4)));
typedef _Float16 gpu_mma_f16x4 __attribute__((ext_vector_type(4)));

template <typename To, typename From> GPU_DEVICE To gpu_mma_bits(const From &from) {
  static_assert(sizeof(To) == sizeof(From), "the same bits");
  return __builtin_bit_cast(To, from);
}

/* Which k a lane's slot stands for is free as long as A and B agree: products of other depths take
 * the same fragments. */
GPU_DEVICE void gpu_mma(gpu_mma_c &c, const gpu_mma_a<gpu_bf16> &a, const gpu_mma_b<gpu_bf16> &b) {
  gpu_mma_f32x4 sum = gpu_mma_bits<gpu_mma_f32x4>(c.at);
#if defined(__gfx908__)
  for (int w = 0; w < 2; w++)
    sum = __builtin_amdgcn_mfma_f32_16x16x8bf16(gpu_mma_bits<gpu_mma_i16x2>(a.words[w]),
                                                gpu_mma_bits<gpu_mma_i16x2>(b.words[w]), sum, 0, 0,
                                                0);
#else
  sum = __builtin_amdgcn_mfma_f32_16x16x16bf16_1k(
      gpu_mma_bits<gpu_mma_i16x4>(a.words), gpu_mma_bits<gpu_mma_i16x4>(b.words), sum, 0, 0, 0);
#endif
  for (int i = 0; i < 4; i++) c.at[i] = sum[i];
}
GPU_DEVICE void gpu_mma(gpu_mma_c &c, const gpu_mma_a<gpu_f16> &a, const gpu_mma_b<gpu_f16> &b) {
  const gpu_mma_f32x4 sum = __builtin_amdgcn_mfma_f32_16x16x16f16(
      gpu_mma_bits<gpu_mma_f16x4>(a.words), gpu_mma_bits<gpu_mma_f16x4>(b.words),
      gpu_mma_bits<gpu_mma_f32x4>(c.at), 0, 0, 0);
  for (int i = 0; i < 4; i++) c.at[i] = sum[i];
}
GPU_DEVICE void gpu_mma(gpu_mma_c32 &c, const gpu_mma_a8 &a, const gpu_mma_b8 &b) {
  gpu_mma_i32x4 sum = gpu_mma_bits<gpu_mma_i32x4>(c.at);
#if defined(__gfx908__) || defined(__gfx90a__)
  for (int w = 0; w < 2; w++)
    sum = __builtin_amdgcn_mfma_i32_16x16x16i8((int)a.words[w], (int)b.words[w], sum, 0, 0, 0);
#else
  sum = __builtin_amdgcn_mfma_i32_16x16x32_i8(gpu_mma_bits<long>(a.words),
                                              gpu_mma_bits<long>(b.words), sum, 0, 0, 0);
#endif
  for (int i = 0; i < 4; i++) c.at[i] = sum[i];
}

#else

GPU_DEVICE void gpu_mma(gpu_mma_c &c, const gpu_mma_a<gpu_bf16> &a, const gpu_mma_b<gpu_bf16> &b) {
  c = gpu_mma_without_cores<gpu_bf16>(c, a, b);
}
#if GPU_MMA_PTX == 1
GPU_DEVICE void gpu_mma(gpu_mma_c &c, const gpu_mma_a<gpu_f16> &a, const gpu_mma_b<gpu_f16> &b) {
#pragma unroll
  for (int n = 0; n < 2; n++)
#pragma unroll
    for (int k = 0; k < 2; k++)
      asm("mma.sync.aligned.m16n8k8.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5}, "
          "{%6}, {%0, %1, %2, %3};"
          : "+f"(c.at[4 * n]), "+f"(c.at[4 * n + 1]), "+f"(c.at[4 * n + 2]), "+f"(c.at[4 * n + 3])
          : "r"(a.words[2 * k]), "r"(a.words[2 * k + 1]), "r"(b.words[2 * n + k]));
}
#else
GPU_DEVICE void gpu_mma(gpu_mma_c &c, const gpu_mma_a<gpu_f16> &a, const gpu_mma_b<gpu_f16> &b) {
  c = gpu_mma_without_cores<gpu_f16>(c, a, b);
}
#endif
GPU_DEVICE void gpu_mma(gpu_mma_c32 &c, const gpu_mma_a8 &a, const gpu_mma_b8 &b) {
  c = gpu_mma_without_cores<int8_t>(c, a, b);
}

#endif

#endif
