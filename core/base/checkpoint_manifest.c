#include "base/checkpoint_manifest.h"

#include "base/checksum.h"
#include "base/file.h"
#include "base/str.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define MANIFEST "manifest"
#define SUMS     ".sums-" /* and a file's name: checksums of its parts, as ranks find them */
enum { MANIFEST_LIMIT = 256 << 20 };

static ds_status fail_errno(ds_error *err, const char *what, const char *path) {
  return ds_fail(err, errno == ENOENT ? DS_ERR_NOT_FOUND : DS_ERR_IO, "cannot %s %s: %s", what,
                 path, strerror(errno));
}

/* ---- checksums, part by part */

static size_t count_parts(size_t size) {
  return size <= DS_MANIFEST_PART ? 1 : (size + DS_MANIFEST_PART - 1) / DS_MANIFEST_PART;
}

static size_t part_end(size_t part, size_t size) {
  size_t end = (part + 1) * DS_MANIFEST_PART;
  return end < size ? end : size;
}

static uint64_t sum_part(const ds_file *f, size_t begin, size_t end) {
  return ds_checksum(end > begin ? f->data + begin : NULL, end - begin);
}

static char *sums_path(const char *folder, const char *name) {
  return ds_format("%s/" SUMS "%s", folder, name);
}

/* The share of one of `size` ranks, to their places in an open file of sums. */
static ds_status sum_share(int fd, const ds_file *f, int rank, int size, const char *path,
                           ds_error *err) {
  for (size_t i = (size_t)rank; i < count_parts(f->size); i += (size_t)size) {
    uint64_t sum = sum_part(f, i * DS_MANIFEST_PART, part_end(i, f->size));
    errno = EIO;
    if (pwrite(fd, &sum, sizeof sum, (off_t)(i * sizeof sum)) != (ssize_t)sizeof sum)
      return fail_errno(err, "write", path);
  }
  return DS_OK;
}

ds_status ds_checkpoint_manifest_sum(const char *folder, const char *name, int rank, int size,
                                     ds_error *err) {
  char *path = ds_path_join(folder, name), *sums = sums_path(folder, name);
  ds_file file = {0};
  int fd = -1;
  ds_status status = path && sums ? DS_OK : ds_fail_memory(err, "a checkpoint's path");
  if (status == DS_OK) status = ds_file_map(path, &file, err);
  if (status == DS_OK) {
    fd = open(sums, O_WRONLY | O_CREAT | O_CLOEXEC, 0666);
    status = fd < 0 ? fail_errno(err, "create", sums) : sum_share(fd, &file, rank, size, sums, err);
  }
  if (fd >= 0 && fsync(fd) != 0 && status == DS_OK) status = fail_errno(err, "write", sums);
  if (fd >= 0) close(fd);
  ds_file_unmap(&file);
  free(path);
  free(sums);
  return status;
}

/* What the ranks found; NULL in *out when they weren't asked about this file. */
static ds_status read_sums(const char *folder, const char *name, size_t size, uint64_t **out,
                           ds_error *err) {
  *out = NULL;
  char *path = sums_path(folder, name), *text = NULL;
  size_t bytes = 0;
  if (!path) return ds_fail_memory(err, "a checkpoint's path");
  ds_status status = DS_OK;
  if (ds_file_exists(path)) {
    status = ds_file_read(path, MANIFEST_LIMIT, &text, &bytes, err);
    if (status == DS_OK && bytes != count_parts(size) * sizeof **out)
      status = ds_fail(err, DS_ERR_IO, "%s: %zu bytes; ranks disagree on the size of %s", path,
                       bytes, name);
    if (status == DS_OK)
      *out = (uint64_t *)(void *)text;
    else
      free(text);
  }
  free(path);
  return status;
}

/* ---- the manifest */

static void add_part(ds_str *lines, uint64_t sum, size_t begin, size_t end, bool only,
                     const char *name) {
  if (only)
    ds_str_printf(lines, "%016" PRIx64 " %zu %s\n", sum, end, name);
  else
    ds_str_printf(lines, "%016" PRIx64 " %zu-%zu %s\n", sum, begin, end, name);
}

static ds_status add_file(const char *folder, const char *name, ds_str *lines, ds_error *err) {
  char *path = ds_path_join(folder, name);
  if (!path) return ds_fail_memory(err, "a checkpoint's path");
  ds_file file;
  uint64_t *sums = NULL;
  ds_status status = ds_file_map(path, &file, err);
  free(path);
  if (status != DS_OK) return status;
  status = read_sums(folder, name, file.size, &sums, err);
  size_t parts = count_parts(file.size);
  for (size_t i = 0; i < parts && status == DS_OK; i++) {
    size_t begin = i * DS_MANIFEST_PART, end = part_end(i, file.size);
    add_part(lines, sums ? sums[i] : sum_part(&file, begin, end), begin, end, parts == 1, name);
  }
  free(sums);
  ds_file_unmap(&file);
  return status;
}

static int is_content(const struct dirent *entry) {
  return entry->d_name[0] != '.';
}

static ds_status add_files(const char *folder, ds_str *lines, ds_error *err) {
  struct dirent **entries;
  ds_status status = DS_OK;
  int n = scandir(folder, &entries, is_content, alphasort);
  if (n < 0) return fail_errno(err, "read folder", folder);
  for (int i = 0; i < n; i++) {
    if (status == DS_OK) status = add_file(folder, entries[i]->d_name, lines, err);
    free(entries[i]);
  }
  free(entries);
  return status;
}

/* Files of sums, which the manifest now has. */
static void remove_sums(const char *folder) {
  DIR *d = opendir(folder);
  if (!d) return;
  for (struct dirent *entry; (entry = readdir(d));)
    if (strncmp(entry->d_name, SUMS, strlen(SUMS)) == 0) unlinkat(dirfd(d), entry->d_name, 0);
  closedir(d);
}

