/* simd_cases.h - the tests of plugins/cpu/kernels/simd.h, for the instruction set that the file
 * including it is compiled for. Reference: libm in f64. */
#include "../../../plugins/cpu/kernels/simd.h"

#define NAN_    __builtin_nanf("")
#define INF     __builtin_inff()
#define VECTORS (1 << 16) /* per function */

typedef vf vector_fn(vf x);
typedef double scalar_fn(double x);

static double sigmoid64(double x) {
  return 1 / (1 + exp(-x));
}

static double normal_cdf64(double x) {
  return 0.5 * erfc(-x * 0.70710678118654752);
}

/* The worst |f(x) - reference| / max(|reference|, floor) over [lo,hi]. */
static double worst(vector_fn *f, scalar_fn *reference, double lo, double hi, double floor_) {
  double most = 0;
  for (int i = 0; i < VECTORS; i++) {
    vf x, y;
    for (int k = 0; k < VL; k++) x[k] = (float)(lo + (hi - lo) * (i * VL + k) / (VECTORS * VL - 1));
    y = f(x);
    for (int k = 0; k < VL; k++) {
      const double want = reference((double)x[k]);
      const double error = fabs((double)y[k] - want) / fmax(fabs(want), floor_);
      if (!(error <= most)) most = error;
    }
  }
  return most;
}

static vf exp_of(vf x) {
  return vexp(x);
}

static vf tanh_of(vf x) {
  return vtanh(x);
}

static vf sigmoid_of(vf x) {
  return vsigmoid(x);
}

static vf erf_of(vf x) {
  return verf(x);
}

static vf cdf_of(vf x) {
  return vnormal_cdf(x);
}

static void functions_are_accurate(void) {
  CHECK(worst(exp_of, exp, -87.3, 88.7, 0) < 1.5e-7);
  CHECK(worst(exp_of, exp, -0.01, 0.01, 0) < 1.2e-7);
  CHECK(worst(exp_of, exp, -104, -87, 0x1p-126) < 1.5e-7); /* gradual underflow */
  CHECK(worst(tanh_of, tanh, -12, 12, 0) < 2e-7);
  CHECK(worst(tanh_of, tanh, -1e-3, 1e-3, 1e-30) < 2e-7);
  CHECK(worst(sigmoid_of, sigmoid64, -80, 80, 0) < 2.5e-7);
  CHECK(worst(erf_of, erf, -6, 6, 0) < 2e-7);
  CHECK(worst(erf_of, erf, -1e-3, 1e-3, 1e-30) < 2e-7);
  CHECK(worst(cdf_of, normal_cdf64, -1, 8, 0) < 3e-7);
  CHECK(worst(cdf_of, normal_cdf64, -3, -1, 0) < 2e-6); /* the tail, still relative */
  CHECK(worst(cdf_of, normal_cdf64, -12, -3, 1e-3) < 2e-6);
}

static float at_one(vector_fn *f, float x) {
  return f(vset(x))[VL - 1];
}

static void functions_are_right_at_the_ends(void) {
  CHECK(at_one(exp_of, 0) == 1);
  CHECK(at_one(exp_of, -INF) == 0);
  CHECK(at_one(exp_of, -150) == 0);
  CHECK(at_one(exp_of, INF) == INF);
  CHECK(at_one(exp_of, 88.8f) == INF);
  CHECK(isnan(at_one(exp_of, NAN_)));
  CHECK(at_one(tanh_of, 0) == 0);
  CHECK(at_one(tanh_of, INF) == 1);
  CHECK(at_one(tanh_of, -INF) == -1);
  CHECK(at_one(tanh_of, 1e-40f) == 1e-40f);
  CHECK(isnan(at_one(tanh_of, NAN_)));
  CHECK(at_one(sigmoid_of, INF) == 1);
  CHECK(at_one(sigmoid_of, -INF) == 0);
  CHECK(isnan(at_one(sigmoid_of, NAN_)));
  CHECK(at_one(erf_of, INF) == 1);
  CHECK(at_one(erf_of, -30) == -1);
  CHECK(isnan(at_one(erf_of, NAN_)));
  CHECK(at_one(cdf_of, INF) == 1);
  CHECK(at_one(cdf_of, -INF) == 0);
  CHECK(isnan(at_one(cdf_of, NAN_)));
}

static float float_of(uint32_t bits) {
  float x;
  memcpy(&x, &bits, sizeof x);
  return x;
}

