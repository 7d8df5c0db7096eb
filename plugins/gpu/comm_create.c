/* comm_create.c - communicators: how they come to be, from a list of ranks or out of another, and how they end. */
#include "comm.h"
#include "world.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

/* CONNECT_MOST: NCCL connects two ranks at their first message, which then waits for the other's call on the host; so
 * that sends stay asynchronous, create sends one between each two, up to so many ranks: each connection costs memory.
 * FAREWELL_MS: how long destroy waits for the others to destroy theirs, whose memory this rank's card may still be
 * read from; then it goes without. */
enum { CONNECT_MOST = 32, FAREWELL_MS = 2000 };

static ds_status check_ranks(const ds_comm_world *w, const int32_t *ranks, int32_t count, int *own,
                             ds_error *err) {
  *own = -1;
  if (count < 1 || ranks == NULL)
    return gpu_fail(err, DS_ERR_INVALID, "comm: a communicator needs a list of ranks");
  for (int32_t i = 0; i < count; i++) {
    if (ranks[i] < 0 || ranks[i] >= w->world_size)
      return gpu_fail(
          err, DS_ERR_INVALID,
          "comm: there is no rank %d in a world of %d; start more processes, with mpirun "
          "-n or torchrun",
          ranks[i], w->world_size);
    for (int32_t j = 0; j < i; j++)
      if (ranks[j] == ranks[i])
        return gpu_fail(err, DS_ERR_INVALID, "comm: rank %d stands twice in the list", ranks[i]);
    if (ranks[i] == w->rank) *own = i;
  }
  if (*own < 0)
    return gpu_fail(err, DS_ERR_INVALID, "comm: rank %d makes a communicator that it isn't in",
                    w->rank);
  return DS_OK;
}

/* ---------------------------------------------------------------- parts of it */

static ds_comm *comm_alloc(ds_device *dev, int64_t timeout_ms, ds_error *err) {
  pthread_condattr_t attr;
  ds_comm *c = calloc(1, sizeof *c);
  if (c == NULL) {
    gpu_fail(err, DS_ERR_MEMORY, "comm: no memory for a communicator");
    return NULL;
  }
  pthread_mutex_init(&c->lock, NULL);
  pthread_condattr_init(&attr);
  pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
  pthread_cond_init(&c->changed, &attr);
  pthread_condattr_destroy(&attr);
  c->dev = dev;
  c->size = 1;
  c->timeout_ms = timeout_ms;
  return c;
}

/* Ends NCCL's part, unless the watcher has. Another rank's NCCL may still read this one's memory, so its ends wait for each other; but not
 * for long, since nobody has to come. The watcher is gone. */
static void end_nccl(ds_comm *c) {
  gpu_nccl_result code = c->over ? GPU_NCCL_INVALID_USAGE : c->lib->CommFinalize(c->nccl);
  const int64_t until = gpu_comm_now() + gpu_comm_ns(FAREWELL_MS);
  while (code == GPU_NCCL_IN_PROGRESS && gpu_comm_now() < until) {
    const struct timespec pause = {0, 100000};
    nanosleep(&pause, NULL);
    if (c->lib->CommGetAsyncError(c->nccl, &code) != GPU_NCCL_SUCCESS) break;
  }
  if (code == GPU_NCCL_SUCCESS)
    (void)c->lib->CommDestroy(c->nccl);
  else
    (void)c->lib->CommAbort(c->nccl);
}

static void free_calls(gpu_call *k) {
  while (k != NULL) {
    gpu_call *next = k->next;
    (void)gpuEventDestroy(k->before);
    (void)gpuEventDestroy(k->after);
    gpu_fate_drop(k->fate);
    free(k);
    k = next;
  }
}

