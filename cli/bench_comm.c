/* bench_comm.c - the backend's collectives over device memory, as seen by a host that waits for each:
 * time, and bytes a second in the two measures that NCCL's tests have.
 *
 *   algorithm bandwidth  the size (bench_comm_shape.h) divided by the time
 *   bus bandwidth        what each rank must at least send in a second: algorithm bandwidth times
 *                        2 (n-1)/n for allreduce, (n-1)/n for reduce_scatter, allgather and
 *                        alltoall, 1 for broadcast
 *
 * A round's time is that of the slowest rank, divided by the calls in it.
 */
#include "bench.h"
#include "bench_comm_shape.h"
#include "bench_turns.h"

#include "parallel/world.h"
#include "tensor/tensor.h"

#include <errno.h>

typedef struct comm_bench {
  bench b;
  bench_common common;
  option_list op_list;
  int ops[BENCH_COMM_OPS], n_ops;
  const char *dtype_text, *min_text, *max_text, *turns_dir;
  int32_t dtypes[2];
  int n_dtypes;
  int64_t min, max, rounds;
  bool table; /* this rank prints one */
  ds_world world;
  bench_turns turns;
  void *send, *recv; /* max bytes each */
  void *flag;        /* one f32 */
} comm_bench;

/* One collective of `bytes` in all; waits for it. */
static ds_status call(comm_bench *t, int op, int32_t dtype, int64_t bytes, bool in_place,
                      ds_error *err) {
  ds_group *g = t->world.group;
  int64_t n = t->world.size, all = bytes / (int64_t)ds_dtype_size(dtype), part = all / n;
  size_t own = (size_t)t->world.rank * (size_t)part * ds_dtype_size(dtype);
  char *send = t->send, *recv = t->recv;
  if (in_place && op == BENCH_ALLREDUCE) recv = send;
  if (in_place && op == BENCH_REDUCE_SCATTER) recv = send + own;
  if (in_place && op == BENCH_ALLGATHER) send = recv + own;
  ds_status status = DS_OK;
  switch ((enum bench_comm_op)op) {
    case BENCH_ALLREDUCE:
      status = ds_group_allreduce(g, NULL, send, recv, all, dtype, DS_REDUCE_SUM, err);
      break;
    case BENCH_REDUCE_SCATTER:
      status = ds_group_reduce_scatter(g, NULL, send, recv, part, dtype, DS_REDUCE_SUM, err);
      break;
    case BENCH_ALLGATHER: status = ds_group_allgather(g, NULL, send, recv, part, dtype, err); break;
    case BENCH_BROADCAST: status = ds_group_broadcast(g, NULL, send, all, dtype, 0, err); break;
    case BENCH_ALLTOALL: status = ds_group_alltoall(g, NULL, send, recv, part, dtype, err); break;
    case BENCH_COMM_OPS: break;
  }
  return status == DS_OK ? ds_backend_sync(t->b.backend, err) : status;
}

/* The largest of the ranks' x; also a barrier. */
static ds_status slowest(comm_bench *t, double *x, ds_error *err) {
  float f = (float)*x;
  ds_backend *b = t->b.backend;
  DS_TRY(ds_backend_upload(b, t->flag, &f, sizeof f, err));
  DS_TRY(ds_world_allreduce(&t->world, t->flag, 1, DS_REDUCE_MAX, err));
  DS_TRY(ds_backend_download(b, &f, t->flag, sizeof f, err));
  *x = f;
  return DS_OK;
}

/* Seconds of a call. */
static ds_status one_round(comm_bench *t, int op, int32_t dtype, int64_t bytes, bool in_place,
                           double *seconds, ds_error *err) {
  int64_t calls = bench_comm_calls(bytes);
  DS_TRY(call(t, op, dtype, bytes, in_place, err));
  DS_TRY(slowest(t, seconds, err));
  double start = cli_now();
  for (int64_t i = 0; i < calls; i++) DS_TRY(call(t, op, dtype, bytes, in_place, err));
  *seconds = (cli_now() - start) / (double)calls;
  return slowest(t, seconds, err);
}

/* What can be in place: broadcast always is, alltoall never. */
static int variants_of(int op) {
  return op == BENCH_BROADCAST || op == BENCH_ALLTOALL ? 1 : 2;
}

