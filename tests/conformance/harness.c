/* harness.c - memory, random numbers and the arithmetic of dtypes. */
#include "ref64_quant.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

void *harness_alloc(pool *p, size_t count, size_t size) {
  if (p->count == p->room) {
    size_t room = p->room ? 2 * p->room : 32;
    void **blocks = realloc(p->blocks, room * sizeof *blocks);
    if (blocks) {
      p->blocks = blocks;
      p->room = room;
    }
  }
  void *block = p->count < p->room ? calloc(count ? count : 1, size) : NULL;
  if (!block) {
    fprintf(stderr, "conformance: out of host memory (%zu x %zu bytes)\n", count, size);
    exit(2);
  }
  p->blocks[p->count++] = block;
  return block;
}

void harness_pool_free(pool *p) {
  for (size_t i = 0; i < p->count; i++) free(p->blocks[i]);
  free(p->blocks);
  memset(p, 0, sizeof *p);
}

/* splitmix64: any seed is a good one. */
uint64_t harness_random(uint64_t *state) {
  uint64_t z = (*state += 0x9e3779b97f4a7c15u);
  z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
  z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
  return z ^ (z >> 31);
}

double harness_uniform(uint64_t *state) {
  return (double)(harness_random(state) >> 11) * 0x1p-53;
}

double harness_normal(uint64_t *state) {
  double radius = sqrt(-2 * log(1 - harness_uniform(state)));
  return radius * cos(6.283185307179586 * harness_uniform(state));
}

size_t harness_dtype_size(int32_t dtype) {
  switch (dtype) {
    case DS_F64:
    case DS_I64: return 8;
    case DS_F32:
    case DS_I32: return 4;
    case DS_BF16:
    case DS_F16: return 2;
    default: return 1;
  }
}

const char *harness_dtype_name(int32_t dtype) {
  static const char *const names[] = {"f32", "bf16", "f16", "f64",    "i32",   "i64",
                                      "i8",  "u8",   "i4",  "f8e4m3", "f8e5m2"};
  return dtype >= 0 && dtype <= DS_F8E5M2 ? names[dtype] : "?";
}

/* Explicit mantissa bits and exponent range of the 16-bit formats. */
typedef struct half_format {
  int mantissa, min_exponent, max_exponent, bias;
} half_format;

static half_format half_of(int32_t dtype) {
  return dtype == DS_BF16 ? (half_format){7, -126, 127, 127} : (half_format){10, -14, 15, 15};
}

static double half_round(half_format f, double v) {
  if (v == 0 || !isfinite(v)) return v;
  int e = ilogb(v);
  if (e < f.min_exponent) e = f.min_exponent;
  double quantum = ldexp(1, e - f.mantissa);
  double r = nearbyint(v / quantum) * quantum;
  double limit = ldexp(1, f.max_exponent + 1);
  return fabs(r) >= limit ? copysign(INFINITY, v) : r;
}

static uint16_t half_encode(half_format f, double v) {
  uint16_t top = (uint16_t)((f.bias * 2 + 1) << f.mantissa);
  uint16_t sign = signbit(v) ? 0x8000u : 0;
  if (isnan(v)) return (uint16_t)(sign | top | 1u << (f.mantissa - 1));
  double r = fabs(half_round(f, v));
  if (isinf(r)) return (uint16_t)(sign | top);
  if (r < ldexp(1, f.min_exponent))
    return (uint16_t)(sign | (uint16_t)ldexp(r, f.mantissa - f.min_exponent));
  int e = ilogb(r);
  uint16_t m = (uint16_t)(ldexp(r, f.mantissa - e) - ldexp(1, f.mantissa));
  return (uint16_t)(sign | (uint16_t)((e + f.bias) << f.mantissa) | m);
}

static double half_decode(half_format f, uint16_t bits) {
  int m = bits & ((1 << f.mantissa) - 1);
  int e = (bits & 0x7fff) >> f.mantissa;
  double v;
  if (e == f.bias * 2 + 1)
    v = m ? NAN : INFINITY;
  else if (e == 0)
    v = ldexp(m, f.min_exponent - f.mantissa);
  else
    v = ldexp(m + (1 << f.mantissa), e - f.bias - f.mantissa);
  return bits & 0x8000 ? -v : v;
}

static bool is_fp8(int32_t dtype) {
  return dtype == DS_F8E4M3 || dtype == DS_F8E5M2;
}

double harness_round(int32_t dtype, double v) {
  if (is_fp8(dtype)) return quant64_fp8_value(dtype, quant64_fp8_code(dtype, v));
  if (dtype == DS_F32) return (double)(float)v;
  if (dtype == DS_BF16 || dtype == DS_F16) return half_round(half_of(dtype), v);
  return v;
}

double harness_half_ulp(int32_t dtype) {
  switch (dtype) {
    case DS_F32: return 0x1p-24;
    case DS_BF16: return 0x1p-8;
    case DS_F16: return 0x1p-11;
    default: return 0;
  }
}

void harness_store(int32_t dtype, void *base, int64_t index, double v) {
  char *p = (char *)base + index * (int64_t)harness_dtype_size(dtype);
  float f = (float)v;
  int32_t i32 = dtype == DS_I32 ? (int32_t)v : 0;
  uint16_t h = 0;
  switch (dtype) {
    case DS_F64: memcpy(p, &v, 8); break;
    case DS_F32: memcpy(p, &f, 4); break;
    case DS_I32: memcpy(p, &i32, 4); break;
    case DS_BF16:
    case DS_F16:
      h = half_encode(half_of(dtype), v);
      memcpy(p, &h, 2);
      break;
    case DS_F8E4M3:
    case DS_F8E5M2: *p = (char)quant64_fp8_code(dtype, v); break;
    default: *p = (char)v; break;
  }
}

double harness_load(int32_t dtype, const void *base, int64_t index) {
  const char *p = (const char *)base + index * (int64_t)harness_dtype_size(dtype);
  double d;
  float f;
  int32_t i32;
  uint16_t h;
  switch (dtype) {
    case DS_F64: memcpy(&d, p, 8); return d;
    case DS_F32: memcpy(&f, p, 4); return (double)f;
    case DS_I32: memcpy(&i32, p, 4); return i32;
    case DS_BF16:
    case DS_F16: memcpy(&h, p, 2); return half_decode(half_of(dtype), h);
    case DS_F8E4M3:
    case DS_F8E5M2: return quant64_fp8_value(dtype, (unsigned char)*p);
    default: return (signed char)*p;
  }
}
