/* comm_combine.c - the kernel for the device's instruction set. */
#include "comm.h"
#include "isa.h"

static ds_cpu_combine_kernel *kernel_of(int isa) {
  switch (isa) {
#ifdef DS_CPU_HAVE_AVX512_BF16
    case DS_ISA_AVX512_BF16: return ds_cpu_combine_avx512_bf16;
#endif
#ifdef DS_CPU_HAVE_AVX512
    case DS_ISA_AVX512: return ds_cpu_combine_avx512;
#endif
#ifdef DS_CPU_HAVE_AVX2
    case DS_ISA_AVX2: return ds_cpu_combine_avx2;
#endif
    default: return ds_cpu_combine_base;
  }
}

void ds_cpu_combine_run(const ds_stream *s, const ds_cpu_combine *k) {
  if (k->n > 0) kernel_of(s->dev->isa)(k);
}

void ds_cpu_comm_combine(const ds_stream *s, const ds_cpu_work *w, const void *const *part,
                         int parts, void *out, size_t bytes) {
  ds_cpu_combine k = {.out = out,
                      .part = part,
                      .parts = parts,
                      .n = (int64_t)(bytes / ds_cpu_dtype_bytes(w->dtype, 1)),
                      .dtype = w->dtype,
                      .out_dtype = w->dtype,
                      .op = (ds_reduce)w->op,
                      .divisor = parts};
  ds_cpu_combine_run(s, &k);
}
