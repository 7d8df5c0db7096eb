#include "backend/loader.h"

#include <dlfcn.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "backend/note.h"
#include "backend/reference/reference.h"
#include "base/str.h"

struct ds_loaded {
  dev_t device;
  ino_t inode;
  char name[sizeof((ds_note *)0)->name];
  ds_host host;
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

/* A function of a table. Those of one group are all there or all absent. */
typedef struct function {
  const char *name;
  size_t offset;
  int group; /* 0: required */
} function;

#define FUNCTION(table, name, group)                                                               \
  { #name, offsetof(table, name), group }
#define DEVICE(name) FUNCTION(ds_device_table, name, 0)
#define EVENT(name)  FUNCTION(ds_device_table, name, 1)
#define COMM(name)   FUNCTION(ds_comm_table, name, 0)

static const function device_functions[] = {
    DEVICE(count),       DEVICE(open),        DEVICE(close),         DEVICE(info),
    DEVICE(alloc),       DEVICE(free),        DEVICE(stream_create), DEVICE(stream_destroy),
    DEVICE(stream_sync), DEVICE(upload),      DEVICE(download),      DEVICE(copy),
    DEVICE(fill),        EVENT(event_create), EVENT(event_destroy),  EVENT(event_record),
    EVENT(event_wait),   EVENT(event_sync),   {NULL, 0, 0}};
static const function gemm_functions[] = {FUNCTION(ds_gemm_table, supports, 0),
                                          FUNCTION(ds_gemm_table, run, 0),
                                          FUNCTION(ds_gemm_table, pack_size, 1),
                                          FUNCTION(ds_gemm_table, pack_b, 1),
                                          {NULL, 0, 0}};
static const function quant_functions[] = {FUNCTION(ds_quant_table, supports, 0),
                                           FUNCTION(ds_quant_table, quantize, 0),
                                           FUNCTION(ds_quant_table, dequantize, 0),
                                           FUNCTION(ds_quant_table, gemm, 0),
                                           {NULL, 0, 0}};
static const function comm_functions[] = {
    COMM(world),     COMM(create),    COMM(destroy), COMM(allreduce), COMM(reduce_scatter),
    COMM(allgather), COMM(broadcast), COMM(barrier), COMM(send),      COMM(recv),
    COMM(alltoall),  COMM(split),     COMM(rank),    COMM(abort),     {NULL, 0, 0}};
static const function ops_functions[] = {
    FUNCTION(ds_ops_table, supports, 0), FUNCTION(ds_ops_table, run, 0), {NULL, 0, 0}};
static const function graph_functions[] = {FUNCTION(ds_graph_table, begin, 0),
                                           FUNCTION(ds_graph_table, end, 0),
                                           FUNCTION(ds_graph_table, launch, 0),
                                           FUNCTION(ds_graph_table, destroy, 0),
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
    bool set = is_set(table, f->offset);
    if (f->group == 0 && !set) {
      return ds_fail(err, DS_ERR_VERSION,
                     "its %s table lacks the required function \"%s\"; the plugin must supply it",
                     name, f->name);
    }
    if (f->group != 0 && set) present = f;
    if (f->group != 0 && !set) absent = f;
  }
  if (present && absent) {
    return ds_fail(err, DS_ERR_VERSION,
                   "its %s table has \"%s\" without \"%s\"; they are optional only together", name,
                   present->name, absent->name);
  }
  return DS_OK;
}

/* Copies what both sides know of a table; the rest of `to` is zero. Only whole fields count: after
 * its ds_table a table has nothing but pointers. */
static ds_status copy_table(const char *name, void *to, size_t size, const void *from,
                            const function *list, ds_error *err) {
  ds_table base;
  memset(to, 0, size);
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

/* The complete form of what the query gave. */
static ds_status adopt(ds_loaded *l, const ds_plugin *p, ds_error *err) {
  DS_TRY(copy_table("plugin", &l->plugin, sizeof l->plugin, p, plugin_functions, err));
  if (!l->plugin.name || strcmp(l->plugin.name, l->name) != 0) {
    return ds_fail(err, DS_ERR_FORMAT,
                   "its note has the name \"%s\", its table \"%.40s\"; they must agree", l->name,
                   l->plugin.name ? l->plugin.name : "(none)");
  }
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
static ds_status explain_dlerror(const ds_candidate *c, ds_error *err) {
  char text[512]; /* the linker's own text goes with the next call to it */
  const char *said = dlerror();
  snprintf(text, sizeof text, "%s", said ? said : "no reason given");
  static const char missing[] = ": cannot open shared object file";
  const char *at = strstr(text, missing);
  size_t own = strlen(c->path);
  if (strncmp(text, c->path, own) == 0 && text[own] == ':') {
    const char *rest = text + own + 1 + strspn(text + own + 1, " ");
    const char *cure = strstr(rest, "undefined symbol")
                           ? "; a library it uses is older than the one it was built with"
                           : "";
    return ds_fail(err, DS_ERR_FORMAT, "can't be loaded: %.400s%s (it needs: %s)", rest, cure,
                   c->note.needs[0] ? c->note.needs : "not said");
  }
  if (!at) {
    return ds_fail(err, DS_ERR_FORMAT, "can't be loaded: %s", text);
  }
  ds_str searched = {0};
  add_searched(&searched);
  ds_status status = ds_fail(
      err, DS_ERR_NOT_FOUND,
      "needs the library %.*s, which is not on this machine; looked in the plugin's own RUNPATH, "
      "/etc/ld.so.cache and %.400s; install it, or add its folder to LD_LIBRARY_PATH (the plugin "
      "needs: %s)",
      (int)(at - text), text, searched.data ? searched.data : "the system's folders",
      c->note.needs[0] ? c->note.needs : "not said");
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
  l->device = c->device;
  l->inode = c->inode;
  memcpy(l->name, c->note.name, sizeof l->name);
  l->host =
      (ds_host){{sizeof(ds_host), DS_ABI_MAJOR, DS_ABI_MINOR}, l, host_log, host_alloc, host_free};
  return l;
}

/* The file may have been replaced since it was looked at. */
static ds_status check_identity(const ds_candidate *c, ds_error *err) {
  struct stat st;
  if (stat(c->path, &st) == 0 && st.st_dev == c->device && st.st_ino == c->inode) return DS_OK;
  return ds_fail(err, DS_ERR_IO, "was replaced while it was being loaded; try again");
}

/* Opens the file and asks it. Under the load lock. An entry is kept once the query ran. */
static ds_status load_file(const ds_candidate *c, const ds_logger *logger, ds_loaded **out,
                           ds_error *err) {
  const ds_version_range abi = {DS_ABI_MAJOR, DS_ABI_COMPAT_MINOR, DS_ABI_MINOR, 0};
  ds_listener listener = {0};
  ds_error e;
  DS_TRY(ds_note_negotiate(abi, c->note.abi, err));
  DS_TRY(check_identity(c, err));
  ds_loaded *l = create(c, err);
  if (!l) return DS_ERR_MEMORY;
  void *handle = dlopen(c->path, RTLD_NOW | RTLD_LOCAL);
  if (!handle) {
    ds_status status = explain_dlerror(c, err);
    free(l);
    return status;
  }
  void *symbol = dlsym(handle, "ds_plugin_query");
  if (!symbol) {
    dlclose(handle);
    free(l);
    return ds_fail(err, DS_ERR_FORMAT,
                   "does not export ds_plugin_query; declare it DS_EXPORT and build it again");
  }
  pin_core();
  ds_loader_listen(&listener, l, logger);
  l->status = query(l, symbol, &e);
  ds_loader_unlisten(&listener);
  if (l->status != DS_OK) {
    l->reason = strdup(e.message);
  }
  l->next = process.loaded;
  process.loaded = l;
  *out = l;
  return DS_OK;
}

static ds_status load_reference(const ds_candidate *c, ds_loaded **out, ds_error *err) {
  ds_loaded *l = create(c, err);
  if (!l) return DS_ERR_MEMORY;
  ds_status status = adopt(l, ds_reference_plugin(), err);
  if (status != DS_OK) {
    free(l);
    return status;
  }
  l->next = process.loaded;
  process.loaded = l;
  *out = l;
  return DS_OK;
}

ds_status ds_loader_load(const ds_candidate *c, const ds_logger *logger, const ds_loaded **out,
                         ds_error *err) {
  ds_status status = DS_OK;
  *out = NULL;
  if (c->status != DS_OK) {
    return ds_fail(err, c->status, "%s", c->reason ? c->reason : ds_status_name(c->status));
  }
  pthread_mutex_lock(&process.load_lock);
  ds_loaded *l = process.loaded;
  /* The reference has no file: its identity is 0, 0. */
  while (l && (l->device != c->device || l->inode != c->inode)) l = l->next;
  if (!l) status = c->path ? load_file(c, logger, &l, err) : load_reference(c, &l, err);
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
