/* batch.h - DeepSpeed's batch-size rule: train batch T = micro batch M x accumulation steps G x
 * data-parallel world W. Pure arithmetic.
 *
 * T,M,G: checked. T,M: G = T/M/W. T,G: M = T/W/G. M,G: T = M G W. T: G = 1, M = T/W. M: G = 1,
 * T = M W. Divisions are whole. Then T > 0, M > 0, G > 0 and T = M G W must hold, in that order.
 */
#ifndef DS_TRAIN_BATCH_H
#define DS_TRAIN_BATCH_H

#include "base/status.h"

#include <stdbool.h>
#include <stdint.h>

#define DS_BATCH_UNSET INT64_MIN

typedef struct ds_batch_sizes {
  int64_t train, micro, accumulation; /* T, M, G; DS_BATCH_UNSET: not given */
} ds_batch_sizes;

/* Fills in what is not given. origin says where the world size came from ("WORLD_SIZE"). is_auto:
 * sizes that were "auto" are among the unset; when nothing else decides, the micro batch is 1. On
 * failure sizes are untouched and the message shows the derivation. */
DS_MUST_USE ds_status ds_batch_resolve(ds_batch_sizes *sizes, int world, const char *origin,
                                       bool is_auto, ds_error *err);

#endif
