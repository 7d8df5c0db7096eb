/* quant_dot.c - products in whole numbers: dot products of stored bytes with bytes of A.
 *
 * Stored values are taken as unsigned, by an offset that the sums of A's bytes take off again; zero
 * points come off the same way. A's numbers are h * 2^16 + m * 2^8 + l (three bytes) or h * 2^8 + l
 * (two); the dot product is built from the highest byte down, by shifting and going on. It fits 32
 * bits: 8 values of at most 15 times 2^23. Three bytes against 4 values of at most 255 don't: there
 * bytes are 7 bits apart, and numbers end at 2^21.
 */
#include "quant_kernel.h"
#include "simd.h"

typedef int8_t vbyte __attribute__((vector_size(4 * VL)));
typedef uint8_t vubyte __attribute__((vector_size(4 * VL)));
typedef uint16_t vword __attribute__((vector_size(4 * VL)));
typedef int16_t vsword __attribute__((vector_size(4 * VL)));
typedef int8_t vlow __attribute__((vector_size(VL))); /* a byte for each lane */

enum { ROWS = 4, COLS = 4 }; /* of A and of values, at once */

/* ---- dot products of 4 bytes a lane */

#if VL == 16
#define MADD(a, b)   ((vi)_mm512_madd_epi16((__m512i)(a), (__m512i)(b)))
#define MADDUS(a, b) ((vsword)_mm512_maddubs_epi16((__m512i)(a), (__m512i)(b)))
#elif VL == 8
#define MADD(a, b)   ((vi)_mm256_madd_epi16((__m256i)(a), (__m256i)(b)))
#define MADDUS(a, b) ((vsword)_mm256_maddubs_epi16((__m256i)(a), (__m256i)(b)))
#elif defined(__SSE2__)
#define MADD(a, b) ((vi)_mm_madd_epi16((__m128i)(a), (__m128i)(b)))
#endif

/* acc + u . s; small: u is below 16, so that pairs of products fit 16 bits. */
INLINE vi dot4(vi acc, vubyte u, vbyte s, const int small) {
#if VL == 16 && defined(__AVX512VNNI__)
  (void)small;
  return (vi)_mm512_dpbusd_epi32((__m512i)acc, (__m512i)u, (__m512i)s);
#else
#ifdef MADDUS
  if (small) return acc + MADD(MADDUS(u, s), (vsword){0} + 1);
#endif
  (void)small;
#ifdef MADD
  vword even = (vword)u & 0xff, odd = (vword)u >> 8;
  vsword a = (vsword)((vword)s << 8) >> 8, b = (vsword)s >> 8;
  return acc + MADD(even, a) + MADD(odd, b);
#else
  for (int i = 0; i < 4 * VL; i++) acc[i / 4] += u[i] * s[i];
  return acc;
#endif
#endif
}

/* ---- A to whole numbers */

INLINE int shift_of(int parts, int i4) {
  return parts == 3 && !i4 ? 7 : 8;
}

/* The largest number whose highest byte is at most 127 and whose others are as large. */
INLINE float limit_of(int parts, int i4) {
  return parts == 1 ? 127.0f : parts == 2 ? 32639.0f : i4 ? 8355711.0f : 2088895.0f;
}

/* To the nearest integer, half to even. */
INLINE vi to_integer(vf x) {
#if VL == 16
  return (vi)_mm512_cvtps_epi32(x);
#elif VL == 8
  return (vi)_mm256_cvtps_epi32(x);
#elif defined(__SSE2__)
  return (vi)_mm_cvtps_epi32(x);
#else
  vi n;
  for (int l = 0; l < VL; l++) n[l] = (int32_t)__builtin_rintf(x[l]);
  return n;
#endif
}

INLINE float largest(const void *a, int64_t at, int64_t n, const int dt) {
  vf most = vset(0.0f), nan = vset(0.0f);
  VLOOP(i, k, 0, n, {
    vf v = vabs(ld(a, at + i, k, dt));
    most = vmax(v, most);
    nan = vsel(v != v, v, nan);
  });
  for (int l = 0; l < VL; l++)
    if (nan[l] != 0.0f) return nan[l];
  return vhmax(most);
}

