/* What is said of other ranks' processes: alive, stopped, ended, on another host, or another process under the
 * same number. (Met by real ranks: tests/dist/test_failures.c.) */
#include "parallel/peers.h"

#include "test.h"

#include <signal.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>

static pid_t child(void) {
  pid_t pid = fork();
  if (pid != 0) return pid;
  for (;;) pause();
}

/* This process as its only rank; the others are like it but for their numbers. */
static bool begin(ds_world *w, ds_peer *peers, int size) {
  ds_error err;
  *w = (ds_world){.size = 1};
  CHECK_OK(ds_peers_meet(w, &err), err);
  if (!w->peers) return false;
  for (int i = 0; i < size; i++) peers[i] = w->peers[0];
  free(w->peers);
  w->peers = peers;
  w->size = size;
  return true;
}

static void set(ds_peer *p, pid_t pid) {
  char path[64], text[1024] = "";
  snprintf(path, sizeof path, "/proc/%d/stat", (int)pid);
  FILE *f = fopen(path, "r");
  CHECK(f && fgets(text, sizeof text, f));
  if (f) fclose(f);
  const char *q = strrchr(text, ')');
  for (int field = 2; field < 22 && q; field++) q = strchr(q + 1, ' ');
  p->pid = pid;
  p->started = q ? strtoull(q + 1, NULL, 10) : 0;
}

static void test_fates(void) {
  ds_world w;
  ds_peer peers[5];
  char text[256], want[256];
  int status;
  if (!begin(&w, peers, 5)) return;
  CHECK(peers[0].host != 0 && peers[0].pid == getpid() && peers[0].started != 0);
  pid_t alive = child(), stopped = child(), ended = child();
  CHECK(alive > 0 && stopped > 0 && ended > 0);
  set(&peers[1], alive);
  set(&peers[2], stopped);
  set(&peers[3], ended);
  peers[4].host++; /* out of sight */
  peers[4].pid = 1 << 30;
  ds_peers_describe(&w, "", text, sizeof text);
  CHECK(text[0] == '\0');
  kill(stopped, SIGSTOP);
  CHECK(waitpid(stopped, &status, WUNTRACED) == stopped && WIFSTOPPED(status));
  ds_peers_describe(&w, "", text, sizeof text);
  snprintf(want, sizeof want, "rank 2 (process %d) is stopped", (int)stopped);
  CHECK(strcmp(text, want) == 0);
  kill(ended, SIGKILL);
  CHECK(waitpid(ended, &status, 0) == ended);
  ds_peers_describe(&w, "", text, sizeof text);
  snprintf(want, sizeof want, "rank 2 (process %d) is stopped; rank 3 (process %d) has ended",
           (int)stopped, (int)ended);
  CHECK(strcmp(text, want) == 0);
  /* What the backend has said already. */
  ds_peers_describe(&w, "...; rank 2 is stopped", text, sizeof text);
  snprintf(want, sizeof want, "rank 3 (process %d) has ended", (int)ended);
  CHECK(strcmp(text, want) == 0);
  /* The number was given to another process. */
  peers[1].started++;
  ds_peers_describe(&w, "rank 2 is stopped", text, sizeof text);
  CHECK(strstr(text, "rank 1 (process") == text && strstr(text, "has ended; rank 3"));
  /* Little room. */
  ds_peers_describe(&w, "", text, 10);
  CHECK(strlen(text) < 10);
  kill(alive, SIGKILL);
  kill(stopped, SIGKILL);
  waitpid(alive, &status, 0);
  waitpid(stopped, &status, 0);
}

static void test_alone(void) {
  char text[16] = "x";
  const ds_world w = {.size = 1};
  ds_peers_describe(&w, "", text, sizeof text);
  CHECK(text[0] == '\0');
}

int main(void) {
  test_fates();
  test_alone();
  return TEST_RESULT();
}
