#include "test.h"

#include "data/dataloader.h"
#include "data/dataset.h"

#include <stdlib.h>

/* Samples are their own number, i32 [1]; map-style, or a stream of `count`. The memory of a sample
 * is used again for the next one. */
typedef struct numbers {
  int64_t count, at;
  int32_t value;
} numbers;

static int64_t numbers_length(void *self) {
  return ((numbers *)self)->count;
}

static ds_status numbers_get(void *self, int64_t index, ds_batch *sample, ds_error *err) {
  (void)err;
  numbers *d = self;
  d->value = (int32_t)index;
  *sample = (ds_batch){.n = 1, .tensors = {{DS_I32, 1, {1}, &d->value}}};
  return DS_OK;
}

static ds_status numbers_next(void *self, ds_batch *sample, ds_error *err) {
  numbers *d = self;
  return d->at >= d->count ? DS_ERR_END : numbers_get(self, d->at++, sample, err);
}

static ds_status numbers_rewind(void *self, ds_error *err) {
  (void)err;
  ((numbers *)self)->at = 0;
  return DS_OK;
}

static ds_dataset *make_numbers(numbers *n, bool stream) {
  ds_dataset_vtable vtable = {.size = sizeof vtable};
  if (stream) {
    vtable.next = numbers_next;
    vtable.rewind = numbers_rewind;
  } else {
    vtable.length = numbers_length;
    vtable.get = numbers_get;
  }
  ds_error err;
  ds_dataset *d;
  CHECK_OK(ds_dataset_create(&vtable, n, &d, &err), err);
  return d;
}

static ds_dataloader *make(ds_dataset *d, int64_t micro_batch, int rank, int world_size,
                           bool shuffle, bool drop_last) {
  ds_dataloader_options o = {.dataset = d,
                             .micro_batch = micro_batch,
                             .rank = rank,
                             .world_size = world_size,
                             .seed = 42,
                             .shuffle = shuffle,
                             .drop_last = drop_last};
  ds_error err;
  ds_dataloader *l;
  CHECK_OK(ds_dataloader_create(&o, &l, &err), err);
  return l;
}

/* The next batch's numbers; how many. */
static int next(ds_dataloader *l, int32_t *out) {
  ds_error err;
  ds_batch batch;
  CHECK_OK(ds_dataloader_next(l, &batch, &err), err);
  if (batch.n != 1) return 0;
  const ds_host_tensor *t = &batch.tensors[0];
  CHECK(t->rank == 2 && t->shape[1] == 1 && t->dtype == DS_I32);
  memcpy(out, t->data, (size_t)t->shape[0] * sizeof *out);
  return (int)t->shape[0];
}

static void expect(ds_dataloader *l, int n, const int32_t *want) {
  int32_t got[64];
  CHECK(next(l, got) == n && memcmp(got, want, (size_t)n * sizeof *got) == 0);
}
#define EXPECT(l, ...)                                                                             \
  do {                                                                                             \
    const int32_t want_[] = {__VA_ARGS__};                                                         \
    expect(l, (int)(sizeof want_ / sizeof *want_), want_);                                         \
  } while (0)

static void test_last_batch(void) {
  numbers n = {.count = 7};
  ds_dataset *d = make_numbers(&n, false);
  ds_dataloader *l = make(d, 3, 0, 1, false, false);
  CHECK(ds_dataloader_length(l) == 3);
  EXPECT(l, 0, 1, 2);
  EXPECT(l, 3, 4, 5);
  EXPECT(l, 6);
  CHECK(ds_dataloader_epoch(l) == 0);
  EXPECT(l, 0, 1, 2);
  CHECK(ds_dataloader_epoch(l) == 1);
  ds_dataloader_destroy(l);
  l = make(d, 3, 0, 1, false, true);
  CHECK(ds_dataloader_length(l) == 2);
  EXPECT(l, 0, 1, 2);
  EXPECT(l, 3, 4, 5);
  EXPECT(l, 0, 1, 2);
  ds_dataloader_destroy(l);
  ds_dataset_destroy(d);
}

static void test_ranks(void) {
  numbers n = {.count = 7};
  ds_dataset *d = make_numbers(&n, false);
  ds_dataloader *l = make(d, 2, 1, 3, false, false); /* 1 4 | 7 = 0 again */
  CHECK(ds_dataloader_length(l) == 2);
  EXPECT(l, 1, 4);
  EXPECT(l, 0);
  EXPECT(l, 1, 4);
  ds_dataloader_destroy(l);
  l = make(d, 2, 2, 3, false, true); /* 2 5 | 8 isn't there */
  CHECK(ds_dataloader_length(l) == 1);
  EXPECT(l, 2, 5);
  EXPECT(l, 2, 5);
  CHECK(ds_dataloader_epoch(l) == 1);
  ds_dataloader_destroy(l);
  n.count = 2;
  l = make(d, 1, 4, 5, false, false); /* more ranks than samples */
  EXPECT(l, 0);
  ds_dataloader_destroy(l);
  ds_dataset_destroy(d);
}