/* Bytes in the order of A to blocks in the order of the values: for 4-bit values, those of even
 * place first. Adds up the bytes of each lane. */
INLINE vi put_part(const int8_t *from, int8_t *to, const int i4) {
  const vubyte ones = (vubyte){0} + 1;
  vi sum = {0};
  vbyte b;
  if (i4)
    for (int i = 0; i < 4 * VL; i++) {
      to[i] = from[2 * i];
      to[4 * VL + i] = from[2 * i + 1];
    }
  else
    memcpy(to, from, 4 * VL);
  for (int v = 0; v <= i4; v++) {
    memcpy(&b, to + v * 4 * VL, sizeof b);
    sum = dot4(sum, ones, b, 1);
  }
  return sum;
}

/* One chunk of n <= chunk columns with whole numbers x / scale. */
INLINE void pack_chunk(const ds_cpu_quant_dot *d, int64_t at, int64_t n, float scale, int8_t *block,
                       const int dt, const int i4) {
  enum { LONGEST = 8 * VL };
  const int chunk = i4 ? 8 * VL : 4 * VL, shift = shift_of(d->parts, i4);
  const float limit = limit_of(d->parts, i4);
  int8_t bytes[3][LONGEST] = {{0}};
  vi sum = {0};
  VLOOP(i, k, 0, n, {
    vf x = ld(d->g->a, at + i, k, dt) / scale;
    x = vmin(vmax(x, vset(-limit)), vset(limit)); /* NaN to a number */
    vi v = to_integer(x);
    for (int p = d->parts - 1; p > 0; p--) {
      vi half = (vi){0} + (1 << (shift - 1)), rest = ((v + half) & ((1 << shift) - 1)) - half;
      vlow b = __builtin_convertvector(rest, vlow);
      memcpy(bytes[p] + i, &b, sizeof b);
      v = (v - rest) >> shift;
    }
    vlow b = __builtin_convertvector(v, vlow);
    memcpy(bytes[0] + i, &b, sizeof b);
  });
  for (int p = 0; p < d->parts; p++)
    sum = (sum << shift) + put_part(bytes[p], block + p * chunk, i4);
  if (!ds_cpu_quant_asymmetric(d->q)) sum *= i4 ? -8 : -128;
  memcpy(block + d->parts * chunk, &sum, sizeof sum);
}

/* Small numbers keep a scale that can be divided by. */
static float scale_of(float largest, float limit) {
  float s = largest / limit;
  return s < 0x1p-120f ? 0x1p-120f : s; /* NaN stays */
}

/* Chunks [lo,hi) of all rows, counted through. */
INLINE void pack_chunks(const ds_cpu_quant_dot *d, int64_t lo, int64_t hi, const int dt,
                        const int i4) {
  const int64_t chunk = i4 ? 8 * VL : 4 * VL, cols = d->q->cols;
  const int64_t block = ds_cpu_quant_block(d->q, VL, d->parts);
  for (int64_t c = lo; c < hi; c++) {
    int64_t row = c / d->chunks, col = c % d->chunks * chunk, at = row * d->g->lda + col;
    int64_t n = cols - col < chunk ? cols - col : chunk;
    if (!d->dynamic) d->scales[c] = scale_of(largest(d->g->a, at, n, dt), limit_of(d->parts, i4));
    pack_chunk(d, at, n, d->scales[d->dynamic ? row : c], d->a + c * block, dt, i4);
  }
}

static void pack_range(const void *ctx, int64_t lo, int64_t hi, int part) {
  const ds_cpu_quant_dot *d = ctx;
  (void)part;
  bool i4 = d->q->qtype == DS_I4;
  if (d->q->dtype == DS_F32)
    i4 ? pack_chunks(d, lo, hi, DS_F32, 1) : pack_chunks(d, lo, hi, DS_F32, 0);
  else
    i4 ? pack_chunks(d, lo, hi, DS_BF16, 1) : pack_chunks(d, lo, hi, DS_BF16, 0);
}

