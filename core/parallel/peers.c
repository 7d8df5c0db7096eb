#include "parallel/peers.h"

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/checksum.h"

enum { NAMED = 8 };

/* As far as it goes; the number of bytes, at least 0. */
static size_t read_start(const char *path, char *out, size_t room) {
  int fd = open(path, O_RDONLY | O_CLOEXEC);
  ssize_t n = fd < 0 ? -1 : read(fd, out, room - 1);
  if (fd >= 0) close(fd);
  out[n > 0 ? n : 0] = '\0';
  return n > 0 ? (size_t)n : 0;
}

/* The state's letter (R, S, T: stopped, Z: ended) and the time of its start; 0: there is no such process. */
static char state_of(int64_t pid, uint64_t *started) {
  char path[32], text[1024];
  *started = 0;
  snprintf(path, sizeof path, "/proc/%lld/stat", (long long)pid);
  if (read_start(path, text, sizeof text) == 0) return 0;
  const char *p = strrchr(text, ')'); /* a name may have anything in it */
  if (!p || p[1] != ' ') return '?';
  char state = p[2];
  for (int field = 2; field < 22 && p; field++) p = strchr(p + 1, ' ');
  if (p) *started = strtoull(p + 1, NULL, 10);
  return state;
}

static ds_peer own_peer(void) {
  char text[256];
  ds_peer me = {.pid = getpid()};
  size_t n = read_start("/proc/sys/kernel/random/boot_id", text, 128);
  ssize_t more = readlink("/proc/self/ns/pid", text + n, sizeof text - n);
  if (n == 0 || more <= 0) return me;
  me.host = ds_checksum(text, n + (size_t)more);
  (void)state_of(me.pid, &me.started);
  return me;
}

ds_status ds_peers_meet(ds_world *w, ds_error *err) {
  const ds_peer me = own_peer();
  w->peers = calloc((size_t)w->size, sizeof *w->peers);
  if (!w->peers) return ds_fail_memory(err, "the other ranks' processes");
  return ds_world_exchange(w, &me, w->peers, sizeof me, err);
}

/* NULL: it is alive and well, or out of sight. */
static const char *fate_of(const ds_world *w, int rank) {
  const ds_peer *p = &w->peers[rank], *me = &w->peers[w->rank];
  uint64_t started;
  if (rank == w->rank || p->host == 0 || p->host != me->host) return NULL;
  char state = state_of(p->pid, &started);
  if (state == 0 || state == 'Z' || state == 'X' || started != p->started) return "has ended";
  return state == 'T' || state == 't' ? "is stopped" : NULL;
}

void ds_peers_describe(const ds_world *w, const char *said, char *out, size_t room) {
  out[0] = '\0';
  for (int r = 0, n = 0; w->peers && r < w->size && n < NAMED; r++) {
    char name[32];
    const char *fate = fate_of(w, r);
    if (!fate) continue;
    snprintf(name, sizeof name, "rank %d %s", r, fate);
    if (strstr(said, name)) continue;
    size_t at = strlen(out);
    snprintf(out + at, room - at, "%srank %d (process %lld) %s", n++ > 0 ? "; " : "", r,
             (long long)w->peers[r].pid, fate);
  }
}
