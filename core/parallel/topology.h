/* topology.h - how the world's ranks are arranged: pipeline x data x sequence x tensor.
 *
 *     world rank = ((pipe * data_size + data) * sequence_size + sequence) * tensor_size + tensor
 *
 * so that tensor-parallel ranks, who talk most, are neighbours (Narayanan et al. 2021, sec. 3).
 * Ranks of one `tensor` group hold parts of the same matrices; those of one `sequence` group (Ulysses)
 * parts of the same sequences; `pipe`: stages of blocks; `data`: other samples. ZeRO partitions over
 * data x sequence, the `zero` group: they have the same parameters (DeepSpeed's seq_data group).
 * `model` is pipe x tensor: who together holds the parameters once.
 */
#ifndef DS_PARALLEL_TOPOLOGY_H
#define DS_PARALLEL_TOPOLOGY_H

#include "parallel/world.h"

typedef struct ds_axis {
  int rank, size;
  ds_group *group; /* NULL where size is 1 */
} ds_axis;

typedef struct ds_topology {
  ds_axis tensor, sequence, data, pipe;
  ds_axis zero, model; /* of several of the above */
} ds_topology;

/* This rank's place, without groups. DS_ERR_INVALID, naming the sizes, where tensor * sequence *
 * pipe doesn't divide the world. sizes >= 1. */
DS_MUST_USE ds_status ds_topology_place(ds_topology *out, int rank, int world, int tensor,
                                        int sequence, int pipe, ds_error *err);
/* The host app's groups must be these: model-parallel ones are pipe x tensor, and data-parallel ones
 * are data. DS_ERR_INVALID where mpu says otherwise, DS_ERR_* of its functions where they fail. */
DS_MUST_USE ds_status ds_topology_check_mpu(const ds_topology *t, const ds_mpu *mpu, ds_error *err);
/* Makes the groups; collective over the world. To be finished on failure too. */
DS_MUST_USE ds_status ds_topology_connect(ds_topology *t, ds_world *w, ds_error *err);
void ds_topology_finish(ds_topology *t);

#endif
