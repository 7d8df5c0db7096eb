/* floor.c - the least that a plugin can be: device functions, two devices, nothing else. */
#define DEVICES          2
#define NO_DEVICE_REASON NULL
#include "device.h"

DS_PLUGIN_NOTE("floor", "1.2.3", 150, "nothing");

static const ds_device_table device = TEST_DEVICE_TABLE(sizeof(ds_device_table), device_copy);

const ds_plugin *ds_plugin_query(const ds_host *host, ds_version_range host_abi, ds_error *err) {
  static const ds_plugin plugin = {
      .base = {sizeof(ds_plugin), DS_ABI_MAJOR, DS_ABI_MINOR},
      .name = "floor",
      .version = "1.2.3",
      .description = "the least that a plugin can be",
      .device = &device,
  };
  (void)host_abi;
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
