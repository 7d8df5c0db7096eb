/* watch.c - the thread that looks after a communicator's calls in flight. */
#include "comm.h"

#include <signal.h>
#include <stdarg.h>
#include <stdio.h>

enum { LOOK_NS = 2000000 }; /* between two looks, while calls are in flight */

ds_status gpu_comm_end(ds_comm *c, ds_status status, const char *what, ds_error *err,
                       const char *format, ...) {
  char why[500];
  va_list args;
  if (c->over) return gpu_comm_gave_up(c, what, err);
  const int n = snprintf(why, sizeof why, "comm: %s on rank %d of %d: ", what, c->rank, c->size);
  va_start(args, format);
  vsnprintf(why + n, sizeof why - (size_t)n, format, args);
  va_end(args);
  c->over = true;
  for (gpu_call *k = c->calls; k != NULL; k = k->next)
    gpu_fate_end(k->fate, k->position, status, "%s", why);
  pthread_cond_broadcast(&c->changed);
  return gpu_fail(err, status, "%s", why);
}

ds_status gpu_comm_late(ds_comm *c, const char *what, ds_error *err) {
  return gpu_comm_end(
      c, DS_ERR_TIMEOUT, what, err,
      "not done in %lld ms, the communicator's limit; another rank is late, gone or "
      "makes another call",
      (long long)c->timeout_ms);
}

static void retire(ds_comm *c, gpu_call **at) {
  gpu_call *k = *at;
  *at = k->next;
  gpu_fate_drop(k->fate);
  k->fate = NULL;
  k->next = c->spare;
  c->spare = k;
  pthread_cond_broadcast(&c->changed);
}

/* Whether k is still in flight; a failure ends c. */
static bool is_in_flight(ds_comm *c, gpu_call *k) {
  const gpuError_t after = gpuEventQuery(k->after);
  (void)gpuGetLastError();
  if (after == gpuSuccess) return false;
  if (after != gpuErrorNotReady) {
    (void)gpu_comm_end(c, DS_ERR_DEVICE, k->what, NULL, "the device failed: %s (%s)",
                       gpuGetErrorName(after), gpuGetErrorString(after));
    return true;
  }
  if (k->limit_ns == 0) return true;
  const int64_t now = gpu_comm_now();
  if (k->began_ns == 0 && gpuEventQuery(k->before) == gpuSuccess) k->began_ns = now;
  (void)gpuGetLastError();
  if (k->began_ns != 0 && now - k->began_ns > k->limit_ns) (void)gpu_comm_late(c, k->what, NULL);
  return true;
}

/* What NCCL itself has found out: a peer that is gone, a network that failed. */
static void ask_nccl(ds_comm *c) {
  gpu_nccl_result state = GPU_NCCL_SUCCESS;
  if (c->lib->CommGetAsyncError(c->nccl, &state) != GPU_NCCL_SUCCESS) return;
  if (state == GPU_NCCL_SUCCESS || state == GPU_NCCL_IN_PROGRESS) return;
  const char *more = c->lib->GetLastError != NULL ? c->lib->GetLastError(c->nccl) : NULL;
  (void)gpu_comm_end(c, DS_ERR_DEVICE, c->calls->what, NULL, "%s: %.300s",
                     c->lib->GetErrorString(state), more != NULL ? more : "");
}

static void look(ds_comm *c) {
  for (gpu_call **at = &c->calls; *at != NULL && !c->over;) {
    if (is_in_flight(c, *at))
      at = &(*at)->next;
    else
      retire(c, at);
  }
  if (!c->over && c->calls != NULL) ask_nccl(c);
}

/* Nobody else calls NCCL on c once it is over. */
static void abort_nccl(ds_comm *c) {
  pthread_mutex_unlock(&c->lock);
  (void)c->lib->CommAbort(c->nccl);
  (void)gpuGetLastError();
  pthread_mutex_lock(&c->lock);
  c->aborted = true;
}

static void *watch(void *arg) {
  ds_comm *c = arg;
  (void)gpu_use(c->dev, NULL);
  pthread_mutex_lock(&c->lock);
  for (;;) {
    if (c->over) {
      abort_nccl(c);
      break;
    }
    look(c);
    if (c->over) continue;
    if (c->closing) break;
    if (c->calls == NULL) {
      pthread_cond_wait(&c->changed, &c->lock);
      continue;
    }
    const int64_t next = gpu_comm_now() + LOOK_NS;
    const struct timespec t = {next / 1000000000, next % 1000000000};
    pthread_cond_timedwait(&c->changed, &c->lock, &t);
  }
  pthread_mutex_unlock(&c->lock);
  return NULL;
}

ds_status gpu_watch_start(ds_comm *c, ds_error *err) {
  sigset_t all, before; /* the host's signals are the host's threads' */
  sigfillset(&all);
  pthread_sigmask(SIG_SETMASK, &all, &before);
  c->watched = pthread_create(&c->watcher, NULL, watch, c) == 0;
  pthread_sigmask(SIG_SETMASK, &before, NULL);
  return c->watched ? DS_OK : gpu_fail(err, DS_ERR_MEMORY, "comm: no thread for a communicator");
}

void gpu_watch_stop(ds_comm *c) {
  pthread_mutex_lock(&c->lock);
  c->closing = true;
  pthread_cond_broadcast(&c->changed);
  pthread_mutex_unlock(&c->lock);
  if (c->watched) pthread_join(c->watcher, NULL);
  c->watched = false;
}
