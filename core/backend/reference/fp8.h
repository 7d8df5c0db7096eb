/* fp8.h - the two 8-bit floating-point formats, value by value, from their definition
 * (Micikevicius et al. 2022, "FP8 Formats for Deep Learning").
 *
 * E4M3: bias 7, no infinity, one NaN a sign (all other bits set), largest 448.
 * E5M2: bias 15, infinities and NaN as in IEEE formats, largest finite value 57344.
 * Encoding rounds to nearest, ties to even, and saturates; NaN stays NaN.
 */
#ifndef DS_BACKEND_REFERENCE_FP8_H
#define DS_BACKEND_REFERENCE_FP8_H

#include <math.h>
#include <stdint.h>

#include "ds_abi.h"

typedef struct ds_fp8_format {
  int mantissa, bias; /* explicit bits; of the exponent */
  float max;
  int first_special; /* magnitudes from here on are no numbers */
} ds_fp8_format;

/* dtype: DS_F8E4M3 or DS_F8E5M2. */
static inline ds_fp8_format ds_fp8_of(int32_t dtype) {
  return dtype == DS_F8E4M3 ? (ds_fp8_format){3, 7, 448, 0x7f}
                            : (ds_fp8_format){2, 15, 57344, 0x7c};
}

static inline float ds_fp8_decode(int32_t dtype, uint8_t code) {
  ds_fp8_format f = ds_fp8_of(dtype);
  int magnitude = code & 0x7f, exponent = magnitude >> f.mantissa;
  int fraction = magnitude & ((1 << f.mantissa) - 1);
  float v;
  if (magnitude >= f.first_special) {
    v = dtype == DS_F8E5M2 && fraction == 0 ? INFINITY : NAN;
  } else if (exponent == 0) {
    v = ldexpf((float)fraction, 1 - f.bias - f.mantissa);
  } else {
    v = ldexpf((float)((1 << f.mantissa) + fraction), exponent - f.bias - f.mantissa);
  }
  return code & 0x80 ? -v : v;
}

static inline uint8_t ds_fp8_encode(int32_t dtype, float v) {
  ds_fp8_format f = ds_fp8_of(dtype);
  uint8_t sign = signbit(v) ? 0x80 : 0;
  if (isnan(v)) return sign | 0x7f;
  float size = fminf(fabsf(v), f.max);
  if (size == 0) return sign;
  int exponent = ilogbf(size);
  if (exponent < 1 - f.bias) exponent = 1 - f.bias; /* subnormal: the smallest normal's spacing */
  int steps = (int)rintf(ldexpf(size, f.mantissa - exponent));
  /* steps counts the implicit bit; rounding up to the next power of two carries by itself */
  return sign | (uint8_t)(((exponent + f.bias - 1) << f.mantissa) + steps);
}

#endif
