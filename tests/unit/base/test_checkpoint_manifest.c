/* The manifest: the same whoever sums which part; any damage is found by the rank whose share it is in,
 * a wrong size by all. */
#include "base/checkpoint_manifest.h"

#include "base/checksum.h"
#include "base/file.h"
#include "model/temp_folder.h"
#include "test.h"

#include <fcntl.h>
#include <inttypes.h>

enum { PARTS = 3, LARGE = 2 * DS_MANIFEST_PART + 12345 };

static const char *folder(void) {
  return temp_folder;
}

static void write_large(void) {
  ds_error err;
  unsigned char *data = malloc(LARGE);
  for (size_t i = 0; i < LARGE; i++) data[i] = (unsigned char)(i * 2654435761u >> 13);
  CHECK_OK(ds_file_write(temp_path("large"), data, LARGE, &err), err);
  free(data);
}

static char *read_manifest(void) {
  ds_error err;
  char *text = NULL;
  size_t size;
  CHECK_OK(ds_file_read(temp_path("manifest"), 1 << 20, &text, &size, &err), err);
  return text;
}

/* What must be in it, from checksum.h alone. */
static void test_text(void) {
  ds_error err;
  ds_file f;
  char want[1024], *text = read_manifest();
  int n = 0;
  CHECK_OK(ds_file_map(temp_path("large"), &f, &err), err);
  for (size_t i = 0; i < PARTS; i++) {
    size_t begin = i * DS_MANIFEST_PART, end = i + 1 == PARTS ? LARGE : begin + DS_MANIFEST_PART;
    n += snprintf(want + n, sizeof want - (size_t)n, "%016" PRIx64 " %zu-%zu large\n",
                  ds_checksum(f.data + begin, end - begin), begin, end);
  }
  n += snprintf(want + n, sizeof want - (size_t)n, "%016" PRIx64 " 5 small\n",
                ds_checksum("hello", 5));
  snprintf(want + n, sizeof want - (size_t)n, "%016" PRIx64 "\n", ds_checksum(want, (size_t)n));
  CHECK(strcmp(text, want) == 0);
  ds_file_unmap(&f);
  free(text);
}

/* Any number of ranks sums the parts; nothing of it is left. */
static void test_shared_sums(void) {
  ds_error err;
  CHECK_OK(ds_checkpoint_manifest_write(folder(), &err), err);
  char *alone = read_manifest();
  test_text();
  for (int size = 1; size <= 5; size++) {
    CHECK(unlink(temp_path("manifest")) == 0);
    for (int rank = size - 1; rank >= 0; rank--)
      CHECK_OK(ds_checkpoint_manifest_sum(folder(), "large", rank, size, &err), err);
    CHECK(ds_file_exists(temp_path(".sums-large")));
    CHECK_OK(ds_checkpoint_manifest_write(folder(), &err), err);
    CHECK(!ds_file_exists(temp_path(".sums-large")));
    char *together = read_manifest();
    CHECK(strcmp(alone, together) == 0);
    free(together);
  }
  free(alone);
  /* A rank that didn't: its parts are not taken as good. */
  CHECK(unlink(temp_path("manifest")) == 0);
  CHECK_OK(ds_checkpoint_manifest_sum(folder(), "large", 0, 2, &err), err);
  CHECK_OK(ds_checkpoint_manifest_write(folder(), &err), err);
  CHECK_FAILS(ds_checkpoint_manifest_verify(folder(), 0, 1, &err), DS_ERR_FORMAT, err, "checksum");
  CHECK(unlink(temp_path("manifest")) == 0);
  CHECK_OK(ds_checkpoint_manifest_sum(folder(), "large", 1, 3, &err), err);
  CHECK_FAILS(ds_checkpoint_manifest_write(folder(), &err), DS_ERR_IO, err, "ranks disagree");
  CHECK(unlink(temp_path(".sums-large")) == 0);
  CHECK_OK(ds_checkpoint_manifest_write(folder(), &err), err);
}

static void flip(const char *name, off_t at, int bit) {
  int fd = open(temp_path(name), O_RDWR);
  unsigned char byte;
  CHECK(fd >= 0 && pread(fd, &byte, 1, at) == 1);
  byte ^= (unsigned char)(1 << bit);
  CHECK(pwrite(fd, &byte, 1, at) == 1);
  close(fd);
}

static int finders(int size, const char *what) {
  ds_error err;
  int found = 0;
  for (int rank = 0; rank < size; rank++) {
    ds_status status = ds_checkpoint_manifest_verify(folder(), rank, size, &err);
    CHECK(status == DS_OK || status == DS_ERR_FORMAT);
    if (status != DS_OK && !strstr(err.message, what)) {
      CHECK(!"another message");
      fprintf(stderr, "%s\n", err.message);
    }
    found += status != DS_OK;
  }
  return found;
}

