/* product.h - the arithmetic of the libraries' doubles: column-major products, as work on an emulated stream. */
#ifndef DS_TEST_BLAS_PRODUCT_H
#define DS_TEST_BLAS_PRODUCT_H

#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

enum { PRODUCT_PLAIN = 0, PRODUCT_RELU = 1, PRODUCT_GELU = 2 };

/* D[m,n] = activation(alpha op(A)[m,k] op(B)[k,n] + beta C[m,n] + bias[m]), all column-major, batched. Types are ds_dtype's. */
typedef struct product {
  int64_t m, n, k, batch;
  const void *a, *b, *c, *bias;
  void *d;
  int dtype_a, dtype_b, dtype_c, dtype_bias; /* D has C's */
  int trans_a, trans_b, activation;
  int64_t lda, ldb, ldc;
  int64_t stride_a, stride_b, stride_c;
  float alpha, beta;
  const float *scale_a, *scale_b; /* or NULL */
} product;

/* Gives the stream (a gpuStream_t) the product. 0, or the runtime's code. */
int product_give(void *stream, const product *p);

/* What a caller of the library may never do: says so and ends the process. */
void product_misuse(const char *library, const char *format, ...)
    __attribute__((format(printf, 2, 3), noreturn));
/* Appends a line to the file that DS_BLAS_DOUBLE_LOG names, if it does. */
void product_log(const char *format, ...) __attribute__((format(printf, 1, 2)));

#ifdef __cplusplus
}
#endif

#endif
