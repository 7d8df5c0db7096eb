/* blas.h - products by the vendor's library: cublasLt in plugins/cuda, rocBLAS in plugins/rocm, none in tests/simt.
 *
 * The library is opened at run time, when a device makes its first product, and only then. */
#ifndef DS_GPU_BLAS_H
#define DS_GPU_BLAS_H

#include "gpu.h"
#include "kernels/gemm.h"

/* NULL where the library isn't there: *why is then a static string that says which and how to get it (which is logged), or
 * NULL where the plugin was built without one. Gives up memory by gpu_blas_close. The device is current. */
gpu_blas *gpu_blas_open(ds_device *dev, const char **why);
void gpu_blas_close(gpu_blas *blas);
/* Whether run takes it; what it doesn't take goes to own kernels (kernels/gemm.h). [any-thread] */
bool gpu_blas_takes(const gpu_blas *blas, const ds_gemm *g);
/* g was checked, is complete (without DS_GEMM_SCALES the scales are NULL, without a batch the strides 0), and is not empty.
 * May use gpu_scratch(GPU_SCRATCH_GEMM). DS_ERR_UNSUPPORTED, with err left alone, where the library turned out not to
 * take it after all: own kernels then do. [per-stream] */
ds_status gpu_blas_run(gpu_blas *blas, ds_stream *s, const ds_gemm *g, ds_error *err);

/* Where the library lacks an epilogue: with a k of at least this it makes the sums in f32, and a pass over C the rest; with
 * less, own kernels are faster. An estimate: the pass moves some eight bytes an element, and what own kernels lose to the
 * library are 2k operations. */
extern const int64_t gpu_blas_pass_depth;

#endif
