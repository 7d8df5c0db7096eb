/* isa.h - which instruction set the kernels use. */
#ifndef DS_CPU_ISA_H
#define DS_CPU_ISA_H

/* Ordered: a machine that has one level has all the levels below it. */
enum ds_cpu_isa {
  DS_ISA_BASE = 0,       /* what every machine of the architecture has: SSE2, or NEON on aarch64 */
  DS_ISA_AVX2 = 1,       /* AVX2, FMA, F16C */
  DS_ISA_AVX512 = 2,     /* AVX-512 F, BW, DQ, VL */
  DS_ISA_AVX512_BF16 = 3 /* the same with dot products of bf16 and of bytes (VNNI) */
};

/* The highest level that this build has kernels for and that this processor and operating system
 * run. Always BASE on aarch64. [any-thread] */
int ds_cpu_isa_detect(void);

/* "base", "avx2", "avx512", "avx512_bf16"; NULL for any other value. */
const char *ds_cpu_isa_name(int isa);

#endif
