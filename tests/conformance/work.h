/* work.h - a little work on a stream whose result is known bit for bit once it was done alone: for
 * checks of lifetimes, threads and faults. */
#ifndef CONFORMANCE_WORK_H
#define CONFORMANCE_WORK_H

#include "suite.h"

enum { WORK_N = 48, WORK_BYTES = WORK_N * WORK_N * 4 };

/* Device memory of one worker. */
typedef struct work {
  ds_device *dev;
  void *a, *b, *c;
} work;

/* [per-device] False: out of memory, err says. Finish it either way. */
ds_status work_init(conformance *k, work *w, ds_device *dev, ds_error *err);
void work_finish(conformance *k, work *w);
/* [per-stream] Uploads two matrices made from seed, multiplies and adds them as far as the plugin
 * can, and downloads what came out: WORK_N * WORK_N floats. */
ds_status work_do(conformance *k, work *w, ds_stream *s, uint64_t seed, float *out, ds_error *err);
/* All of it, on a device. */
ds_status work_on(conformance *k, ds_device *dev, ds_stream *s, uint64_t seed, float *out,
                  ds_error *err);
/* Gives work without waiting for it: result in w->c. */
ds_status work_launch(conformance *k, work *w, ds_stream *s, ds_error *err);

#endif
