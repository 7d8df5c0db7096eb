/* turn.h - matrices that a file has transposed, when many ranks have few rows each.
 *
 * A rank's rows are the columns of the stored matrix: few rows make many runs of few bytes, all over
 * the file, next to those of other ranks. So they first go into a scratch file, row after row; when
 * all ranks have done that, each takes some square tiles of the whole and brings them to where they
 * belong. Every write is then TURN_TILE elements long, however many ranks there are, and a rank's
 * share of the work falls with their number.
 */
#ifndef DS_TRAIN_TURN_H
#define DS_TRAIN_TURN_H

#include "base/shared_file.h"
#include "train/extents.h"

enum {
  DS_TURN_TILE = 512,
  DS_TURN_ROWS = 64, /* with at least so many rows a rank writes them by itself */
  DS_TURN_BEGIN = 8  /* byte in the scratch file of the first matrix */
};

/* Whether that is how this parameter goes, when so many ranks write. The same on all of them. */
bool ds_turn_wanted(const ds_stored *s, int ranks);

/* A matrix: [rows, cols] f32 from byte `from` of the scratch file; its transpose, in dtype, from byte
 * `to` of the file. */
typedef struct ds_turn {
  int64_t rows, cols;
  uint64_t from, to;
} ds_turn;

/* The share of one of `ranks` ranks, on the disk afterwards only once f is synced. scratch: all of
 * that file. */
DS_MUST_USE ds_status ds_turn_run(const ds_turn *turns, int n, const unsigned char *scratch,
                                  ds_shared_file *f, int32_t dtype, int rank, int ranks,
                                  ds_error *err);

#endif
