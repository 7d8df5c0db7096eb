/* partition.h - which part of the flat buffers belongs to which rank. Pure arithmetic.
 *
 * What lies flat (a unit of masters, gradients, optimizer states: layout.h) is padded so that it
 * falls into equal, aligned shards; rank r owns shard r. With one shard (ZeRO stage 0, or a world
 * of 1) it owns everything.
 */
#ifndef DS_ZERO_PARTITION_H
#define DS_ZERO_PARTITION_H

#include <stdbool.h>
#include <stdint.h>

/* Elements [begin, end); empty when begin == end. */
typedef struct ds_range {
  int64_t begin, end;
} ds_range;

/* n rounded up to a multiple of shards * align; -1 when that doesn't fit. n >= 0, shards and align
 * >= 1. */
int64_t ds_partition_padded(int64_t n, int shards, int64_t align);
/* Shard `rank` of a buffer of padded elements (a multiple of shards). */
ds_range ds_partition_shard(int64_t padded, int shards, int rank);
/* What both have; empty (and begin == end) when nothing. */
ds_range ds_partition_intersect(ds_range a, ds_range b);

#endif
