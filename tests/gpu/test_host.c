/* test_host.c - the host code of the GPU plugins on emulated devices (tests/simt), where `ds conform` can't see: the staging
 * ring, failures that travel along events, scratch of graphs, a lost device. Nothing runs on an emulated stream until
 * somebody waits, so "it didn't wait" can be checked. */
#include <stdlib.h>
#include <string.h>

#include "device.h"
#include "staging.h"
#include "test.h"

static ds_error err;
static const ds_device_table *const d = &gpu_device_table;
static const ds_graph_table *const graphs = &gpu_graph_table;

static ds_device *open_device(int index) {
  ds_device *dev = NULL;
  CHECK_OK(d->open(index, NULL, &dev, &err), err);
  return dev;
}

static ds_stream *make_stream(ds_device *dev) {
  ds_stream *s = NULL;
  CHECK_OK(d->stream_create(dev, &s, &err), err);
  return s;
}

static ds_event *make_event(ds_device *dev) {
  ds_event *e = NULL;
  CHECK_OK(d->event_create(dev, &e, &err), err);
  return e;
}

static void *make_memory(ds_device *dev, size_t bytes) {
  void *p = NULL;
  CHECK_OK(d->alloc(dev, bytes, &p, &err), err);
  return p;
}

static unsigned char pattern(size_t i) {
  return (unsigned char)(i * 7 + i / 251 + i / 65537);
}

static void set(void *flag) {
  *(int *)flag = 1;
}

/* A piece of work that can be seen to have run. */
static void flag(ds_stream *s, int *ran) {
  *ran = 0;
  CHECK_OK(gpu_ready(s, &err), err);
  CHECK_OK(gpu_given(s, gpuLaunchHostFunc(s->handle, set, ran), "flag", &err), err);
}

/* ---------------------------------------------------------------- transfers */

static void test_upload_large(ds_device *dev) {
  enum { BYTES = 2 * GPU_RING_SLOTS * GPU_RING_SLOT_BYTES + 4099 };
  ds_stream *s = make_stream(dev);
  unsigned char *host = malloc(BYTES);
  unsigned char *p = make_memory(dev, BYTES);
  for (size_t i = 0; i < BYTES; i++) host[i] = pattern(i);
  CHECK_OK(d->upload(s, p, host, BYTES, &err), err);
  memset(host, 0, BYTES);
  CHECK_OK(d->download(s, host, p, BYTES, &err), err);
  size_t wrong = 0;
  for (size_t i = 0; i < BYTES; i++) wrong += host[i] != pattern(i);
  CHECK(wrong == 0);
  d->free(dev, p);
  free(host);
  d->stream_destroy(s);
}

/* The source changes at once, the call doesn't wait, and a slot isn't written while work may read it. */
static void test_upload_small(ds_device *dev) {
  enum { PIECE = 1000, FIT = 3 * GPU_RING_SLOT_BYTES / 1024, ALL = 3 * FIT };
  ds_stream *s = make_stream(dev);
  unsigned char piece[PIECE], *back = malloc((size_t)ALL * PIECE);
  unsigned char *p = make_memory(dev, (size_t)ALL * PIECE);
  int ran;
  flag(s, &ran);
  for (size_t n = 0; n < ALL; n++) {
    for (size_t i = 0; i < PIECE; i++) piece[i] = pattern(n * PIECE + i);
    CHECK_OK(d->upload(s, p + n * PIECE, piece, PIECE, &err), err);
    memset(piece, 0xff, PIECE);
    if (n + 1 == FIT) CHECK(!ran);
  }
  CHECK_OK(d->download(s, back, p, (size_t)ALL * PIECE, &err), err);
  CHECK(ran);
  size_t wrong = 0;
  for (size_t i = 0; i < (size_t)ALL * PIECE; i++) wrong += back[i] != pattern(i);
  CHECK(wrong == 0);
  d->free(dev, p);
  free(back);
  d->stream_destroy(s);
}

