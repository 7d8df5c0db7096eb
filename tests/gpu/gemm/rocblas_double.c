/* rocblas_double.c - the part of rocBLAS that plugins/rocm/rocblas.c uses, on emulated memory, written from AMD's documentation
 * ("rocBLAS", rocblas_gemm_strided_batched_ex and rocblas-types.h): matrices are column-major; the types are those of the
 * table of rocblas_gemm_ex.
 *
 * What a caller may never do ends the process. Some problems aren't implemented. */
#include "product.h"

#include <stdbool.h>
#include <stdlib.h>

#include "ds_abi.h"

#define MISUSE(...) product_misuse("rocBLAS", __VA_ARGS__)

int rocblas_create_handle(void **out);
int rocblas_destroy_handle(void *handle_);
int rocblas_set_stream(void *handle_, void *stream);
int rocblas_set_atomics_mode(void *handle_, int mode);
int rocblas_set_workspace(void *handle_, void *memory, size_t bytes);
int rocblas_gemm_strided_batched_ex(void *handle_, int trans_a, int trans_b, int32_t m, int32_t n,
                                    int32_t k, const void *alpha, const void *a, int type_a,
                                    int32_t lda, int64_t stride_a, const void *b, int type_b,
                                    int32_t ldb, int64_t stride_b, const void *beta, const void *c,
                                    int type_c, int32_t ldc, int64_t stride_c, void *d, int type_d,
                                    int32_t ldd, int64_t stride_d, int32_t batch, int compute_type,
                                    int algo, int32_t solution, uint32_t flags);

enum { SUCCESS = 0, NOT_IMPLEMENTED = 2, MEMORY_ERROR = 5, INTERNAL_ERROR = 6, PERF_DEGRADED = 7 };
enum { NONE = 111, TRANSPOSE = 112, F16 = 150, F32 = 151, BF16 = 168 };

typedef struct handle {
  int alive, atomics; /* 1: allowed */
  bool has_stream;
  void *stream;
  void *workspace;
  long calls, unknown, half, batched;
} handle;

static handle *as(void *p) {
  if (p == NULL || *(int *)p != 0x600d) MISUSE("the handle isn't one, or was destroyed");
  return p;
}

int rocblas_create_handle(void **out) {
  handle *h = calloc(1, sizeof *h);
  if (h == NULL) return MEMORY_ERROR;
  h->alive = 0x600d;
  h->atomics = 1;
  *out = h;
  return SUCCESS;
}

int rocblas_destroy_handle(void *handle_) {
  handle *h = as(handle_);
  product_log("rocBLAS calls=%ld unsupported=%ld half=%ld batched=%ld", h->calls, h->unknown,
              h->half, h->batched);
  h->alive = 0;
  free(h);
  return SUCCESS;
}

int rocblas_set_stream(void *handle_, void *stream) {
  handle *h = as(handle_);
  h->stream = stream;
  h->has_stream = true;
  return SUCCESS;
}

int rocblas_set_atomics_mode(void *handle_, int mode) {
  if (mode != 0 && mode != 1) MISUSE("atomics mode %d", mode);
  as(handle_)->atomics = mode;
  return SUCCESS;
}

int rocblas_set_workspace(void *handle_, void *memory, size_t bytes) {
  if (memory == NULL || bytes == 0) MISUSE("a workspace of %zu bytes", bytes);
  as(handle_)->workspace = memory;
  return SUCCESS;
}

static int dtype_of(int type) {
  if (type != F16 && type != F32 && type != BF16) MISUSE("type %d", type);
  return type == F32 ? DS_F32 : type == BF16 ? DS_BF16 : DS_F16;
}

static void check_matrix(const char *name, const void *p, int32_t rows, int32_t cols, int32_t ld,
                         int64_t stride, int32_t batch) {
  if (p == NULL) MISUSE("%s is NULL", name);
  if (ld < rows || ld < 1) MISUSE("%s has %d rows and a leading dimension of %d", name, rows, ld);
  if (batch > 1 && stride < 1)
    MISUSE("%s has a stride of %lld, %d columns", name, (long long)stride, cols);
}

int rocblas_gemm_strided_batched_ex(void *handle_, int trans_a, int trans_b, int32_t m, int32_t n,
                                    int32_t k, const void *alpha, const void *a, int type_a,
                                    int32_t lda, int64_t stride_a, const void *b, int type_b,
                                    int32_t ldb, int64_t stride_b, const void *beta, const void *c,
                                    int type_c, int32_t ldc, int64_t stride_c, void *d, int type_d,
                                    int32_t ldd, int64_t stride_d, int32_t batch, int compute_type,
                                    int algo, int32_t solution, uint32_t flags) {
  handle *h = as(handle_);
  if (!h->has_stream) MISUSE("no stream was set");
  if (h->atomics) MISUSE("sums in no fixed order");
  if (h->workspace == NULL) MISUSE("the handle's own workspace, where streams meet");
  if ((trans_a != NONE && trans_a != TRANSPOSE) || (trans_b != NONE && trans_b != TRANSPOSE))
    MISUSE("operations %d and %d", trans_a, trans_b);
  if (algo != 0 || solution != 0 || flags != 0 || compute_type != F32)
    MISUSE("algo %d, solution %d, flags %u, compute type %d", algo, solution, flags, compute_type);
  if (m < 1 || n < 1 || k < 1 || batch < 1) MISUSE("m %d, n %d, k %d, batch %d", m, n, k, batch);
  if (c != d || type_c != type_d || ldc != ldd || stride_c != stride_d) MISUSE("C and D differ");
  check_matrix("A", a, trans_a == NONE ? m : k, trans_a == NONE ? k : m, lda, stride_a, batch);
  check_matrix("B", b, trans_b == NONE ? k : n, trans_b == NONE ? n : k, ldb, stride_b, batch);
  check_matrix("C", c, m, n, ldc, stride_c, batch);
  const product p = {.m = m,
                     .n = n,
                     .k = k,
                     .batch = batch,
                     .a = a,
                     .b = b,
                     .c = c,
                     .d = d,
                     .dtype_a = dtype_of(type_a),
                     .dtype_b = dtype_of(type_b),
                     .dtype_c = dtype_of(type_c),
                     .trans_a = trans_a == TRANSPOSE,
                     .trans_b = trans_b == TRANSPOSE,
                     .lda = lda,
                     .ldb = ldb,
                     .ldc = ldc,
                     .stride_a = stride_a,
                     .stride_b = stride_b,
                     .stride_c = stride_c,
                     .alpha = *(const float *)alpha,
                     .beta = *(const float *)beta};
  if (type_a != type_b || (type_c != type_a && (type_a == F32 || type_c != F32)))
    MISUSE("types %d, %d, %d", type_a, type_b, type_c);
  if ((m + n + k) % 13 == 0) {
    h->unknown++;
    return NOT_IMPLEMENTED;
  }
  h->calls++;
  h->half += type_a != F32;
  h->batched += batch > 1;
  if (product_give(h->stream, &p) != 0) return INTERNAL_ERROR;
  return h->calls % 2 == 0 ? PERF_DEGRADED : SUCCESS;
}
