/* test_span.c - spans of a backend's work: on a backend that computes in the call, and without
 * events; that they nest and follow each other; what is left open; and the comms logger's arithmetic. */
#include "backend/backend_impl.h"
#include "backend/group.h"
#include "backend/plugin_folder.h"
#include "backend/span.h"
#include "base/json.h"
#include "base/str.h"

static plugin_folder folder;
static memory_log log_;

static ds_status put(void *ctx, const void *data, size_t bytes, ds_error *err) {
  ds_str_append(ctx, data, bytes);
  return ds_str_status(ctx, err);
}

/* All events of a trace, in the order they ended. */
static cJSON *events_of(ds_trace *t) {
  ds_error err;
  ds_str text = {0};
  cJSON *tree = NULL;
  ds_str_puts(&text, ds_trace_head);
  CHECK_OK(ds_trace_print(t, 0, put, &text, &err), err);
  ds_str_puts(&text, ds_trace_tail);
  CHECK_OK(ds_json_parse(text.data, text.length, 0, "the trace", &tree, &err), err);
  ds_str_finish(&text);
  return tree;
}

typedef struct event {
  double begin, end; /* microseconds; NAN: there is no such */
  int step, micro, track;
  const char *note;
} event;

static event find(const cJSON *tree, const char *name) {
  const cJSON *e;
  event out = {NAN, NAN, -1, -1, -1, ""};
  cJSON_ArrayForEach(e, cJSON_GetObjectItem(tree, "traceEvents")) {
    if (strcmp(cJSON_GetObjectItem(e, "name")->valuestring, name) != 0) continue;
    const cJSON *args = cJSON_GetObjectItem(e, "args");
    const cJSON *step = cJSON_GetObjectItem(args, "step"),
                *note = cJSON_GetObjectItem(args, "note");
    const cJSON *micro = cJSON_GetObjectItem(args, "micro");
    out.begin = cJSON_GetObjectItem(e, "ts")->valuedouble;
    out.end = out.begin + cJSON_GetObjectItem(e, "dur")->valuedouble;
    out.track = cJSON_GetObjectItem(e, "tid")->valueint;
    if (step) out.step = step->valueint;
    if (micro) out.micro = micro->valueint;
    if (note) out.note = note->valuestring;
  }
  return out;
}

static void test_spans(const char *config) {
  ds_error err;
  ds_backend *b = NULL;
  ds_trace *t;
  ds_side *side;
  void *memory, *host;
  uint64_t kept, dropped;
  CHECK_OK(open_backend(config, &folder, &log_, &b, &err), err);
  CHECK_OK(ds_trace_create(1000, &t, &err), err);
  CHECK(ds_span_begin(b, NULL, DS_SPAN_COMPUTE, "nothing") == NULL); /* not traced yet */
  ds_span_end(NULL);
  CHECK_OK(ds_span_start(b, t, NULL, &err), err);
  CHECK_FAILS(ds_span_start(b, t, NULL, &err), DS_ERR_STATE, err, "traced already");
  CHECK_OK(ds_side_create(b, &side, &err), err);
  CHECK_OK(ds_backend_alloc(b, 4096, &memory, &err), err);
  CHECK_OK(ds_host_alloc(b, 4096, &host, &err), err);
  memset(host, 1, 4096);
  ds_span_at(b, 3, 1);
  ds_span *outer = ds_span_begin(b, NULL, DS_SPAN_COMPUTE, "outer");
  ds_span *inner = ds_span_begin(b, NULL, DS_SPAN_COMPUTE, "inner");
  CHECK(outer && inner);
  CHECK_OK(ds_backend_fill(b, memory, 0, 4096, &err), err);
  ds_span_end(inner);
  ds_span *second = ds_span_begin(b, NULL, DS_SPAN_COMPUTE, "second");
  ds_span_end(second);
  ds_span_end(outer);
  CHECK_OK(ds_side_follow(side, &err), err);
  CHECK_OK(ds_side_upload(b, side, memory, host, 4096, &err), err);
  ds_span_pause(b, true);
  CHECK(ds_span_begin(b, NULL, DS_SPAN_COMPUTE, "paused") == NULL);
  ds_span_pause(b, false);
  ds_span_at(b, 4, -1);
  ds_span *open = ds_span_begin(b, NULL, DS_SPAN_COMPUTE, "open");
  CHECK(open != NULL);
  CHECK_OK(ds_side_sync(side, &err), err);
  ds_span_drain(b);
  ds_trace_count(t, &kept, &dropped);
  CHECK(kept == 4 && dropped == 0);
  ds_side_destroy(side);
  ds_host_free(b, host);
  ds_backend_free(b, memory, 4096);
  ds_backend_close(b); /* ends the tracing */
  cJSON *tree = events_of(t);
  event o = find(tree, "outer"), i = find(tree, "inner"), s = find(tree, "second");
  event up = find(tree, "upload"), left = find(tree, "open");
  CHECK(o.begin <= i.begin && i.begin <= i.end && i.end <= s.begin && s.begin <= s.end &&
        s.end <= o.end);
  CHECK(o.step == 3 && o.micro == 1 && left.step == 4 && left.micro == -1);
  CHECK(o.track == i.track && up.track != o.track && up.begin <= up.end);
  CHECK(strcmp(left.note, "unfinished") == 0 && left.begin >= o.end && left.end >= left.begin);
  CHECK(o.note[0] == '\0');
  CHECK(isnan(find(tree, "paused").begin));
  cJSON_Delete(tree);
  ds_trace_destroy(t);
}

