/* ranks.h - what the tests of collectives share: a plugin and its device, opened without core. */
#ifndef DS_TEST_RANKS_H
#define DS_TEST_RANKS_H

#include "unit/test.h"

#include <dlfcn.h>
#include <stdbool.h>
#include <stdlib.h>

static const ds_plugin *plugin;
static const ds_comm_table *table;
static const ds_device_table *device;
static ds_device *dev;
static ds_error err;

/* Options of the cpu plugin. */
#define ONE_THREAD  "{\"threads\": 1}"
#define BY_MESSAGES "{\"threads\": 1, \"shared_memory\": false}"

/* What the argument `at` says about the way between ranks: "messages", or nothing. */
static inline const char *options_of(int argc, char **argv, int at) {
  return argc > at && strcmp(argv[at], "messages") == 0 ? BY_MESSAGES : ONE_THREAD;
}

static bool open_plugin(const char *path, int index, const char *options) {
  void *so = dlopen(path, RTLD_NOW | RTLD_LOCAL);
  ds_plugin_query_fn *query = NULL;
  if (so != NULL) *(void **)&query = dlsym(so, "ds_plugin_query");
  if (query != NULL)
    plugin = query(NULL, (ds_version_range){DS_ABI_MAJOR, 0, DS_ABI_MINOR, 0}, &err);
  if (plugin == NULL || plugin->comm == NULL) {
    fprintf(stderr, "%s has no comm table: %s\n", path, so == NULL ? dlerror() : err.message);
    return false;
  }
  table = plugin->comm;
  device = plugin->device;
  CHECK_OK(device->open(index, options, &dev, &err), err);
  return dev != NULL;
}

#endif
