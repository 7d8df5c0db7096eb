/* plugin.c - the query, and the reference's tables with the bug in them. */
#include "buggy.h"

DS_PLUGIN_NOTE("buggy", "1.0", 50, "nothing");

const int buggy_bug = BUG_CHOSEN;
const ds_host *buggy_host;

void *buggy_alloc(size_t bytes) {
  void *p = buggy_host->alloc(buggy_host->ctx, bytes);
  if (p || BUG == BUG_NULL_ALLOC) memset(p, 0, bytes);
  return p;
}

void buggy_free(void *p) {
  buggy_host->free(buggy_host->ctx, p);
}

#ifdef BUG_EXPORTS_ONLY
DS_EXPORT int ds_helper(void);
int ds_helper(void) {
  return 1;
}
#endif

static bool is_refused(ds_version_range host) {
  if (BUG == BUG_REFUSES_NEWER && host.max_minor > DS_ABI_MINOR) return true;
  if (BUG == BUG_TAKES_ANY_MAJOR) return false;
  return host.major != DS_ABI_MAJOR || host.min_minor > DS_ABI_MINOR ||
         host.max_minor < DS_ABI_COMPAT_MINOR;
}

const ds_plugin *ds_plugin_query(const ds_host *host, ds_version_range range, ds_error *err) {
  static ds_device_table device;
  static const ds_plugin plugin = {
      .base = DS_REFERENCE_TABLE(ds_plugin),
      .name = BUG_CHOSEN == BUG_OTHER_NAME ? "impostor" : "buggy",
      .version = "1.0",
      .description = "the reference with a seeded bug",
      .device = &device,
      .gemm = &buggy_gemm,
      .quant = &buggy_quant,
      .comm = &buggy_comm,
      .ops = &buggy_ops,
      .graph = &buggy_graph,
  };
  if (is_refused(range)) {
    (void)ds_fail(err, DS_ERR_VERSION, "buggy speaks ABI %d.%d to %d.%d, the host %d.%d to %d.%d",
                  DS_ABI_MAJOR, DS_ABI_COMPAT_MINOR, DS_ABI_MAJOR, DS_ABI_MINOR, range.major,
                  range.min_minor, range.major, range.max_minor);
    return NULL;
  }
  if (BUG == BUG_READS_PAST_HOST && ((const volatile unsigned char *)(host + 1))[0] == 1)
    return NULL;
  device = buggy_device;
  if (BUG == BUG_HALF_GROUP) device.event_wait = NULL;
  buggy_host = host;
  return &plugin;
}