static void test_pinned(ds_device *dev) {
  enum { BYTES = 5000 };
  ds_stream *s = make_stream(dev);
  unsigned char *p = make_memory(dev, BYTES);
  void *host = NULL;
  CHECK_OK(d->host_alloc(dev, 2 * BYTES, &host, &err), err);
  unsigned char *from = host, *to = from + BYTES;
  int ran;
  flag(s, &ran);
  for (size_t i = 0; i < BYTES; i++) from[i] = pattern(i);
  memset(to, 0, BYTES);
  CHECK_OK(d->upload_async(s, p, from, BYTES, &err), err);
  CHECK_OK(d->download_async(s, to, p, BYTES, &err), err);
  CHECK_OK(d->copy(s, p, p, 0, &err), err);
  CHECK(!ran && to[1] == 0);
  CHECK_OK(d->stream_sync(s, &err), err);
  CHECK(ran && memcmp(from, to, BYTES) == 0);
  CHECK_FAILS(d->host_alloc(dev, 0, &host, &err), DS_ERR_INVALID, err, "0 bytes");
  CHECK_FAILS(d->host_alloc(dev, SIZE_MAX, &host, &err), DS_ERR_MEMORY, err, "host_alloc");
  d->host_free(dev, from);
  d->host_free(dev, NULL);
  d->free(dev, p);
  d->stream_destroy(s);
}

static void test_peer_copy(ds_device *a, ds_device *b) {
  enum { BYTES = 777 };
  ds_device *third = open_device(0); /* of the same card as a, and another device all the same */
  ds_stream *sa = make_stream(a), *sb = make_stream(b), *st = make_stream(third);
  unsigned char *pa = make_memory(a, BYTES), *pb = make_memory(b, BYTES), back[BYTES];
  CHECK_OK(d->fill(sa, pa, 5, BYTES, &err), err);
  CHECK_OK(d->peer_copy(sa, b, pb, a, pa, BYTES, &err), err);
  CHECK_OK(d->stream_sync(sa, &err), err);
  CHECK_OK(d->download(sb, back, pb, BYTES, &err), err);
  CHECK(back[0] == 5 && back[BYTES - 1] == 5);
  CHECK_OK(d->fill(sb, pb, 6, BYTES, &err), err);
  CHECK_OK(d->peer_copy(sb, a, pa, b, pb, BYTES, &err), err);
  CHECK_OK(d->stream_sync(sb, &err), err);
  CHECK_OK(d->peer_copy(st, third, pa, a, pa + 400, 300, &err), err); /* two devices of one card */
  CHECK_OK(d->stream_sync(st, &err), err);
  CHECK_OK(d->download(sa, back, pa, BYTES, &err), err);
  CHECK(back[0] == 6 && back[BYTES - 1] == 6);
  CHECK_FAILS(d->peer_copy(st, b, pb, a, pa, BYTES, &err), DS_ERR_INVALID, err, "either");
  CHECK_OK(d->peer_copy(sa, b, pb, a, pa, 0, &err), err);
  d->free(a, pa);
  d->free(b, pb);
  d->stream_destroy(sa);
  d->stream_destroy(sb);
  d->stream_destroy(st);
  d->close(third);
}

/* ---------------------------------------------------------------- memory */

static void test_stream_memory(ds_device *dev) {
  enum { BYTES = 4096 };
  ds_stream *s = make_stream(dev);
  unsigned char back[BYTES];
  void *p = NULL, *q = NULL;
  for (int round = 0; round < 3; round++) {
    CHECK_OK(d->stream_alloc(s, BYTES, &p, &err), err);
    CHECK_OK(d->fill(s, p, (uint8_t)round, BYTES, &err), err);
    CHECK_OK(d->stream_alloc(s, BYTES, &q, &err), err);
    CHECK_OK(d->copy(s, q, p, BYTES, &err), err);
    CHECK_OK(d->stream_free(s, p, &err), err);
    CHECK_OK(d->download(s, back, q, BYTES, &err), err);
    CHECK(back[0] == round && back[BYTES - 1] == round);
    d->free(dev, q); /* memory of stream_alloc */
    p = make_memory(dev, BYTES);
    CHECK_OK(d->fill(s, p, 1, BYTES, &err), err);
    CHECK_OK(d->stream_free(s, p, &err), err); /* memory of alloc */
    CHECK_OK(d->stream_sync(s, &err), err);
  }
  CHECK_OK(d->stream_free(s, NULL, &err), err);
  CHECK_FAILS(d->stream_alloc(s, 0, &p, &err), DS_ERR_INVALID, err, "0 bytes");
  CHECK_FAILS(d->stream_alloc(s, SIZE_MAX, &p, &err), DS_ERR_MEMORY, err, "free of");
  d->stream_destroy(s);
}

