/* attention.h - what forward and backward attention share.
 *
 * Both work on tiles of DS_CPU_TILE_Q queries by DS_CPU_TILE_K keys, held with the queries along
 * the vectors: scores are S^T[key][query]. Then softmax runs down the lanes, and every product is a
 * sum of broadcast elements times whole vectors, with no sums across lanes. Queries of a tile are
 * taken in blocks of QB, so that a causal mask wastes little. Rows of the head dimension are padded
 * to DP = ds_cpu_attention_pad(D) with zeros, and keys to multiples of MR.
 */
#ifndef DS_CPU_ATTENTION_H
#define DS_CPU_ATTENTION_H

#include "kernel.h"
#include "simd.h"

/* A block of a product held in registers: MR rows by NV vectors. */
#if VL == 16 || defined(__aarch64__)
enum { MR = 8, NV = 2 };
#else
enum { MR = 4, NV = 2 };
#endif

enum { TQ = DS_CPU_TILE_Q, TK = DS_CPU_TILE_K, QB = NV * VL };

typedef struct attention {
  const ds_tensor *q, *k, *v;
  const int32_t *kv_len;
  float *workspace;
  int64_t batch, time, keys, heads, groups, dim, pad, rep; /* rep = heads / groups */
  int64_t window;                                          /* 0: all */
  float scale;
  int causal;
} attention;

/* attention_decode.c: at most DS_CPU_FEW_QUERIES queries. */
void K(attention_decode)(const attention *a, const ds_tensor *o, float *lse, int threads);

INLINE attention attention_of(const ds_op *op, const ds_tensor *q, const ds_tensor *k,
                              const ds_tensor *v, const ds_tensor *kv_len) {
  attention a = {.q = q, .k = k, .v = v, .kv_len = ds_cpu_data(kv_len)};
  a.batch = q->shape[0];
  a.time = q->shape[1];
  a.keys = k->shape[1];
  a.heads = q->shape[2];
  a.groups = k->shape[2];
  a.dim = q->shape[3];
  a.pad = ds_cpu_attention_pad(a.dim);
  a.rep = a.groups > 0 ? a.heads / a.groups : 1;
  a.scale = (float)ds_cpu_attr_f(op, 0, 1.0 / __builtin_sqrt((double)(a.dim > 0 ? a.dim : 1)));
  a.causal = ds_cpu_attr_i(op, 1, 1) != 0;
  a.window = ds_cpu_attr_i(op, 2, 0);
  a.workspace = (float *)(((uintptr_t)op->workspace + 63) & ~(uintptr_t)63);
  return a;
}

INLINE int64_t min64(int64_t a, int64_t b) {
  return a < b ? a : b;
}

INLINE int64_t max64(int64_t a, int64_t b) {
  return a > b ? a : b;
}

INLINE int64_t round_up(int64_t n, int64_t unit) {
  return (n + unit - 1) / unit * unit;
}

/* Keys in use in batch b. */
INLINE int64_t keys_used(const attention *a, int64_t b) {
  return a->kv_len ? max64(0, min64(a->kv_len[b], a->keys)) : a->keys;
}

/* Query t of a batch with `used` keys sees the keys [seen_from, seen_to). Both rise with t. */
INLINE int64_t seen_to(const attention *a, int64_t used, int64_t t) {
  return a->causal ? max64(0, min64(used, used - a->time + t + 1)) : used;
}

INLINE int64_t seen_from(const attention *a, int64_t used, int64_t t) {
  return a->window > 0 ? max64(0, used - a->time + t + 1 - a->window) : 0;
}

/* ---- products. They stay functions of their own, so that the constants of what surrounds them
 * take none of the registers that the sums need. */

#define OWN_REGISTERS static __attribute__((noinline, unused))

/* c[i][j] = gain[j] c[i][j] (or 0, without acc) + sum over p < depth of a(i,p) b[p][j], for mr rows
 * and nv vectors; a(i,p) lies at a[i ai + p ap]. */
