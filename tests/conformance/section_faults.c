/* section_faults.c - the Nth call fails, for every N: a status and a message, no crash, no leak. */
#include "usage.h"
#include "work.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

enum { FAULTS_MAX = 300 };

/* ---------------------------------------------------------------- host memory */

/* Counts calls; the one numbered fail_at gets nothing. */
typedef struct miser {
  int calls, fail_at, live;
} miser;

static void *miser_alloc(void *ctx, size_t bytes) {
  miser *m = ctx;
  if (++m->calls == m->fail_at) return NULL;
  void *p = aligned_alloc(64, bytes ? (bytes + 63) / 64 * 64 : 64);
  if (p) m->live++;
  return p;
}

static void miser_free(void *ctx, void *p) {
  if (p) ((miser *)ctx)->live--;
  free(p);
}

/* What one life of a plugin came to. */
typedef enum life { LIFE_CALM, LIFE_SURVIVED, LIFE_SILENT, LIFE_LEAKED } life;

/* From the query to the close with a failing allocation; in a process of its own. */
static life live(conformance *k, miser *m) {
  static float out[WORK_N * WORK_N];
  ds_error err = check_error_new();
  const ds_version_range range = {DS_ABI_MAJOR, DS_ABI_COMPAT_MINOR, DS_ABI_MINOR, 0};
  ds_plugin_query_fn *fn = load_query(k->path, &err);
  k->host = load_host();
  k->host.ctx = m;
  k->host.alloc = miser_alloc;
  k->host.free = miser_free;
  const ds_plugin *p = fn ? fn(&k->host, range, &err) : NULL;
  if (!p) return check_explained(err.status, &err) ? LIFE_SURVIVED : LIFE_SILENT;
  k->plugin = load_adopt(p);
  int before = m->live;
  err = check_error_new();
  ds_status st = k->plugin->device->open(0, k->options, &k->dev, &err);
  if (st != DS_OK) k->dev = NULL;
  if (st == DS_OK) {
    st = k->plugin->device->stream_create(k->dev, &k->stream, &err);
    if (st != DS_OK) k->stream = NULL;
  }
  if (st == DS_OK) st = work_on(k, k->dev, k->stream, k->seed, out, &err);
  bool explained = st == DS_OK || check_explained(st, &err);
  if (st != DS_OK && k->dev && k->stream) { /* the next time there is memory again */
    ds_stream *s = NULL;
    ds_error again;
    if (k->plugin->device->stream_create(k->dev, &s, &again) != DS_OK ||
        work_on(k, k->dev, s, k->seed, out, &again) != DS_OK)
      explained = false;
    if (s) k->plugin->device->stream_destroy(s);
  }
  load_close(k);
  if (!explained) return LIFE_SILENT;
  if (m->live > before) return LIFE_LEAKED;
  return m->fail_at && m->calls >= m->fail_at ? LIFE_SURVIVED : LIFE_CALM;
}

static void host_alloc(conformance *k, tally *t) {
  if (strcmp(k->path, "reference") == 0) {
    check_unsupported(t, "built into core: it gets no ds_host");
    return;
  }
  for (int n = 1; n <= FAULTS_MAX; n++) {
    check_doing(k, "ds_host.alloc gives NULL at call %d", n);
    fflush(NULL);
    pid_t pid = fork();
    NEED(pid >= 0, "no process could be started");
    if (pid == 0) {
      miser m = {.fail_at = n};
      alarm(60);
      _exit((int)live(k, &m));
    }
    int status = 0;
    while (waitpid(pid, &status, 0) < 0 && errno == EINTR) continue;
    NEED(!WIFSIGNALED(status), "when ds_host.alloc gives NULL at call %d: ended by signal %d (%s)",
         n, WTERMSIG(status), strsignal(WTERMSIG(status)));
    life how = (life)WEXITSTATUS(status);
    NEED(how != LIFE_SILENT,
         "when ds_host.alloc gives NULL at call %d: a failure without status and message, or no "
         "recovery",
         n);
    NEED(how != LIFE_LEAKED, "when ds_host.alloc gives NULL at call %d: host memory is not freed",
         n);
    t->cases = n;
    if (how == LIFE_CALM) break; /* never came to the call */
    NEED(how == LIFE_SURVIVED, "when ds_host.alloc gives NULL at call %d: exit code %d", n,
         (int)how);
  }
  if (t->cases == 1) check_unsupported(t, "the plugin never calls ds_host.alloc");
}

/* ---------------------------------------------------------------- device memory */

static float want[WORK_N * WORK_N], got[WORK_N * WORK_N];

