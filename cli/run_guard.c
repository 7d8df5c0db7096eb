#include "run_guard.h"

#include <errno.h>
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

enum { CLEAR_MS = 500, LOOK_MS = 1000, NOT_FOUND = 127, NOT_RUN = 126 };

static int64_t now_ms(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return (int64_t)t.tv_sec * 1000 + t.tv_nsec / 1000000;
}

static int wait_signal(const sigset_t *watched, int64_t ms) {
  const struct timespec wait = {ms / 1000, ms % 1000 * 1000000};
  return sigtimedwait(watched, NULL, &wait);
}

/* A child in a process group of its own, which is told by `at_end` when its parent ends. In the child 0,
 * in the parent its id, -1 for none. */
static pid_t fork_away(int at_end) {
  const pid_t parent = getpid(), child = fork();
  if (child > 0) setpgid(child, child); /* whoever of us two comes first */
  if (child != 0) return child;
  setpgid(0, 0);
  prctl(PR_SET_PDEATHSIG, at_end);
  if (getppid() != parent) _exit(NOT_RUN); /* gone before we could ask to be told */
  return 0;
}

static int cannot_start(const char *command) {
  const int code = errno == ENOENT ? NOT_FOUND : NOT_RUN;
  fprintf(stderr, "ds run: cannot start %s: %s\n", command, strerror(errno));
  return code;
}

/* As status says that a child has ended. */
static int end_alike(int status, const sigset_t *mask) {
  if (!WIFSIGNALED(status)) return WEXITSTATUS(status);
  prctl(PR_SET_DUMPABLE, 0); /* one core file is enough */
  signal(WTERMSIG(status), SIG_DFL);
  sigprocmask(SIG_SETMASK, mask, NULL);
  raise(WTERMSIG(status));
  return 128 + WTERMSIG(status);
}

/* The inner process's life: until the command has ended, whose wait status it gives. *cleared: it was
 * ended because others had failed, or the launcher had gone. */
static int stay(pid_t command, const sigset_t *watched, bool *cleared) {
  int status;
  int64_t kill_at = INT64_MAX;
  bool asked = false;
  while (waitpid(command, &status, WNOHANG) != command) {
    int64_t left = kill_at == INT64_MAX ? LOOK_MS : kill_at - now_ms();
    if (left < 0) {
      kill(-command, SIGKILL);
      left = LOOK_MS;
    }
    const int sig = wait_signal(watched, left);
    if (sig == SIGUSR2) {
      asked = true;
      kill(-command, SIGTERM);
    }
    /* Who was asked already is about to end, unless nobody (SIGHUP) waits for it. */
    const bool clear = sig == SIGHUP || ((sig == SIGTERM || sig == SIGINT) && !asked);
    if (!clear || kill_at != INT64_MAX) continue;
    kill(-command, SIGTERM);
    kill_at = now_ms() + CLEAR_MS;
  }
  kill(-command, SIGKILL); /* what it may have left */
  *cleared = kill_at != INT64_MAX;
  return status;
}

static int be_inner(char **words, const sigset_t *watched, const sigset_t *mask) {
  bool cleared;
  const pid_t command = fork_away(SIGKILL);
  if (command < 0) return cannot_start(words[0]);
  if (command == 0) {
    signal(SIGPIPE, SIG_DFL);
    sigprocmask(SIG_SETMASK, mask, NULL);
    execvp(words[0], words);
    _exit(cannot_start(words[0]));
  }
  const int status = stay(command, watched, &cleared);
  /* srun gives the largest of all exit codes: it is to be that of who failed by itself. */
  return cleared && WIFSIGNALED(status) ? 1 : end_alike(status, mask);
}

int run_guard(char **words) {
  static const int signals[] = {SIGUSR2, SIGTERM, SIGINT, SIGHUP, SIGCHLD};
  const pid_t launcher = getppid();
  sigset_t watched, mask;
  int status;
  sigemptyset(&watched);
  for (size_t i = 0; i < sizeof signals / sizeof *signals; i++) sigaddset(&watched, signals[i]);
  sigprocmask(SIG_BLOCK, &watched, &mask);
  const pid_t inner = fork_away(SIGHUP);
  if (inner < 0) return cannot_start(words[0]);
  if (inner == 0) _exit(be_inner(words, &watched, &mask));
  while (waitpid(inner, &status, WNOHANG) != inner) {
    const int sig = wait_signal(&watched, LOOK_MS);
    if (sig > 0 && sig != SIGCHLD) kill(inner, sig);
    if (getppid() != launcher) kill(inner, SIGHUP);
  }
  return end_alike(status, &mask);
}
