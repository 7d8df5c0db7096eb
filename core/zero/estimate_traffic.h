/* estimate_traffic.h - what a rank sends in a step, by purpose. Pure arithmetic.
 *
 * Rings: of n bytes a reduce-scatter or an all-gather sends n (N-1)/N per rank, an all-reduce twice
 * that. So data parallelism and ZeRO 1 and 2 send 2 P per step, ZeRO 3 sends 3 P (Rajbhandari et
 * al. 2020, sec. 7); of these ZeRO++ makes one leave out the network between nodes and quantizes
 * the others (Wang et al. 2023, sec. 3; zero/plusplus.h). Tensor parallelism all-reduces B T C
 * twice per block and direction (Shoeybi et al. 2019, sec. 3; Narayanan et al. 2021, sec. 3.2), a
 * pipeline hands B T C on once per direction, Ulysses exchanges queries, keys, values and results
 * (Jacobs et al. 2023, sec. 3.2): 4 B T C / N for each rank.
 */
#ifndef DS_ZERO_ESTIMATE_TRAFFIC_H
#define DS_ZERO_ESTIMATE_TRAFFIC_H

#include "zero/estimate.h"

typedef enum ds_traffic_kind {
  DS_TRAFFIC_GRADIENTS,  /* all-reduce at stage 0, reduce-scatter from 1 on */
  DS_TRAFFIC_UPDATED,    /* all-gather of the weights that the update made */
  DS_TRAFFIC_FORWARD,    /* stage 3: all-gather ahead of use */
  DS_TRAFFIC_BACKWARD,   /* the same, in the backward pass */
  DS_TRAFFIC_TENSOR,     /* blocks' all-reduces */
  DS_TRAFFIC_VOCABULARY, /* the embedding's, the head's and the loss's all-reduces */
  DS_TRAFFIC_SEQUENCE,   /* all-to-alls */
  DS_TRAFFIC_PIPE,       /* activations and their gradients to the neighbours */
  DS_TRAFFIC_TIED,       /* gradients of what both ends of a pipeline have */
  DS_TRAFFIC_KINDS
} ds_traffic_kind;

typedef struct ds_traffic_item {
  double bytes; /* sent by a rank in a step */
  double calls; /* collectives in a step */
  int ranks;    /* of the group */
  int stride;   /* world ranks between neighbours of the group */
} ds_traffic_item;

typedef struct ds_estimate_traffic {
  ds_traffic_item item[DS_TRAFFIC_KINDS]; /* bytes 0: there is none */
  double bytes;                           /* all together */
  double host, nvme;                      /* moved to and from there by offload, both directions */
  double update; /* of nvme: what is read and written around the update, beside no other work */
} ds_estimate_traffic;

/* "gradients", "updated weights", ... */
const char *ds_estimate_traffic_name(ds_traffic_kind kind);
/* The layout must pass ds_estimate_check(). */
ds_estimate_traffic ds_estimate_traffic_of(const ds_estimate_model *m, const ds_estimate_layout *l);

#endif
