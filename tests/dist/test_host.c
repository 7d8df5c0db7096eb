/* test_host.c - the host runs MPI itself, with any thread level; the plugin works beside it and
 * leaves MPI running.
 *
 * usage: mpirun -n 2 test_host PLUGIN.so multiple|serialized|funneled|single
 */
#include "ranks.h"

#include <mpi.h>
#include <pthread.h>

enum { N = 70000 };

static ds_stream *stream;
static ds_comm *comm;
static float *x;

static int level_of(const char *name) {
  return strcmp(name, "multiple") == 0     ? MPI_THREAD_MULTIPLE
         : strcmp(name, "serialized") == 0 ? MPI_THREAD_SERIALIZED
         : strcmp(name, "funneled") == 0   ? MPI_THREAD_FUNNELED
                                           : MPI_THREAD_SINGLE;
}

static void test_sum(ds_comm *c, int size, int64_t n) {
  for (int64_t i = 0; i < n; i++) x[i] = (float)(i % 100);
  CHECK_OK(table->allreduce(c, stream, x, x, n, DS_F32, DS_REDUCE_SUM, &err), err);
  CHECK_OK(device->stream_sync(stream, &err), err);
  int64_t wrong = 0;
  for (int64_t i = 0; i < n; i++) wrong += x[i] != (float)(i % 100 * size);
  CHECK(wrong == 0);
}

static bool messages; /* else MPI is not called by collectives */

static void *from_another_thread(void *level) {
  ds_error inner;
  float y = 1;
  ds_status st = table->allreduce(comm, stream, &y, &y, 1, DS_F32, DS_REDUCE_SUM, &inner);
  if (st == DS_OK) st = device->stream_sync(stream, &inner);
  if (*(int *)level >= MPI_THREAD_SERIALIZED || !messages)
    CHECK(st == DS_OK && y == 2);
  else
    CHECK(st == DS_ERR_STATE && strstr(inner.message, "MPI_THREAD_MULTIPLE") != NULL);
  return NULL;
}

/* A limit holds on the caller's thread as well. */
static void test_timeout(int rank) {
  const int32_t both[] = {0, 1};
  ds_comm *brief = NULL;
  ds_stream *other = NULL;
  CHECK_OK(table->create(dev, both, 2, NULL, 300, &brief, &err), err);
  CHECK_OK(device->stream_create(dev, &other, &err), err);
  if (rank == 0) {
    ds_status st = table->recv(brief, other, x, 1, DS_F32, 1, &err);
    if (st == DS_OK) st = device->stream_sync(other, &err);
    CHECK(st == DS_ERR_TIMEOUT && strstr(err.message, "recv of 1 f32") != NULL);
    CHECK_FAILS(device->stream_sync(other, &err), DS_ERR_TIMEOUT, err, "recv");
  }
  table->destroy(brief);
  device->stream_destroy(other);
}

int main(int argc, char **argv) {
  int level = 0, rank = 0, size = 0, mine = -1, got = -1, gone = -1;
  MPI_Request request;
  if (argc < 3) return 2;
  messages = argc > 3;
  if (MPI_Init_thread(&argc, &argv, level_of(argv[2]), &level) != MPI_SUCCESS) return 1;
  MPI_Comm_rank(MPI_COMM_WORLD, &rank);
  MPI_Comm_size(MPI_COMM_WORLD, &size);
  if (size != 2 || !open_plugin(argv[1], 0, options_of(argc, argv, 3)))
    MPI_Abort(MPI_COMM_WORLD, 2);
  if (level > level_of(argv[2])) level = level_of(argv[2]);
  ds_comm_world w = {.size = sizeof w};
  CHECK_OK(table->world(&w, &err), err);
  CHECK(w.rank == rank && w.world_size == size && w.local_size == size);
  CHECK_OK(device->stream_create(dev, &stream, &err), err);
  CHECK_OK(device->alloc(dev, N * sizeof *x, (void **)&x, &err), err);
  const int32_t order[] = {1, 0}, own[] = {rank};
  CHECK_OK(table->create(dev, order, 2, NULL, 60000, &comm, &err), err);
  if (comm == NULL) MPI_Abort(MPI_COMM_WORLD, 1);
  test_timeout(rank);
  MPI_Barrier(MPI_COMM_WORLD);
  /* A receive of the host's that takes anything must get nothing of the plugin's. */
  MPI_Irecv(&got, 1, MPI_INT, MPI_ANY_SOURCE, MPI_ANY_TAG, MPI_COMM_WORLD, &request);
  test_sum(comm, 2, 10);
  test_sum(comm, 2, N);
  ds_comm *part = NULL, *alone = NULL;
  CHECK_OK(table->split(comm, 0, rank, &part, &err), err);
  int32_t at = -1, of = -1;
  CHECK_OK(table->rank(part, &at, &of, &err), err);
  CHECK(at == rank && of == 2);
  test_sum(part, 2, N);
  CHECK_OK(table->create(dev, own, 1, NULL, 60000, &alone, &err), err);
  test_sum(alone, 1, N);
  CHECK_OK(table->barrier(comm, stream, &err), err);
  pthread_t thread;
  CHECK(pthread_create(&thread, NULL, from_another_thread, &level) == 0);
  pthread_join(thread, NULL);
  mine = 100 + rank;
  CHECK(MPI_Send(&mine, 1, MPI_INT, 1 - rank, 7, MPI_COMM_WORLD) == MPI_SUCCESS);
  CHECK(MPI_Wait(&request, MPI_STATUS_IGNORE) == MPI_SUCCESS && got == 101 - rank);
  table->destroy(part);
  table->destroy(alone);
  table->destroy(comm);
  device->free(dev, x);
  device->stream_destroy(stream);
  device->close(dev);
  CHECK(MPI_Finalized(&gone) == MPI_SUCCESS && gone == 0);
  CHECK(MPI_Finalize() == MPI_SUCCESS);
  return test_result();
}