/* The scales of whole rows, as the contract has them. */
static void scale_rows(const void *ctx, int64_t lo, int64_t hi, int part) {
  const ds_cpu_quant_dot *d = ctx;
  (void)part;
  for (int64_t r = lo; r < hi; r++) {
    int64_t at = r * d->g->lda, n = d->q->cols;
    float most =
        d->q->dtype == DS_F32 ? largest(d->g->a, at, n, DS_F32) : largest(d->g->a, at, n, DS_BF16);
    float s = most / limit_of(1, 0);
    d->scales[r] = s == 0.0f ? 1.0f : s;
  }
}

void K(quant_pack)(const ds_cpu_quant_dot *d, int threads) {
  int parts = ds_cpu_parts(threads, 4.0 * (double)d->g->m * (double)d->q->cols);
  if (d->dynamic) parallel_range(parts, d->g->m, 1, scale_rows, d);
  parallel_range(parts, d->g->m * d->chunks, 1, pack_range, d);
}

/* ---- the product */

/* What is constant in a loop over chunks. */
typedef struct form {
  int i4, asymmetric, one_group; /* one_group: of a chunk */
  int parts, dynamic;
} form;

/* The stored bytes of chunk c of a row as one or two vectors of unsigned numbers. */
INLINE void load_values(const ds_quant *q, int64_t row, int64_t c, vubyte out[2], const form f) {
  const int64_t row_bytes = f.i4 ? q->cols / 2 : q->cols, at = c * 4 * VL;
  const uint8_t *p = (const uint8_t *)q->values + row * row_bytes + at;
  vubyte x = {0};
  if (row_bytes - at >= 4 * VL)
    memcpy(&x, p, sizeof x);
  else
    memcpy(&x, p, (size_t)(row_bytes - at));
  if (!f.i4) {
    out[0] = x ^ 0x80;
    return;
  }
  x ^= 0x88;
  out[0] = x & 15;
  out[1] = (vubyte)((vword)x >> 4) & 15;
}

/* Scales of the chunk's lanes. Lanes past the last column have 0. */
INLINE vf load_scales(const ds_quant *q, int64_t row, int64_t c, vi *zero, const form f) {
  const int64_t chunk = f.i4 ? 8 * VL : 4 * VL;
  const int64_t g = ds_cpu_quant_group(q, row, c * chunk);
  const int offset = f.i4 ? 8 : 128;
  if (f.one_group) {
    if (f.asymmetric) *zero = (vi){0} + (q->zeros[g] + offset);
    return vset(q->scales[g]);
  }
  float s[VL] = {0};
  int32_t z[VL] = {0};
  const int64_t lanes = q->group / (f.i4 ? 8 : 4), left = (q->cols - c * chunk) / q->group;
  for (int l = 0; l < VL && l / lanes < left; l++) {
    s[l] = q->scales[g + l / lanes];
    if (f.asymmetric) z[l] = q->zeros[g + l / lanes] + offset;
  }
  if (f.asymmetric) memcpy(zero, z, sizeof z);
  return vload(s);
}

INLINE vi chunk_dot(const int8_t *block, const vubyte w[2], const form f) {
  vi acc = {0};
  for (int p = 0; p < f.parts; p++) {
    vbyte a;
    if (p > 0) acc <<= shift_of(f.parts, f.i4);
    memcpy(&a, block, sizeof a);
    acc = dot4(acc, w[0], a, f.i4);
    block += sizeof a;
    if (!f.i4) continue;
    memcpy(&a, block, sizeof a);
    acc = dot4(acc, w[1], a, f.i4);
    block += sizeof a;
  }
  return acc;
}

