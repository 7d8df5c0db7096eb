/* transfer.c - copy and fill on a device: by itself, or through the host where it has neither. */
#include <stdio.h>
#include <string.h>

#include "backend/fallback.h"
#include "backend/stage.h"

/* The host memory that a fallback takes at most. */
#define PIECE ((size_t)1 << 20)

static ds_status allow(ds_backend *b, uint32_t kind, size_t bytes, const char *why, ds_error *err) {
  char what[32];
  snprintf(what, sizeof what, "u8[%zu]", bytes);
  return ds_fallback_allow(b, kind, what, why, err);
}

/* Down and up again; a download waits, and an upload has read its piece when it returns. */
static ds_status copy_through_host(ds_backend *b, char *dst, const char *src, size_t bytes,
                                   ds_error *e) {
  const ds_device_table *t = b->plugin->device;
  DS_TRY(ds_stage_reserve(b, bytes < PIECE ? bytes : PIECE, e));
  for (size_t n; bytes > 0; bytes -= n, src += n, dst += n) {
    n = bytes < PIECE ? bytes : PIECE;
    DS_TRY(t->download(b->stream, b->staging, src, n, e));
    DS_TRY(t->upload(b->stream, dst, b->staging, n, e));
  }
  return DS_OK;
}

static ds_status fill_by_upload(ds_backend *b, char *dst, uint8_t byte, size_t bytes, ds_error *e) {
  size_t piece = bytes < PIECE ? bytes : PIECE;
  DS_TRY(ds_stage_reserve(b, piece, e));
  memset(b->staging, byte, piece);
  for (size_t n; bytes > 0; bytes -= n, dst += n) {
    n = bytes < piece ? bytes : piece;
    DS_TRY(b->plugin->device->upload(b->stream, dst, b->staging, n, e));
  }
  return DS_OK;
}

static ds_status copy(ds_backend *b, void *dst, const void *src, size_t bytes, ds_error *err) {
  const char *why = "the plugin's device table has no copy";
  DS_BLANK_ERROR(e);
  DS_BLANK_ERROR(said);
  if (b->plugin->device->copy) {
    ds_status status = b->plugin->device->copy(b->stream, dst, src, bytes, &said);
    if (status != DS_ERR_UNSUPPORTED)
      return ds_backend_wrap(b, ds_kind_name(DS_KIND_COPY), &said, status, err);
    why = ds_fallback_reason(&said);
  }
  DS_TRY(allow(b, DS_KIND_COPY, bytes, why, err));
  ds_status status = copy_through_host(b, dst, src, bytes, &e);
  return ds_backend_wrap(b, ds_kind_name(DS_KIND_COPY), &e, status, err);
}

static ds_status fill(ds_backend *b, void *dst, uint8_t byte, size_t bytes, ds_error *err) {
  const char *why = "the plugin's device table has no fill";
  DS_BLANK_ERROR(e);
  DS_BLANK_ERROR(said);
  if (b->plugin->device->fill) {
    ds_status status = b->plugin->device->fill(b->stream, dst, byte, bytes, &said);
    if (status != DS_ERR_UNSUPPORTED)
      return ds_backend_wrap(b, ds_kind_name(DS_KIND_FILL), &said, status, err);
    why = ds_fallback_reason(&said);
  }
  DS_TRY(allow(b, DS_KIND_FILL, bytes, why, err));
  ds_status status = fill_by_upload(b, dst, byte, bytes, &e);
  return ds_backend_wrap(b, ds_kind_name(DS_KIND_FILL), &e, status, err);
}

ds_status ds_backend_copy(ds_backend *b, void *dst, const void *src, size_t bytes, ds_error *err) {
  ds_kind_counter *k = &b->kinds[DS_KIND_COPY];
  if (bytes == 0) return DS_OK;
  int64_t begin = ds_backend_ticks();
  ds_status status = copy(b, dst, src, bytes, err);
  k->calls++;
  k->ticks += ds_backend_ticks() - begin;
  return status;
}

ds_status ds_backend_fill(ds_backend *b, void *dst, uint8_t byte, size_t bytes, ds_error *err) {
  ds_kind_counter *k = &b->kinds[DS_KIND_FILL];
  if (bytes == 0) return DS_OK;
  int64_t begin = ds_backend_ticks();
  ds_status status = fill(b, dst, byte, bytes, err);
  k->calls++;
  k->ticks += ds_backend_ticks() - begin;
  return status;
}
