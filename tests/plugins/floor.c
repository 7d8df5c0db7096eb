/* floor.c - the least that a plugin can be: the query, and the eleven device functions that are
 * required (device.h). It computes nothing, cannot even copy, and the host can't touch its memory;
 * everything an engine does on it is core's fallbacks. */
#define DEVICES          2
#define NO_DEVICE_REASON NULL
#include "device.h"

DS_PLUGIN_NOTE("floor", "1.2.3", 150, "nothing");

static const ds_device_table device = {
    .base = {sizeof(ds_device_table), DS_ABI_MAJOR, DS_ABI_MINOR},
    .count = device_count,
    .open = device_open,
    .close = device_close,
    .info = device_info,
    .alloc = device_alloc,
    .free = device_free,
    .stream_create = stream_create,
    .stream_destroy = stream_destroy,
    .stream_sync = stream_sync,
    .upload = upload,
    .download = download,
};

const ds_plugin *ds_plugin_query(const ds_host *host, ds_version_range host_abi, ds_error *err) {
  static ds_plugin plugin = {
      .base = {sizeof(ds_plugin), DS_ABI_MAJOR, DS_ABI_MINOR},
      .name = "floor",
      .version = "1.2.3",
      .description = "the least that a plugin can be",
      .device = &device,
  };
  if (!speaks(host_abi, &plugin.base, err)) return NULL;
  void *p = host->alloc(host->ctx, 100);
  if (!p || (uintptr_t)p % 64 != 0) {
    fail(err, DS_ERR_MEMORY, "host memory is not as promised");
    return NULL;
  }
  host->free(host->ctx, p);
  host->free(host->ctx, NULL);
  host->log(host->ctx, DS_LOG_INFO, "queried");
  return &plugin;
}
