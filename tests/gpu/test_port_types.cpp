/* test_port_types.cpp - the conversions of plugins/gpu/kernels/port_types.h in bits, which run here, against the formats'
 * definitions: every pattern to float, and to every pattern all that lies next to a decision. */
#define GPU_DEVICE static inline
#include "port_types.h"

#include "../unit/test.h"

#ifdef HAVE_FLOAT16
extern "C" uint16_t float16_from(float x); /* float16.c */
extern "C" float float16_to(uint16_t bits);
#endif

namespace {

/* A format by its definition. `top`: the code of its largest number. */
struct format {
  int fraction, exponent, bias;
  int top, infinity; /* infinity: its code, -1: none */
  bool saturates;
};
const format bf16 = {7, 8, 127, 0x7f7f, 0x7f80, false};
const format f16 = {10, 5, 15, 0x7bff, 0x7c00, false};
const format f8e4m3 = {3, 4, 7, 0x7e, -1, true};
const format f8e5m2 = {2, 5, 15, 0x7b, 0x7c, true};

int sign_of(const format &f) {
  return 1 << (f.fraction + f.exponent);
}

double value(const format &f, int code) {
  const int e = code >> f.fraction & ((1 << f.exponent) - 1), m = code & ((1 << f.fraction) - 1);
  const double sign = code & sign_of(f) ? -1 : 1, fraction = ldexp(m, -f.fraction);
  const int size = code & (sign_of(f) - 1);
  if (size == f.infinity) return sign * (double)INFINITY;
  if (size > f.top) return (double)NAN;
  return sign * (e == 0 ? ldexp(fraction, 1 - f.bias) : ldexp(1 + fraction, e - f.bias));
}

/* The code nearest to x, which lies between the numbers of `low` and `low` + 1. */
int nearest(const format &f, int low, double x) {
  const double below = x - value(f, low), above = value(f, low + 1) - x;
  if (below == above) return low % 2 == 0 ? low : low + 1;
  return below < above ? low : low + 1;
}

template <typename T> void check_from(float x, int want, const format &f) {
  const int sign = sign_of(f);
  const int got = gpu_from<T>(x).bits, negative = gpu_from<T>(-x).bits;
  if (got != want || negative != (want | sign))
    fprintf(stderr, "%.9g gives 0x%x, its negative 0x%x, not 0x%x\n", (double)x, got, negative,
            want);
  CHECK(got == want && negative == (want | sign));
}

/* x and the floats next to it, all between the numbers of `low` and `low` + 1. */
template <typename T> void check_around(const format &f, int low, float x) {
  const float near[] = {nextafterf(x, 0), x, nextafterf(x, INFINITY)};
  for (float v : near)
    if ((double)v >= value(f, low) && (double)v <= value(f, low + 1))
      check_from<T>(v, nearest(f, low, (double)v), f);
}

template <typename T> void check_format(const format &f) {
  for (int code = 0; code < 2 * sign_of(f); code++) {
    T stored;
    stored.bits = (decltype(stored.bits))code;
    const double want = value(f, code), got = (double)gpu_f32(stored);
    CHECK(isnan(want) ? isnan(got) : want == got && signbit(want) == signbit(got));
    CHECK(isnan(want) ? isnan(gpu_f32(gpu_from<T>((float)got)))
                      : gpu_from<T>((float)got).bits == code || (f.saturates && isinf(want)));
  }
  for (int code = 0; code < f.top; code++) {
    const double middle = 0.5 * (value(f, code) + value(f, code + 1));
    if (middle >= ldexp(1, -149)) check_around<T>(f, code, (float)middle);
    check_around<T>(f, code, (float)value(f, code));
    check_around<T>(f, code, (float)value(f, code + 1));
  }
  /* Past the largest: by half a step it is still the largest, then as the format says. */
  const double top = value(f, f.top), half = 0.5 * (top - value(f, f.top - 1));
  const int over = f.saturates ? f.top : f.infinity;
  check_from<T>(nextafterf((float)(top + half), 0), f.top, f);
  check_from<T>((float)(top + half), over, f); /* the largest is odd, but e4m3's, which saturates */
  check_from<T>(nextafterf((float)(top + half), INFINITY), over, f);
  check_from<T>((float)(1.5 * top < 3.4e38 ? 1.5 * top : 3.4028234e38), over, f);
  check_from<T>(3.4028234e38f, over, f);
  check_from<T>(INFINITY, over, f);
  check_from<T>(ldexpf(1, -149), nearest(f, 0, ldexp(1, -149)), f);
  CHECK(isnan(gpu_f32(gpu_from<T>(NAN))) && isnan(gpu_f32(gpu_from<T>(-NAN))));
  CHECK(isnan(gpu_f32(gpu_from<T>(gpu_float(0x7f800001u))))); /* NaN in the last bit alone */
}

#ifdef HAVE_FLOAT16
/* The compiler's own half: one of every 251 floats. */
void check_compilers_half() {
  int wrong = 0;
  for (uint64_t u = 0; u < 1ull << 32; u += 251) {
    const float x = gpu_float((uint32_t)u);
    if (x != x) continue;
    wrong += float16_from(x) != gpu_from<gpu_f16>(x).bits;
  }
  for (int code = 0; code < 0x10000; code++) {
    const float a = float16_to((uint16_t)code), b = gpu_f32(gpu_f16{(uint16_t)code});
    wrong += a != a ? b == b : a != b;
  }
  CHECK(wrong == 0);
}
#endif

} // namespace

int main() {
  check_format<gpu_bf16>(bf16);
  check_format<gpu_f16>(f16);
  check_format<gpu_f8e4m3>(f8e4m3);
  check_format<gpu_f8e5m2>(f8e5m2);
#ifdef HAVE_FLOAT16
  check_compilers_half();
#endif
  return test_result();
}
