#include "test.h"

#include "base/file.h"
#include "data/dataset.h"

#include <stdlib.h>
#include <unistd.h>

static void check_sample(ds_dataset *d, int64_t index, int64_t seq_len, int32_t first) {
  ds_error err;
  ds_batch sample;
  CHECK_OK(ds_dataset_get(d, index, &sample, &err), err);
  CHECK(sample.n == 2);
  for (int k = 0; k < sample.n; k++) {
    const ds_host_tensor *t = &sample.tensors[k];
    CHECK(t->dtype == DS_I32 && t->rank == 1 && t->shape[0] == seq_len);
    const int32_t *ids = t->data;
    for (int64_t i = 0; i < seq_len; i++) CHECK(ids[i] == first + k + i);
  }
}

static void test_tokens(void) {
  int32_t ids[13];
  for (int i = 0; i < 13; i++) ids[i] = i;
  ds_error err;
  ds_dataset *d;
  CHECK_OK(ds_dataset_tokens(ids, 13, 4, 13, &d, &err), err);
  CHECK(ds_dataset_length(d) == 3); /* the last label is the last id */
  for (int i = 0; i < 3; i++) check_sample(d, i, 4, 4 * i);
  ds_batch sample;
  CHECK_FAILS(ds_dataset_get(d, 3, &sample, &err), DS_ERR_INVALID, err, "sample 3");
  CHECK_FAILS(ds_dataset_get(d, -1, &sample, &err), DS_ERR_INVALID, err, "3 samples");
  ds_dataset_destroy(d);
  CHECK_OK(ds_dataset_tokens(ids, 12, 4, 0, &d, &err), err);
  CHECK(ds_dataset_length(d) == 2);
  ds_dataset_destroy(d);
}

static void test_tokens_errors(void) {
  static const int32_t ids[] = {0, 1, 2, 9, -5};
  ds_error err;
  ds_dataset *d;
  CHECK_FAILS(ds_dataset_tokens(ids, 4, 2, 9, &d, &err), DS_ERR_INVALID, err,
              "id 9 (number 3) is outside the model's vocabulary of 9");
  CHECK_FAILS(ds_dataset_tokens(ids, 5, 2, 0, &d, &err), DS_ERR_INVALID, err, "id -5");
  CHECK_FAILS(ds_dataset_tokens(ids, 3, 3, 0, &d, &err), DS_ERR_INVALID, err,
              "gives 3 tokens, but one sample of seq_len 3 needs 4");
  CHECK_FAILS(ds_dataset_tokens(ids, 0, 3, 0, &d, &err), DS_ERR_INVALID, err, "0 tokens");
  CHECK_FAILS(ds_dataset_tokens(ids, 4, 0, 0, &d, &err), DS_ERR_INVALID, err,
              "seq_len must be positive");
  CHECK(d == NULL);
}

static void test_text(void) {
  char path[] = "/tmp/dscore-test-dataset-XXXXXX";
  int fd = mkstemp(path);
  CHECK(fd >= 0);
  close(fd);
  ds_error err;
  ds_tokenizer *t;
  ds_dataset *d;
  CHECK_OK(ds_tokenizer_bytes(&t, &err), err);
  CHECK_OK(ds_file_write(path, "abcdef", 6, &err), err);
  const char *paths[] = {path, path};
  CHECK_OK(ds_dataset_text(paths, 1, t, 5, 256, &d, &err), err);
  CHECK(ds_dataset_length(d) == 1);
  check_sample(d, 0, 5, 'a');
  ds_dataset_destroy(d);
  CHECK_OK(ds_dataset_text(paths, 2, t, 11, 256, &d, &err), err); /* one after the other */
  ds_batch sample;
  CHECK_OK(ds_dataset_get(d, 0, &sample, &err), err);
  CHECK(((int32_t *)sample.tensors[0].data)[6] == 'a');
  CHECK(((int32_t *)sample.tensors[1].data)[10] == 'f');
  ds_dataset_destroy(d);
  CHECK_FAILS(ds_dataset_text(paths, 1, t, 6, 256, &d, &err), DS_ERR_INVALID, err,
              "gives 6 tokens, but one sample of seq_len 6 needs 7");
  CHECK(strstr(err.message, path) != NULL);
  CHECK_FAILS(ds_dataset_text(paths, 1, t, 5, 'd', &d, &err), DS_ERR_INVALID, err,
              "token 3 has id 100, but the model's vocabulary has 100 entries and the "
              "tokenizer's 256");
  CHECK(strstr(err.message, path) != NULL);
  CHECK_OK(ds_file_write(path, "", 0, &err), err);
  CHECK_FAILS(ds_dataset_text(paths, 1, t, 5, 256, &d, &err), DS_ERR_INVALID, err, "0 tokens");
  unlink(path);
  CHECK_FAILS(ds_dataset_text(paths, 1, t, 5, 256, &d, &err), DS_ERR_NOT_FOUND, err, path);
  CHECK(d == NULL);
  ds_tokenizer_destroy(t);
}

static int64_t one(void *self) {
  (void)self;
  return 1;
}

/* Gives whatever sample self points to. */
static ds_status give(void *self, int64_t index, ds_batch *sample, ds_error *err) {
  (void)index;
  (void)err;
  *sample = *(ds_batch *)self;
  return DS_OK;
}

/* A host app's own data set is checked. */
static void test_own(void) {
  ds_error err;
  ds_dataset *d;
  ds_dataset_vtable vtable = {.size = 4};
  CHECK_FAILS(ds_dataset_create(&vtable, NULL, &d, &err), DS_ERR_VERSION, err, "size 4");
  vtable.size = sizeof vtable;
  CHECK_FAILS(ds_dataset_create(&vtable, NULL, &d, &err), DS_ERR_INVALID, err, "map-style");
  vtable.length = one;
  CHECK_FAILS(ds_dataset_create(&vtable, NULL, &d, &err), DS_ERR_INVALID, err, "map-style");
  vtable.get = give;
  float x = 1;
  ds_batch sample = {.n = 1, .tensors = {{DS_F32, 1, {1}, &x}}}, got;
  CHECK_OK(ds_dataset_create(&vtable, &sample, &d, &err), err);
  CHECK_OK(ds_dataset_get(d, 0, &got, &err), err);
  sample.n = 9;
  CHECK_FAILS(ds_dataset_get(d, 0, &got, &err), DS_ERR_INVALID, err, "sample 0: has 9 tensors");
  sample.n = 1;
  sample.tensors[0].dtype = 77;
  CHECK_FAILS(ds_dataset_get(d, 0, &got, &err), DS_ERR_INVALID, err, "tensor 0 needs data");
  sample.tensors[0].dtype = DS_I32;
  sample.tensors[0].rank = DS_MAX_RANK + 1;
  CHECK_FAILS(ds_dataset_get(d, 0, &got, &err), DS_ERR_INVALID, err, "tensor 0");
  sample.tensors[0].rank = 2;
  sample.tensors[0].shape[0] = sample.tensors[0].shape[1] = INT64_MAX / 2;
  CHECK_FAILS(ds_dataset_get(d, 0, &got, &err), DS_ERR_INVALID, err, "tensor 0");
  ds_dataset_destroy(d);
  ds_dataset_destroy(NULL);
}

int main(void) {
  test_tokens();
  test_tokens_errors();
  test_text();
  test_own();
  return TEST_RESULT();
}
