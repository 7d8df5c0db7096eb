/* cublaslt_double.c - the part of cublasLt that plugins/cuda/cublaslt.c uses, on emulated memory, written from NVIDIA's
 * documentation ("cuBLAS Library", chapter cublasLt): matrices are column-major; types, epilogues and biases as in the table of
 * cublasLtMatmul(); fp8 only with A transposed and B not, and sizes in multiples of 16.
 *
 * What the documentation calls an error of the caller ends the process. What is only not offered is NOT_SUPPORTED. Some
 * problems have a first candidate that is then refused, and some need workspace. */
#include "product.h"

#include <cublasLt.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include "ds_abi.h"

#define MISUSE(...) product_misuse("cublasLt", __VA_ARGS__)

enum { ALIVE = 0x600d, WORKSPACE = 4096 };

typedef struct desc {
  int alive;
  cublasComputeType_t compute;
  int32_t trans_a, trans_b, bias_type;
  uint32_t epilogue;
  const void *bias, *scale_a, *scale_b;
} desc;

typedef struct layout {
  int alive;
  cudaDataType_t type;
  int64_t rows, cols, ld, stride;
  int32_t batch;
} layout;

typedef struct preference {
  int alive;
  uint64_t workspace;
  uint32_t reduction, align_a, align_b, align_c, align_d;
} preference;

typedef struct handle {
  int alive;
  long calls, refused, unknown, bias, relu, gelu, fp8, half, batched;
} handle;

static long objects; /* descriptors, layouts and preferences that live */

/* What an algorithm was chosen for: it holds for nothing else. */
typedef struct ticket {
  uint32_t check, workspace, align_a, align_b;
  uint32_t align_c, refuses, reserved[2];
} ticket;
_Static_assert(sizeof(ticket) <= sizeof(cublasLtMatmulAlgo_t), "a ticket fits");

static void *as(const void *p, const char *what) {
  if (p == NULL || *(const int *)p != ALIVE) MISUSE("%s isn't one, or was destroyed", what);
  return (void *)(uintptr_t)p;
}

static cublasStatus_t make(void **out, size_t size) {
  int *p = calloc(1, size);
  if (p == NULL) return CUBLAS_STATUS_ALLOC_FAILED;
  *p = ALIVE;
  *out = p;
  __atomic_add_fetch(&objects, 1, __ATOMIC_RELAXED);
  return CUBLAS_STATUS_SUCCESS;
}

static cublasStatus_t destroy(const void *p, const char *what) {
  int *alive = as(p, what);
  *alive = 0;
  free(alive);
  __atomic_add_fetch(&objects, -1, __ATOMIC_RELAXED);
  return CUBLAS_STATUS_SUCCESS;
}

static void set(void *to, size_t size, const void *value, size_t given, const char *what) {
  if (given != size) MISUSE("%s has %zu bytes, not %zu", what, size, given);
  memcpy(to, value, size);
}

/* ---------------------------------------------------------------- objects */

cublasStatus_t cublasLtCreate(cublasLtHandle_t *out) {
  const cublasStatus_t st = make((void **)out, sizeof(handle));
  __atomic_add_fetch(&objects, -1, __ATOMIC_RELAXED);
  return st;
}

