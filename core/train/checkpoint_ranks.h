/* checkpoint_ranks.h - what ranks compare while they save or load together. Collective over the world;
 * in a world of one nothing happens.
 *
 * Numbers travel as f32 in limbs of eight bits, so that sums over up to 65,000 ranks are exact, in as
 * many bytes for 10,000 ranks as for two.
 */
#ifndef DS_TRAIN_CHECKPOINT_RANKS_H
#define DS_TRAIN_CHECKPOINT_RANKS_H

#include "parallel/tell.h"

/* Room for what rank 0 says with ds_tell_all: the names of a tag and a folder. */
enum { DS_RANKS_TEXT = 512 };

/* Whether all ranks have the same text, of any length. NULL is one too. */
DS_MUST_USE ds_status ds_ranks_same(ds_world *w, const char *text, bool *same, ds_error *err);
/* The sum over all ranks. */
DS_MUST_USE ds_status ds_ranks_sum(ds_world *w, uint64_t *value, ds_error *err);

#endif
