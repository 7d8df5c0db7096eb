#include "train/batch.h"

#include <stdio.h>

#define T_NAME "train_batch_size"
#define M_NAME "train_micro_batch_size_per_gpu"
#define G_NAME "gradient_accumulation_steps"

/* Whole division that can't trap; a zero divisor gives 0, which the checks after refuse. */
static int64_t divide(int64_t a, int64_t b) {
  if (b == 0) return 0;
  return b == -1 ? (a == INT64_MIN ? INT64_MAX : -a) : a / b;
}

/* a * b, or INT64_MAX when it doesn't fit. */
static int64_t multiply(int64_t a, int64_t b) {
  int64_t r;
  return __builtin_mul_overflow(a, b, &r) ? INT64_MAX : r;
}

/* Derives the missing ones; how, as text, goes into how[size]. False: not enough was given. */
static bool derive(ds_batch_sizes *s, int world, bool is_auto, char *how, size_t size) {
  const bool t = s->train != DS_BATCH_UNSET, g = s->accumulation != DS_BATCH_UNSET;
  if (!t && s->micro == DS_BATCH_UNSET) {
    if (!is_auto) return false;
    s->micro = 1;
  }
  const bool m = s->micro != DS_BATCH_UNSET;
  long long T = s->train, M = s->micro, G = s->accumulation;
  how[0] = '\0';
  if (t && m && g) return true;
  if (t && m) {
    s->accumulation = divide(divide(s->train, s->micro), world);
    snprintf(how, size, G_NAME " = %lld / %lld / %d = %lld", T, M, world,
             (long long)s->accumulation);
  } else if (t && g) {
    s->micro = divide(divide(s->train, world), s->accumulation);
    snprintf(how, size, M_NAME " = %lld / %d / %lld = %lld", T, world, G, (long long)s->micro);
  } else if (t) {
    s->accumulation = 1;
    s->micro = divide(s->train, world);
    snprintf(how, size, G_NAME " = 1, " M_NAME " = %lld / %d = %lld", T, world,
             (long long)s->micro);
  } else {
    if (!g) s->accumulation = 1;
    s->train = multiply(multiply(s->micro, s->accumulation), world);
    snprintf(how, size, "%s" T_NAME " = %lld * %lld * %d = %lld", g ? "" : G_NAME " = 1, ", M,
             (long long)s->accumulation, world, (long long)s->train);
  }
  return true;
}

ds_status ds_batch_resolve(ds_batch_sizes *sizes, int world, const char *origin, bool is_auto,
                           ds_error *err) {
  ds_batch_sizes s = *sizes;
  char how[256];
  if (!derive(&s, world, is_auto, how, sizeof how))
    return ds_fail(err, DS_ERR_INVALID, "Either " T_NAME " or " M_NAME " needs to be provided%s",
                   s.accumulation != DS_BATCH_UNSET ? " (" G_NAME " alone doesn't say)" : "");
  const struct {
    const char *name;
    int64_t value, given;
  } must[] = {{T_NAME, s.train, sizes->train},
              {M_NAME, s.micro, sizes->micro},
              {G_NAME, s.accumulation, sizes->accumulation}};
  for (int i = 0; i < 3; i++) {
    if (must[i].value > 0) continue;
    if (must[i].given != DS_BATCH_UNSET)
      return ds_fail(err, DS_ERR_INVALID, "%s: %lld has to be greater than 0", must[i].name,
                     (long long)must[i].value);
    return ds_fail(err, DS_ERR_INVALID,
                   "%s has to be greater than 0, but comes out as %lld: derived %s, with world "
                   "size %d (%s)",
                   must[i].name, (long long)must[i].value, how, world, origin);
  }
  int64_t product = multiply(multiply(s.micro, s.accumulation), world);
  if (s.train != product || s.train == INT64_MAX)
    return ds_fail(err, DS_ERR_INVALID,
                   T_NAME " is not " M_NAME " * " G_NAME " * world size: %lld != %lld * %lld * %d "
                          "(%s%s%sworld size %d: %s)",
                   (long long)s.train, (long long)s.micro, (long long)s.accumulation, world,
                   how[0] ? "derived " : "", how, how[0] ? "; " : "", world, origin);
  *sizes = s;
  return DS_OK;
}
