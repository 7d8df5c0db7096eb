/* stats.c - what was counted, as core and as host apps see it. */
#include <string.h>

#include "backend/backend_impl.h"

/* The pace that ticks went at since the backend was opened. */
static double seconds_per_tick(const ds_backend *b) {
  double ticks = (double)(ds_backend_ticks() - b->opened_at_ticks);
  double nanoseconds = (double)(ds_backend_nanoseconds() - b->opened_nanoseconds);
  return ticks > 0 ? nanoseconds / ticks * 1e-9 : 0;
}

const char *ds_kind_name(uint32_t kind) {
  switch (kind) {
    case DS_KIND_GEMM: return "gemm";
    case DS_KIND_QUANTIZE: return "quantize";
    case DS_KIND_DEQUANTIZE: return "dequantize";
    case DS_KIND_QUANT_GEMM: return "quant gemm";
    case DS_KIND_PACK: return "gemm pack";
    case DS_KIND_COPY: return "device copy";
    case DS_KIND_FILL: return "device fill";
    case DS_KIND_UPLOAD: return "upload";
    case DS_KIND_DOWNLOAD: return "download";
    case DS_KIND_SYNC: return "sync";
    case DS_KIND_LAUNCH: return "graph launch";
    default: return ds_op_name(kind);
  }
}

static ds_backend_counters add_up(const ds_backend *b, double pace) {
  ds_backend_counters c = {.allocs = b->allocs, .bytes_held = b->bytes_held};
  int64_t ticks = 0;
  for (uint32_t i = 0; i < DS_KINDS; i++) {
    const ds_kind_counter *k = &b->kinds[i];
    ticks += k->ticks;
    if (i < DS_KIND_OPS_END) c.ops += k->calls;
    if (i > DS_KIND_GEMM && i < DS_KIND_COMPUTE_END) c.quants += k->calls;
    if (i < DS_KIND_COMPUTE_END) c.fallback_ops += k->fallbacks;
  }
  c.gemms = b->kinds[DS_KIND_GEMM].calls;
  c.seconds = (double)ticks * pace;
  return c;
}

ds_backend_counters ds_backend_stats_get(const ds_backend *b) {
  return add_up(b, seconds_per_tick(b));
}

/* One entry for each kind that there was. */
static size_t list_kinds(ds_backend *b, double pace) {
  size_t n = 0;
  for (uint32_t i = 0; i < DS_KINDS; i++) {
    const ds_kind_counter *k = &b->kinds[i];
    if (k->calls == 0) continue;
    b->op_stats[n++] =
        (ds_op_stats){ds_kind_name(i), k->calls, k->fallbacks, (double)k->ticks * pace};
  }
  return n;
}

ds_status ds_backend_stats_fill(ds_backend *b, ds_backend_stats *out, ds_error *err) {
  if (!out || out->size < sizeof out->size)
    return ds_fail(err, DS_ERR_INVALID, "ds_backend_stats: set size = sizeof(ds_backend_stats)");
  double pace = seconds_per_tick(b); /* one for all, so that the seconds add up */
  ds_backend_counters c = add_up(b, pace);
  ds_backend_stats full = {.size = sizeof full,
                           .backend = ds_backend_name(b),
                           .device = ds_backend_device(b),
                           .ops = c.ops + c.gemms + c.quants,
                           .fallback_ops = c.fallback_ops,
                           .device_allocs = c.allocs,
                           .device_bytes = c.bytes_held,
                           .backend_seconds = c.seconds,
                           .per_op = b->op_stats,
                           .n_per_op = list_kinds(b, pace)};
  if (out->size < full.size) full.size = out->size; /* an older caller */
  memcpy(out, &full, full.size);
  return DS_OK;
}
