/* device.c - host memory; streams with a thread for what may wait. */
#include "buggy.h"

#include <fcntl.h>
#include <fenv.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <sys/mman.h>
#include <unistd.h>

struct ds_stream {
  ds_device *dev;
  pthread_t thread;
  pthread_mutex_t lock;
  pthread_cond_t changed;
  buggy_job *first, **last;
  uint64_t posted, finished;
  bool running, ending;
  ds_graph *recording;
  ds_status status; /* of the first job that failed */
  ds_error err;
};

struct ds_event {
  ds_stream *s; /* NULL: never recorded */
  uint64_t ticket;
};

/* ---------------------------------------------------------------- the stream's thread */

static void *run_jobs(void *arg) {
  ds_stream *s = arg;
  pthread_mutex_lock(&s->lock);
  for (;;) {
    while (!s->first && !s->ending) pthread_cond_wait(&s->changed, &s->lock);
    buggy_job *job = s->first;
    if (!job) break;
    s->first = job->next;
    if (!s->first) s->last = &s->first;
    bool dead = s->status != DS_OK;
    pthread_mutex_unlock(&s->lock);
    ds_error err = {0};
    ds_status st = dead ? DS_OK : job->run(job, &err);
    if (dead && job->drop) job->drop(job);
    buggy_free(job);
    pthread_mutex_lock(&s->lock);
    if (st != DS_OK) {
      s->status = st;
      s->err = err;
    }
    s->finished++;
    pthread_cond_broadcast(&s->changed);
  }
  pthread_mutex_unlock(&s->lock);
  return NULL;
}

ds_graph **buggy_recording(ds_stream *s) {
  return &s->recording;
}

ds_status buggy_unrecorded(ds_stream *s, const char *what, ds_error *err) {
  if (!s->recording) return DS_OK;
  if (BUG == BUG_BREAKS_OFF) {
    buggy_graph_drop(s->recording);
    s->recording = NULL;
  }
  return ds_fail(err, DS_ERR_STATE, "buggy: %s while the stream records", what);
}

ds_status buggy_wait(ds_stream *s, ds_error *err) {
  buggy_late_upload();
  pthread_mutex_lock(&s->lock);
  while (s->finished < s->posted) pthread_cond_wait(&s->changed, &s->lock);
  ds_status st = s->status;
  if (st != DS_OK && err) *err = s->err;
  pthread_mutex_unlock(&s->lock);
  return st;
}

/* The thread is only there once there is work for it. */
ds_status buggy_post(ds_stream *s, buggy_job *job, ds_error *err) {
  buggy_late_upload();
  pthread_mutex_lock(&s->lock);
  ds_status st = s->status;
  if (st != DS_OK && err) *err = s->err;
  if (st == DS_OK && !s->running) {
    s->running = pthread_create(&s->thread, NULL, run_jobs, s) == 0;
    if (!s->running) st = ds_fail(err, DS_ERR_MEMORY, "buggy: no thread for a stream");
  }
  if (st == DS_OK) {
    job->next = NULL;
    *s->last = job;
    s->last = &job->next;
    s->posted++;
    pthread_cond_broadcast(&s->changed);
  } else {
    if (job->drop) job->drop(job);
    buggy_free(job);
  }
  pthread_mutex_unlock(&s->lock);
  return st;
}

/* ---------------------------------------------------------------- device */

static int open_devices; /* for BUG_SHARED_DEVICE only */
static bool device_ended;

static void *sleep_long(void *arg) {
  (void)arg;
  for (;;) pause();
  return NULL;
}

static void crash(void) {
  raise(SIGSEGV);
}

static void *volatile lost; /* so that the compiler leaves the leaks in */

static void leak(void) {
  pthread_t thread;
  if (BUG == BUG_LEAKS_THREAD && pthread_create(&thread, NULL, sleep_long, NULL) == 0)
    pthread_detach(thread);
  if (BUG == BUG_LEAKS_FILE) (void)!open("/dev/null", O_RDONLY | O_CLOEXEC);
  if (BUG == BUG_LEAKS_MEMORY) lost = malloc(100);
  if (BUG == BUG_LEAKS_PAGES) {
    void *page = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (page != MAP_FAILED) *(volatile char *)page = 1;
  }
}

static void handle(int number) {
  (void)number;
}

static ds_status device_count(int32_t *count_out, const char **reason_out, ds_error *err) {
  return ds_reference_device.count(count_out, reason_out, err);
}

static ds_status device_open(int32_t index, const char *options, ds_device **out, ds_error *err) {
  if (BUG == BUG_EXITS) exit(0);
  void *early = BUG == BUG_LEAKS_REFUSED ? malloc(200) : NULL;
  ds_device *inner = NULL;
  if (BUG == BUG_TAKES_ANY_OPTION && index == 0) options = NULL;
  DS_TRY(ds_reference_device.open(index, options, &inner, err));
  free(early);
  ds_device *dev = buggy_alloc(sizeof *dev);
  if (!dev) {
    ds_reference_device.close(inner);
    return ds_fail_memory(err, "a device");
  }
  dev->inner = inner;
  leak();
  open_devices++;
  device_ended = false;
  if (BUG == BUG_SETS_ENVIRONMENT) setenv("BUGGY", "1", 1);
  if (BUG == BUG_SETS_HANDLER) signal(SIGTERM, handle);
  if (BUG == BUG_CRASHES_AT_EXIT) atexit(crash);
  *out = dev;
  return DS_OK;
}

