/* checkpoint_ranks.h - what ranks tell each other while they save or load together. Collective over
 * the world; in a world of one nothing happens.
 *
 * Small things, a few hundred bytes: numbers travel as f32, the one type that every backend's
 * collectives have, in limbs of eight bits, so that sums over up to 65,000 ranks are exact.
 */
#ifndef DS_TRAIN_CHECKPOINT_RANKS_H
#define DS_TRAIN_CHECKPOINT_RANKS_H

#include "parallel/world.h"

enum { DS_RANKS_TEXT = DS_WORLD_FLAG };

/* Rank 0's text to all: at most DS_RANKS_TEXT - 1 bytes. */
DS_MUST_USE ds_status ds_ranks_tell(ds_world *w, char text[DS_RANKS_TEXT], ds_error *err);
/* Whether all ranks have the same text, of any length. NULL is one too. */
DS_MUST_USE ds_status ds_ranks_same(ds_world *w, const char *text, bool *same, ds_error *err);
/* The sum over all ranks. */
DS_MUST_USE ds_status ds_ranks_sum(ds_world *w, uint64_t *value, ds_error *err);

#endif
