/* minimal.c - a reference plugin for the ABI's matrix: the required functions and nothing else.
 *
 * Self-contained, since it is frozen with each version: it includes nothing but the header of its
 * time. Device addresses are host addresses moved to where nothing is mapped, so that whoever
 * touches device memory from the host crashes.
 */
#ifndef _GNU_SOURCE
#define _POSIX_C_SOURCE 200809L
#endif
#include "ds_abi.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

DS_PLUGIN_NOTE("minimal", "1.0.0", 150, "nothing");

#define FAR_AWAY ((uintptr_t)1 << 53)

struct ds_device {
  int opened;
};
struct ds_stream {
  ds_device *device;
};

static ds_status fail(ds_error *err, ds_status status, const char *message) {
  if (err) {
    err->status = status;
    snprintf(err->message, sizeof err->message, "minimal: %s", message);
  }
  return status;
}

static void *here(const void *there) {
  return (void *)((uintptr_t)there - FAR_AWAY);
}

static ds_status device_count(int32_t *count_out, const char **reason_out, ds_error *err) {
  (void)reason_out;
  (void)err;
  *count_out = 1;
  return DS_OK;
}

static ds_status device_open(int32_t index, const char *options, ds_device **out, ds_error *err) {
  if (index != 0) return fail(err, DS_ERR_NOT_FOUND, "there is only device 0");
  if (options && strcmp(options, "{}") != 0) return fail(err, DS_ERR_INVALID, "unknown option");
  *out = calloc(1, sizeof **out);
  return *out ? DS_OK : fail(err, DS_ERR_MEMORY, "out of memory");
}

static void device_close(ds_device *dev) {
  free(dev);
}

static ds_status device_info(ds_device *dev, ds_device_info *info, ds_error *err) {
  ds_device_info full = {.name = "far memory", .threads = 1};
  (void)dev;
  if (info->size < sizeof info->size) return fail(err, DS_ERR_INVALID, "info: size is not set");
  full.size = info->size < sizeof full ? info->size : (uint32_t)sizeof full;
  memcpy(info, &full, full.size);
  return DS_OK;
}

static ds_status device_alloc(ds_device *dev, size_t bytes, void **out, ds_error *err) {
  void *p = NULL;
  (void)dev;
  if (bytes > SIZE_MAX / 4 || posix_memalign(&p, 64, bytes) != 0)
    return fail(err, DS_ERR_MEMORY, "far memory is exhausted");
  *out = (void *)((uintptr_t)p + FAR_AWAY);
  return DS_OK;
}

static void device_free(ds_device *dev, void *p) {
  (void)dev;
  if (p) free(here(p));
}

static ds_status stream_create(ds_device *dev, ds_stream **out, ds_error *err) {
  *out = malloc(sizeof **out);
  if (!*out) return fail(err, DS_ERR_MEMORY, "out of memory");
  (*out)->device = dev;
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
  if (bytes) memcpy(here(dst), src, bytes);
  return DS_OK;
}

static ds_status download(ds_stream *s, void *dst, const void *src, size_t bytes, ds_error *err) {
  (void)s;
  (void)err;
  if (bytes) memcpy(dst, here(src), bytes);
  return DS_OK;
}

static ds_status copy(ds_stream *s, void *dst, const void *src, size_t bytes, ds_error *err) {
  (void)s;
  (void)err;
  if (bytes) memcpy(here(dst), here(src), bytes);
  return DS_OK;
}

static ds_status fill(ds_stream *s, void *dst, uint8_t byte, size_t bytes, ds_error *err) {
  (void)s;
  (void)err;
  if (bytes) memset(here(dst), byte, bytes);
  return DS_OK;
}

static const ds_device_table device = {
    .base = {sizeof(ds_device_table), DS_ABI_MAJOR, DS_ABI_MINOR},
    .count = device_count,
    .open = device_open,
    .close = device_close,
    .info = device_info,
    .alloc = device_alloc,
    .free = device_free,
    .stream_create = stream_create,
    .stream_destroy = stream_destroy,
    .stream_sync = stream_sync,
    .upload = upload,
    .download = download,
    .copy = copy,
    .fill = fill,
};

const ds_plugin *ds_plugin_query(const ds_host *host, ds_version_range host_abi, ds_error *err) {
  static ds_plugin plugin = {
      .base = {sizeof(ds_plugin), DS_ABI_MAJOR, DS_ABI_MINOR},
      .name = "minimal",
      .version = "1.0.0",
      .description = "the required functions and nothing else",
      .device = &device,
  };
  char text[80];
  if (host_abi.major != DS_ABI_MAJOR || host_abi.min_minor > DS_ABI_MINOR ||
      host_abi.max_minor < DS_ABI_COMPAT_MINOR) {
    fail(err, DS_ERR_VERSION, "no common ABI");
    return NULL;
  }
  if (host_abi.max_minor < DS_ABI_MINOR) plugin.base.minor = host_abi.max_minor;
  snprintf(text, sizeof text, "agreed to ABI %d.%d", plugin.base.major, plugin.base.minor);
  if (DS_HAS(host, log) && host->log) host->log(host->ctx, DS_LOG_INFO, text);
  return &plugin;
}
