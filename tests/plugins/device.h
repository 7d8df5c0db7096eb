/* device.h - the required device functions for test plugins, and copy and fill.
 *
 * Device addresses are host addresses moved far away, to where nothing is mapped: whoever touches
 * device memory from the host crashes. Each plugin that includes this defines DEVICES (how many)
 * and NO_DEVICE_REASON first.
 */
#ifndef DS_TEST_PLUGINS_DEVICE_H
#define DS_TEST_PLUGINS_DEVICE_H

#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "ds_abi.h"

#define SHIFT ((uintptr_t)1 << 53)

struct ds_device {
  int32_t index;
};
struct ds_stream {
  ds_device *device;
};

static inline ds_status fail(ds_error *err, ds_status status, const char *message) {
  if (err) {
    err->status = status;
    snprintf(err->message, sizeof err->message, "%s", message);
  }
  return status;
}

/* For the query: whether the host speaks a version of these files, whose highest goes into base. */
static inline bool speaks(ds_version_range host, ds_table *base, ds_error *err) {
  if (host.max_minor < DS_ABI_MINOR) base->minor = host.max_minor;
  if (host.major == DS_ABI_MAJOR && host.min_minor <= DS_ABI_MINOR &&
      host.max_minor >= DS_ABI_COMPAT_MINOR)
    return true;
  fail(err, DS_ERR_VERSION, "a host of another version than this plugin's; upgrade the older");
  return false;
}

static inline void *host_address(const void *device_address) {
  return (void *)((uintptr_t)device_address - SHIFT);
}

static ds_status device_count(int32_t *count_out, const char **reason_out, ds_error *err) {
  (void)err;
  *count_out = DEVICES;
  if (DEVICES == 0) *reason_out = NO_DEVICE_REASON;
  return DS_OK;
}

static ds_status device_open(int32_t index, const char *options, ds_device **out, ds_error *err) {
  if (options && strcmp(options, "{}") != 0) {
    char text[300];
    snprintf(text, sizeof text, "unknown option in %.200s; this plugin has none", options);
    return fail(err, DS_ERR_INVALID, text);
  }
  if (index < 0 || index >= DEVICES) return fail(err, DS_ERR_NOT_FOUND, "no device of this index");
  ds_device *d = malloc(sizeof *d);
  if (!d) return fail(err, DS_ERR_MEMORY, "out of memory");
  d->index = index;
  *out = d;
  return DS_OK;
}

static void device_close(ds_device *d) {
  free(d);
}

static ds_status device_info(ds_device *d, ds_device_info *info, ds_error *err) {
  ds_device_info full = {.size = sizeof full};
  if (info->size < sizeof info->size)
    return fail(err, DS_ERR_INVALID, "info: set size before the call");
  if (info->size < full.size) full.size = info->size;
  snprintf(full.name, sizeof full.name, "far memory %d", (int)d->index);
  memcpy(info, &full, full.size);
  return DS_OK;
}

static ds_status device_alloc(ds_device *d, size_t bytes, void **out, ds_error *err) {
  (void)d;
  void *p = NULL;
  if (bytes == 0) return fail(err, DS_ERR_INVALID, "alloc of 0 bytes");
  if (bytes > (size_t)1 << 40 || posix_memalign(&p, 64, bytes) != 0) {
    return fail(err, DS_ERR_MEMORY, "far memory is exhausted");
  }
  *out = (void *)((uintptr_t)p + SHIFT);
  return DS_OK;
}

static void device_free(ds_device *d, void *p) {
  (void)d;
  if (p) free(host_address(p));
}

static ds_status stream_create(ds_device *d, ds_stream **out, ds_error *err) {
  ds_stream *s = malloc(sizeof *s);
  if (!s) return fail(err, DS_ERR_MEMORY, "out of memory");
  s->device = d;
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

static ds_status upload(ds_stream *s, void *dst, const void *src, size_t bytes, ds_error *err) {
  (void)s;
  (void)err;
  memcpy(host_address(dst), src, bytes);
  return DS_OK;
}

static ds_status download(ds_stream *s, void *dst, const void *src, size_t bytes, ds_error *err) {
  (void)s;
  (void)err;
  memcpy(dst, host_address(src), bytes);
  return DS_OK;
}

static inline ds_status device_copy(ds_stream *s, void *dst, const void *src, size_t bytes,
                                    ds_error *err) {
  (void)s;
  (void)err;
  memcpy(host_address(dst), host_address(src), bytes);
  return DS_OK;
}

static inline ds_status device_fill(ds_stream *s, void *dst, uint8_t byte, size_t bytes,
                                    ds_error *err) {
  (void)s;
  (void)err;
  memset(host_address(dst), byte, bytes);
  return DS_OK;
}

/* No events: an optional group. */
#define TEST_DEVICE_TABLE(size, copy_fn)                                                           \
  {                                                                                                \
    {(uint32_t)(size), DS_ABI_MAJOR, DS_ABI_MINOR}, device_count, device_open, device_close,       \
        device_info, device_alloc, device_free, stream_create, stream_destroy, stream_sync,        \
        upload, download, copy_fn, device_fill, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL,    \
        NULL, NULL, NULL, NULL                                                                     \
  }

#endif