static const ds_comms_stats *row_of(const ds_comms_stats *rows, size_t n, const char *op,
                                    uint64_t message) {
  for (size_t i = 0; i < n; i++)
    if (strcmp(rows[i].op, op) == 0 && rows[i].message_bytes == message) return &rows[i];
  return NULL;
}

static void test_comms_log(void) {
  ds_error err;
  ds_comms_log *log;
  const ds_comms_stats *rows, *r;
  size_t n;
  const ds_logger logger = {memory_log_write, &log_};
  ds_comms_log_options options = {.ops = 1u << DS_GROUP_ALLREDUCE | 1u << DS_GROUP_ALLGATHER |
                                         1u << DS_GROUP_BROADCAST};
  CHECK_OK(ds_comms_log_create(&options, &logger, &log, &err), err);
  /* 4 ranks, 1 GB in half a second and in one and a half: 1 GB/s, 8 Gbit/s. */
  ds_comms_row *a =
      ds_comms_log_call(log, DS_GROUP_ALLREDUCE, "allreduce", "zero", 4, 1000000000, 7);
  CHECK(a &&
        ds_comms_log_call(log, DS_GROUP_ALLREDUCE, "allreduce", "data", 4, 1000000000, 8) == a);
  ds_comms_log_time(log, a, 500000000);
  ds_comms_log_time(log, a, 1500000000);
  ds_comms_row *g =
      ds_comms_log_call(log, DS_GROUP_ALLGATHER, "allgather", "zero", 4, 1000000000, 0);
  ds_comms_log_time(log, g, 1000000000);
  ds_comms_row *b =
      ds_comms_log_call(log, DS_GROUP_BROADCAST, "broadcast", "zero", 4, 1000000000, 0);
  ds_comms_log_time(log, b, 1000000000);
  CHECK(ds_comms_log_call(log, DS_GROUP_ALLGATHER, "allgather", "zero", 4, 8, 0) != g);
  CHECK(ds_comms_log_call(log, DS_GROUP_ALLGATHER, "allgather", "zero", 2, 1000000000, 0) != g);
  CHECK(ds_comms_log_call(log, DS_GROUP_SEND, "send", "zero", 4, 8, 0) == NULL); /* not asked for */
  CHECK_OK(ds_comms_log_rows(log, &rows, &n, &err), err);
  CHECK(n == 5);
  r = row_of(rows, n, "allreduce", 1000000000);
  CHECK(r && r->calls == 2 && r->timed == 2 && r->sent_bytes == 15 && r->group[0] == '\0');
  CHECK(r->seconds == 2 && r->least_seconds == 0.5 && r->most_seconds == 1.5);
  CHECK_NEAR(r->algorithm_gbps, 16, 1e-9);
  CHECK_NEAR(r->bus_gbps, 12, 1e-9);
  r = row_of(rows, n, "allgather", 1000000000);
  CHECK_NEAR(r->algorithm_gbps, 8, 1e-9);
  CHECK_NEAR(r->bus_gbps, 6, 1e-9);
  r = row_of(rows, n, "broadcast", 1000000000);
  CHECK_NEAR(r->algorithm_gbps, 8, 1e-9);
  CHECK_NEAR(r->bus_gbps, 8, 1e-9);
  CHECK_NEAR(row_of(rows, n, "allgather", 8)->bus_gbps, 0, 0); /* never timed */
  ds_comms_log_destroy(log);

  options = (ds_comms_log_options){.ops = 127, .verbose = true, .by_group = true};
  CHECK_OK(ds_comms_log_create(&options, &logger, &log, &err), err);
  a = ds_comms_log_call(log, DS_GROUP_ALLREDUCE, "allreduce", "zero", 4, 1000000000, 7);
  CHECK(ds_comms_log_call(log, DS_GROUP_ALLREDUCE, "allreduce", "data", 4, 1000000000, 8) != a);
  ds_comms_log_time(log, a, 1000000000);
  CHECK(strstr(log_.text,
               "comm op: allreduce of zero | time (ms): 1000.000 | msg size: 1000000000 | "
               "algbw (Gbps): 16.00 | busbw (Gbps): 12.00"));
  ds_comms_log_destroy(log);
}

int main(void) {
  plugin_folder_make(&folder);
  plugin_folder_link(&folder, "floor");
  test_spans("\"reference\"");
  test_spans("{\"name\": \"floor\", \"fallback\": \"allow\"}");
  test_comms_log();
  plugin_folder_remove(&folder);
  return TEST_RESULT();
}