/* Both variants in one turn. */
static ds_status measure_size(comm_bench *t, int op, int32_t dtype, int64_t bytes,
                              bench_samples us[2], ds_error *err) {
  for (int64_t i = 0; i < t->rounds; i++) {
    if (!bench_turns_take(&t->turns))
      return ds_fail(err, DS_ERR_IO, "--turns: the other program does not give the turn: %s",
                     errno ? strerror(errno) : "waited for 60 s");
    for (int v = 0; v < variants_of(op); v++) {
      double seconds = 0;
      DS_TRY(one_round(t, op, dtype, bytes, v == 1, &seconds, err));
      bench_samples_add(&us[v], 1e6 * seconds);
    }
    if (!bench_turns_give(&t->turns))
      return ds_fail(err, DS_ERR_IO, "--turns: can't give the turn: %s", strerror(errno));
  }
  return DS_OK;
}

static double bus_factor(int op, int n) {
  if (op == BENCH_BROADCAST) return 1;
  return (op == BENCH_ALLREDUCE ? 2.0 : 1.0) * (n - 1) / n;
}

static void report(comm_bench *t, int op, int32_t dtype, int64_t bytes, bool in_place,
                   const bench_samples *us) {
  double factor = bus_factor(op, t->world.size);
  bench_samples algorithm = {0}, bus = {0};
  for (int i = 0; i < us->count; i++) {
    bench_samples_add(&algorithm, 1e-3 * (double)bytes / us->values[i]);
    bench_samples_add(&bus, factor * algorithm.values[i]);
  }
  if (t->table)
    printf("%-14s %-5s %9lld %-11s  %11.2f %11.2f %11.2f  %8.3f %8.3f\n", bench_comm_names[op],
           ds_dtype_name(dtype), (long long)bytes, in_place ? "in-place" : "two-buffers",
           bench_samples_median(us), bench_samples_min(us), bench_samples_max(us),
           bench_samples_median(&algorithm), bench_samples_median(&bus));
  cJSON *r = bench_result(&t->b);
  cJSON_AddStringToObject(r, "op", bench_comm_names[op]);
  cJSON_AddStringToObject(r, "dtype", ds_dtype_name(dtype));
  cJSON_AddNumberToObject(r, "ranks", t->world.size);
  cJSON_AddNumberToObject(r, "bytes", (double)bytes);
  cJSON_AddBoolToObject(r, "in_place", in_place);
  bench_samples_json(us, r, "us");
  bench_samples_json(&algorithm, r, "algorithm_gbytes_per_s");
  bench_samples_json(&bus, r, "bus_gbytes_per_s");
  fflush(stdout);
}

static ds_status measure(comm_bench *t, ds_error *err) {
  if (t->table)
    printf("%d ranks; microseconds, GB/s\n%-14s %-5s %9s %-11s  %11s %11s %11s  %8s %8s\n",
           t->world.size, "op", "dtype", "bytes", "buffers", "median", "min", "max", "alg", "bus");
  for (int o = 0; o < t->n_ops; o++)
    for (int d = 0; d < t->n_dtypes; d++)
      for (int64_t bytes = t->min; bytes <= t->max; bytes *= 2) {
        bench_samples us[2] = {0};
        DS_TRY(measure_size(t, t->ops[o], t->dtypes[d], bytes, us, err));
        for (int v = 0; v < variants_of(t->ops[o]); v++)
          report(t, t->ops[o], t->dtypes[d], bytes, v == 1, &us[v]);
      }
  return DS_OK;
}

static ds_status prepare(comm_bench *t, ds_error *err) {
  const ds_world_args args = {.local_rank = -1, .distributed_port = -1, .dist_init_required = -1};
  ds_backend *b = t->b.backend;
  DS_TRY(ds_world_init(&t->world, b, &args, NULL, err));
  if (!t->world.group)
    return ds_fail(err, DS_ERR_INVALID, "one process; start several: mpirun -n 2 ds bench comm");
  int64_t least = 8 * (int64_t)t->world.size;
  if (t->min < least)
    return ds_fail(err, DS_ERR_INVALID, "--min is %lld bytes; with %d ranks it is at least %lld",
                   (long long)t->min, t->world.size, (long long)least);
  DS_TRY(bench_make_random(b, DS_F32, (size_t)t->max, &t->send, err));
  DS_TRY(bench_make_random(b, DS_F32, (size_t)t->max, &t->recv, err));
  DS_TRY(ds_backend_alloc(b, sizeof(float), &t->flag, err));
  if (!bench_turns_open(&t->turns, t->turns_dir, true, t->world.rank))
    return ds_fail(err, DS_ERR_IO, "--turns: %s: %s", t->turns_dir, strerror(errno));
  return DS_OK;
}

