/* shared_file.h - one file that several processes write together, each its own parts of it.
 *
 * One process creates it at its full size, so that a disk without room for it is found before
 * anything is written; then every process opens it and writes where its bytes belong. Nothing here
 * waits for other processes: who calls makes sure that the file was created before it is opened
 * elsewhere, and that all have synced before it gets its name. Works on any file system with which
 * writes to disjoint parts don't disturb each other (local ones, NFS, Lustre, GPFS, ...).
 */
#ifndef DS_BASE_SHARED_FILE_H
#define DS_BASE_SHARED_FILE_H

#include "base/status.h"

/* Small writes that follow each other in the file are collected; `bytes` of room for that. */
enum { DS_SHARED_FILE_ROOM = 1 << 20 };

typedef struct ds_shared_file {
  int fd;
  char *path;
  uint64_t size;       /* of the whole file */
  unsigned char *room; /* holds `held` bytes that belong at `at` */
  size_t held;
  uint64_t at;
} ds_shared_file;

/* Makes the file: `size` bytes, the first of them head's, the others zero. DS_ERR_IO names the file
 * when the disk has no room. What was there before is replaced. */
DS_MUST_USE ds_status ds_shared_file_create(const char *path, uint64_t size, const void *head,
                                            size_t head_bytes, ds_error *err);
/* Opens what another process has created, for writing. DS_ERR_NOT_FOUND says on which host it isn't
 * to be seen; DS_ERR_FORMAT when it is of another size. */
DS_MUST_USE ds_status ds_shared_file_open(ds_shared_file *f, const char *path, uint64_t size,
                                          ds_error *err);
/* Beyond the end is DS_ERR_INVALID. An error may be that of an earlier write. */
DS_MUST_USE ds_status ds_shared_file_write(ds_shared_file *f, uint64_t at, const void *data,
                                           size_t bytes, ds_error *err);
/* What this process wrote is on the disk afterwards. */
DS_MUST_USE ds_status ds_shared_file_sync(ds_shared_file *f, ds_error *err);
/* Drops what was not synced. Harmless on a zeroed struct. */
void ds_shared_file_close(ds_shared_file *f);

/* Gives a file that all have synced its name, and makes that durable. */
DS_MUST_USE ds_status ds_shared_file_rename(const char *from, const char *to, ds_error *err);

/* Waits until a path is to be seen, which another process has made: network file systems show new
 * names late. DS_ERR_NOT_FOUND after a few seconds, with the host's name and what to do. */
DS_MUST_USE ds_status ds_shared_file_wait(const char *path, ds_error *err);

#endif
