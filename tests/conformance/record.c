#include "record.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>

static void word(char *to, size_t room, const char *from) {
  snprintf(to, room, "%s", from ? from : "");
  for (; *to; to++)
    if (*to == ' ') *to = '-';
}

void record_name(record *r, const char *section, const char *name, const char *dtype) {
  word(r->section, sizeof r->section, section);
  word(r->name, sizeof r->name, name);
  word(r->dtype, sizeof r->dtype, dtype);
}

void record_write(int file, record *r) {
  struct timespec now;
  ssize_t n;
  clock_gettime(CLOCK_MONOTONIC, &now);
  r->when = (double)now.tv_sec + 1e-9 * (double)now.tv_nsec;
  do n = write(file, r, sizeof *r);
  while (n < 0 && errno == EINTR);
  if (n != (ssize_t)sizeof *r) _exit(2); /* nobody is left to tell */
}

bool record_read(int file, record *r) {
  size_t at = 0;
  while (at < sizeof *r) {
    ssize_t n = read(file, (char *)r + at, sizeof *r - at);
    if (n < 0 && errno == EINTR) continue;
    if (n <= 0) return false;
    at += (size_t)n;
  }
  return true;
}

const char *record_outcome(const record *r) {
  static const char *const words[] = {"PASS", "FAIL", "UNSUPPORTED", "XFAIL", "XPASS"};
  return r->outcome >= 0 && r->outcome < OUTCOME_COUNT ? words[r->outcome] : "?";
}