ds_status ds_checkpoint_manifest_write(const char *folder, ds_error *err) {
  ds_str lines = {0};
  ds_status status = add_files(folder, &lines, err);
  if (status == DS_OK) status = ds_str_status(&lines, err);
  if (status == DS_OK) {
    uint64_t sum = ds_checksum(lines.data, lines.length);
    ds_str_printf(&lines, "%016" PRIx64 "\n", sum);
    status = ds_str_status(&lines, err);
  }
  char *path = ds_path_join(folder, MANIFEST);
  if (status == DS_OK && !path) status = ds_fail_memory(err, "a checkpoint's path");
  if (status == DS_OK) status = ds_file_write(path, lines.data, lines.length, err);
  if (status == DS_OK) remove_sums(folder);
  free(path);
  ds_str_finish(&lines);
  return status;
}

/* ---- verifying */

/* A line of the manifest. */
typedef struct line {
  uint64_t sum;
  size_t begin, end;
  const char *name;
} line;

/* A manifest, gone through. */
typedef struct reading {
  const char *folder, *manifest;
  int rank, size; /* every size-th part is verified, from rank on */
  size_t part;    /* parts so far */
  char *name;     /* the file that is open; its parts follow each other */
  ds_file file;
  size_t at;
} reading;

static ds_status fail_line(const reading *r, const char *text, ds_error *err) {
  return ds_fail(err, DS_ERR_FORMAT, "%s is damaged: \"%.64s\"", r->manifest, text);
}

/* The file before is done: its parts must have been all of it. */
static ds_status close_file(reading *r, ds_error *err) {
  ds_status status = DS_OK;
  if (r->name && r->at != r->file.size)
    status = ds_fail(err, DS_ERR_FORMAT, "%s/%s is damaged: it has %zu bytes and should have %zu",
                     r->folder, r->name, r->file.size, r->at);
  ds_file_unmap(&r->file);
  free(r->name);
  r->name = NULL;
  r->at = 0;
  return status;
}

static ds_status open_next(reading *r, const char *name, ds_error *err) {
  DS_TRY(close_file(r, err));
  r->name = strdup(name);
  char *path = r->name ? ds_path_join(r->folder, name) : NULL;
  ds_status status =
      path ? ds_file_map(path, &r->file, err) : ds_fail_memory(err, "a checkpoint's path");
  free(path);
  if (status != DS_OK) {
    free(r->name);
    r->name = NULL;
  }
  return status;
}

static ds_status verify_part(reading *r, const line *l, ds_error *err) {
  bool follows = r->name && strcmp(r->name, l->name) == 0 && l->begin == r->at;
  if (!follows) DS_TRY(open_next(r, l->name, err));
  r->at = l->end;
  if (l->end > r->file.size)
    return ds_fail(err, DS_ERR_FORMAT, "%s/%s is damaged: it has %zu bytes and should have %s%zu",
                   r->folder, l->name, r->file.size, l->begin > 0 ? "at least " : "", l->end);
  bool mine = r->part++ % (size_t)r->size == (size_t)r->rank;
  if (mine && sum_part(&r->file, l->begin, l->end) != l->sum)
    return ds_fail(err, DS_ERR_FORMAT, "%s/%s is damaged: its checksum is wrong", r->folder,
                   l->name);
  return DS_OK;
}

/* "SUM SIZE NAME", or of one part of a larger file "SUM BEGIN-END NAME". */
static ds_status verify_line(reading *r, const char *text, ds_error *err) {
  line l = {0};
  int at = 0;
  if (sscanf(text, "%16" SCNx64 " %zu-%zu %n", &l.sum, &l.begin, &l.end, &at) != 3 || at == 0) {
    at = 0;
    l.begin = 0;
    if (sscanf(text, "%16" SCNx64 " %zu %n", &l.sum, &l.end, &at) != 2 || at == 0)
      return fail_line(r, text, err);
  }
  l.name = text + at;
  if (!l.name[0] || strchr(l.name, '/') || l.end < l.begin || (l.begin > 0 && l.begin != r->at))
    return fail_line(r, text, err);
  return verify_part(r, &l, err);
}

/* The manifest's own checksum stands in its last line. */
static bool manifest_is_whole(const char *text, size_t size) {
  const size_t last = 17; /* 16 digits and a line break */
  if (size < last || strlen(text) != size || text[size - 1] != '\n') return false;
  char want[32];
  snprintf(want, sizeof want, "%016" PRIx64 "\n", ds_checksum(text, size - last));
  return strcmp(text + size - last, want) == 0;
}

ds_status ds_checkpoint_manifest_verify(const char *path, int rank, int size, ds_error *err) {
  char *manifest = ds_path_join(path, MANIFEST), *text = NULL;
  size_t bytes = 0;
  if (!manifest) return ds_fail_memory(err, "a checkpoint's path");
  reading r = {.folder = path, .manifest = manifest, .rank = rank, .size = size};
  ds_status status = ds_file_read(manifest, MANIFEST_LIMIT, &text, &bytes, err);
  if (status == DS_OK && !manifest_is_whole(text, bytes))
    status = ds_fail(err, DS_ERR_FORMAT, "%s is damaged: its checksum is wrong", manifest);
  for (char *at = text; status == DS_OK && at < text + bytes - 17;) {
    char *end = strchr(at, '\n');
    *end = '\0';
    status = verify_line(&r, at, err);
    at = end + 1;
  }
  ds_status last = close_file(&r, status == DS_OK ? err : NULL);
  free(text);
  free(manifest);
  return status == DS_OK ? last : status;
}
