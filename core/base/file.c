#include "base/file.h"

#include "base/str.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

static ds_status fail_errno(ds_error *err, const char *what, const char *path) {
  int e = errno;
  ds_status status = e == ENOENT ? DS_ERR_NOT_FOUND : e == ENOMEM ? DS_ERR_MEMORY : DS_ERR_IO;
  const char *hint = e == ENOSPC ? " (free some space and try again)" : "";
  return ds_fail(err, status, "cannot %s %s: %s%s", what, path, strerror(e), hint);
}

/* Opens a regular file for reading and gets its size. */
static ds_status open_regular(const char *path, int *fd, size_t *size, ds_error *err) {
  *fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK); /* never wait for a pipe's other end */
  if (*fd < 0) return fail_errno(err, "open", path);
  struct stat st;
  if (fstat(*fd, &st) != 0) {
    ds_status status = fail_errno(err, "stat", path);
    close(*fd);
    return status;
  }
  if (!S_ISREG(st.st_mode)) {
    close(*fd);
    return ds_fail(err, DS_ERR_INVALID, "%s is not a regular file", path);
  }
  *size = (size_t)st.st_size;
  return DS_OK;
}

ds_status ds_file_map(const char *path, ds_file *out, ds_error *err) {
  memset(out, 0, sizeof *out);
  int fd;
  size_t size;
  DS_TRY(open_regular(path, &fd, &size, err));
  if (size > 0) {
    void *p = mmap(NULL, size, PROT_READ, MAP_PRIVATE, fd, 0);
    if (p == MAP_FAILED) {
      ds_status status = fail_errno(err, "map", path);
      close(fd);
      return status;
    }
    out->data = p;
    out->size = size;
  }
  close(fd);
  return DS_OK;
}

void ds_file_unmap(ds_file *f) {
  if (f->data) munmap((void *)(uintptr_t)f->data, f->size);
  memset(f, 0, sizeof *f);
}

ds_status ds_file_read(const char *path, size_t limit, char **out, size_t *size, ds_error *err) {
  int fd;
  size_t bytes;
  *out = NULL;
  DS_TRY(open_regular(path, &fd, &bytes, err));
  if (bytes > limit) {
    close(fd);
    return ds_fail(err, DS_ERR_FORMAT, "%s has %zu bytes; at most %zu are expected here", path,
                   bytes, limit);
  }
  char *p = malloc(bytes + 1);
  if (!p) {
    close(fd);
    return ds_fail_memory(err, path);
  }
  size_t have = 0;
  while (have < bytes) {
    ssize_t n = read(fd, p + have, bytes - have);
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) {
      ds_status status = fail_errno(err, "read", path);
      free(p);
      close(fd);
      return status;
    }
    if (n == 0) break;
    have += (size_t)n;
  }
  close(fd);
  p[have] = '\0';
  *out = p;
  if (size) *size = have;
  return DS_OK;
}

ds_status ds_writer_open(ds_writer *w, const char *path, ds_error *err) {
  memset(w, 0, sizeof *w);
  w->fd = -1;
  w->path = strdup(path);
  w->temporary = ds_format("%s.tmp.%ld", path, (long)getpid());
  if (!w->path || !w->temporary) {
    ds_writer_abort(w);
    return ds_fail_memory(err, path);
  }
  w->fd = open(w->temporary, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0666);
  if (w->fd < 0) {
    ds_status status = fail_errno(err, "create", w->temporary);
    ds_writer_abort(w);
    return status;
  }
  return DS_OK;
}

ds_status ds_writer_write(ds_writer *w, const void *data, size_t bytes, ds_error *err) {
  const char *p = data;
  while (bytes > 0) {
    size_t part = bytes < ((size_t)1 << 30) ? bytes : (size_t)1 << 30;
    ssize_t n = write(w->fd, p, part);
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) {
      w->failed = true;
      return fail_errno(err, "write", w->path);
    }
    p += n;
    bytes -= (size_t)n;
    w->written += (size_t)n;
  }
  return DS_OK;
}

static void sync_folder(const char *path) {
  /* The rename itself must survive a power cut; a file system that can't sync a folder is left be.
   */
  const char *slash = strrchr(path, '/');
  char *folder = slash ? strndup(path, (size_t)(slash - path) + 1) : strdup(".");
  int fd = folder ? open(folder, O_RDONLY | O_DIRECTORY | O_CLOEXEC) : -1;
  if (fd >= 0) {
    fsync(fd);
    close(fd);
  }
  free(folder);
}

ds_status ds_writer_commit(ds_writer *w, ds_error *err) {
  ds_status status = DS_OK;
  if (w->failed) {
    status = ds_fail(err, DS_ERR_IO, "%s: an earlier write failed; nothing was replaced", w->path);
  } else if (fsync(w->fd) != 0) {
    status = fail_errno(err, "write", w->path);
  }
  int closed = close(w->fd);
  w->fd = -1;
  if (status == DS_OK && closed != 0) status = fail_errno(err, "write", w->path);
  if (status == DS_OK && rename(w->temporary, w->path) != 0)
    status = fail_errno(err, "rename to", w->path);
  if (status == DS_OK) {
    sync_folder(w->path);
    free(w->temporary);
    w->temporary = NULL;
  }
  ds_writer_abort(w);
  return status;
}

void ds_writer_abort(ds_writer *w) {
  if (w->path && w->fd >= 0) close(w->fd);
  if (w->temporary) unlink(w->temporary);
  free(w->temporary);
  free(w->path);
  memset(w, 0, sizeof *w);
  w->fd = -1;
}

ds_status ds_file_write(const char *path, const void *data, size_t bytes, ds_error *err) {
  ds_writer w;
  DS_TRY(ds_writer_open(&w, path, err));
  ds_status status = ds_writer_write(&w, data, bytes, err);
  if (status != DS_OK) {
    ds_writer_abort(&w);
    return status;
  }
  return ds_writer_commit(&w, err);
}

ds_status ds_make_folders(const char *path, ds_error *err) {
  char *copy = strdup(path);
  if (!copy) return ds_fail_memory(err, path);
  ds_status status = DS_OK;
  for (char *p = copy + 1;; p++) {
    if (*p != '/' && *p != '\0') continue;
    char keep = *p;
    *p = '\0';
    if (copy[0] && mkdir(copy, 0777) != 0 && !(errno == EEXIST && ds_is_folder(copy))) {
      status = fail_errno(err, "create folder", copy);
      break;
    }
    *p = keep;
    if (keep == '\0') break;
  }
  free(copy);
  return status;
}

bool ds_file_exists(const char *path) {
  struct stat st;
  return stat(path, &st) == 0;
}

bool ds_is_folder(const char *path) {
  struct stat st;
  return stat(path, &st) == 0 && S_ISDIR(st.st_mode);
}

char *ds_path_join(const char *folder, const char *name) {
  size_t n = strlen(folder);
  return ds_format("%s%s%s", folder, n && folder[n - 1] == '/' ? "" : "/", name);
}
