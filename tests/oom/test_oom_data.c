/* The same as test_oom.c for the data layer: loading a tokenizer of each kind, both ways through
 * it, saving it, a data set and a loader over text. */
#include "ds.h"

#include "base/file.h"
#include "data/dataloader.h"
#include "failing_malloc.h"

#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static char folder[] = "/tmp/dscore-test-oom-data-XXXXXX";

static ds_status use_tokenizer(const ds_tokenizer *t, const char *text_path, ds_error *err) {
  static const char text[] = "<s> the river's 12 \xff\xe2\x96\x81 stones <tool>\n\n they'd gone";
  int32_t *ids = NULL;
  char *back = NULL;
  size_t count, length;
  ds_dataset *d = NULL;
  ds_dataloader *l = NULL;
  ds_status status = ds_tokenizer_encode(t, text, sizeof text - 1, true, &ids, &count, err);
  if (status == DS_OK) status = ds_tokenizer_decode(t, ids, count, true, &back, &length, err);
  if (status == DS_OK) status = ds_tokenizer_save(t, folder, err);
  if (status == DS_OK) status = ds_dataset_text(&text_path, 1, t, 8, 0, &d, err);
  ds_dataloader_options o = {.dataset = d, .micro_batch = 2, .world_size = 2, .shuffle = true};
  if (status == DS_OK) status = ds_dataloader_create(&o, &l, err);
  for (int i = 0; i < 5 && status == DS_OK; i++) {
    ds_batch batch;
    status = ds_dataloader_next(l, &batch, err);
  }
  ds_dataloader_destroy(l);
  ds_dataset_destroy(d);
  free(back);
  free(ids);
  return status;
}

static ds_status life(const char *tokenizer, const char *text_path, ds_error *err) {
  ds_tokenizer *t = NULL;
  ds_status status =
      tokenizer ? ds_tokenizer_load(tokenizer, &t, err) : ds_tokenizer_bytes(&t, err);
  if (status == DS_OK) status = use_tokenizer(t, text_path, err);
  ds_tokenizer_destroy(t);
  return status;
}

/* Whether a failure of allocation `at` went as it should; *done: the life needs no more than that.
 */
static int check(const char *tokenizer, const char *text_path, long at, int *done) {
  ds_error err = {DS_OK, ""};
  allocation = 0;
  fail_at = at;
  long before = outstanding;
  armed = 1;
  ds_status status = life(tokenizer, text_path, &err);
  armed = 0;
  *done = allocation < at;
  if (outstanding != before) {
    fprintf(stderr, "allocation %ld failed: %ld blocks leaked\n", at, outstanding - before);
    return 0;
  }
  if (status != DS_OK && (!err.message[0] || *done)) {
    fprintf(stderr, "allocation %ld: status %d, message \"%s\"\n", at, (int)status, err.message);
    return 0;
  }
  return 1;
}

int main(int argc, char **argv) {
  if (argc < 3 || !mkdtemp(folder)) {
    fprintf(stderr, "usage: test_oom_data TEXT TOKENIZER...\n");
    return 2;
  }
  long checks = 0;
  int good = 1;
  for (int i = 1; i < argc; i++) {
    const char *tokenizer = i == 1 ? NULL : argv[i]; /* NULL: bytes */
    int done = 0;
    for (long at = 1; !done && good; at++, checks++) good = check(tokenizer, argv[1], at, &done);
    if (!good) fprintf(stderr, "with %s\n", tokenizer ? tokenizer : "bytes");
  }
  static const char *const names[] = {"tokenizer.json", "vocab.json", "merges.txt"};
  for (int i = 0; i < 3; i++) {
    char path[128];
    snprintf(path, sizeof path, "%s/%s", folder, names[i]);
    unlink(path);
  }
  if (rmdir(folder) != 0) fprintf(stderr, "%s is not empty\n", folder);
  printf("%ld allocations failed\n", checks);
  return !good || checks < 100;
}
