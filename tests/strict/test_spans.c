/* test_spans.c - spans of work that runs later than its call, on another thread: a span is as long as
 * the work, and says when it failed. */
#include "backend/span.h"
#include "base/json.h"
#include "base/str.h"
#include "strict_run.h"

enum { HANG_MS = 30 };

static ds_backend *open_strict(const char *options) {
  ds_error err;
  ds_backend *b = NULL;
  ds_backend_config config;
  char text[512];
  cJSON *tree;
  const ds_logger silent = {NULL, NULL};
  snprintf(
      text, sizeof text,
      "{\"name\": \"strict\", \"plugin_path\": \"%s\", \"fallback\": \"allow\", \"options\": {%s}}",
      STRICT_PLUGIN_DIR, options);
  CHECK_OK(ds_json_parse(text, strlen(text), 0, "test", &tree, &err), err);
  CHECK_OK(ds_backend_config_parse(tree, &config, &err), err);
  CHECK_OK(ds_backend_open(&config, &silent, &b, &err), err);
  ds_backend_config_finish(&config);
  cJSON_Delete(tree);
  return b;
}

static ds_status put(void *ctx, const void *data, size_t bytes, ds_error *err) {
  ds_str_append(ctx, data, bytes);
  return ds_str_status(ctx, err);
}

/* The one complete event of a trace: its milliseconds, and whether it says that it failed. */
static double only_span(ds_trace *t, bool *failed) {
  ds_error err;
  ds_str text = {0};
  cJSON *tree = NULL, *e;
  double length = -1;
  int n = 0;
  ds_str_puts(&text, ds_trace_head);
  CHECK_OK(ds_trace_print(t, 0, put, &text, &err), err);
  ds_str_puts(&text, ds_trace_tail);
  CHECK_OK(ds_json_parse(text.data, text.length, 0, "the trace", &tree, &err), err);
  cJSON_ArrayForEach(e, cJSON_GetObjectItem(tree, "traceEvents")) {
    if (strcmp(cJSON_GetObjectItem(e, "ph")->valuestring, "X") != 0) continue;
    n++;
    length = cJSON_GetObjectItem(e, "dur")->valuedouble / 1e3;
    const cJSON *note = cJSON_GetObjectItem(cJSON_GetObjectItem(e, "args"), "note");
    *failed = note && strcmp(note->valuestring, "failed") == 0;
  }
  CHECK(n == 1);
  cJSON_Delete(tree);
  ds_str_finish(&text);
  return length;
}

static double trace_fill(const char *options, bool *failed, ds_status *status) {
  ds_error err;
  ds_backend *b = open_strict(options);
  ds_trace *t;
  void *memory;
  if (!b) return -1;
  CHECK_OK(ds_trace_create(10, &t, &err), err);
  CHECK_OK(ds_backend_alloc(b, 64, &memory, &err), err);
  CHECK_OK(ds_span_start(b, t, NULL, &err), err);
  ds_span *s = ds_span_begin(b, NULL, DS_SPAN_COMPUTE, "fill");
  CHECK(s != NULL);
  CHECK_OK(ds_backend_fill(b, memory, 1, 64, &err), err); /* it runs later */
  ds_span_end(s);
  ds_span_drain(b);
  *status = ds_backend_sync(b, &err);
  double length = only_span(t, failed);
  ds_backend_free(b, memory, 64);
  ds_backend_close(b);
  ds_trace_destroy(t);
  return length;
}

int main(void) {
  bool failed;
  ds_status status;
  char options[128];
  double length = trace_fill("\"abort\": true, \"seed\": 5", &failed, &status);
  CHECK(status == DS_OK && !failed && length >= 0);
  /* The work, not its call, takes that long, and then fails. */
  snprintf(options, sizeof options, "\"hang_work\": 1, \"hang_ms\": %d", HANG_MS);
  length = trace_fill(options, &failed, &status);
  CHECK(status != DS_OK && failed && length >= HANG_MS * 0.9);
  return TEST_RESULT();
}