static void test_exhausted(ds_device *dev) {
  ds_stream *s = make_stream(dev);
  const size_t most = dev->memory_total / 4 * 3;
  void *p = NULL, *q = NULL;
  CHECK_OK(d->stream_alloc(s, most, &p, &err), err);
  CHECK_FAILS(d->alloc(dev, most, &q, &err), DS_ERR_MEMORY, err, "no room");
  CHECK_FAILS(d->stream_alloc(s, most, &q, &err), DS_ERR_MEMORY, err, "no room");
  CHECK_OK(d->stream_free(s, p, &err), err);
  CHECK_OK(d->stream_sync(s, &err), err); /* alive; and alloc gets the memory back */
  q = make_memory(dev, most);
  d->free(dev, q);
  d->stream_destroy(s);
}

/* ---------------------------------------------------------------- failures behind events */

static void check_dead(ds_stream *s) {
  CHECK_FAILS(d->stream_sync(s, &err), DS_ERR_TIMEOUT, err, "allreduce gave up");
  CHECK_FAILS(d->upload(s, NULL, NULL, 0, &err), DS_ERR_TIMEOUT, err, "allreduce gave up");
  CHECK_FAILS(graphs->begin(s, &err), DS_ERR_TIMEOUT, err, "allreduce gave up");
}

/* s[0] fails at its second work. s[1] waits for what was recorded behind it, s[2] for s[1]; s[3] only for what
 * stands before it; s[4] waits when all is over. */
static void test_failure_travels(ds_device *dev, bool collective_first) {
  ds_stream *s[5];
  ds_event *early = make_event(dev), *late = make_event(dev), *second = make_event(dev),
           *before_wait = make_event(dev);
  int ran, after;
  for (int i = 0; i < 5; i++) s[i] = make_stream(dev);
  flag(s[0], &ran);
  CHECK_OK(d->event_record(early, s[0], &err), err);
  flag(s[0], &ran);
  const uint64_t failed = s[0]->position;
  if (collective_first)
    gpu_fate_end(s[0]->fate, failed, DS_ERR_TIMEOUT, "allreduce gave up after %d ms", 7);
  else
    CHECK_OK(d->event_record(late, s[0], &err), err);
  if (!collective_first) {
    flag(s[1], &after);
    CHECK_OK(d->event_record(before_wait, s[1], &err), err);
    CHECK_OK(d->event_wait(late, s[1], &err), err);
    CHECK_OK(d->event_record(second, s[1], &err), err);
    CHECK_OK(d->event_wait(second, s[2], &err), err);
    CHECK_OK(d->event_wait(early, s[3], &err), err);
    gpu_fate_end(s[0]->fate, failed, DS_ERR_TIMEOUT, "allreduce gave up after %d ms", 7);
    CHECK_FAILS(d->event_sync(late, &err), DS_ERR_TIMEOUT, err, "allreduce gave up");
    CHECK_FAILS(d->event_sync(second, &err), DS_ERR_TIMEOUT, err, "allreduce gave up");
    CHECK_OK(d->event_sync(before_wait, &err), err);
    CHECK_FAILS(d->event_wait(late, s[4], &err), DS_ERR_TIMEOUT, err, "allreduce gave up");
    check_dead(s[1]);
    check_dead(s[2]);
    check_dead(s[4]);
  }
  CHECK_OK(d->event_sync(early, &err), err);
  gpu_fate_end(s[0]->fate, 1, DS_ERR_ABORTED, "later, and not what counts");
  check_dead(s[0]);
  CHECK(ran); /* who reported it has waited: nothing touches memory any more */
  CHECK_FAILS(d->event_record(early, s[0], &err), DS_ERR_TIMEOUT, err, "allreduce gave up");
  CHECK_OK(d->stream_sync(s[3], &err), err);
  ds_stream *fresh = make_stream(dev);
  CHECK_OK(d->event_wait(early, fresh, &err), err);
  CHECK_OK(d->stream_sync(fresh, &err), err);
  d->stream_destroy(s[0]);
  if (!collective_first) /* an event outlives its stream */
    CHECK_FAILS(d->event_sync(late, &err), DS_ERR_TIMEOUT, err, "allreduce gave up");
  d->stream_destroy(fresh);
  for (int i = 1; i < 5; i++) d->stream_destroy(s[i]);
  ds_event *all[] = {early, late, second, before_wait};
  for (int i = 0; i < 4; i++) d->event_destroy(all[i]);
}

