/* test_trace.c - collectives in a trace: on a stream beside the computing one, they overlap what is
 * computed meanwhile; and what the comms logger counts of them.
 *
 * usage: [mpirun -n N] test_trace PLUGIN_FOLDER N [BACKEND]
 * Overlap is proved by order, not by time: each rank joins the allreduce only when it got a message
 * that the one before sends from its computing stream, after it gave its own part of the allreduce
 * to the stream beside.
 */
#include "unit/test.h"

#include "backend/span.h"
#include "base/json.h"
#include "base/str.h"
#include "parallel/world.h"

#include <stdlib.h>
#include <time.h>

enum { N = 1 << 12, STEPS = 3 };
enum { LONG = 300000000 }; /* nanoseconds */

static int ranks;
static const char *plugins, *backend = "cpu";

static ds_status put(void *ctx, const void *data, size_t bytes, ds_error *err) {
  ds_str_append(ctx, data, bytes);
  return ds_str_status(ctx, err);
}

static cJSON *events_of(ds_trace *t, int rank) {
  ds_error err;
  ds_str text = {0};
  cJSON *tree = NULL;
  ds_str_puts(&text, ds_trace_head);
  CHECK_OK(ds_trace_print(t, rank, put, &text, &err), err);
  ds_str_puts(&text, ds_trace_tail);
  CHECK_OK(ds_json_parse(text.data, text.length, 0, "the trace", &tree, &err), err);
  ds_str_finish(&text);
  return tree;
}

static const cJSON *event_of(const cJSON *tree, const char *name, int step) {
  const cJSON *e;
  cJSON_ArrayForEach(e, cJSON_GetObjectItem(tree, "traceEvents")) {
    const cJSON *s = cJSON_GetObjectItem(cJSON_GetObjectItem(e, "args"), "step");
    if (strcmp(cJSON_GetObjectItem(e, "name")->valuestring, name) == 0 && s && s->valueint == step)
      return e;
  }
  return NULL;
}

static double begin_of(const cJSON *e) {
  return e ? cJSON_GetObjectItem(e, "ts")->valuedouble : NAN;
}
static double end_of(const cJSON *e) {
  return e ? begin_of(e) + cJSON_GetObjectItem(e, "dur")->valuedouble : NAN;
}
static int number_of(const cJSON *e, const char *key) {
  return e ? cJSON_GetObjectItem(e, key)->valueint : -1;
}
static const char *group_of(const cJSON *e) {
  const cJSON *g = e ? cJSON_GetObjectItem(cJSON_GetObjectItem(e, "args"), "group") : NULL;
  return g ? g->valuestring : "";
}

typedef struct setting {
  ds_backend *b;
  ds_world world;
  ds_group *signal; /* the world again: its messages pass those of the world */
  ds_side *side;
  float *x, *y;
  ds_trace *trace;
  ds_comms_log *comms;
} setting;

static void open_setting(setting *s) {
  ds_error err;
  char text[512];
  ds_backend_config config;
  cJSON *tree;
  const ds_logger silent = {NULL, NULL};
  ds_world_args args = {.local_rank = -1, .distributed_port = -1, .dist_init_required = -1};
  ds_comms_log_options options = {.ops = 127, .by_group = true};
  void *p;
  memset(s, 0, sizeof *s);
  snprintf(text, sizeof text, "{\"name\": \"%s\", \"plugin_path\": \"%s\"}", backend, plugins);
  CHECK_OK(ds_json_parse(text, strlen(text), 0, "test", &tree, &err), err);
  CHECK_OK(ds_backend_config_parse(tree, &config, &err), err);
  cJSON_Delete(tree);
  CHECK_OK(ds_backend_open(&config, &silent, &s->b, &err), err);
  ds_backend_config_finish(&config);
  if (!s->b) exit(1);
  CHECK_OK(ds_world_init(&s->world, s->b, &args, &silent, &err), err);
  CHECK(s->world.size == ranks);
  if (s->world.size != ranks) exit(1);
  if (ranks > 1)
    CHECK_OK(ds_group_split(s->world.group, "signal", 0, s->world.rank, &s->signal, &err), err);
  CHECK_OK(ds_side_create(s->b, &s->side, &err), err);
  CHECK_OK(ds_backend_alloc(s->b, 2 * N * sizeof(float), &p, &err), err);
  s->x = p;
  s->y = s->x + N;
  CHECK_OK(ds_backend_fill(s->b, p, 0, 2 * N * sizeof(float), &err), err);
  CHECK_OK(ds_trace_create(1000, &s->trace, &err), err);
  CHECK_OK(ds_comms_log_create(&options, &silent, &s->comms, &err), err);
  CHECK_OK(ds_span_start(s->b, s->trace, s->comms, &err), err);
}

