/* header.c - ds_abi.h alone, as C11 and as C++17: what a plugin's file looks like to the compiler.
 */
#include "ds_abi.h"

DS_PLUGIN_NOTE("header", "0.1", 1, "nothing");

static const ds_device_table device = {{sizeof(ds_device_table), DS_ABI_MAJOR, DS_ABI_MINOR},
                                       NULL,
                                       NULL,
                                       NULL,
                                       NULL,
                                       NULL,
                                       NULL,
                                       NULL,
                                       NULL,
                                       NULL,
                                       NULL,
                                       NULL,
                                       NULL,
                                       NULL,
                                       NULL,
                                       NULL,
                                       NULL,
                                       NULL,
                                       NULL,
                                       NULL,
                                       NULL,
                                       NULL,
                                       NULL,
                                       NULL,
                                       NULL,
                                       NULL};

static const ds_plugin plugin = {{sizeof(ds_plugin), DS_ABI_MAJOR, DS_ABI_MINOR},
                                 "header",
                                 "0.1",
                                 "",
                                 &device,
                                 NULL,
                                 NULL,
                                 NULL,
                                 NULL,
                                 NULL};

const ds_plugin *ds_plugin_query(const ds_host *host, ds_version_range host_abi, ds_error *err) {
  (void)err;
  return DS_HAS(host, free) && DS_HAS(&device, peer_copy) && host_abi.major == DS_ABI_MAJOR
             ? &plugin
             : NULL;
}
