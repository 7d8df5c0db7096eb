/* test_comm.c - a plugin's collectives against arithmetic.
 *
 * usage: [mpirun -n N] test_comm PLUGIN.so N [messages]
 * Every rank knows what every other one sends, so each checks all that it gets. The values are
 * small whole numbers, and sums of them are exact in every type.
 */
#include "ranks.h"

static ds_stream *stream;

#define SYNC() CHECK_OK(device->stream_sync(stream, &err), err)

/* The first REDUCED can be added up, all can be moved. */
static const int32_t types[] = {DS_F32, DS_BF16, DS_F16, DS_F64,    DS_I32,
                                DS_I64, DS_I8,   DS_U8,  DS_F8E4M3, DS_F8E5M2};
enum { REDUCED = 7, MOVED = sizeof types / sizeof *types, MANY = (1 << 20) + 4099 };

static size_t width(int32_t dtype) {
  switch (dtype) {
    case DS_F64:
    case DS_I64: return 8;
    case DS_F32:
    case DS_I32: return 4;
    case DS_BF16:
    case DS_F16: return 2;
    default: return 1;
  }
}

static double value(int rank, int64_t i) {
  return (double)((i * 7 + rank * 3) % 11 - 4);
}

static void put(void *p, int32_t dtype, int64_t i, double x) {
  union {
    float f;
    uint32_t u;
  } bits = {.f = (float)x};
  switch (dtype) {
    case DS_F32: ((float *)p)[i] = (float)x; break;
    case DS_F64: ((double *)p)[i] = x; break;
    case DS_I32: ((int32_t *)p)[i] = (int32_t)x; break;
    case DS_I64: ((int64_t *)p)[i] = (int64_t)x; break;
    case DS_BF16: ((uint16_t *)p)[i] = (uint16_t)(bits.u >> 16); break;
    case DS_F16: ((_Float16 *)p)[i] = (_Float16)x; break;
    case DS_I8: ((int8_t *)p)[i] = (int8_t)x; break;
    default: ((uint8_t *)p)[i] = (uint8_t)(int)x;
  }
}

/* What dtype makes of x, by way of f32 where it is shorter. */
static double as(int32_t dtype, double x) {
  union {
    float f;
    uint32_t u;
  } bits = {.f = (float)x};
  switch (dtype) {
    case DS_F32: return bits.f;
    case DS_F16: return (double)(_Float16)bits.f;
    case DS_BF16: bits.u = (bits.u + 0x7fff + (bits.u >> 16 & 1)) & 0xffff0000u; return bits.f;
    case DS_I8:
    case DS_I32:
    case DS_I64: return trunc(x);
    case DS_U8:
    case DS_F8E4M3:
    case DS_F8E5M2: return (uint8_t)(int)x;
    default: return x;
  }
}

static double get(const void *p, int32_t dtype, int64_t i) {
  union {
    uint32_t u;
    float f;
  } bits;
  switch (dtype) {
    case DS_F32: return ((const float *)p)[i];
    case DS_F64: return ((const double *)p)[i];
    case DS_I32: return ((const int32_t *)p)[i];
    case DS_I64: return (double)((const int64_t *)p)[i];
    case DS_BF16: bits.u = (uint32_t)((const uint16_t *)p)[i] << 16; return bits.f;
    case DS_F16: return (double)((const _Float16 *)p)[i];
    case DS_I8: return ((const int8_t *)p)[i];
    default: return ((const uint8_t *)p)[i];
  }
}

static void *room(int32_t dtype, int64_t n) {
  void *p = NULL;
  CHECK_OK(device->alloc(dev, width(dtype) * (size_t)(n > 0 ? n : 1), &p, &err), err);
  if (p == NULL) exit(1);
  for (int64_t i = 0; i < n; i++) put(p, dtype, i, 99);
  return p;
}

/* A communicator and who is in it: member i has the world rank `of[i]`. */
typedef struct group {
  ds_comm *comm;
  int32_t of[64], size, own;
} group;

static double combined(const group *g, ds_reduce op, int64_t i) {
  double r = value(g->of[0], i);
  for (int32_t k = 1; k < g->size; k++) {
    double x = value(g->of[k], i);
    r = op == DS_REDUCE_MAX ? fmax(r, x) : op == DS_REDUCE_MIN ? fmin(r, x) : r + x;
  }
  return op == DS_REDUCE_MEAN ? r / g->size : r;
}