static uint16_t to_half(float x, int dt) {
  uint16_t h;
  st1(&h, 0, dt, x);
  return h;
}

/* x rounded to nearest even with `bits` of fraction and exponents from `least` on; INF beyond
 * limit. */
static double round_to(double x, int bits, int least, double limit) {
  int e;
  if (x == 0 || isinf(x)) return x;
  frexp(x, &e);
  const int ulp = (e - 1 < least ? least : e - 1) - bits;
  const double r = ldexp(nearbyint(ldexp(x, -ulp)), ulp);
  return fabs(r) > limit ? copysign(HUGE_VAL, x) : r;
}

/* Every value of a 16-bit type comes back as it was, and values between two round as they should.
 */
static void halves_convert(int dt, int bits, int least, double limit) {
  int bad = 0;
  for (uint32_t h = 0; h < 0x10000; h++) {
    const uint16_t in = (uint16_t)h;
    const float x = ld1(&in, 0, dt);
    if (isnan(x))
      bad += !isnan(ld1(&(uint16_t){to_half(x, dt)}, 0, dt));
    else
      bad += to_half(x, dt) != in || (double)x != round_to((double)x, bits, least, limit);
  }
  CHECK(bad == 0);
  uint32_t seed = 12345;
  for (int i = 0; i < 400000; i++) {
    seed = seed * 1664525u + 1013904223u;
    const uint32_t ties = seed & 0xffff0000u; /* many lie half way between two */
    const float x = float_of(i % 2 ? seed : dt == DS_F16 ? ties >> 4 << 1 | 0x1000 : ties | 0x8000);
    if (isnan(x)) continue;
    const float y = ld1(&(uint16_t){to_half(x, dt)}, 0, dt);
    bad += (double)y != round_to((double)x, bits, least, limit);
  }
  CHECK(bad == 0);
  CHECK(isnan(ld1(&(uint16_t){to_half(float_of(0x7f800001u), dt)}, 0, dt)));
  CHECK(isnan(ld1(&(uint16_t){to_half(float_of(0xffffffffu), dt)}, 0, dt)));
  CHECK(ld1(&(uint16_t){to_half(-INF, dt)}, 0, dt) == -INF);
}

static void tails_stay_inside(int dt) {
  const int64_t size = dtype_size(dt);
  for (int n = 1; n <= VL; n++) {
    unsigned char in[4 * VL], out[4 * VL];
    for (int k = 0; k < VL; k++) st1(in, k, dt, (float)(k + 1));
    memset(out, 0xa5, sizeof out);
    const vf v = ld(in, 0, n, dt);
    st(out, 0, n, dt, v);
    for (int k = 0; k < VL; k++) CHECK(v[k] == (k < n ? (float)(k + 1) : 0.0f));
    CHECK(memcmp(in, out, (size_t)(n * size)) == 0);
    for (size_t k = (size_t)(n * size); k < sizeof out; k++) CHECK(out[k] == 0xa5);
  }
}

static void lanes_combine(void) {
  vf v;
  for (int k = 0; k < VL; k++) v[k] = (float)(k + 1);
  CHECK(vhsum(v) == VL * (VL + 1) / 2);
  CHECK(vhmax(v) == VL);
  CHECK(vhsumd(vwiden_sum(v)) == VL * (VL + 1) / 2);
  CHECK(vhsumd(vwiden_squares(v)) == VL * (VL + 1) * (2 * VL + 1) / 6);
  CHECK(vhsum(vfirst(v, 2)) == 3);
  v[1] = NAN_;
  CHECK(vhmax(v) == VL);
  CHECK(vmax(vset(NAN_), vset(2))[0] == 2);
  CHECK(isnan(vmax(vset(2), vset(NAN_))[0]));
  CHECK(vmin(vset(NAN_), vset(2))[0] == 2);
  CHECK(isnan(vmin(vset(2), vset(NAN_))[0]));
  CHECK(vsqrt(vset(2.25f))[VL - 1] == 1.5f);
}

static void simd_cases(void) {
  functions_are_accurate();
  functions_are_right_at_the_ends();
  halves_convert(DS_BF16, 7, -126, 3.3895313892515355e38);
  halves_convert(DS_F16, 10, -14, 65504);
  tails_stay_inside(DS_F32);
  tails_stay_inside(DS_BF16);
  tails_stay_inside(DS_F16);
  lanes_combine();
}
