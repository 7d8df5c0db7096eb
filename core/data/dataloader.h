/* dataloader.h - micro batches for one data-parallel rank.
 *
 * Order. The samples of an epoch stand in one global order: 0, 1, ..., or with shuffle a
 * permutation drawn from (seed, epoch). Ranks deal them out like cards: rank r of W gets entries
 * r, r + W, r + 2W, ... So the position of all ranks is one number, `consumed`, and a checkpoint
 * can go on with another world size or micro batch without losing or repeating a sample.
 *
 * The end of an epoch (torch's DistributedSampler and DataLoader, which DeepSpeed uses). Every rank
 * gets as many samples. Without drop_last the order is continued from its beginning until that
 * holds, and the last micro batch may be smaller than the others. With drop_last only whole micro
 * batches are given, and no sample comes twice.
 *
 * Iterable data sets: every rank reads the whole stream and keeps every W-th sample; what is left
 * over for some ranks only is dropped. Not shuffled.
 */
#ifndef DS_DATA_DATALOADER_H
#define DS_DATA_DATALOADER_H

#include "ds.h"

#include "base/status.h"

typedef struct ds_dataloader_options {
  ds_dataset *dataset;   /* the caller's; must outlive the loader */
  ds_collate_fn collate; /* NULL: stacks each tensor along a new first dimension */
  void *collate_ctx;
  int64_t micro_batch;
  int rank, world_size;
  uint64_t seed;
  bool shuffle, drop_last;
} ds_dataloader_options;

/* Where a loader is. Equal on all ranks. */
typedef struct ds_dataloader_state {
  int64_t epoch;
  int64_t consumed; /* entries of this epoch's order that were dealt out, to all ranks together */
  int64_t length;   /* of the data set, -1 when iterable; checked when restored */
  uint64_t seed;
} ds_dataloader_state;

/* A data set that gives no batch is DS_ERR_INVALID and says how many samples there are. */
DS_MUST_USE ds_status ds_dataloader_create(const ds_dataloader_options *options,
                                           ds_dataloader **out, ds_error *err);
void ds_dataloader_destroy(ds_dataloader *l);

void ds_dataloader_get_state(const ds_dataloader *l, ds_dataloader_state *state);
/* The next batch is the one that followed when the state was taken; the order is the saved seed's.
 * A state of another data set is DS_ERR_INVALID, and the loader stays as it was. An iterable data
 * set is rewound and read up to the place. */
DS_MUST_USE ds_status ds_dataloader_set_state(ds_dataloader *l, const ds_dataloader_state *state,
                                              ds_error *err);

#endif
