#include "base/checkpoint_folder.h"

#include "base/checkpoint_manifest.h"
#include "base/file.h"
#include "base/str.h"

#include <ctype.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

enum { LATEST_LIMIT = 4096 };

/* ---- small tools */

static ds_status fail_errno(ds_error *err, const char *what, const char *path) {
  return ds_fail(err, errno == ENOENT ? DS_ERR_NOT_FOUND : DS_ERR_IO, "cannot %s %s: %s", what,
                 path, strerror(errno));
}

/* Makes names in a folder durable; a file system that can't is left be. */
static void sync_folder(const char *path) {
  int fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (fd < 0) return;
  fsync(fd);
  close(fd);
}

/* A folder of plain files; anything else in it stays, and the folder with it. */
static void remove_folder(const char *path) {
  DIR *d = opendir(path);
  if (!d) return;
  for (struct dirent *entry; (entry = readdir(d));)
    if (strcmp(entry->d_name, ".") != 0 && strcmp(entry->d_name, "..") != 0)
      unlinkat(dirfd(d), entry->d_name, 0);
  closedir(d);
  rmdir(path);
}

ds_status ds_checkpoint_folder_check_tag(const char *tag, ds_error *err) {
  bool good = tag[0] && tag[0] != '.' && strlen(tag) <= 128;
  for (const char *p = tag; *p; p++) good = good && *p != '/' && (unsigned char)*p >= ' ';
  if (good && strcmp(tag, "latest") != 0) return DS_OK;
  return ds_fail(err, DS_ERR_INVALID,
                 "checkpoint tag \"%.64s\": must be a file name that doesn't begin with a dot, of "
                 "at most 128 bytes, and not \"latest\"",
                 tag);
}

/* ---- writing */

/* Whether a name is a leftover: .tmp-...-PID or latest.tmp.PID of a process that is gone. */
static bool is_leftover(const char *name) {
  bool folder = strncmp(name, ".tmp-", 5) == 0, file = strncmp(name, "latest.tmp.", 11) == 0;
  const char *digits = folder ? strrchr(name, '-') : file ? strrchr(name, '.') : NULL;
  if (!digits || !isdigit((unsigned char)digits[1])) return false;
  long pid = strtol(digits + 1, NULL, 10);
  return pid > 0 && pid != (long)getpid() && kill((pid_t)pid, 0) != 0 && errno == ESRCH;
}

static void remove_leftovers(const char *dir) {
  DIR *d = opendir(dir);
  if (!d) return;
  for (struct dirent *entry; (entry = readdir(d));) {
    if (!is_leftover(entry->d_name)) continue;
    char *path = ds_path_join(dir, entry->d_name);
    if (path && unlink(path) != 0) remove_folder(path);
    free(path);
  }
  closedir(d);
}

ds_status ds_checkpoint_folder_begin(const char *dir, const char *tag, char **out, ds_error *err) {
  *out = NULL;
  DS_TRY(ds_checkpoint_folder_check_tag(tag, err));
  DS_TRY(ds_make_folders(dir, err));
  remove_leftovers(dir);
  /* The time makes it a name that no other host has a leftover of. */
  struct timespec t;
  clock_gettime(CLOCK_REALTIME, &t);
  char *path = ds_format("%s/.tmp-%s-%llx-%ld", dir, tag,
                         (unsigned long long)t.tv_sec * 1000000000u + (unsigned long long)t.tv_nsec,
                         (long)getpid());
  if (!path) return ds_fail_memory(err, "a checkpoint's path");
  if (mkdir(path, 0777) != 0) {
    ds_status status = fail_errno(err, "create folder", path);
    free(path);
    return status;
  }
  *out = path;
  return DS_OK;
}

void ds_checkpoint_folder_abort(const char *folder) {
  if (folder) remove_folder(folder);
}

/* Gives folder the name `to`. An older `to` is swapped out in one step where the file system can;
 * else it waits as `aside`, which find knows of, for the moment between two renames. */