/* An epoch, over all ranks, has every sample once; another epoch another order. */
static void test_shuffle(void) {
  enum { N = 60, W = 3 };
  numbers n = {.count = N};
  ds_dataset *d = make_numbers(&n, false);
  ds_dataloader *ranks[W];
  int32_t order[2][N];
  for (int r = 0; r < W; r++) ranks[r] = make(d, 4, r, W, true, false);
  for (int epoch = 0; epoch < 2; epoch++) {
    int seen[N] = {0}, have = 0;
    for (int64_t b = 0; b < ds_dataloader_length(ranks[0]); b++)
      for (int r = 0; r < W; r++) have += next(ranks[r], order[epoch] + have);
    CHECK(have == N);
    for (int i = 0; i < have; i++) seen[order[epoch][i]]++;
    for (int i = 0; i < N; i++) CHECK(seen[i] == 1);
  }
  CHECK(memcmp(order[0], order[1], sizeof order[0]) != 0);
  for (int r = 0; r < W; r++) ds_dataloader_destroy(ranks[r]);
  ds_dataset_destroy(d);
}

/* Going on from any place gives what would have come. */
static void check_resume(bool stream, bool shuffle, bool drop_last) {
  enum { STEPS = 30 };
  numbers na = {.count = 23}, nb = {.count = 23};
  ds_dataset *da = make_numbers(&na, stream), *db = make_numbers(&nb, stream);
  for (int stop = 0; stop < STEPS; stop++) {
    ds_dataloader *a = make(da, 3, 1, 2, shuffle, drop_last);
    ds_dataloader *b = make(db, 3, 1, 2, shuffle, drop_last);
    int32_t x[8], y[8];
    for (int i = 0; i < stop; i++) next(a, x);
    ds_dataloader_state state, again;
    ds_error err;
    ds_dataloader_get_state(a, &state);
    CHECK_OK(ds_dataloader_set_state(b, &state, &err), err);
    ds_dataloader_get_state(b, &again);
    CHECK(state.epoch == again.epoch && state.consumed == again.consumed);
    for (int i = stop; i < STEPS; i++) {
      int n = next(a, x);
      CHECK(next(b, y) == n && memcmp(x, y, (size_t)n * sizeof *x) == 0);
    }
    CHECK(ds_dataloader_epoch(a) == ds_dataloader_epoch(b));
    ds_dataloader_destroy(a);
    ds_dataloader_destroy(b);
  }
  ds_dataset_destroy(da);
  ds_dataset_destroy(db);
}

/* A checkpoint of two ranks goes on with three, and with another seed in the new config. */
static void test_other_world(void) {
  enum { N = 30 };
  numbers n = {.count = N};
  ds_dataset *d = make_numbers(&n, false);
  int seen[N] = {0};
  int32_t got[8];
  ds_dataloader_state state = {0};
  for (int r = 0; r < 2; r++) {
    ds_dataloader *l = make(d, 3, r, 2, true, false);
    for (int i = 0; i < 2; i++)
      for (int k = next(l, got); k-- > 0;) seen[got[k]]++;
    ds_dataloader_get_state(l, &state);
    ds_dataloader_destroy(l);
  }
  CHECK(state.consumed == 12);
  for (int r = 0; r < 3; r++) {
    ds_dataloader_options o = {
        .dataset = d, .micro_batch = 2, .rank = r, .world_size = 3, .seed = 1, .shuffle = true};
    ds_dataloader *l;
    ds_error err;
    CHECK_OK(ds_dataloader_create(&o, &l, &err), err);
    CHECK_OK(ds_dataloader_set_state(l, &state, &err), err);
    for (int i = 0; i < 3; i++)
      for (int k = next(l, got); k-- > 0;) seen[got[k]]++;
    CHECK(ds_dataloader_epoch(l) == 0);
    ds_dataloader_destroy(l);
  }
  for (int i = 0; i < N; i++) CHECK(seen[i] == 1);
  ds_dataset_destroy(d);
}

