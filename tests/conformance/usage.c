#include "usage.h"

#include <dirent.h>
#include <malloc.h>
#include <stdio.h>

static int count_entries(const char *folder) {
  DIR *d = opendir(folder);
  int n = 0;
  if (!d) return 0;
  while (readdir(d)) n++;
  closedir(d);
  return n;
}

/* Of smaps_rollup, which counts the pages: the sums in statm may be off by dozens of pages, with
 * which a page lost a round could hide. */
static size_t resident_bytes(void) {
  FILE *f = fopen("/proc/self/smaps_rollup", "re");
  char line[256];
  unsigned long kilobytes = 0;
  if (!f) return 0;
  while (fgets(line, sizeof line, f))
    if (sscanf(line, "Rss: %lu kB", &kilobytes) == 1) break;
  fclose(f);
  return (size_t)kilobytes * 1024;
}

usage usage_now(void) {
  usage u = {.threads = count_entries("/proc/self/task"),
             .files = count_entries("/proc/self/fd"),
             .resident = resident_bytes()};
#if defined(__GLIBC__) && (__GLIBC__ > 2 || __GLIBC_MINOR__ >= 33)
  struct mallinfo2 m = mallinfo2();
  u.heap = m.uordblks + m.hblkhd;
#endif
  return u;
}

/* What grows in each half by this much for every round is a leak. The heap is counted to the byte;
 * pages come and go, a quarter of one a round is seen. AddressSanitizer keeps freed memory, so that
 * pages say nothing there. */
enum { HEAP_BYTES = 8, RESIDENT_BYTES = 1024 };

static bool grows(size_t a, size_t b, size_t c, size_t each) {
  return b >= a + each && c >= b + each;
}

static bool leaks(const usage *u, int half) {
  bool more = u[2].threads > u[0].threads || u[2].files > u[0].files ||
              grows(u[0].heap, u[1].heap, u[2].heap, (size_t)half * HEAP_BYTES);
#ifndef __SANITIZE_ADDRESS__
  more = more || grows(u[0].resident, u[1].resident, u[2].resident, (size_t)half * RESIDENT_BYTES);
#endif
  return more;
}

static void tell(const usage *u, int half, tally *t) {
  int rounds = 2 * half;
  if (u[2].threads > u[0].threads)
    check_fail(t, "%d threads more after %d rounds", u[2].threads - u[0].threads, rounds);
  if (u[2].files > u[0].files)
    check_fail(t, "%d open files more after %d rounds", u[2].files - u[0].files, rounds);
  if (grows(u[0].heap, u[1].heap, u[2].heap, (size_t)half * HEAP_BYTES))
    check_fail(t, "the heap grew by %zu bytes in %d rounds, steadily", u[2].heap - u[0].heap,
               rounds);
#ifndef __SANITIZE_ADDRESS__
  if (grows(u[0].resident, u[1].resident, u[2].resident, (size_t)half * RESIDENT_BYTES))
    check_fail(t, "resident memory grew by %zu bytes in %d rounds, steadily",
               u[2].resident - u[0].resident, rounds);
#endif
}

/* A driver's pools may take a few hundred rounds to reach their size; a leak never does. */
enum { TRIES = 5 };

void usage_flat(conformance *k, int warm, int half, bool (*once)(conformance *k, int i, tally *t),
                tally *t) {
  usage u[3];
  int round = 0;
  for (; round < warm; round++)
    if (!once(k, round, t)) return;
  u[2] = usage_now();
  for (int try = 0; try < TRIES; try++) {
    u[0] = u[2];
    for (int part = 1; part <= 2; part++) {
      for (int i = 0; i < half; i++, round++)
        if (!once(k, round, t)) return;
      u[part] = usage_now();
    }
    if (!leaks(u, half)) return;
  }
  tell(u, half, t);
}
