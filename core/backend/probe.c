#include "backend/probe.h"

#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <link.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "backend/probe_child.h"

/* What a pipe brought: its beginning, made fit for a message. */
typedef struct output {
  int fd; /* -1: at its end */
  char text[160];
  size_t length;
  bool any; /* be it a blank */
} output;

typedef struct probe {
  pid_t child;
  ds_probe_report *report;
  output out, err;
  bool hung, stuck;
  bool known; /* that status and code are: nobody else reaped it */
  siginfo_t ended;
} probe;

static int64_t milliseconds(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return (int64_t)t.tv_sec * 1000 + t.tv_nsec / 1000000;
}

/* ---- the child: made, watched, ended */

static ds_status cannot(ds_error *err, const char *what) {
  return ds_fail(err, DS_ERR_IO,
                 "can't be tried in a child process (%s: %s), so it is not loaded; raise that "
                 "limit, or set \"probe_timeout\": 0 in the config's \"backend\" to do without",
                 what, strerror(errno));
}

/* Not 0, 1 or 2, which a host may have closed. */
static int move_up(int fd) {
  int moved = fd < 0 ? -1 : fcntl(fd, F_DUPFD_CLOEXEC, 3);
  int why = errno;
  if (fd >= 0) close(fd);
  errno = why;
  return moved;
}

static bool make_pipe(int *read_end, int *write_end) {
  int fds[2];
  if (pipe2(fds, O_CLOEXEC) != 0) return false;
  *read_end = move_up(fds[0]);
  *write_end = move_up(fds[1]);
  if (*read_end >= 0 && *write_end >= 0 && fcntl(*read_end, F_SETFL, O_NONBLOCK) == 0) return true;
  int why = errno;
  if (*read_end >= 0) close(*read_end);
  if (*write_end >= 0) close(*write_end);
  *read_end = *write_end = -1;
  errno = why;
  return false;
}

/* Signals are blocked across the fork, so that no handler of the host's runs in the child. */
static pid_t fork_child(ds_probe_job *job) {
  sigset_t all, before;
  sigfillset(&all);
  job->parent = getpid();
  pthread_sigmask(SIG_SETMASK, &all, &before);
  pid_t child = fork();
  if (child == 0) ds_probe_child(job);
  int why = errno;
  pthread_sigmask(SIG_SETMASK, &before, NULL);
  errno = why;
  if (child > 0) setpgid(child, child); /* as the child does: whoever comes first */
  return child;
}

