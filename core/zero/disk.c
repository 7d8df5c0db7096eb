#include "zero/disk.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/str.h"

enum { ROOM = 64 };

typedef struct request {
  char *host;
  size_t bytes;
  int64_t at;
  bool write;
} request;

struct ds_disk {
  int fd;
  char *folder;
  pthread_t thread;
  bool started;
  pthread_mutex_t lock; /* of the rest */
  pthread_cond_t changed;
  request queue[ROOM];
  uint64_t asked, done; /* requests so far */
  bool ends;
  int failed; /* errno of the first failure */
  bool failed_write;
};

static int transfer(int fd, request r) {
  while (r.bytes > 0) {
    ssize_t n = r.write ? pwrite(fd, r.host, r.bytes, r.at) : pread(fd, r.host, r.bytes, r.at);
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) return errno;
    if (n == 0) return EIO; /* shorter than it was made */
    r.host += n;
    r.at += n;
    r.bytes -= (size_t)n;
  }
  return 0;
}

static void *work(void *arg) {
  ds_disk *d = arg;
  pthread_mutex_lock(&d->lock);
  for (;;) {
    while (d->done == d->asked && !d->ends) pthread_cond_wait(&d->changed, &d->lock);
    if (d->done == d->asked) break;
    request r = d->queue[d->done % ROOM];
    bool skip = d->failed != 0 || d->ends;
    pthread_mutex_unlock(&d->lock);
    int code = skip ? 0 : transfer(d->fd, r);
    pthread_mutex_lock(&d->lock);
    if (code && !d->failed) {
      d->failed = code;
      d->failed_write = r.write;
    }
    d->done++;
    pthread_cond_broadcast(&d->changed);
  }
  pthread_mutex_unlock(&d->lock);
  return NULL;
}

static int open_nameless(const char *folder) {
  int fd = open(folder, O_TMPFILE | O_RDWR | O_CLOEXEC, 0600);
  if (fd >= 0 || (errno != EOPNOTSUPP && errno != EISDIR && errno != EINVAL)) return fd;
  char *path = ds_format("%s/dscore-offload-XXXXXX", folder);
  if (!path) return -1;
  fd = mkostemp(path, O_CLOEXEC);
  if (fd >= 0) unlink(path);
  free(path);
  return fd;
}

/* The host's signals are not for this thread. */
static int start(ds_disk *d) {
  sigset_t all, before;
  sigfillset(&all);
  pthread_sigmask(SIG_SETMASK, &all, &before);
  int code = pthread_create(&d->thread, NULL, work, d);
  pthread_sigmask(SIG_SETMASK, &before, NULL);
  return code;
}

ds_status ds_disk_create(const char *folder, int64_t bytes, ds_disk **out, ds_error *err) {
  *out = NULL;
  ds_disk *d = calloc(1, sizeof *d);
  if (!d) return ds_fail_memory(err, "offloading to a file");
  pthread_mutex_init(&d->lock, NULL);
  pthread_cond_init(&d->changed, NULL);
  d->fd = -1;
  d->folder = strdup(folder);
  int code = d->folder ? 0 : ENOMEM;
  if (!code && (d->fd = open_nameless(folder)) < 0) code = errno;
  if (!code && bytes > 0) code = posix_fallocate(d->fd, 0, bytes);
  if (!code) code = start(d);
  d->started = code == 0;
  if (code) {
    ds_disk_destroy(d);
    return ds_fail(err, code == ENOMEM ? DS_ERR_MEMORY : DS_ERR_IO,
                   "a file of %lld bytes for offloading in \"%s\" (nvme_path): %s",
                   (long long)bytes, folder, strerror(code));
  }
  *out = d;
  return DS_OK;
}

void ds_disk_destroy(ds_disk *d) {
  if (!d) return;
  pthread_mutex_lock(&d->lock);
  d->ends = true;
  pthread_cond_broadcast(&d->changed);
  pthread_mutex_unlock(&d->lock);
  if (d->started) pthread_join(d->thread, NULL);
  if (d->fd >= 0) close(d->fd);
  pthread_cond_destroy(&d->changed);
  pthread_mutex_destroy(&d->lock);
  free(d->folder);
  free(d);
}

static uint64_t ask(ds_disk *d, request r) {
  pthread_mutex_lock(&d->lock);
  while (d->asked - d->done == ROOM) pthread_cond_wait(&d->changed, &d->lock);
  d->queue[d->asked % ROOM] = r;
  uint64_t number = ++d->asked;
  pthread_cond_broadcast(&d->changed);
  pthread_mutex_unlock(&d->lock);
  return number;
}

uint64_t ds_disk_read(ds_disk *d, int64_t at, size_t bytes, void *host) {
  return ask(d, (request){host, bytes, at, false});
}

uint64_t ds_disk_write(ds_disk *d, int64_t at, size_t bytes, const void *host) {
  char *p;
  memcpy(&p, &host, sizeof p); /* it is only read */
  return ask(d, (request){p, bytes, at, true});
}

ds_status ds_disk_wait(ds_disk *d, uint64_t number, ds_error *err) {
  pthread_mutex_lock(&d->lock);
  while (d->done < number) pthread_cond_wait(&d->changed, &d->lock);
  int code = d->failed;
  bool write = d->failed_write;
  pthread_mutex_unlock(&d->lock);
  if (code == 0) return DS_OK;
  return ds_fail(err, DS_ERR_IO, "offloading: %s the file in \"%s\" (nvme_path): %s",
                 write ? "writing to" : "reading from", d->folder, strerror(code));
}