static void test_damage(void) {
  char *text = read_manifest();
  off_t length = (off_t)strlen(text);
  free(text);
  static const off_t places[] = {0, DS_MANIFEST_PART - 1, DS_MANIFEST_PART, LARGE - 1};
  for (int size = 1; size <= 5; size++) {
    CHECK(finders(size, "") == 0);
    for (size_t i = 0; i < sizeof places / sizeof *places; i++) {
      flip("large", places[i], (int)i);
      CHECK(finders(size, "large is damaged: its checksum") == 1);
      flip("large", places[i], (int)i);
    }
    flip("small", 2, 3);
    CHECK(finders(size, "small is damaged") == 1);
    flip("small", 2, 3);
    /* Another size is seen by all. */
    CHECK(truncate(temp_path("large"), LARGE - 1) == 0);
    CHECK(finders(size, "large is damaged: it has") == size);
    write_large();
    CHECK(truncate(temp_path("large"), LARGE + 1) == 0);
    CHECK(finders(size, "large is damaged: it has") == size);
    write_large();
    for (off_t at = 0; at < length; at += 7) {
      flip("manifest", at, (int)(at % 8));
      CHECK(finders(size, "manifest is damaged") == size);
      flip("manifest", at, (int)(at % 8));
    }
  }
}

/* The form without parts is read too, of a file of any size. */
static void test_old_form(void) {
  ds_error err;
  ds_file f;
  char text[256];
  CHECK_OK(ds_file_map(temp_path("large"), &f, &err), err);
  int n = snprintf(text, sizeof text, "%016" PRIx64 " %zu large\n", ds_checksum(f.data, f.size),
                   f.size);
  n +=
      snprintf(text + n, sizeof text - (size_t)n, "%016" PRIx64 "\n", ds_checksum(text, (size_t)n));
  CHECK_OK(ds_file_write(temp_path("manifest"), text, (size_t)n, &err), err);
  CHECK(finders(1, "") == 0 && finders(3, "") == 0);
  ds_file_unmap(&f);
  flip("large", LARGE / 2, 7);
  CHECK(finders(1, "large") == 1 && finders(3, "large") == 1);
}

/* Whole lines that make no sense, with a right last line. */
static void test_lines(void) {
  static const char *const lines[] = {
      "0123 5",
      "xyz 5 small",
      "0000000000000000 5-2 small",
      "0000000000000000 -5",
      "00 3-5 small",
      "00 0-2 small\n00 3-5 small",
      "00 0-9 small",
      "00 5 ../small",
  };
  ds_error err;
  char text[256];
  for (size_t i = 0; i < sizeof lines / sizeof *lines; i++) {
    int n = snprintf(text, sizeof text, "%s\n", lines[i]);
    n += snprintf(text + n, sizeof text - (size_t)n, "%016" PRIx64 "\n",
                  ds_checksum(text, (size_t)n));
    CHECK_OK(ds_file_write(temp_path("manifest"), text, (size_t)n, &err), err);
    CHECK_FAILS(ds_checkpoint_manifest_verify(folder(), 0, 1, &err), DS_ERR_FORMAT, err,
                "is damaged");
  }
  CHECK(unlink(temp_path("manifest")) == 0);
  CHECK_FAILS(ds_checkpoint_manifest_verify(folder(), 0, 1, &err), DS_ERR_NOT_FOUND, err,
              "manifest");
}

/* Noise with a right last line: an answer, whatever it is, and no step outside (under sanitizers). */
static void test_noise(void) {
  static const char base[] =
      "a8b1d5e2f0c39417 0-16777216 large\n0123456789abcdef 16777216-33566777 "
      "large\n0123456789abcdef 5 small\n";
  ds_error err;
  unsigned seed = 7;
  for (int i = 0; i < 1000; i++) {
    char text[256];
    int n = (int)sizeof base - 1;
    memcpy(text, base, sizeof base);
    for (int k = 0; k < 1 + i % 4; k++) {
      seed = seed * 1664525u + 1013904223u;
      text[(seed >> 8) % (unsigned)n] = "0123456789af- \n\0xl\xff."[(seed >> 24) % 20];
    }
    n += snprintf(text + n, sizeof text - (size_t)n, "%016" PRIx64 "\n",
                  ds_checksum(text, (size_t)n));
    CHECK_OK(ds_file_write(temp_path("manifest"), text, (size_t)n, &err), err);
    err.message[0] = '\0';
    ds_status status = ds_checkpoint_manifest_verify(folder(), 0, 1, &err);
    CHECK(status != DS_OK && err.message[0]);
  }
}

int main(void) {
  ds_error err;
  /* In memory where there is such a place: all of it is synced. */
  if (access("/dev/shm", W_OK) == 0) setenv("TMPDIR", "/dev/shm", 0);
  if (!temp_folder_create()) return 1;
  write_large();
  CHECK_OK(ds_file_write(temp_path("small"), "hello", 5, &err), err);
  test_shared_sums();
  test_damage();
  test_old_form();
  test_lines();
  test_noise();
  temp_folder_destroy();
  return TEST_RESULT();
}
