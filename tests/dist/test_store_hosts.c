/* test_store_hosts.c - one rank's end of the key-value store, on a host of its own.
 *
 * usage: test_store_hosts RANK SIZE HOST PORT     (port 0: any of the job's)
 */
#include "parallel/store.h"

#include "unit/test.h"

#include <stdlib.h>

enum { LIMIT_MS = 30000 };

int main(int argc, char **argv) {
  ds_error err;
  ds_store *s = NULL;
  char key[32], value[64], want[64];
  if (argc != 5) return 2;
  const int rank = atoi(argv[1]), size = atoi(argv[2]);
  const ds_store_args a = {.rank = rank,
                           .size = size,
                           .host = argv[3],
                           .port = atoi(argv[4]),
                           .job = "test_store_hosts",
                           .timeout_ms = LIMIT_MS,
                           .spread = true};
  CHECK_OK(ds_store_create(&a, &s, &err), err);
  if (!s) return 1;
  const ds_kv_store *kv = ds_store_kv(s);
  for (int round = 0; round < 3; round++) {
    snprintf(key, sizeof key, "%d/%d", round, rank);
    snprintf(value, sizeof value, "round %d of rank %d", round, rank);
    CHECK_OK(kv->set(kv->ctx, key, value, strlen(value) + 1, &err), err);
    for (int i = 0; i < size; i++) {
      size_t bytes = sizeof value;
      snprintf(key, sizeof key, "%d/%d", round, i);
      snprintf(want, sizeof want, "round %d of rank %d", round, i);
      CHECK_OK(kv->get(kv->ctx, key, value, &bytes, LIMIT_MS, &err), err);
      CHECK(strcmp(value, want) == 0);
    }
  }
  ds_store_destroy(s);
  return test_result();
}
