/* test_gpu_comm.c - how communicators of the GPU plugins fail, on the emulation and a double of NCCL: ranks that stop or
 * never come, limits, peers that are lost, two ranks on a card, a library that isn't there.
 *
 * usage: test_gpu_comm PLUGIN.so
 * Each case forks its ranks, which a torchrun-like environment numbers. What works, ds conform checks. */
#include "parallel/store.h"
#include "ranks.h"

#include <pthread.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

enum { RANKS = 3, LAST = RANKS - 1, SHORT_MS = 1500, LONG_MS = 60000, N = 100 };

static const char *path;
static ds_stream *a, *b;
static char job[64];
static void *x;
static int rank;

/* ---------------------------------------------------------------- a rank */

static bool begin(int index) {
  if (!open_plugin(path, index, NULL)) return false;
  CHECK_OK(device->stream_create(dev, &a, &err), err);
  CHECK_OK(device->stream_create(dev, &b, &err), err);
  CHECK_OK(device->alloc(dev, 4 * N, &x, &err), err);
  CHECK_OK(device->fill(a, x, 0, 4 * N, &err), err);
  CHECK_OK(device->stream_sync(a, &err), err);
  return test_failures == 0;
}

static void end(ds_comm *c) {
  table->destroy(c);
  device->stream_destroy(a);
  device->stream_destroy(b);
  device->free(dev, x);
  device->close(dev);
}

/* Each communicator's keys are its own. */
static ds_status create(int64_t timeout_ms, ds_comm **out) {
  static const int32_t all[] = {0, 1, 2};
  static int count;
  char word[80];
  ds_store *store = NULL;
  snprintf(word, sizeof word, "%s %d", job, count++);
  ds_store_args args = {.rank = rank, .size = RANKS, .job = word, .timeout_ms = LONG_MS};
  *out = NULL;
  CHECK_OK(ds_store_create(&args, &store, &err), err);
  const ds_status st = table->create(dev, all, RANKS, ds_store_kv(store), timeout_ms, out, &err);
  ds_store_destroy(store);
  return st;
}

static ds_comm *comm_of(int64_t timeout_ms) {
  ds_comm *c;
  CHECK_OK(create(timeout_ms, &c), err);
  if (c == NULL) exit(1);
  return c;
}

static ds_status sum(ds_comm *c, ds_stream *s, int32_t dtype) {
  return table->allreduce(c, s, x, x, N, dtype, DS_REDUCE_SUM, &err);
}

/* ---------------------------------------------------------------- cases */

static char text[64];
static const char *said(const char *call) {
  snprintf(text, sizeof text, "%s on rank %d of 3: not done in 1500 ms", call, rank);
  return text;
}

/* The last rank stops between two calls. The others are told in time, with call, rank and limit; their streams die of
 * it, what waits for their events too, and others go on. */
static void stopped(void) {
  ds_event *e = NULL;
  ds_comm *part = NULL;
  ds_stream *late = NULL;
  if (!begin(rank)) return;
  ds_comm *c = comm_of(SHORT_MS), *other = comm_of(SHORT_MS), *third = comm_of(SHORT_MS);
  CHECK_OK(sum(c, a, DS_BF16), err);
  CHECK_OK(device->stream_sync(a, &err), err);
  if (rank == LAST) raise(SIGSTOP);
  CHECK_OK(device->event_create(dev, &e, &err), err);
  CHECK_OK(sum(c, a, DS_BF16), err);
  CHECK_OK(device->event_record(e, a, &err), err);
  CHECK_OK(device->event_wait(e, b, &err), err);
  CHECK_FAILS(device->stream_sync(a, &err), DS_ERR_TIMEOUT, err, said("allreduce of 100 bf16"));
  CHECK_FAILS(device->stream_sync(a, &err), DS_ERR_TIMEOUT, err, said("allreduce of 100 bf16"));
  CHECK_FAILS(sum(c, a, DS_F32), DS_ERR_TIMEOUT, err, "bf16");
  CHECK_FAILS(device->event_sync(e, &err), DS_ERR_TIMEOUT, err, "bf16");
  CHECK_FAILS(device->stream_sync(b, &err), DS_ERR_TIMEOUT, err, "bf16");
  CHECK_OK(device->stream_create(dev, &late, &err), err);
  CHECK_OK(device->fill(late, x, 0, 4, &err), err);
  CHECK_OK(device->stream_sync(late, &err), err);
  CHECK_FAILS(sum(c, late, DS_F32), DS_ERR_ABORTED, err, "allreduce");
  CHECK_FAILS(table->barrier(c, late, &err), DS_ERR_ABORTED, err, "barrier");
  CHECK_FAILS(table->split(c, 0, 0, &part, &err), DS_ERR_ABORTED, err, "split");
  /* Calls that wait fail themselves; the stream lives. */
  CHECK_FAILS(table->barrier(other, late, &err), DS_ERR_TIMEOUT, err, said("barrier"));
  CHECK_FAILS(table->split(third, 0, 0, &part, &err), DS_ERR_TIMEOUT, err, said("split"));
  CHECK_OK(device->stream_sync(late, &err), err);
  table->destroy(third);
  table->destroy(other);
  device->event_destroy(e);
  device->stream_destroy(late);
  end(c);
}

