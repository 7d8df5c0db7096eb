/* test_async.c - collectives as work of their stream: what waits for what, limits, abort, the end.
 *
 * usage: [mpirun -n N] test_async PLUGIN.so N [messages]
 * Nothing here depends on speed. That work goes on at the same time is shown by ranks that would
 * wait for each other for ever if it did not; a limit on the whole test then makes it fail. Where a
 * limit is tested, what it waits for never comes.
 */
#include "ranks.h"

#include <pthread.h>
#include <time.h>

enum { LONG_MS = 60000, SHORT_MS = 1500, N = 5000 };

static ds_comm_world world;
static ds_stream *a, *b, *c; /* made anew by each test */
static float *x, *y;         /* N each */

static void sleep_ms(int ms) {
  nanosleep(&(struct timespec){ms / 1000, ms % 1000 * 1000000L}, NULL);
}

/* Of all ranks, which come together first: the limit is for what the test does. */
static ds_comm *comm_of(int64_t timeout_ms) {
  static ds_comm *meet;
  static ds_stream *stream;
  int32_t ranks[64];
  ds_comm *out = NULL;
  if (meet != NULL) CHECK_OK(table->barrier(meet, stream, &err), err);
  for (int r = 0; r < world.world_size; r++) ranks[r] = r;
  CHECK_OK(table->create(dev, ranks, world.world_size, NULL, timeout_ms, &out, &err), err);
  if (out == NULL) exit(1);
  if (meet == NULL) {
    meet = out;
    CHECK_OK(device->stream_create(dev, &stream, &err), err); /* close ends it */
  }
  return out;
}

static void set(float *p, float value) {
  for (int i = 0; i < N; i++) p[i] = value;
}

static int all(const float *p, float value) {
  int right = 1;
  for (int i = 0; i < N; i++) right = right && p[i] == value;
  return right;
}

static void begin(void) {
  CHECK_OK(device->stream_create(dev, &a, &err), err);
  CHECK_OK(device->stream_create(dev, &b, &err), err);
  CHECK_OK(device->stream_create(dev, &c, &err), err);
  set(x, 0);
  set(y, 0);
}

static void end(void) {
  device->stream_destroy(a);
  device->stream_destroy(b);
  device->stream_destroy(c);
}

#define RECV(comm, s, p, from) CHECK_OK(table->recv(comm, s, p, N, DS_F32, from, &err), err)
#define SEND(comm, s, p, to)   CHECK_OK(table->send(comm, s, p, N, DS_F32, to, &err), err)
#define SYNC(s)                CHECK_OK(device->stream_sync(s, &err), err)

/* ---------------------------------------------------------------- order */

/* out = in * 2, by the ops, gemm or quant table: later work on a stream of any kind. */
static void twice_op(ds_stream *s, float *in, float *out) {
  ds_tensor t[2] = {{in, DS_F32, 1, {N}, {1}}, {out, DS_F32, 1, {N}, {1}}};
  const ds_tensor *const ins[] = {&t[0], &t[0]}, *const outs[] = {&t[1]};
  ds_op op = {.size = sizeof op, .id = DS_OP_ADD, .n_in = 2, .n_out = 1, .in = ins, .out = outs};
  CHECK_OK(plugin->ops->run(s, &op, &err), err);
}

static void twice_gemm(ds_stream *s, float *in, float *out) {
  float two = 2;
  ds_gemm g = {.size = sizeof g,
               .m = N,
               .n = 1,
               .k = 1,
               .lda = 1,
               .ldb = 1,
               .ldc = 1,
               .batch = 1,
               .alpha = 1,
               .a = in,
               .b = &two,
               .c = out};
  CHECK_OK(plugin->gemm->run(s, &g, &err), err);
}

static void once_quant(ds_stream *s, float *in, float *out) {
  static int8_t values[N];
  static float scales[1];
  ds_quant q = {.size = sizeof q,
                .qtype = DS_I8,
                .rows = 1,
                .cols = N,
                .group = N,
                .values = values,
                .scales = scales};
  CHECK_OK(plugin->quant->quantize(s, &q, in, &err), err);
  CHECK_OK(plugin->quant->dequantize(s, &q, out, &err), err);
}

