/* child.c - runs one unit in a child process: with a time limit, and with all that it prints
 * caught. */
#include "suite.h"

#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

typedef struct child {
  const suite *s;
  const char *section, *only;
  const unit *u;
  pid_t pid;
  int records, printed; /* a pipe's end; a file of memory that is its stdout and stderr */
  char *doing;
  bool done, timed_out, failed;
  on_record_fn *on_record;
  void *ctx;
} child;

void child_fill(const suite *s, conformance *k) {
  k->path = s->path;
  k->options = s->options;
  k->seed = s->seed;
  k->cases = s->cases;
}

static void cannot(conformance *k, const unit *u, const ds_error *err) {
  tally t = {.cases = 1};
  check_fail(&t, "%s", err->message);
  check_report(k, &t, u->name, "");
}

/* In the child. exit() and not _exit(): what a plugin does at the end of a process counts. */
static void work(const child *c, int records) {
  conformance k = {.section = c->section, .only = c->only, .report = records, .doing = c->doing};
  const unit *u = c->u;
  ds_error err = {0};
  child_fill(c->s, &k);
  if (u->needs >= NEEDS_PLUGIN && !load_plugin(&k, &err))
    cannot(&k, u, &err);
  else if (u->needs >= NEEDS_DEVICE && !load_device(&k, &err))
    cannot(&k, u, &err);
  else {
    check_doing(&k, "%s", u->name);
    u->run(&k);
  }
  load_close(&k);
  check_doing(&k, "the end of the process, after all checks");
  record_write(records, &(record){.kind = RECORD_DONE});
  exit(0);
}

static void start(child *c, int pipe_ends[2]) {
  fflush(NULL);
  pid_t parent = getpid();
  c->pid = fork();
  if (c->pid != 0) return;
  setpgid(0, 0);
  prctl(PR_SET_PDEATHSIG, SIGKILL);
  if (getppid() != parent) _exit(2);
  close(pipe_ends[0]);
  dup2(c->printed, 1);
  dup2(c->printed, 2);
  close(c->printed);
  work(c, pipe_ends[1]);
}

static int64_t now_ms(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return (int64_t)t.tv_sec * 1000 + t.tv_nsec / 1000000;
}

static void listen_to(child *c) {
  int64_t end = now_ms() + 1000 * (int64_t)c->s->limit;
  for (;;) {
    struct pollfd p = {.fd = c->records, .events = POLLIN};
    int64_t left = end - now_ms();
    int n = left > 0 ? poll(&p, 1, (int)left) : 0;
    if (n < 0 && errno == EINTR) continue;
    if (n <= 0) {
      c->timed_out = true;
      break;
    }
    record r;
    if (!record_read(c->records, &r)) break;
    if (r.kind == RECORD_DONE) {
      c->done = true;
      continue;
    }
    c->failed = c->failed || (r.kind == RECORD_LINE && r.outcome == OUTCOME_FAIL);
    c->on_record(c->ctx, &r);
  }
}

/* AddressSanitizer's own word on an allocation that is meant to fail. */
static bool of_sanitizer(const char *line) {
#ifdef __SANITIZE_ADDRESS__
  return strstr(line, "WARNING: AddressSanitizer failed to allocate") != NULL;
#else
  (void)line;
  return false;
#endif
}

/* What it printed, as far as there is room, on one line. */
static void printed(const child *c, char *text, size_t room) {
  char line[300];
  size_t used = 0;
  int copy = dup(c->printed);
  FILE *f = copy >= 0 ? fdopen(copy, "r") : NULL;
  text[0] = '\0';
  if (f) rewind(f);
  while (f && used < room && fgets(line, sizeof line, f))
    if (!of_sanitizer(line)) used += (size_t)snprintf(text + used, room - used, "%s", line);
  if (f) fclose(f);
  for (char *p = text; *p; p++)
    if ((unsigned char)*p < ' ') *p = ' ';
}

static void tell(const child *c, const char *dtype, const char *message) {
  record r = {.kind = RECORD_LINE, .outcome = OUTCOME_FAIL, .cases = 1, .failed = 1};
  record_name(&r, c->section, c->u->name, dtype);
  snprintf(r.message, sizeof r.message, "%s", message);
  c->on_record(c->ctx, &r);
}

static void judge(const child *c, int status) {
  char text[500], message[1600];
  printed(c, text, sizeof text);
  const char *at = c->done ? "at the end of the process" : c->doing;
  const char *said = text[0] ? "; it printed: " : "";
  if (c->timed_out)
    snprintf(message, sizeof message, "hangs: not done after %d seconds; it was at: %.900s%s%s",
             c->s->limit, at, said, text);
  else if (WIFSIGNALED(status))
    snprintf(message, sizeof message, "ended by signal %d (%s); it was at: %.900s%s%s",
             WTERMSIG(status), strsignal(WTERMSIG(status)), at, said, text);
  else if (!c->done || WEXITSTATUS(status) != 0)
    snprintf(message, sizeof message, "the process exited with code %d; it was at: %.900s%s%s",
             WEXITSTATUS(status), at, said, text);
  else if (text[0]) {
    snprintf(message, sizeof message, "a plugin prints nothing, but this was printed: %s", text);
    tell(c, "output", message);
    return;
  } else
    return;
  tell(c, "process", message);
}

void child_run(const suite *s, const char *section_name, const unit *u, const char *only,
               on_record_fn *on_record, void *ctx) {
  child c = {
      .s = s, .section = section_name, .only = only, .u = u, .on_record = on_record, .ctx = ctx};
  int ends[2], status = 0;
  c.printed = memfd_create("printed", MFD_CLOEXEC);
  c.doing = mmap(NULL, DOING, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
  if (c.printed < 0 || c.doing == MAP_FAILED || pipe(ends) != 0) {
    tell(&c, "process", "no process could be started: out of memory or files");
    if (c.printed >= 0) close(c.printed);
    return;
  }
  start(&c, ends);
  close(ends[1]);
  c.records = ends[0];
  if (c.pid < 0)
    tell(&c, "process", "no process could be started");
  else {
    listen_to(&c);
    if (c.timed_out) kill(-c.pid, SIGKILL);
    if (c.timed_out) kill(c.pid, SIGKILL);
    while (waitpid(c.pid, &status, 0) < 0 && errno == EINTR) continue;
    kill(-c.pid, SIGKILL); /* what it may have left behind */
    judge(&c, status);
  }
  close(c.records);
  close(c.printed);
  munmap(c.doing, DOING);
}
