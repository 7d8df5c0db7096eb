/* load.c - the plugin as the checks see it: loaded, asked, its first device opened. */
#include "suite.h"

#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "backend/reference/reference.h"

static void host_log(void *ctx, ds_log_level level, const char *message) {
  (void)ctx, (void)level, (void)message;
}

static void *host_alloc(void *ctx, size_t bytes) {
  (void)ctx;
  return aligned_alloc(64, bytes ? (bytes + 63) / 64 * 64 : 64);
}

static void host_free(void *ctx, void *p) {
  (void)ctx;
  free(p);
}

ds_host load_host(void) {
  return (ds_host){
      {sizeof(ds_host), DS_ABI_MAJOR, DS_ABI_MINOR}, NULL, host_log, host_alloc, host_free};
}

ds_plugin_query_fn *load_query(const char *path, ds_error *err) {
  ds_plugin_query_fn *query = NULL;
  void *so = dlopen(path, RTLD_NOW | RTLD_LOCAL);
  void *symbol = so ? dlsym(so, "ds_plugin_query") : NULL;
  if (symbol) {
    memcpy(&query, &symbol, sizeof query);
    return query;
  }
  const char *said = so ? "it does not export ds_plugin_query" : dlerror();
  err->status = DS_ERR_FORMAT;
  snprintf(err->message, sizeof err->message, "can't be loaded: %.900s", said ? said : "");
  return NULL;
}

static void copy_table(void *to, size_t size, const void *from) {
  ds_table base;
  memset(to, 0, size);
  memcpy(&base, from, sizeof base);
  memcpy(to, from, base.size < size ? base.size : size);
  ((ds_table *)to)->size = (uint32_t)size;
}

#define ADOPT(member, type)                                                                        \
  do {                                                                                             \
    static type table;                                                                             \
    if (plugin.member) {                                                                           \
      copy_table(&table, sizeof table, plugin.member);                                             \
      plugin.member = &table;                                                                      \
    }                                                                                              \
  } while (0)

const ds_plugin *load_adopt(const ds_plugin *p) {
  static ds_plugin plugin;
  copy_table(&plugin, sizeof plugin, p);
  ADOPT(device, ds_device_table);
  ADOPT(gemm, ds_gemm_table);
  ADOPT(quant, ds_quant_table);
  ADOPT(comm, ds_comm_table);
  ADOPT(ops, ds_ops_table);
  ADOPT(graph, ds_graph_table);
  return &plugin;
}

static const ds_plugin *ask(conformance *k, ds_error *err) {
  const ds_version_range range = {DS_ABI_MAJOR, DS_ABI_COMPAT_MINOR, DS_ABI_MINOR, 0};
  if (strcmp(k->path, "reference") == 0) return ds_reference_plugin();
  ds_plugin_query_fn *query = load_query(k->path, err);
  if (!query) return NULL;
  k->host = load_host();
  check_doing(k, "ds_plugin_query");
  const ds_plugin *p = query(&k->host, range, err);
  if (!p && (err->status == DS_OK || !memchr(err->message, 0, sizeof err->message)))
    snprintf(err->message, sizeof err->message, "the query gave NULL and no message");
  return p;
}

bool load_plugin(conformance *k, ds_error *err) {
  const ds_plugin *p = ask(k, err);
  if (!p) return false;
  k->plugin = load_adopt(p);
  const ds_device_table *d = k->plugin->device;
  if (d && d->count && d->open && d->close && d->info && d->alloc && d->free && d->stream_create &&
      d->stream_destroy && d->stream_sync && d->upload && d->download)
    return true;
  err->status = DS_ERR_VERSION;
  snprintf(err->message, sizeof err->message, "the device table lacks required functions");
  return false;
}

/* One rank a device, where there are several. */
static int32_t own_device(conformance *k, int32_t count) {
  ds_comm_world w = {.size = sizeof w};
  const ds_comm_table *c = k->plugin->comm;
  if (count < 2 || !c || !c->world || c->world(&w, NULL) != DS_OK) return 0;
  return w.local_rank < count ? w.local_rank : 0;
}

bool load_device(conformance *k, ds_error *err) {
  const ds_device_table *d = k->plugin->device;
  int32_t count = 0;
  const char *reason = NULL;
  check_doing(k, "device count");
  ds_status st = d->count(&count, &reason, err);
  if (st == DS_OK && count < 1) {
    snprintf(err->message, sizeof err->message, "no device: %.900s", reason ? reason : "");
    st = DS_ERR_NOT_FOUND;
  }
  check_doing(k, "device open");
  if (st == DS_OK) st = d->open(own_device(k, count), k->options, &k->dev, err);
  check_doing(k, "stream_create");
  if (st == DS_OK) st = d->stream_create(k->dev, &k->stream, err);
  return st == DS_OK;
}

void load_close(conformance *k) {
  if (!k->plugin) return;
  check_doing(k, "stream_destroy, device close");
  if (k->stream) k->plugin->device->stream_destroy(k->stream);
  if (k->dev) k->plugin->device->close(k->dev);
  k->stream = NULL;
  k->dev = NULL;
}
