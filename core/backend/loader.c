#include "backend/loader.h"

#include <dlfcn.h>
#include <float.h>
#include <math.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "backend/guard.h"
#include "backend/note.h"
#include "backend/probe.h"
#include "backend/reference/reference.h"
#include "base/str.h"

struct ds_loaded {
  ds_identity id; /* of the file */
  bool loaded;    /* its code is in the process, for good */
  char name[sizeof((ds_note *)0)->name];
  ds_host host;
  double limit;     /* where it isn't loaded: a probe with a larger limit may try it again */
  ds_status status; /* of the query; what it said is kept */
  char *reason;
  ds_plugin plugin; /* points to the copies below */
  ds_device_table device_table;
  ds_gemm_table gemm;
  ds_quant_table quant;
  ds_comm_table comm;
  ds_ops_table ops;
  ds_graph_table graph;
  struct ds_loaded *next;
};

/* See loader.h for why this is global. Two locks, because a plugin logs while it is being loaded.
 */
static struct {
  pthread_mutex_t load_lock;
  ds_loaded *loaded;
  bool pinned;
  pthread_mutex_t log_lock;
  ds_listener *listeners;
} process = {.load_lock = PTHREAD_MUTEX_INITIALIZER, .log_lock = PTHREAD_MUTEX_INITIALIZER};

/* ---- host services */

static void host_log(void *ctx, ds_log_level level, const char *message) {
  const ds_loaded *l = ctx;
  pthread_mutex_lock(&process.log_lock);
  for (const ds_listener *i = process.listeners; i; i = i->next) {
    if (i->plugin == l) ds_log(&i->logger, level, "%s: %s", l->name, message ? message : "");
  }
  pthread_mutex_unlock(&process.log_lock);
}

static void *host_alloc(void *ctx, size_t bytes) {
  (void)ctx;
  if (bytes > SIZE_MAX - 63) return NULL;
  size_t rounded = (bytes + 63) & ~(size_t)63; /* aligned_alloc wants a multiple */
  return aligned_alloc(64, rounded ? rounded : 64);
}

static void host_free(void *ctx, void *p) {
  (void)ctx;
  free(p);
}

void ds_loader_listen(ds_listener *listener, const ds_loaded *l, const ds_logger *logger) {
  listener->plugin = l;
  listener->logger = logger ? *logger : (ds_logger){NULL, NULL};
  pthread_mutex_lock(&process.log_lock);
  listener->next = process.listeners;
  process.listeners = listener;
  pthread_mutex_unlock(&process.log_lock);
}

void ds_loader_unlisten(ds_listener *listener) {
  if (!listener->plugin) return;
  pthread_mutex_lock(&process.log_lock);
  for (ds_listener **at = &process.listeners; *at; at = &(*at)->next) {
    if (*at == listener) {
      *at = listener->next;
      break;
    }
  }
  pthread_mutex_unlock(&process.log_lock);
  memset(listener, 0, sizeof *listener);
}

/* ---- tables */

/* A function of a table: required, optional by itself, or one of a group that is all there or all
 * absent. Groups of one table stand apart from each other. */
enum { REQUIRED, ALONE, GROUP, HOST_GROUP, STREAM_GROUP };
typedef struct function {
  const char *name;
  size_t offset;
  int need;
} function;

