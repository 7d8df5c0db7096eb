#include "stats.h"

#include <stdio.h>
#include <stdlib.h>

static int by_seconds(const void *a, const void *b) {
  const ds_op_stats *x = a, *y = b;
  return (x->seconds < y->seconds) - (x->seconds > y->seconds);
}

static void print_row(const char *name, uint64_t calls, uint64_t fallbacks, double seconds,
                      double total) {
  fprintf(stderr, "  %-24s %10llu %10llu %12.3f %6.1f%%\n", name, (unsigned long long)calls,
          (unsigned long long)fallbacks, 1e3 * seconds, total > 0 ? 100 * seconds / total : 0);
}

void stats_print(const ds_backend_stats *s) {
  ds_op_stats rows[128];
  size_t n = s->n_per_op < 128 ? s->n_per_op : 128;
  uint64_t calls = 0, fallbacks = 0;
  for (size_t i = 0; i < n; i++) {
    rows[i] = s->per_op[i];
    calls += rows[i].calls;
    fallbacks += rows[i].fallbacks;
  }
  qsort(rows, n, sizeof *rows, by_seconds);
  fprintf(stderr, "%s on %s\n  %-24s %10s %10s %12s %7s\n", s->backend, s->device, "op", "calls",
          "fallbacks", "ms", "time");
  for (size_t i = 0; i < n; i++)
    print_row(rows[i].name, rows[i].calls, rows[i].fallbacks, rows[i].seconds, s->backend_seconds);
  print_row("total", calls, fallbacks, s->backend_seconds, s->backend_seconds);
}

/* "4.0 KB", in powers of 1024. */
static const char *bytes_text(uint64_t bytes, char *out, size_t size) {
  static const char *const units[] = {"B", "KB", "MB", "GB", "TB", "PB"};
  double n = (double)bytes;
  int unit = 0;
  for (; n >= 1024 && unit < 5; unit++) n /= 1024;
  snprintf(out, size, unit ? "%.2f %s" : "%.0f %s", n, units[unit]);
  return out;
}

void comms_print(const ds_comms_stats *rows, size_t n) {
  char size[32], sent[32], name[64];
  uint64_t total = 0;
  fprintf(stderr, "%-24s %5s %12s %8s %12s %12s %10s %10s %12s\n", "comm. op", "ranks",
          "message size", "count", "total ms", "average ms", "algbw Gbps", "busbw Gbps", "sent");
  for (size_t i = 0; i < n; i++) {
    const ds_comms_stats *r = &rows[i];
    snprintf(name, sizeof name, "%s%s%s", r->op, r->group[0] ? " of " : "", r->group);
    total += r->sent_bytes;
    fprintf(stderr, "%-24s %5d %12s %8llu %12.3f %12.3f %10.3f %10.3f %12s\n", name, (int)r->ranks,
            bytes_text(r->message_bytes, size, sizeof size), (unsigned long long)r->calls,
            1e3 * r->seconds, r->timed ? 1e3 * r->seconds / (double)r->timed : 0, r->algorithm_gbps,
            r->bus_gbps, bytes_text(r->sent_bytes, sent, sizeof sent));
  }
  fprintf(stderr, "sent by this rank in all: %s\n", bytes_text(total, sent, sizeof sent));
}
