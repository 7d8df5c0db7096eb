/* rocblas.c - blas.h by rocBLAS, through prototypes of our own: its headers aren't needed to build.
 *
 * A row-major matrix is the transpose of a column-major one: C^T = B^T A^T is given to the library, with B first.
 *
 * rocBLAS multiplies and no more: epilogues are gemm.c's.
 *
 * A device has one handle, and the handle one workspace, which before ROCm 7.1 isn't guarded where the stream changes. So
 * each call gives it the stream's own. */
#include "blas.h"

#include <dlfcn.h>
#include <stdlib.h>
#include <string.h>

const int64_t gpu_blas_pass_depth = 256; /* own kernels at 30 %, the library at 75 % of the peak */

/* As in rocblas-types.h. */
enum {
  ROCBLAS_NONE = 111,
  ROCBLAS_TRANSPOSE = 112,
  ROCBLAS_F16 = 150,
  ROCBLAS_F32 = 151,
  ROCBLAS_BF16 = 168,
  ROCBLAS_ALGO_STANDARD = 0,
  ROCBLAS_ATOMICS_NOT_ALLOWED = 0,
  ROCBLAS_SUCCESS = 0,
  ROCBLAS_INTERNAL_ERROR = 6,
  ROCBLAS_PERF_DEGRADED = 7 /* done, for want of workspace not in the fastest way */
};

enum { WORKSPACE = 32 << 20 }; /* rocBLAS's own choice */

typedef int gemm_strided_batched_ex(void *handle, int trans_a, int trans_b, int32_t m, int32_t n,
                                    int32_t k, const void *alpha, const void *a, int type_a,
                                    int32_t lda, int64_t stride_a, const void *b, int type_b,
                                    int32_t ldb, int64_t stride_b, const void *beta, const void *c,
                                    int type_c, int32_t ldc, int64_t stride_c, void *d, int type_d,
                                    int32_t ldd, int64_t stride_d, int32_t batch, int compute_type,
                                    int algo, int32_t solution, uint32_t flags);

struct gpu_blas {
  int (*create_handle)(void **handle);
  int (*destroy_handle)(void *handle);
  int (*set_stream)(void *handle, gpuStream_t stream);
  int (*set_atomics_mode)(void *handle, int mode);
  int (*set_workspace)(void *handle, void *memory, size_t bytes);
  gemm_strided_batched_ex *gemm;
  void *handle;
  pthread_mutex_t lock; /* a handle has one stream and one workspace at a time */
};

static bool find_calls(void *from, gpu_blas *blas) {
  const struct {
    const char *name;
    void *to;
  } all[] = {{"rocblas_create_handle", &blas->create_handle},
             {"rocblas_destroy_handle", &blas->destroy_handle},
             {"rocblas_set_stream", &blas->set_stream},
             {"rocblas_set_atomics_mode", &blas->set_atomics_mode},
             {"rocblas_set_workspace", &blas->set_workspace},
             {"rocblas_gemm_strided_batched_ex", &blas->gemm}};
  for (size_t i = 0; i < sizeof all / sizeof *all; i++) {
    void *at = dlsym(from, all[i].name);
    if (at == NULL) return false;
    memcpy(all[i].to, &at, sizeof at);
  }
  return true;
}

gpu_blas *gpu_blas_open(ds_device *dev, const char **why) {
  static const char *const names[] = {"librocblas.so.5", "librocblas.so.4", "librocblas.so.3",
                                      "librocblas.so.0"};
  void *found = NULL;
  (void)dev;
  for (size_t i = 0; i < sizeof names / sizeof *names && found == NULL; i++)
    found = dlopen(names[i], RTLD_NOW | RTLD_LOCAL);
  gpu_blas *blas = found == NULL ? NULL : calloc(1, sizeof *blas);
  *why = NULL;
  if (found == NULL)
    *why = "rocBLAS: librocblas.so.5, .4, .3 or .0 not found, products run on own kernels; install "
           "rocblas from AMD's ROCm packages or put its folder on LD_LIBRARY_PATH";
  else if (blas == NULL)
    *why = "rocBLAS: no memory; products run on own kernels";
  else if (!find_calls(found, blas))
    *why = "rocBLAS: a function is missing, products run on own kernels; install ROCm 5 or newer";
  else if (blas->create_handle(&blas->handle) != ROCBLAS_SUCCESS)
    *why = "rocBLAS: rocblas_create_handle failed, products run on own kernels; is there memory "
           "left on the device?";
  else if (blas->set_atomics_mode(blas->handle, ROCBLAS_ATOMICS_NOT_ALLOWED) != ROCBLAS_SUCCESS)
    *why = "rocBLAS: sums in a fixed order were refused; products run on own kernels";
  if (*why != NULL) {
    if (blas != NULL && blas->handle != NULL) (void)blas->destroy_handle(blas->handle);
    free(blas);
    return NULL;
  }
  pthread_mutex_init(&blas->lock, NULL);
  return blas;
}

