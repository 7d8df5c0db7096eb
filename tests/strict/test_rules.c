/* The strict plugin itself: every broken rule is told, what is allowed is not. */
#include <dlfcn.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>

#include "ds_abi.h"
#include "test.h"

static char told[512]; /* the first violation since the last bench was made */
static atomic_int violations;

static void log_message(void *ctx, ds_log_level level, const char *message) {
  (void)ctx;
  (void)level;
  if (!strstr(message, "violation")) return;
  if (atomic_fetch_add(&violations, 1) == 0) snprintf(told, sizeof told, "%s", message);
}

static void *host_alloc(void *ctx, size_t bytes) {
  (void)ctx;
  return aligned_alloc(64, (bytes + 63) / 64 * 64);
}

static void host_free(void *ctx, void *p) {
  (void)ctx;
  free(p);
}

static const ds_plugin *plugin;

/* A device with two streams and two blocks of N floats. */
enum { N = 16 };
typedef struct bench {
  const ds_device_table *t;
  ds_device *d;
  ds_stream *s, *other;
  float *x, *y;
} bench;

static bench bench_open(const char *options) {
  ds_error err;
  void *p;
  bench b = {.t = plugin->device};
  told[0] = '\0';
  violations = 0;
  CHECK_OK(b.t->open(0, options, &b.d, &err), err);
  CHECK_OK(b.t->stream_create(b.d, &b.s, &err), err);
  CHECK_OK(b.t->stream_create(b.d, &b.other, &err), err);
  CHECK_OK(b.t->alloc(b.d, N * sizeof(float), &p, &err), err);
  b.x = p;
  CHECK_OK(b.t->alloc(b.d, N * sizeof(float), &p, &err), err);
  b.y = p;
  return b;
}

/* Gives everything back, and `text` must have been told by then; NULL: nothing. */
static void bench_close(bench *b, const char *text) {
  ds_status ignored = b->t->stream_sync(b->s, NULL);
  ignored = b->t->stream_sync(b->other, NULL);
  (void)ignored;
  b->t->free(b->d, b->x);
  b->t->free(b->d, b->y);
  b->t->stream_destroy(b->s);
  b->t->stream_destroy(b->other);
  b->t->close(b->d);
  bool good = text ? strstr(told, text) != NULL : violations == 0;
  if (!good) fprintf(stderr, "told \"%s\", not \"%s\"\n", told, text ? text : "nothing");
  CHECK(good);
}

static ds_tensor vector(float *data, int64_t n) {
  return (ds_tensor){.data = data, .dtype = DS_F32, .rank = 1, .shape = {n}, .stride = {1}};
}

/* y = 2 x on a stream, with a workspace as asked for, or less. */
static ds_status scale(bench *b, ds_stream *s, ds_tensor x, ds_tensor y, size_t missing,
                       uint32_t size, ds_error *err) {
  const ds_attr two = {.f = 2};
  const ds_tensor *in[] = {&x}, *out[] = {&y};
  ds_op op = {.size = size,
              .id = DS_OP_SCALE,
              .n_in = 1,
              .n_out = 1,
              .n_attr = 1,
              .in = in,
              .out = out,
              .attr = &two};
  ds_op known = op;
  known.size = sizeof op;
  size_t bytes = plugin->ops->workspace(b->d, &known);
  void *p;
  CHECK(bytes > 0);
  CHECK_OK(b->t->alloc(b->d, bytes, &p, err), *err);
  op.workspace = p;
  op.workspace_size = bytes - missing;
  ds_status status = plugin->ops->run(s, &op, err);
  if (status == DS_OK) status = b->t->stream_sync(s, err);
  b->t->free(b->d, p);
  return status;
}

/* ---- what is allowed */

