/* device.c - the device table: opening, memory, streams. */
#include "event.h"
#include "isa.h"
#include "options.h"
#include "queue.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/sysinfo.h>

static ds_status device_count(int32_t *count_out, const char **reason_out, ds_error *err) {
  (void)err;
  *count_out = 1;
  if (reason_out != NULL) *reason_out = NULL;
  return DS_OK;
}

/* The processor's name as /proc/cpuinfo has it; "cpu" where it has none (aarch64). */
static void model_name(char *out, size_t room) {
  snprintf(out, room, "cpu");
  FILE *f = fopen("/proc/cpuinfo", "re");
  if (f == NULL) return;
  char line[256];
  while (fgets(line, sizeof line, f) != NULL) {
    if (strncmp(line, "model name", 10) != 0) continue;
    const char *value = strchr(line, ':');
    if (value != NULL) {
      value += 1 + strspn(value + 1, " \t");
      snprintf(out, room, "%.*s", (int)strcspn(value, "\n"), value);
    }
    break;
  }
  fclose(f);
}

static ds_status device_open(int32_t index, const char *options, ds_device **out, ds_error *err) {
  if (index != 0)
    return ds_cpu_fail(err, DS_ERR_NOT_FOUND, "cpu: there is no device %d; the only one is 0",
                       index);
  ds_cpu_options o;
  ds_status st = ds_cpu_options_parse(options, &o, err);
  if (st != DS_OK) return st;
  ds_device *dev = calloc(1, sizeof *dev);
  if (dev == NULL) return ds_cpu_fail(err, DS_ERR_MEMORY, "cpu: no memory for a device");
  pthread_mutex_init(&dev->lock, NULL);
  dev->threads = o.threads;
  dev->isa = o.isa;
  dev->huge_pages = o.huge_pages;
  dev->shared_memory = o.shared_memory;
  char model[80];
  model_name(model, sizeof model);
  snprintf(dev->name, sizeof dev->name, "%s, %d thread%s, %s", model, o.threads,
           o.threads == 1 ? "" : "s", ds_cpu_isa_name(o.isa));
  *out = dev;
  return DS_OK;
}

static void stream_destroy(ds_stream *s);

static void device_close(ds_device *dev) {
  if (dev == NULL) return;
  while (dev->streams != NULL) stream_destroy(dev->streams);
  pthread_mutex_destroy(&dev->lock);
  free(dev);
}

static ds_status device_info(ds_device *dev, ds_device_info *info, ds_error *err) {
  ds_device_info full = {.flags = DS_DEVICE_HOST_ACCESSIBLE, .threads = dev->threads};
  memcpy(full.name, dev->name, sizeof full.name);
  struct sysinfo s;
  if (info->size < sizeof info->size)
    return ds_cpu_fail(err, DS_ERR_INVALID, "cpu: device info: set size before the call");
  if (sysinfo(&s) == 0) {
    full.memory_total = (uint64_t)s.totalram * s.mem_unit;
    full.memory_free = ((uint64_t)s.freeram + s.bufferram) * s.mem_unit;
  }
  full.size = info->size < sizeof full ? info->size : (uint32_t)sizeof full;
  memcpy(info, &full, full.size);
  return DS_OK;
}

static ds_status device_alloc(ds_device *dev, size_t bytes, void **out, ds_error *err) {
  if (bytes == 0)
    return ds_cpu_fail(err, DS_ERR_INVALID, "cpu: alloc of 0 bytes; ask for at least one");
  *out = ds_cpu_memory_alloc(dev, bytes);
  if (*out != NULL) return DS_OK;
  return ds_cpu_fail(err, DS_ERR_MEMORY, "cpu: no memory for %zu bytes", bytes);
}

static void device_free(ds_device *dev, void *p) {
  (void)dev;
  if (!ds_cpu_memory_kept()) ds_cpu_memory_free(p);
}

static ds_status stream_create(ds_device *dev, ds_stream **out, ds_error *err) {
  ds_stream *s = calloc(1, sizeof *s);
  if (s == NULL) return ds_cpu_fail(err, DS_ERR_MEMORY, "cpu: no memory for a stream");
  s->dev = dev;
  pthread_mutex_lock(&dev->lock);
  s->after = dev->streams;
  if (s->after != NULL) s->after->before = s;
  dev->streams = s;
  pthread_mutex_unlock(&dev->lock);
  *out = s;
  return DS_OK;
}

static void unlist(ds_stream *s) {
  pthread_mutex_lock(&s->dev->lock);
  if (s->before != NULL)
    s->before->after = s->after;
  else
    s->dev->streams = s->after;
  if (s->after != NULL) s->after->before = s->before;
  pthread_mutex_unlock(&s->dev->lock);
}

static void stream_destroy(ds_stream *s) {
  if (s == NULL) return;
  ds_cpu_queue_destroy(s);
  unlist(s);
  ds_cpu_gemm_destroy(s->gemm);
  for (int i = 0; i < DS_CPU_SCRATCH_COUNT; i++) ds_cpu_memory_free(s->scratch[i].data);
  free(s);
}

static ds_status stream_sync(ds_stream *s, ds_error *err) {
  return ds_cpu_ready(s, err);
}

/* What one thread moves; below it, waking the others costs more than it saves. */
enum { PIECE = 1 << 20 };

static ds_status copy(ds_stream *s, void *dst, const void *src, size_t bytes, ds_error *err) {
  ds_status st = ds_cpu_ready(s, err);
  if (st != DS_OK || bytes == 0) return st;
  if (bytes < 2 * (size_t)PIECE || s->dev->threads == 1) {
    memcpy(dst, src, bytes);
    return DS_OK;
  }
#pragma omp parallel for schedule(static) num_threads(s->dev->threads)
  for (size_t at = 0; at < bytes; at += PIECE)
    memcpy((char *)dst + at, (const char *)src + at, bytes - at < PIECE ? bytes - at : PIECE);
  return DS_OK;
}

static ds_status fill(ds_stream *s, void *dst, uint8_t byte, size_t bytes, ds_error *err) {
  ds_status st = ds_cpu_ready(s, err);
  if (st != DS_OK || bytes == 0) return st;
  if (bytes < 2 * (size_t)PIECE || s->dev->threads == 1) {
    memset(dst, byte, bytes);
    return DS_OK;
  }
#pragma omp parallel for schedule(static) num_threads(s->dev->threads)
  for (size_t at = 0; at < bytes; at += PIECE)
    memset((char *)dst + at, byte, bytes - at < PIECE ? bytes - at : PIECE);
  return DS_OK;
}

const ds_device_table ds_cpu_device_table = {
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
    .upload = copy,
    .download = copy,
    .copy = copy,
    .fill = fill,
    .event_create = ds_cpu_event_create,
    .event_destroy = ds_cpu_event_destroy,
    .event_record = ds_cpu_event_record,
    .event_wait = ds_cpu_event_wait,
    .event_sync = ds_cpu_event_sync,
};
