/* With how many ranks an elastic config may go on. */
#include "train/config.h"

#include "test.h"

#define ELASTIC                                                                                    \
  "\"elasticity\": {\"enabled\": true, \"max_train_batch_size\": 32, \"micro_batch_sizes\": "      \
  "[1, 2, 3, 7], \"version\": 0.1"

static void allows(const char *config, int most, int want) {
  ds_error err;
  int ranks = -1;
  CHECK_OK(ds_config_elastic_ranks(config, most, &ranks, &err), err);
  if (ranks != want) fprintf(stderr, "%s at most %d: %d\n", config, most, ranks);
  CHECK(ranks == want);
}

int main(void) {
  ds_error err;
  int ranks;
  /* 24 divides over 1, 2, 3, 4, 6, 8, 12 and 24 ranks. */
  allows("{" ELASTIC "}}", 1, 1);
  allows("{" ELASTIC "}}", 4, 4);
  allows("{" ELASTIC "}}", 5, 4);
  allows("{" ELASTIC "}}", 7, 6);
  allows("{" ELASTIC "}}", 1000, 24);
  allows("{" ELASTIC ", \"max_gpus\": 10}}", 1000, 8);
  allows("{" ELASTIC "}, \"tensor_parallel\": {\"autotp_size\": 2}}", 7, 6); /* 3 x 2 */
  allows("{\"train_batch_size\": 24}", 4, 0);
  allows("{\"train_batch_size\": 24, \"elasticity\": {\"enabled\": false}}", 4, 0);
  CHECK_FAILS(ds_config_elastic_ranks("{" ELASTIC ", \"min_gpus\": 3}}", 2, &ranks, &err),
              DS_ERR_INVALID, err, "no valid number of ranks is as small as 2");
  CHECK_FAILS(ds_config_elastic_ranks("{" ELASTIC ", \"max_gpu\": 5}}", 2, &ranks, &err),
              DS_ERR_INVALID, err, "did you mean \"max_gpus\"");
  CHECK_FAILS(ds_config_elastic_ranks("nowhere.json", 2, &ranks, &err), DS_ERR_NOT_FOUND, err,
              "nowhere.json");
  return TEST_RESULT();
}