static void test_allowed(void) {
  ds_error err;
  float ones[N], have[N];
  ds_event *e;
  for (int i = 0; i < N; i++) ones[i] = 1;
  for (int seed = 0; seed < 20; seed++) {
    char options[64];
    snprintf(options, sizeof options, "{\"seed\": %d}", seed);
    bench b = bench_open(options);
    CHECK_OK(b.t->event_create(b.d, &e, &err), err);
    CHECK_OK(b.t->event_wait(e, b.other, &err), err); /* never recorded: at once */
    CHECK_OK(b.t->upload(b.s, b.x, ones, sizeof ones, &err), err);
    ones[0] = 5; /* "src may be reused" */
    CHECK_OK(b.t->event_record(e, b.s, &err), err);
    CHECK_OK(b.t->event_wait(e, b.other, &err), err);
    CHECK_OK(b.t->copy(b.other, b.y, b.x, sizeof ones, &err), err);
    CHECK_OK(b.t->event_record(e, b.other, &err), err);
    CHECK_OK(b.t->event_sync(e, &err), err);
    CHECK_OK(scale(&b, b.s, vector(b.x, N), vector(b.x, N), 0, sizeof(ds_op), &err), err);
    CHECK_OK(b.t->download(b.s, have, b.x, sizeof have, &err), err);
    CHECK(have[0] == 2 && have[N - 1] == 2);
    CHECK_OK(b.t->download(b.other, have, b.y, sizeof have, &err), err);
    CHECK(have[0] == 1 && have[N - 1] == 1);
    ones[0] = 1;
    b.t->event_destroy(e);
    bench_close(&b, NULL);
  }
}

/* ---- memory */

static void test_memory(void) {
  ds_error err;
  float have[N];
  bench b = bench_open(NULL);
  float *x = b.x;
  CHECK_OK(b.t->download(b.s, have, x, sizeof have, &err), err);
  CHECK(isnan(have[0]) && isnan(have[N - 1])); /* never written */
  pid_t child = fork();
  if (child == 0) {
    *(volatile float *)x = 1; /* faults */
    _exit(77);
  }
  int status;
  CHECK(child > 0 && waitpid(child, &status, 0) == child);
  CHECK(!WIFEXITED(status) || WEXITSTATUS(status) != 77);
  CHECK_FAILS(b.t->fill(b.s, x, 0, sizeof have + 1, &err), DS_ERR_INTERNAL, err, "no allocation");
  CHECK_FAILS(b.t->fill(b.s, x, 0, 4, &err), DS_ERR_INTERNAL, err,
              "no allocation"); /* stays dead */
  bench_close(&b, "fill on stream 0 writes 65 bytes that are in no allocation");

  b = bench_open("{\"accessible\": true}");
  CHECK(isnan(b.x[0]));
  bench_close(&b, NULL);

  b = bench_open(NULL);
  CHECK_OK(b.t->fill(b.s, b.x, 0, sizeof have, &err), err);
  b.t->free(b.d, b.x); /* not waited for */
  b.x = NULL;
  bench_close(&b, "still uses");

  b = bench_open(NULL);
  x = b.x;
  b.t->free(b.d, b.x);
  b.x = NULL;
  CHECK_FAILS(b.t->fill(b.s, x, 0, 4, &err), DS_ERR_INTERNAL, err, "no allocation");
  bench_close(&b, "no allocation");

  b = bench_open(NULL);
  b.t->free(b.d, (char *)b.x + 4);
  bench_close(&b, "which is no allocation");

  void *p;
  b = bench_open(NULL);
  CHECK_OK(b.t->alloc(b.d, 4, &p, &err), err);
  bench_close(&b, "close with 1 allocations (4 bytes), 0 streams");
}

/* ---- descriptors */