static void absent(void) {
  ds_comm *c;
  if (rank == LAST || !begin(rank)) return;
  CHECK_FAILS(create(SHORT_MS, &c), DS_ERR_TIMEOUT, err, said("create"));
  CHECK(
      strstr(err.message, rank == 0 ? "rank 2 did not come" : "rank 0, or one that it waits for"));
  end(NULL);
}

static void lost(void) {
  ds_comm *part;
  if (rank == 1) setenv("DS_NCCL_DOUBLE", "lost=2", 1);
  if (!begin(rank)) return;
  ds_comm *c = comm_of(rank == 1 ? 0 : SHORT_MS);
  CHECK_OK(sum(c, a, DS_F32), err);
  CHECK_OK(sum(c, a, DS_I32), err);
  CHECK_FAILS(device->stream_sync(a, &err), rank == 1 ? DS_ERR_DEVICE : DS_ERR_TIMEOUT, err,
              rank == 1 ? "allreduce of 100 i32 on rank 1 of 3: remote process exited"
                        : said("allreduce of 100 i32"));
  CHECK_FAILS(table->split(c, 0, 0, &part, &err), DS_ERR_ABORTED, err, "split");
  end(c);
}

/* Within the limit, which begins when the call could: the work before it doesn't count. */
static void *release(void *arg) {
  usleep(2 * SHORT_MS * 1000);
  ds_error inner;
  CHECK_OK(table->send(arg, b, x, N, DS_I8, 1, &inner), inner);
  CHECK_OK(device->stream_sync(b, &inner), inner);
  return NULL;
}

static void late(void) {
  pthread_t thread;
  setenv("DS_NCCL_DOUBLE", "late=1", 1);
  if (!begin(rank)) return;
  ds_comm *patient = comm_of(LONG_MS), *c = comm_of(SHORT_MS);
  if (rank == 0) CHECK(pthread_create(&thread, NULL, release, patient) == 0);
  if (rank == 1) CHECK_OK(table->recv(patient, a, x, N, DS_I8, 0, &err), err);
  if (rank != 1) usleep(2 * SHORT_MS * 1000);
  CHECK_OK(sum(c, a, DS_F32), err);
  CHECK_OK(device->stream_sync(a, &err), err);
  if (rank == 0) pthread_join(thread, NULL);
  table->destroy(patient);
  end(c);
}

static void one_card(void) {
  ds_comm *c;
  if (!begin(rank == 0 ? 0 : 1)) return;
  CHECK_FAILS(create(LONG_MS, &c), DS_ERR_INVALID, err, "ranks 1 and 2 both have the device at");
  CHECK(strstr(err.message, "\"device\"") && strstr(err.message, "VISIBLE_DEVICES"));
  end(NULL);
}

static void no_library(void) {
  ds_comm *c;
  if (rank == 1) setenv("DS_SIMT_COLLECTIVES", "", 1);
  if (!begin(rank)) return;
  CHECK_FAILS(create(LONG_MS, &c), DS_ERR_NOT_FOUND, err, "rank 1 on ");
  CHECK(strstr(err.message, "install NCCL") && strstr(err.message, "libdscore_nccl_double.so"));
  end(NULL);
}

static void old_library(void) {
  ds_comm *c;
  if (rank == LAST) setenv("DS_NCCL_DOUBLE", "old", 1);
  if (!begin(rank)) return;
  CHECK_FAILS(create(LONG_MS, &c), DS_ERR_NOT_FOUND, err, "21304");
  end(NULL);
}

static void no_store(void) {
  static const int32_t all[] = {0, 1, 2};
  ds_comm *c = NULL;
  if (!begin(rank)) return;
  CHECK_FAILS(table->create(dev, all, RANKS, NULL, LONG_MS, &c, &err), DS_ERR_INVALID, err,
              "MASTER_ADDR");
  end(NULL);
}

/* ---------------------------------------------------------------- the parent */

static const struct {
  const char *name;
  void (*run)(void);
} cases[] = {{"stopped", stopped},
             {"absent", absent},
             {"lost", lost},
             {"late", late},
             {"one_card", one_card},
             {"no_library", no_library},
             {"old_library", old_library},
             {"no_store", no_store}};

static pid_t start(void (*run)(void)) {
  char number[8];
  const pid_t pid = fork();
  if (pid != 0) return pid;
  test_failures = 0;
  alarm(60);
  snprintf(number, sizeof number, "%d", rank);
  setenv("RANK", number, 1);
  setenv("LOCAL_RANK", number, 1);
  setenv("WORLD_SIZE", "3", 1);
  run();
  exit(test_failures > 0);
}

int main(int argc, char **argv) {
  pid_t pids[RANKS];
  if (argc != 2) return 2;
  path = argv[1];
  setenv("DS_SIMT_DEVICES", "3", 1);
  for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
    snprintf(job, sizeof job, "test_gpu_comm %d %s", (int)getpid(), cases[i].name);
    for (rank = 0; rank < RANKS; rank++) pids[rank] = start(cases[i].run);
    for (int r = 0; r < RANKS; r++) {
      int status = 0;
      if (r == LAST && cases[i].run == stopped) kill(pids[r], SIGKILL); /* the others are done */
      CHECK(waitpid(pids[r], &status, 0) == pids[r]);
      const bool killed = r == LAST && cases[i].run == stopped;
      if (killed ? !WIFSIGNALED(status) : status != 0)
        fprintf(stderr, "case %s, rank %d: status %x\n", cases[i].name, r, status);
      CHECK(killed ? WIFSIGNALED(status) : status == 0);
    }
  }
  return TEST_RESULT();
}