static ds_status start(probe *p, ds_probe_job *job, ds_error *err) {
  p->out.fd = p->err.fd = job->out = job->err = -1;
  p->report =
      mmap(NULL, sizeof *p->report, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
  if (p->report == MAP_FAILED) {
    p->report = NULL;
    return cannot(err, "mmap");
  }
  job->report = p->report;
  ds_status status = DS_OK;
  if (!make_pipe(&p->out.fd, &job->out) || !make_pipe(&p->err.fd, &job->err)) {
    status = cannot(err, "pipe");
  } else {
    p->child = fork_child(job);
    if (p->child < 0) status = cannot(err, "fork");
  }
  if (job->out >= 0) close(job->out);
  if (job->err >= 0) close(job->err);
  return status;
}

static void read_output(output *o) {
  char buffer[4096];
  while (o->fd >= 0) {
    ssize_t n = read(o->fd, buffer, sizeof buffer);
    if (n < 0 && errno == EINTR) continue;
    if (n < 0 && errno == EAGAIN) return;
    if (n <= 0) {
      close(o->fd);
      o->fd = -1;
      return;
    }
    for (ssize_t i = 0; i < n && o->length + 1 < sizeof o->text; i++) {
      bool plain = (unsigned char)buffer[i] >= ' ' && buffer[i] != 0x7f;
      o->text[o->length++] = plain ? buffer[i] : ' '; /* no forged lines in messages */
    }
    if (n < (ssize_t)sizeof buffer) return; /* a flood must not keep us from the clock */
  }
}

static void end_output(output *o) {
  read_output(o);
  o->any = o->length > 0;
  if (o->fd >= 0) close(o->fd);
  while (o->length && o->text[o->length - 1] == ' ') o->text[--o->length] = '\0';
}

/* Whether it has ended; leaves it to be reaped. */
static bool has_ended(probe *p) {
  p->ended.si_pid = 0;
  if (waitid(P_PID, (id_t)p->child, &p->ended, WEXITED | WNOHANG | WNOWAIT) != 0)
    return errno == ECHILD; /* reaped by the host */
  p->known = p->ended.si_pid == p->child;
  return p->known;
}

/* Until it has ended, or hangs, or has not begun within `patience`. */
static void watch(probe *p, double seconds, int64_t patience) {
  int64_t begin = milliseconds(), end = begin + (int64_t)(seconds * 1000);
  while (!has_ended(p)) {
    struct pollfd fds[] = {{p->out.fd, POLLIN, 0}, {p->err.fd, POLLIN, 0}};
    int64_t now = milliseconds();
    bool late = now >= end, begun = p->report->step != DS_PROBE_START;
    p->stuck = !begun && (late || now - begin >= patience);
    p->hung = begun && late;
    if (p->stuck || p->hung) return;
    /* Its end closes the pipes, which wakes us, unless a grandchild has them. */
    int tick = p->out.fd < 0 && p->err.fd < 0 ? 1 : 10;
    poll(fds, 2, end - now < tick ? (int)(end - now) : tick);
    read_output(&p->out);
    read_output(&p->err);
  }
}

/* Ends the child with all that it started. A child that is stuck in the kernel is left behind after
 * a second. */
static void finish(probe *p) {
  if (p->child > 0) {
    kill(-p->child, SIGKILL);
    if (p->hung || p->stuck) kill(p->child, SIGKILL);
    for (int i = 0; i < 1000 && !has_ended(p); i++) poll(NULL, 0, 1);
    waitid(P_PID, (id_t)p->child, &(siginfo_t){0}, WEXITED | WNOHANG);
  }
  end_output(&p->out);
  end_output(&p->err);
}

/* ---- the verdict */

static const char *place(const ds_probe_report *r) {
  switch (r->step) {
    case DS_PROBE_QUERY: return "in its query";
    case DS_PROBE_CHECK: return "while its answer was read";
    case DS_PROBE_DONE: return "after its query";
    default: return "in its constructor";
  }
}

static ds_status judge_crash(const probe *p, int signal_number, ds_error *err) {
  const ds_probe_report *r = p->report;
  const char *name = sigabbrev_np(signal_number);
  bool linker = r->linker && r->step <= DS_PROBE_LOAD;
  const char *cure = signal_number == SIGILL ? "it was built for another processor: get one for "
                                               "this machine"
                     : linker                ? "the file is damaged: copy it again"
                                             : "get another version of it, or take it away";
  return ds_fail(err, DS_ERR_INTERNAL, "crashes with SIG%s %s%s%.100s%s%s%s; %s", name ? name : "?",
                 linker ? "while the linker loads it" : place(r), r->where[0] ? ", at " : "",
                 r->where, p->err.length ? " (\"" : "", p->err.text, p->err.length ? "\")" : "",
                 cure);
}

static ds_status judge(probe *p, double seconds, ds_error *err) {
  ds_probe_report *r = p->report;
  bool killed = p->known && p->ended.si_code != CLD_EXITED;
  if (p->hung) {
    return ds_fail(err, DS_ERR_TIMEOUT,
                   "did not finish within %g s: it hangs %s; take it away, or allow it more with "
                   "\"probe_timeout\" in the config's \"backend\"",
                   seconds, place(r));
  }
  if (r->signal > 0 && r->signal < NSIG) return judge_crash(p, r->signal, err);
  if (r->step != DS_PROBE_DONE && killed) return judge_crash(p, p->ended.si_status, err);
  if (r->step == DS_PROBE_START) {
    errno = EAGAIN;
    return cannot(err, "its input and output");
  }
  if (r->step != DS_PROBE_DONE) {
    char status[48] = "";
    if (r->exited || p->known)
      snprintf(status, sizeof status, " with exit status %d",
               r->exited ? r->exit_status : p->ended.si_status);
    return ds_fail(err, DS_ERR_INTERNAL, "ends the process%s %s%s%s%s; get another version of it",
                   status, place(r), p->err.length ? " (\"" : "", p->err.text,
                   p->err.length ? "\")" : "");
  }
  if (r->descriptors) {
    return ds_fail(err, DS_ERR_INTERNAL,
                   "closes file descriptors that are not its own when it is loaded");
  }
  if (p->out.any) {
    return ds_fail(err, DS_ERR_INTERNAL,
                   "prints to standard output when it is loaded (\"%s\"); a plugin logs through "
                   "ds_host",
                   p->out.text);
  }
  r->error.message[sizeof r->error.message - 1] = '\0';
  ds_status status = r->error.status;
  return status == DS_OK ? DS_OK : ds_fail(err, status, "%s", r->error.message);
}

/* One child. *stuck: it never began. */
static ds_status run(const ds_candidate *c, double seconds, int64_t patience, ds_probe_check *check,
                     void *ctx, ds_probe_result *out, bool *stuck, ds_error *err) {
  ds_probe_job job = {.candidate = c, .check = check, .ctx = ctx};
  probe p = {0};
  memset(out, 0, sizeof *out);
  ds_status status = start(&p, &job, err);
  if (status == DS_OK) watch(&p, seconds, patience);
  finish(&p);
  *stuck = p.stuck;
  if (status == DS_OK && !p.stuck) {
    status = judge(&p, seconds, err);
    out->signals = p.report->signals;
    snprintf(out->printed, sizeof out->printed, "%s", p.err.text);
    if (p.report->step == DS_PROBE_DONE)
      snprintf(out->linker, sizeof out->linker, "%.*s", (int)sizeof p.report->linker_said - 1,
               p.report->linker_said);
    out->lasting = status != DS_ERR_IO && !out->linker[0];
  }
  out->memory = p.report;
  return status;
}

void ds_probe_finish(ds_probe_result *out) {
  if (out->memory) munmap(out->memory, sizeof(ds_probe_report));
  out->memory = NULL;
}

/* A child that was forked while another thread was inside the linker is stuck: then another. */
ds_status ds_probe_run(const ds_candidate *c, double seconds, ds_probe_check *check, void *ctx,
                       ds_probe_result *out, ds_error *err) {
  int64_t end = milliseconds() + (int64_t)(seconds * 1000);
  bool stuck = false;
  for (int64_t patience = 50; patience == 50 || milliseconds() < end; patience += patience / 4) {
    ds_status status = run(c, seconds, patience, check, ctx, out, &stuck, err);
    if (!stuck) return status;
    ds_probe_finish(out);
  }
  return ds_fail(err, DS_ERR_IO,
                 "can't be tried in a child process, for within %g s there was no moment when no "
                 "thread was loading a library (a constructor must not open backends); set "
                 "\"probe_timeout\": 0 in the config's \"backend\" to do without",
                 seconds);
}

void *ds_probe_find_query(void *handle, ds_error *err) {
  Dl_info info;
  struct link_map *own = NULL, *owner = NULL;
  void *symbol = dlsym(handle, "ds_plugin_query");
  if (symbol && dlinfo(handle, RTLD_DI_LINKMAP, &own) == 0 &&
      dladdr1(symbol, &info, (void **)&owner, RTLD_DL_LINKMAP) && own == owner)
    return symbol;
  (void)dlerror();
  ds_fail(err, DS_ERR_FORMAT,
          "does not export ds_plugin_query; declare it DS_EXPORT and build it again");
  return NULL;
}
