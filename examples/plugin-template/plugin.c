/* plugin.c - the note, the query, and how errors are told.
 *
 * The life of a plugin: core reads the note from the file before any code runs; loads the file, in
 * a child process first, so that a crash in a driver costs no program; calls ds_plugin_query()
 * once; asks how many devices there are; opens one for each engine. It is never unloaded. */
#include "plugin.h"

#include <stdarg.h>
#include <stdio.h>

/* "auto" takes the usable plugin with the highest priority: accelerators say 200 and up, so that
 * they go before the cpu plugin's 100. This one is slow, so it goes before the reference's 0 only.
 * The last text is for people: the libraries that must be there ("libacme.so.3"). */
DS_PLUGIN_NOTE(PLUGIN_NAME, PLUGIN_VERSION, 1, "nothing");

const ds_host *plugin_host; /* written once, by the query, before any other call */

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

/* The query's answer, which no one changes after it. Tables are filled by name: what isn't named is
 * NULL, which is "not offered". Core then runs products and ops on its own reference and counts
 * them; collectives are refused. */
static ds_plugin plugin = {
    .base = {sizeof(ds_plugin), DS_ABI_MAJOR, DS_ABI_MINOR},
    .name = PLUGIN_NAME,
    .version = PLUGIN_VERSION,
    .description = "a plugin to copy: host memory, one thread, plain C",
    .device = &device_table,
    .gemm = &gemm_table,
    .ops = &ops_table,
};

const ds_plugin *ds_plugin_query(const ds_host *host, ds_version_range host_abi, ds_error *err) {
  /* This plugin uses nothing newer than DS_ABI_COMPAT_MINOR, so any overlap will do. */
  if (host_abi.major != DS_ABI_MAJOR || host_abi.min_minor > DS_ABI_MINOR ||
      host_abi.max_minor < DS_ABI_COMPAT_MINOR) {
    fail(err, DS_ERR_VERSION,
         "it speaks ABI %d.%d to %d.%d, the host %d.%d to %d.%d: upgrade the older of the two",
         DS_ABI_MAJOR, DS_ABI_COMPAT_MINOR, DS_ABI_MAJOR, DS_ABI_MINOR, host_abi.major,
         host_abi.min_minor, host_abi.major, host_abi.max_minor);
    return NULL;
  }
  /* A vendor library that may be missing is opened here, with dlopen() by its soname, and its
   * absence is DS_ERR_NOT_FOUND with the name and the cure: `ds backends` shows the message. Don't
   * start the driver yet; the query must be quick. */
  plugin_host = host;
  if (host_abi.max_minor < DS_ABI_MINOR) plugin.base.minor = host_abi.max_minor; /* agreed */
  return &plugin;
}
