/* bench_comm_shape.h - what `ds bench comm` and its peer agree on: collectives, sizes, calls a round.
 *
 * The size of a collective is that of its larger buffer on one rank: send of allreduce, broadcast,
 * alltoall and reduce_scatter, recv of allgather. */
#ifndef DS_CLI_BENCH_COMM_SHAPE_H
#define DS_CLI_BENCH_COMM_SHAPE_H

#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

enum bench_comm_op {
  BENCH_ALLREDUCE,
  BENCH_REDUCE_SCATTER,
  BENCH_ALLGATHER,
  BENCH_BROADCAST,
  BENCH_ALLTOALL,
  BENCH_COMM_OPS
};

static const char *const bench_comm_names[] = {"allreduce", "reduce_scatter", "allgather",
                                               "broadcast", "alltoall"};

/* Calls in a round: some milliseconds, and the same in both programs. */
static inline int64_t bench_comm_calls(int64_t bytes) {
  return 1 + 20000000 / (bytes + 4000);
}

/* "64", "1K", "64M"; -1: not a size. */
static inline int64_t bench_comm_size(const char *text) {
  char *end;
  long long v = strtoll(text, &end, 10);
  int64_t unit = *end == 'K' ? 1 << 10 : *end == 'M' ? 1 << 20 : 1;
  if (end == text || v < 1 || v > 1 << 30 || (*end && (unit == 1 || end[1]))) return -1;
  return v * unit <= 1 << 30 ? v * unit : -1;
}

/* The op's number; -1. */
static inline int bench_comm_op_of(const char *name) {
  for (int i = 0; i < BENCH_COMM_OPS; i++)
    if (strcmp(bench_comm_names[i], name) == 0) return i;
  return -1;
}

#endif