static void once_copy(ds_stream *s, float *in, float *out) {
  CHECK_OK(device->copy(s, out, in, N * sizeof *in, &err), err);
}

static void once_upload(ds_stream *s, float *in, float *out) {
  CHECK_OK(device->upload(s, out, in, N * sizeof *in, &err), err);
}

static void once_download(ds_stream *s, float *in, float *out) {
  CHECK_OK(device->download(s, out, in, N * sizeof *in, &err), err);
}

/* Rank 0 gives a recv to one stream and then, on another, a send that rank 1 waits for before it
 * sends. What rank 0 then gives to the first stream waits for the recv. */
static void test_overlap(ds_comm *one, ds_comm *two) {
  static const struct {
    void (*later)(ds_stream *, float *, float *);
    float times;
  } kinds[] = {{twice_op, 2},  {twice_gemm, 2},  {once_quant, 1},
               {once_copy, 1}, {once_upload, 1}, {once_download, 1}};
  for (size_t k = 0; k < sizeof kinds / sizeof *kinds; k++) {
    begin();
    if (world.rank == 0) {
      RECV(one, a, x, 1);
      CHECK_OK(device->fill(b, y, 0, N * sizeof *y, &err), err); /* another stream goes on */
      SEND(two, b, y, 1);
      SYNC(b);
      kinds[k].later(a, x, y);
      CHECK(all(y, kinds[k].times * 3));
      CHECK(all(x, 3));
    } else if (world.rank == 1) {
      set(x, 3);
      RECV(two, a, y, 0);
      SYNC(a);
      SEND(one, a, x, 0);
    }
    end(); /* which waits */
  }
}

/* Work on one stream runs in the order given, also when nobody waits in between. */
static void test_queue(ds_comm *comm) {
  enum { TURNS = 100 };
  static float sums[TURNS];
  float expected = 1;
  begin();
  for (int i = 0; i < TURNS; i++) sums[i] = (float)i;
  for (int i = 0; i < TURNS; i++)
    CHECK_OK(table->allreduce(comm, a, &sums[i], &sums[(i + 1) % TURNS], 1, DS_F32, DS_REDUCE_MEAN,
                              &err),
             err);
  SYNC(a);
  expected = 0; /* the mean of equal values goes round */
  for (int i = 0; i < TURNS; i++) CHECK(sums[i] == expected);
  end();
}

/* ---------------------------------------------------------------- events */

/* Rank 0: stream a gets x; b waits for that and sends it on; the host waits for neither, since rank
 * 1 needs a message from stream c first. */
static void test_events(ds_comm *one, ds_comm *two, ds_comm *three) {
  ds_event *e = NULL;
  begin();
  CHECK_OK(device->event_create(dev, &e, &err), err);
  CHECK_OK(device->event_wait(e, b, &err), err); /* never recorded */
  CHECK_OK(device->event_sync(e, &err), err);
  if (world.rank == 0) {
    RECV(one, a, x, 1);
    CHECK_OK(device->event_record(e, a, &err), err);
    CHECK_OK(device->event_wait(e, b, &err), err);
    SEND(two, b, x, 1);
    SEND(three, c, y, 1);
    SYNC(c);
    CHECK_OK(device->event_sync(e, &err), err);
    CHECK(all(x, 4));
    SYNC(b);
    CHECK_OK(device->event_record(e, c, &err), err); /* over as soon as it is recorded */
    CHECK_OK(device->event_sync(e, &err), err);
  } else if (world.rank == 1) {
    set(x, 4);
    RECV(three, c, y, 0);
    SYNC(c);
    SEND(one, a, x, 0);
    RECV(two, b, y, 0);
    SYNC(b);
    CHECK(all(y, 4));
  }
  end();
  device->event_destroy(e);
  device->event_destroy(NULL);
}

static void *wait_for_event(void *e) {
  ds_error inner;
  CHECK_OK(device->event_sync(e, &inner), inner);
  CHECK(all(x, 5));
  return NULL;
}

/* The host waits from another thread; and an event is recorded anew and destroyed while streams
 * still go by it. */
