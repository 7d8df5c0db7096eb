#include "zero/partition.h"

int64_t ds_partition_padded(int64_t n, int shards, int64_t align) {
  int64_t unit, rounded;
  if (__builtin_mul_overflow((int64_t)shards, align, &unit)) return -1;
  if (__builtin_add_overflow(n, unit - 1, &rounded)) return -1;
  return rounded / unit * unit;
}

ds_range ds_partition_shard(int64_t padded, int shards, int rank) {
  int64_t size = padded / shards;
  return (ds_range){size * rank, size * (rank + 1)};
}

ds_range ds_partition_intersect(ds_range a, ds_range b) {
  ds_range r = {a.begin > b.begin ? a.begin : b.begin, a.end < b.end ? a.end : b.end};
  if (r.end < r.begin) r.end = r.begin;
  return r;
}
