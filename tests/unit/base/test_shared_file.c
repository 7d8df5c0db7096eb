/* A file that several write: every byte where it belongs, whatever the order and the sizes; refusals. */
#include "base/shared_file.h"

#include "base/file.h"
#include "model/temp_folder.h"
#include "test.h"

enum { SIZE = 3 * DS_SHARED_FILE_ROOM + 777, WRITERS = 3, HEAD = 5 };

static unsigned seed = 1;
static unsigned random_below(unsigned n) {
  seed = seed * 1664525u + 1013904223u;
  return (unsigned)(((uint64_t)(seed >> 8) * n) >> 24);
}

/* The file is cut into stretches; each goes to one writer, who writes its own in runs forward and jumps
 * now and then, so that some are collected, some are not, and some are larger than the room. */
static void test_stretches(void) {
  ds_error err;
  char path[512];
  snprintf(path, sizeof path, "%s", temp_path("shared"));
  unsigned char *want = malloc(SIZE);
  for (size_t i = 0; i < SIZE; i++) want[i] = (unsigned char)random_below(256);
  CHECK_OK(ds_shared_file_create(path, SIZE, want, HEAD, &err), err);
  ds_shared_file writers[WRITERS];
  for (int i = 0; i < WRITERS; i++)
    CHECK_OK(ds_shared_file_open(&writers[i], path, SIZE, &err), err);
  static const unsigned most[] = {3, 500, 70000, DS_SHARED_FILE_ROOM + 9};
  for (size_t at = HEAD; at < SIZE;) {
    size_t n = 1 + random_below(most[random_below(4)]);
    if (n > SIZE - at) n = SIZE - at;
    size_t half = random_below(8) ? n : n / 2; /* the end first, now and then */
    ds_shared_file *w = &writers[random_below(4) ? 0 : random_below(WRITERS)];
    CHECK_OK(ds_shared_file_write(w, at + half, want + at + half, n - half, &err), err);
    CHECK_OK(ds_shared_file_write(w, at, want + at, half, &err), err);
    at += n;
  }
  for (int i = 0; i < WRITERS; i++) {
    CHECK_OK(ds_shared_file_sync(&writers[i], &err), err);
    ds_shared_file_close(&writers[i]);
  }
  ds_file f;
  CHECK_OK(ds_file_map(path, &f, &err), err);
  CHECK(f.size == SIZE && memcmp(f.data, want, SIZE) == 0);
  ds_file_unmap(&f);
  free(want);
}

static void test_rename(void) {
  ds_error err;
  char from[512], to[512];
  snprintf(from, sizeof from, "%s", temp_path("from"));
  snprintf(to, sizeof to, "%s", temp_path("to"));
  CHECK_OK(ds_file_write(to, "old", 3, &err), err);
  CHECK_OK(ds_shared_file_create(from, 4, "new!", 4, &err), err);
  CHECK_OK(ds_shared_file_rename(from, to, &err), err);
  char *text;
  CHECK(!ds_file_exists(from));
  CHECK_OK(ds_file_read(to, 10, &text, NULL, &err), err);
  CHECK(strcmp(text, "new!") == 0);
  free(text);
  CHECK_FAILS(ds_shared_file_rename(from, to, &err), DS_ERR_NOT_FOUND, err, "rename");
}

static void test_refusals(void) {
  ds_error err;
  ds_shared_file f;
  char path[512];
  snprintf(path, sizeof path, "%s", temp_path("small"));
  CHECK_OK(ds_shared_file_create(path, 10, "head", 4, &err), err);
  CHECK_FAILS(ds_shared_file_open(&f, path, 11, &err), DS_ERR_FORMAT, err, "10 bytes");
  CHECK_OK(ds_shared_file_open(&f, path, 10, &err), err);
  CHECK_FAILS(ds_shared_file_write(&f, 9, "ab", 2, &err), DS_ERR_INVALID, err, "beyond its end");
  CHECK_FAILS(ds_shared_file_write(&f, UINT64_MAX, "a", 1, &err), DS_ERR_INVALID, err, "beyond");
  ds_shared_file_close(&f);
  ds_shared_file_close(&f);
  CHECK_FAILS(ds_shared_file_create(path, 3, "head", 4, &err), DS_ERR_INVALID, err, "size");
  CHECK_FAILS(ds_shared_file_create(temp_path("huge"), (uint64_t)1 << 60, "", 0, &err), DS_ERR_IO,
              err, "huge");
  CHECK_FAILS(ds_shared_file_create(temp_path("no/where"), 1, "", 0, &err), DS_ERR_NOT_FOUND, err,
              "no/where");
  /* Another host's rank, whose file system this isn't. */
  CHECK_FAILS(ds_shared_file_open(&f, temp_path("elsewhere"), 10, &err), DS_ERR_NOT_FOUND, err,
              "all hosts share");
}

int main(void) {
  if (access("/dev/shm", W_OK) == 0) setenv("TMPDIR", "/dev/shm", 0);
  if (!temp_folder_create()) return 1;
  test_stretches();
  test_rename();
  test_refusals();
  temp_folder_destroy();
  return TEST_RESULT();
}
