/* comm_kernel.c - adds up what the ranks sent, in the one order of comm.h: a block at a time, in the
 * first cache. */
#include "../comm.h"
#include "kernel.h"
#include "simd.h"

enum { BLOCK = 256, LEVELS = 24 };

/* The largest power of two of ranks, and how many pairs are leaves so that there are as many. */
INLINE void tree_of(int parts, int *leaves, int *pairs) {
  *leaves = 1;
  while (2 * *leaves <= parts) *leaves *= 2;
  *pairs = parts - *leaves;
}

/* NaN wins: a largest value that hides one would hide an overflow. */
INLINE vf vcombine(vf a, vf b, ds_reduce op) {
  if (op == DS_REDUCE_MAX) return vsel((b > a) | (b != b), b, a);
  if (op == DS_REDUCE_MIN) return vsel((b < a) | (b != b), b, a);
  return a + b;
}

INLINE vf leaf(const ds_cpu_combine *k, int v, int pairs, int64_t at, int n, int dtype,
               ds_reduce op) {
  if (v >= pairs) return ld(k->part[v + pairs], at, n, dtype);
  return vcombine(ld(k->part[2 * v], at, n, dtype), ld(k->part[2 * v + 1], at, n, dtype), op);
}

INLINE vf finished(const ds_cpu_combine *k, vf x, ds_reduce op) {
  return op == DS_REDUCE_MEAN ? x / (float)k->divisor : x;
}

/* done[l] holds the sum of 2^l leaves that waits for its like: as one adds to a binary number. */
INLINE void combine_many(const ds_cpu_combine *k, int dtype, ds_reduce op) {
  float done[LEVELS][BLOCK];
  int leaves, pairs;
  tree_of(k->parts, &leaves, &pairs);
  for (int64_t at = 0; at < k->n; at += BLOCK) {
    int64_t count = k->n - at < BLOCK ? k->n - at : BLOCK;
    for (int v = 0; v < leaves; v++)
      VLOOP(c, n, 0, count, {
        vf x = leaf(k, v, pairs, at + c, n, dtype, op);
        int level = 0;
        for (; v >> level & 1; level++) x = vcombine(ld(done[level], c, n, DS_F32), x, op);
        if (v + 1 < leaves)
          st(done[level], c, n, DS_F32, x);
        else
          st(k->out, at + c, n, dtype, finished(k, x, op));
      });
  }
}

INLINE void combine_two(const ds_cpu_combine *k, int dtype, ds_reduce op) {
  VLOOP(c, n, 0, k->n, {
    vf x = vcombine(ld(k->part[0], c, n, dtype), ld(k->part[1], c, n, dtype), op);
    st(k->out, c, n, dtype, finished(k, x, op));
  });
}

INLINE void combine_floats(const ds_cpu_combine *k, int dtype, ds_reduce op) {
  if (k->parts == 2)
    combine_two(k, dtype, op);
  else
    combine_many(k, dtype, op);
}

INLINE void convert_floats(const ds_cpu_combine *k, int dtype, int out_dtype) {
  VLOOP(c, n, 0, k->n,
        { st(k->out, c, n, out_dtype, finished(k, ld(k->part[0], c, n, dtype), k->op)); });
}

static void conversions(const ds_cpu_combine *k) {
  if (k->dtype == DS_BF16)
    convert_floats(k, DS_BF16, DS_F32);
  else if (k->dtype == DS_F16)
    convert_floats(k, DS_F16, DS_F32);
  else if (k->out_dtype == DS_BF16)
    convert_floats(k, DS_F32, DS_BF16);
  else
    convert_floats(k, DS_F32, DS_F16);
}

static void floats(const ds_cpu_combine *k, int dtype) {
#define OP(op)                                                                                     \
  case op:                                                                                         \
    if (dtype == DS_F32)                                                                           \
      combine_floats(k, DS_F32, op);                                                               \
    else if (dtype == DS_BF16)                                                                     \
      combine_floats(k, DS_BF16, op);                                                              \
    else                                                                                           \
      combine_floats(k, DS_F16, op);                                                               \
    break
  switch (k->op) {
    OP(DS_REDUCE_SUM);
    OP(DS_REDUCE_MEAN);
    OP(DS_REDUCE_MAX);
    OP(DS_REDUCE_MIN);
  }
#undef OP
}

/* T in memory; W is T for the sum, unsigned where that wraps around. x = a op x. */
#define PLAIN(name, T, W)                                                                          \
  static void name##_add(T *x, const T *a, int n, ds_reduce op) {                                  \
    if (op == DS_REDUCE_MAX)                                                                       \
      for (int i = 0; i < n; i++) x[i] = x[i] > a[i] || x[i] != x[i] ? x[i] : a[i];                \
    else if (op == DS_REDUCE_MIN)                                                                  \
      for (int i = 0; i < n; i++) x[i] = x[i] < a[i] || x[i] != x[i] ? x[i] : a[i];                \
    else                                                                                           \
      for (int i = 0; i < n; i++) x[i] = (T)((W)a[i] + (W)x[i]);                                   \
  }                                                                                                \
  static void name(const ds_cpu_combine *k) {                                                      \
    T done[LEVELS][BLOCK];                                                                         \
    int leaves, pairs;                                                                             \
    tree_of(k->parts, &leaves, &pairs);                                                            \
    for (int64_t at = 0; at < k->n; at += BLOCK) {                                                 \
      int n = k->n - at < BLOCK ? (int)(k->n - at) : BLOCK;                                        \
      T x[BLOCK];                                                                                  \
      for (int v = 0; v < leaves; v++) {                                                           \
        int level = 0, last = v < pairs ? 2 * v + 1 : v + pairs;                                   \
        memcpy(x, (const T *)k->part[last] + at, (size_t)n * sizeof(T));                           \
        if (v < pairs) name##_add(x, (const T *)k->part[2 * v] + at, n, k->op);                    \
        for (; v >> level & 1; level++) name##_add(x, done[level], n, k->op);                      \
        if (v + 1 < leaves) memcpy(done[level], x, (size_t)n * sizeof(T));                         \
      }                                                                                            \
      T *out = (T *)k->out + at;                                                                   \
      if (k->op == DS_REDUCE_MEAN)                                                                 \
        for (int i = 0; i < n; i++) out[i] = (T)(x[i] / k->divisor);                               \
      else                                                                                         \
        memcpy(out, x, (size_t)n * sizeof(T));                                                     \
    }                                                                                              \
  }
PLAIN(doubles, double, double)
PLAIN(ints, int32_t, uint32_t)
PLAIN(longs, int64_t, uint64_t)
PLAIN(bytes, int8_t, uint8_t)

void K(combine)(const ds_cpu_combine *k) {
  if (k->out_dtype != k->dtype) {
    conversions(k);
    return;
  }
  switch (k->dtype) {
    case DS_F64: doubles(k); break;
    case DS_I32: ints(k); break;
    case DS_I64: longs(k); break;
    case DS_I8: bytes(k); break;
    default: floats(k, k->dtype);
  }
}