INLINE void product_block(int mr, int nv, int64_t depth, const float *a, int64_t ai, int64_t ap,
                          const float *b, int64_t ldb, float *c, int64_t ldc, const float *gain,
                          int acc) {
  vf s[MR][NV];
#pragma GCC unroll 8
  for (int i = 0; i < mr; i++)
#pragma GCC unroll 2
    for (int j = 0; j < nv; j++) {
      s[i][j] = acc ? vload(c + i * ldc + j * VL) : vset(0.0f);
      if (gain) s[i][j] *= vload(gain + j * VL);
    }
  for (int64_t p = 0; p < depth; p++) {
    vf bv[NV];
#pragma GCC unroll 2
    for (int j = 0; j < nv; j++) bv[j] = vload(b + p * ldb + j * VL);
#pragma GCC unroll 8
    for (int i = 0; i < mr; i++) {
      const vf av = vset(a[i * ai + p * ap]);
#pragma GCC unroll 2
      for (int j = 0; j < nv; j++) s[i][j] += av * bv[j];
    }
  }
#pragma GCC unroll 8
  for (int i = 0; i < mr; i++)
#pragma GCC unroll 2
    for (int j = 0; j < nv; j++) vstore(c + i * ldc + j * VL, s[i][j]);
}

/* m a multiple of MR, n of VL; b is [depth][ldb], c is [m][ldc]. */
INLINE void product(int64_t m, int64_t n, int64_t depth, const float *a, int64_t ai, int64_t ap,
                    const float *b, int64_t ldb, float *c, int64_t ldc, const float *gain,
                    int acc) {
  int64_t j = 0;
  for (; j + NV * VL <= n; j += NV * VL)
    for (int64_t i = 0; i < m; i += MR)
      product_block(MR, NV, depth, a + i * ai, ai, ap, b + j, ldb, c + i * ldc + j, ldc,
                    gain ? gain + j : NULL, acc);
  for (; j < n; j += VL)
    for (int64_t i = 0; i < m; i += MR)
      product_block(MR, 1, depth, a + i * ai, ai, ap, b + j, ldb, c + i * ldc + j, ldc,
                    gain ? gain + j : NULL, acc);
}

/* S^T block [keys][QB] = rows [keys][pad] times columns qt [pad][TQ]. */
OWN_REGISTERS void rows_by_queries(int64_t keys, int64_t pad, const float *rows, const float *qt,
                                   float *st_) {
  product(keys, QB, pad, rows, pad, 1, qt, TQ, st_, TQ, NULL, 0);
}

/* out^T block [pad][QB] = gain * itself + rows^T [pad][keys] times st_ [keys][TQ]. */
OWN_REGISTERS void columns_by_queries(int64_t keys, int64_t pad, const float *rows,
                                      const float *st_, float *out, const float *gain) {
  product(pad, QB, keys, rows, 1, pad, st_, TQ, out, TQ, gain, 1);
}

/* sums [keys][pad] += st_ [keys][QB of TQ] times rows [QB][pad]. */
OWN_REGISTERS void keys_by_rows(int64_t keys, int64_t pad, const float *st_, const float *rows,
                                float *sums) {
  product(keys, pad, QB, st_, TQ, 1, rows, pad, sums, pad, NULL, 1);
}

/* ---- tiles */

enum { AHEAD = 8 }; /* rows: strided ones are further apart than hardware prefetchers look */

/* Brings `bytes` at p near, to be read or (write = 1) written. */
#define BRING(p, bytes, write)                                                                     \
  do {                                                                                             \
    for (int64_t b_ = 0; b_ < (bytes); b_ += 64)                                                   \
      __builtin_prefetch((const char *)(p) + b_, write, 2);                                        \
  } while (0)

/* dst [padded][pad] = scale * count rows of dim elements at src + at + r stride; zeros around. */
INLINE void load_rows(float *dst, const attention *a, const void *src, int64_t at, int64_t stride,
                      int64_t count, int64_t padded, float scale, int dt) {
  const int64_t size = dtype_size(dt);
  for (int64_t r = 0; r < count; r++) {
    float *row = dst + r * a->pad;
    if (r + AHEAD < count)
      BRING((const char *)src + (at + (r + AHEAD) * stride) * size, a->dim * size, 0);
    VLOOP(c, n, 0, a->dim, { st(row, c, n, DS_F32, ld(src, at + r * stride + c, n, dt) * scale); });
    for (int64_t c = a->dim; c < a->pad; c++) row[c] = 0;
  }
  if (padded > count)
    memset(dst + count * a->pad, 0, (size_t)((padded - count) * a->pad) * sizeof(float));
}

