/* file.h - reading files whole or mapped, writing them so that a crash leaves the old one. */
#ifndef DS_BASE_FILE_H
#define DS_BASE_FILE_H

#include "base/status.h"

#include <stdbool.h>

/* A read-only file in memory (mmap where possible). data is not NUL-terminated. */
typedef struct ds_file {
  const unsigned char *data;
  size_t size;
} ds_file;

DS_MUST_USE ds_status ds_file_map(const char *path, ds_file *out, ds_error *err);
void ds_file_unmap(ds_file *f);

/* The whole file, NUL-terminated; free() it. Larger than limit bytes: DS_ERR_FORMAT. */
DS_MUST_USE ds_status ds_file_read(const char *path, size_t limit, char **out, size_t *size,
                                   ds_error *err);

/* Writing through a temporary name in the same folder: the bytes are on disk (fsync) before they
 * get their name (rename), so at any crash path is the old file, or the new one, whole. */
typedef struct ds_writer {
  int fd;
  char *path;
  char *temporary;
  size_t written;
  bool failed; /* a write failed: commit will refuse */
} ds_writer;

DS_MUST_USE ds_status ds_writer_open(ds_writer *w, const char *path, ds_error *err);
/* A short write or a full disk is DS_ERR_IO naming the file; the writer is then only good to abort.
 */
DS_MUST_USE ds_status ds_writer_write(ds_writer *w, const void *data, size_t bytes, ds_error *err);
/* fsync, rename, fsync of the folder. Releases the writer whatever happens. */
DS_MUST_USE ds_status ds_writer_commit(ds_writer *w, ds_error *err);
/* Removes the temporary file. Harmless after commit or on a zeroed writer. */
void ds_writer_abort(ds_writer *w);

/* open + write + commit. */
DS_MUST_USE ds_status ds_file_write(const char *path, const void *data, size_t bytes,
                                    ds_error *err);

/* mkdir -p. */
DS_MUST_USE ds_status ds_make_folders(const char *path, ds_error *err);
bool ds_file_exists(const char *path);
bool ds_is_folder(const char *path);
/* "folder/name", new; NULL when out of memory. */
char *ds_path_join(const char *folder, const char *name);

#endif
