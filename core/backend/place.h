/* place.h - where plugins may lie: who could change the file that we are about to run?
 *
 * Refused, with the cure:
 *   - a file, or a folder that is searched, which anybody may write
 *   - one that belongs to neither root nor this user (the effective one)
 *   - a file under a folder, however far up its resolved path, which anybody may write, unless it
 *     is sticky like /tmp; or which belongs to neither root nor this user, unless core or the
 *     program lies under it too: who owns that folder could change those as well
 * Writing by a group is allowed: who is in it was somebody's decision (and with a umask of 002 it
 * is the user's own). Access lists beyond the mode bits are not read.
 */
#ifndef DS_BACKEND_PLACE_H
#define DS_BACKEND_PLACE_H

#include <stdbool.h>
#include <sys/stat.h>

#include "base/status.h"

/* What makes a file the same one: its name may be given to another meanwhile, and it may be written
 * anew. All zero: none. */
typedef struct ds_identity {
  dev_t device;
  ino_t inode;
  off_t size;
  struct timespec written; /* mtime */
} ds_identity;

ds_identity ds_identity_of(const struct stat *st);
bool ds_identity_same_file(const ds_identity *a, const ds_identity *b); /* by device and inode */
bool ds_identity_unchanged(const ds_identity *a, const ds_identity *b); /* by all four */
/* DS_ERR_IO when path is no longer that file, unchanged. */
DS_MUST_USE ds_status ds_identity_check(const ds_identity *id, const char *path, ds_error *err);

/* The file or folder itself; what: "the file". */
DS_MUST_USE ds_status ds_place_check(const struct stat *st, const char *what, ds_error *err);
/* Every folder above; path is resolved (realpath). DS_ERR_MEMORY is a failure of ours. */
DS_MUST_USE ds_status ds_place_check_above(const char *path, ds_error *err);

/* The resolved file that core is in: libdscore.so; NULL where that is the program. */
char *ds_place_of_library(void);
/* The resolved file of the running program; NULL when it can't be told. */
char *ds_place_of_program(void);

#endif
