#include "base/rng.h"

#include <math.h>

static uint64_t splitmix(uint64_t *x) {
  uint64_t z = (*x += 0x9e3779b97f4a7c15u);
  z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
  z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
  return z ^ (z >> 31);
}

static uint64_t rotl(uint64_t x, int k) {
  return (x << k) | (x >> (64 - k));
}

void ds_rng_init(ds_rng *rng, uint64_t seed, uint64_t stream) {
  uint64_t x = seed;
  uint64_t mixed = splitmix(&x) ^ (stream * 0xd1342543de82ef95u);
  for (int i = 0; i < 4; i++) rng->s[i] = splitmix(&mixed);
}

uint64_t ds_rng_next(ds_rng *rng) {
  uint64_t *s = rng->s;
  uint64_t result = rotl(s[1] * 5, 7) * 9;
  uint64_t t = s[1] << 17;
  s[2] ^= s[0];
  s[3] ^= s[1];
  s[1] ^= s[2];
  s[0] ^= s[3];
  s[2] ^= t;
  s[3] = rotl(s[3], 45);
  return result;
}

uint64_t ds_rng_below(ds_rng *rng, uint64_t n) {
  /* Reject the part of the range that would make small values likelier. */
  uint64_t limit = UINT64_MAX - UINT64_MAX % n;
  uint64_t x;
  do x = ds_rng_next(rng);
  while (x >= limit);
  return x % n;
}

double ds_rng_uniform(ds_rng *rng) {
  return (double)(ds_rng_next(rng) >> 11) * 0x1p-53;
}

double ds_rng_normal(ds_rng *rng) {
  double u = 1.0 - ds_rng_uniform(rng); /* (0, 1]: log is finite */
  double v = ds_rng_uniform(rng);
  return sqrt(-2.0 * log(u)) * cos(6.283185307179586 * v);
}
