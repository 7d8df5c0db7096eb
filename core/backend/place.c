#include "backend/place.h"

#include <dlfcn.h>
#include <errno.h>
#include <link.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

ds_identity ds_identity_of(const struct stat *st) {
  return (ds_identity){st->st_dev, st->st_ino, st->st_size, st->st_mtim};
}

bool ds_identity_same_file(const ds_identity *a, const ds_identity *b) {
  return a->device == b->device && a->inode == b->inode;
}

bool ds_identity_unchanged(const ds_identity *a, const ds_identity *b) {
  return ds_identity_same_file(a, b) && a->size == b->size &&
         a->written.tv_sec == b->written.tv_sec && a->written.tv_nsec == b->written.tv_nsec;
}

ds_status ds_identity_check(const ds_identity *id, const char *path, ds_error *err) {
  struct stat st;
  ds_identity now = {0};
  if (stat(path, &st) == 0) now = ds_identity_of(&st);
  if (ds_identity_unchanged(&now, id)) return DS_OK;
  return ds_fail(err, DS_ERR_IO, "was replaced while it was being loaded; try again");
}

static bool is_ours(const struct stat *st) {
  return st->st_uid == 0 || st->st_uid == geteuid();
}

ds_status ds_place_check(const struct stat *st, const char *what, ds_error *err) {
  if (st->st_mode & S_IWOTH) {
    return ds_fail(err, DS_ERR_INVALID, "%s may be written by anybody; run: chmod o-w on it", what);
  }
  if (!is_ours(st)) {
    return ds_fail(err, DS_ERR_INVALID,
                   "%s belongs to user %lu, not to root or to this user (%lu); run chown on it, or "
                   "copy it",
                   what, (unsigned long)st->st_uid, (unsigned long)geteuid());
  }
  return DS_OK;
}

static bool is_above(const char *folder, const char *file) {
  size_t n = strlen(folder);
  return file && strncmp(folder, file, n) == 0 && (file[n] == '/' || (n == 1 && folder[0] == '/'));
}

/* An allocation that fails here makes the answer no, and so the place refused. */
static bool is_above_core(const char *folder) {
  char *library = ds_place_of_library(), *program = ds_place_of_program();
  bool above = is_above(folder, library) || is_above(folder, program);
  free(library);
  free(program);
  return above;
}

static ds_status check_folder(const char *folder, ds_error *err) {
  struct stat st;
  if (lstat(folder, &st) != 0 || !S_ISDIR(st.st_mode)) {
    return ds_fail(err, DS_ERR_IO, "%.300s above it can't be examined: %s", folder,
                   strerror(errno ? errno : ENOTDIR));
  }
  if ((st.st_mode & S_IWOTH) && !(st.st_mode & S_ISVTX)) {
    return ds_fail(err, DS_ERR_INVALID,
                   "the folder %.300s above it may be written by anybody; run: chmod o-w on that "
                   "folder, or move the plugin",
                   folder);
  }
  if (!is_ours(&st) && !is_above_core(folder)) {
    return ds_fail(err, DS_ERR_INVALID,
                   "the folder %.300s above it belongs to user %lu, not to root or to this user "
                   "(%lu); run chown on that folder, or move the plugin",
                   folder, (unsigned long)st.st_uid, (unsigned long)geteuid());
  }
  return DS_OK;
}

ds_status ds_place_check_above(const char *path, ds_error *err) {
  ds_status status = check_folder("/", err);
  char *folder = strdup(path);
  if (!folder) return ds_fail_memory(err, "the search for plugins");
  for (char *slash = strchr(folder + 1, '/'); slash && status == DS_OK;
       slash = strchr(slash + 1, '/')) {
    *slash = '\0';
    status = check_folder(folder, err);
    *slash = '/';
  }
  free(folder);
  return status;
}

/* The file that the kernel has mapped at an address: what a relative name in the linker's list once
 * meant, wherever the current folder is by now. New; NULL when it can't be told. */
static char *mapped_file(const void *address) {
  char *line = NULL, *path = NULL;
  size_t room = 0;
  FILE *maps = fopen("/proc/self/maps", "re");
  while (maps && !path && getline(&line, &room, maps) > 0) {
    unsigned long first, end;
    char *at = strchr(line, '/');
    if (!at || sscanf(line, "%lx-%lx", &first, &end) != 2) continue;
    if ((uintptr_t)address < first || (uintptr_t)address >= end) continue;
    at[strcspn(at, "\n")] = '\0';
    path = realpath(at, NULL);
  }
  free(line);
  if (maps) fclose(maps);
  return path;
}

char *ds_place_of_library(void) {
  static const char anchor = 0;
  Dl_info info;
  struct link_map *map = NULL;
  if (!dladdr1(&anchor, &info, (void **)&map, RTLD_DL_LINKMAP) || !map) return NULL;
  if (!map->l_name[0]) return NULL; /* the program */
  return map->l_name[0] == '/' ? realpath(map->l_name, NULL) : mapped_file(&anchor);
}

char *ds_place_of_program(void) {
  return realpath("/proc/self/exe", NULL);
}
