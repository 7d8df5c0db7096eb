/* no_blas.c - blas.h where there was no vendor's library to build for: all products by own kernels. */
#include "blas.h"

const int64_t gpu_blas_pass_depth = 0;

gpu_blas *gpu_blas_open(ds_device *dev, const char **why) {
  (void)dev;
  *why = NULL;
  return NULL;
}

void gpu_blas_close(gpu_blas *blas) {
  (void)blas;
}

bool gpu_blas_takes(const gpu_blas *blas, const ds_gemm *g) {
  (void)blas;
  (void)g;
  return false;
}

ds_status gpu_blas_run(gpu_blas *blas, ds_stream *s, const ds_gemm *g, ds_error *err) {
  (void)blas;
  (void)s;
  (void)g;
  (void)err;
  return DS_ERR_UNSUPPORTED;
}