static ds_status put_in_place(const char *folder, const char *to, const char *aside,
                              ds_error *err) {
  if (!ds_file_exists(to)) {
    if (rename(folder, to) != 0) return fail_errno(err, "rename to", to);
    remove_folder(aside);
    return DS_OK;
  }
  if (renameat2(AT_FDCWD, folder, AT_FDCWD, to, RENAME_EXCHANGE) == 0) {
    remove_folder(folder);
    return DS_OK;
  }
  remove_folder(aside);
  if (rename(to, aside) != 0) return fail_errno(err, "rename", to);
  if (rename(folder, to) != 0) {
    ds_status status = fail_errno(err, "rename to", to);
    if (rename(aside, to) != 0) return status; /* find still knows the old one */
    return status;
  }
  remove_folder(aside);
  return DS_OK;
}

ds_status ds_checkpoint_folder_commit(const char *dir, const char *tag, const char *folder,
                                      ds_error *err) {
  char *to = ds_path_join(dir, tag), *latest = ds_path_join(dir, "latest");
  char *aside = ds_format("%s/.old-%s", dir, tag);
  ds_status status = to && latest && aside ? DS_OK : ds_fail_memory(err, "a checkpoint's path");
  if (status == DS_OK) status = ds_checkpoint_manifest_write(folder, err);
  if (status == DS_OK) {
    sync_folder(folder);
    status = put_in_place(folder, to, aside, err);
  }
  if (status == DS_OK) {
    sync_folder(dir);
    status = ds_file_write(latest, tag, strlen(tag), err);
  }
  free(aside);
  free(latest);
  free(to);
  return status;
}

/* ---- reading */

static ds_status read_latest(const char *dir, char **tag, ds_error *err) {
  char *path = ds_path_join(dir, "latest");
  if (!path) return ds_fail_memory(err, "a checkpoint's path");
  size_t size = 0;
  ds_status status = ds_file_read(path, LATEST_LIMIT, tag, &size, err);
  if (status == DS_ERR_NOT_FOUND)
    ds_fail(err, status, "%s is missing: no checkpoint was finished in this folder (or name a tag)",
            path);
  if (status == DS_OK) {
    char *p = *tag;
    while (size > 0 && isspace((unsigned char)p[size - 1])) p[--size] = '\0';
    if (strlen(p) != size || ds_checkpoint_folder_check_tag(p, NULL) != DS_OK) {
      status = ds_fail(err, DS_ERR_FORMAT, "%s is corrupt: it must hold a checkpoint's tag", path);
      free(*tag);
      *tag = NULL;
    }
  }
  free(path);
  return status;
}

ds_status ds_checkpoint_folder_find(const char *dir, const char *tag, char **path, char **name,
                                    ds_error *err) {
  *path = NULL;
  if (name) *name = NULL;
  char *found = NULL;
  if (tag) {
    DS_TRY(ds_checkpoint_folder_check_tag(tag, err));
    found = strdup(tag);
    if (!found) return ds_fail_memory(err, "a checkpoint's tag");
  } else {
    DS_TRY(read_latest(dir, &found, err));
  }
  char *to = ds_path_join(dir, found), *aside = ds_format("%s/.old-%s", dir, found);
  ds_status status = DS_OK;
  if (!to || !aside) {
    status = ds_fail_memory(err, "a checkpoint's path");
  } else if (ds_is_folder(to) || ds_is_folder(aside)) {
    *path = ds_is_folder(to) ? to : aside;
  } else {
    status = ds_fail(err, DS_ERR_NOT_FOUND, "checkpoint %s is not there%s", to,
                     tag ? "" : ", though `latest` names it");
  }
  if (*path != to) free(to);
  if (*path != aside) free(aside);
  if (status == DS_OK && name)
    *name = found;
  else
    free(found);
  return status;
}

ds_status ds_checkpoint_folder_verify(const char *path, ds_error *err) {
  return ds_checkpoint_manifest_verify(path, 0, 1, err);
}