static void test_descriptors(void) {
  ds_error err;
  bench b = bench_open(NULL);
  ds_tensor x = vector(b.x, N), y = vector(b.y, N);
  CHECK_FAILS(scale(&b, b.s, x, y, 1, sizeof(ds_op), &err), DS_ERR_INTERNAL, err, "workspace");
  bench_close(&b, "too small a workspace");

  b = bench_open(NULL);
  x = vector(b.x, N), y = vector(b.y, N);
  CHECK_FAILS(scale(&b, b.s, x, y, 0, 8, &err), DS_ERR_INVALID, err, "size");
  bench_close(&b, NULL); /* refused, which is no rule broken */

  b = bench_open(NULL);
  x = vector((float *)((char *)b.x + 2), 4), y = vector(b.y, 4);
  CHECK_FAILS(scale(&b, b.s, x, y, 0, sizeof(ds_op), &err), DS_ERR_INTERNAL, err, "aligned");
  bench_close(&b, "not aligned");

  b = bench_open(NULL);
  x = vector(b.x, 8), y = vector(b.x + 4, 8);
  CHECK_FAILS(scale(&b, b.s, x, y, 0, sizeof(ds_op), &err), DS_ERR_INTERNAL, err, "overlaps");
  bench_close(&b, "overlaps an input in part");

  b = bench_open(NULL);
  CHECK_FAILS(b.t->copy(b.s, b.x, b.x + 1, 8, &err), DS_ERR_INTERNAL, err, "overlap");
  bench_close(&b, "ranges that overlap");
}

/* ---- order */

static void test_order(void) {
  ds_error err;
  bench b = bench_open(NULL);
  CHECK_OK(b.t->fill(b.s, b.x, 0, 8, &err), err);
  CHECK_FAILS(b.t->copy(b.other, b.y, b.x, 8, &err), DS_ERR_INTERNAL, err, "nothing orders");
  bench_close(&b, "copy on stream 1 and fill on stream 0 use the same memory");

  b = bench_open(NULL); /* reading on two streams, and writing to different places, is allowed */
  CHECK_OK(b.t->fill(b.s, b.x, 0, 8, &err), err);
  CHECK_OK(b.t->stream_sync(b.s, &err), err);
  CHECK_OK(b.t->copy(b.s, b.y, b.x, 8, &err), err);
  CHECK_OK(b.t->copy(b.other, b.y + 2, b.x, 8, &err), err);
  bench_close(&b, NULL);

  const ds_comm_table *c = plugin->comm;
  ds_comm *comm;
  b = bench_open(NULL);
  CHECK_OK(c->create(b.d, (int32_t[]){0}, 1, NULL, 0, &comm, &err), err);
  CHECK_OK(c->allreduce(comm, b.s, b.x, b.x, N, DS_F32, DS_REDUCE_SUM, &err), err);
  CHECK_OK(c->barrier(comm, b.s, &err), err);
  CHECK_OK(c->allgather(comm, b.other, b.x, b.y, N, DS_F32, &err), err);
  CHECK_FAILS(c->broadcast(comm, b.s, b.x, N, DS_F32, 0, &err), DS_ERR_INTERNAL, err,
              "nothing orders");
  c->destroy(comm);
  bench_close(&b, "the communicator's last call was on stream 1");
}

/* ---- handles and threads */

static void test_handles(void) {
  ds_error err;
  ds_event *e;
  ds_stream *s;
  void *p;
  bench b = bench_open(NULL);
  CHECK_OK(b.t->stream_create(b.d, &s, &err), err);
  b.t->stream_destroy(s);
  CHECK_FAILS(b.t->fill(s, b.x, 0, 4, &err), DS_ERR_INTERNAL, err, "destroyed stream");
  bench_close(&b, "fill on a destroyed stream");

  b = bench_open(NULL);
  CHECK_OK(b.t->event_create(b.d, &e, &err), err);
  b.t->event_destroy(e);
  CHECK_FAILS(b.t->event_record(e, b.s, &err), DS_ERR_INTERNAL, err, "event");
  bench_close(&b, "event_record: no event");

  b = bench_open(NULL);
  CHECK_OK(b.t->event_create(b.d, &e, &err), err);
  CHECK_OK(b.t->stream_create(b.d, &s, &err), err);
  bench_close(&b, "1 streams, 1 events");
  CHECK_FAILS(b.t->alloc(b.d, 4, &p, &err), DS_ERR_INTERNAL, err, "closed device");
  CHECK_FAILS(b.t->fill(b.s, b.x, 0, 4, &err), DS_ERR_INTERNAL, err, "no stream");
}