static void device_close(ds_device *dev) {
  if (!dev) return;
  ds_reference_device.close(dev->inner);
  buggy_free(dev);
  open_devices--;
  device_ended = true;
}

static ds_status device_info(ds_device *dev, ds_device_info *info, ds_error *err) {
  if (BUG == BUG_INFO_OVERRUN && info->size >= sizeof info->size) info->size = sizeof *info;
  return ds_reference_device.info(dev->inner, info, err);
}

static ds_status device_alloc(ds_device *dev, size_t bytes, void **out, ds_error *err) {
  if (BUG == BUG_LEAKS_EXHAUSTED && bytes > (size_t)1 << 40) lost = malloc(64);
  ds_status st = ds_reference_device.alloc(dev->inner, bytes, out, err);
  if (st != DS_OK && err && BUG == BUG_ENDLESS_MESSAGE)
    memset(err->message, 'A', sizeof err->message);
  if (st != DS_OK && err && BUG == BUG_STATUS_MISMATCH) err->status = DS_ERR_IO;
  if (st == DS_OK && BUG == BUG_UNALIGNED) {
    free(*out);
    *out = (char *)malloc(bytes + 80) + 16;
  }
  return st;
}

static void device_free(ds_device *dev, void *p) {
  if (BUG == BUG_UNALIGNED) {
    if (p) free((char *)p - 16);
    return;
  }
  ds_reference_device.free(dev->inner, p);
}

/* ---------------------------------------------------------------- streams */

static ds_status stream_create(ds_device *dev, ds_stream **out, ds_error *err) {
  ds_stream *s = buggy_alloc(sizeof *s);
  if (!s) return ds_fail_memory(err, "a stream");
  if (BUG == BUG_PRINTS) {
    printf("buggy: a stream\n");
    fflush(stdout);
  }
  s->dev = dev;
  s->last = &s->first;
  pthread_mutex_init(&s->lock, NULL);
  pthread_cond_init(&s->changed, NULL);
  *out = s;
  return DS_OK;
}

static void stream_destroy(ds_stream *s) {
  if (!s) return;
  pthread_mutex_lock(&s->lock);
  s->ending = true;
  pthread_cond_broadcast(&s->changed);
  pthread_mutex_unlock(&s->lock);
  if (s->running) pthread_join(s->thread, NULL);
  buggy_graph_drop(s->recording);
  pthread_cond_destroy(&s->changed);
  pthread_mutex_destroy(&s->lock);
  buggy_free(s);
}

static ds_status stream_sync(ds_stream *s, ds_error *err) {
  DS_TRY(buggy_unrecorded(s, "stream_sync", err));
  return buggy_wait(s, err);
}

static struct {
  void *dst;
  const void *src;
  size_t bytes;
} late; /* for BUG_UPLOAD_LATE only */

void buggy_late_upload(void) {
  if (BUG != BUG_UPLOAD_LATE || !late.dst) return;
  memcpy(late.dst, late.src, late.bytes);
  late.dst = NULL;
}

static ds_status upload(ds_stream *s, void *dst, const void *src, size_t bytes, ds_error *err) {
  if (BUG != BUG_RECORDS_UPLOADS) DS_TRY(buggy_unrecorded(s, "upload", err));
  DS_TRY(buggy_wait(s, err));
  if (BUG == BUG_UPLOAD_LATE && bytes) {
    late.dst = dst;
    late.src = src;
    late.bytes = bytes;
    return DS_OK;
  }
  return ds_reference_device.upload(s, dst, src, bytes, err);
}

static ds_status download(ds_stream *s, void *dst, const void *src, size_t bytes, ds_error *err) {
  DS_TRY(buggy_unrecorded(s, "download", err));
  DS_TRY(buggy_wait(s, err));
  if (BUG == BUG_SHARED_DEVICE && device_ended && open_devices > 0)
    return ds_fail(err, DS_ERR_DEVICE, "buggy: the device is closed");
  return ds_reference_device.download(s, dst, src, bytes, err);
}

static ds_status copy(ds_stream *s, void *dst, const void *src, size_t bytes, ds_error *err) {
  ds_status st;
  if (buggy_record_move(s, copy, dst, src, bytes, &st, err)) return st;
  DS_TRY(buggy_wait(s, err));
  return ds_reference_device.copy(s, dst, src, bytes, err);
}

static ds_status fill(ds_stream *s, void *dst, uint8_t byte, size_t bytes, ds_error *err) {
  ds_status st;
  if (buggy_record_fill(s, dst, byte, bytes, &st, err)) return st;
  DS_TRY(buggy_wait(s, err));
  if (BUG == BUG_SETS_ROUNDING) fesetround(FE_UPWARD);
  return ds_reference_device.fill(s, dst, byte, bytes, err);
}

