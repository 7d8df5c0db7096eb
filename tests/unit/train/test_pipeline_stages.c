/* Which blocks and parameters a stage has. */
#include "test.h"

#include "train/pipeline_stages.h"

#include <stdlib.h>

/* A table of 1000 x 8 beside blocks of some 900 elements: the first and the last one are heavy. */
static const char tied[] = "{\"model_type\": \"gpt2\", \"n_embd\": 8, \"n_layer\": 6, \"n_head\": "
                           "2, \"vocab_size\": 1000, "
                           "\"n_positions\": 4}";

static ds_error err;

static void test_bounds(void) {
  ds_model *m;
  ds_params *p;
  ds_stages s;
  CHECK_OK(ds_model_from_config(tied, &m, &err), err);
  CHECK_OK(ds_model_declare(m, &p, &err), err);
  CHECK_OK(ds_stages_init(&s, m, p, 3, false, &err), err);
  CHECK(s.blocks == 6 && memcmp(s.bounds, (int[]){0, 1, 5, 6}, 4 * sizeof(int)) == 0);
  ds_stages_finish(&s);
  CHECK_OK(ds_stages_init(&s, m, p, 3, true, &err), err);
  CHECK(memcmp(s.bounds, (int[]){0, 2, 4, 6}, 4 * sizeof(int)) == 0);
  ds_stages_finish(&s);
  CHECK_FAILS(ds_stages_init(&s, m, p, 7, true, &err), DS_ERR_INVALID, err,
              "7 pipeline stages, but the model has 6 blocks");
  ds_stages_finish(&s);
  ds_params_destroy(p);
  ds_model_destroy(m);
}

/* Every parameter is counted by one stage; each stage has those of its blocks, the last one the tied
 * table too. */
static void test_shards(void) {
  ds_model *m;
  ds_params *p;
  ds_stages s;
  CHECK_OK(ds_model_from_config(tied, &m, &err), err);
  CHECK_OK(ds_model_declare(m, &p, &err), err);
  CHECK_OK(ds_stages_init(&s, m, p, 3, true, &err), err);
  int n = ds_params_count(p), *counts = calloc((size_t)n, sizeof *counts);
  ds_shard *shards = calloc((size_t)n, sizeof *shards);
  for (int stage = 0; stage < 3; stage++) {
    for (int i = 0; i < n; i++) {
      shards[i] = (ds_shard){.present = true, .counted = true, .dim = -1};
      shards[i].rank = ds_params_shape(p, i, shards[i].shape);
    }
    CHECK_OK(ds_stages_shard(&s, m, p, stage, shards, &err), err);
    for (int i = 0; i < n; i++) {
      int layer;
      bool table, twice;
      const char *name = ds_params_name(p, i);
      table = strcmp(name, "transformer.wte.weight") == 0;
      CHECK_OK(ds_stages_tied(&s, m, i, &twice, &err), err);
      CHECK(twice == table);
      counts[i] += shards[i].counted;
      int first = -1;
      CHECK_OK(ds_stages_first(&s, m, i, &first, &err), err);
      CHECK(shards[i].counted == (stage == first));
      CHECK(shards[i].present || (!shards[i].counted && shards[i].shape[0] == 0));
      if (table) CHECK(shards[i].present == (stage != 1) && shards[i].counted == (stage == 0));
      if (sscanf(name, "transformer.h.%d.", &layer) == 1)
        CHECK(shards[i].present == (layer / 2 == stage));
    }
  }
  for (int i = 0; i < n; i++) CHECK(counts[i] == 1);
  free(counts);
  free(shards);
  ds_stages_finish(&s);
  ds_params_destroy(p);
  ds_model_destroy(m);
}

int main(void) {
  test_bounds();
  test_shards();
  return TEST_RESULT();
}
