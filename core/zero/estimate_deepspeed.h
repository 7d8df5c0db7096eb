/* estimate_deepspeed.h - what DeepSpeed's own estimators say, to compare with.
 *
 * The formulas are those of DeepSpeed's documentation ("Memory requirements"): mixed precision with
 * Adam, model states alone, without activations and buffers. Its figures are in GiB.
 */
#ifndef DS_ZERO_ESTIMATE_DEEPSPEED_H
#define DS_ZERO_ESTIMATE_DEEPSPEED_H

#include <stdbool.h>

typedef struct ds_estimate_deepspeed {
  double gpu, cpu; /* bytes per GPU, per node */
} ds_estimate_deepspeed;

/* stage: 2 or 3. largest: parameters of the largest layer (stage 3). zero_init: parameters are made
 * partitioned (stage 3). offload_param only with offload_optimizer. */
ds_estimate_deepspeed ds_estimate_deepspeed_of(int stage, double params, double largest,
                                               int gpus_per_node, int nodes, bool offload_optimizer,
                                               bool offload_param, bool zero_init);

#endif
