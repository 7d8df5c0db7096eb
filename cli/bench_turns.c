#include "bench_turns.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <unistd.h>

enum { PATIENCE_MS = 60000 };

/* Open for both directions: neither side then waits for the other to open it, nor gets a signal when
 * the other is gone. */
static int open_pipe(const char *dir, const char *name, int rank) {
  char path[4096];
  snprintf(path, sizeof path, "%s/%s.%d", dir, name, rank);
  return open(path, O_RDWR | O_CLOEXEC);
}

bool bench_turns_open(bench_turns *t, const char *dir, bool first, int rank) {
  *t = (bench_turns){0};
  if (!dir) return true;
  t->mine = open_pipe(dir, first ? "first" : "second", rank);
  t->theirs = open_pipe(dir, first ? "second" : "first", rank);
  if (t->mine > 0 && t->theirs > 0) return !first || write(t->mine, "", 1) == 1;
  bench_turns_close(t);
  return false;
}

bool bench_turns_take(bench_turns *t) {
  char byte;
  if (t->mine == 0) return true;
  errno = 0;
  struct pollfd p = {.fd = t->mine, .events = POLLIN};
  return poll(&p, 1, PATIENCE_MS) == 1 && read(t->mine, &byte, 1) == 1;
}

bool bench_turns_give(bench_turns *t) {
  return t->theirs == 0 || write(t->theirs, "", 1) == 1;
}

void bench_turns_close(bench_turns *t) {
  if (t->mine > 0) close(t->mine);
  if (t->theirs > 0) close(t->theirs);
  *t = (bench_turns){0};
}