static void test_stream(void) {
  numbers n = {.count = 8};
  ds_dataset *d = make_numbers(&n, true);
  ds_dataloader *l = make(d, 2, 1, 3, true, false); /* 1 4 | 7 has no company: dropped */
  CHECK(ds_dataloader_length(l) == -1);
  EXPECT(l, 1, 4);
  EXPECT(l, 1, 4);
  CHECK(ds_dataloader_epoch(l) == 1);
  ds_dataloader_destroy(l);
  l = make(d, 3, 0, 1, false, false);
  EXPECT(l, 0, 1, 2);
  EXPECT(l, 3, 4, 5);
  EXPECT(l, 6, 7);
  EXPECT(l, 0, 1, 2);
  ds_dataloader_state state = {.epoch = 0, .consumed = 9, .length = -1};
  ds_error err;
  CHECK_FAILS(ds_dataloader_set_state(l, &state, &err), DS_ERR_INVALID, err, "ends at 8");
  EXPECT(l, 3, 4, 5); /* as if nothing had happened */
  n.count = 0;
  ds_batch batch;
  CHECK_FAILS(ds_dataloader_next(l, &batch, &err), DS_ERR_INVALID, err, "before the first batch");
  ds_dataloader_destroy(l);
  ds_dataset_destroy(d);
}

/* ds_collate_fn: the sum of the samples, to ctx. */
static ds_status sum(void *ctx, const ds_batch *samples, int n, ds_batch *batch, ds_error *err) {
  (void)err;
  int32_t *total = ctx;
  *total = 0;
  for (int i = 0; i < n; i++) *total += *(const int32_t *)samples[i].tensors[0].data;
  *batch = (ds_batch){.n = 1, .tensors = {{DS_I32, 0, {0}, total}}};
  return DS_OK;
}

static void test_collate(void) {
  numbers n = {.count = 5};
  int32_t total;
  ds_dataloader_options o = {.dataset = make_numbers(&n, false),
                             .collate = sum,
                             .collate_ctx = &total,
                             .micro_batch = 5,
                             .world_size = 1};
  ds_error err;
  ds_batch batch;
  ds_dataloader *l;
  CHECK_OK(ds_dataloader_create(&o, &l, &err), err);
  CHECK_OK(ds_dataloader_next(l, &batch, &err), err);
  CHECK(total == 10 && batch.tensors[0].data == &total);
  ds_dataloader_destroy(l);
  ds_dataset_destroy(o.dataset);
}

static ds_status uneven(void *self, int64_t index, ds_batch *sample, ds_error *err) {
  (void)err;
  *sample = (ds_batch){.n = 1, .tensors = {{DS_F32, 1, {index + 1}, self}}};
  return DS_OK;
}

static int64_t two(void *self) {
  (void)self;
  return 2;
}

static void test_errors(void) {
  numbers n = {.count = 5};
  ds_dataset *d = make_numbers(&n, false);
  ds_dataloader *l;
  ds_error err;
  ds_dataloader_options o = {.dataset = d, .micro_batch = 0, .world_size = 1};
  CHECK_FAILS(ds_dataloader_create(&o, &l, &err), DS_ERR_INVALID, err, "not 0");
  o.micro_batch = 6;
  o.world_size = 0;
  CHECK_FAILS(ds_dataloader_create(&o, &l, &err), DS_ERR_INVALID, err, "world of 0");
  o.world_size = 1;
  o.drop_last = true;
  CHECK_FAILS(ds_dataloader_create(&o, &l, &err), DS_ERR_INVALID, err,
              "5 samples don't make one micro batch of 6 on 1 ranks");
  CHECK(strstr(err.message, "dataloader_drop_last") && l == NULL);
  o.drop_last = false;
  CHECK_OK(ds_dataloader_create(&o, &l, &err), err);
  ds_dataloader_state state = {.length = 6};
  CHECK_FAILS(ds_dataloader_set_state(l, &state, &err), DS_ERR_INVALID, err,
              "6 samples, this one has 5");
  state = (ds_dataloader_state){.length = 5, .consumed = -1};
  CHECK_FAILS(ds_dataloader_set_state(l, &state, &err), DS_ERR_FORMAT, err, "sample -1");
  EXPECT(l, 0, 1, 2, 3, 4);
  ds_dataloader_destroy(l);
  ds_dataset_destroy(d);
  ds_dataloader_destroy(NULL);

  float data[2] = {1, 2};
  ds_dataset_vtable vtable = {.size = sizeof vtable, .length = two, .get = uneven};
  CHECK_OK(ds_dataset_create(&vtable, data, &d, &err), err);
  l = make(d, 2, 0, 1, false, false);
  ds_batch batch;
  CHECK_FAILS(ds_dataloader_next(l, &batch, &err), DS_ERR_INVALID, err,
              "another dtype or shape in sample 1");
  ds_dataloader_destroy(l);
  ds_dataset_destroy(d);
}

int main(void) {
  test_last_batch();
  test_ranks();
  test_shuffle();
  for (int i = 0; i < 8; i++) check_resume(i & 1, i & 2, i & 4);
  test_other_world();
  test_stream();
  test_collate();
  test_errors();
  return TEST_RESULT();
}