static atomic_bool returned;

static void *wait_for(void *stream) {
  ds_error err;
  ds_status ignored = plugin->device->stream_sync(stream, &err);
  (void)ignored;
  returned = true;
  return NULL;
}

static void test_threads(void) {
  ds_error err;
  pthread_t thread;
  bench b = bench_open("{\"hang_work\": 1, \"hang_ms\": 300}");
  CHECK_OK(b.t->fill(b.s, b.x, 0, 4, &err), err);
  returned = false;
  CHECK(pthread_create(&thread, NULL, wait_for, b.s) == 0);
  while (violations == 0 && !returned) {
    ds_status ignored = b.t->upload(b.s, b.y, "1234", 4, &err);
    (void)ignored;
  }
  pthread_join(thread, NULL);
  bench_close(&b, "another thread is in a call on stream 0");
}

/* ---- failures */

static void test_failures_of_work(void) {
  ds_error err, again;
  ds_stream *fresh;
  float have[N];
  bench b = bench_open("{\"fail_work\": 2, \"status\": 9}");
  CHECK_OK(b.t->fill(b.s, b.x, 0, sizeof have, &err), err);
  CHECK_OK(b.t->fill(b.other, b.y, 0, sizeof have, &err), err);
  CHECK_OK(b.t->stream_sync(b.s, &err), err); /* other streams go on */
  CHECK_FAILS(b.t->stream_sync(b.other, &err), DS_ERR_TIMEOUT, err, "fill (work 2): injected");
  CHECK_FAILS(b.t->fill(b.other, b.y, 0, 4, &again), DS_ERR_TIMEOUT, again, err.message);
  CHECK_OK(b.t->stream_create(b.d, &fresh, &err), err);
  CHECK_OK(b.t->download(fresh, have, b.y, sizeof have, &err), err);
  CHECK(isnan(have[0])); /* what it was to write is undefined */
  b.t->stream_destroy(fresh);
  bench_close(&b, NULL);

  b = bench_open("{\"fail_work\": 1, \"lost\": true}");
  CHECK_OK(b.t->fill(b.s, b.x, 0, sizeof have, &err), err);
  CHECK_FAILS(b.t->stream_sync(b.s, &err), DS_ERR_DEVICE, err, "the device is lost");
  CHECK_FAILS(b.t->stream_sync(b.other, &err), DS_ERR_DEVICE, err, "the device is lost");
  CHECK_FAILS(b.t->stream_create(b.d, &fresh, &err), DS_ERR_DEVICE, err, "the device is lost");
  bench_close(&b, NULL);

  ds_device *d;
  CHECK_FAILS(b.t->open(0, "{\"sede\": 1}", &d, &err), DS_ERR_INVALID, err, "\"sede\"");
}

