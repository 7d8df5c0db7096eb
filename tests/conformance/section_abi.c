/* section_abi.c - the query and the tables it gives; that the caller's process stays as it is. */
#include "page.h"
#include "work.h"

#include <fenv.h>
#include <locale.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#if defined(__SSE__)
#include <xmmintrin.h>
#endif

static bool is_reference(conformance *k, tally *t) {
  if (strcmp(k->path, "reference") != 0) return false;
  check_unsupported(t, "built into core: there is no query");
  return true;
}

/* Each caller is a process of its own, so that this is the first query. */
static const ds_plugin *query(conformance *k, const ds_host *host, ds_version_range range,
                              ds_error *err, tally *t) {
  ds_plugin_query_fn *fn = load_query(k->path, err);
  if (!fn) {
    check_fail(t, "%s", err->message);
    return NULL;
  }
  return fn(host, range, err);
}

static void query_future(conformance *k, tally *t) {
  ds_error err = check_error_new();
  if (is_reference(k, t)) return;
  k->host = load_host();
  const ds_plugin *p =
      query(k, &k->host, (ds_version_range){DS_ABI_MAJOR, DS_ABI_COMPAT_MINOR, DS_ABI_MINOR + 5, 0},
            &err, t);
  NEED(p || t->failed, "refuses a newer host (minors %d to %d): %.300s", DS_ABI_COMPAT_MINOR,
       DS_ABI_MINOR + 5, err.message);
  NEED(!p || p->base.minor <= DS_ABI_MINOR + 5, "agreed to minor %u, which the host doesn't know",
       p->base.minor);
}

static void refuses(conformance *k, ds_version_range range, const char *what, tally *t) {
  ds_error err = check_error_new();
  if (is_reference(k, t)) return;
  k->host = load_host();
  const ds_plugin *p = query(k, &k->host, range, &err, t);
  if (t->failed) return;
  NEED(!p, "answers a host of %s", what);
  NEED(err.status == DS_ERR_VERSION && check_explained(err.status, &err),
       "refuses a host of %s with status %d and the message \"%.200s\"; wanted DS_ERR_VERSION and "
       "the two ranges",
       what, (int)err.status, err.message);
}

static void query_major(conformance *k, tally *t) {
  refuses(k, (ds_version_range){DS_ABI_MAJOR + 1, 0, 3, 0}, "another major", t);
}

static void query_minor(conformance *k, tally *t) {
  refuses(k, (ds_version_range){DS_ABI_MAJOR, 60000, 60001, 0}, "minors yet to come only", t);
}

/* A host as today's: nothing behind its size can be read. */
static void query_host(conformance *k, tally *t) {
  const ds_version_range range = {DS_ABI_MAJOR, DS_ABI_COMPAT_MINOR, DS_ABI_MINOR, 0};
  ds_error err = check_error_new();
  if (is_reference(k, t)) return;
  ds_host host = load_host();
  const ds_plugin *p = query(k, page_end(&host, sizeof host), range, &err, t);
  NEED(p || t->failed, "refuses a host of this version: %.300s", err.message);
  if (!p) return;
  k->plugin = load_adopt(p);
  ds_error why = {0};
  NEED(load_device(k, &why), "%s", why.message);
}

/* ---------------------------------------------------------------- tables */

typedef struct function {
  const char *name;
  size_t offset;
  int group; /* 0: required; others: all of a group, whose lines follow each other, or none */
} function;