/* ---------------------------------------------------------------- since 0.10 */

static ds_status host_alloc(ds_device *dev, size_t bytes, void **out, ds_error *err) {
  DS_TRY(ds_reference_device.alloc(dev->inner, bytes, out, err));
  if (BUG == BUG_HOST_UNALIGNED) {
    free(*out);
    *out = (char *)malloc(bytes + 80) + 16;
  }
  return DS_OK;
}

static void host_free(ds_device *dev, void *p) {
  if (BUG == BUG_HOST_UNALIGNED) {
    if (p) free((char *)p - 16);
    return;
  }
  ds_reference_device.free(dev->inner, p);
}

static ds_status upload_async(ds_stream *s, void *dst, const void *src, size_t bytes,
                              ds_error *err) {
  ds_status st;
  if (buggy_record_move(s, upload_async, dst, src, bytes, &st, err)) return st;
  DS_TRY(buggy_wait(s, err));
  return ds_reference_device.copy(s, dst, src, bytes, err);
}

static ds_status download_async(ds_stream *s, void *dst, const void *src, size_t bytes,
                                ds_error *err) {
  ds_status st;
  if (buggy_record_move(s, download_async, dst, src, bytes, &st, err)) return st;
  DS_TRY(buggy_wait(s, err));
  if (BUG == BUG_ASYNC_SHORT) bytes -= bytes % 2;
  return ds_reference_device.copy(s, dst, src, bytes, err);
}

static ds_status stream_alloc(ds_stream *s, size_t bytes, void **out, ds_error *err) {
  DS_TRY(buggy_unrecorded(s, "stream_alloc", err));
  return device_alloc(s->dev, bytes, out, err);
}

static ds_status stream_free(ds_stream *s, void *p, ds_error *err) {
  DS_TRY(buggy_unrecorded(s, "stream_free", err));
  if (BUG == BUG_STREAM_FREE && !p) return ds_fail(err, DS_ERR_INVALID, "buggy: NULL is no memory");
  DS_TRY(buggy_wait(s, err));
  device_free(s->dev, p);
  return DS_OK;
}

static ds_status peer_copy(ds_stream *s, ds_device *to, void *dst, ds_device *from, const void *src,
                           size_t bytes, ds_error *err) {
  (void)to;
  (void)from;
  DS_TRY(buggy_not_recorded(s, "peer_copy", err));
  DS_TRY(buggy_wait(s, err));
  if (BUG == BUG_PEER_SHORT) bytes -= bytes % 4;
  return ds_reference_device.copy(s, dst, src, bytes, err);
}

/* ---------------------------------------------------------------- events */

static ds_status event_create(ds_device *dev, ds_event **out, ds_error *err) {
  (void)dev;
  ds_event *e = buggy_alloc(sizeof *e);
  if (!e) return ds_fail_memory(err, "an event");
  *out = e;
  return DS_OK;
}

static void event_destroy(ds_event *e) {
  buggy_free(e);
}

static ds_status event_record(ds_event *e, ds_stream *s, ds_error *err) {
  DS_TRY(buggy_unrecorded(s, "event_record", err));
  pthread_mutex_lock(&s->lock);
  e->ticket = s->posted;
  e->s = s;
  pthread_mutex_unlock(&s->lock);
  return DS_OK;
}

static void reach(ds_stream *s, uint64_t ticket) {
  pthread_mutex_lock(&s->lock);
  while (s->finished < ticket) pthread_cond_wait(&s->changed, &s->lock);
  pthread_mutex_unlock(&s->lock);
}

static ds_status event_sync(ds_event *e, ds_error *err) {
  (void)err;
  if (e->s) reach(e->s, e->ticket);
  return DS_OK;
}

typedef struct wait_job {
  buggy_job base;
  ds_stream *s;
  uint64_t ticket;
} wait_job;

static ds_status run_wait(buggy_job *job, ds_error *err) {
  wait_job *w = (wait_job *)job;
  (void)err;
  reach(w->s, w->ticket);
  return DS_OK;
}

static ds_status event_wait(ds_event *e, ds_stream *s, ds_error *err) {
  DS_TRY(buggy_unrecorded(s, "event_wait", err));
  if (BUG == BUG_EVENT_IGNORED || !e->s || e->s == s) return DS_OK;
  wait_job *w = buggy_alloc(sizeof *w);
  if (!w) return ds_fail_memory(err, "a wait");
  *w = (wait_job){{.run = run_wait}, e->s, e->ticket};
  return buggy_post(s, &w->base, err);
}

const ds_device_table buggy_device = {
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
    .upload = upload,
    .download = download,
    .copy = copy,
    .fill = fill,
    .event_create = event_create,
    .event_destroy = event_destroy,
    .event_record = event_record,
    .event_wait = event_wait,
    .event_sync = event_sync,
    .host_alloc = host_alloc,
    .host_free = host_free,
    .upload_async = upload_async,
    .download_async = download_async,
    .stream_alloc = stream_alloc,
    .stream_free = stream_free,
    .peer_copy = peer_copy,
};
