/* temp_folder.h - a folder for a test's files, gone afterwards. */
#ifndef TEST_TEMP_FOLDER_H
#define TEST_TEMP_FOLDER_H

#include <ftw.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

static char temp_folder[256];

static inline int temp_remove(const char *path, const struct stat *st, int type, struct FTW *at) {
  (void)st, (void)type, (void)at;
  return remove(path);
}

static inline int temp_folder_create(void) {
  const char *base = getenv("TMPDIR");
  snprintf(temp_folder, sizeof temp_folder, "%s/dscore-test-XXXXXX", base ? base : "/tmp");
  return mkdtemp(temp_folder) != NULL;
}

static inline void temp_folder_destroy(void) {
  nftw(temp_folder, temp_remove, 8, FTW_DEPTH | FTW_PHYS);
}

/* A path in it; good until the fourth call after. */
static inline const char *temp_path(const char *name) {
  static char paths[4][512];
  static int next;
  char *path = paths[next++ % 4];
  snprintf(path, sizeof paths[0], "%s/%s", temp_folder, name);
  return path;
}

#endif
