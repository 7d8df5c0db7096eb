/* comm_kernel.c - adds up what the ranks sent: a block at a time, in the first cache. */
#include "../comm.h"
#include "kernel.h"
#include "simd.h"

enum { BLOCK = 1024 };

/* NaN wins: a largest value that hides one would hide an overflow. */
INLINE vf vcombine(vf a, vf b, ds_reduce op) {
  if (op == DS_REDUCE_MAX) return vsel((b > a) | (b != b), b, a);
  if (op == DS_REDUCE_MIN) return vsel((b < a) | (b != b), b, a);
  return a + b;
}

INLINE void combine_floats(const ds_cpu_combine *k, int dtype, ds_reduce op) {
  float sum[BLOCK];
  for (int64_t at = 0; at < k->n; at += BLOCK) {
    int64_t count = k->n - at < BLOCK ? k->n - at : BLOCK;
    VLOOP(c, n, 0, count, { st(sum, c, n, DS_F32, ld(k->part[0], at + c, n, dtype)); });
    for (int p = 1; p < k->parts; p++)
      VLOOP(c, n, 0, count, {
        vf a = ld(sum, c, n, DS_F32);
        st(sum, c, n, DS_F32, vcombine(a, ld(k->part[p], at + c, n, dtype), op));
      });
    if (op == DS_REDUCE_MEAN) {
      VLOOP(c, n, 0, count, {
        vf a = ld(sum, c, n, DS_F32);
        st(k->out, at + c, n, dtype, a / (float)k->parts);
      });
    } else {
      VLOOP(c, n, 0, count, { st(k->out, at + c, n, dtype, ld(sum, c, n, DS_F32)); });
    }
  }
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

/* T in memory; W is T for the sum, unsigned where that wraps around. */
#define PLAIN(name, T, W)                                                                          \
  static void name(const ds_cpu_combine *k) {                                                      \
    T sum[BLOCK];                                                                                  \
    for (int64_t at = 0; at < k->n; at += BLOCK) {                                                 \
      int n = k->n - at < BLOCK ? (int)(k->n - at) : BLOCK;                                        \
      T *out = (T *)k->out + at;                                                                   \
      memcpy(sum, (const T *)k->part[0] + at, (size_t)n * sizeof(T));                              \
      for (int p = 1; p < k->parts; p++) {                                                         \
        const T *x = (const T *)k->part[p] + at;                                                   \
        if (k->op == DS_REDUCE_MAX)                                                                \
          for (int i = 0; i < n; i++) sum[i] = x[i] > sum[i] || x[i] != x[i] ? x[i] : sum[i];      \
        else if (k->op == DS_REDUCE_MIN)                                                           \
          for (int i = 0; i < n; i++) sum[i] = x[i] < sum[i] || x[i] != x[i] ? x[i] : sum[i];      \
        else                                                                                       \
          for (int i = 0; i < n; i++) sum[i] = (T)((W)sum[i] + (W)x[i]);                           \
      }                                                                                            \
      if (k->op == DS_REDUCE_MEAN)                                                                 \
        for (int i = 0; i < n; i++) out[i] = (T)(sum[i] / k->parts);                               \
      else                                                                                         \
        memcpy(out, sum, (size_t)n * sizeof(T));                                                   \
    }                                                                                              \
  }
PLAIN(doubles, double, double)
PLAIN(ints, int32_t, uint32_t)
PLAIN(longs, int64_t, uint64_t)
PLAIN(bytes, int8_t, uint8_t)

void K(combine)(const ds_cpu_combine *k) {
  switch (k->dtype) {
    case DS_F64: doubles(k); break;
    case DS_I32: ints(k); break;
    case DS_I64: longs(k); break;
    case DS_I8: bytes(k); break;
    default: floats(k, k->dtype);
  }
}
