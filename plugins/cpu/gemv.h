/* gemv.h - products of a few rows with B stored [n,k], as decoding has them: B is read once, at the
 * speed of memory. */
#ifndef DS_CPU_GEMV_H
#define DS_CPU_GEMV_H

#include "cpu.h"

/* Whether ds_cpu_gemv_run is the way for this product. [any-thread] */
bool ds_cpu_gemv_takes(const ds_gemm *g);

/* g is checked, not empty, k > 0. [per-stream] */
ds_status ds_cpu_gemv_run(ds_stream *s, const ds_gemm *g, ds_error *err);

/* ---- the kernels, one per instruction set: kernels/gemv_kernel.c. A is f32, or bf16 where B is
 * bf16 too and the set has dot products of them (_avx512_bf16). At most DS_CPU_GEMV_ROWS rows. */
enum { DS_CPU_GEMV_ROWS = 8 };
typedef void ds_cpu_gemv_kernel(const ds_gemm *g, int threads);
ds_cpu_gemv_kernel ds_cpu_gemv_base, ds_cpu_gemv_avx2, ds_cpu_gemv_avx512, ds_cpu_gemv_avx512_bf16;

#endif