static void fill(void *p, int32_t dtype, int rank, int64_t n) {
  for (int64_t i = 0; i < n; i++) put(p, dtype, i, value(rank, i));
}

static void test_allreduce(const group *g, int64_t n, int32_t dtype, ds_reduce op, int in_place) {
  void *send = room(dtype, n), *recv = in_place ? send : room(dtype, n);
  fill(send, dtype, g->of[g->own], n);
  CHECK_OK(table->allreduce(g->comm, stream, send, recv, n, dtype, op, &err), err);
  SYNC();
  int64_t wrong = 0;
  for (int64_t i = 0; i < n; i++) wrong += get(recv, dtype, i) != as(dtype, combined(g, op, i));
  CHECK(wrong == 0);
  for (int64_t i = 0; i < n && !in_place; i++)
    wrong += get(send, dtype, i) != value(g->of[g->own], i);
  CHECK(wrong == 0);
  device->free(dev, send);
  if (!in_place) device->free(dev, recv);
}

/* In place, recv is the caller's own part of send. */
static void test_reduce_scatter(const group *g, int64_t n, int32_t dtype, ds_reduce op,
                                int in_place) {
  void *send = room(dtype, n * g->size), *recv = room(dtype, n), *room_of_recv = recv;
  if (in_place) recv = (char *)send + width(dtype) * (size_t)(g->own * n);
  fill(send, dtype, g->of[g->own], n * g->size);
  CHECK_OK(table->reduce_scatter(g->comm, stream, send, recv, n, dtype, op, &err), err);
  SYNC();
  int64_t wrong = 0;
  for (int64_t i = 0; i < n; i++)
    wrong += get(recv, dtype, i) != as(dtype, combined(g, op, g->own * n + i));
  CHECK(wrong == 0);
  device->free(dev, send);
  device->free(dev, room_of_recv);
}

/* In place, send is the caller's own part of recv. */
static void test_allgather(const group *g, int64_t n, int32_t dtype, int in_place) {
  void *send = room(dtype, n), *recv = room(dtype, n * g->size), *room_of_send = send;
  if (in_place) send = (char *)recv + width(dtype) * (size_t)(g->own * n);
  fill(send, dtype, g->of[g->own], n);
  CHECK_OK(table->allgather(g->comm, stream, send, recv, n, dtype, &err), err);
  SYNC();
  int64_t wrong = 0;
  for (int64_t i = 0; i < n * g->size; i++)
    wrong += get(recv, dtype, i) != as(dtype, value(g->of[i / n], i % n));
  CHECK(wrong == 0);
  device->free(dev, room_of_send);
  device->free(dev, recv);
}

static void test_alltoall(const group *g, int64_t n, int32_t dtype) {
  void *send = room(dtype, n * g->size), *recv = room(dtype, n * g->size);
  fill(send, dtype, g->of[g->own], n * g->size);
  CHECK_OK(table->alltoall(g->comm, stream, send, recv, n, dtype, &err), err);
  SYNC();
  int64_t wrong = 0;
  for (int64_t i = 0; i < n * g->size; i++)
    wrong += get(recv, dtype, i) != as(dtype, value(g->of[i / n], g->own * n + i % n));
  CHECK(wrong == 0);
  device->free(dev, send);
  device->free(dev, recv);
}

static void test_broadcast(const group *g, int64_t n, int32_t dtype) {
  void *p = room(dtype, n);
  for (int32_t root = 0; root < g->size; root++) {
    fill(p, dtype, g->of[g->own], n);
    CHECK_OK(table->broadcast(g->comm, stream, p, n, dtype, root, &err), err);
    SYNC();
    int64_t wrong = 0;
    for (int64_t i = 0; i < n; i++) wrong += get(p, dtype, i) != as(dtype, value(g->of[root], i));
    CHECK(wrong == 0);
  }
  device->free(dev, p);
}

/* From the first rank to the last. */
static void test_send(const group *g, int64_t n, int32_t dtype) {
  if (g->size == 1) return;
  void *p = room(dtype, n);
  if (g->own == 0) {
    fill(p, dtype, g->of[0], n);
    CHECK_OK(table->send(g->comm, stream, p, n, dtype, g->size - 1, &err), err);
    SYNC();
  } else if (g->own == g->size - 1) {
    CHECK_OK(table->recv(g->comm, stream, p, n, dtype, 0, &err), err);
    SYNC();
    int64_t wrong = 0;
    for (int64_t i = 0; i < n; i++) wrong += get(p, dtype, i) != as(dtype, value(g->of[0], i));
    CHECK(wrong == 0);
  }
  device->free(dev, p);
}