static void test_event_threads(ds_comm *one, ds_comm *two) {
  ds_event *e = NULL;
  pthread_t thread;
  begin();
  CHECK_OK(device->event_create(dev, &e, &err), err);
  if (world.rank == 0) {
    RECV(one, a, x, 1);
    CHECK_OK(device->event_record(e, a, &err), err);
    CHECK(pthread_create(&thread, NULL, wait_for_event, e) == 0);
    SEND(two, b, y, 1);
    SYNC(b);
    pthread_join(thread, NULL);
    RECV(one, a, x, 1);
    CHECK_OK(device->event_record(e, a, &err), err);
    CHECK_OK(device->event_wait(e, b, &err), err);
    CHECK_OK(device->event_record(e, c, &err), err);
    device->event_destroy(e);
    SEND(two, c, y, 1);
    CHECK_OK(device->copy(b, y, x, N * sizeof *x, &err), err);
    CHECK(all(y, 6));
  } else {
    if (world.rank == 1) {
      for (int turn = 0; turn < 2; turn++) {
        set(x, 5 + (float)turn);
        RECV(two, a, y, 0);
        SYNC(a);
        SEND(one, a, x, 0);
        SYNC(a);
      }
    }
    device->event_destroy(e);
  }
  end();
}

/* ---------------------------------------------------------------- limits and abort */

/* Rank 0 waits for what nobody sends. */
static void test_timeout(void) {
  ds_comm *none = NULL;
  ds_event *e = NULL;
  ds_stream *late = NULL;
  begin();
  ds_comm *comm = comm_of(SHORT_MS);
  if (world.rank == 0) {
    CHECK_OK(device->event_create(dev, &e, &err), err);
    RECV(comm, a, x, 1);
    CHECK_OK(device->event_record(e, a, &err), err);
    CHECK_OK(device->event_wait(e, b, &err), err);
    CHECK_FAILS(device->stream_sync(a, &err), DS_ERR_TIMEOUT, err, "recv of 5000 f32");
    CHECK_FAILS(device->stream_sync(a, &err), DS_ERR_TIMEOUT, err, "rank 0 of");
    CHECK_FAILS(device->fill(a, x, 0, 4, &err), DS_ERR_TIMEOUT, err, "1500 ms");
    CHECK_FAILS(device->download(a, x, y, 4, &err), DS_ERR_TIMEOUT, err, "recv");
    CHECK_FAILS(table->send(comm, a, x, N, DS_F32, 1, &err), DS_ERR_TIMEOUT, err, "recv");
    CHECK_FAILS(table->allreduce(comm, a, x, x, N, DS_F32, 9, &err), DS_ERR_TIMEOUT, err, "recv");
    CHECK_FAILS(table->barrier(comm, a, &err), DS_ERR_TIMEOUT, err, "recv");
    CHECK_FAILS(device->event_record(e, a, &err), DS_ERR_TIMEOUT, err, "recv");
    CHECK_FAILS(device->event_wait(e, a, &err), DS_ERR_TIMEOUT, err, "recv");
    CHECK_FAILS(device->event_sync(e, &err), DS_ERR_TIMEOUT, err, "recv");
    ds_gemm g = {.size = sizeof g};
    CHECK_FAILS(plugin->gemm->run(a, &g, &err), DS_ERR_TIMEOUT, err, "recv");
    /* Who waited for the event dies of it, also where it is waited for only now. */
    CHECK_FAILS(device->stream_sync(b, &err), DS_ERR_TIMEOUT, err, "recv");
    CHECK_FAILS(device->fill(b, x, 0, 4, &err), DS_ERR_TIMEOUT, err, "recv");
    CHECK_OK(device->stream_create(dev, &late, &err), err);
    CHECK_OK(device->event_wait(e, late, &err), err);
    CHECK_FAILS(device->stream_sync(late, &err), DS_ERR_TIMEOUT, err, "recv");
    device->stream_destroy(late);
    SYNC(c); /* other streams go on */
    CHECK_OK(device->fill(c, x, 0, 4, &err), err);
    CHECK_FAILS(table->recv(comm, c, x, N, DS_F32, 1, &err), DS_ERR_ABORTED, err, "recv");
    CHECK_FAILS(table->barrier(comm, c, &err), DS_ERR_ABORTED, err, "barrier");
    CHECK_FAILS(table->split(comm, 0, 0, &none, &err), DS_ERR_ABORTED, err, "split");
    SYNC(c);
    device->event_destroy(e);
  }
  table->destroy(comm);
  end();
}

