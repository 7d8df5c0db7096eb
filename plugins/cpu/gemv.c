/* gemv.c - products of a few rows: which they are, and A in the type that the kernels take. */
#include "gemv.h"
#include "bf16.h"
#include "isa.h"

bool ds_cpu_gemv_takes(const ds_gemm *g) {
  bool f16 = g->dtype_a == DS_F16 || g->dtype_b == DS_F16 || g->dtype_c == DS_F16 ||
             (g->bias && g->dtype_bias == DS_F16);
  return g->flags == DS_GEMM_TRANS_B && g->batch == 1 && g->m <= DS_CPU_GEMV_ROWS && !f16;
}

static ds_cpu_gemv_kernel *kernel_of(int isa) {
  switch (isa) {
#ifdef DS_CPU_HAVE_AVX512_BF16
    case DS_ISA_AVX512_BF16: return ds_cpu_gemv_avx512_bf16;
#endif
#ifdef DS_CPU_HAVE_AVX512
    case DS_ISA_AVX512: return ds_cpu_gemv_avx512;
#endif
#ifdef DS_CPU_HAVE_AVX2
    case DS_ISA_AVX2: return ds_cpu_gemv_avx2;
#endif
    default: return ds_cpu_gemv_base;
  }
}

ds_status ds_cpu_gemv_run(ds_stream *s, const ds_gemm *g, ds_error *err) {
  ds_gemm direct = *g;
  bool dots = s->dev->isa == DS_ISA_AVX512_BF16 && g->dtype_b == DS_BF16;
  if (g->dtype_a == DS_BF16 && !dots) {
    size_t bytes = ds_cpu_dtype_bytes(DS_F32, g->m * g->k);
    float *a = ds_cpu_scratch(s, DS_CPU_SCRATCH_CONVERT, bytes, err);
    if (a == NULL) return DS_ERR_MEMORY;
    for (int64_t i = 0; i < g->m; i++)
      for (int64_t p = 0; p < g->k; p++)
        a[i * g->k + p] = ds_cpu_bf16_load(((const uint16_t *)g->a)[i * g->lda + p]);
    direct.a = a;
    direct.lda = g->k;
    direct.dtype_a = DS_F32;
  }
  kernel_of(s->dev->isa)(&direct, s->dev->threads);
  return DS_OK;
}