/* Who is told that a stream is dead may free what its work used: the work has ended by then. */
static void test_dead_is_drained(ds_device *dev) {
  ds_stream *s = make_stream(dev);
  int ran;
  flag(s, &ran);
  CHECK(gpu_kill(s, DS_ERR_ABORTED, &err, "given up") == DS_ERR_ABORTED);
  CHECK(!ran);
  CHECK_FAILS(d->fill(s, NULL, 0, 0, &err), DS_ERR_ABORTED, err, "given up");
  CHECK(ran);
  d->stream_destroy(s);
}

/* Two streams wait for each other, step after step; then one fails. */
static void test_failure_after_steps(ds_device *dev) {
  ds_stream *a = make_stream(dev), *b = make_stream(dev), *c = make_stream(dev);
  ds_event *e = make_event(dev), *f = make_event(dev), *last = make_event(dev);
  int ran;
  for (int step = 0; step < 100; step++) {
    flag(a, &ran);
    CHECK_OK(d->event_record(e, a, &err), err);
    CHECK_OK(d->event_wait(e, b, &err), err);
    flag(b, &ran);
    CHECK_OK(d->event_record(f, b, &err), err);
    CHECK_OK(d->event_wait(f, a, &err), err);
    if (step % 10 == 0) CHECK_OK(d->stream_sync(a, &err), err);
  }
  CHECK_OK(d->event_wait(f, c, &err), err);
  CHECK_OK(d->event_record(last, c, &err), err);
  CHECK_OK(d->event_sync(last, &err), err);
  CHECK_OK(d->stream_sync(b, &err), err);
  CHECK(gpu_kill(a, DS_ERR_TIMEOUT, &err, "allreduce gave up") == DS_ERR_TIMEOUT);
  check_dead(a);
  CHECK_OK(d->stream_sync(b, &err), err); /* it waited for nothing that failed */
  CHECK_OK(d->event_sync(last, &err), err);
  CHECK_OK(d->event_wait(f, c, &err), err);
  d->event_destroy(e);
  d->event_destroy(f);
  d->event_destroy(last);
  d->stream_destroy(a);
  d->stream_destroy(b);
  d->stream_destroy(c);
}

/* ---------------------------------------------------------------- graphs */

static void test_graph_failure(ds_device *dev, ds_device *other) {
  ds_stream *s = make_stream(dev);
  unsigned char *p = make_memory(dev, 64), back[64];
  ds_graph *g = NULL;
  CHECK_FAILS(graphs->end(s, &g, &err), DS_ERR_STATE, err, "without begin");
  CHECK_OK(graphs->begin(s, &err), err);
  CHECK_FAILS(d->stream_sync(s, &err), DS_ERR_STATE, err, "stream_sync can't be recorded");
  CHECK_FAILS(d->stream_free(s, p, &err), DS_ERR_STATE, err, "stream_free can't be recorded");
  CHECK_FAILS(d->peer_copy(s, other, p, dev, p, 1, &err), DS_ERR_UNSUPPORTED, err, "peer_copy");
  CHECK_OK(d->fill(s, p, 9, 64, &err), err);
  gpu_fail(&err, DS_ERR_UNSUPPORTED, "op 9999 isn't there");
  CHECK(gpu_done(s, DS_ERR_UNSUPPORTED, &err) == DS_ERR_UNSUPPORTED);
  gpu_fail(&err, DS_ERR_INVALID, "another");
  CHECK(gpu_done(s, DS_ERR_INVALID, &err) == DS_ERR_INVALID);
  CHECK_OK(graphs->end(s, &g, &err), err); /* what was refused is left out */
  graphs->destroy(g);
  CHECK_OK(d->fill(s, p, 1, 64, &err), err); /* as before begin */
  CHECK_OK(graphs->begin(s, &err), err);
  CHECK(gpu_done(s, DS_ERR_MEMORY, NULL) == DS_ERR_MEMORY);
  CHECK_FAILS(graphs->end(s, &g, &err), DS_ERR_MEMORY, err, "while it was recorded");
  CHECK_OK(d->download(s, back, p, 64, &err), err);
  CHECK(back[0] == 1);
  d->free(dev, p);
  d->stream_destroy(s);
}