static void close_setting(setting *s) {
  ds_side_destroy(s->side);
  ds_group_destroy(s->signal);
  ds_world_finish(&s->world);
  ds_backend_free(s->b, s->x, 2 * N * sizeof(float));
  ds_backend_close(s->b);
  ds_trace_destroy(s->trace);
  ds_comms_log_destroy(s->comms);
}

/* A backward pass: what is reduced beside it ends within it, and not before the message that is
 * sent meanwhile has come. */
static void step(setting *s) {
  ds_error err;
  int rank = s->world.rank;
  bool last = rank + 1 == ranks;
  ds_span *span = ds_span_begin(s->b, NULL, DS_SPAN_COMPUTE, "backward");
  CHECK(span != NULL);
  if (rank > 0) CHECK_OK(ds_group_recv(s->signal, NULL, s->y, 1, DS_F32, rank - 1, &err), err);
  CHECK_OK(ds_backend_sync(s->b, &err), err);
  /* Long enough for threads that take times to get a core: the others wait for it in the collective. */
  if (last) nanosleep(&(struct timespec){0, LONG}, NULL);
  CHECK_OK(ds_side_follow(s->side, &err), err);
  CHECK_OK(ds_group_allreduce(s->world.group, s->side, s->x, s->x, N, DS_F32, DS_REDUCE_SUM, &err),
           err);
  CHECK_OK(ds_backend_fill(s->b, s->y, 0, N * sizeof(float), &err), err);
  if (!last) CHECK_OK(ds_group_send(s->signal, NULL, s->y, 1, DS_F32, rank + 1, &err), err);
  CHECK_OK(ds_side_join(s->side, &err), err);
  CHECK_OK(ds_backend_sync(s->b, &err), err);
  ds_span_end(span);
}

static void check_rows(setting *s) {
  ds_error err;
  const ds_comms_stats *rows;
  size_t n, seen = 0;
  CHECK_OK(ds_comms_log_rows(s->comms, &rows, &n, &err), err);
  for (size_t i = 0; i < n; i++) {
    const ds_comms_stats *r = &rows[i];
    CHECK(r->calls == STEPS && r->timed == STEPS && r->ranks == ranks);
    CHECK(r->least_seconds >= 0 && r->least_seconds <= r->most_seconds &&
          r->most_seconds <= r->seconds);
    if (strcmp(r->op, "allreduce") != 0) continue;
    seen++;
    uint64_t bytes = N * sizeof(float);
    CHECK(strcmp(r->group, "world") == 0 && r->message_bytes == bytes);
    CHECK(r->sent_bytes == STEPS * 2 * bytes * (uint64_t)(ranks - 1) / (uint64_t)ranks);
  }
  CHECK(seen == 1);
}

static void test_overlap(void) {
  setting s;
  open_setting(&s);
  int rank = s.world.rank;
  for (int i = 1; i <= STEPS; i++) {
    ds_span_at(s.b, i, 0);
    step(&s);
  }
  ds_span_drain(s.b);
  check_rows(&s);
  cJSON *tree = events_of(s.trace, rank);
  for (int i = 1; i <= STEPS; i++) {
    const cJSON *comm = event_of(tree, "allreduce", i), *back = event_of(tree, "backward", i);
    const cJSON *sent = event_of(tree, "send", i);
    CHECK(comm && back && number_of(comm, "pid") == rank);
    CHECK(number_of(comm, "tid") != number_of(back, "tid"));
    CHECK(strcmp(group_of(comm), "world") == 0);
    CHECK(begin_of(comm) < end_of(back) && begin_of(back) < end_of(comm));
    if (rank + 1 == ranks) continue;
    CHECK(begin_of(sent) >= begin_of(back) - 1 && end_of(sent) <= end_of(back) + 1e-3 * LONG);
    CHECK(end_of(sent) <= end_of(comm) + 1e-3 * LONG); /* microseconds */
    CHECK(strcmp(group_of(sent), "signal") == 0);
  }
  cJSON_Delete(tree);
  close_setting(&s);
}

int main(int argc, char **argv) {
  if (argc < 3) return 2;
  plugins = argv[1];
  ranks = atoi(argv[2]);
  if (argc > 3) backend = argv[3];
  test_overlap();
  return TEST_RESULT();
}
