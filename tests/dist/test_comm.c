/* test_comm.c - a plugin's collectives against arithmetic.
 *
 * usage: [mpirun -n N] test_comm PLUGIN.so N
 * Every rank knows what every other one sends, so each checks all that it gets. The values are
 * small whole numbers, and sums and means of them are exact in every type.
 */
#include "unit/test.h"

#include <dlfcn.h>
#include <stdlib.h>

static const ds_comm_table *table;
static const ds_device_table *device;
static ds_device *dev;
static ds_stream *stream;
static ds_error err;

#define SYNC() CHECK_OK(device->stream_sync(stream, &err), err)

static const int32_t reduced[] = {DS_F32, DS_BF16, DS_F64, DS_I32, DS_I64};
enum { REDUCED = sizeof reduced / sizeof *reduced, MANY = (1 << 20) + 4099 };

static size_t width(int32_t dtype) {
  return dtype == DS_F64 || dtype == DS_I64 ? 8 : dtype == DS_BF16 ? 2 : dtype == DS_U8 ? 1 : 4;
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
    default: ((uint8_t *)p)[i] = (uint8_t)(int)x;
  }
}

/* What dtype makes of x. */
static double as(int32_t dtype, double x) {
  return dtype == DS_I32 || dtype == DS_I64 ? trunc(x) : dtype == DS_U8 ? (uint8_t)(int)x : x;
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
  CHECK_OK(table->allreduce(g->comm, stream, send, recv, n, dtype, op, &err), err); SYNC();
  int64_t wrong = 0;
  for (int64_t i = 0; i < n; i++) wrong += get(recv, dtype, i) != as(dtype, combined(g, op, i));
  CHECK(wrong == 0);
  for (int64_t i = 0; i < n && !in_place; i++)
    wrong += get(send, dtype, i) != value(g->of[g->own], i);
  CHECK(wrong == 0);
  device->free(dev, send);
  if (!in_place) device->free(dev, recv);
}

static void test_reduce_scatter(const group *g, int64_t n, int32_t dtype, ds_reduce op) {
  void *send = room(dtype, n * g->size), *recv = room(dtype, n);
  fill(send, dtype, g->of[g->own], n * g->size);
  CHECK_OK(table->reduce_scatter(g->comm, stream, send, recv, n, dtype, op, &err), err); SYNC();
  int64_t wrong = 0;
  for (int64_t i = 0; i < n; i++)
    wrong += get(recv, dtype, i) != as(dtype, combined(g, op, g->own * n + i));
  CHECK(wrong == 0);
  device->free(dev, send);
  device->free(dev, recv);
}

static void test_allgather(const group *g, int64_t n, int32_t dtype) {
  void *send = room(dtype, n), *recv = room(dtype, n * g->size);
  fill(send, dtype, g->of[g->own], n);
  CHECK_OK(table->allgather(g->comm, stream, send, recv, n, dtype, &err), err); SYNC();
  int64_t wrong = 0;
  for (int64_t i = 0; i < n * g->size; i++)
    wrong += get(recv, dtype, i) != as(dtype, value(g->of[i / n], i % n));
  CHECK(wrong == 0);
  device->free(dev, send);
  device->free(dev, recv);
}