void gpu_blas_close(gpu_blas *blas) {
  (void)blas->destroy_handle(blas->handle);
  pthread_mutex_destroy(&blas->lock);
  free(blas);
}

static bool plain(const ds_gemm *g) {
  return g->bias == NULL && g->epilogue == DS_EPILOGUE_NONE && g->scale_a == NULL &&
         g->scale_b == NULL;
}

static bool small(int64_t v) {
  return v >= 0 && v <= INT32_MAX;
}

bool gpu_blas_takes(const gpu_blas *blas, const ds_gemm *g) {
  (void)blas;
  const bool types =
      g->dtype_a == g->dtype_b &&
      (g->dtype_a == DS_F32 ? g->dtype_c == DS_F32
                            : (g->dtype_a == DS_BF16 || g->dtype_a == DS_F16) &&
                                  (g->dtype_c == g->dtype_a || g->dtype_c == DS_F32));
  return types && g->k > 0 && plain(g) && small(g->m) && small(g->n) && small(g->k) &&
         small(g->lda) && small(g->ldb) && small(g->ldc) && small(g->batch) &&
         (g->batch == 1 || (g->stride_a > 0 && g->stride_b > 0 && g->stride_c > 0));
}

static int type_of(int32_t dtype) {
  return dtype == DS_F32 ? ROCBLAS_F32 : dtype == DS_BF16 ? ROCBLAS_BF16 : ROCBLAS_F16;
}

ds_status gpu_blas_run(gpu_blas *blas, ds_stream *s, const ds_gemm *g, ds_error *err) {
  const int type = type_of(g->dtype_a), type_c = type_of(g->dtype_c);
  void *workspace = NULL;
  const ds_status st = gpu_scratch(s, GPU_SCRATCH_GEMM, WORKSPACE, &workspace, err);
  if (st != DS_OK) return st;
  pthread_mutex_lock(&blas->lock);
  int code = blas->set_stream(blas->handle, s->handle);
  if (code == ROCBLAS_SUCCESS) code = blas->set_workspace(blas->handle, workspace, WORKSPACE);
  if (code == ROCBLAS_SUCCESS)
    code = blas->gemm(blas->handle, g->flags & DS_GEMM_TRANS_B ? ROCBLAS_TRANSPOSE : ROCBLAS_NONE,
                      g->flags & DS_GEMM_TRANS_A ? ROCBLAS_TRANSPOSE : ROCBLAS_NONE, (int32_t)g->n,
                      (int32_t)g->m, (int32_t)g->k, &g->alpha, g->b, type, (int32_t)g->ldb,
                      g->stride_b, g->a, type, (int32_t)g->lda, g->stride_a, &g->beta, g->c, type_c,
                      (int32_t)g->ldc, g->stride_c, g->c, type_c, (int32_t)g->ldc, g->stride_c,
                      (int32_t)g->batch, ROCBLAS_F32, ROCBLAS_ALGO_STANDARD, 0, 0);
  pthread_mutex_unlock(&blas->lock);
  if (code == ROCBLAS_SUCCESS || code == ROCBLAS_PERF_DEGRADED)
    return gpu_given(s, gpuSuccess, "gemm (rocBLAS)", err);
  if (code != ROCBLAS_INTERNAL_ERROR || s->recording) /* perhaps it can't be recorded */
    return DS_ERR_UNSUPPORTED;
  (void)gpu_kill(s, DS_ERR_DEVICE, NULL, "gemm: rocBLAS failed with status %d", code);
  return gpu_ready(s, err);
}
