/* rng.h - reproducible random numbers: xoshiro256** (Blackman and Vigna), seeded by splitmix64.
 * The whole state is four words, so a checkpoint stores it as it is. */
#ifndef DS_BASE_RNG_H
#define DS_BASE_RNG_H

#include <stdint.h>

typedef struct ds_rng {
  uint64_t s[4];
} ds_rng;

/* Streams of one seed are independent: use one per purpose or per parameter. */
void ds_rng_init(ds_rng *rng, uint64_t seed, uint64_t stream);
uint64_t ds_rng_next(ds_rng *rng);
/* Uniform in [0, n), without bias. n > 0. */
uint64_t ds_rng_below(ds_rng *rng, uint64_t n);
/* Uniform in [0, 1), 53 bits. */
double ds_rng_uniform(ds_rng *rng);
/* Standard normal (Box-Muller; one draw uses two uniforms). */
double ds_rng_normal(ds_rng *rng);

#endif
