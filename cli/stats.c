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