/* The way back: count rows of dim elements, scaled, stored or added. */
INLINE void store_rows(void *dst, int64_t at, int64_t stride, const float *src, const attention *a,
                       int64_t count, float scale, int acc, int dt) {
  const int64_t size = dtype_size(dt);
  for (int64_t r = 0; r < count; r++) {
    if (r + AHEAD < count)
      BRING((char *)dst + (at + (r + AHEAD) * stride) * size, a->dim * size, 1);
    VLOOP(c, n, 0, a->dim, {
      vf v = ld(src, r * a->pad + c, n, DS_F32) * scale;
      st(dst, at + r * stride + c, n, dt, acc ? ld(dst, at + r * stride + c, n, dt) + v : v);
    });
  }
}

typedef float v4 __attribute__((vector_size(16)));
typedef int32_t v4i __attribute__((vector_size(16)));
#if defined(__clang__)
#define PICK4(a, b, i, j, k, l) __builtin_shufflevector(a, b, i, j, k, l)
#else
#define PICK4(a, b, i, j, k, l) __builtin_shuffle(a, b, (v4i){i, j, k, l})
#endif

/* dst [cols][ldd] = src [rows][lds] transposed; rows and cols are multiples of 4. */
OWN_REGISTERS void transpose(const float *src, int64_t lds, float *dst, int64_t ldd, int64_t rows,
                             int64_t cols) {
  for (int64_t r = 0; r < rows; r += 4)
    for (int64_t c = 0; c < cols; c += 4) {
      v4 x[4], t[4], y[4];
      for (int i = 0; i < 4; i++) memcpy(&x[i], src + (r + i) * lds + c, sizeof x[i]);
      t[0] = PICK4(x[0], x[1], 0, 4, 1, 5);
      t[1] = PICK4(x[2], x[3], 0, 4, 1, 5);
      t[2] = PICK4(x[0], x[1], 2, 6, 3, 7);
      t[3] = PICK4(x[2], x[3], 2, 6, 3, 7);
      y[0] = PICK4(t[0], t[1], 0, 1, 4, 5);
      y[1] = PICK4(t[0], t[1], 2, 3, 6, 7);
      y[2] = PICK4(t[2], t[3], 0, 1, 4, 5);
      y[3] = PICK4(t[2], t[3], 2, 3, 6, 7);
      for (int i = 0; i < 4; i++) memcpy(dst + (c + i) * ldd + r, &y[i], sizeof y[i]);
    }
}

/* ---- masks: which part of a tile of keys the queries of a block see */

typedef struct view {
  int64_t count; /* keys of the tile that some query sees, a multiple of MR; 0: none */
  int whole;     /* every query sees every one of them */
  vi from[NV], to[NV];
} view;

/* Queries t0 .. t0+QB-1 (those from `time` on don't exist and see anything) against `n` keys from
 * s0. */
INLINE view view_of(const attention *a, int64_t used, int64_t t0, int64_t s0, int64_t n) {
  const int64_t last = min64(t0 + QB, a->time) - 1;
  const int64_t first_to = seen_to(a, used, t0) - s0, last_to = seen_to(a, used, last) - s0;
  const int64_t first_from = seen_from(a, used, t0) - s0;
  const int64_t last_from = seen_from(a, used, last) - s0;
  view w = {.count = 0};
  if (last_to <= 0 || first_from >= n || last_to <= first_from) return w;
  const int64_t end = min64(n, last_to);
  w.count = round_up(end, MR);
  w.whole = w.count == end && first_to >= end && last_from <= 0;
  for (int j = 0; j < NV; j++)
    for (int i = 0; i < VL; i++) {
      const int64_t t = min64(t0 + j * VL + i, last);
      w.to[j][i] = (int32_t)max64(-1, min64(n, seen_to(a, used, t) - s0));
      w.from[j][i] = (int32_t)max64(-1, min64(n, seen_from(a, used, t) - s0));
    }
  return w;
}

/* x where query lane of vector j sees key s of the tile, else -inf. */
INLINE vf view_mask(const view *w, int j, int32_t s, vf x) {
  if (w->whole) return x;
  return vsel((w->to[j] > s) & (w->from[j] <= s), x, vset(-__builtin_inff()));
}

#endif
