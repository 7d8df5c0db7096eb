/* cublaslt.c - blas.h by cublasLt.
 *
 * A row-major matrix is the transpose of a column-major one: C^T = B^T A^T is given to the library, with B first. So the
 * library's m is our n, and its bias, one element a row, is ours.
 *
 * What the library needs to know of a problem - descriptors, and the algorithms that its heuristics name, best first -
 * is kept by problem, so that a call costs one look into a table. The pointers of bias and scales are written into
 * the descriptor at each call: a lock covers that and the launch. */
#include "blas.h"

#include <cublasLt.h>
#include <dlfcn.h>
#include <stdlib.h>
#include <string.h>

#define TEXT_OF(x) #x
#define TEXT(x)    TEXT_OF(x)
#define SONAME     "libcublasLt.so." TEXT(CUBLAS_VER_MAJOR)

const int64_t gpu_blas_pass_depth =
    1280; /* own kernels at 40 %, the library at 70 % of an H100's peak */

enum { SETS = 128, WAYS = 4, CANDIDATES = 4 };

#define CALLS(X)                                                                                   \
  X(Create)                                                                                        \
  X(Destroy)                                                                                       \
  X(Matmul)                                                                                        \
  X(MatmulAlgoGetHeuristic)                                                                        \
  X(MatmulDescCreate)                                                                              \
  X(MatmulDescDestroy)                                                                             \
  X(MatmulDescSetAttribute)                                                                        \
  X(MatmulPreferenceCreate)                                                                        \
  X(MatmulPreferenceDestroy)                                                                       \
  X(MatmulPreferenceSetAttribute)                                                                  \
  X(MatrixLayoutCreate)                                                                            \
  X(MatrixLayoutDestroy)                                                                           \
  X(MatrixLayoutSetAttribute)

typedef struct library {
#define POINTER(call) __typeof__(cublasLt##call) *call;
  CALLS(POINTER)
#undef POINTER
} library;

/* All that the choice of an algorithm hangs on. Without padding: compared and hashed as bytes. */
typedef struct problem {
  int64_t m, n, k, batch, lda, ldb, ldc, stride_a, stride_b, stride_c;
  int32_t dtype_a, dtype_b, dtype_c, dtype_bias;
  uint32_t trans, epilogue; /* DS_GEMM_TRANS_*, cublasLtEpilogue_t */
  uint32_t beta, align_a, align_b, align_c;
} problem;
_Static_assert(sizeof(problem) == 10 * sizeof(int64_t) + 10 * sizeof(int32_t), "no padding");

typedef struct plan {
  bool used;
  problem of;
  cublasLtMatmulDesc_t product;
  cublasLtMatrixLayout_t a, b, c;
  int count, at; /* candidates, and the one that works so far */
  struct {
    cublasLtMatmulAlgo_t algorithm;
    size_t workspace;
  } candidate[CANDIDATES];
} plan;

struct gpu_blas {
  library lt;
  cublasLtHandle_t handle;
  int arch;
  bool tf32;
  size_t workspace;
  pthread_mutex_t lock; /* what follows */
  unsigned evicted;
  plan plans[SETS][WAYS];
};

/* ---------------------------------------------------------------- the library */

static void *find_library(void) {
  static const char *const names[] = {
    SONAME,
#ifdef GPU_CUDA_LIBDIR
    GPU_CUDA_LIBDIR "/" SONAME, /* of the toolkit that the plugin was built with */
#endif
#if CUBLAS_VER_MAJOR == 13
    "libcublasLt.so.12", /* what is used here is the same in both */
#endif
  };
  void *found = NULL;
  for (size_t i = 0; i < sizeof names / sizeof *names && found == NULL; i++)
    found = dlopen(names[i], RTLD_NOW | RTLD_LOCAL);
  return found;
}

