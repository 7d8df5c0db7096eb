/* plugin.c - the query and the note. */
#include "strict.h"

const ds_host *strict_host;

DS_PLUGIN_NOTE("strict", "1.0.0", 5, "nothing");

const ds_plugin *ds_plugin_query(const ds_host *host, ds_version_range host_abi, ds_error *err) {
  static ds_plugin plugin = {
      .base = {sizeof(ds_plugin), DS_ABI_MAJOR, DS_ABI_MINOR},
      .name = "strict",
      .version = "1.0.0",
      .description = "the reference's arithmetic, as late and unkind as the ABI allows",
      .device = &strict_device,
      .gemm = &strict_gemm,
      .quant = &strict_quant,
      .comm = &strict_comm,
      .ops = &strict_ops,
      .graph = &strict_graph,
  };
  if (host_abi.major != DS_ABI_MAJOR || host_abi.min_minor > DS_ABI_MINOR ||
      host_abi.max_minor < DS_ABI_COMPAT_MINOR) {
    strict_fail(err, DS_ERR_VERSION, "strict speaks ABI %d.%d to %d.%d, the host %d.%d to %d.%d",
                DS_ABI_MAJOR, DS_ABI_COMPAT_MINOR, DS_ABI_MAJOR, DS_ABI_MINOR, host_abi.major,
                host_abi.min_minor, host_abi.major, host_abi.max_minor);
    return NULL;
  }
  if (host_abi.max_minor < DS_ABI_MINOR) plugin.base.minor = host_abi.max_minor;
  strict_host = host;
  return &plugin;
}
