#include "zero/disk.h"

#include <stdlib.h>
#include <unistd.h>

#include "test.h"

int main(void) {
  enum { PARTS = 200, PART = 5000 };
  static char in[PARTS][PART], out[PARTS][PART];
  char folder[] = "/tmp/ds-test-disk-XXXXXX";
  ds_disk *d;
  ds_error err;
  CHECK(mkdtemp(folder) != NULL);
  CHECK_OK(ds_disk_create(folder, (int64_t)PARTS * PART, &d, &err), err);
  CHECK(rmdir(folder) == 0); /* the file has no name */
  for (int i = 0; i < PARTS; i++)
    for (int k = 0; k < PART; k++) in[i][k] = (char)(i * 31 + k);
  /* More than there is room for at once; reads come after the writes they were given after. */
  uint64_t last = 0;
  for (int i = 0; i < PARTS; i++) (void)ds_disk_write(d, (int64_t)i * PART, PART, in[i]);
  for (int i = PARTS; i-- > 0;) last = ds_disk_read(d, (int64_t)i * PART, PART, out[i]);
  CHECK_OK(ds_disk_wait(d, last, &err), err);
  CHECK(memcmp(in, out, sizeof in) == 0);
  /* Behind the end there is nothing: a failure, and it stays. */
  last = ds_disk_read(d, (int64_t)PARTS * PART, 1, out[0]);
  CHECK_FAILS(ds_disk_wait(d, last, &err), DS_ERR_IO, err, "reading from the file in");
  last = ds_disk_write(d, 0, 1, in[0]);
  CHECK_FAILS(ds_disk_wait(d, last, &err), DS_ERR_IO, err, folder);
  ds_disk_destroy(d);

  CHECK_FAILS(ds_disk_create("/nowhere/at/all", 10, &d, &err), DS_ERR_IO, err,
              "\"/nowhere/at/all\" (nvme_path)");
  CHECK(d == NULL);
  CHECK_FAILS(ds_disk_create("/tmp", INT64_MAX / 2, &d, &err), DS_ERR_IO, err, "(nvme_path)");
  /* The end doesn't wait for what nobody waited for. */
  CHECK_OK(ds_disk_create("/tmp", 100, &d, &err), err);
  (void)ds_disk_write(d, 0, 100, in[0]);
  ds_disk_destroy(d);
  ds_disk_destroy(NULL);
  return test_result();
}
