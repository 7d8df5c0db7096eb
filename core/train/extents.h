/* extents.h - where the elements that a rank has of a parameter stand in the stored tensor.
 *
 * A rank's shard (parallel/shard.h) is some runs of indices along one dimension of the whole, row
 * after row here; the file has the whole row after row, or its transpose (as Hugging Face keeps
 * GPT-2's matrices). An extent is a stretch that is contiguous in the file. Pure arithmetic.
 */
#ifndef DS_TRAIN_EXTENTS_H
#define DS_TRAIN_EXTENTS_H

#include "parallel/shard.h"

/* A parameter as it is here and as it is stored. */
typedef struct ds_stored {
  const ds_shard *shard; /* NULL: all of it is here */
  int32_t rank;
  int64_t whole[DS_MAX_RANK]; /* the shape, as the model declares it */
  bool transposed;            /* stored so; rank 2 only */
} ds_stored;

typedef struct ds_extent {
  int64_t stored;      /* n elements of the stored tensor from this one on are ... */
  int64_t local, step; /* ... here the elements local, local + step, ... */
  int64_t n;
} ds_extent;

typedef ds_status (*ds_extent_fn)(void *ctx, const ds_extent *x, ds_error *err);

/* Elements that are here. */
int64_t ds_stored_count(const ds_stored *s);
/* Calls fn for the elements [begin, end) of those, each once; ends at its first failure. In the
 * file's order where begin and end are ends of rows. */
DS_MUST_USE ds_status ds_extents_each(const ds_stored *s, int64_t begin, int64_t end,
                                      ds_extent_fn fn, void *ctx, ds_error *err);
/* An end for a block that begins at `begin`: at most `room` elements further and not beyond `end`; of
 * a transposed parameter whole rows where they fit, so that its extents are long. */
int64_t ds_extents_block(const ds_stored *s, int64_t begin, int64_t end, int64_t room);

#endif
