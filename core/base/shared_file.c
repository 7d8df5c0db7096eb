#include "base/shared_file.h"

#include "base/file.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

enum { WAIT_STEP_MS = 50, WAIT_STEPS = 40, PART = 1 << 30 };

static ds_status fail_errno(ds_error *err, const char *what, const char *path) {
  int e = errno;
  const char *hint = e == ENOSPC || e == EDQUOT ? " (free some space and try again)" : "";
  return ds_fail(err, e == ENOENT ? DS_ERR_NOT_FOUND : DS_ERR_IO, "cannot %s %s: %s%s", what, path,
                 strerror(e), hint);
}

static ds_status write_all(int fd, const char *path, uint64_t at, const void *data, size_t bytes,
                           ds_error *err) {
  const unsigned char *p = data;
  while (bytes > 0) {
    ssize_t n = pwrite(fd, p, bytes < PART ? bytes : PART, (off_t)at);
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) return fail_errno(err, "write", path);
    p += n;
    at += (uint64_t)n;
    bytes -= (size_t)n;
  }
  return DS_OK;
}

/* Blocks for all of it where the file system can set them aside; else only the size, and a full
 * disk is found when it is written. */
static ds_status take_room(int fd, const char *path, uint64_t size, ds_error *err) {
  if (size == 0) return DS_OK;
  int result;
  do result = fallocate(fd, 0, 0, (off_t)size);
  while (result != 0 && errno == EINTR);
  if (result == 0) return DS_OK;
  if (errno != EOPNOTSUPP && errno != ENOSYS) return fail_errno(err, "write", path);
  return ftruncate(fd, (off_t)size) == 0 ? DS_OK : fail_errno(err, "write", path);
}

ds_status ds_shared_file_create(const char *path, uint64_t size, const void *head,
                                size_t head_bytes, ds_error *err) {
  if (size > INT64_MAX || head_bytes > size)
    return ds_fail(err, DS_ERR_INVALID, "%s: %llu bytes are no possible size", path,
                   (unsigned long long)size);
  int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0666);
  if (fd < 0) return fail_errno(err, "create", path);
  ds_status status = take_room(fd, path, size, err);
  if (status == DS_OK) status = write_all(fd, path, 0, head, head_bytes, err);
  if (close(fd) != 0 && status == DS_OK) status = fail_errno(err, "write", path);
  return status;
}

ds_status ds_shared_file_wait(const char *path, ds_error *err) {
  const struct timespec pause = {0, WAIT_STEP_MS * 1000000L};
  for (int i = 0; i < WAIT_STEPS; i++) {
    if (ds_file_exists(path)) return DS_OK;
    nanosleep(&pause, NULL);
    /* Reading the folder makes a network file system ask for its names again. */
    char *slash, *folder = strdup(path);
    if (!folder) return ds_fail_memory(err, path);
    if ((slash = strrchr(folder, '/'))) *slash = '\0';
    DIR *d = opendir(slash && slash > folder ? folder : slash ? "/" : ".");
    if (d) closedir(d);
    free(folder);
  }
  char host[65] = "";
  gethostname(host, sizeof host - 1);
  return ds_fail(err, DS_ERR_NOT_FOUND,
                 "host %s doesn't see %s, which rank 0 has made: all ranks must be given the same "
                 "folder, on a file system that all hosts share",
                 host, path);
}

ds_status ds_shared_file_open(ds_shared_file *f, const char *path, uint64_t size, ds_error *err) {
  *f = (ds_shared_file){.fd = -1, .size = size};
  DS_TRY(ds_shared_file_wait(path, err));
  f->path = strdup(path);
  f->room = malloc(DS_SHARED_FILE_ROOM);
  struct stat st;
  ds_status status = f->path && f->room ? DS_OK : ds_fail_memory(err, path);
  /* Write only: NFS then sends what was written, and not the whole page, of which others may write
   * another part. */
  if (status == DS_OK && (f->fd = open(path, O_WRONLY | O_CLOEXEC)) < 0)
    status = fail_errno(err, "open", path);
  if (status == DS_OK && fstat(f->fd, &st) != 0) status = fail_errno(err, "open", path);
  if (status == DS_OK && (uint64_t)st.st_size != size)
    status = ds_fail(err, DS_ERR_FORMAT, "%s has %lld bytes and should have %llu", path,
                     (long long)st.st_size, (unsigned long long)size);
  if (status != DS_OK) ds_shared_file_close(f);
  return status;
}

static ds_status flush(ds_shared_file *f, ds_error *err) {
  size_t held = f->held;
  f->held = 0;
  return write_all(f->fd, f->path, f->at, f->room, held, err);
}

ds_status ds_shared_file_write(ds_shared_file *f, uint64_t at, const void *data, size_t bytes,
                               ds_error *err) {
  if (at > f->size || bytes > f->size - at)
    return ds_fail(err, DS_ERR_INVALID, "%s: bytes %llu to %llu are beyond its end", f->path,
                   (unsigned long long)at, (unsigned long long)at + bytes);
  bool follows = f->held > 0 && at == f->at + f->held;
  if (!follows || f->held + bytes > DS_SHARED_FILE_ROOM) DS_TRY(flush(f, err));
  if (bytes > DS_SHARED_FILE_ROOM) return write_all(f->fd, f->path, at, data, bytes, err);
  if (f->held == 0) f->at = at;
  memcpy(f->room + f->held, data, bytes);
  f->held += bytes;
  return DS_OK;
}

ds_status ds_shared_file_sync(ds_shared_file *f, ds_error *err) {
  DS_TRY(flush(f, err));
  return fsync(f->fd) == 0 ? DS_OK : fail_errno(err, "write", f->path);
}

void ds_shared_file_close(ds_shared_file *f) {
  if (f->path && f->fd >= 0) close(f->fd);
  free(f->room);
  free(f->path);
  memset(f, 0, sizeof *f);
  f->fd = -1;
}

ds_status ds_shared_file_rename(const char *from, const char *to, ds_error *err) {
  if (rename(from, to) != 0) return fail_errno(err, "rename to", to);
  char *folder = strdup(to), *slash = folder ? strrchr(folder, '/') : NULL;
  if (slash) slash[1] = '\0';
  int fd = open(slash ? folder : ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (fd >= 0) {
    fsync(fd); /* a file system that can't sync a folder is left be */
    close(fd);
  }
  free(folder);
  return DS_OK;
}
