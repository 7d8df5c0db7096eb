/* product.cpp - see product.h. One thread of a kernel does it all, in double. */
#include "product.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <vector>

#include "ds_abi.h"
#include "port.h"

static double get(int dtype, const void *p, int64_t i) {
  switch (dtype) {
    case DS_F32: return (double)static_cast<const float *>(p)[i];
    case DS_BF16: return (double)gpu_f32(static_cast<const gpu_bf16 *>(p)[i]);
    case DS_F16: return (double)gpu_f32(static_cast<const gpu_f16 *>(p)[i]);
    case DS_F8E4M3: return (double)gpu_f32(static_cast<const gpu_f8e4m3 *>(p)[i]);
    default: return (double)gpu_f32(static_cast<const gpu_f8e5m2 *>(p)[i]);
  }
}

static void put(int dtype, void *p, int64_t i, double v) {
  switch (dtype) {
    case DS_F32: static_cast<float *>(p)[i] = (float)v; break;
    case DS_BF16: static_cast<gpu_bf16 *>(p)[i] = gpu_from<gpu_bf16>((float)v); break;
    default: static_cast<gpu_f16 *>(p)[i] = gpu_from<gpu_f16>((float)v); break;
  }
}

static double activate(int kind, double x) {
  if (kind == PRODUCT_RELU) return x < 0 ? 0 : x;
  if (kind == PRODUCT_GELU)
    return 0.5 * x * (1 + tanh(0.79788456080286535588 * (x + 0.044715 * x * x * x)));
  return x;
}

/* op(X) as rows of `cols` values. */
static std::vector<double> unpack(int dtype, const void *p, int64_t offset, int trans, int64_t rows,
                                  int64_t cols, int64_t ld) {
  std::vector<double> out((size_t)(rows * cols));
  for (int64_t r = 0; r < rows; r++)
    for (int64_t c = 0; c < cols; c++)
      out[(size_t)(r * cols + c)] = get(dtype, p, offset + (trans ? r * ld + c : c * ld + r));
  return out;
}

GPU_KERNEL(1) multiply(product p) {
  const double alpha = (double)p.alpha * (p.scale_a ? (double)*p.scale_a : 1.0) *
                       (p.scale_b ? (double)*p.scale_b : 1.0);
  for (int64_t batch = 0; batch < p.batch; batch++) {
    const std::vector<double> a =
        unpack(p.dtype_a, p.a, batch * p.stride_a, p.trans_a, p.m, p.k, p.lda);
    const std::vector<double> b = /* its columns */
        unpack(p.dtype_b, p.b, batch * p.stride_b, !p.trans_b, p.n, p.k, p.ldb);
    for (int64_t j = 0; j < p.n; j++)
      for (int64_t i = 0; i < p.m; i++) {
        double sum = 0;
        for (int64_t k = 0; k < p.k; k++)
          sum += a[(size_t)(i * p.k + k)] * b[(size_t)(j * p.k + k)];
        const int64_t at = batch * p.stride_c + j * p.ldc + i;
        double v = alpha * sum;
        if (p.beta != 0.0f) v += (double)p.beta * get(p.dtype_c, p.c, at);
        if (p.bias) v += get(p.dtype_bias, p.bias, i);
        put(p.dtype_c, p.d, at, activate(p.activation, v));
      }
  }
}

extern "C" int product_give(void *stream, const product *p) {
  return GPU_LAUNCH(multiply, dim3(1), dim3(1), 0, static_cast<gpuStream_t>(stream), *p);
}

extern "C" void product_misuse(const char *library, const char *format, ...) {
  va_list args;
  va_start(args, format);
  fprintf(stderr, "%s double: misuse: ", library);
  vfprintf(stderr, format, args);
  fprintf(stderr, "\n");
  va_end(args);
  abort();
}

extern "C" void product_log(const char *format, ...) {
  const char *path = getenv("DS_BLAS_DOUBLE_LOG");
  FILE *f = path ? fopen(path, "a") : nullptr;
  if (!f) return;
  va_list args;
  va_start(args, format);
  vfprintf(f, format, args);
  fprintf(f, "\n");
  va_end(args);
  fclose(f);
}