void gpu_comm_destroy(ds_comm *c) {
  if (c == NULL) return;
  (void)gpu_use(c->dev, NULL);
  pthread_mutex_lock(&c->lock);
  while (c->watched && c->calls != NULL && !c->over) pthread_cond_wait(&c->changed, &c->lock);
  pthread_mutex_unlock(&c->lock);
  gpu_watch_stop(c);
  if (c->nccl != NULL && !c->aborted) end_nccl(c);
  if (c->side != NULL) (void)gpuStreamSynchronize(c->side);
  free_calls(c->calls);
  free_calls(c->spare);
  if (c->side != NULL) (void)gpuStreamDestroy(c->side);
  if (c->token != NULL) (void)gpuFree(c->token);
  (void)gpuGetLastError();
  gpu_fate_drop(c->fate);
  pthread_cond_destroy(&c->changed);
  pthread_mutex_destroy(&c->lock);
  free(c);
}

/* What the watcher, barriers and create's messages need. */
static ds_status equip(ds_comm *c, ds_error *err) {
  void *token = NULL;
  const size_t bytes = c->size > 2 ? 2 * (size_t)c->size : 4;
  c->fate = gpu_fate_create();
  if (c->fate == NULL) return gpu_fail(err, DS_ERR_MEMORY, "comm: no memory for a communicator");
  ds_status st = gpu_check(gpuStreamCreate(&c->side), "comm: a stream", err);
  if (st == DS_OK) st = gpu_check(gpuMalloc(&token, bytes), "comm: a few bytes", err);
  c->token = token;
  if (st == DS_OK) st = gpu_check(gpuMemsetAsync(token, 0, bytes, c->side), "comm", err);
  return st == DS_OK ? gpu_watch_start(c, err) : st;
}

/* c->nccl is complete. */
static ds_status complete(ds_comm *c, int64_t until, ds_error *err) {
  ds_status st = equip(c, err);
  if (st != DS_OK) return st;
  int64_t left = until == 0 ? 0 : until - gpu_comm_now();
  if (until != 0 && left <= 0) left = 1;
  return gpu_comm_gather(c, "create", c->size <= CONNECT_MOST, left, err);
}

/* ---------------------------------------------------------------- from a list of ranks */

static ds_status join(ds_comm *c, gpu_nccl_id id, int64_t until, ds_error *err) {
  gpu_nccl_config config = {sizeof config, (unsigned)GPU_NCCL_MAGIC, GPU_NCCL_CONFIG_VERSION, 0,
                            INT32_MIN};
  pthread_mutex_lock(&c->lock);
  const gpu_nccl_result code = c->lib->CommInitRankConfig(&c->nccl, c->size, id, c->rank, &config);
  ds_status st = gpu_comm_settle(c, c->nccl, code, until, "create", err);
  pthread_mutex_unlock(&c->lock);
  return st;
}

/* As far as a limit passed, says which. */
static ds_status explain(const ds_comm *c, ds_status st, ds_error *err) {
  char why[DS_ERROR_MESSAGE_MAX];
  if (st != DS_ERR_TIMEOUT || err == NULL || strstr(err->message, "the communicator's limit"))
    return st;
  const char *text =
      strncmp(err->message, GPU_PLUGIN_NAME ": comm: ", sizeof GPU_PLUGIN_NAME ": comm: " - 1) == 0
          ? err->message + sizeof GPU_PLUGIN_NAME ": comm: " - 1
          : err->message;
  snprintf(why, sizeof why, "%s", text);
  return gpu_fail(
      err, st,
      "comm: create on rank %d of %d: not done in %lld ms, the communicator's limit: %.700s",
      c->rank, c->size, (long long)c->timeout_ms, why);
}

ds_status gpu_comm_create(ds_device *dev, const int32_t *ranks, int32_t rank_count,
                          const ds_kv_store *kv, int64_t timeout_ms, ds_comm **out, ds_error *err) {
  ds_comm_world w = {.size = sizeof w};
  gpu_nccl_id id;
  int own = -1;
  if (timeout_ms < 0)
    return gpu_fail(err, DS_ERR_INVALID, "comm: a time limit of %lld ms; 0 is none",
                    (long long)timeout_ms);
  ds_status st = gpu_world(&w, err);
  if (st == DS_OK) st = check_ranks(&w, ranks, rank_count, &own, err);
  if (st == DS_OK) st = gpu_use(dev, err);
  if (st == DS_OK && rank_count > 1 && kv == NULL)
    st = gpu_fail(err, DS_ERR_INVALID,
                  "comm: %d ranks need a key-value store to meet: set MASTER_ADDR to rank 0's host",
                  rank_count);
  if (st != DS_OK) return st;
  ds_comm *c = comm_alloc(dev, timeout_ms, err);
  if (c == NULL) return DS_ERR_MEMORY;
  c->rank = own;
  c->size = rank_count;
  if (rank_count > 1) {
    const int64_t ns = gpu_comm_ns(timeout_ms), until = ns == 0 ? 0 : gpu_comm_now() + ns;
    st = gpu_comm_meet(dev, ranks, rank_count, own, kv, until, &c->lib, &id, err);
    if (st == DS_OK) st = join(c, id, until, err);
    if (st == DS_OK) st = complete(c, until, err);
    st = explain(c, st, err);
  }
  if (st == DS_OK)
    *out = c;
  else
    gpu_comm_destroy(c);
  return st;
}

