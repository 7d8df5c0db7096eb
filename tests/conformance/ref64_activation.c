/* ref64_activation.c - activations, SwiGLU and their slopes in float64. */
#include "harness.h"

static const double root_2_over_pi = 0.79788456080286535588;
static const double root_half = 0.70710678118654752440;

static double sigmoid(double x) {
  return 1 / (1 + exp(-x));
}

static double gelu_inner(double x) {
  return root_2_over_pi * (x + 0.044715 * x * x * x);
}

double ref64_activation(int64_t kind, double x) {
  switch (kind) {
    case DS_ACTIVATION_GELU_TANH: return 0.5 * x * (1 + tanh(gelu_inner(x)));
    case DS_ACTIVATION_GELU_ERF: return 0.5 * x * erfc(-x * root_half);
    case DS_ACTIVATION_RELU: return x > 0 ? x : 0;
    case DS_ACTIVATION_SILU: return x * sigmoid(x);
    case DS_ACTIVATION_TANH: return tanh(x);
    case DS_ACTIVATION_SIGMOID: return sigmoid(x);
    default: return x;
  }
}

double ref64_activation_slope(int64_t kind, double x) {
  double t, s = sigmoid(x);
  switch (kind) {
    case DS_ACTIVATION_GELU_TANH:
      t = tanh(gelu_inner(x));
      return 0.5 * (1 + t) + 0.5 * x * (1 - t * t) * root_2_over_pi * (1 + 3 * 0.044715 * x * x);
    case DS_ACTIVATION_GELU_ERF: /* Phi(x) + x phi(x) */
      return 0.5 * erfc(-x * root_half) + x * exp(-0.5 * x * x) * 0.5 * root_2_over_pi;
    case DS_ACTIVATION_RELU: return x > 0 ? 1 : 0;
    case DS_ACTIVATION_SILU: return s + x * s * (1 - s);
    case DS_ACTIVATION_TANH: t = tanh(x); return 1 - t * t;
    case DS_ACTIVATION_SIGMOID: return s * (1 - s);
    default: return 1;
  }
}

/* 1 + tanh and 1 + erf lose relative accuracy on the far negative side: errors scale with |x|. */
static double magnitude(int64_t kind, double x) {
  bool bounded = kind == DS_ACTIVATION_TANH || kind == DS_ACTIVATION_SIGMOID;
  return bounded ? fmin(1, fabs(x) + (kind == DS_ACTIVATION_SIGMOID)) : fabs(x);
}

void ref64_op_activation(test_case *c) {
  double *mag = case_mag(c, 0);
  for (int64_t i = 0; i < c->out[0].n; i++) {
    double x = c->in[0].val[i];
    c->out[0].val[i] = ref64_activation(c->attr[0].i, x);
    mag[i] = magnitude(c->attr[0].i, x);
  }
}

void ref64_op_activation_backward(test_case *c) {
  double *mag = case_mag(c, 0);
  for (int64_t i = 0; i < c->out[0].n; i++) {
    double dy = c->in[0].val[i], x = c->in[1].val[i];
    c->out[0].val[i] = dy * ref64_activation_slope(c->attr[0].i, x);
    mag[i] = fabs(dy) * (1 + fmin(fabs(x), 10));
  }
}

void ref64_op_swiglu(test_case *c) {
  double *mag = case_mag(c, 0);
  for (int64_t i = 0; i < c->out[0].n; i++) {
    double gate = c->in[0].val[i], up = c->in[1].val[i];
    c->out[0].val[i] = ref64_activation(DS_ACTIVATION_SILU, gate) * up;
    mag[i] = fabs(gate * up);
  }
}

void ref64_op_swiglu_backward(test_case *c) {
  double *mag_gate = case_mag(c, 0), *mag_up = case_mag(c, 1);
  for (int64_t i = 0; i < c->out[0].n; i++) {
    double dy = c->in[0].val[i], gate = c->in[1].val[i], up = c->in[2].val[i];
    c->out[0].val[i] = dy * up * ref64_activation_slope(DS_ACTIVATION_SILU, gate);
    c->out[1].val[i] = dy * ref64_activation(DS_ACTIVATION_SILU, gate);
    mag_gate[i] = fabs(dy * up) * (1 + fmin(fabs(gate), 10));
    mag_up[i] = fabs(dy * gate);
  }
}
