/* plugin.c - the one exported symbol and the note that describes the plugin before it runs. */
#include "cpu.h"
#include "ops.h"

#define NAME    "cpu"
#define VERSION "0.1.0"

DS_PLUGIN_NOTE(NAME, VERSION, 100, "libdnnl.so.2 libgomp.so.1 (and Open MPI for several ranks)");

static ds_plugin plugin = {
    .base = {sizeof(ds_plugin), DS_ABI_MAJOR, DS_ABI_MINOR},
    .name = NAME,
    .version = VERSION,
    .description = "any x86-64 or aarch64 processor: oneDNN, OpenMP, Open MPI",
    .device = &ds_cpu_device_table,
    .gemm = &ds_cpu_gemm_table,
    .quant = &ds_cpu_quant_table,
    .comm = &ds_cpu_comm_table,
    .ops = &ds_cpu_ops_table,
    .graph = NULL,
};

const ds_plugin *ds_plugin_query(const ds_host *host, ds_version_range host_abi, ds_error *err) {
  (void)host; /* the plugin has its own memory and nothing to log */
  if (host_abi.major != DS_ABI_MAJOR || host_abi.min_minor > DS_ABI_MINOR ||
      host_abi.max_minor < DS_ABI_COMPAT_MINOR) {
    ds_cpu_fail(err, DS_ERR_VERSION,
                "cpu plugin " VERSION " speaks ABI %d.%d to %d.%d, the host speaks %d.%d to %d.%d: "
                "upgrade the older of the two",
                DS_ABI_MAJOR, DS_ABI_COMPAT_MINOR, DS_ABI_MAJOR, DS_ABI_MINOR, host_abi.major,
                host_abi.min_minor, host_abi.major, host_abi.max_minor);
    return NULL;
  }
  if (host_abi.max_minor < DS_ABI_MINOR) plugin.base.minor = host_abi.max_minor; /* agreed */
  return &plugin;
}