/* A stream that dies while it records: its work before the recording is over when the first call says so. */
static void test_death_amid_recording(ds_device *dev) {
  ds_stream *s = make_stream(dev);
  unsigned char *p = make_memory(dev, 64);
  ds_graph *g = NULL;
  int ran;
  flag(s, &ran);
  CHECK_OK(graphs->begin(s, &err), err);
  CHECK(gpu_kill(s, DS_ERR_TIMEOUT, &err, "a peer is late") == DS_ERR_TIMEOUT);
  CHECK(!ran);
  CHECK_FAILS(d->fill(s, p, 1, 64, &err), DS_ERR_TIMEOUT, err, "a peer is late");
  CHECK(ran);
  CHECK_FAILS(graphs->end(s, &g, &err), DS_ERR_TIMEOUT, err, "a peer is late");
  d->free(dev, p);
  d->stream_destroy(s);
}

/* A recording that somebody spoiled: nothing is wrong with the device, and what was to be recorded can run as ever. */
static void test_spoiled_recording(ds_device *dev) {
  ds_stream *s = make_stream(dev);
  unsigned char *p = make_memory(dev, 64);
  ds_graph *g = NULL;
  CHECK_OK(graphs->begin(s, &err), err);
  CHECK(gpuStreamSynchronize(s->handle) != gpuSuccess);
  CHECK_FAILS(graphs->end(s, &g, &err), DS_ERR_UNSUPPORTED, err, "end of a recording");
  CHECK_OK(d->fill(s, p, 1, 64, &err), err);
  CHECK_OK(d->stream_sync(s, &err), err);
  d->free(dev, p);
  d->stream_destroy(s);
}

/* Work that needs scratch: what a graph recorded is its own, and outlives the stream it was recorded on. */
static void test_graph_scratch(ds_device *dev) {
  ds_stream *s = make_stream(dev), *t = make_stream(dev);
  unsigned char *p = make_memory(dev, 4096), back[4096];
  void *small = NULL, *large = NULL, *own = NULL;
  ds_graph *g = NULL;
  CHECK_OK(gpu_ready(s, &err), err);
  CHECK_OK(gpu_scratch(s, GPU_SCRATCH_GEMM, 4096, &own, &err), err);
  CHECK_OK(graphs->begin(s, &err), err);
  CHECK_OK(gpu_scratch(s, GPU_SCRATCH_GEMM, 16, &small, &err), err);
  CHECK_OK(d->fill(s, small, 3, 16, &err), err);
  CHECK_OK(d->copy(s, p, small, 16, &err), err);
  CHECK_OK(gpu_scratch(s, GPU_SCRATCH_GEMM, 4000, &large, &err), err);
  CHECK_OK(d->fill(s, large, 4, 4000, &err), err);
  CHECK_OK(d->copy(s, p + 16, large, 4000, &err), err);
  CHECK_OK(graphs->end(s, &g, &err), err);
  CHECK(small != own && large != own && small != large);
  void *again = NULL;
  CHECK_OK(gpu_scratch(s, GPU_SCRATCH_GEMM, 4000, &again, &err), err);
  CHECK(again == own);
  CHECK_OK(gpu_scratch(s, GPU_SCRATCH_GEMM, 9000, &again, &err), err);
  d->stream_destroy(s);
  for (int i = 0; i < 3; i++) {
    CHECK_OK(d->fill(t, p, 0, 4096, &err), err);
    CHECK_OK(graphs->launch(t, g, &err), err);
    CHECK_OK(d->download(t, back, p, 4096, &err), err);
    CHECK(back[0] == 3 && back[15] == 3 && back[16] == 4 && back[4015] == 4 && back[4016] == 0);
  }
  /* A recording that is dropped with its stream. */
  s = make_stream(dev);
  CHECK_OK(graphs->begin(s, &err), err);
  CHECK_OK(gpu_scratch(s, GPU_SCRATCH_QUANT, 100, &small, &err), err);
  CHECK_OK(d->fill(s, p, 77, 4096, &err), err);
  CHECK_FAILS(graphs->launch(s, g, &err), DS_ERR_STATE, err, "launch can't be recorded");
  d->stream_destroy(s);
  CHECK_OK(d->download(t, back, p, 1, &err), err);
  CHECK(back[0] == 3);
  graphs->destroy(g);
  graphs->destroy(NULL);
  d->free(dev, p);
  d->stream_destroy(t);
}

