/* mpi_comm.c - the collectives of `ds bench comm` by MPI's own blocking calls, on buffers allocated
 * once: what MPI gives to somebody who does nothing else. Measures each size in place and with two
 * buffers, and writes lines "OP DTYPE BYTES VARIANT MEDIAN MIN MAX", in microseconds of a call.
 *
 * usage: mpirun -n N mpi_comm MIN MAX ROUNDS TURNS-DIR|- OP...
 * MPI has no bf16 to add up; f32 throughout. */
#include "bench_comm_shape.h"
#include "bench_turns.h"

#include <mpi.h>
#include <stdio.h>

enum { VARIANTS = 2, ROUNDS_MAX = 512, HUGE_PAGE = 2 << 20 };
static const char *const variants[VARIANTS] = {"two-buffers", "in-place"};

static int rank, size;
static char *send, *recv;

static void call(int op, int variant, int64_t bytes) {
  int all = (int)(bytes / 4), part = all / size;
  MPI_Comm w = MPI_COMM_WORLD;
  const void *from = variant == 1 ? MPI_IN_PLACE : send;
  switch ((enum bench_comm_op)op) {
    case BENCH_ALLREDUCE: MPI_Allreduce(from, recv, all, MPI_FLOAT, MPI_SUM, w); break;
    case BENCH_REDUCE_SCATTER:
      MPI_Reduce_scatter_block(from, recv, part, MPI_FLOAT, MPI_SUM, w);
      break;
    case BENCH_ALLGATHER: MPI_Allgather(from, part, MPI_FLOAT, recv, part, MPI_FLOAT, w); break;
    case BENCH_BROADCAST: MPI_Bcast(send, all, MPI_FLOAT, 0, w); break;
    case BENCH_ALLTOALL: MPI_Alltoall(from, part, MPI_FLOAT, recv, part, MPI_FLOAT, w); break;
    case BENCH_COMM_OPS: break;
  }
}

/* Microseconds of a call, on the slowest rank. */
static double one_round(int op, int variant, int64_t bytes) {
  int64_t calls = bench_comm_calls(bytes);
  double slowest = 0;
  call(op, variant, bytes);
  MPI_Barrier(MPI_COMM_WORLD);
  double start = MPI_Wtime();
  for (int64_t i = 0; i < calls; i++) call(op, variant, bytes);
  double us = 1e6 * (MPI_Wtime() - start) / (double)calls;
  MPI_Allreduce(&us, &slowest, 1, MPI_DOUBLE, MPI_MAX, MPI_COMM_WORLD);
  return slowest;
}

static int compare(const void *a, const void *b) {
  double x = *(const double *)a, y = *(const double *)b;
  return (x > y) - (x < y);
}

static int measure(int op, int64_t bytes, int rounds, bench_turns *turns) {
  static double us[VARIANTS][ROUNDS_MAX];
  /* A broadcast always is in place; an alltoall in place, which loses what it sends, is none of ours. */
  int n = op == BENCH_BROADCAST || op == BENCH_ALLTOALL ? 1 : VARIANTS;
  for (int i = 0; i < rounds; i++) {
    if (!bench_turns_take(turns)) return 1;
    for (int v = 0; v < n; v++) us[v][i] = one_round(op, v, bytes);
    if (!bench_turns_give(turns)) return 1;
  }
  for (int v = 0; v < n && rank == 0; v++) {
    qsort(us[v], (size_t)rounds, sizeof us[v][0], compare);
    printf("%s f32 %lld %s %.3f %.3f %.3f\n", bench_comm_names[op], (long long)bytes, variants[v],
           us[v][rounds / 2], us[v][0], us[v][rounds - 1]);
  }
  fflush(stdout);
  return 0;
}

static char *buffer(int64_t bytes) {
  char *p = aligned_alloc(HUGE_PAGE, (size_t)(bytes + HUGE_PAGE - 1) / HUGE_PAGE * HUGE_PAGE);
  if (p) /* ordinary numbers */
    for (int64_t i = 0; i < bytes / 4; i++) ((float *)(void *)p)[i] = (float)(i % 1000) - 500;
  return p;
}

int main(int argc, char **argv) {
  bench_turns turns = {0};
  int failed = 0;
  MPI_Init(&argc, &argv);
  MPI_Comm_rank(MPI_COMM_WORLD, &rank);
  MPI_Comm_size(MPI_COMM_WORLD, &size);
  int64_t min = argc > 5 ? bench_comm_size(argv[1]) : -1,
          max = min < 0 ? -1 : bench_comm_size(argv[2]);
  int rounds = max < min ? 0 : (int)strtol(argv[3], NULL, 10);
  for (int i = 5; i < argc && rounds > 0; i++)
    if (bench_comm_op_of(argv[i]) < 0) rounds = 0;
  if (min < 8 * size || rounds < 1 || rounds > ROUNDS_MAX) {
    fprintf(stderr, "usage: mpi_comm MIN MAX ROUNDS TURNS-DIR|- OP...\n");
    MPI_Abort(MPI_COMM_WORLD, 2);
  }
  send = buffer(max);
  recv = buffer(max);
  failed = !send || !recv ||
           !bench_turns_open(&turns, strcmp(argv[4], "-") == 0 ? NULL : argv[4], false, rank);
  for (int i = 5; i < argc && !failed; i++)
    for (int64_t bytes = min; bytes <= max && !failed; bytes *= 2)
      failed = measure(bench_comm_op_of(argv[i]), bytes, rounds, &turns);
  if (failed) {
    fprintf(stderr, "mpi_comm: no memory, or the other program does not give the turn\n");
    MPI_Abort(MPI_COMM_WORLD, 1);
  }
  bench_turns_close(&turns);
  free(send);
  free(recv);
  MPI_Finalize();
  return 0;
}
