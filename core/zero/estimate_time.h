/* estimate_time.h - how long a step takes, from what a machine can do. Pure arithmetic.
 *
 * Work is counted as Narayanan et al. 2021 do (eq. 3 and its appendix): products of 2 M flop a
 * token for a matrix of M elements, and 4 T C for attention's two, not halved for causality; twice
 * that backward; forward once more with recomputation. A rank's time is then
 *
 *     (G + pipe - 1) * micro batch  +  gradients and weights not hidden  +  the update
 *
 * where a micro batch is its products at `efficiency` of the peak, its element-wise work at the
 * memory's bandwidth, and the collectives of tensor and sequence parallelism, which nothing hides.
 * The pipeline's bubble is (pipe - 1) / G of the work (sec. 2.2.1). ZeRO's collectives hide behind
 * up to `overlap` of the work they run beside: the backward pass for gradients, both passes for
 * stage 3's.
 */
#ifndef DS_ZERO_ESTIMATE_TIME_H
#define DS_ZERO_ESTIMATE_TIME_H

#include "zero/estimate_traffic.h"

/* Per rank, in bytes/s, flop/s and seconds. Bandwidths are what hardware promises in one direction;
 * the factors say how much of it is reached. */
typedef struct ds_estimate_machine {
  int per_node;                     /* ranks of a node */
  double flops;                     /* peak of products */
  double memory, memory_rate;       /* the device's, and its bandwidth */
  double near_rate, far_rate;       /* a rank's sending inside of a node, between nodes */
  double near_latency, far_latency; /* of one hop of a ring */
  double host_memory, host_rate;    /* a rank's share of the host, its link to it */
  double host_memory_rate; /* the host memory's bandwidth, a rank's share: the update there */
  double nvme, nvme_rate;  /* a rank's share of the files' place, reading or writing */
  double efficiency;       /* of flops, that large products reach */
  double memory_efficiency, link_efficiency; /* of the rates above */
  double overlap; /* of the work beside them, that collectives hide behind */
} ds_estimate_machine;

/* Seconds of a step; total is the sum of the others. */
typedef struct ds_estimate_time {
  double products, elementwise; /* forward and backward of all micro batches */
  double tensor, sequence;      /* their collectives */
  double bubble;                /* a pipeline's idle time */
  double pipe;                  /* its messages */
  double data;                  /* gradients' and weights' collectives, as far as not hidden */
  double offload;               /* to and from the host and files, the same */
  double update;
  double total;
} ds_estimate_time;

/* The factors that published runs agree with (tests/unit/zero/test_estimate_time.c): products reach
 * 0.68 of the peak, links 0.75, memory 0.8; 0.65 of the work beside them hides collectives. */
ds_estimate_machine ds_estimate_machine_init(void);

/* Flop of one step of the whole model: all replicas. `again`: with what recomputation repeats. */
double ds_estimate_flop(const ds_estimate_model *m, const ds_estimate_layout *l, bool again);
/* Tokens of a step. */
double ds_estimate_tokens(const ds_estimate_layout *l);
/* The layout must pass ds_estimate_check(). */
ds_estimate_time ds_estimate_time_of(const ds_estimate_model *m, const ds_estimate_layout *l,
                                     const ds_estimate_machine *machine);

#endif
