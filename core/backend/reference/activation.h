/* activation.h - activation functions and their derivatives, in double.
 *
 * Kinds are ds_activation; the epilogues of gemm have the same numbers.
 */
#ifndef DS_BACKEND_REFERENCE_ACTIVATION_H
#define DS_BACKEND_REFERENCE_ACTIVATION_H

#include <math.h>

#include "ds_abi.h"

#define DS_ACTIVATION_SQRT_2_OVER_PI 0.79788456080286535588
#define DS_ACTIVATION_SQRT_HALF      0.70710678118654752440
#define DS_ACTIVATION_INV_SQRT_2PI   0.39894228040143267794
#define DS_ACTIVATION_CUBIC          0.044715

static inline double ds_activation_sigmoid(double x) {
  return 1 / (1 + exp(-x));
}

static inline double ds_activation_value(int64_t kind, double x) {
  switch (kind) {
    case DS_ACTIVATION_GELU_TANH: {
      double u = DS_ACTIVATION_SQRT_2_OVER_PI * (x + DS_ACTIVATION_CUBIC * x * x * x);
      return 0.5 * x * (1 + tanh(u));
    }
    case DS_ACTIVATION_GELU_ERF: return 0.5 * x * (1 + erf(x * DS_ACTIVATION_SQRT_HALF));
    case DS_ACTIVATION_RELU: return x < 0 ? 0 : x;
    case DS_ACTIVATION_SILU: return x * ds_activation_sigmoid(x);
    case DS_ACTIVATION_TANH: return tanh(x);
    case DS_ACTIVATION_SIGMOID: return ds_activation_sigmoid(x);
    default: return NAN;
  }
}

static inline double ds_activation_slope(int64_t kind, double x) {
  switch (kind) {
    case DS_ACTIVATION_GELU_TANH: {
      double t = tanh(DS_ACTIVATION_SQRT_2_OVER_PI * (x + DS_ACTIVATION_CUBIC * x * x * x));
      double du = DS_ACTIVATION_SQRT_2_OVER_PI * (1 + 3 * DS_ACTIVATION_CUBIC * x * x);
      return 0.5 * (1 + t) + 0.5 * x * (1 - t * t) * du;
    }
    case DS_ACTIVATION_GELU_ERF:
      return 0.5 * (1 + erf(x * DS_ACTIVATION_SQRT_HALF)) +
             x * DS_ACTIVATION_INV_SQRT_2PI * exp(-0.5 * x * x);
    case DS_ACTIVATION_RELU: return isnan(x) ? x : x > 0;
    case DS_ACTIVATION_SILU: {
      double s = ds_activation_sigmoid(x);
      return s * (1 + x * (1 - s));
    }
    case DS_ACTIVATION_TANH: {
      double t = tanh(x);
      return 1 - t * t;
    }
    case DS_ACTIVATION_SIGMOID: {
      double s = ds_activation_sigmoid(x);
      return s * (1 - s);
    }
    default: return NAN;
  }
}

#endif