cublasStatus_t cublasLtDestroy(cublasLtHandle_t lt) {
  handle *h = as(lt, "the handle");
  product_log("cublasLt calls=%ld refused=%ld unsupported=%ld bias=%ld relu=%ld gelu=%ld fp8=%ld "
              "half=%ld batched=%ld left=%ld",
              h->calls, h->refused, h->unknown, h->bias, h->relu, h->gelu, h->fp8, h->half,
              h->batched, objects);
  h->alive = 0;
  free(h);
  return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatmulDescCreate(cublasLtMatmulDesc_t *out, cublasComputeType_t compute,
                                        cudaDataType_t scale) {
  const cublasStatus_t st = make((void **)out, sizeof(desc));
  if (scale != CUDA_R_32F) MISUSE("alpha and beta of type %d", (int)scale);
  if (st != CUBLAS_STATUS_SUCCESS) return st;
  desc *d = (desc *)*out;
  d->compute = compute;
  d->epilogue = CUBLASLT_EPILOGUE_DEFAULT;
  d->bias_type = -1;
  return st;
}

cublasStatus_t cublasLtMatmulDescDestroy(cublasLtMatmulDesc_t d) {
  return destroy(d, "the product's descriptor");
}

cublasStatus_t cublasLtMatmulDescSetAttribute(cublasLtMatmulDesc_t matmul,
                                              cublasLtMatmulDescAttributes_t what,
                                              const void *value, size_t size) {
  desc *d = as(matmul, "the product's descriptor");
  switch (what) {
    case CUBLASLT_MATMUL_DESC_TRANSA: set(&d->trans_a, 4, value, size, "TRANSA"); break;
    case CUBLASLT_MATMUL_DESC_TRANSB: set(&d->trans_b, 4, value, size, "TRANSB"); break;
    case CUBLASLT_MATMUL_DESC_EPILOGUE: set(&d->epilogue, 4, value, size, "EPILOGUE"); break;
    case CUBLASLT_MATMUL_DESC_BIAS_DATA_TYPE: set(&d->bias_type, 4, value, size, "BIAS"); break;
    case CUBLASLT_MATMUL_DESC_BIAS_POINTER: set(&d->bias, 8, value, size, "BIAS_POINTER"); break;
    case CUBLASLT_MATMUL_DESC_A_SCALE_POINTER: set(&d->scale_a, 8, value, size, "A_SCALE"); break;
    case CUBLASLT_MATMUL_DESC_B_SCALE_POINTER: set(&d->scale_b, 8, value, size, "B_SCALE"); break;
    default: MISUSE("attribute %d of a product isn't known here", (int)what);
  }
  return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatrixLayoutCreate(cublasLtMatrixLayout_t *out, cudaDataType_t type,
                                          uint64_t rows, uint64_t cols, int64_t ld) {
  if (ld < (int64_t)rows)
    MISUSE("a leading dimension of %lld for %lld rows", (long long)ld, (long long)rows);
  const cublasStatus_t st = make((void **)out, sizeof(layout));
  if (st == CUBLAS_STATUS_SUCCESS)
    *(layout *)*out = (layout){ALIVE, type, (int64_t)rows, (int64_t)cols, ld, 0, 1};
  return st;
}

cublasStatus_t cublasLtMatrixLayoutDestroy(cublasLtMatrixLayout_t l) {
  return destroy(l, "the layout");
}

cublasStatus_t cublasLtMatrixLayoutSetAttribute(cublasLtMatrixLayout_t matrix,
                                                cublasLtMatrixLayoutAttribute_t what,
                                                const void *value, size_t size) {
  layout *l = as(matrix, "the layout");
  if (what == CUBLASLT_MATRIX_LAYOUT_BATCH_COUNT)
    set(&l->batch, 4, value, size, "BATCH_COUNT");
  else if (what == CUBLASLT_MATRIX_LAYOUT_STRIDED_BATCH_OFFSET)
    set(&l->stride, 8, value, size, "STRIDED_BATCH_OFFSET");
  else
    MISUSE("attribute %d of a layout isn't known here", (int)what);
  return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatmulPreferenceCreate(cublasLtMatmulPreference_t *out) {
  const cublasStatus_t st = make((void **)out, sizeof(preference));
  if (st == CUBLAS_STATUS_SUCCESS)
    *(preference *)*out =
        (preference){ALIVE, 0, CUBLASLT_REDUCTION_SCHEME_MASK, 256, 256, 256, 256};
  return st;
}

cublasStatus_t cublasLtMatmulPreferenceDestroy(cublasLtMatmulPreference_t p) {
  return destroy(p, "the preference");
}

cublasStatus_t cublasLtMatmulPreferenceSetAttribute(cublasLtMatmulPreference_t pref,
                                                    cublasLtMatmulPreferenceAttributes_t what,
                                                    const void *value, size_t size) {
  preference *p = as(pref, "the preference");
  switch (what) {
    case CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES: set(&p->workspace, 8, value, size, "WS"); break;
    case CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK:
      set(&p->reduction, 4, value, size, "REDUCTION");
      break;
    case CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES: set(&p->align_a, 4, value, size, "A"); break;
    case CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES: set(&p->align_b, 4, value, size, "B"); break;
    case CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES: set(&p->align_c, 4, value, size, "C"); break;
    case CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES: set(&p->align_d, 4, value, size, "D"); break;
    default: MISUSE("attribute %d of a preference isn't known here", (int)what);
  }
  return CUBLAS_STATUS_SUCCESS;
}

/* ---------------------------------------------------------------- what there is */

static bool fp8(cudaDataType_t type) {
  return type == CUDA_R_8F_E4M3 || type == CUDA_R_8F_E5M2;
}

static bool has_bias(const desc *d) {
  return (d->epilogue & CUBLASLT_EPILOGUE_BIAS) != 0;
}

static bool offers_types(const desc *d, const layout *a, const layout *b, const layout *c) {
  const bool tf32 = d->compute == CUBLAS_COMPUTE_32F_FAST_TF32;
  if (fp8(a->type))
    return fp8(b->type) && !(a->type == CUDA_R_8F_E5M2 && b->type == CUDA_R_8F_E5M2) &&
           (c->type == CUDA_R_32F || c->type == CUDA_R_16BF || c->type == CUDA_R_16F) &&
           d->compute == CUBLAS_COMPUTE_32F;
  if (a->type != b->type || d->scale_a != NULL || d->scale_b != NULL) return false;
  if (a->type == CUDA_R_32F)
    return c->type == CUDA_R_32F && (tf32 || d->compute == CUBLAS_COMPUTE_32F);
  return (a->type == CUDA_R_16BF || a->type == CUDA_R_16F) &&
         (c->type == a->type || c->type == CUDA_R_32F) && d->compute == CUBLAS_COMPUTE_32F;
}

static bool offers_bias(const desc *d, const layout *a, const layout *c) {
  const int32_t want = fp8(a->type) && c->type == CUDA_R_32F ? CUDA_R_16BF : (int32_t)c->type;
  return !has_bias(d) || (d->bias_type == -1 ? (int32_t)c->type : d->bias_type) == want;
}

static bool offers_shape(const desc *d, const layout *a, const layout *b, const layout *c) {
  if (!fp8(a->type)) return true;
  return d->trans_a == CUBLAS_OP_T && d->trans_b == CUBLAS_OP_N && a->rows % 16 == 0 &&
         a->cols % 16 == 0 && b->cols % 16 == 0 && a->ld % 16 == 0 && b->ld % 16 == 0 &&
         c->ld % 16 == 0;
}

static uint32_t mix(uint32_t h, const void *p, size_t bytes) {
  for (size_t i = 0; i < bytes; i++) h = (h ^ ((const unsigned char *)p)[i]) * 16777619u;
  return h;
}

static uint32_t check_of(const desc *d, const layout *a, const layout *b, const layout *c) {
  uint32_t h = mix(2166136261u, &d->compute, sizeof d->compute);
  h = mix(h, &d->trans_a, sizeof d->trans_a);
  h = mix(h, &d->trans_b, sizeof d->trans_b);
  h = mix(h, &d->bias_type, sizeof d->bias_type);
  h = mix(h, &d->epilogue, sizeof d->epilogue);
  const layout *all[] = {a, b, c};
  for (int i = 0; i < 3; i++) {
    h = mix(h, &all[i]->type, sizeof all[i]->type);
    h = mix(h, &all[i]->rows, 4 * sizeof(int64_t));
    h = mix(h, &all[i]->batch, sizeof all[i]->batch);
  }
  return h;
}

/* op(A) [m,k] op(B) [k,n] = D [m,n], or the caller has mixed something up. */
static void check_shapes(const desc *d, const layout *a, const layout *b, const layout *c,
                         product *p) {
  const bool ta = d->trans_a == CUBLAS_OP_T, tb = d->trans_b == CUBLAS_OP_T;
  p->m = ta ? a->cols : a->rows;
  p->k = ta ? a->rows : a->cols;
  p->n = tb ? b->rows : b->cols;
  if ((tb ? b->cols : b->rows) != p->k || c->rows != p->m || c->cols != p->n)
    MISUSE("op(A) is %lld x %lld, op(B) %lld x %lld, C %lld x %lld", (long long)p->m,
           (long long)p->k, (long long)(tb ? b->cols : b->rows), (long long)p->n,
           (long long)c->rows, (long long)c->cols);
  if (a->batch != c->batch || b->batch != c->batch)
    MISUSE("batches of %d, %d and %d", a->batch, b->batch, c->batch);
  if (c->batch > 1 && c->stride < c->ld * (c->cols - 1) + c->rows) p->batch = -1;
}

static uint32_t power_of_two(uint32_t v, const char *what) {
  if (v == 0 || (v & (v - 1)) != 0) MISUSE("an alignment of %u for %s", v, what);
  return v;
}

cublasStatus_t cublasLtMatmulAlgoGetHeuristic(cublasLtHandle_t lt, cublasLtMatmulDesc_t matmul,
                                              cublasLtMatrixLayout_t la, cublasLtMatrixLayout_t lb,
                                              cublasLtMatrixLayout_t lc, cublasLtMatrixLayout_t ld,
                                              cublasLtMatmulPreference_t pref, int wanted,
                                              cublasLtMatmulHeuristicResult_t *out, int *count) {
  handle *h = as(lt, "the handle");
  const desc *d = as(matmul, "the product's descriptor");
  const layout *a = as(la, "A's layout"), *b = as(lb, "B's layout"), *c = as(lc, "C's layout");
  const preference *p = as(pref, "the preference");
  product shape = {0};
  if (as(ld, "D's layout") != c) MISUSE("C and D differ");
  check_shapes(d, a, b, c, &shape);
  if (p->reduction & (CUBLASLT_REDUCTION_SCHEME_OUTPUT_TYPE | CUBLASLT_REDUCTION_SCHEME_INPLACE))
    MISUSE("sums in the result's type are allowed");
  if (has_bias(d) && d->bias == NULL) MISUSE("a bias whose alignment isn't known");
  *count = 0;
  if (!offers_types(d, a, b, c) || !offers_bias(d, a, c) || !offers_shape(d, a, b, c) ||
      (shape.m + shape.n + shape.k) % 13 == 0) {
    h->unknown++;
    return CUBLAS_STATUS_NOT_SUPPORTED;
  }
  const bool refuses = (shape.m + shape.n) % 3 == 0;
  ticket t = {.check = check_of(d, a, b, c),
              .workspace = shape.k % 2 && p->workspace >= WORKSPACE ? WORKSPACE : 0,
              .align_a = power_of_two(p->align_a, "A"),
              .align_b = power_of_two(p->align_b, "B"),
              .align_c = power_of_two(p->align_c < p->align_d ? p->align_c : p->align_d, "C"),
              .refuses = refuses};
  for (; *count < wanted && *count < 2; ++*count, t.refuses = 0) {
    cublasLtMatmulHeuristicResult_t *r = &out[*count];
    memset(r, 0, sizeof *r);
    memcpy(&r->algo, &t, sizeof t);
    r->workspaceSize = t.workspace;
    r->state = CUBLAS_STATUS_SUCCESS;
  }
  return CUBLAS_STATUS_SUCCESS;
}

/* ---------------------------------------------------------------- the product */

static int dtype_of(cudaDataType_t type) {
  switch (type) {
    case CUDA_R_32F: return DS_F32;
    case CUDA_R_16BF: return DS_BF16;
    case CUDA_R_16F: return DS_F16;
    case CUDA_R_8F_E4M3: return DS_F8E4M3;
    default: return DS_F8E5M2;
  }
}

static void aligned(const void *p, int64_t stride, int dtype, uint32_t to, const char *what) {
  const int64_t bytes = dtype == DS_F32 ? 4 : dtype == DS_BF16 || dtype == DS_F16 ? 2 : 1;
  if (((uintptr_t)p | (uintptr_t)(stride * bytes)) % to != 0)
    MISUSE("%s isn't aligned to the %u bytes that its algorithm was chosen for", what, to);
}

static void count(handle *h, const desc *d, const product *p) {
  h->calls++;
  h->bias += has_bias(d);
  h->relu += p->activation == PRODUCT_RELU;
  h->gelu += p->activation == PRODUCT_GELU;
  h->fp8 += p->dtype_a == DS_F8E4M3 || p->dtype_a == DS_F8E5M2;
  h->half += p->dtype_a == DS_BF16 || p->dtype_a == DS_F16;
  h->batched += p->batch > 1;
}

cublasStatus_t cublasLtMatmul(cublasLtHandle_t lt, cublasLtMatmulDesc_t matmul, const void *alpha,
                              const void *A, cublasLtMatrixLayout_t la, const void *B,
                              cublasLtMatrixLayout_t lb, const void *beta, const void *C,
                              cublasLtMatrixLayout_t lc, void *D, cublasLtMatrixLayout_t ld,
                              const cublasLtMatmulAlgo_t *algo, void *workspace,
                              size_t workspace_bytes, cudaStream_t stream) {
  handle *h = as(lt, "the handle");
  const desc *d = as(matmul, "the product's descriptor");
  const layout *a = as(la, "A's layout"), *b = as(lb, "B's layout"), *c = as(lc, "C's layout");
  ticket t;
  product p = {.a = A, .b = B, .c = C, .d = D, .batch = c->batch};
  if (as(ld, "D's layout") != c || C != D) MISUSE("C and D differ");
  memcpy(&t, algo, sizeof t);
  check_shapes(d, a, b, c, &p);
  if (t.check != check_of(d, a, b, c)) MISUSE("an algorithm for another product");
  if (t.refuses) {
    h->refused++;
    return CUBLAS_STATUS_NOT_SUPPORTED;
  }
  if (p.batch < 0) MISUSE("matrices of C overlap");
  if (t.workspace > 0 &&
      (workspace == NULL || workspace_bytes < t.workspace || (uintptr_t)workspace % 16))
    MISUSE("a workspace of %zu bytes; %u are needed", workspace_bytes, t.workspace);
  p.dtype_a = dtype_of(a->type);
  p.dtype_b = dtype_of(b->type);
  p.dtype_c = dtype_of(c->type);
  p.dtype_bias = d->bias_type == -1 ? p.dtype_c : dtype_of((cudaDataType_t)d->bias_type);
  aligned(A, a->stride, p.dtype_a, t.align_a, "A");
  aligned(B, b->stride, p.dtype_b, t.align_b, "B");
  aligned(C, c->stride, p.dtype_c, t.align_c, "C");
  if (has_bias(d)) aligned(d->bias, 0, p.dtype_bias, 16, "the bias");
  p.bias = has_bias(d) ? d->bias : NULL;
  p.activation = d->epilogue & CUBLASLT_EPILOGUE_RELU   ? PRODUCT_RELU
                 : d->epilogue & CUBLASLT_EPILOGUE_GELU ? PRODUCT_GELU
                                                        : PRODUCT_PLAIN;
  p.trans_a = d->trans_a == CUBLAS_OP_T;
  p.trans_b = d->trans_b == CUBLAS_OP_T;
  p.lda = a->ld;
  p.ldb = b->ld;
  p.ldc = c->ld;
  p.stride_a = a->stride;
  p.stride_b = b->stride;
  p.stride_c = c->stride;
  p.alpha = *(const float *)alpha;
  p.beta = *(const float *)beta;
  p.scale_a = d->scale_a;
  p.scale_b = d->scale_b;
  count(h, d, &p);
  return product_give(stream, &p) == 0 ? CUBLAS_STATUS_SUCCESS : CUBLAS_STATUS_EXECUTION_FAILED;
}
