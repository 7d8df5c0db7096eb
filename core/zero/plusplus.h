/* plusplus.h - less traffic (Wang et al. 2023, ZeRO++): weights and gradients travel as int8, and a
 * secondary copy of the weights is kept apart over few ranks that are near to one another. For
 * core/zero/.
 *
 *   quantized weights (qwZ)   gathers at stage 3 move one byte an element and a scale for each
 *                             DS_PLUSPLUS_GROUP of them; all ranks, the sender too, compute with what
 *                             comes out
 *   hierarchical (hpZ)        the first gather of a unit after an update is over all ranks; each keeps
 *                             1/k of what comes, and later gathers (the backward pass's) are over its
 *                             k neighbours: exact
 *   quantized gradients (qgZ) each rank sends each its part as int8, once (one hop), and adds what it
 *                             gets in f32, in the order of ranks
 */
#ifndef DS_ZERO_PLUSPLUS_H
#define DS_ZERO_PLUSPLUS_H

#include "zero/zero.h"

enum { DS_PLUSPLUS_GROUP = 256 }; /* elements with one scale; shards are multiples of it */

DS_MUST_USE ds_status ds_plusplus_init(ds_zero *z, ds_error *err);
void ds_plusplus_finish(ds_zero *z);
/* Weights were updated: secondary copies are old, and what is sent is made anew. */
DS_MUST_USE ds_status ds_plusplus_updated(ds_zero *z, ds_error *err);

/* gather.c asks: instead of the plain gather of a unit, towards u->weights, on the side stream; and
 * once it has arrived, on the backend's. *took: it was done here. */
DS_MUST_USE ds_status ds_plusplus_fetch(ds_zero *z, int unit, bool *took, ds_error *err);
DS_MUST_USE ds_status ds_plusplus_arrive(ds_zero *z, int unit, ds_error *err);

/* reduce.c asks: the unit's buffer is sent, and once that is done, the own part of the buffer is the
 * reduced gradient. */
DS_MUST_USE ds_status ds_plusplus_send_grads(ds_zero *z, int unit, ds_error *err);
DS_MUST_USE ds_status ds_plusplus_sum_grads(ds_zero *z, int unit, ds_error *err);

#endif
