/* strict_run.h - for tests on the strict plugin: its options in a config, and what it logs. */
#ifndef DS_TEST_STRICT_RUN_H
#define DS_TEST_STRICT_RUN_H

#include "ds.h"

#include <stdlib.h>

#include "test.h"

typedef struct strict_log {
  int violations;
  char first[512];                 /* the first of them */
  unsigned long long calls, works; /* of the device that was closed last */
} strict_log;

static inline void strict_log_write(void *ctx, ds_log_level level, const char *message) {
  strict_log *log = ctx;
  (void)level;
  sscanf(message, "strict: closed: %llu calls, %llu works", &log->calls, &log->works);
  if (!strstr(message, "strict: violation: ")) return;
  if (log->violations++ == 0) snprintf(log->first, sizeof log->first, "%s", message);
}

/* The config's "backend" section; graph: "auto" (with its quotes), true or false; options as in
 * plugins/strict/strict.h, without braces. */
static inline void strict_section(char *out, size_t size, const char *graph, const char *options) {
  snprintf(out, size,
           "\"backend\": {\"name\": \"strict\", \"plugin_path\": \"%s\", \"fallback\": "
           "\"allow\", \"graph\": %s, \"options\": {%s}}",
           STRICT_PLUGIN_DIR, graph, options);
}

static inline void strict_check_log(const strict_log *log) {
  if (log->violations > 0) fprintf(stderr, "%d violations: %s\n", log->violations, log->first);
  CHECK(log->violations == 0);
}

#endif