static void test_alltoall(const group *g, int64_t n, int32_t dtype) {
  void *send = room(dtype, n * g->size), *recv = room(dtype, n * g->size);
  fill(send, dtype, g->of[g->own], n * g->size);
  CHECK_OK(table->alltoall(g->comm, stream, send, recv, n, dtype, &err), err); SYNC();
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
    CHECK_OK(table->broadcast(g->comm, stream, p, n, dtype, root, &err), err); SYNC();
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
    CHECK_OK(table->send(g->comm, stream, p, n, dtype, g->size - 1, &err), err); SYNC();
  } else if (g->own == g->size - 1) {
    CHECK_OK(table->recv(g->comm, stream, p, n, dtype, 0, &err), err); SYNC();
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
        if (counts[c] == MANY && op != DS_REDUCE_MEAN) continue;
        test_allreduce(g, counts[c], reduced[t], op, op % 2);
        test_reduce_scatter(g, counts[c], reduced[t], op);
      }
    for (int t = 0; t <= REDUCED; t++) {
      int32_t dtype = t < REDUCED ? reduced[t] : DS_U8;
      if (counts[c] == MANY && dtype != DS_BF16) continue;
      test_allgather(g, counts[c], dtype);
      test_alltoall(g, counts[c], dtype);
      test_broadcast(g, counts[c], dtype);
      test_send(g, counts[c], dtype);
    }
  }
  CHECK_OK(table->barrier(g->comm, stream, &err), err);
}

static void test_refusals(const group *g) {
  float x[64] = {0};
  uint16_t h = 0;
  CHECK_FAILS(table->allreduce(g->comm, stream, x, x, 1, DS_F32, 9, &err), DS_ERR_INVALID, err,
              "unknown reduction 9");
  CHECK_FAILS(table->allreduce(g->comm, stream, &h, &h, 1, DS_F16, DS_REDUCE_SUM, &err),
              DS_ERR_UNSUPPORTED, err, "f16");
  CHECK_FAILS(table->broadcast(g->comm, stream, x, 1, DS_F32, g->size, &err), DS_ERR_INVALID, err,
              "no rank");
  CHECK_FAILS(table->broadcast(g->comm, stream, x, -1, DS_F32, 0, &err), DS_ERR_INVALID, err, "-1");
  CHECK_FAILS(table->send(g->comm, stream, x, 1, DS_F32, g->own, &err), DS_ERR_INVALID, err,
              "the caller itself");
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

/* The group of every `step`-th rank from the caller's own place on, the highest first. */
static void test_group(const ds_comm_world *w, int step) {
  group g = {.size = 0};
  for (int r = w->world_size - 1; r >= 0; r--)
    if (r % step == w->rank % step) {
      if (r == w->rank) g.own = g.size;
      g.of[g.size++] = r;
    }
  CHECK_OK(table->create(dev, g.of, g.size, NULL, 10000, &g.comm, &err), err);
  if (g.comm == NULL) return;
  test_all(&g);
  test_refusals(&g);
  table->destroy(g.comm);
}

int main(int argc, char **argv) {
  if (argc != 3) {
    fprintf(stderr, "usage: test_comm PLUGIN.so WORLD_SIZE\n");
    return 2;
  }
  void *so = dlopen(argv[1], RTLD_NOW | RTLD_LOCAL);
  ds_plugin_query_fn *query = NULL;
  if (so != NULL) *(void **)&query = dlsym(so, "ds_plugin_query");
  const ds_plugin *p = NULL;
  if (query != NULL) p = query(NULL, (ds_version_range){DS_ABI_MAJOR, 0, DS_ABI_MINOR, 0}, &err);
  if (p == NULL || p->comm == NULL) {
    fprintf(stderr, "test_comm: %s has no comm table\n", argv[1]);
    return 2;
  }
  table = p->comm;
  device = p->device;
  CHECK_OK(device->open(0, "{\"threads\": 1}", &dev, &err), err);
  if (dev == NULL) return 1;
  CHECK_OK(device->stream_create(dev, &stream, &err), err);
  ds_comm_world w = {.size = sizeof w};
  CHECK_OK(table->world(&w, &err), err);
  CHECK(w.world_size == atoi(argv[2]) && w.rank >= 0 && w.rank < w.world_size);
  CHECK(w.local_size == w.world_size && w.local_rank == w.rank);
  test_bad_groups(&w);
  test_group(&w, 1);
  test_group(&w, 2);
  table->destroy(NULL);
  device->stream_destroy(stream);
  device->close(dev);
  return test_result();
}
