/* bench_kernels.h - loops that do nothing but multiply-adds, or nothing but reads, in the widest
 * instructions that this machine has. Chosen at run time. */
#ifndef DS_CLI_BENCH_KERNELS_H
#define DS_CLI_BENCH_KERNELS_H

#include <stddef.h>

/* Some microseconds of arithmetic; returns how many operations (a multiply-add is two). */
typedef double bench_peak_fn(void);
/* Reads all of it. */
typedef void bench_read_fn(const void *data, size_t bytes);

typedef struct bench_kernels {
  const char *name; /* of the instruction set */
  bench_peak_fn *f32;
  bench_peak_fn *bf16; /* dot products of pairs of bf16 into f32; NULL where there is none */
  bench_read_fn *read;
} bench_kernels;

bench_kernels bench_kernels_choose(void);

#endif
