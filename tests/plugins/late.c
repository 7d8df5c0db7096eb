/* late.c - a plugin with a thread for each stream, which works late and slowly: each piece of work
 * takes some milliseconds, and is under way when the host ends. */
#define DEVICES          1
#define NO_DEVICE_REASON NULL
#include "device.h"

#include <pthread.h>
#include <time.h>

DS_PLUGIN_NOTE("late", "1.0", 10, "nothing");

typedef struct work {
  struct work *next;
  void *to;
  const void *from; /* NULL: fill with byte */
  uint8_t byte;
  size_t bytes;
  char copy[]; /* of what was uploaded */
} work;

typedef struct stream {
  ds_stream base; /* first: its address is the stream's */
  pthread_t thread;
  pthread_mutex_t lock;
  pthread_cond_t changed;
  work *first, **last;
  int given, done, stop;
} stream;

static stream *of(ds_stream *s) {
  return (stream *)s;
}

static void run_work(const work *w) {
  const struct timespec slow = {0, 2000000};
  nanosleep(&slow, NULL);
  if (w->from)
    memcpy(host_address(w->to), w->from, w->bytes);
  else
    memset(host_address(w->to), w->byte, w->bytes);
}

static void *work_late(void *arg) {
  stream *s = arg;
  pthread_mutex_lock(&s->lock);
  for (;;) {
    work *w = s->first;
    if (!w && s->stop) break;
    if (!w) {
      pthread_cond_wait(&s->changed, &s->lock);
      continue;
    }
    s->first = w->next;
    if (!s->first) s->last = &s->first;
    pthread_mutex_unlock(&s->lock);
    run_work(w);
    free(w);
    pthread_mutex_lock(&s->lock);
    s->done++;
    pthread_cond_broadcast(&s->changed);
  }
  pthread_mutex_unlock(&s->lock);
  return NULL;
}

static ds_status give(stream *s, void *to, const void *from, const void *copied, uint8_t byte,
                      size_t bytes, ds_error *err) {
  work *w = malloc(sizeof *w + (copied ? bytes : 0));
  if (!w) return fail(err, DS_ERR_MEMORY, "out of memory");
  *w = (work){NULL, to, copied ? w->copy : from, byte, bytes};
  if (copied) memcpy(w->copy, copied, bytes);
  pthread_mutex_lock(&s->lock);
  *s->last = w;
  s->last = &w->next;
  s->given++;
  pthread_cond_broadcast(&s->changed);
  pthread_mutex_unlock(&s->lock);
  return DS_OK;
}

static ds_status late_create(ds_device *d, ds_stream **out, ds_error *err) {
  (void)d;
  stream *s = calloc(1, sizeof *s);
  if (!s) return fail(err, DS_ERR_MEMORY, "out of memory");
  pthread_mutex_init(&s->lock, NULL);
  pthread_cond_init(&s->changed, NULL);
  s->last = &s->first;
  if (pthread_create(&s->thread, NULL, work_late, s) != 0) {
    free(s);
    return fail(err, DS_ERR_DEVICE, "no thread");
  }
  *out = &s->base;
  return DS_OK;
}

static void late_destroy(ds_stream *base) {
  stream *s = of(base);
  if (!s) return;
  pthread_mutex_lock(&s->lock);
  s->stop = 1;
  pthread_cond_broadcast(&s->changed);
  pthread_mutex_unlock(&s->lock);
  pthread_join(s->thread, NULL);
  free(s);
}

static ds_status late_sync(ds_stream *base, ds_error *err) {
  stream *s = of(base);
  (void)err;
  pthread_mutex_lock(&s->lock);
  while (s->done < s->given) pthread_cond_wait(&s->changed, &s->lock);
  pthread_mutex_unlock(&s->lock);
  return DS_OK;
}

static ds_status late_upload(ds_stream *s, void *dst, const void *src, size_t n, ds_error *err) {
  return give(of(s), dst, NULL, src, 0, n, err);
}

static ds_status late_download(ds_stream *s, void *dst, const void *src, size_t n, ds_error *err) {
  ds_status status = late_sync(s, err);
  memcpy(dst, host_address(src), n);
  return status;
}

static ds_status late_copy(ds_stream *s, void *dst, const void *src, size_t n, ds_error *err) {
  return give(of(s), dst, host_address(src), NULL, 0, n, err);
}

static ds_status late_fill(ds_stream *s, void *dst, uint8_t byte, size_t n, ds_error *err) {
  return give(of(s), dst, NULL, NULL, byte, n, err);
}

const ds_plugin *ds_plugin_query(const ds_host *host, ds_version_range host_abi, ds_error *err) {
  static const ds_device_table device = {
      .base = {sizeof(ds_device_table), DS_ABI_MAJOR, DS_ABI_MINOR},
      .count = device_count,
      .open = device_open,
      .close = device_close,
      .info = device_info,
      .alloc = device_alloc,
      .free = device_free,
      .stream_create = late_create,
      .stream_destroy = late_destroy,
      .stream_sync = late_sync,
      .upload = late_upload,
      .download = late_download,
      .copy = late_copy,
      .fill = late_fill,
  };
  static const ds_plugin plugin = {
      .base = {sizeof(ds_plugin), DS_ABI_MAJOR, DS_ABI_MINOR},
      .name = "late",
      .version = "1.0",
      .description = "works late",
      .device = &device,
  };
  (void)host;
  (void)host_abi;
  (void)err;
  return &plugin;
}
