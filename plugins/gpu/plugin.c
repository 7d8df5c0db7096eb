/* plugin.c - the one exported symbol and the note that describes the plugin before it runs. */
#include "gpu.h"

#define VERSION "0.1.0"

DS_PLUGIN_NOTE(GPU_PLUGIN_NAME, VERSION, GPU_PLUGIN_PRIORITY, GPU_PLUGIN_NEEDS);

static ds_plugin plugin = {
    .base = {sizeof(ds_plugin), DS_ABI_MAJOR, DS_ABI_MINOR},
    .name = GPU_PLUGIN_NAME,
    .version = VERSION,
    .description = GPU_PLUGIN_DESCRIPTION,
    .device = &gpu_device_table,
    .gemm = &gpu_gemm_table,
    .quant = &gpu_quant_table,
    .ops = &gpu_ops_table,
    .comm = &gpu_comm_table,
    .graph = &gpu_graph_table,
};

static const ds_host *log_host; /* for the life of the process */

void gpu_log(ds_log_level level, const char *message) {
  if (log_host != NULL && DS_HAS(log_host, log) && log_host->log != NULL)
    log_host->log(log_host->ctx, level, message);
}

const ds_plugin *ds_plugin_query(const ds_host *host, ds_version_range host_abi, ds_error *err) {
  log_host = host;
  if (host_abi.major != DS_ABI_MAJOR || host_abi.min_minor > DS_ABI_MINOR ||
      host_abi.max_minor < DS_ABI_COMPAT_MINOR) {
    gpu_fail(err, DS_ERR_VERSION,
             "the plugin " VERSION " speaks ABI %d.%d to %d.%d, the host speaks %d.%d to %d.%d: "
             "upgrade the older of the two",
             DS_ABI_MAJOR, DS_ABI_COMPAT_MINOR, DS_ABI_MAJOR, DS_ABI_MINOR, host_abi.major,
             host_abi.min_minor, host_abi.major, host_abi.max_minor);
    return NULL;
  }
  if (host_abi.max_minor < DS_ABI_MINOR) plugin.base.minor = host_abi.max_minor; /* agreed */
  return &plugin;
}
