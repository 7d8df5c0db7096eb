/* ref64_quant.c - quantization in float64. */
#include "ref64_quant.h"

static const double stretch_far = 1 + 1e-6;

static double f32(double v) {
  return harness_round(DS_F32, v);
}

int64_t quant64_group(const ds_quant *q) {
  return q->flags & DS_QUANT_PER_TENSOR ? q->rows * q->cols : q->group;
}

int64_t quant64_groups(const ds_quant *q) {
  return q->rows * q->cols / quant64_group(q);
}

bool quant64_is_fp8(const ds_quant *q) {
  return q->qtype == DS_F8E4M3 || q->qtype == DS_F8E5M2;
}

double quant64_qmax(const ds_quant *q) {
  switch (q->qtype) {
    case DS_I8: return 127;
    case DS_I4: return 7;
    case DS_F8E4M3: return 448;
    default: return 57344;
  }
}

double quant64_qmin(const ds_quant *q) {
  if (!(q->flags & DS_QUANT_ASYMMETRIC)) return -quant64_qmax(q);
  return q->qtype == DS_I8 ? -128 : -8;
}

double quant64_fp8_value(int32_t qtype, int code) {
  int bits = qtype == DS_F8E4M3 ? 3 : 2, bias = qtype == DS_F8E4M3 ? 7 : 15;
  int exponent = (code & 127) >> bits, fraction = code & ((1 << bits) - 1);
  double sign = code & 128 ? -1 : 1;
  if (qtype == DS_F8E4M3 && (code & 127) == 127) return NAN;
  if (qtype == DS_F8E5M2 && exponent == 31) return fraction ? NAN : sign * INFINITY;
  if (exponent == 0) return sign * fraction / (1 << bits) * exp2(1 - bias);
  return sign * (1 + (double)fraction / (1 << bits)) * exp2(exponent - bias);
}

int quant64_fp8_code(int32_t qtype, double v) {
  int best = 0;
  double least = INFINITY, size = fmin(fabs(v), qtype == DS_F8E4M3 ? 448 : 57344);
  for (int code = 0; code < 127; code++) {
    double distance = fabs(size - quant64_fp8_value(qtype, code));
    if (!isfinite(distance)) break; /* past the largest finite value */
    if (distance < least || (distance == least && code % 2 == 0)) {
      best = code;
      least = distance;
    }
  }
  return signbit(v) ? best + 128 : best;
}

static double clamp(double v, double low, double high) {
  return fmin(fmax(v, low), high);
}

static void bounds(const double *x, int64_t n, double *low, double *high) {
  *low = *high = 0;
  for (int64_t i = 0; i < n; i++) {
    *low = fmin(*low, x[i]);
    *high = fmax(*high, x[i]);
  }
}

static double asymmetric_step(const ds_quant *q, double low, double high) {
  return f32(f32(high - low) / (quant64_qmax(q) - quant64_qmin(q)));
}

scale64 quant64_scale(const ds_quant *q, const double *x, int64_t n) {
  double low, high, qmin = quant64_qmin(q), qmax = quant64_qmax(q);
  scale64 r = {1, 0};
  bounds(x, n, &low, &high);
  if (low == 0 && high == 0) return r;
  if (!(q->flags & DS_QUANT_ASYMMETRIC)) {
    r.s = f32(fmax(-low, high) / qmax);
    return r;
  }
  r.s = asymmetric_step(q, low, high);
  r.z = clamp(nearbyint(f32(qmin - f32(low / r.s))), qmin, qmax) + 0.0;
  return r;
}

double quant64_code(const ds_quant *q, scale64 s, double x, double stretch) {
  double v = f32(x / s.s) * stretch;
  if (quant64_is_fp8(q)) return quant64_fp8_code(q->qtype, v);
  return clamp(nearbyint(v) + s.z, quant64_qmin(q), quant64_qmax(q)) + 0.0;
}

bool quant64_unsure(const ds_quant *q, scale64 s, double x) {
  double more = quant64_code(q, s, x, stretch_far), less = quant64_code(q, s, x, 2 - stretch_far);
  /* fp8: which zero a small negative number becomes is open as well */
  return more != less || (quant64_is_fp8(q) && more == 128);
}

bool quant64_unsure_zero(const ds_quant *q, const double *x, int64_t n) {
  double low, high;
  bounds(x, n, &low, &high);
  if (!(q->flags & DS_QUANT_ASYMMETRIC) || low == 0) return false;
  double steps = low / asymmetric_step(q, low, high);
  return nearbyint(steps * stretch_far) != nearbyint(steps * (2 - stretch_far));
}

double quant64_value(const ds_quant *q, scale64 s, double code) {
  if (quant64_is_fp8(q)) return s.s * quant64_fp8_value(q->qtype, (int)code);
  return s.s * (code - s.z);
}

int64_t quant64_bytes(const ds_quant *q) {
  return q->rows * q->cols / (q->qtype == DS_I4 ? 2 : 1);
}

static double as_signed(int byte) {
  return byte < 128 ? byte : byte - 256;
}

void quant64_store(const ds_quant *q, slot *s, int64_t i, double code) {
  int bits = (int)code & 255;
  if (q->qtype != DS_I4) {
    s->val[i] = as_signed(bits);
    return;
  }
  int byte = (int)s->val[i / 2] & 255, nibble = bits & 15;
  s->val[i / 2] = as_signed(i % 2 ? (byte & 0x0f) | nibble << 4 : (byte & 0xf0) | nibble);
}

double quant64_load(const ds_quant *q, const slot *s, int64_t i) {
  if (q->qtype != DS_I4) return quant64_is_fp8(q) ? (int)s->val[i] & 255 : s->val[i];
  int byte = (int)s->val[i / 2] & 255, nibble = i % 2 ? byte >> 4 : byte & 15;
  return nibble < 8 ? nibble : nibble - 16;
}
