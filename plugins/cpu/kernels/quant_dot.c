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

/* Rows of A and of values that meet in registers. */
enum { ROWS = 4, COLS = 4 };
/* Rows of values that go through a panel of columns before the next panel does, so that this much
 * of each row of A stays in the first cache. */
enum { STRIP = 32, PANEL_BYTES = 16384 };

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

/* The low nibbles of signed numbers, as unsigned ones with an offset of 8. */
INLINE vubyte low_nibbles(vubyte x) {
#if VL == 16
  enum { XOR_AND = 0x28 }; /* (x ^ 8) & 15 in one go */
  return (vubyte)_mm512_ternarylogic_epi32((__m512i)x, _mm512_set1_epi8(8), _mm512_set1_epi8(15),
                                           XOR_AND);
#else
  return (x ^ 8) & 15;
#endif
}

/* A vector of bytes as one or two vectors of unsigned numbers. */
INLINE void load_values(const uint8_t *p, vubyte out[2], const form f) {
  vubyte x;
  memcpy(&x, p, sizeof x);
  out[0] = f.i4 ? low_nibbles(x) : x ^ 0x80;
  if (f.i4) out[1] = low_nibbles((vubyte)((vword)x >> 4));
}

/* Lane l has p[l / lanes], for n values of p; the others 0. lanes is a power of two. */
INLINE vf spread_f32(const float *p, int n, vi index) {
#if VL == 16
  return _mm512_permutexvar_ps((__m512i)index,
                               _mm512_maskz_loadu_ps((__mmask16)((1u << n) - 1), p));
#elif VL == 8
  vi there = (vi){0, 1, 2, 3, 4, 5, 6, 7} < n;
  return _mm256_permutevar8x32_ps(_mm256_maskload_ps(p, (__m256i)there), (__m256i)index);
#else
  vf v;
  for (int l = 0; l < VL; l++) v[l] = index[l] < n ? p[index[l]] : 0.0f;
  return v;
#endif
}

INLINE vi spread_i8(const int8_t *p, int n, vi index) {
#if VL == 16
  __m128i b = _mm_maskz_loadu_epi8((__mmask16)((1u << n) - 1), p);
  return (vi)_mm512_permutexvar_epi32((__m512i)index, _mm512_cvtepi8_epi32(b));
#else
  vi v;
  for (int l = 0; l < VL; l++) v[l] = index[l] < n ? p[index[l]] : 0;
  return v;
#endif
}

/* Where a loop over the chunks of some rows stands in the groups. */
typedef struct place {
  int64_t group, row_groups; /* of the chunk's first column, in its row; of a row */
  int64_t left;              /* chunks before the next group, where groups have several */
  vi index;                  /* a lane's group in the chunk, where chunks have several */
} place;

INLINE int64_t chunk_of(const form f) {
  return f.i4 ? 8 * VL : 4 * VL;
}

INLINE int64_t chunks_of_group(const ds_quant *q, const form f) {
  bool whole = ds_cpu_quant_per_tensor(q) || q->group == q->cols;
  return whole ? INT64_MAX : q->group / chunk_of(f);
}

INLINE place place_of(const ds_quant *q, int64_t chunk, const form f) {
  place p = {.row_groups = ds_cpu_quant_per_tensor(q) ? 0 : q->cols / q->group};
  if (f.one_group) {
    int64_t span = chunks_of_group(q, f);
    p.group = chunk / span;
    p.left = span - chunk % span;
  } else {
    p.group = chunk * chunk_of(f) / q->group;
    for (int l = 0; l < VL; l++) p.index[l] = (int32_t)(l * (f.i4 ? 8 : 4) / q->group);
  }
  return p;
}

INLINE void next_place(place *p, int64_t groups, int64_t span, const form f) {
  if (!f.one_group) {
    p->group += groups;
  } else if (--p->left == 0) {
    p->left = span;
    p->group++;
  }
}