/* ---------------------------------------------------------------- out of another */

/* NCCL's own split of c, into `part`, whose nccl is NULL if this rank is in none. */
static ds_status split_nccl(ds_comm *c, int32_t color, int32_t key, ds_comm *part, int64_t until,
                            ds_error *err) {
  pthread_mutex_lock(&c->lock);
  /* NCCL may deadlock where a communicator is split that has work. The watcher sees to it that this ends. */
  while (c->calls != NULL && !c->over) pthread_cond_wait(&c->changed, &c->lock);
  ds_status st = c->over ? gpu_comm_gave_up(c, "split", err) : DS_OK;
  if (st == DS_OK) {
    const gpu_nccl_result code = c->lib->CommSplit(c->nccl, color, key, &part->nccl, NULL);
    st = gpu_comm_settle(c, c->nccl, code, until, "split", err);
  }
  if (st == DS_OK && part->nccl != NULL) {
    gpu_nccl_result code;
    if (c->lib->CommGetAsyncError(part->nccl, &code) != GPU_NCCL_SUCCESS)
      code = GPU_NCCL_INVALID_USAGE;
    st = gpu_comm_settle(c, part->nccl, code, until, "split", err);
  }
  if (st == DS_OK && part->nccl != NULL) {
    gpu_nccl_result code = c->lib->CommCount(part->nccl, &part->size);
    if (code == GPU_NCCL_SUCCESS) code = c->lib->CommUserRank(part->nccl, &part->rank);
    st = gpu_comm_settle(c, part->nccl, code, until, "split", err);
  }
  pthread_mutex_unlock(&c->lock);
  return st;
}

ds_status gpu_comm_split(ds_comm *c, int32_t color, int32_t key, ds_comm **out, ds_error *err) {
  *out = NULL;
  if (color < -1)
    return gpu_fail(err, DS_ERR_INVALID, "comm: split: color %d; it is at least 0, or -1 for none",
                    color);
  pthread_mutex_lock(&c->lock);
  const bool over = c->over;
  pthread_mutex_unlock(&c->lock);
  if (over) return gpu_comm_gave_up(c, "split", err);
  if (c->lib != NULL && c->lib->CommSplit == NULL)
    return gpu_fail(err, DS_ERR_UNSUPPORTED,
                    "comm: split needs NCCL 2.18 or newer (" GPU_COLLECTIVES ")");
  ds_status st = gpu_use(c->dev, err);
  ds_comm *part = st == DS_OK ? comm_alloc(c->dev, c->timeout_ms, err) : NULL;
  if (part == NULL) return st == DS_OK ? DS_ERR_MEMORY : st;
  const int64_t ns = gpu_comm_ns(c->timeout_ms), until = ns == 0 ? 0 : gpu_comm_now() + ns;
  part->lib = c->lib;
  if (c->lib != NULL) st = split_nccl(c, color, key, part, until, err);
  if (st == DS_OK && part->nccl != NULL && part->size > 1)
    st = complete(part, until, err);
  else if (part->nccl != NULL && part->size == 1) { /* alone, it needs none */
    end_nccl(part);
    part->nccl = NULL;
  }
  if (part->nccl == NULL) part->lib = NULL;
  if (st == DS_OK && color >= 0)
    *out = part;
  else
    gpu_comm_destroy(part);
  return st;
}
