/* test_trace.c - the recorder: what is kept, what is dropped and said, and that what it writes is the
 * format that others read: JSON with complete events, names and processes. */
#include "base/file.h"
#include "base/json.h"
#include "base/str.h"
#include "base/trace.h"
#include "test.h"

#include <pthread.h>
#include <stdlib.h>
#include <unistd.h>

static ds_status put(void *ctx, const void *data, size_t bytes, ds_error *err) {
  ds_str_append(ctx, data, bytes);
  return ds_str_status(ctx, err);
}

static cJSON *parse(const ds_str *text) {
  ds_error err;
  cJSON *tree = NULL;
  CHECK_OK(ds_json_parse(text->data, text->length, 0, "the trace", &tree, &err), err);
  return tree;
}

static const cJSON *find(const cJSON *tree, const char *phase, const char *name) {
  const cJSON *e;
  cJSON_ArrayForEach(e, cJSON_GetObjectItem(tree, "traceEvents")) {
    if (strcmp(cJSON_GetObjectItem(e, "ph")->valuestring, phase) == 0 &&
        strcmp(cJSON_GetObjectItem(e, "name")->valuestring, name) == 0)
      return e;
  }
  return NULL;
}

static double number(const cJSON *object, const char *key) {
  const cJSON *item = cJSON_GetObjectItem(object, key);
  return cJSON_IsNumber(item) ? item->valuedouble : NAN;
}

static const char *word(const cJSON *object, const char *key) {
  const cJSON *item = cJSON_GetObjectItem(object, key);
  return cJSON_IsString(item) ? item->valuestring : "";
}

static ds_trace_span span(const char *name, int track, int64_t begin, int64_t end) {
  return (ds_trace_span){name, "compute", track, begin, end, NULL, -1, -1, -1, NULL};
}

static void test_two_ranks(void) {
  ds_error err;
  ds_str text = {0};
  int64_t now = ds_trace_now();
  ds_str_puts(&text, ds_trace_head);
  for (int rank = 0; rank < 2; rank++) {
    ds_trace *t;
    CHECK_OK(ds_trace_create(100, &t, &err), err);
    int compute = ds_trace_track(t, "compute"), comm = ds_trace_track(t, "comm");
    int other = ds_trace_track(t, "comm");
    CHECK(compute != comm && comm != other);
    ds_trace_span s = span(rank ? "backward" : "forward", compute, now, now + 1234567);
    ds_trace_add(t, &s);
    s = (ds_trace_span){"allreduce", "comm", comm, now + 1, now + 2, "zero", 4096, 3, 0, "failed"};
    ds_trace_add(t, &s);
    if (rank) ds_str_puts(&text, ds_trace_comma);
    CHECK_OK(ds_trace_print(t, rank, put, &text, &err), err);
    ds_trace_destroy(t);
  }
  ds_str_puts(&text, ds_trace_tail);
  cJSON *tree = parse(&text);
  const cJSON *forward = find(tree, "X", "forward"), *backward = find(tree, "X", "backward");
  const cJSON *comm = find(tree, "X", "allreduce"), *process = find(tree, "M", "process_name");
  CHECK(number(forward, "pid") == 0 && number(backward, "pid") == 1);
  CHECK(number(forward, "dur") == 1234.567);
  CHECK(number(forward, "tid") != number(comm, "tid"));
  CHECK(number(comm, "ts") >= number(forward, "ts")); /* a nanosecond later */
  const cJSON *args = cJSON_GetObjectItem(comm, "args");
  CHECK(strcmp(word(args, "group"), "zero") == 0 && number(args, "bytes") == 4096);
  CHECK(number(args, "step") == 3 && number(args, "micro") == 0);
  CHECK(strcmp(word(args, "note"), "failed") == 0);
  CHECK(cJSON_GetArraySize(cJSON_GetObjectItem(forward, "args")) == 0);
  CHECK(strncmp(word(cJSON_GetObjectItem(process, "args"), "name"), "rank 0, ", 8) == 0);
  /* 1970 is long ago: microseconds of the system's clock. */
  CHECK(number(forward, "ts") > 1.5e15);
  int threads = 0, second = 0;
  const cJSON *e;
  cJSON_ArrayForEach(e, cJSON_GetObjectItem(tree, "traceEvents")) {
    if (strcmp(word(e, "name"), "thread_name") != 0) continue;
    threads++;
    second += strcmp(word(cJSON_GetObjectItem(e, "args"), "name"), "comm 2") == 0;
  }
  CHECK(threads == 6 && second == 2);
  cJSON_Delete(tree);
  ds_str_finish(&text);
}

