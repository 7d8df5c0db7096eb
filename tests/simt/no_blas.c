/* no_blas.c - plugins/gpu/blas.h where there is no vendor's library: all products by own kernels. */
#include "blas.h"

gpu_blas *gpu_blas_open(ds_device *dev, const char **why) {
  (void)dev;
  *why = "the emulation has no vendor's library";
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
  return gpu_fail(err, DS_ERR_INTERNAL, "the emulation has no vendor's library");
}
