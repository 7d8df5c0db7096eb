/* clash.c - a plugin whose helpers are global functions, as a host's may be too: ds_fail as in
 * core, upload and ds_test_helper as in a test program. Built with a version script (clash), they
 * are its own; built without (clash_open), the host's stand before them. */
#define DEVICES          1
#define NO_DEVICE_REASON NULL
#include "device.h"

DS_PLUGIN_NOTE(NAME, "1.0", 20, "nothing");

int ds_test_helper(void);
const char *ds_version(void);

__attribute__((noinline)) int ds_test_helper(void) {
  return 1;
}

__attribute__((noinline)) const char *ds_version(void) {
  return "plugin";
}

/* The first device says whose functions it met. */
static ds_status info(ds_device *d, ds_device_info *out, ds_error *err) {
  (void)d;
  (void)err;
  snprintf(out->name, sizeof out->name, "helper %d, version %s", ds_test_helper(), ds_version());
  return DS_OK;
}

DS_EXPORT const ds_plugin *ds_plugin_query(const ds_host *host, ds_version_range host_abi,
                                           ds_error *err) {
  static ds_device_table device = TEST_DEVICE_TABLE(sizeof(ds_device_table), device_copy);
  static const ds_plugin plugin = {
      .base = {sizeof(ds_plugin), DS_ABI_MAJOR, DS_ABI_MINOR},
      .name = NAME,
      .version = "1.0",
      .description = "global helpers",
      .device = &device,
  };
  (void)host;
  (void)host_abi;
  (void)err;
  device.info = info;
  return &plugin;
}