enum { LIMIT = 3000, THREADS = 4, EACH = 1000 };

static void *add_many(void *arg) {
  for (int i = 0; i < EACH; i++) {
    ds_trace_span s = span("work", 0, i, i + 1);
    ds_trace_add(arg, &s);
  }
  return NULL;
}

/* Threads that add at once; what is beyond the limit is left out and counted. */
static void test_limit(void) {
  ds_error err;
  ds_trace *t;
  pthread_t threads[THREADS];
  uint64_t kept, dropped;
  CHECK_OK(ds_trace_create(LIMIT, &t, &err), err);
  ds_trace_track(t, "compute");
  for (int i = 0; i < THREADS; i++) pthread_create(&threads[i], NULL, add_many, t);
  for (int i = 0; i < THREADS; i++) pthread_join(threads[i], NULL);
  ds_trace_drop(t);
  ds_trace_count(t, &kept, &dropped);
  CHECK(kept == LIMIT && dropped == THREADS * EACH - LIMIT + 1);
  ds_str text = {0};
  ds_str_puts(&text, ds_trace_head);
  CHECK_OK(ds_trace_print(t, 5, put, &text, &err), err);
  ds_str_puts(&text, ds_trace_tail);
  CHECK(text.length > 1 << 16); /* in several pieces */
  cJSON *tree = parse(&text);
  int events = 0;
  const cJSON *e;
  cJSON_ArrayForEach(e, cJSON_GetObjectItem(tree, "traceEvents")) {
    events += strcmp(word(e, "name"), "work") == 0;
    CHECK(number(e, "pid") == 5);
  }
  CHECK(events == LIMIT);
  CHECK(strstr(word(cJSON_GetObjectItem(find(tree, "M", "process_labels"), "args"), "labels"),
               "1001 spans left out"));
  cJSON_Delete(tree);
  ds_str_finish(&text);
  ds_trace_destroy(t);
}

static ds_status refuse(void *ctx, const void *data, size_t bytes, ds_error *err) {
  (void)data, (void)bytes;
  return --*(int *)ctx > 0 ? DS_OK : ds_fail(err, DS_ERR_IO, "no room");
}

static void test_lost(void) {
  ds_error err;
  ds_trace *t;
  int pieces = 2;
  CHECK_OK(ds_trace_create(LIMIT, &t, &err), err);
  add_many(t);
  CHECK_FAILS(ds_trace_print(t, 0, refuse, &pieces, &err), DS_ERR_IO, err, "no room");
  CHECK(pieces == 0); /* not asked again */
  CHECK_FAILS(ds_trace_write(t, 0, "/proc/nowhere/trace.json", &err), DS_ERR_NOT_FOUND, err,
              "/proc/nowhere/trace.json");
  ds_trace_destroy(t);
}

static void test_file(void) {
  ds_error err;
  ds_trace *t;
  char path[] = "/tmp/trace_XXXXXX", *text;
  close(mkstemp(path));
  CHECK_OK(ds_trace_create(LIMIT, &t, &err), err);
  CHECK_OK(ds_trace_write(t, 7, path, &err), err); /* nothing was traced: names only */
  ds_str s = {0};
  CHECK_OK(ds_file_read(path, 1 << 20, &text, &s.length, &err), err);
  s.data = text;
  cJSON *tree = parse(&s);
  CHECK(find(tree, "M", "process_name") != NULL);
  cJSON_Delete(tree);
  free(text);
  unlink(path);
  ds_trace_destroy(t);
}

int main(void) {
  test_two_ranks();
  test_limit();
  test_lost();
  test_file();
  return TEST_RESULT();
}