/* Calls that wait themselves, side by side. */
static void *barrier_alone(void *comm) {
  ds_error inner;
  CHECK_FAILS(table->barrier(comm, c, &inner), DS_ERR_TIMEOUT, inner, "barrier");
  CHECK_OK(device->stream_sync(c, &inner), inner); /* its failure is its own, not the stream's */
  return NULL;
}

static void *split_alone(void *comm) {
  ds_comm *none = NULL;
  ds_error inner;
  CHECK_FAILS(table->split(comm, 0, 0, &none, &inner), DS_ERR_TIMEOUT, inner, "split");
  return NULL;
}

static void *create_alone(void *unused) {
  const int32_t pair[] = {world.world_size - 1, world.rank};
  ds_comm *none = unused;
  ds_error inner;
  CHECK_FAILS(table->create(dev, pair, 2, NULL, SHORT_MS, &none, &inner), DS_ERR_TIMEOUT, inner,
              "create");
  return NULL;
}

/* All but the last rank call. */
static void test_missing_rank(void) {
  static void *(*const alone[])(void *) = {barrier_alone, split_alone, create_alone};
  int last = world.world_size - 1;
  ds_comm *comms[5];
  ds_stream *d = NULL;
  pthread_t threads[3];
  begin();
  CHECK_OK(device->stream_create(dev, &d, &err), err);
  for (int i = 0; i < 5; i++) comms[i] = comm_of(SHORT_MS);
  if (world.rank != last) {
    CHECK_OK(table->allreduce(comms[0], a, x, x, 100, DS_BF16, DS_REDUCE_SUM, &err), err);
    CHECK_OK(table->allgather(comms[1], b, y, y, 10, DS_F32, &err), err);
    CHECK_OK(table->broadcast(comms[2], d, x + 100, 100, DS_F32, last, &err), err);
    for (int i = 0; i < 3; i++)
      CHECK(pthread_create(&threads[i], NULL, alone[i], i < 2 ? comms[3 + i] : NULL) == 0);
    CHECK_FAILS(device->stream_sync(a, &err), DS_ERR_TIMEOUT, err, "allreduce of 100 bf16");
    CHECK_FAILS(device->stream_sync(b, &err), DS_ERR_TIMEOUT, err, "allgather of 10 f32");
    CHECK_FAILS(device->stream_sync(d, &err), DS_ERR_TIMEOUT, err, "broadcast");
    for (int i = 0; i < 3; i++) pthread_join(threads[i], NULL);
  }
  for (int i = 0; i < 5; i++) table->destroy(comms[i]);
  device->stream_destroy(d);
  end();
}

static void *abort_later(void *comm) {
  sleep_ms(20);
  table->abort(comm);
  return NULL;
}

/* Ends what waits on this rank, without a limit. */
static void test_abort(void) {
  ds_comm *comms[3];
  pthread_t thread;
  ds_comm *none = NULL;
  begin();
  for (int i = 0; i < 3; i++) comms[i] = comm_of(0);
  if (world.rank == 0) {
    RECV(comms[0], a, x, 1);
    RECV(comms[0], a, y, 1);
    CHECK(pthread_create(&thread, NULL, abort_later, comms[0]) == 0);
    CHECK_FAILS(device->stream_sync(a, &err), DS_ERR_ABORTED, err, "recv");
    pthread_join(thread, NULL);
    CHECK_FAILS(table->send(comms[0], b, x, 1, DS_F32, 1, &err), DS_ERR_ABORTED, err, "send");
    SYNC(b);
    CHECK(pthread_create(&thread, NULL, abort_later, comms[1]) == 0);
    CHECK_FAILS(table->barrier(comms[1], b, &err), DS_ERR_ABORTED, err, "barrier");
    pthread_join(thread, NULL);
    CHECK(pthread_create(&thread, NULL, abort_later, comms[2]) == 0);
    CHECK_FAILS(table->split(comms[2], 0, 0, &none, &err), DS_ERR_ABORTED, err, "split");
    pthread_join(thread, NULL);
  }
  for (int i = 0; i < 3; i++) table->destroy(comms[i]);
  end();
}

