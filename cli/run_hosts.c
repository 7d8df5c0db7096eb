#include "run_hosts.h"

#include "run_plan.h"

#include <fcntl.h>
#include <netdb.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

enum { ANSWER_MS = 10000, LOOK_MS = 20, TOGETHER = 64 };

/* Only an address of one's own can be bound. */
static bool is_own(const struct addrinfo *a) {
  int fd = socket(a->ai_family, SOCK_DGRAM | SOCK_CLOEXEC, 0);
  bool own = fd >= 0 && bind(fd, a->ai_addr, a->ai_addrlen) == 0;
  if (fd >= 0) close(fd);
  return own;
}

bool run_hosts_is_here(const char *host, const char *this_host) {
  const struct addrinfo hints = {.ai_family = AF_UNSPEC, .ai_socktype = SOCK_DGRAM};
  struct addrinfo *found = NULL;
  bool here = false;
  if (strcmp(host, "localhost") == 0 || strcmp(host, this_host) == 0) return true;
  if (getaddrinfo(host, NULL, &hints, &found) != 0) return false;
  for (struct addrinfo *a = found; a && !here; a = a->ai_next) here = is_own(a);
  freeaddrinfo(found);
  return here;
}

static ds_status ask_words(const char *agent, const char *host, run_words *out, ds_error *err) {
  DS_TRY(run_words_split(out, agent, err));
  if (out->count == 1 && strcmp(out->at[0], "ssh") == 0) {
    DS_TRY(run_words_split(out, "-o BatchMode=yes -o ConnectTimeout=5", err));
  }
  DS_TRY(run_words_add(out, host, err));
  return run_words_add(out, "true", err);
}

/* 0 when it could not be asked, which is no answer. */
static ds_status ask(const char *agent, const char *host, pid_t *out, ds_error *err) {
  run_words w = {0};
  ds_status status = ask_words(agent, host, &w, err);
  *out = 0;
  if (status == DS_OK) *out = fork();
  if (status == DS_OK && *out == 0) {
    sigset_t none;
    int nothing = open("/dev/null", O_RDWR);
    for (int fd = 0; fd < 3 && nothing >= 0; fd++) dup2(nothing, fd);
    setpgid(0, 0);
    sigemptyset(&none);
    sigprocmask(SIG_SETMASK, &none, NULL);
    execvp(w.at[0], w.at);
    _exit(127);
  }
  run_words_finish(&w);
  return status;
}

static int64_t now_ms(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return (int64_t)t.tv_sec * 1000 + t.tv_nsec / 1000000;
}

/* Whether the child ends well before the deadline. */
static bool hear(pid_t child, int64_t deadline) {
  int status;
  if (child <= 0) return false;
  for (;;) {
    if (waitpid(child, &status, WNOHANG) == child) return WIFEXITED(status) && !WEXITSTATUS(status);
    if (now_ms() >= deadline) break;
    const struct timespec pause = {0, LOOK_MS * 1000000};
    nanosleep(&pause, NULL);
  }
  kill(-child, SIGKILL);
  kill(child, SIGKILL);
  (void)waitpid(child, NULL, 0);
  return false;
}

ds_status run_hosts_drop_gone(run_hosts *hosts, const char *agent, const char *this_host,
                              ds_error *err) {
  ds_status status = DS_OK;
  for (int end = hosts->count; end > 0 && status == DS_OK;) {
    const int first = end > TOGETHER ? end - TOGETHER : 0;
    pid_t asked[TOGETHER] = {0};
    bool here[TOGETHER] = {false};
    for (int i = first; i < end && status == DS_OK; i++) {
      here[i - first] = run_hosts_is_here(hosts->at[i].name, this_host);
      if (!here[i - first]) status = ask(agent, hosts->at[i].name, &asked[i - first], err);
    }
    const int64_t deadline = now_ms() + ANSWER_MS;
    for (int i = end - 1; i >= first; i--) {
      if (here[i - first] || hear(asked[i - first], deadline)) continue;
      fprintf(stderr, "ds run: host %s doesn't answer\n", hosts->at[i].name);
      hostfile_drop(hosts, i);
    }
    end = first;
  }
  return status;
}