static bool find_calls(void *from, library *lt) {
#define FIND(call)                                                                                 \
  {                                                                                                \
    void *at = dlsym(from, "cublasLt" #call);                                                      \
    if (at == NULL) return false;                                                                  \
    memcpy(&lt->call, &at, sizeof at);                                                             \
  }
  CALLS(FIND)
#undef FIND
  return true;
}

gpu_blas *gpu_blas_open(ds_device *dev, const char **why) {
  void *found = find_library();
  gpu_blas *blas = found == NULL ? NULL : calloc(1, sizeof *blas);
  *why = NULL;
  if (found == NULL)
    *why = "cublasLt: " SONAME " not found, products run on own kernels; install cuBLAS (Debian "
           "packages of NVIDIA: libcublas) or put its folder on LD_LIBRARY_PATH";
  else if (blas == NULL)
    *why = "cublasLt: no memory; products run on own kernels";
  else if (!find_calls(found, &blas->lt))
    *why = "cublasLt: " SONAME " lacks a function, products run on own kernels; install cuBLAS "
           "of the CUDA version that the plugin was built with";
  else if (blas->lt.Create(&blas->handle) != CUBLAS_STATUS_SUCCESS)
    *why = "cublasLt: cublasLtCreate failed, products run on own kernels; is there memory left on "
           "the device?";
  if (*why != NULL) {
    free(blas);
    return NULL; /* the library stays loaded: it doesn't like to be unloaded */
  }
  pthread_mutex_init(&blas->lock, NULL);
  blas->arch = dev->arch;
  blas->tf32 = dev->tf32;
  blas->workspace = (size_t)(dev->arch >= 900 ? 32 : 8) << 20; /* NVIDIA's advice */
  return blas;
}

static void forget(const library *lt, plan *p) {
  if (p->product != NULL) (void)lt->MatmulDescDestroy(p->product);
  if (p->a != NULL) (void)lt->MatrixLayoutDestroy(p->a);
  if (p->b != NULL) (void)lt->MatrixLayoutDestroy(p->b);
  if (p->c != NULL) (void)lt->MatrixLayoutDestroy(p->c);
  memset(p, 0, sizeof *p);
}

void gpu_blas_close(gpu_blas *blas) {
  for (int i = 0; i < SETS * WAYS; i++) forget(&blas->lt, &blas->plans[i / WAYS][i % WAYS]);
  (void)blas->lt.Destroy(blas->handle);
  pthread_mutex_destroy(&blas->lock);
  free(blas);
}

/* ---------------------------------------------------------------- what it takes */

static bool fp8(int32_t dtype) {
  return dtype == DS_F8E4M3 || dtype == DS_F8E5M2;
}

static bool takes_types(const gpu_blas *blas, const ds_gemm *g) {
  if (fp8(g->dtype_a) &&
      fp8(g->dtype_b)) /* only as rows times rows, and not both of the wide one */
    return blas->arch >= 890 && (g->flags & DS_GEMM_TRANS_B) && !(g->flags & DS_GEMM_TRANS_A) &&
           (g->dtype_a == DS_F8E4M3 || g->dtype_b == DS_F8E4M3);
  if (g->scale_a != NULL || g->scale_b != NULL || g->dtype_a != g->dtype_b) return false;
  return g->dtype_a == DS_F32 ? g->dtype_c == DS_F32
                              : g->dtype_c == DS_F32 || g->dtype_c == g->dtype_a;
}

/* The type of a bias for the result's. */
static int32_t bias_type(const ds_gemm *g) {
  return fp8(g->dtype_a) && g->dtype_c == DS_F32 ? (int32_t)DS_BF16 : g->dtype_c;
}

/* 0: not the library's. Its formula adds beta C before the activation. Its GELU is left out: NVIDIA doesn't say how exact it
 * is, and an error above a bf16's rounding is more than ds_abi.h allows. */
static uint32_t epilogue_of(const ds_gemm *g) {
  const bool bias = g->bias != NULL;
  if (g->epilogue == DS_EPILOGUE_NONE)
    return bias ? CUBLASLT_EPILOGUE_BIAS : CUBLASLT_EPILOGUE_DEFAULT;
  if (g->beta != 0.0f || g->epilogue != DS_EPILOGUE_RELU) return 0;
  return bias ? CUBLASLT_EPILOGUE_RELU_BIAS : CUBLASLT_EPILOGUE_RELU;
}

bool gpu_blas_takes(const gpu_blas *blas, const ds_gemm *g) {
  return g->k > 0 && takes_types(blas, g) && epilogue_of(g) != 0 && g->batch <= INT32_MAX &&
         g->stride_a >= 0 && g->stride_b >= 0 && g->stride_c >= 0 &&
         (g->bias == NULL || (g->dtype_bias == bias_type(g) && (uintptr_t)g->bias % 16 == 0));
}

/* ---------------------------------------------------------------- plans */

static cudaDataType_t type_of(int32_t dtype) {
  switch (dtype) {
    case DS_F32: return CUDA_R_32F;
    case DS_BF16: return CUDA_R_16BF;
    case DS_F16: return CUDA_R_16F;
    case DS_F8E4M3: return CUDA_R_8F_E4M3;
    default: return CUDA_R_8F_E5M2;
  }
}

static int64_t bytes_of(int32_t dtype) {
  return dtype == DS_F32 ? 4 : fp8(dtype) ? 1 : 2;
}

/* The largest power of two, up to 256, that every matrix's address is a multiple of. */
static uint32_t alignment(const void *p, int64_t stride, int32_t dtype) {
  const uintptr_t bits = (uintptr_t)p | (uintptr_t)(stride * bytes_of(dtype)) | 256;
  return (uint32_t)(bits & (~bits + 1));
}

static problem problem_of(const ds_gemm *g) {
  return (problem){.m = g->m,
                   .n = g->n,
                   .k = g->k,
                   .batch = g->batch,
                   .lda = g->lda,
                   .ldb = g->ldb,
                   .ldc = g->ldc,
                   .stride_a = g->stride_a,
                   .stride_b = g->stride_b,
                   .stride_c = g->stride_c,
                   .dtype_a = g->dtype_a,
                   .dtype_b = g->dtype_b,
                   .dtype_c = g->dtype_c,
                   .dtype_bias = g->bias != NULL ? g->dtype_bias : DS_F32,
                   .trans = g->flags & (DS_GEMM_TRANS_A | DS_GEMM_TRANS_B),
                   .epilogue = epilogue_of(g),
                   .beta = g->beta != 0.0f,
                   .align_a = alignment(g->a, g->stride_a, g->dtype_a),
                   .align_b = alignment(g->b, g->stride_b, g->dtype_b),
                   .align_c = alignment(g->c, g->stride_c, g->dtype_c)};
}

/* FNV-1a, by words. */
static uint64_t hash(const problem *of) {
  uint64_t h = 0xcbf29ce484222325u, word;
  for (size_t i = 0; i < sizeof *of; i += sizeof word) {
    memcpy(&word, (const char *)of + i, sizeof word);
    h = (h ^ word) * 0x100000001b3u;
    h ^= h >> 32;
  }
  return h;
}

/* A row-major matrix of rows of `cols` elements, as the library sees it. */
static bool make_layout(const library *lt, cublasLtMatrixLayout_t *out, int32_t dtype, int64_t rows,
                        int64_t cols, int64_t ld, int64_t batch, int64_t stride) {
  const int32_t count = (int32_t)batch;
  if (lt->MatrixLayoutCreate(out, type_of(dtype), (uint64_t)cols, (uint64_t)rows, ld) !=
      CUBLAS_STATUS_SUCCESS) {
    *out = NULL;
    return false;
  }
  return batch == 1 ||
         (lt->MatrixLayoutSetAttribute(*out, CUBLASLT_MATRIX_LAYOUT_BATCH_COUNT, &count,
                                       sizeof count) == CUBLAS_STATUS_SUCCESS &&
          lt->MatrixLayoutSetAttribute(*out, CUBLASLT_MATRIX_LAYOUT_STRIDED_BATCH_OFFSET, &stride,
                                       sizeof stride) == CUBLAS_STATUS_SUCCESS);
}

static bool make_layouts(const library *lt, plan *p) {
  const problem *of = &p->of;
  const bool ta = of->trans & DS_GEMM_TRANS_A, tb = of->trans & DS_GEMM_TRANS_B;
  return make_layout(lt, &p->a, of->dtype_a, ta ? of->k : of->m, ta ? of->m : of->k, of->lda,
                     of->batch, of->stride_a) &&
         make_layout(lt, &p->b, of->dtype_b, tb ? of->n : of->k, tb ? of->k : of->n, of->ldb,
                     of->batch, of->stride_b) &&
         make_layout(lt, &p->c, of->dtype_c, of->m, of->n, of->ldc, of->batch, of->stride_c);
}

static bool set_product(const library *lt, plan *p, cublasLtMatmulDescAttributes_t what,
                        const void *value, size_t size) {
  return lt->MatmulDescSetAttribute(p->product, what, value, size) == CUBLAS_STATUS_SUCCESS;
}

/* bias: only its being there and its alignment count here. */
static bool make_product(const gpu_blas *blas, plan *p, const void *bias) {
  const problem *of = &p->of;
  const library *lt = &blas->lt;
  const int32_t trans_a = of->trans & DS_GEMM_TRANS_A ? CUBLAS_OP_T : CUBLAS_OP_N;
  const int32_t trans_b = of->trans & DS_GEMM_TRANS_B ? CUBLAS_OP_T : CUBLAS_OP_N;
  const int32_t type = (int32_t)type_of(of->dtype_bias);
  const bool tf32 = of->dtype_a == DS_F32 && blas->tf32;
  if (lt->MatmulDescCreate(&p->product, tf32 ? CUBLAS_COMPUTE_32F_FAST_TF32 : CUBLAS_COMPUTE_32F,
                           CUDA_R_32F) != CUBLAS_STATUS_SUCCESS) {
    p->product = NULL;
    return false;
  }
  return set_product(lt, p, CUBLASLT_MATMUL_DESC_TRANSA, &trans_b, sizeof trans_b) &&
         set_product(lt, p, CUBLASLT_MATMUL_DESC_TRANSB, &trans_a, sizeof trans_a) &&
         set_product(lt, p, CUBLASLT_MATMUL_DESC_EPILOGUE, &of->epilogue, sizeof of->epilogue) &&
         (bias == NULL ||
          (set_product(lt, p, CUBLASLT_MATMUL_DESC_BIAS_POINTER, &bias, sizeof bias) &&
           set_product(lt, p, CUBLASLT_MATMUL_DESC_BIAS_DATA_TYPE, &type, sizeof type)));
}

/* Sums of parts of k are made in f32, never in the result's type. */
static bool make_preference(const gpu_blas *blas, const problem *of,
                            cublasLtMatmulPreference_t *out) {
  const uint32_t reduction = CUBLASLT_REDUCTION_SCHEME_COMPUTE_TYPE;
  const struct {
    cublasLtMatmulPreferenceAttributes_t what;
    const void *value;
    size_t size;
  } all[] = {{CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, &blas->workspace, sizeof blas->workspace},
             {CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK, &reduction, sizeof reduction},
             {CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, &of->align_b, sizeof of->align_b},
             {CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES, &of->align_a, sizeof of->align_a},
             {CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, &of->align_c, sizeof of->align_c},
             {CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES, &of->align_c, sizeof of->align_c}};
  if (blas->lt.MatmulPreferenceCreate(out) != CUBLAS_STATUS_SUCCESS) {
    *out = NULL;
    return false;
  }
  for (size_t i = 0; i < sizeof all / sizeof *all; i++)
    if (blas->lt.MatmulPreferenceSetAttribute(*out, all[i].what, all[i].value, all[i].size) !=
        CUBLAS_STATUS_SUCCESS)
      return false;
  return true;
}

/* The algorithms for p; none where the library has none, which is then remembered. */
static void ask(const gpu_blas *blas, plan *p) {
  cublasLtMatmulHeuristicResult_t found[CANDIDATES];
  cublasLtMatmulPreference_t preference = NULL;
  int count = 0;
  if (!make_preference(blas, &p->of, &preference) ||
      blas->lt.MatmulAlgoGetHeuristic(blas->handle, p->product, p->b, p->a, p->c, p->c, preference,
                                      CANDIDATES, found, &count) != CUBLAS_STATUS_SUCCESS)
    count = 0;
  for (int i = 0; i < count; i++) {
    if (found[i].state != CUBLAS_STATUS_SUCCESS) continue;
    p->candidate[p->count].algorithm = found[i].algo;
    p->candidate[p->count++].workspace = found[i].workspaceSize;
  }
  if (preference != NULL) (void)blas->lt.MatmulPreferenceDestroy(preference);
}

/* The plan for g. One without candidates says: not the library's. */
static plan *find(gpu_blas *blas, const ds_gemm *g) {
  const problem of = problem_of(g);
  plan *set = blas->plans[hash(&of) % SETS], *p = NULL;
  for (int i = 0; i < WAYS; i++) {
    if (set[i].used && memcmp(&set[i].of, &of, sizeof of) == 0) return &set[i];
    if (!set[i].used && p == NULL) p = &set[i];
  }
  if (p == NULL) p = &set[blas->evicted++ % WAYS];
  forget(&blas->lt, p);
  p->used = true;
  p->of = of;
  if (make_product(blas, p, g->bias) && make_layouts(&blas->lt, p)) ask(blas, p);
  return p;
}

/* ---------------------------------------------------------------- the call */

static bool set_pointers(const gpu_blas *blas, plan *p, const ds_gemm *g) {
  const library *lt = &blas->lt;
  return (g->bias == NULL ||
          set_product(lt, p, CUBLASLT_MATMUL_DESC_BIAS_POINTER, &g->bias, sizeof g->bias)) &&
         (!fp8(g->dtype_a) || (set_product(lt, p, CUBLASLT_MATMUL_DESC_A_SCALE_POINTER, &g->scale_b,
                                           sizeof g->scale_b) &&
                               set_product(lt, p, CUBLASLT_MATMUL_DESC_B_SCALE_POINTER, &g->scale_a,
                                           sizeof g->scale_a)));
}

/* The call itself, by the first candidate that the library goes along with. */
static ds_status multiply(gpu_blas *blas, plan *p, ds_stream *s, const ds_gemm *g, ds_error *err) {
  if (p->at < p->count && !set_pointers(blas, p, g)) p->at = p->count;
  for (; p->at < p->count; p->at++) {
    void *workspace = NULL;
    const size_t bytes = p->candidate[p->at].workspace > 0 ? blas->workspace : 0;
    if (bytes > 0) {
      const ds_status st = gpu_scratch(s, GPU_SCRATCH_GEMM, bytes, &workspace, err);
      if (st != DS_OK) return st;
    }
    const cublasStatus_t code = blas->lt.Matmul(
        blas->handle, p->product, &g->alpha, g->b, p->b, g->a, p->a, &g->beta, g->c, p->c, g->c,
        p->c, &p->candidate[p->at].algorithm, workspace, bytes, (cudaStream_t)(void *)s->handle);
    if (code == CUBLAS_STATUS_SUCCESS) return gpu_given(s, gpuSuccess, "gemm (cublasLt)", err);
    if (code == CUBLAS_STATUS_EXECUTION_FAILED || code == CUBLAS_STATUS_INTERNAL_ERROR ||
        code == CUBLAS_STATUS_MAPPING_ERROR) {
      if (s->recording) return DS_ERR_UNSUPPORTED; /* perhaps it can't be recorded */
      (void)gpu_kill(s, DS_ERR_DEVICE, NULL, "gemm: cublasLt failed with status %d", (int)code);
      return gpu_ready(s, err);
    }
  }
  return DS_ERR_UNSUPPORTED;
}

ds_status gpu_blas_run(gpu_blas *blas, ds_stream *s, const ds_gemm *g, ds_error *err) {
  pthread_mutex_lock(&blas->lock);
  const ds_status st = multiply(blas, find(blas, g), s, g, err);
  pthread_mutex_unlock(&blas->lock);
  return st;
}