/* Scales and zero points (with the offset of the values) of the chunk's lanes in a row. */
INLINE vf load_scales(const ds_quant *q, int64_t row, const place *p, int64_t groups, vi *zero,
                      const form f) {
  const int64_t g = row * p->row_groups + p->group, rest = p->row_groups - p->group;
  const int n = (int)(rest < groups ? rest : groups), offset = f.i4 ? 8 : 128;
  if (f.asymmetric)
    *zero = (f.one_group ? (vi){0} + q->zeros[g] : spread_i8(q->zeros + g, n, p->index)) + offset;
  return f.one_group ? vset(q->scales[g]) : spread_f32(q->scales + g, n, p->index);
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

/* Adds rows [i0, i0 + rows) of A times rows [row, row + cols) of values, chunks [lo, hi), to sums
 * by lane: total[j * rows + i]. */
INLINE void tile(const ds_cpu_quant_dot *d, int64_t i0, int64_t row, int64_t lo, int64_t hi,
                 vf *total, const int rows, const int cols, const form f) {
  const ds_quant *q = d->q;
  const int64_t block = ds_cpu_quant_block(q, VL, f.parts), span = chunks_of_group(q, f);
  const int64_t groups = f.one_group ? 1 : chunk_of(f) / q->group;
  const int64_t row_bytes = f.i4 ? q->cols / 2 : q->cols;
  const uint8_t *values = (const uint8_t *)q->values + row * row_bytes;
  place at = place_of(q, lo, f);
  /* A last chunk that is not whole is read from here, so that all loads are of whole vectors. */
  const int64_t whole = row_bytes / (4 * VL);
  uint8_t rest[COLS][4 * VL];
  if (whole < hi)
    for (int j = 0; j < cols; j++) {
      memset(rest[j], 0, sizeof rest[j]);
      memcpy(rest[j], values + j * row_bytes + whole * 4 * VL, (size_t)(row_bytes % (4 * VL)));
    }
  const int8_t *packed = d->a + i0 * d->chunks * block;
  const float *a_scales = d->scales + i0 * d->chunks; /* unless dynamic */
  /* What the next tile reads is fetched into the second cache in the order of memory. */
  const uint8_t *next = values + cols * row_bytes + (lo * cols - 1) * 4 * VL;
  vf sums[ROWS * COLS];
  for (int i = 0; i < rows * cols; i++) sums[i] = total[i];
  for (int64_t c = lo; c < hi; c++) {
    vubyte w[COLS][2];
    vf scale[COLS];
    vi zero[COLS];
    const uint8_t *from = c < whole ? values + c * 4 * VL : rest[0];
    const int64_t step = c < whole ? row_bytes : 4 * VL;
    for (int j = 0; j < cols; j++) {
      __builtin_prefetch(next += 4 * VL, 0, 2);
      load_values(from + j * step, w[j], f);
      scale[j] = load_scales(q, row + j, &at, groups, &zero[j], f);
    }
    for (int i = 0; i < rows; i++) {
      const int64_t number = i * d->chunks + c;
      const int8_t *a = packed + number * block;
      vi sum;
      memcpy(&sum, a + block - (int64_t)sizeof sum, sizeof sum);
      for (int j = 0; j < cols; j++) {
        vi dot = chunk_dot(a, w[j], f);
        dot = f.asymmetric ? dot - zero[j] * sum : dot + sum;
        vf x = __builtin_convertvector(dot, vf);
        if (!f.dynamic) x *= a_scales[number];
        sums[j * rows + i] = x * scale[j] + sums[j * rows + i];
      }
    }
    next_place(&at, groups, span, f);
  }
  for (int i = 0; i < rows * cols; i++) total[i] = sums[i];
}

/* Rows [i0, i0 + rows) of A with a strip of n rows of values. */
INLINE void strip(const ds_cpu_quant_dot *d, int64_t i0, int64_t row, int n, const int rows,
                  const form f) {
  vf total[STRIP * ROWS];
  /* One row of A is better off without panels: memory is then read in order. */
  const int64_t panel =
      rows == 1 ? d->chunks : PANEL_BYTES / ds_cpu_quant_block(d->q, VL, f.parts) / rows;
  for (int k = 0; k < n * rows; k++) total[k] = vset(0.0f);
  for (int64_t lo = 0; lo < d->chunks; lo += panel) {
    int64_t hi = lo + panel < d->chunks ? lo + panel : d->chunks;
    int j = 0;
    for (; j + COLS <= n; j += COLS) tile(d, i0, row + j, lo, hi, total + j * rows, rows, COLS, f);
    for (; j < n; j++) tile(d, i0, row + j, lo, hi, total + j * rows, rows, 1, f);
  }
  for (int k = 0; k < n * rows; k++) {
    const int64_t i = i0 + k % rows, j = row + k / rows;
    float sum = vhsum(total[k]);
    if (f.dynamic) sum *= d->scales[i];
    if (d->g->bias != NULL) sum += ld1(d->g->bias, j, d->q->dtype);
    st1(d->g->c, i * d->g->ldc + j, d->q->dtype, sum);
  }
}

INLINE void range(const ds_cpu_quant_dot *d, int64_t lo, int64_t hi, const form f) {
  for (; lo < hi; lo += STRIP) {
    const int n = hi - lo < STRIP ? (int)(hi - lo) : STRIP;
    int64_t i = 0;
    for (; i + ROWS <= d->g->m; i += ROWS) strip(d, i, lo, n, ROWS, f);
    for (; i < d->g->m; i++) strip(d, i, lo, n, 1, f);
  }
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