#define F(table, name, group)                                                                      \
  { #name, offsetof(table, name), group }
#define DEVICE(name, group) F(ds_device_table, name, group)
#define COMM(name)          F(ds_comm_table, name, 0)

static const function device_functions[] = {DEVICE(count, 0),
                                            DEVICE(open, 0),
                                            DEVICE(close, 0),
                                            DEVICE(info, 0),
                                            DEVICE(alloc, 0),
                                            DEVICE(free, 0),
                                            DEVICE(stream_create, 0),
                                            DEVICE(stream_destroy, 0),
                                            DEVICE(stream_sync, 0),
                                            DEVICE(upload, 0),
                                            DEVICE(download, 0),
                                            DEVICE(event_create, 1),
                                            DEVICE(event_destroy, 1),
                                            DEVICE(event_record, 1),
                                            DEVICE(event_wait, 1),
                                            DEVICE(event_sync, 1),
                                            DEVICE(host_alloc, 2),
                                            DEVICE(host_free, 2),
                                            DEVICE(upload_async, 2),
                                            DEVICE(download_async, 2),
                                            DEVICE(stream_alloc, 3),
                                            DEVICE(stream_free, 3),
                                            {NULL, 0, 0}};
static const function gemm_functions[] = {F(ds_gemm_table, supports, 0),
                                          F(ds_gemm_table, run, 0),
                                          F(ds_gemm_table, pack_size, 1),
                                          F(ds_gemm_table, pack_b, 1),
                                          {NULL, 0, 0}};
static const function quant_functions[] = {F(ds_quant_table, supports, 0),
                                           F(ds_quant_table, quantize, 0),
                                           F(ds_quant_table, dequantize, 0),
                                           F(ds_quant_table, gemm, 0),
                                           {NULL, 0, 0}};
static const function comm_functions[] = {
    COMM(world),     COMM(create),    COMM(destroy), COMM(allreduce), COMM(reduce_scatter),
    COMM(allgather), COMM(broadcast), COMM(barrier), COMM(send),      COMM(recv),
    COMM(alltoall),  COMM(split),     COMM(rank),    COMM(abort),     {NULL, 0, 0}};
static const function ops_functions[] = {
    F(ds_ops_table, supports, 0), F(ds_ops_table, run, 0), {NULL, 0, 0}};
static const function graph_functions[] = {F(ds_graph_table, begin, 0),
                                           F(ds_graph_table, end, 0),
                                           F(ds_graph_table, launch, 0),
                                           F(ds_graph_table, destroy, 0),
                                           {NULL, 0, 0}};

static bool is_set(const void *table, const function *f) {
  void *p = NULL;
  uint32_t size = ((const ds_table *)table)->size;
  if (size >= f->offset + sizeof p) memcpy(&p, (const char *)table + f->offset, sizeof p);
  return p != NULL;
}

static void check_table(const char *name, const void *table, const function *list, tally *t) {
  const ds_table *base = table;
  if (!table) return;
  NEED(base->size >= sizeof *base && base->size <= 65536 && base->size % 8 == 0,
       "the %s table says that it has %u bytes", name, base->size);
  NEED(base->major == DS_ABI_MAJOR && base->minor <= DS_ABI_MINOR,
       "the %s table has version %u.%u; the host speaks %d.%d to %d.%d", name, base->major,
       base->minor, DS_ABI_MAJOR, DS_ABI_COMPAT_MINOR, DS_ABI_MAJOR, DS_ABI_MINOR);
  const char *present = NULL, *absent = NULL;
  for (const function *f = list; f->name; f++) {
    NEED(f->group != 0 || is_set(table, f), "the %s table lacks the required function %s", name,
         f->name);
    if (f > list && f->group != f[-1].group) present = absent = NULL;
    if (f->group != 0) *(is_set(table, f) ? &present : &absent) = f->name;
    NEED(!present || !absent, "the %s table has %s without %s: all of a group or none", name,
         present, absent);
  }
}

static void tables(conformance *k, tally *t) {
  const ds_version_range range = {DS_ABI_MAJOR, DS_ABI_COMPAT_MINOR, DS_ABI_MINOR, 0};
  ds_error err = check_error_new();
  const ds_plugin *p = NULL;
  k->host = load_host();
  if (strcmp(k->path, "reference") != 0) {
    p = query(k, &k->host, range, &err, t);
    NEED(p || t->failed, "refuses: %.300s", err.message);
  } else if (load_plugin(k, &err))
    p = k->plugin;
  if (!p) return;
  static const function none[] = {{NULL, 0, 0}};
  check_table("plugin", p, none, t);
  if (t->failed) return;
  NEED(p->base.size >= offsetof(ds_plugin, gemm), "the plugin table has no room for device");
  NEED(p->base.minor >= DS_ABI_COMPAT_MINOR, "agreed to minor %u, the host begins with %d",
       p->base.minor, DS_ABI_COMPAT_MINOR);
  NEED(p->name && p->version && p->description && p->device,
       "name, version, description and device must be set");
  check_table("device", p->device, device_functions, t);
  if (DS_HAS(p, gemm)) check_table("gemm", p->gemm, gemm_functions, t);
  if (DS_HAS(p, quant)) check_table("quant", p->quant, quant_functions, t);
  if (DS_HAS(p, comm)) check_table("comm", p->comm, comm_functions, t);
  if (DS_HAS(p, ops)) check_table("ops", p->ops, ops_functions, t);
  if (DS_HAS(p, graph)) check_table("graph", p->graph, graph_functions, t);
}

/* ---------------------------------------------------------------- the caller's process */

typedef struct surroundings {
  struct sigaction handlers[65];
  sigset_t mask;
  char locale[256], folder[1024];
  uint64_t environment;
  int rounding;
  unsigned control; /* flush to zero, denormals are zero, masks */
  mode_t umask_;
} surroundings;

extern char **environ;

static void look(surroundings *s) {
  memset(s, 0, sizeof *s);
  for (int i = 1; i < 65; i++) sigaction(i, NULL, &s->handlers[i]);
  sigprocmask(SIG_SETMASK, NULL, &s->mask);
  const char *locale = setlocale(LC_ALL, NULL);
  snprintf(s->locale, sizeof s->locale, "%s", locale ? locale : "");
  if (!getcwd(s->folder, sizeof s->folder)) s->folder[0] = '\0';
  s->environment = 5381;
  for (char **e = environ; e && *e; e++)
    for (const char *c = *e; *c; c++) s->environment = s->environment * 33 + (unsigned char)*c;
  s->rounding = fegetround();
#if defined(__SSE__)
  s->control = _mm_getcsr() & ~0x3fu;
#endif
  s->umask_ = umask(0);
  umask(s->umask_);
}

/* The C library adds this flag to whatever it sets, so also where a handler is put back. */
#define ADDED_BY_LIBC 0x04000000 /* SA_RESTORER */

static void compare(const surroundings *a, const surroundings *b, tally *t) {
  for (int i = 1; i < 65; i++)
    NEED(a->handlers[i].sa_handler == b->handlers[i].sa_handler &&
             (a->handlers[i].sa_flags | ADDED_BY_LIBC) == (b->handlers[i].sa_flags | ADDED_BY_LIBC),
         "changed the handler of signal %d (%s)", i, strsignal(i));
  for (int i = 1; i < 65; i++)
    NEED(sigismember(&a->mask, i) == sigismember(&b->mask, i),
         "left signal %d (%s) otherwise blocked", i, strsignal(i));
  NEED(strcmp(a->locale, b->locale) == 0, "changed the locale from %s to %s", a->locale, b->locale);
  NEED(strcmp(a->folder, b->folder) == 0, "changed the current directory to %s", b->folder);
  NEED(a->environment == b->environment, "changed the environment");
  NEED(a->rounding == b->rounding, "changed the rounding mode");
  NEED(a->control == b->control,
       "changed the thread's floating-point control (flush to zero, denormals): %#x to %#x",
       a->control, b->control);
  NEED(a->umask_ == b->umask_, "changed the umask");
}

static void manners(conformance *k, tally *t) {
  static float out[WORK_N * WORK_N];
  surroundings before, after;
  ds_error err = {0};
  look(&before);
  bool loaded = load_plugin(k, &err) && load_device(k, &err);
  check_doing(k, "upload, a product or copy, an add, download");
  if (!loaded)
    check_fail(t, "%s", err.message);
  else if (work_on(k, k->dev, k->stream, k->seed, out, &err) != DS_OK)
    check_fail(t, "a little work: %s", err.message);
  look(&after);
  compare(&before, &after, t);
  load_close(k);
  look(&after);
  if (!t->failed) compare(&before, &after, t);
}

UNIT_OF(query_future, "query-future")
UNIT_OF(query_major, "query-major")
UNIT_OF(query_minor, "query-minor")
UNIT_OF(query_host, "query-host")
UNIT_OF(tables, "tables")
UNIT_OF(manners, "manners")

const unit abi_units[] = {{"query-future", unit_query_future, NEEDS_NOTHING, false},
                          {"query-major", unit_query_major, NEEDS_NOTHING, false},
                          {"query-minor", unit_query_minor, NEEDS_NOTHING, false},
                          {"query-host", unit_query_host, NEEDS_NOTHING, false},
                          {"tables", unit_tables, NEEDS_NOTHING, false},
                          {"manners", unit_manners, NEEDS_NOTHING, false},
                          {0}};
