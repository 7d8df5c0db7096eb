#include "bench_kernels.h"

#include <stdint.h>

#if defined(__x86_64__)
#include <immintrin.h>
#elif defined(__aarch64__)
#include <arm_neon.h>
#endif

enum { ROUNDS = 4096 };

/* Results go here, so that no loop is left out. */
static volatile float float_sink;
static volatile uint64_t int_sink;

/* COUNT independent chains of STEP hide its latency; COUNT + 2 registers hold them. `lanes` is the
 * operations of one STEP. */
#define PEAK_KERNEL(name, attributes, vector, operand, count, zero, value, STEP, FIRST, lanes)     \
  attributes static double name(void) {                                                            \
    vector acc[count];                                                                             \
    operand a = value, b = value;                                                                  \
    for (int i = 0; i < count; i++) acc[i] = zero;                                                 \
    for (int r = 0; r < ROUNDS; r++) {                                                             \
      _Pragma("GCC unroll 16") for (int i = 0; i < count; i++) acc[i] = STEP(acc[i], a, b);        \
    }                                                                                              \
    float sum = 0;                                                                                 \
    for (int i = 0; i < count; i++) sum += FIRST(acc[i]);                                          \
    float_sink = sum;                                                                              \
    return (double)ROUNDS * (count) * (lanes);                                                     \
  }

/* Eight 64-byte streams of xor; whatever the machine's registers, the compiler cuts them to fit. */
typedef uint64_t block __attribute__((vector_size(64), may_alias));

#define READ_KERNEL(name, attributes)                                                              \
  attributes static void name(const void *data, size_t bytes) {                                    \
    const block *p = data;                                                                         \
    size_t n = bytes / sizeof *p, i = 0;                                                           \
    block x0 = {0}, x1 = {0}, x2 = {0}, x3 = {0};                                                  \
    for (; i + 4 <= n; i += 4) x0 ^= p[i], x1 ^= p[i + 1], x2 ^= p[i + 2], x3 ^= p[i + 3];         \
    for (; i < n; i++) x0 ^= p[i];                                                                 \
    x0 ^= x1 ^ x2 ^ x3;                                                                            \
    int_sink = x0[0] ^ x0[1] ^ x0[2] ^ x0[3] ^ x0[4] ^ x0[5] ^ x0[6] ^ x0[7];                      \
  }

#define NO_ATTRIBUTES

READ_KERNEL(read_base, NO_ATTRIBUTES)

#if defined(__x86_64__)

#define SSE_STEP(c, a, b)    _mm_add_ps(c, _mm_mul_ps(a, b))
#define AVX2_STEP(c, a, b)   _mm256_fmadd_ps(a, b, c)
#define AVX512_STEP(c, a, b) _mm512_fmadd_ps(a, b, c)
#define AVX512_FIRST(v)      _mm512_cvtss_f32(v)
PEAK_KERNEL(peak_base, NO_ATTRIBUTES, __m128, __m128, 8, _mm_setzero_ps(), _mm_set1_ps(0.25f),
            SSE_STEP, _mm_cvtss_f32, 8)
PEAK_KERNEL(peak_avx2, __attribute__((target("avx2,fma"))), __m256, __m256, 12, _mm256_setzero_ps(),
            _mm256_set1_ps(0.25f), AVX2_STEP, _mm256_cvtss_f32, 16)
PEAK_KERNEL(peak_avx512, __attribute__((target("avx512f"))), __m512, __m512, 16,
            _mm512_setzero_ps(), _mm512_set1_ps(0.25f), AVX512_STEP, AVX512_FIRST, 32)
READ_KERNEL(read_avx2, __attribute__((target("avx2"))))
READ_KERNEL(read_avx512, __attribute__((target("avx512f"))))

#if defined(__GNUC__) && __GNUC__ >= 10
#define HAVE_BF16_DOTS
#define BF16_STEP(c, a, b) _mm512_dpbf16_ps(c, a, b)
/* 0x3e80 is 0.25 */
PEAK_KERNEL(peak_bf16, __attribute__((target("avx512f,avx512bf16"))), __m512, __m512bh, 16,
            _mm512_setzero_ps(), (__m512bh)_mm512_set1_epi16(0x3e80), BF16_STEP, AVX512_FIRST, 64)
#endif

bench_kernels bench_kernels_choose(void) {
  bench_kernels k = {"sse2", peak_base, NULL, read_base};
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"))
    k = (bench_kernels){"avx2", peak_avx2, NULL, read_avx2};
  if (__builtin_cpu_supports("avx512f"))
    k = (bench_kernels){"avx512", peak_avx512, NULL, read_avx512};
#ifdef HAVE_BF16_DOTS
  if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bf16")) k.bf16 = peak_bf16;
#endif
  return k;
}

#elif defined(__aarch64__)

#define NEON_STEP(c, a, b) vfmaq_f32(c, a, b)
#define NEON_FIRST(v)      vgetq_lane_f32(v, 0)
PEAK_KERNEL(peak_base, NO_ATTRIBUTES, float32x4_t, float32x4_t, 16, vdupq_n_f32(0),
            vdupq_n_f32(0.25f), NEON_STEP, NEON_FIRST, 8)

bench_kernels bench_kernels_choose(void) {
  return (bench_kernels){"neon", peak_base, NULL, read_base};
}

#else

#define PLAIN_STEP(c, a, b) ((c) + (a) * (b))
#define PLAIN_FIRST(v)      (v)
PEAK_KERNEL(peak_base, NO_ATTRIBUTES, float, float, 8, 0.0f, 0.25f, PLAIN_STEP, PLAIN_FIRST, 2)

bench_kernels bench_kernels_choose(void) {
  return (bench_kernels){"plain C", peak_base, NULL, read_base};
}

#endif