static void test_all(const group *g) {
  static const int64_t counts[] = {0, 1, 1000, MANY};
  for (int c = 0; c < 4; c++) {
    for (int t = 0; t < REDUCED; t++)
      for (int op = DS_REDUCE_SUM; op <= DS_REDUCE_MIN; op++) {
        if (counts[c] == MANY && (op != DS_REDUCE_MEAN || t > 1)) continue;
        test_allreduce(g, counts[c], types[t], op, op % 2);
        test_reduce_scatter(g, counts[c], types[t], op, op / 2 % 2);
      }
    for (int t = 0; t < MOVED; t++) {
      if (counts[c] == MANY && types[t] != DS_BF16) continue;
      test_allgather(g, counts[c], types[t], t % 2);
      test_alltoall(g, counts[c], types[t]);
      test_broadcast(g, counts[c], types[t]);
      test_send(g, counts[c], types[t]);
    }
  }
  CHECK_OK(table->barrier(g->comm, stream, &err), err);
}

/* What rounding would lose if it were done at each step: 2^k and as many ones as there are others,
 * where k is the first at which an odd number has no place in the type. */
static void test_rounded_once(const group *g) {
  enum { N = 700 };
  for (int t = 1; t <= 2; t++) {
    int32_t dtype = types[t];
    double big = dtype == DS_BF16 ? 256 : 2048, sum = big + g->size - 1;
    /* To the nearest multiple of 2, halves to that of 4. */
    double expected = fmod(sum, 2) == 0 ? sum : fmod(sum, 4) == 1 ? sum - 1 : sum + 1;
    void *x = room(dtype, N);
    for (int64_t i = 0; i < N; i++) put(x, dtype, i, i % g->size == g->own ? big : 1);
    CHECK_OK(table->allreduce(g->comm, stream, x, x, N, dtype, DS_REDUCE_SUM, &err), err);
    SYNC();
    int64_t wrong = 0;
    for (int64_t i = 0; i < N; i++) wrong += get(x, dtype, i) != expected;
    CHECK(wrong == 0);
    device->free(dev, x);
  }
  int8_t *b = room(DS_I8, N);
  memset(b, 100, N);
  CHECK_OK(table->allreduce(g->comm, stream, b, b, N, DS_I8, DS_REDUCE_SUM, &err), err);
  SYNC();
  CHECK(b[0] == (int8_t)(uint8_t)(100 * g->size) && b[N - 1] == b[0]);
  device->free(dev, b);
}

/* NaN is not lost in a largest or smallest value. */
static void test_nan(const group *g) {
  for (int op = DS_REDUCE_SUM; op <= DS_REDUCE_MIN; op++) {
    float *x = room(DS_F32, g->size);
    for (int i = 0; i < g->size; i++) x[i] = i == g->own ? NAN : 1.0f;
    CHECK_OK(table->allreduce(g->comm, stream, x, x, g->size, DS_F32, op, &err), err);
    SYNC();
    for (int i = 0; i < g->size; i++) CHECK(isnan(x[i]));
    device->free(dev, x);
  }
}

static float noise(int rank, int64_t i) {
  uint64_t h = ((uint64_t)rank << 40) + (uint64_t)i * 0x9e3779b97f4a7c15u;
  h = (h ^ h >> 29) * 0xbf58476d1ce4e5b9u;
  return (float)(int64_t)(h >> 20) * 1e-9f;
}

/* comm.h's order, said in another way: the members from `first` on that stand below one knot of the
 * tree, `leaves` a power of two. */
static float tree(const group *g, int first, int leaves, int pairs, int64_t i) {
  if (leaves > 1)
    return tree(g, first, leaves / 2, pairs, i) + tree(g, first + leaves / 2, leaves / 2, pairs, i);
  if (first >= pairs) return noise(g->of[first + pairs], i);
  return noise(g->of[2 * first], i) + noise(g->of[2 * first + 1], i);
}

static float sum_of(const group *g, int64_t i) {
  int leaves = 1;
  while (leaves * 2 <= g->size) leaves *= 2;
  return tree(g, 0, leaves, g->size - leaves, i);
}

