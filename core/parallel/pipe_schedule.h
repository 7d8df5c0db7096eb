/* pipe_schedule.h - what a pipeline stage does in a step, in which order; and which blocks it has.
 * Pure arithmetic.
 *
 * One forward, one backward (1F1B; Narayanan et al. 2021, sec. 2.2 and figure 4): of S stages stage
 * s runs S-1-s forward passes ahead, then one forward and one backward pass by turns, then the rest
 * of the backward passes. At most S-s micro batches are between their passes at a time. Forward and
 * backward passes of a stage both run in the order of micro batches.
 *
 * Messages are placed so that a step ends even where a send waits for its receiver: where two
 * neighbours have one message for each other at the same time, even stages send first and odd ones
 * receive first.
 */
#ifndef DS_PARALLEL_PIPE_SCHEDULE_H
#define DS_PARALLEL_PIPE_SCHEDULE_H

#include "base/status.h"

#include <stdbool.h>
#include <stdint.h>

typedef enum ds_pipe_kind {
  DS_PIPE_RECV_HIDDEN, /* from the stage before */
  DS_PIPE_FORWARD,
  DS_PIPE_SEND_HIDDEN,   /* to the stage after */
  DS_PIPE_RECV_GRADIENT, /* from the stage after */
  DS_PIPE_BACKWARD,
  DS_PIPE_SEND_GRADIENT /* to the stage before */
} ds_pipe_kind;

typedef struct ds_pipe_work {
  ds_pipe_kind kind;
  int64_t micro; /* batch, from 0 */
} ds_pipe_work;

/* The work of a stage for `micros` >= 1 micro batches, in new memory (free()). */
DS_MUST_USE ds_status ds_pipe_schedule(int stages, int stage, int64_t micros, ds_pipe_work **out,
                                       size_t *count, ds_error *err);
/* The most micro batches between their forward and backward pass. */
int64_t ds_pipe_in_flight(int stages, int stage, int64_t micros);

/* Blocks [bounds[s],bounds[s+1]) for stage s; bounds has stages + 1 places. weights NULL: as many
 * blocks each as can be, the first stages one more. Else the heaviest stage is as light as can be,
 * and among such partitions the sum of squares is least (the linear partition problem, as
 * DeepSpeed's partition_balanced). Every stage gets a block; DS_ERR_INVALID where there are fewer
 * blocks than stages. weights >= 0, their sum below 2^62. */
DS_MUST_USE ds_status ds_pipe_partition(const int64_t *weights, int blocks, int stages, int *bounds,
                                        ds_error *err);

#endif
