/* What a rank has of a model: declarations cut down, with all else as it was. */
#include "test.h"

#include "ds.h"
#include "model/model.h"
#include "zero/local.h"

#include <stdlib.h>

#define CONFIG                                                                                     \
  "{\"model_type\": \"gpt2\", \"n_layer\": 2, \"n_embd\": 12, \"n_head\": 3, \"vocab_size\": 17, " \
  "\"n_positions\": 8}"

static void test_gpt2(void) {
  ds_error err;
  ds_model *model;
  ds_params *whole, *local;
  CHECK_OK(ds_model_from_config(CONFIG, &model, &err), err);
  CHECK_OK(ds_model_declare(model, &whole, &err), err);
  int n = ds_params_count(whole);
  int64_t sum = 0, counted = 0;
  for (int i = 0; i < n; i++) sum += ds_params_numel(whole, i);
  for (int rank = 0; rank < 2; rank++) {
    ds_shard *shards;
    CHECK_OK(ds_local_plan(whole, rank, 2, false, &shards, &err), err);
    shards[n - 1].present = false; /* as another stage's */
    shards[n - 1].shape[0] = 0;
    CHECK_OK(ds_params_localize(whole, shards, &local, &err), err);
    CHECK(ds_params_count(local) == n);
    for (int i = 0; i < n; i++) {
      int64_t shape[DS_MAX_RANK];
      double a, b;
      CHECK(strcmp(ds_params_name(local, i), ds_params_name(whole, i)) == 0);
      CHECK(ds_params_shape(local, i, shape) == shards[i].rank);
      CHECK(memcmp(shape, shards[i].shape, (size_t)shards[i].rank * sizeof *shape) == 0);
      CHECK(ds_params_init(local, i, &a) == ds_params_init(whole, i, &b) && a == b);
      CHECK(ds_params_transposed(local, i) == ds_params_transposed(whole, i));
      CHECK(ds_params_numel(local, i) == ds_shard_numel(&shards[i]));
      if (shards[i].counted) counted += ds_params_numel(local, i);
    }
    int wte = ds_params_find(local, "transformer.wte.weight");
    CHECK(shards[wte].shape[0] == (rank ? 8 : 9) && shards[wte].split == DS_SPLIT_VOCAB);
    CHECK(shards[ds_params_find(local, "transformer.h.1.attn.c_attn.weight")].shape[0] ==
          (rank ? 12 : 24));
    ds_params_destroy(local);
    free(shards);
  }
  CHECK(counted == sum - 12); /* all but the last norm's bias, which nobody had */
  ds_params_destroy(whole);
  ds_model_destroy(model);
}

static void test_declarations(void) {
  ds_error err;
  ds_params *p;
  ds_shard *shards;
  const int64_t shape[] = {6, 4};
  CHECK_OK(ds_params_create(&p, &err), err);
  ds_params_set_split(p, ds_params_add(p, "fc2.weight", 2, shape, DS_INIT_ONES, 0), DS_SPLIT_ROW,
                      DS_SPLIT_BY_ELEMENT);
  CHECK_OK(ds_params_status(p, &err), err);
  CHECK_OK(ds_local_plan(p, 0, 2, false, &shards, &err), err);
  CHECK(shards[0].split == DS_SPLIT_ROW && shards[0].shape[1] == 2);
  free(shards);
  ds_params_set_split(p, 1, DS_SPLIT_ROW, DS_SPLIT_BY_ELEMENT);
  CHECK_FAILS(ds_params_status(p, &err), DS_ERR_INVALID, err, "no such parameter");
  ds_params_destroy(p);
  CHECK_OK(ds_params_create(&p, &err), err);
  ds_params_set_heads(p, 8, 3, 64);
  CHECK_FAILS(ds_params_status(p, &err), DS_ERR_INVALID, err, "ds_params_set_heads(8, 3, 64)");
  ds_params_destroy(p);
}

int main(void) {
  test_gpt2();
  test_declarations();
  return TEST_RESULT();
}