/* Whoever waits, by event, for what failed fails alike; an event before the failure is good. */
static void test_failures_behind_events(void) {
  ds_error err;
  ds_event *before, *behind;
  for (int seed = 0; seed < 20; seed++) {
    char options[96];
    snprintf(options, sizeof options, "{\"fail_work\": 2, \"status\": 9, \"seed\": %d}", seed);
    bench b = bench_open(options);
    CHECK_OK(b.t->event_create(b.d, &before, &err), err);
    CHECK_OK(b.t->event_create(b.d, &behind, &err), err);
    CHECK_OK(b.t->fill(b.s, b.x, 0, 4, &err), err);
    CHECK_OK(b.t->event_record(before, b.s, &err), err);
    ds_status status = b.t->fill(b.s, b.x, 0, 4, &err);
    if (status == DS_OK) status = b.t->event_record(behind, b.s, &err);
    CHECK_OK(b.t->event_wait(before, b.other, &err), err);
    CHECK_OK(b.t->fill(b.other, b.y, 0, 4, &err), err);
    CHECK_OK(b.t->event_sync(before, &err), err);
    CHECK_OK(b.t->stream_sync(b.other, &err), err);
    if (status == DS_OK) { /* else it has failed by then */
      CHECK_OK(b.t->event_wait(behind, b.other, &err), err);
      status = seed % 2 ? b.t->fill(b.other, b.y, 0, 4, &err) : DS_OK;
      CHECK_FAILS(b.t->event_sync(behind, &err), DS_ERR_TIMEOUT, err, "fill (work 2): injected");
      CHECK_FAILS(b.t->stream_sync(b.other, &err), DS_ERR_TIMEOUT, err, "fill (work 2): injected");
    }
    b.t->event_destroy(before);
    b.t->event_destroy(behind);
    bench_close(&b, NULL);
  }
}

/* Destroying a stream waits for its work. */
static void test_destroy_waits(void) {
  ds_error err;
  ds_stream *s;
  float have[1] = {1};
  for (int i = 0; i < 20; i++) {
    bench b = bench_open(NULL);
    CHECK_OK(b.t->stream_create(b.d, &s, &err), err);
    CHECK_OK(b.t->fill(s, b.x, 0, sizeof have, &err), err);
    b.t->stream_destroy(s);
    CHECK_OK(b.t->download(b.s, have, b.x, sizeof have, &err), err);
    CHECK(have[0] == 0);
    bench_close(&b, NULL);
  }
}

/* ---- recorded work, and memory since 0.10 */

/* x filled with bytes of 1, recorded. */
static ds_graph *record_fill(bench *b) {
  ds_graph *g = NULL;
  ds_error err;
  CHECK_OK(plugin->graph->begin(b->s, &err), err);
  CHECK_OK(b->t->fill(b->s, b->x, 1, N * sizeof(float), &err), err);
  CHECK_OK(plugin->graph->end(b->s, &g, &err), err);
  return g;
}

static void test_graphs(void) {
  ds_error err;
  bench b = bench_open(NULL);
  ds_graph *g = record_fill(&b);
  CHECK_OK(plugin->graph->launch(b.s, g, &err), err);
  CHECK_OK(plugin->graph->launch(b.other, g, &err), err); /* after the first */
  CHECK_OK(b.t->stream_sync(b.other, &err), err);
  plugin->graph->destroy(g);
  bench_close(&b, NULL);

  b = bench_open(NULL);
  g = record_fill(&b);
  b.t->free(b.d, b.x);
  b.x = NULL;
  plugin->graph->destroy(g);
  bench_close(&b, "that the fill of a graph, not destroyed, names");

  b = bench_open(NULL);
  g = record_fill(&b);
  CHECK_OK(plugin->graph->launch(b.s, g, &err), err);
  plugin->graph->destroy(g);
  bench_close(&b, "a launch that was not waited for");

  b = bench_open(NULL);
  g = record_fill(&b);
  plugin->graph->destroy(g);
  CHECK_FAILS(plugin->graph->launch(b.s, g, &err), DS_ERR_INTERNAL, err, "destroyed one");
  bench_close(&b, "of a destroyed one");

  b = bench_open(NULL);
  g = record_fill(&b);
  CHECK_OK(b.t->fill(b.other, b.x, 2, 4, &err), err);
  CHECK_FAILS(plugin->graph->launch(b.s, g, &err), DS_ERR_INTERNAL, err, "nothing orders them");
  plugin->graph->destroy(g);
  bench_close(&b, "nothing orders them");

  b = bench_open(NULL);
  CHECK_OK(plugin->graph->begin(b.s, &err), err);
  CHECK_OK(plugin->graph->end(b.s, &g, &err), err); /* of nothing */
  bench_close(&b, "0 communicators and 1 graphs not given back");
}