INLINE void tile(const ds_cpu_quant_dot *d, int64_t i0, int64_t row, const int rows, const int cols,
                 const form f) {
  const ds_quant *q = d->q;
  const int64_t block = ds_cpu_quant_block(q, VL, f.parts);
  vf total[ROWS * COLS];
  for (int i = 0; i < rows * cols; i++) total[i] = vset(0.0f);
  for (int64_t c = 0; c < d->chunks; c++) {
    vubyte w[COLS][2];
    vf scale[COLS];
    vi zero[COLS];
    for (int j = 0; j < cols; j++) {
      load_values(q, row + j, c, w[j], f);
      scale[j] = load_scales(q, row + j, c, &zero[j], f);
    }
    for (int i = 0; i < rows; i++) {
      const int64_t at = (i0 + i) * d->chunks + c;
      const int8_t *a = d->a + at * block;
      vi sum;
      memcpy(&sum, a + block - (int64_t)sizeof sum, sizeof sum);
      for (int j = 0; j < cols; j++) {
        vi dot = chunk_dot(a, w[j], f);
        dot = f.asymmetric ? dot - zero[j] * sum : dot + sum;
        vf s = f.dynamic ? scale[j] : scale[j] * d->scales[at];
        total[i * cols + j] = __builtin_convertvector(dot, vf) * s + total[i * cols + j];
      }
    }
  }
  for (int i = 0; i < rows; i++)
    for (int j = 0; j < cols; j++) {
      float sum = vhsum(total[i * cols + j]);
      if (f.dynamic) sum *= d->scales[i0 + i];
      if (d->g->bias != NULL) sum += ld1(d->g->bias, row + j, q->dtype);
      st1(d->g->c, (i0 + i) * d->g->ldc + row + j, q->dtype, sum);
    }
}

INLINE void rows_of_values(const ds_cpu_quant_dot *d, int64_t row, const int cols, const form f) {
  int64_t i = 0;
  for (; i + ROWS <= d->g->m; i += ROWS) tile(d, i, row, ROWS, cols, f);
  for (; i < d->g->m; i++) tile(d, i, row, 1, cols, f);
}

INLINE void range(const ds_cpu_quant_dot *d, int64_t lo, int64_t hi, const form f) {
  for (; lo + COLS <= hi; lo += COLS) rows_of_values(d, lo, COLS, f);
  for (; lo < hi; lo++) rows_of_values(d, lo, 1, f);
}

/* A function for each form: qtype and parts, then what the groups are like. */
#define RANGE(name, i4, parts)                                                                     \
  static void name(const ds_cpu_quant_dot *d, int64_t lo, int64_t hi) {                            \
    bool one = ds_cpu_quant_one_group(d->q, VL);                                                   \
    if (ds_cpu_quant_asymmetric(d->q))                                                             \
      one ? range(d, lo, hi, (form){i4, 1, 1, parts, (parts) == 1})                                \
          : range(d, lo, hi, (form){i4, 1, 0, parts, (parts) == 1});                               \
    else                                                                                           \
      one ? range(d, lo, hi, (form){i4, 0, 1, parts, (parts) == 1})                                \
          : range(d, lo, hi, (form){i4, 0, 0, parts, (parts) == 1});                               \
  }
RANGE(i8_dynamic, 0, 1)
RANGE(i8_2, 0, 2)
RANGE(i8_3, 0, 3)
RANGE(i4_2, 1, 2)
RANGE(i4_3, 1, 3)

static void dot_range(const void *ctx, int64_t lo, int64_t hi, int part) {
  const ds_cpu_quant_dot *d = ctx;
  (void)part;
  if (d->q->qtype == DS_I4)
    d->parts == 2 ? i4_2(d, lo, hi) : i4_3(d, lo, hi);
  else if (d->parts == 1)
    i8_dynamic(d, lo, hi);
  else
    d->parts == 2 ? i8_2(d, lo, hi) : i8_3(d, lo, hi);
}

void K(quant_dot)(const ds_cpu_quant_dot *d, int threads) {
  double work = (double)d->q->rows * (double)d->q->cols * (double)d->g->m;
  parallel_range(ds_cpu_parts(threads, work), d->q->rows, 16, dot_range, d);
}
