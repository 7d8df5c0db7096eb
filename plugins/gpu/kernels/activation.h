/* activation.h - activation functions and their slopes, in float. Part of kernels.
 *
 * KIND is a ds_activation. 1 + tanh(u) is written 2 sigmoid(2u): one exponential, and no loss of accuracy on the
 * negative side. */
#ifndef DS_GPU_ACTIVATION_H
#define DS_GPU_ACTIVATION_H

#include "ds_abi.h"
#include "port.h"

#define GPU_SQRT_2_OVER_PI 0.79788456080286535588f
#define GPU_SQRT_HALF      0.70710678118654752440f
#define GPU_INV_SQRT_2PI   0.39894228040143267794f
#define GPU_GELU_CUBIC     0.044715f

/* 1 / x to 2 ulp, for x of at least 1: a division of full accuracy is a call that costs registers. */
GPU_DEVICE float gpu_reciprocal(float x) {
#if defined(__CUDA_ARCH__)
  float y;
  asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
#elif defined(__AMDGCN__)
  return __builtin_amdgcn_rcpf(x);
#else
  return 1.0f / x;
#endif
}

GPU_DEVICE float gpu_sigmoid(float x) {
  return gpu_reciprocal(1.0f + gpu_exp_fast(-x));
}

/* (1 + tanh(sqrt(2/pi) (x + 0.044715 x^3))) / 2 */
GPU_DEVICE float gpu_gelu_gate(float x) {
  return gpu_sigmoid(2 * GPU_SQRT_2_OVER_PI * x * fmaf(GPU_GELU_CUBIC * x, x, 1.0f));
}

template <int KIND> GPU_DEVICE float gpu_activation(float x) {
  switch (KIND) {
    case DS_ACTIVATION_GELU_TANH: return x * gpu_gelu_gate(x);
    case DS_ACTIVATION_GELU_ERF: return 0.5f * x * (1.0f + erff(x * GPU_SQRT_HALF));
    case DS_ACTIVATION_RELU: return x < 0 ? 0.0f : x;
    case DS_ACTIVATION_SILU: return x * gpu_sigmoid(x);
    case DS_ACTIVATION_TANH: return tanhf(x);
    default: return gpu_sigmoid(x);
  }
}

template <int KIND> GPU_DEVICE float gpu_activation_slope(float x) {
  switch (KIND) {
    case DS_ACTIVATION_GELU_TANH: {
      /* Beyond 20 the second term is 0; there the cubic would overflow to 0 * infinity. */
      const float s = gpu_gelu_gate(x), near = fminf(fmaxf(x, -20.0f), 20.0f);
      const float du = GPU_SQRT_2_OVER_PI * fmaf(3 * GPU_GELU_CUBIC * near, near, 1.0f);
      return fmaf(2 * near * du, s * (1.0f - s), s);
    }
    case DS_ACTIVATION_GELU_ERF:
      return fmaf(x * GPU_INV_SQRT_2PI, gpu_exp_fast(-0.5f * x * x),
                  0.5f * (1.0f + erff(x * GPU_SQRT_HALF)));
    case DS_ACTIVATION_RELU: return isnan(x) ? x : x > 0 ? 1.0f : 0.0f;
    case DS_ACTIVATION_SILU: {
      const float s = gpu_sigmoid(x);
      return s * fmaf(x, 1.0f - s, 1.0f);
    }
    case DS_ACTIVATION_TANH: {
      const float t = tanhf(x);
      return fmaf(-t, t, 1.0f);
    }
    default: {
      const float s = gpu_sigmoid(x);
      return s * (1.0f - s);
    }
  }
}

#endif