/* One graph's launches run one after another, whatever the streams: who waits for the second waits for the first. */
static void test_graph_order(ds_device *dev) {
  ds_stream *s = make_stream(dev), *t = make_stream(dev);
  ds_graph *g = NULL;
  int ran;
  CHECK_OK(graphs->begin(s, &err), err);
  CHECK_OK(graphs->end(s, &g, &err), err);
  flag(t, &ran);
  CHECK_OK(graphs->launch(t, g, &err), err);
  CHECK_OK(graphs->launch(s, g, &err), err);
  CHECK(!ran);
  CHECK_OK(d->stream_sync(s, &err), err);
  CHECK(ran);
  graphs->destroy(g);
  d->stream_destroy(s);
  d->stream_destroy(t);
}

/* ---------------------------------------------------------------- the rest */

static void test_options(void) {
  static const struct {
    const char *text;
    ds_status status;
    const char *said;
  } cases[] = {
      {NULL, DS_OK, ""},
      {"", DS_OK, ""},
      {"{}", DS_OK, ""},
      {" {\"tf32\": true} ", DS_OK, ""},
      {"{\"tf32\": 1}", DS_ERR_INVALID, "\"tf32\" must be true or false"},
      {"{\"tf32\": true, \"tf32\": false}", DS_ERR_INVALID, "twice"},
      {"{\"threads\": 4}", DS_ERR_INVALID, "no \"threads\"; known is \"tf32\""},
      {"[]", DS_ERR_INVALID, "must be a JSON object"},
      {"{\"tf32\": tru}", DS_ERR_INVALID, "not JSON"},
      {"{} {}", DS_ERR_INVALID, "not JSON"},
  };
  for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
    ds_device dev = {.tf32 = false};
    CHECK_FAILS(gpu_options_parse(cases[i].text, &dev, &err), cases[i].status, err, cases[i].said);
    if (cases[i].status == DS_OK) CHECK(dev.tf32 == (i == 3));
  }
}

/* Work that writes beyond its memory: a device that is lost. */
static void test_lost_device(ds_device *dev) {
  ds_stream *s = make_stream(dev), *t = NULL;
  ds_event *e = make_event(dev);
  unsigned char *p = make_memory(dev, 64);
  CHECK_OK(d->fill(s, p, 1, 64, &err), err);
  CHECK_OK(d->fill(s, p + 32, 1, 64, &err), err);
  CHECK_OK(d->event_record(e, s, &err), err);
  CHECK_FAILS(d->stream_sync(s, &err), DS_ERR_DEVICE, err, "fill");
  char first[sizeof err.message];
  memcpy(first, err.message, sizeof first);
  CHECK_FAILS(d->copy(s, p, p + 32, 8, &err), DS_ERR_DEVICE, err, "fill");
  CHECK(strcmp(first, err.message) == 0);
  CHECK_FAILS(d->event_sync(e, &err), DS_ERR_DEVICE, err, "event_sync");
  CHECK(d->stream_create(dev, &t, &err) == DS_ERR_DEVICE);
  void *q = NULL;
  CHECK(d->alloc(dev, 64, &q, &err) == DS_ERR_DEVICE);
  d->event_destroy(e);
  d->stream_destroy(s);
  d->free(dev, p);
}

int main(void) {
  setenv("DS_SIMT_MEMORY", "268435456", 1);
  setenv("DS_SIMT_DEVICES", "2", 1);
  ds_device *a = open_device(0), *b = open_device(1);
  test_options();
  test_upload_large(a);
  test_upload_small(a);
  test_pinned(a);
  test_peer_copy(a, b);
  test_stream_memory(a);
  test_exhausted(a);
  test_failure_travels(a, false);
  test_failure_travels(a, true);
  test_dead_is_drained(a);
  test_failure_after_steps(a);
  test_graph_failure(a, b);
  test_death_amid_recording(a);
  test_spoiled_recording(a);
  test_graph_scratch(a);
  test_graph_order(a);
  test_lost_device(b);
  d->close(a);
  d->close(b);
  return test_result();
}
