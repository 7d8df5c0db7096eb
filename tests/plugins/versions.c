/* versions.c - good plugins that differ in how they are built: VERSION and PRIORITY, NO_NOTE,
 * NO_QUERY, and what the build links them with. */
#define DEVICES          1
#define NO_DEVICE_REASON NULL
#include "device.h"

#ifndef NO_NOTE
DS_PLUGIN_NOTE("versions", VERSION, PRIORITY, "nothing");
#endif

#if defined(USE_MIDDLE) || defined(USE_SYMBOL)
int ds_test_middle(void), ds_test_symbol(void), ds_test_user(void);
int ds_test_user(void) {
#ifdef USE_MIDDLE
  return ds_test_middle();
#else
  return ds_test_symbol();
#endif
}
#endif

#ifdef NO_QUERY
#define QUERY_NAME ds_test_other_query
const ds_plugin *QUERY_NAME(const ds_host *host, ds_version_range host_abi, ds_error *err);
#else
#define QUERY_NAME ds_plugin_query
#endif

const ds_plugin *QUERY_NAME(const ds_host *host, ds_version_range host_abi, ds_error *err) {
  static const ds_device_table device = TEST_DEVICE_TABLE(sizeof(ds_device_table), device_copy);
  static const ds_plugin plugin = {
      .base = {sizeof(ds_plugin), DS_ABI_MAJOR, DS_ABI_MINOR},
      .name = "versions",
      .version = VERSION,
      .description = "one of several",
      .device = &device,
  };
  (void)host;
  (void)host_abi;
  (void)err;
  return &plugin;
}
