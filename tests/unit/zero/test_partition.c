#include "zero/partition.h"

#include "test.h"

static void test_shards(void) {
  CHECK(ds_partition_padded(0, 4, 64) == 0);
  CHECK(ds_partition_padded(1, 4, 64) == 256);
  CHECK(ds_partition_padded(256, 4, 64) == 256);
  CHECK(ds_partition_padded(257, 4, 64) == 512);
  CHECK(ds_partition_padded(100, 1, 1) == 100);
  CHECK(ds_partition_padded(INT64_MAX - 3, 1, 64) == -1);
  CHECK(ds_partition_padded(1, INT32_MAX, INT64_MAX / 2) == -1);
  for (int shards = 1; shards <= 7; shards++)
    for (int64_t n = 1; n < 2000; n += 131) {
      int64_t padded = ds_partition_padded(n, shards, 64), at = 0;
      CHECK(padded >= n && padded < n + 64 * shards && padded % (64 * shards) == 0);
      for (int r = 0; r < shards; r++) { /* equal, aligned, without holes */
        ds_range s = ds_partition_shard(padded, shards, r);
        CHECK(s.begin == at && s.end - s.begin == padded / shards && s.begin % 64 == 0);
        at = s.end;
      }
      CHECK(at == padded);
    }
}

static void test_intersect(void) {
  static const struct {
    ds_range a, b, want;
  } rows[] = {{{0, 10}, {5, 20}, {5, 10}}, {{5, 20}, {0, 10}, {5, 10}}, {{0, 10}, {2, 3}, {2, 3}},
              {{0, 5}, {5, 9}, {5, 5}},    {{0, 3}, {7, 9}, {7, 7}},    {{4, 4}, {0, 9}, {4, 4}}};
  for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
    ds_range r = ds_partition_intersect(rows[i].a, rows[i].b);
    CHECK(r.begin == rows[i].want.begin && r.end == rows[i].want.end);
  }
}

int main(void) {
  test_shards();
  test_intersect();
  return TEST_RESULT();
}
