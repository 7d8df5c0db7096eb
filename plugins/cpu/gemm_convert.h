/* gemm_convert.h - products that no library routine takes as they are.
 *
 * g is checked, with m, n, batch > 0. [per-stream]
 */
#ifndef DS_CPU_GEMM_CONVERT_H
#define DS_CPU_GEMM_CONVERT_H

#include "cpu.h"

/* Any mix of f32, bf16 and f16, by way of f32 tiles in scratch. k > 0 and alpha != 0. */
ds_status ds_cpu_gemm_convert_run(ds_stream *s, const ds_gemm *g, ds_error *err);

/* The case without a product, k = 0 or alpha = 0: C = epilogue(bias) + beta * C. */
ds_status ds_cpu_gemm_bias_only(ds_stream *s, const ds_gemm *g, ds_error *err);

/* One value through an epilogue (enum ds_epilogue). */
float ds_cpu_epilogue(int32_t epilogue, float x);

#endif
