#include "backend/backend.h"

ds_status ds_backend_stats_fill(const ds_backend *b, ds_backend_stats *out, ds_error *err) {
  if (out->size < sizeof *out)
    return ds_fail(err, DS_ERR_INVALID, "ds_backend_stats.size is %u, not %zu; set it first",
                   out->size, sizeof *out);
  ds_backend_counters c = ds_backend_stats_get(b);
  *out = (ds_backend_stats){.size = sizeof *out,
                            .backend = ds_backend_name(b),
                            .device = ds_backend_device(b),
                            .ops = c.ops + c.gemms,
                            .fallback_ops = c.fallback_ops,
                            .device_allocs = c.allocs,
                            .device_bytes = c.bytes_held,
                            .backend_seconds = c.seconds};
  return DS_OK;
}
