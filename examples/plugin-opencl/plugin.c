/* plugin.c - the note, the query, and errors. */
#include <stdarg.h>
#include <stdio.h>

#include "opencl.h"

/* Below the cpu plugin: an OpenCL platform may well be the same processor, only slower. Ask for it
 * by name. */
DS_PLUGIN_NOTE(PLUGIN_NAME, PLUGIN_VERSION, 90, "libOpenCL.so.1 and an OpenCL 1.2 driver");

ds_status fail(ds_error *err, ds_status status, const char *format, ...) {
  if (!err) return status;
  int n = snprintf(err->message, sizeof err->message, PLUGIN_NAME ": ");
  va_list args;
  va_start(args, format);
  vsnprintf(err->message + n, sizeof err->message - (size_t)n, format, args);
  va_end(args);
  err->status = status;
  return status;
}

ds_status fail_cl(ds_error *err, cl_int code, const char *what) {
  switch (code) {
    case CL_MEM_OBJECT_ALLOCATION_FAILURE:
    case CL_OUT_OF_RESOURCES:
    case CL_OUT_OF_HOST_MEMORY:
      return fail(err, DS_ERR_MEMORY, "%s: out of memory or other resources (OpenCL error %d)",
                  what, code);
    default: return fail(err, DS_ERR_DEVICE, "%s: OpenCL error %d", what, code);
  }
}

static ds_plugin plugin = {
    .base = {sizeof(ds_plugin), DS_ABI_MAJOR, DS_ABI_MINOR},
    .name = PLUGIN_NAME,
    .version = PLUGIN_VERSION,
    .description = "any OpenCL 1.2 device, in f32",
    .device = &opencl_device,
    .gemm = &opencl_gemm,
    .ops = &opencl_ops,
};

const ds_plugin *ds_plugin_query(const ds_host *host, ds_version_range host_abi, ds_error *err) {
  (void)host;
  if (host_abi.major != DS_ABI_MAJOR || host_abi.min_minor > DS_ABI_MINOR ||
      host_abi.max_minor < DS_ABI_COMPAT_MINOR) {
    fail(err, DS_ERR_VERSION,
         "it speaks ABI %d.%d to %d.%d, the host %d.%d to %d.%d: upgrade the older of the two",
         DS_ABI_MAJOR, DS_ABI_COMPAT_MINOR, DS_ABI_MAJOR, DS_ABI_MINOR, host_abi.major,
         host_abi.min_minor, host_abi.major, host_abi.max_minor);
    return NULL;
  }
  if (host_abi.max_minor < DS_ABI_MINOR) plugin.base.minor = host_abi.max_minor; /* agreed */
  return &plugin;
}
