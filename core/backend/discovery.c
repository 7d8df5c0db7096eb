#include "backend/discovery.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <fnmatch.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "backend/note.h"
#include "backend/reference/reference.h"
#include "base/file.h"
#include "base/str.h"

#define PATTERN "dscore_*.so"

typedef struct names {
  char **items;
  size_t count, capacity;
} names;

static void names_finish(names *n) {
  for (size_t i = 0; i < n->count; i++) free(n->items[i]);
  free(n->items);
  memset(n, 0, sizeof *n);
}

/* Takes text, also on failure. NULL is a failed allocation of the caller's. */
static ds_status names_add(names *n, char *text, ds_error *err) {
  if (!text) return ds_fail_memory(err, "the search for plugins");
  ds_status status = ds_reserve(&n->items, &n->capacity, n->count + 1, sizeof *n->items,
                                "the search for plugins", err);
  if (status != DS_OK) {
    free(text);
    return status;
  }
  n->items[n->count++] = text;
  return DS_OK;
}

/* Adds a candidate of which only path and reason are known yet. Takes reason (NULL: none). */
static ds_status add(ds_candidates *c, const char *path, ds_status refused, const char *reason,
                     ds_candidate **out, ds_error *err) {
  ds_candidate new = {.status = refused};
  DS_TRY(ds_reserve(&c->items, &c->capacity, c->count + 1, sizeof *c->items, "the list of plugins",
                    err));
  new.path = path ? strdup(path) : NULL;
  new.reason = reason ? strdup(reason) : NULL;
  if ((path && !new.path) || (reason && !new.reason)) {
    free(new.path);
    free(new.reason);
    return ds_fail_memory(err, "the list of plugins");
  }
  c->items[c->count] = new;
  if (out) *out = &c->items[c->count];
  c->count++;
  return DS_OK;
}

static bool is_known(const ds_candidates *c, const ds_identity *id) {
  for (size_t i = 0; i < c->count; i++) {
    if (c->items[i].path && ds_identity_same_file(&c->items[i].id, id)) return true;
  }
  return false;
}

/* Opened only once it is known to be a regular file, and so that nothing waits should it have
 * become a pipe since. */
static ds_status read_note(const char *path, const ds_identity *id, ds_note *note, ds_error *err) {
  struct stat st;
  int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY | O_NOFOLLOW);
  if (fd < 0) return ds_fail(err, DS_ERR_IO, "can't be read: %s", strerror(errno));
  ds_identity now = {0};
  if (fstat(fd, &st) == 0) now = ds_identity_of(&st);
  ds_status status = ds_identity_unchanged(&now, id)
                         ? ds_note_read_fd(fd, note, err)
                         : ds_fail(err, DS_ERR_IO, "changed while it was examined; try again");
  close(fd);
  return status;
}

static ds_status examine(const char *path, const struct stat *st, ds_note *note, ds_error *err) {
  const ds_identity id = ds_identity_of(st);
  if (!S_ISREG(st->st_mode)) {
    return ds_fail(err, DS_ERR_INVALID, "not a regular file but a %s; remove it",
                   S_ISDIR(st->st_mode) ? "folder" : "pipe, socket or device");
  }
  DS_TRY(ds_place_check(st, "the file", err));
  DS_TRY(ds_place_check_above(path, err));
  return read_note(path, &id, note, err);
}

static ds_status add_file(ds_candidates *c, const char *path, ds_error *err) {
  struct stat st;
  ds_error why;
  char *real = realpath(path, NULL);
  if (!real || stat(real, &st) != 0) {
    ds_fail(&why, DS_ERR_NOT_FOUND, "can't be reached: %s", strerror(errno));
    free(real);
    return add(c, path, DS_ERR_NOT_FOUND, why.message, NULL, err);
  }
  ds_status status = DS_OK;
  const ds_identity id = ds_identity_of(&st);
  if (!is_known(c, &id)) {
    ds_note note = {0};
    ds_candidate *new = NULL;
    ds_status refused = examine(real, &st, &note, &why);
    if (refused == DS_ERR_MEMORY) {
      free(real);
      return ds_fail(err, refused, "%s", why.message);
    }
    status = add(c, real, refused, refused == DS_OK ? NULL : why.message, &new, err);
    if (status == DS_OK) {
      new->id = id;
      new->note = note;
    }
  }
  free(real);
  return status;
}

static int compare(const void *a, const void *b) {
  return strcmp(*(char *const *)a, *(char *const *)b);
}

/* The names in a folder, split in plugins and subfolders, each sorted. */
static ds_status read_folder(const char *folder, DIR *dir, names *files, names *subfolders,
                             ds_error *err) {
  struct dirent *entry;
  while ((entry = readdir(dir))) {
    if (entry->d_name[0] == '.') continue;
    char *path = ds_path_join(folder, entry->d_name);
    names *to = fnmatch(PATTERN, entry->d_name, 0) == 0 ? files
                : path && ds_is_folder(path)            ? subfolders
                                                        : NULL;
    if (path && !to)
      free(path);
    else
      DS_TRY(names_add(to, path, err));
  }
  if (files->count) qsort(files->items, files->count, sizeof *files->items, compare);
  if (subfolders->count)
    qsort(subfolders->items, subfolders->count, sizeof *subfolders->items, compare);
  return DS_OK;
}