/* Sums have one order, whatever the count, the place, the buffers and the collective: to the bit. */
static void test_order(const group *g) {
  static const int64_t counts[] = {3, 1000, 100003};
  for (int c = 0; c < 3; c++) {
    int64_t n = counts[c], all = n * g->size;
    float *x = room(DS_F32, all), *a = room(DS_F32, all), *part = room(DS_F32, n);
    for (int turn = 0; turn < 2; turn++) {
      for (int64_t i = 0; i < all; i++) x[i] = a[i] = noise(g->of[g->own], i);
      CHECK_OK(
          table->allreduce(g->comm, stream, turn == 0 ? x : a, a, all, DS_F32, DS_REDUCE_SUM, &err),
          err);
      CHECK_OK(table->reduce_scatter(g->comm, stream, x, part, n, DS_F32, DS_REDUCE_SUM, &err),
               err);
      SYNC();
      int64_t wrong = 0;
      for (int64_t i = 0; i < all; i++) {
        float sum = sum_of(g, i);
        wrong += memcmp(&sum, &a[i], sizeof sum) != 0;
      }
      CHECK(wrong == 0);
      CHECK(memcmp(part, a + g->own * n, (size_t)n * sizeof *a) == 0);
    }
    device->free(dev, x);
    device->free(dev, a);
    device->free(dev, part);
  }
}

static void test_refusals(const group *g) {
  float x[64] = {0};
  ds_comm *none = NULL;
  CHECK_FAILS(table->allreduce(g->comm, stream, x, x, 1, DS_F32, 9, &err), DS_ERR_UNSUPPORTED, err,
              "unknown reduction 9");
  CHECK_FAILS(table->allreduce(g->comm, stream, x, x, 1, DS_U8, DS_REDUCE_SUM, &err),
              DS_ERR_UNSUPPORTED, err, "u8");
  CHECK_FAILS(table->allgather(g->comm, stream, x, x, 2, DS_I4, &err), DS_ERR_UNSUPPORTED, err,
              "i4");
  CHECK_FAILS(table->split(g->comm, -2, 0, &none, &err), DS_ERR_INVALID, err, "-2");
  CHECK_FAILS(table->broadcast(g->comm, stream, x, 1, DS_F32, g->size, &err), DS_ERR_INVALID, err,
              "no rank");
  CHECK_FAILS(table->broadcast(g->comm, stream, x, -1, DS_F32, 0, &err), DS_ERR_INVALID, err, "-1");
  CHECK_FAILS(table->send(g->comm, stream, x, 1, DS_F32, g->own, &err), DS_ERR_INVALID, err,
              "the caller itself");
}

/* Ranks that share memory tell each other what they call, so a difference is told at once. */
static void test_different_calls(const ds_comm_world *w) {
  int32_t ranks[64];
  ds_comm *c = NULL;
  ds_stream *s = NULL;
  static float x[6000];
  for (int r = 0; r < w->world_size; r++) ranks[r] = r;
  for (int turn = 0; turn < 3; turn++) {
    int64_t n = turn == 1 ? 20 : 10;
    CHECK_OK(table->create(dev, ranks, w->world_size, NULL, 60000, &c, &err), err);
    CHECK_OK(device->stream_create(dev, &s, &err), err);
    ds_status st;
    if (w->rank == 0)
      st = table->allreduce(c, s, x, x, turn == 2 ? 6000 : 10, DS_F32, DS_REDUCE_SUM, &err);
    else if (turn == 0)
      st = table->allgather(c, s, x, x + 1000, n, DS_F32, &err);
    else
      st = table->allreduce(c, s, x, x, n, DS_F32, DS_REDUCE_SUM, &err);
    if (st == DS_OK) st = device->stream_sync(s, &err);
    /* With more ranks one may hear first that another gave up. */
    CHECK(st == DS_ERR_INVALID || (w->world_size > 2 && st == DS_ERR_TIMEOUT));
    CHECK(w->world_size > 2 || strstr(err.message, "same calls") != NULL);
    CHECK(w->world_size > 2 || strstr(err.message, "allreduce of 10 f32") != NULL || turn == 2);
    table->destroy(c);
    device->stream_destroy(s);
  }
}

static void test_bad_groups(const ds_comm_world *w) {
  ds_comm *c = NULL;
  const int32_t beyond[] = {w->rank, w->world_size}, twice[] = {w->rank, w->rank};
  CHECK_FAILS(table->create(dev, beyond, 2, NULL, 1000, &c, &err), DS_ERR_INVALID, err, "mpirun");
  CHECK_FAILS(table->create(dev, twice, 2, NULL, 1000, &c, &err), DS_ERR_INVALID, err, "twice");
  CHECK_FAILS(table->create(dev, NULL, 0, NULL, 1000, &c, &err), DS_ERR_INVALID, err, "list");
  if (w->world_size > 1) {
    const int32_t other[] = {(w->rank + 1) % w->world_size};
    CHECK_FAILS(table->create(dev, other, 1, NULL, 1000, &c, &err), DS_ERR_INVALID, err,
                "isn't in");
  }
}