/* Aborted and destroyed with work in the queue that never ran. */
static void test_abort_queued(void) {
  begin();
  ds_comm *comm = comm_of(0), *gone = comm_of(0);
  if (world.rank == 0) {
    RECV(comm, a, x, 1);
    RECV(gone, a, x, 1);
    table->abort(gone);
    table->destroy(gone);
    table->abort(comm);
    table->destroy(comm);
    CHECK_FAILS(device->stream_sync(a, &err), DS_ERR_ABORTED, err, "recv");
  } else {
    table->destroy(comm);
    table->destroy(gone);
  }
  end();
}

/* ---------------------------------------------------------------- ends */

/* destroy, of the communicator, the stream or the device, waits for the work. */
static void test_destroy_waits(ds_comm *two) {
  for (int what = 0; what < 3; what++) {
    ds_device *other = NULL;
    ds_stream *s = NULL;
    begin();
    ds_comm *comm = comm_of(LONG_MS);
    CHECK_OK(device->open(0, "{\"threads\": 1}", &other, &err), err);
    CHECK_OK(device->stream_create(other, &s, &err), err);
    if (world.rank == 0) {
      RECV(comm, s, x, 1);
      SEND(two, b, y, 1);
      SYNC(b);
      if (what == 0) table->destroy(comm);
      if (what == 1) device->stream_destroy(s);
      if (what == 2) device->close(other);
      CHECK(all(x, 8));
    } else if (world.rank == 1) {
      set(x, 8);
      RECV(two, b, y, 0);
      SYNC(b);
      SEND(comm, s, x, 0);
      SYNC(s);
    }
    if (world.rank != 0 || what == 0) device->stream_destroy(s);
    if (world.rank != 0 || what != 2) device->close(other);
    if (world.rank != 0 || what != 0) table->destroy(comm);
    end();
  }
}

/* A world of one has limits, parts and aborts as well. */
static void test_alone(void) {
  const int32_t own[] = {world.rank};
  ds_comm *comm = NULL, *part = NULL;
  int32_t rank = -1, size = -1;
  begin();
  CHECK_OK(table->create(dev, own, 1, NULL, SHORT_MS, &comm, &err), err);
  CHECK_OK(table->split(comm, 3, 1, &part, &err), err);
  CHECK_OK(table->rank(part, &rank, &size, &err), err);
  CHECK(rank == 0 && size == 1);
  table->abort(comm);
  CHECK_FAILS(table->allreduce(comm, a, x, x, N, DS_F32, DS_REDUCE_SUM, &err), DS_ERR_ABORTED, err,
              "allreduce");
  CHECK_FAILS(table->barrier(comm, a, &err), DS_ERR_ABORTED, err, "barrier");
  set(x, 2);
  CHECK_OK(table->allreduce(part, a, x, y, N, DS_F32, DS_REDUCE_MEAN, &err), err);
  SYNC(a);
  CHECK(all(y, 2));
  CHECK_FAILS(table->create(dev, own, 1, NULL, -1, &comm, &err), DS_ERR_INVALID, err, "-1 ms");
  table->destroy(comm);
  table->destroy(part);
  end();
}

int main(int argc, char **argv) {
  if (argc < 3) {
    fprintf(stderr, "usage: test_async PLUGIN.so WORLD_SIZE [messages]\n");
    return 2;
  }
  if (!open_plugin(argv[1], 0, options_of(argc, argv, 3))) return 2;
  world.size = sizeof world;
  CHECK_OK(table->world(&world, &err), err);
  CHECK(world.world_size == atoi(argv[2]));
  CHECK_OK(device->alloc(dev, N * sizeof *x, (void **)&x, &err), err);
  CHECK_OK(device->alloc(dev, N * sizeof *y, (void **)&y, &err), err);
  test_alone();
  if (world.world_size > 1) {
    ds_comm *one = comm_of(LONG_MS), *two = comm_of(LONG_MS), *three = comm_of(0);
    test_overlap(one, two);
    test_queue(one);
    test_events(one, two, three);
    test_event_threads(one, two);
    test_timeout();
    test_missing_rank();
    test_abort();
    test_abort_queued();
    test_destroy_waits(two);
    table->destroy(one);
    table->destroy(two);
    table->destroy(three);
  }
  device->free(dev, x);
  device->free(dev, y);
  device->close(dev);
  return test_result();
}
