/* usage.h - what this process holds: for finding what is never given back. */
#ifndef CONFORMANCE_USAGE_H
#define CONFORMANCE_USAGE_H

#include <stddef.h>

#include "harness.h"

typedef struct usage {
  int threads, files;
  size_t heap;     /* bytes that malloc has given out, as far as it tells */
  size_t resident; /* bytes of memory */
} usage;

usage usage_now(void);
/* Runs `once` half + half times (after as many calls for warming up as warm says) and fails t when
 * threads or files grew, or memory in both halves, and did so again in each of some tries: a cache
 * fills, a leak goes on. */
void usage_flat(conformance *k, int warm, int half, bool (*once)(conformance *k, int i, tally *t),
                tally *t);

#endif
