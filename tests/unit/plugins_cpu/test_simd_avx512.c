/* The vector layer for AVX-512 F, BW, DQ and VL. Skipped (77) where the machine or the compiler has
 * none. */
#include "test.h"

static void simd_cases(void);

int main(void) {
#if defined(__x86_64__) && !defined(__clang__)
  __builtin_cpu_init();
  if (!(__builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq") &&
        __builtin_cpu_supports("avx512vl")))
    return 77;
  simd_cases();
  return TEST_RESULT();
#else
  (void)simd_cases; /* other compilers can't change the instruction set within a file */
  return 77;
#endif
}

#if defined(__x86_64__) && !defined(__clang__)
#include <stdint.h>
#pragma GCC target("avx2,fma,f16c,avx512f,avx512bw,avx512dq,avx512vl")
#endif
#include "simd_cases.h"
