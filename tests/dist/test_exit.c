/* test_exit.c - a process ends while collectives are under way: it must not wait for them.
 *
 * usage: mpirun -n 2 test_exit PLUGIN.so HOW; see run_exit.sh, which judges how it ended.
 *   queued    a recv that nobody answers is in a stream's queue
 *   waiting   and another thread waits for it
 *   given-up  a large send and a recv ran out of time; their memory is freed and used anew
 */
#include "ranks.h"

#include <pthread.h>

enum { N = 3 << 20 };

static void *wait_for(void *stream) {
  ds_error inner;
  ds_status st = device->stream_sync(stream, &inner);
  (void)st; /* the process ends first */
  return NULL;
}

int main(int argc, char **argv) {
  ds_comm_world w = {.size = sizeof w};
  const int32_t both[] = {0, 1};
  ds_comm *comm = NULL;
  ds_stream *a = NULL, *b = NULL;
  float *x = NULL, *y = NULL;
  pthread_t thread;
  if (argc != 3 || !open_plugin(argv[1], 0, ONE_THREAD)) return 2;
  bool give_up = strcmp(argv[2], "given-up") == 0;
  CHECK_OK(table->world(&w, &err), err);
  CHECK_OK(table->create(dev, both, 2, NULL, give_up ? 500 : 0, &comm, &err), err);
  CHECK_OK(device->stream_create(dev, &a, &err), err);
  CHECK_OK(device->stream_create(dev, &b, &err), err);
  CHECK_OK(device->alloc(dev, N * sizeof *x, (void **)&x, &err), err);
  CHECK_OK(device->alloc(dev, N * sizeof *y, (void **)&y, &err), err);
  if (comm == NULL || a == NULL || b == NULL || x == NULL || y == NULL) return 1;
  memset(x, 0, N * sizeof *x);
  if (give_up) {
    /* Both send, and neither receives as much. */
    CHECK_OK(table->send(comm, a, x, N, DS_F32, 1 - w.rank, &err), err);
    CHECK_FAILS(device->stream_sync(a, &err), DS_ERR_TIMEOUT, err, "send of");
    table->destroy(comm);
    device->free(dev, x);
    CHECK_OK(device->alloc(dev, N * sizeof *x, (void **)&x, &err), err);
    memset(x, 1, N * sizeof *x);
    device->stream_destroy(a);
    device->close(dev);
  } else {
    CHECK_OK(table->recv(comm, a, y, N, DS_F32, 1 - w.rank, &err), err);
    if (strcmp(argv[2], "waiting") == 0) CHECK(pthread_create(&thread, NULL, wait_for, a) == 0);
    CHECK_OK(device->fill(b, x, 0, 4, &err), err);
  }
  printf("rank %d %s\n", w.rank, test_result() == 0 ? "leaves" : "failed");
  return test_result();
}