#define FUNCTION(table, name, need)                                                                \
  { #name, offsetof(table, name), need }
#define DEVICE(name) FUNCTION(ds_device_table, name, REQUIRED)
#define OPTION(name) FUNCTION(ds_device_table, name, ALONE)
#define EVENT(name)  FUNCTION(ds_device_table, name, GROUP)
#define HOST(name)   FUNCTION(ds_device_table, name, HOST_GROUP)
#define STREAM(name) FUNCTION(ds_device_table, name, STREAM_GROUP)
#define COMM(name)   FUNCTION(ds_comm_table, name, REQUIRED)

static const function device_functions[] = {
    DEVICE(count),       DEVICE(open),         DEVICE(close),         DEVICE(info),
    DEVICE(alloc),       DEVICE(free),         DEVICE(stream_create), DEVICE(stream_destroy),
    DEVICE(stream_sync), DEVICE(upload),       DEVICE(download),      OPTION(copy),
    OPTION(fill),        EVENT(event_create),  EVENT(event_destroy),  EVENT(event_record),
    EVENT(event_wait),   EVENT(event_sync),    HOST(host_alloc),      HOST(host_free),
    HOST(upload_async),  HOST(download_async), STREAM(stream_alloc),  STREAM(stream_free),
    OPTION(peer_copy),   {NULL, 0, 0}};
static const function gemm_functions[] = {FUNCTION(ds_gemm_table, supports, REQUIRED),
                                          FUNCTION(ds_gemm_table, run, REQUIRED),
                                          FUNCTION(ds_gemm_table, pack_size, GROUP),
                                          FUNCTION(ds_gemm_table, pack_b, GROUP),
                                          {NULL, 0, 0}};
static const function quant_functions[] = {FUNCTION(ds_quant_table, supports, REQUIRED),
                                           FUNCTION(ds_quant_table, quantize, REQUIRED),
                                           FUNCTION(ds_quant_table, dequantize, REQUIRED),
                                           FUNCTION(ds_quant_table, gemm, REQUIRED),
                                           {NULL, 0, 0}};
static const function comm_functions[] = {
    COMM(world),     COMM(create),    COMM(destroy), COMM(allreduce), COMM(reduce_scatter),
    COMM(allgather), COMM(broadcast), COMM(barrier), COMM(send),      COMM(recv),
    COMM(alltoall),  COMM(split),     COMM(rank),    COMM(abort),     {NULL, 0, 0}};
static const function ops_functions[] = {FUNCTION(ds_ops_table, supports, REQUIRED),
                                         FUNCTION(ds_ops_table, run, REQUIRED),
                                         {NULL, 0, 0}};
static const function graph_functions[] = {FUNCTION(ds_graph_table, begin, REQUIRED),
                                           FUNCTION(ds_graph_table, end, REQUIRED),
                                           FUNCTION(ds_graph_table, launch, REQUIRED),
                                           FUNCTION(ds_graph_table, destroy, REQUIRED),
                                           {NULL, 0, 0}};

static bool is_set(const void *table, size_t offset) {
  void *p;
  memcpy(&p, (const char *)table + offset, sizeof p);
  return p != NULL;
}

static ds_status check_functions(const char *name, const void *table, const function *list,
                                 ds_error *err) {
  const function *present = NULL, *absent = NULL;
  for (const function *f = list; f->name; f++) {
    if (f > list && f->need != f[-1].need) present = absent = NULL;
    bool set = is_set(table, f->offset);
    if (f->need == REQUIRED && !set) {
      return ds_fail(err, DS_ERR_VERSION,
                     "its %s table lacks the required function \"%s\"; the plugin must supply it",
                     name, f->name);
    }
    if (f->need >= GROUP) *(set ? &present : &absent) = f;
    if (present && absent) {
      return ds_fail(err, DS_ERR_VERSION,
                     "its %s table has \"%s\" without \"%s\"; they are optional only together",
                     name, present->name, absent->name);
    }
  }
  return DS_OK;
}

/* Copies what both sides know of a table; the rest of `to` is zero. Only whole fields count: after
 * its ds_table a table has nothing but pointers. */
static ds_status copy_table(const char *name, void *to, size_t size, const void *from,
                            const function *list, ds_error *err) {
  ds_table base;
  memset(to, 0, size);
  if ((uintptr_t)from % _Alignof(ds_plugin) != 0) {
    return ds_fail(err, DS_ERR_VERSION, "its %s table lies at a misaligned address; build it again",
                   name);
  }
  memcpy(&base, from, sizeof base);
  if (base.size < sizeof base || base.size > 65536) {
    return ds_fail(err, DS_ERR_VERSION, "its %s table says that it has %u bytes; build it again",
                   name, base.size);
  }
  if (base.major != DS_ABI_MAJOR) {
    return ds_fail(err, DS_ERR_VERSION,
                   "its %s table has version %u.%u, this dscore knows %d.x: upgrade %s", name,
                   base.major, base.minor, DS_ABI_MAJOR,
                   base.major > DS_ABI_MAJOR ? "dscore" : "the plugin");
  }
  size_t common = base.size < size ? base.size : size;
  common -= (common - sizeof base) % sizeof(void *);
  memcpy(to, from, common);
  ((ds_table *)to)->size = (uint32_t)size;
  return check_functions(name, to, list, err);
}

#define COPY_TABLE(l, member, storage, err)                                                        \
  do {                                                                                             \
    if ((l)->plugin.member) {                                                                      \
      DS_TRY(copy_table(#member, &(l)->storage, sizeof(l)->storage, (l)->plugin.member,            \
                        member##_functions, err));                                                 \
      (l)->plugin.member = &(l)->storage;                                                          \
    }                                                                                              \
  } while (0)

static const function plugin_functions[] = {{NULL, 0, 0}};

enum { TEXT_MAX = 4096 };

static ds_status check_text(const char *name, const char *text, ds_error *err) {
  if (!text || strnlen(text, TEXT_MAX) < TEXT_MAX) return DS_OK;
  return ds_fail(err, DS_ERR_FORMAT, "its %s has no end within %d bytes", name, TEXT_MAX);
}

/* The complete form of what the query gave. */
static ds_status adopt(ds_loaded *l, const ds_plugin *p, ds_error *err) {
  DS_TRY(copy_table("plugin", &l->plugin, sizeof l->plugin, p, plugin_functions, err));
  DS_TRY(check_text("name", l->plugin.name, err));
  DS_TRY(check_text("version", l->plugin.version, err));
  DS_TRY(check_text("description", l->plugin.description, err));
  if (!l->plugin.name || strcmp(l->plugin.name, l->name) != 0) {
    return ds_fail(err, DS_ERR_FORMAT,
                   "its note has the name \"%s\", its table \"%.40s\"; they must agree", l->name,
                   l->plugin.name ? l->plugin.name : "(none)");
  }
  if (l->plugin.base.minor < DS_ABI_COMPAT_MINOR) {
    return ds_fail(err, DS_ERR_VERSION,
                   "it agreed to ABI %u.%u, this dscore speaks %d.%d to %d.%d: upgrade the plugin",
                   l->plugin.base.major, l->plugin.base.minor, DS_ABI_MAJOR, DS_ABI_COMPAT_MINOR,
                   DS_ABI_MAJOR, DS_ABI_MINOR);
  }
  /* One that answers with its own minor speaks no newer for that: sizes say what is there. */
  if (l->plugin.base.minor > DS_ABI_MINOR) l->plugin.base.minor = DS_ABI_MINOR;
  if (!l->plugin.version) l->plugin.version = "";
  if (!l->plugin.description) l->plugin.description = "";
  if (!l->plugin.device) {
    return ds_fail(err, DS_ERR_VERSION, "it has no device table, which is required");
  }
  DS_TRY(copy_table("device", &l->device_table, sizeof l->device_table, l->plugin.device,
                    device_functions, err));
  l->plugin.device = &l->device_table;
  COPY_TABLE(l, gemm, gemm, err);
  COPY_TABLE(l, quant, quant, err);
  COPY_TABLE(l, comm, comm, err);
  COPY_TABLE(l, ops, ops, err);
  COPY_TABLE(l, graph, graph, err);
  return DS_OK;
}

/* ---- loading */

/* Reads a byte of every function: one that points nowhere is found in the probe's child. */
static void touch(const void *table, const function *list) {
  for (; table && list->name; list++) {
    const volatile unsigned char *code;
    memcpy(&code, (const char *)table + list->offset, sizeof code);
    if (code) (void)*code;
  }
}

/* A ds_probe_check: what adopt will do, in the child. */
static ds_status try_adopt(void *ctx, const ds_plugin *p, ds_error *err) {
  ds_loaded *l = ctx;
  DS_TRY(adopt(l, p, err));
  touch(l->plugin.device, device_functions);
  touch(l->plugin.gemm, gemm_functions);
  touch(l->plugin.quant, quant_functions);
  touch(l->plugin.comm, comm_functions);
  touch(l->plugin.ops, ops_functions);
  touch(l->plugin.graph, graph_functions);
  return DS_OK;
}

/* The places where the dynamic linker looked for a missing library, in its order. */
static void add_searched(ds_str *s) {
  Dl_serinfo size, *info = NULL;
  void *self = dlopen(NULL, RTLD_NOW | RTLD_LOCAL);
  if (self && dlinfo(self, RTLD_DI_SERINFOSIZE, &size) == 0) info = calloc(1, size.dls_size);
  if (info) {
    memcpy(info, &size, sizeof size < size.dls_size ? sizeof size : size.dls_size);
    if (dlinfo(self, RTLD_DI_SERINFO, info) == 0) {
      for (unsigned i = 0; i < info->dls_cnt; i++) {
        ds_str_printf(s, "%s%s", i ? ":" : "", info->dls_serpath[i].dls_name);
      }
    }
  }
  free(info);
  if (self) dlclose(self);
}

/* dlerror's text is "FILE: what" where FILE is the plugin or, when a dependency is missing, that
 * library's name. */
static ds_status explain_dlerror(const ds_candidate *c, const char *text, ds_error *err) {
  static const char missing[] = ": cannot open shared object file";
  const char *at = strstr(text, missing);
  size_t own = strlen(c->path);
  if (strncmp(text, c->path, own) == 0 && text[own] == ':') {
    const char *rest = text + own + 1 + strspn(text + own + 1, " ");
    const char *cure = strstr(rest, "undefined symbol")
                           ? "; either it lacks a file or a library of its own (link it "
                             "with -Wl,-z,defs to see), or a library is older than at its build"
                           : "";
    return ds_fail(err, DS_ERR_FORMAT, "can't be loaded: %.400s%s (it needs: %s)", rest, cure,
                   c->note.needs[0] ? c->note.needs : "not said");
  }
  if (!at) {
    return ds_fail(err, DS_ERR_FORMAT, "can't be loaded: %s%s", text,
                   strstr(text, "version `") ? "; that library is older than the one it was built "
                                               "with: upgrade it"
                                             : "");
  }
  ds_str searched = {0};
  add_searched(&searched);
  ds_status status = ds_fail(
      err, DS_ERR_NOT_FOUND,
      /* The cure before the places: a list of candidates may cut them. */
      "needs the library %.*s, which is not on this machine; install it, or add its folder to "
      "LD_LIBRARY_PATH (the plugin needs: %s); looked in the plugin's own RUNPATH, "
      "/etc/ld.so.cache and %.400s",
      (int)(at - text), text, c->note.needs[0] ? c->note.needs : "not said",
      searched.data ? searched.data : "the system's folders");
  ds_str_finish(&searched);
  return status;
}

/* Plugins keep the address of host services, so the library they are in must never go away. */
static void pin_core(void) {
  Dl_info info;
  if (process.pinned || !dladdr(&process, &info) || !info.dli_fname) return;
  /* Fails for a program that core is linked into, which stays anyway. */
  process.pinned = dlopen(info.dli_fname, RTLD_NOW | RTLD_NOLOAD | RTLD_NODELETE) != NULL;
  if (!process.pinned) (void)dlerror();
}

static ds_status query(ds_loaded *l, void *symbol, ds_error *err) {
  const ds_version_range abi = {DS_ABI_MAJOR, DS_ABI_COMPAT_MINOR, DS_ABI_MINOR, 0};
  ds_plugin_query_fn *fn;
  ds_error e;
  e.status = DS_OK;
  e.message[0] = '\0';
  memcpy(&fn, &symbol, sizeof fn);
  const ds_plugin *p = fn(&l->host, abi, &e);
  if (!p) {
    e.message[sizeof e.message - 1] = '\0';
    bool known = e.status > DS_OK && e.status <= DS_ERR_ABORTED;
    return ds_fail(err, known ? e.status : DS_ERR_NOT_FOUND, "is unavailable: %s",
                   e.message[0] ? e.message : "it gives no reason");
  }
  return adopt(l, p, err);
}

static ds_loaded *create(const ds_candidate *c, ds_error *err) {
  ds_loaded *l = calloc(1, sizeof *l);
  if (!l) {
    ds_fail_memory(err, "a plugin");
    return NULL;
  }
  l->id = c->id;
  memcpy(l->name, c->note.name, sizeof l->name);
  l->host =
      (ds_host){{sizeof(ds_host), DS_ABI_MAJOR, DS_ABI_MINOR}, l, host_log, host_alloc, host_free};
  return l;
}

/* In seconds; infinite: no probe at all. */
static double probe_limit(double seconds) {
  return seconds > 0 ? seconds : seconds < 0 ? INFINITY : DS_PROBE_SECONDS;
}

/* Tries it in a child first. *keep: what it did, it would do again. */
static ds_status probe(const ds_candidate *c, double seconds, const ds_logger *logger, ds_loaded *l,
                       ds_probe_result *found, bool *keep, ds_error *err) {
  memset(found, 0, sizeof *found);
  *keep = false;
  if (seconds == INFINITY) return DS_OK;
  ds_status status = ds_probe_run(c, seconds, try_adopt, l, found, err);
  *keep = status != DS_OK && found->lasting;
  l->limit = status == DS_ERR_TIMEOUT ? seconds : DBL_MAX;
  if (status != DS_OK && found->linker[0]) return explain_dlerror(c, found->linker, err);
  if (status == DS_OK && found->printed[0]) {
    ds_log(logger, DS_LOG_WARN, "backend: %s prints to standard error when it is loaded: %s",
           l->name, found->printed);
  }
  return status;
}

/* dlopen and query, in this process. Once the query ran, *keep. */
static ds_status load_here(const ds_candidate *c, const ds_logger *logger, ds_loaded *l, bool *keep,
                           ds_error *err) {
  DS_TRY(ds_identity_check(&c->id, c->path, err));
  void *handle = dlopen(c->path, RTLD_NOW | RTLD_LOCAL);
  if (!handle) {
    char text[512]; /* the linker's own text goes with the next call to it */
    const char *said = dlerror();
    snprintf(text, sizeof text, "%s", said ? said : "no reason given");
    return explain_dlerror(c, text, err);
  }
  void *symbol = ds_probe_find_query(handle, err);
  ds_status status = symbol ? ds_identity_check(&c->id, c->path, err) : DS_ERR_FORMAT;
  if (status != DS_OK) {
    dlclose(handle);
    return status;
  }
  ds_listener listener = {0};
  pin_core();
  *keep = l->loaded = true;
  ds_loader_listen(&listener, l, logger);
  status = query(l, symbol, err);
  ds_loader_unlisten(&listener);
  return status;
}

static void keep_entry(ds_loaded *l, ds_status status, const char *reason) {
  l->status = status;
  l->reason = status != DS_OK ? strdup(reason) : NULL;
  l->next = process.loaded;
  process.loaded = l;
}

/* Opens the file and asks it. Under the load lock. *out is what is kept of it, good or bad; a
 * failure that may be gone next time leaves nothing. */
static ds_status load_file(const ds_candidate *c, double probe_seconds, const ds_logger *logger,
                           ds_loaded **out, ds_error *err) {
  const ds_version_range abi = {DS_ABI_MAJOR, DS_ABI_COMPAT_MINOR, DS_ABI_MINOR, 0};
  ds_probe_result found;
  bool keep;
  ds_guard guard;
  ds_error e;
  e.message[0] = '\0';
  DS_TRY(ds_note_negotiate(abi, c->note.abi, err));
  DS_TRY(ds_identity_check(&c->id, c->path, err));
  ds_loaded *l = create(c, err);
  if (!l) return DS_ERR_MEMORY;
  ds_status status = probe(c, probe_seconds, logger, l, &found, &keep, &e);
  if (status == DS_OK) {
    ds_guard_begin(&guard, found.signals);
    status = load_here(c, logger, l, &keep, &e);
    int changed = ds_guard_end(&guard);
    if (changed) {
      ds_log(logger, DS_LOG_WARN,
             "backend: %s changes the handler of signal %d (%s) when it is loaded; it was put back",
             l->name, changed, strsignal(changed));
    }
  }
  ds_probe_finish(&found);
  if (keep) {
    keep_entry(l, status, e.message);
    *out = l;
    return DS_OK;
  }
  free(l);
  return ds_fail(err, status, "%s", e.message);
}

static ds_status load_reference(const ds_candidate *c, ds_loaded **out, ds_error *err) {
  ds_loaded *l = create(c, err);
  if (!l) return DS_ERR_MEMORY;
  ds_status status = adopt(l, ds_reference_plugin(), err);
  if (status != DS_OK) {
    free(l);
    return status;
  }
  l->loaded = true;
  keep_entry(l, DS_OK, NULL);
  *out = l;
  return DS_OK;
}

/* What is loaded stays, whatever is written into its file. What was refused is asked again once its
 * file has changed, or when it is given more time, or is to be loaded without a probe. The
 * reference has no file: its identity is all zero. */
static ds_loaded *find(const ds_identity *id, double limit) {
  for (ds_loaded *l = process.loaded; l; l = l->next) {
    if (l->loaded ? ds_identity_same_file(&l->id, id)
                  : ds_identity_unchanged(&l->id, id) && limit <= l->limit)
      return l;
  }
  return NULL;
}

ds_status ds_loader_load(const ds_candidate *c, double probe_seconds, const ds_logger *logger,
                         const ds_loaded **out, ds_error *err) {
  ds_status status = DS_OK;
  *out = NULL;
  if (c->status != DS_OK) {
    return ds_fail(err, c->status, "%s", c->reason ? c->reason : ds_status_name(c->status));
  }
  pthread_mutex_lock(&process.load_lock);
  double limit = probe_limit(probe_seconds);
  ds_loaded *l = find(&c->id, limit);
  if (!l) {
    status = c->path ? load_file(c, limit, logger, &l, err) : load_reference(c, &l, err);
  }
  if (status == DS_OK && l->status != DS_OK) {
    status = ds_fail(err, l->status, "%s", l->reason ? l->reason : ds_status_name(l->status));
  }
  pthread_mutex_unlock(&process.load_lock);
  if (status == DS_OK) *out = l;
  return status;
}

const ds_plugin *ds_loaded_plugin(const ds_loaded *l) {
  return &l->plugin;
}