static ds_status run(comm_bench *t, ds_error *err) {
  bool json = t->common.json;
  t->common.json = true; /* until it is known which rank this is */
  DS_TRY(bench_open("comm", &t->common, &t->b, err));
  ds_status status = prepare(t, err);
  bool first = t->world.rank == 0;
  t->table = first && !json;
  t->common.json = json;
  if (t->table) printf("%s: %s\n", ds_backend_name(t->b.backend), ds_backend_device(t->b.backend));
  if (status == DS_OK) status = measure(t, err);
  if (status == DS_OK && first && json) status = bench_report(&t->b, err);
  bench_turns_close(&t->turns);
  ds_world_finish(&t->world);
  if (t->send) ds_backend_free(t->b.backend, t->send, (size_t)t->max);
  if (t->recv) ds_backend_free(t->b.backend, t->recv, (size_t)t->max);
  if (t->flag) ds_backend_free(t->b.backend, t->flag, sizeof(float));
  bench_finish(&t->b);
  return status;
}

/* False after telling the mistake. */
static bool read_arguments(comm_bench *t, const option_list *words) {
  if (words->count > 0) {
    fprintf(stderr, "ds bench comm: unexpected \"%s\" (ds bench comm --help)\n", words->values[0]);
    return false;
  }
  for (int i = 0; i < t->op_list.count; i++) {
    int op = bench_comm_op_of(t->op_list.values[i]);
    if (op < 0 || t->n_ops == BENCH_COMM_OPS) {
      fprintf(stderr,
              "ds bench comm: --op \"%s\"; it may be allreduce, reduce_scatter, allgather, "
              "broadcast or alltoall, each once\n",
              t->op_list.values[i]);
      return false;
    }
    t->ops[t->n_ops++] = op;
  }
  if (t->n_ops == 0)
    for (; t->n_ops < BENCH_COMM_OPS; t->n_ops++) t->ops[t->n_ops] = t->n_ops;
  t->min = bench_comm_size(t->min_text);
  t->max = bench_comm_size(t->max_text);
  if (t->min < 0 || t->max < t->min) {
    fprintf(stderr, "ds bench comm: --min %s --max %s: bytes from 1 to 1024M, such as 4K or 16M\n",
            t->min_text, t->max_text);
    return false;
  }
  if (t->rounds < 1 || t->rounds > BENCH_SAMPLES_MAX) {
    fprintf(stderr, "ds bench comm: --rounds must be from 1 to %d\n", BENCH_SAMPLES_MAX);
    return false;
  }
  return bench_dtypes("bench comm", t->dtype_text, t->dtypes, &t->n_dtypes);
}

int bench_comm(int argc, char **argv) {
  comm_bench t = {.dtype_text = "f32", .min_text = "1K", .max_text = "64M", .rounds = 9};
  option_list words;
  ds_error err;
  const command c = {
      "bench comm",
      "Times the backend's collectives among the ranks that the launcher started, each call "
      "waited\n"
      "for. Start it with: mpirun -n 2 ds bench comm",
      "[--op NAME...] [--min 1K] [--max 64M] [--dtype f32|bf16|both] [--json]",
      "Sizes double from --min to --max; a size is that of the larger buffer on one rank. \"alg\" "
      "is\n"
      "size / time; \"bus\" is what each rank must at least send in that time: times 2(n-1)/n for\n"
      "allreduce, (n-1)/n for reduce_scatter, allgather and alltoall, 1 for broadcast. What can be "
      "in\n"
      "place is measured so, too.\n"
      "bench/compare-comm measures in turns with a plain MPI program.",
      {{"--op", OPTION_LIST, &t.op_list, "NAME",
        "allreduce, reduce_scatter, allgather, broadcast, alltoall (all)"},
       {"--min", OPTION_STRING, &t.min_text, "BYTES", "the smallest size (1K)"},
       {"--max", OPTION_STRING, &t.max_text, "BYTES", "the largest size (64M)"},
       {"--dtype", OPTION_STRING, &t.dtype_text, "TYPE", "f32, bf16 or both (f32)"},
       {"--rounds", OPTION_INT, &t.rounds, "N", "rounds for each size; the median counts (9)"},
       {"--turns", OPTION_STRING, &t.turns_dir, "DIR",
        "measure in turns with another program (bench_turns.h)"},
       BENCH_COMMON_OPTIONS(&t.common)}};
  parsed p = options_parse(&c, argc, argv, &words);
  if (p != PARSED_RUN) return p == PARSED_HELP ? 0 : 2;
  if (!read_arguments(&t, &words)) return 2;
  return run(&t, &err) == DS_OK ? 0 : cli_fail("bench comm", &err);
}
