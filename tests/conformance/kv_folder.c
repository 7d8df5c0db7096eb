#include "kv_folder.h"

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

static int64_t now_ms(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return (int64_t)t.tv_sec * 1000 + t.tv_nsec / 1000000;
}

static ds_status fails(kv_folder *kv, ds_error *err) {
  if (++kv->calls != kv->fail_at) return DS_OK;
  if (err) *err = (ds_error){DS_ERR_IO, "the key-value store is gone (by order of ds conform)"};
  return DS_ERR_IO;
}

static ds_status broken(const char *what, const char *key, ds_status st, ds_error *err) {
  if (err) {
    err->status = st;
    snprintf(err->message, sizeof err->message, "key-value store: %s of \"%.200s\"", what, key);
  }
  return st;
}

void kv_folder_next(kv_folder *kv, int first) {
  kv->number++;
  kv->first = first;
}

/* Any key is a file's name. */
static void path_of(const kv_folder *kv, const char *key, char *path, size_t room) {
  size_t used = (size_t)snprintf(path, room, "%s/k%d-%d-", kv->folder, kv->number, kv->first);
  for (; *key && used + 3 < room; key++)
    used += (size_t)snprintf(path + used, room - used, "%02x", (unsigned char)*key);
}

static ds_status set(void *ctx, const char *key, const void *value, size_t bytes, ds_error *err) {
  kv_folder *kv = ctx;
  char path[1200], temporary[1300];
  ds_status st = fails(kv, err);
  if (st != DS_OK) return st;
  path_of(kv, key, path, sizeof path);
  snprintf(temporary, sizeof temporary, "%s.%d", path, (int)getpid());
  FILE *f = fopen(temporary, "we");
  bool ok = f && fwrite(value, 1, bytes, f) == bytes;
  if (f && fclose(f) != 0) ok = false;
  if (ok && rename(temporary, path) == 0) return DS_OK;
  return broken("a set", key, DS_ERR_IO, err);
}

static ds_status get(void *ctx, const char *key, void *value, size_t *bytes, int64_t timeout_ms,
                     ds_error *err) {
  kv_folder *kv = ctx;
  char path[1200];
  int64_t end = now_ms() + timeout_ms;
  ds_status st = fails(kv, err);
  if (st != DS_OK) return st;
  path_of(kv, key, path, sizeof path);
  for (;;) {
    int f = open(path, O_RDONLY | O_CLOEXEC);
    off_t size = f >= 0 ? lseek(f, 0, SEEK_END) : -1;
    if (f >= 0) {
      bool fits = size >= 0 && (size_t)size <= *bytes;
      bool ok = fits && pread(f, value, (size_t)size, 0) == size;
      close(f);
      if (ok) *bytes = (size_t)size;
      return ok ? DS_OK : broken("a get, with too little room,", key, DS_ERR_INVALID, err);
    }
    if (now_ms() >= end) return broken("a get, in vain,", key, DS_ERR_TIMEOUT, err);
    usleep(1000);
  }
}

void kv_folder_init(kv_folder *kv, const char *folder) {
  memset(kv, 0, sizeof *kv);
  snprintf(kv->folder, sizeof kv->folder, "%s", folder);
  kv->store = (ds_kv_store){{sizeof kv->store, DS_ABI_MAJOR, DS_ABI_MINOR}, kv, set, get};
}

void kv_folder_mark(const char *folder, const char *name, int seat) {
  char path[600];
  snprintf(path, sizeof path, "%s/m-%s-%d", folder, name, seat);
  int f = open(path, O_CREAT | O_WRONLY | O_CLOEXEC, 0600);
  if (f >= 0) close(f);
}

int kv_folder_marks(const char *folder, const char *name, int size) {
  char path[600];
  int n = 0;
  for (int i = 0; i < size; i++) {
    snprintf(path, sizeof path, "%s/m-%s-%d", folder, name, i);
    n += access(path, F_OK) == 0;
  }
  return n;
}

bool kv_folder_gate(const char *folder, const char *name, int seat, int size, int seconds) {
  int64_t end = now_ms() + 1000 * (int64_t)seconds;
  kv_folder_mark(folder, name, seat);
  while (kv_folder_marks(folder, name, size) < size) {
    if (now_ms() >= end) return false;
    usleep(1000);
  }
  return true;
}
