#include "cli.h"

#include <stdlib.h>
#include <string.h>
#include <time.h>

int cli_fail(const char *name, const ds_error *err) {
  fprintf(stderr, "ds %s: %s\n", name, err->message);
  return 1;
}

void cli_log(void *ctx, ds_log_level level, const char *message) {
  (void)ctx;
  static const char *const names[] = {"debug", "info", "warning", "error"};
  const char *wanted = getenv("DS_LOG");
  ds_log_level least = DS_LOG_WARN;
  if (wanted && strcmp(wanted, "debug") == 0) least = DS_LOG_DEBUG;
  if (wanted && strcmp(wanted, "info") == 0) least = DS_LOG_INFO;
  if (level >= least && level <= DS_LOG_ERROR) fprintf(stderr, "%s: %s\n", names[level], message);
}

/* Bytes of the well-formed UTF-8 character at p, 0 when there is none. */
static size_t utf8_length(const unsigned char *p, size_t n) {
  if (p[0] < 0x80) return 1;
  size_t want = p[0] >= 0xf0 && p[0] <= 0xf4  ? 4
                : p[0] >= 0xe0 && p[0] < 0xf0 ? 3
                : p[0] >= 0xc2 && p[0] < 0xe0 ? 2
                                              : 0;
  if (want == 0 || want > n) return 0;
  for (size_t i = 1; i < want; i++)
    if ((p[i] & 0xc0) != 0x80) return 0;
  /* overlong, surrogate, beyond U+10FFFF */
  if ((p[0] == 0xe0 && p[1] < 0xa0) || (p[0] == 0xed && p[1] > 0x9f) ||
      (p[0] == 0xf0 && p[1] < 0x90) || (p[0] == 0xf4 && p[1] > 0x8f))
    return 0;
  return want;
}

void cli_print_json_string(FILE *f, const char *text, size_t length) {
  const unsigned char *p = (const unsigned char *)text;
  fputc('"', f);
  for (size_t i = 0; i < length;) {
    size_t n = utf8_length(p + i, length - i);
    if (n == 0) {
      fputs("\\ufffd", f);
      i++;
    } else if (p[i] == '"' || p[i] == '\\') {
      fprintf(f, "\\%c", p[i++]);
    } else if (p[i] < 0x20 || p[i] == 0x7f) {
      fprintf(f, "\\u%04x", p[i++]);
    } else {
      fwrite(p + i, 1, n, f);
      i += n;
    }
  }
  fputc('"', f);
}

double cli_now(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}
