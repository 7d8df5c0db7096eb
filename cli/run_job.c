#include "run_job.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

enum { POLITE_MS = 30000, FIRM_MS = 10000 };

static int64_t now_ms(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return (int64_t)t.tv_sec * 1000 + t.tv_nsec / 1000000;
}

static void watched_signals(sigset_t *out) {
  static const int signals[] = {SIGINT, SIGTERM, SIGHUP, SIGCHLD};
  sigemptyset(out);
  for (size_t i = 0; i < sizeof signals / sizeof *signals; i++) sigaddset(out, signals[i]);
}

void run_job_begin(void) {
  sigset_t watched;
  watched_signals(&watched);
  sigprocmask(SIG_BLOCK, &watched, NULL);
}

/* In the child. A launcher in the background must not read the terminal: it would be stopped. */
static void become(char *const *words, pid_t parent, int report) {
  sigset_t none;
  setpgid(0, 0);
  prctl(PR_SET_PDEATHSIG, SIGTERM);
  if (getppid() == parent) {
    if (isatty(STDIN_FILENO)) {
      int nothing = open("/dev/null", O_RDONLY);
      if (nothing >= 0) dup2(nothing, STDIN_FILENO);
    }
    signal(SIGPIPE, SIG_DFL);
    sigemptyset(&none);
    sigprocmask(SIG_SETMASK, &none, NULL);
    execvp(words[0], words);
  }
  const int code = errno;
  if (write(report, &code, sizeof code) < 0) _exit(126);
  _exit(127);
}

static ds_status start(char *const *words, pid_t *out, ds_error *err) {
  int ends[2], code = 0;
  if (pipe2(ends, O_CLOEXEC) != 0) return ds_fail(err, DS_ERR_IO, "a pipe: %s", strerror(errno));
  const pid_t parent = getpid();
  *out = fork();
  if (*out == 0) become(words, parent, ends[1]);
  const int forked = errno;
  close(ends[1]);
  if (*out < 0) {
    close(ends[0]);
    return ds_fail(err, DS_ERR_IO, "cannot start %s: %s", words[0], strerror(forked));
  }
  setpgid(*out, *out); /* whoever of us two comes first */
  const bool failed = read(ends[0], &code, sizeof code) == sizeof code;
  close(ends[0]);
  if (!failed) return DS_OK;
  (void)waitpid(*out, NULL, 0);
  return ds_fail(err, DS_ERR_NOT_FOUND, "cannot start %s: %s%s", words[0], strerror(code),
                 code != ENOENT                    ? ""
                 : strcmp(words[0], "mpirun") == 0 ? "; is Open MPI installed, and in PATH?"
                                                   : "");
}

/* The next step of asking it to end; when the one after that is due. */
static int64_t press(pid_t child, int *pressed) {
  switch ((*pressed)++) {
    case 0: /* Open MPI 4.1 passes SIGUSR2 on, but not SIGUSR1 */
      kill(child, SIGUSR2);
      return now_ms() + POLITE_MS;
    case 1: kill(child, SIGTERM); return now_ms() + FIRM_MS;
    default: kill(-child, SIGKILL); return INT64_MAX;
  }
}

ds_status run_job(char *const *words, run_end *out, ds_error *err) {
  sigset_t watched;
  pid_t child = 0;
  int status, pressed = 0;
  int64_t due = INT64_MAX;
  *out = (run_end){0};
  watched_signals(&watched);
  DS_TRY(start(words, &child, err));
  while (waitpid(child, &status, WNOHANG) != child) {
    int64_t left = due == INT64_MAX ? 1000 : due - now_ms();
    if (left < 0) {
      due = press(child, &pressed);
      left = 0;
    }
    const struct timespec wait = {left / 1000, left % 1000 * 1000000};
    const int sig = sigtimedwait(&watched, NULL, &wait);
    if (sig <= 0 || sig == SIGCHLD) continue;
    if (!out->stopped_by) out->stopped_by = sig;
    due = press(child, &pressed);
  }
  out->code = WIFSIGNALED(status) ? 128 + WTERMSIG(status) : WEXITSTATUS(status);
  return DS_OK;
}
