/* device.c - the device table over host memory: every call returns with its work done. */
#include <ctype.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "backend/reference/tables.h"
#include "base/status.h"

#define ALIGNMENT 64u

/* There is nothing to know about a device, a stream or an event here, but each must be an object of
 * its own for its owner. */
struct ds_device {
  char unused;
};
struct ds_stream {
  char unused;
};
struct ds_event {
  char unused;
};

static ds_status device_count(int32_t *count_out, const char **reason_out, ds_error *err) {
  (void)err;
  *count_out = 1;
  if (reason_out) *reason_out = "";
  return DS_OK;
}

static const char *skip_space(const char *p) {
  while (isspace((unsigned char)*p)) p++;
  return p;
}

static ds_status check_options(const char *options, ds_error *err) {
  if (!options) return DS_OK;
  const char *p = skip_space(options);
  if (*p == '{') {
    p = skip_space(p + 1);
    if (*p == '}' && *skip_space(p + 1) == '\0') return DS_OK;
  }
  return ds_fail(err, DS_ERR_INVALID,
                 "reference: this backend has no options; give none or {}, got %.200s",
                 *options ? options : "an empty text");
}

static ds_status device_open(int32_t index, const char *options, ds_device **out, ds_error *err) {
  if (index != 0) {
    return ds_fail(err, DS_ERR_NOT_FOUND, "reference: there is no device %d; the only one is 0",
                   (int)index);
  }
  DS_TRY(check_options(options, err));
  ds_device *dev = malloc(sizeof *dev);
  if (!dev) return ds_fail_memory(err, "the reference device");
  *out = dev;
  return DS_OK;
}

static void device_close(ds_device *dev) {
  free(dev);
}

static uint64_t memory_pages(int which) {
  long pages = sysconf(which), page = sysconf(_SC_PAGESIZE);
  return pages > 0 && page > 0 ? (uint64_t)pages * (uint64_t)page : 0;
}

static ds_status device_info(ds_device *dev, ds_device_info *info, ds_error *err) {
  (void)dev;
  ds_device_info full = {
      .size = sizeof full,
      .flags = DS_DEVICE_HOST_ACCESSIBLE | DS_DEVICE_SYNCHRONOUS,
      .name = "host, scalar C, 1 thread",
      .memory_total = memory_pages(_SC_PHYS_PAGES),
      .memory_free = memory_pages(_SC_AVPHYS_PAGES),
      .threads = 1,
  };
  if (info->size < sizeof info->size) {
    return ds_fail(err, DS_ERR_INVALID, "reference: ds_device_info.size is not set");
  }
  if (info->size < full.size) full.size = info->size; /* an older caller */
  memcpy(info, &full, full.size);
  return DS_OK;
}

static ds_status device_alloc(ds_device *dev, size_t bytes, void **out, ds_error *err) {
  (void)dev;
  if (bytes == 0) return ds_fail(err, DS_ERR_INVALID, "reference: alloc of 0 bytes");
  void *p = NULL;
  if (bytes > PTRDIFF_MAX || posix_memalign(&p, ALIGNMENT, bytes) != 0) {
    return ds_fail(err, DS_ERR_MEMORY, "reference: the host has no %zu bytes left", bytes);
  }
  *out = p;
  return DS_OK;
}

static void device_free(ds_device *dev, void *p) {
  (void)dev;
  free(p);
}

static ds_status stream_create(ds_device *dev, ds_stream **out, ds_error *err) {
  (void)dev;
  ds_stream *s = malloc(sizeof *s);
  if (!s) return ds_fail_memory(err, "a reference stream");
  *out = s;
  return DS_OK;
}

static void stream_destroy(ds_stream *s) {
  free(s);
}

static ds_status stream_sync(ds_stream *s, ds_error *err) {
  (void)s;
  (void)err;
  return DS_OK;
}

/* Upload, download and copy are the same thing on the host. */
static ds_status copy_bytes(ds_stream *s, void *dst, const void *src, size_t bytes, ds_error *err) {
  (void)s;
  if (bytes == 0) return DS_OK;
  if (!dst || !src) {
    return ds_fail(err, DS_ERR_INVALID, "reference: copy of %zu bytes %s NULL", bytes,
                   dst ? "from" : "to");
  }
  memcpy(dst, src, bytes);
  return DS_OK;
}

static ds_status fill_bytes(ds_stream *s, void *dst, uint8_t byte, size_t bytes, ds_error *err) {
  (void)s;
  if (bytes == 0) return DS_OK;
  if (!dst) return ds_fail(err, DS_ERR_INVALID, "reference: fill of %zu bytes at NULL", bytes);
  memset(dst, byte, bytes);
  return DS_OK;
}

static ds_status event_create(ds_device *dev, ds_event **out, ds_error *err) {
  (void)dev;
  ds_event *e = malloc(sizeof *e);
  if (!e) return ds_fail_memory(err, "a reference event");
  *out = e;
  return DS_OK;
}

static void event_destroy(ds_event *e) {
  free(e);
}

/* All work is done when its call returns, so every event has happened already. */
static ds_status event_record(ds_event *e, ds_stream *s, ds_error *err) {
  (void)e;
  (void)s;
  (void)err;
  return DS_OK;
}

static ds_status event_sync(ds_event *e, ds_error *err) {
  (void)e;
  (void)err;
  return DS_OK;
}

const ds_device_table ds_reference_device = {
    .base = DS_REFERENCE_TABLE(ds_device_table),
    .count = device_count,
    .open = device_open,
    .close = device_close,
    .info = device_info,
    .alloc = device_alloc,
    .free = device_free,
    .stream_create = stream_create,
    .stream_destroy = stream_destroy,
    .stream_sync = stream_sync,
    .upload = copy_bytes,
    .download = copy_bytes,
    .copy = copy_bytes,
    .fill = fill_bytes,
    .event_create = event_create,
    .event_destroy = event_destroy,
    .event_record = event_record,
    .event_wait = event_record,
    .event_sync = event_sync,
};