/* Asks for more than there is, in several sizes; then everything works as before. */
static bool exhaust(conformance *k, int i, tally *t) {
  const ds_device_table *d = k->plugin->device;
  const size_t sizes[] = {SIZE_MAX, SIZE_MAX / 2, (size_t)1 << 62, (size_t)1 << 50};
  ds_error err;
  (void)i;
  for (size_t n = 0; n < sizeof sizes / sizeof *sizes; n++) {
    void *p = NULL;
    err = check_error_new();
    check_doing(k, "alloc of %zu bytes", sizes[n]);
    ds_status st = d->alloc(k->dev, sizes[n], &p, &err);
    if (st == DS_OK) d->free(k->dev, p);
    if (st == DS_ERR_MEMORY && check_explained(st, &err)) continue;
    check_fail(t, "alloc of %zu bytes gave %d \"%.200s\"; wanted DS_ERR_MEMORY", sizes[n], (int)st,
               check_text(st, &err));
    return false;
  }
  check_doing(k, "work after memory was exhausted");
  if (work_on(k, k->dev, k->stream, k->seed, got, &err) != DS_OK)
    check_fail(t, "after memory was exhausted: %.300s", err.message);
  else if (memcmp(got, want, WORK_BYTES) != 0)
    check_fail(t, "after memory was exhausted, work gives other bits");
  return !t->failed;
}

static void memory(conformance *k, tally *t) {
  ds_error err;
  NEED(work_on(k, k->dev, k->stream, k->seed, want, &err) == DS_OK, "%.300s", err.message);
  usage_flat(k, 5, 20, exhaust, t);
}

/* Work that is refused leaves nothing, and the stream goes on. */
static bool refuse(conformance *k, int i, tally *t) {
  const ds_plugin *p = k->plugin;
  const ds_gemm g = {.size = sizeof g, .m = 4, .n = 4, .k = 4, .batch = 1, .epilogue = 99};
  const ds_op op = {.size = sizeof op, .id = 9999};
  ds_error err;
  (void)i;
  bool ok = (!p->gemm || p->gemm->run(k->stream, &g, &err) != DS_OK) &&
            (!p->ops || p->ops->run(k->stream, &op, &err) != DS_OK);
  if (!ok) check_fail(t, "an epilogue or an op that doesn't exist is taken");
  if (ok && work_on(k, k->dev, k->stream, k->seed, got, &err) != DS_OK) {
    check_fail(t, "after work was refused: %.300s", err.message);
    ok = false;
  }
  return ok;
}

static void refused(conformance *k, tally *t) {
  usage_flat(k, 5, 20, refuse, t);
}

/* ---------------------------------------------------------------- the store of a communicator */

typedef struct broken_store {
  int calls, fail_at;
} broken_store;

static ds_status store_fails(void *ctx, ds_error *err) {
  broken_store *b = ctx;
  if (++b->calls != b->fail_at) return DS_OK;
  if (err) *err = (ds_error){DS_ERR_IO, "the store is gone (by order of ds conform)"};
  return DS_ERR_IO;
}

static ds_status store_set(void *ctx, const char *key, const void *value, size_t bytes,
                           ds_error *err) {
  (void)key, (void)value, (void)bytes;
  return store_fails(ctx, err);
}

static ds_status store_get(void *ctx, const char *key, void *value, size_t *bytes,
                           int64_t timeout_ms, ds_error *err) {
  (void)key, (void)timeout_ms;
  ds_status st = store_fails(ctx, err);
  if (st == DS_OK) memset(value, 0, *bytes);
  return st;
}

/* A communicator of this rank alone; of several: comm/kv-fault. */
static void store(conformance *k, tally *t) {
  const int32_t self = 0;
  if (!k->plugin->comm) {
    check_unsupported(t, "the plugin has no comm table");
    return;
  }
  for (int n = 1; n <= FAULTS_MAX; n++) {
    broken_store b = {.fail_at = n};
    const ds_kv_store kv = {{sizeof kv, DS_ABI_MAJOR, DS_ABI_MINOR}, &b, store_set, store_get};
    ds_comm *c = NULL;
    ds_error err = check_error_new();
    check_doing(k, "comm create while call %d of the store fails", n);
    ds_status st = k->plugin->comm->create(k->dev, &self, 1, &kv, 5000, &c, &err);
    t->cases = n;
    if (st == DS_OK) k->plugin->comm->destroy(c);
    NEED(st == DS_OK || check_explained(st, &err), "create gave %d \"%.200s\"", (int)st,
         check_text(st, &err));
    NEED(b.calls >= n || st == DS_OK, "create of one rank: %.300s", err.message);
    NEED(b.calls < n || st != DS_OK, "create succeeds though call %d of the store failed", n);
    if (b.calls < n) break;
  }
  if (t->cases == 1) check_unsupported(t, "the store isn't used for one rank");
}

UNIT_OF(host_alloc, "host-alloc")
UNIT_OF(memory, "memory")
UNIT_OF(refused, "refused-work")
UNIT_OF(store, "kv-store")

const unit faults_units[] = {{"host-alloc", unit_host_alloc, NEEDS_NOTHING, false},
                             {"memory", unit_memory, NEEDS_DEVICE, false},
                             {"refused-work", unit_refused, NEEDS_DEVICE, false},
                             {"kv-store", unit_store, NEEDS_DEVICE, false},
                             {0}};
