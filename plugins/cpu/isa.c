#include "isa.h"

#include <stddef.h>

int ds_cpu_isa_detect(void) {
#if defined(__x86_64__)
  __builtin_cpu_init(); /* the builtins look at XCR0 too: a level counts only if the OS saves it */
  int avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
#if defined(__GNUC__) && !defined(__clang__)
  avx2 = avx2 && __builtin_cpu_supports("f16c");
#endif
  int avx512 = avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
               __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
#ifdef DS_CPU_HAVE_AVX512_BF16
  if (avx512 && __builtin_cpu_supports("avx512bf16") && __builtin_cpu_supports("avx512vnni"))
    return DS_ISA_AVX512_BF16;
#endif
#ifdef DS_CPU_HAVE_AVX512
  if (avx512) return DS_ISA_AVX512;
#endif
#ifdef DS_CPU_HAVE_AVX2
  if (avx2) return DS_ISA_AVX2;
#endif
  (void)avx512;
#endif
  return DS_ISA_BASE;
}

const char *ds_cpu_isa_name(int isa) {
  switch (isa) {
    case DS_ISA_BASE: return "base";
    case DS_ISA_AVX2: return "avx2";
    case DS_ISA_AVX512: return "avx512";
    case DS_ISA_AVX512_BF16: return "avx512_bf16";
    default: return NULL;
  }
}