/* The failure of a recorded call is told by end; one of a launch's work kills the stream. */
static void test_failures_of_graphs(void) {
  ds_error err;
  ds_graph *g = NULL;
  bench b = bench_open("{\"fail_call\": 6}"); /* after two streams, two blocks, and begin */
  CHECK_OK(plugin->graph->begin(b.s, &err), err);
  CHECK_FAILS(b.t->fill(b.s, b.x, 1, 4, &err), DS_ERR_DEVICE, err, "injected");
  CHECK_FAILS(plugin->graph->end(b.s, &g, &err), DS_ERR_DEVICE, err, "injected failure of call 6");
  CHECK_OK(b.t->fill(b.s, b.x, 1, 4, &err), err);
  bench_close(&b, NULL);

  b = bench_open("{\"fail_work\": 2}");
  g = record_fill(&b);
  CHECK_OK(plugin->graph->launch(b.s, g, &err), err);
  CHECK_OK(plugin->graph->launch(b.s, g, &err), err);
  CHECK_FAILS(b.t->stream_sync(b.s, &err), DS_ERR_DEVICE, err, "fill (work 2): injected");
  plugin->graph->destroy(g);
  bench_close(&b, NULL);
}

static void test_memory_of_streams(void) {
  ds_error err;
  void *p;
  bench b = bench_open(NULL);
  CHECK_OK(b.t->stream_alloc(b.s, 64, &p, &err), err);
  CHECK_FAILS(b.t->fill(b.other, p, 0, 64, &err), DS_ERR_INTERNAL, err, "nothing orders them");
  b.t->free(b.d, p);
  bench_close(&b, "nothing orders them");

  b = bench_open(NULL);
  CHECK_OK(b.t->stream_alloc(b.s, 64, &p, &err), err);
  CHECK_OK(b.t->stream_free(b.s, p, &err), err);
  CHECK_FAILS(b.t->fill(b.s, p, 0, 64, &err), DS_ERR_INTERNAL, err, "no allocation");
  bench_close(&b, "no allocation");

  float ordinary[N];
  b = bench_open(NULL);
  CHECK_FAILS(b.t->upload_async(b.s, b.x, ordinary, sizeof ordinary, &err), DS_ERR_INTERNAL, err,
              "no allocation");
  bench_close(&b, "reads 64 bytes that are in no allocation");

  b = bench_open(NULL);
  CHECK_OK(b.t->host_alloc(b.d, 64, &p, &err), err);
  CHECK_OK(b.t->download_async(b.s, p, b.x, 64, &err), err);
  b.t->host_free(b.d, p); /* not waited for */
  bench_close(&b, "still uses");
}

int main(void) {
  static const ds_host host = {
      {sizeof host, DS_ABI_MAJOR, DS_ABI_MINOR}, NULL, log_message, host_alloc, host_free};
  ds_error err;
  unsetenv("DS_STRICT");
  void *library = dlopen(STRICT_PLUGIN_DIR "/dscore_strict.so", RTLD_NOW | RTLD_LOCAL);
  if (!library) return fprintf(stderr, "%s\n", dlerror()), 1;
  void *symbol = dlsym(library, "ds_plugin_query");
  ds_plugin_query_fn *query;
  memcpy(&query, &symbol, sizeof query);
  plugin = query(&host, (ds_version_range){DS_ABI_MAJOR, DS_ABI_MINOR, DS_ABI_MINOR, 0}, &err);
  CHECK(plugin != NULL);
  if (!plugin) return 1;
  test_allowed();
  test_memory();
  test_descriptors();
  test_order();
  test_handles();
  test_threads();
  test_failures_of_work();
  test_failures_behind_events();
  test_destroy_waits();
  test_graphs();
  test_failures_of_graphs();
  test_memory_of_streams();
  return TEST_RESULT();
}