static void test_group(group *g) {
  int32_t rank = -1, size = -1;
  CHECK_OK(table->rank(g->comm, &rank, &size, &err), err);
  CHECK(rank == g->own && size == g->size);
  test_all(g);
  test_rounded_once(g);
  test_nan(g);
  test_order(g);
  test_refusals(g);
}

/* The group of every `step`-th rank from the caller's own place on, the highest first: as a list,
 * or by color with keys that count down. */
static void test_step(const ds_comm_world *w, ds_comm *world, int step) {
  group g = {.size = 0};
  for (int r = w->world_size - 1; r >= 0; r--)
    if (r % step == w->rank % step) {
      if (r == w->rank) g.own = g.size;
      g.of[g.size++] = r;
    }
  if (world != NULL)
    CHECK_OK(table->split(world, w->rank % step, -w->rank, &g.comm, &err), err);
  else
    CHECK_OK(table->create(dev, g.of, g.size, NULL, 60000, &g.comm, &err), err);
  if (g.comm == NULL) return;
  test_group(&g);
  table->destroy(g.comm);
}

/* Equal keys keep the order of ranks; -1 is nowhere; parts outlive the whole and work side by side.
 */
static void test_split(const ds_comm_world *w, ds_comm *world) {
  ds_comm *same = NULL, *some = (ds_comm *)&err, *parts[2] = {NULL, NULL};
  int32_t rank = -1, size = -1;
  CHECK_OK(table->split(world, 7, 5, &same, &err), err);
  CHECK_OK(table->rank(same, &rank, &size, &err), err);
  CHECK(rank == w->rank && size == w->world_size);
  CHECK_OK(table->split(same, w->rank == 0 ? -1 : 0, 0, &some, &err), err);
  CHECK((some == NULL) == (w->rank == 0));
  if (some != NULL) {
    CHECK_OK(table->rank(some, &rank, &size, &err), err);
    CHECK(rank == w->rank - 1 && size == w->world_size - 1);
  }
  for (int i = 0; i < 2; i++)
    CHECK_OK(table->split(same, (w->rank >> i) & 1, 0, &parts[i], &err), err);
  table->destroy(same);
  for (int turn = 0; turn < 50; turn++)
    for (int i = 0; i < 2; i++) {
      float x = (float)w->rank, expected = 0;
      for (int r = 0; r < w->world_size; r++)
        if (((r ^ w->rank) >> i & 1) == 0) expected += (float)r;
      CHECK_OK(table->allreduce(parts[i], stream, &x, &x, 1, DS_F32, DS_REDUCE_SUM, &err), err);
      SYNC();
      CHECK(x == expected);
    }
  for (int i = 0; i < 2; i++) table->destroy(parts[i]);
  table->destroy(some);
}

static void test_all_groups(const ds_comm_world *w) {
  int32_t ranks[64];
  ds_comm *world = NULL;
  for (int r = 0; r < w->world_size; r++) ranks[r] = r;
  test_step(w, NULL, 1);
  test_step(w, NULL, 2);
  CHECK_OK(table->create(dev, ranks, w->world_size, NULL, 60000, &world, &err), err);
  if (world == NULL) return;
  test_step(w, world, 2);
  test_split(w, world);
  table->destroy(world);
}

int main(int argc, char **argv) {
  if (argc < 3) {
    fprintf(stderr, "usage: test_comm PLUGIN.so WORLD_SIZE [messages]\n");
    return 2;
  }
  if (!open_plugin(argv[1], 0, options_of(argc, argv, 3))) return 2;
  CHECK_OK(device->stream_create(dev, &stream, &err), err);
  ds_comm_world w = {.size = sizeof w};
  CHECK_OK(table->world(&w, &err), err);
  CHECK(w.world_size == atoi(argv[2]) && w.rank >= 0 && w.rank < w.world_size);
  CHECK(w.local_size == w.world_size && w.local_rank == w.rank);
  test_bad_groups(&w);
  test_all_groups(&w);
  if (argc == 3 && w.world_size > 1) test_different_calls(&w);
  table->destroy(NULL);
  device->stream_destroy(stream);
  device->close(dev);
  return test_result();
}