static ds_status check_folder(const char *folder, const struct stat *st, ds_error *err) {
  DS_TRY(ds_place_check(st, "the folder", err));
  char *real = realpath(folder, NULL);
  if (!real) return ds_fail(err, DS_ERR_IO, "the folder can't be resolved: %s", strerror(errno));
  ds_status status = ds_place_check_above(real, err);
  free(real);
  return status;
}

/* named: the user wrote this entry, so that it can't be used is worth telling. */
static ds_status add_folder(ds_candidates *c, const char *folder, bool named, bool deeper,
                            ds_error *err) {
  names files = {0}, subfolders = {0};
  struct stat st;
  ds_error why;
  ds_status status = DS_OK;
  DIR *dir = opendir(folder);
  if (!dir || fstat(dirfd(dir), &st) != 0) {
    if (named) {
      ds_fail(&why, DS_ERR_NOT_FOUND, "the folder can't be read: %s", strerror(errno));
      status = add(c, folder, DS_ERR_NOT_FOUND, why.message, NULL, err);
    }
    goto out;
  }
  status = read_folder(folder, dir, &files, &subfolders, err);
  if (status != DS_OK) goto out;
  if (files.count > 0 || named) {
    ds_status refused = check_folder(folder, &st, &why);
    if (refused == DS_ERR_MEMORY) {
      status = ds_fail(err, refused, "%s", why.message);
      goto out;
    }
    if (refused != DS_OK) {
      status = add(c, folder, refused, why.message, NULL, err);
      goto out;
    }
  }
  for (size_t i = 0; i < files.count && status == DS_OK; i++) {
    status = add_file(c, files.items[i], err);
  }
  for (size_t i = 0; i < subfolders.count && deeper && status == DS_OK; i++) {
    status = add_folder(c, subfolders.items[i], false, false, err);
  }
out:
  if (dir) closedir(dir);
  names_finish(&files);
  names_finish(&subfolders);
  return status;
}

static ds_status add_entry(ds_candidates *c, const char *entry, ds_error *err) {
  if (entry[0] != '/') {
    return add(
        c, entry, DS_ERR_INVALID,
        "a plugin path must be absolute (begin with /): the current folder is never searched", NULL,
        err);
  }
  if (ds_file_exists(entry) && !ds_is_folder(entry)) return add_file(c, entry, err);
  return add_folder(c, entry, true, true, err);
}

/* Takes file, which may be NULL; installed: where plugins are from its folder on. */
static ds_status add_beside(names *folders, char *file, const char *installed, ds_error *err) {
  const char *const beside[] = {"plugins", "dscore", "../plugins", installed};
  ds_status status = DS_OK;
  char *slash = file ? strrchr(file, '/') : NULL;
  if (slash) slash[1] = '\0';
  for (size_t i = 0; slash && i < sizeof beside / sizeof *beside && status == DS_OK; i++) {
    status = names_add(folders, ds_path_join(file, beside[i]), err);
  }
  free(file);
  return status;
}

/* Folders that are not the user's words, each once. */
static ds_status add_built_in(ds_candidates *c, ds_error *err) {
  names folders = {0};
  ds_status status = add_beside(&folders, ds_place_of_library(), "dscore", err);
  if (status == DS_OK)
    status = add_beside(&folders, ds_place_of_program(), DS_PLUGIN_DIR_FROM_BIN, err);
  if (status == DS_OK) status = names_add(&folders, strdup(DS_PLUGIN_DIR), err);
  for (size_t i = 0; i < folders.count && status == DS_OK; i++) {
    char *real = realpath(folders.items[i], NULL);
    if (!real) continue;
    free(folders.items[i]);
    folders.items[i] = real;
    bool seen = false;
    for (size_t j = 0; j < i; j++) seen = seen || strcmp(folders.items[j], real) == 0;
    if (!seen) status = add_folder(c, real, false, true, err);
  }
  names_finish(&folders);
  return status;
}

ds_status ds_discovery_find(char *const *plugin_path, int n_plugin_path, ds_candidates *out,
                            ds_error *err) {
  ds_candidate *reference = NULL;
  ds_status status = DS_OK;
  memset(out, 0, sizeof *out);
  for (int i = 0; i < n_plugin_path && status == DS_OK; i++) {
    status = add_entry(out, plugin_path[i], err);
  }
  if (status == DS_OK) status = add_built_in(out, err);
  if (status == DS_OK) status = add(out, NULL, DS_OK, NULL, &reference, err);
  if (status == DS_OK)
    reference->note = *ds_reference_note();
  else
    ds_discovery_finish(out);
  return status;
}

void ds_discovery_finish(ds_candidates *c) {
  for (size_t i = 0; i < c->count; i++) {
    free(c->items[i].path);
    free(c->items[i].reason);
  }
  free(c->items);
  memset(c, 0, sizeof *c);
}
