/* mesh.c - ranks of one machine, joined by sockets whose names the key-value store carries. */
#include "buggy.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

static int64_t now_ms(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return (int64_t)t.tv_sec * 1000 + t.tv_nsec / 1000000;
}

/* Milliseconds left, at most 20 at a time so that an abort is seen; < 0: none. */
static int slice(const mesh *m, int64_t begin) {
  if (m->timeout_ms == 0 || BUG == BUG_NO_TIMEOUT) return 20;
  int64_t left = begin + m->timeout_ms - now_ms();
  return left < 0 ? -1 : left < 20 ? (int)left : 20;
}

static ds_status late(const mesh *m, const char *call, ds_error *err) {
  return ds_fail(err, DS_ERR_TIMEOUT, "buggy: %s: rank %d waited %lld ms", call, m->rank,
                 (long long)m->timeout_ms);
}

/* Abstract names need no file. */
static int listen_at(struct sockaddr_un *a, socklen_t *length) {
  int s = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
  *a = (struct sockaddr_un){.sun_family = AF_UNIX};
  if (s < 0) return -1;
  socklen_t own = sizeof *a;
  if (bind(s, (struct sockaddr *)a, sizeof(sa_family_t)) != 0 || listen(s, 64) != 0 ||
      getsockname(s, (struct sockaddr *)a, &own) != 0) {
    close(s);
    return -1;
  }
  *length = own;
  return s;
}

static ds_status publish(const mesh *m, const char *group, const ds_kv_store *kv, int listener,
                         const struct sockaddr_un *a, socklen_t length, ds_error *err) {
  char key[160];
  if (listener < 0) return ds_fail(err, DS_ERR_IO, "buggy: no socket");
  snprintf(key, sizeof key, "%s/%d", group, m->rank);
  return kv->set(kv->ctx, key, a, length, BUG == BUG_STORE_SILENT ? NULL : err);
}

static ds_status call(mesh *m, int peer, const char *group, const ds_kv_store *kv, ds_error *err) {
  char key[160];
  struct sockaddr_un a;
  size_t bytes = sizeof a;
  int32_t self = m->rank;
  snprintf(key, sizeof key, "%s/%d", group, peer);
  DS_TRY(kv->get(kv->ctx, key, &a, &bytes, m->timeout_ms ? m->timeout_ms : 60000, err));
  int s = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
  if (s < 0 || connect(s, (struct sockaddr *)&a, (socklen_t)bytes) != 0 ||
      write(s, &self, sizeof self) != sizeof self) {
    if (s >= 0) close(s);
    return ds_fail(err, DS_ERR_IO, "buggy: rank %d can't be reached", peer);
  }
  m->sockets[peer] = s;
  return DS_OK;
}

static ds_status answer(mesh *m, int listener, int64_t begin, ds_error *err) {
  struct pollfd p = {.fd = listener, .events = POLLIN};
  int32_t peer = -1;
  int left;
  do {
    left = slice(m, begin);
    if (left < 0) return late(m, "create", err);
  } while (poll(&p, 1, left) <= 0);
  int s = accept4(listener, NULL, NULL, SOCK_CLOEXEC);
  if (s < 0 || read(s, &peer, sizeof peer) != sizeof peer || peer <= m->rank || peer >= m->size) {
    if (s >= 0) close(s);
    return ds_fail(err, DS_ERR_IO, "buggy: a stranger at the door");
  }
  m->sockets[peer] = s;
  return DS_OK;
}

ds_status mesh_create(mesh *m, int rank, int size, const char *group, const ds_kv_store *kv,
                      int64_t timeout_ms, ds_error *err) {
  struct sockaddr_un a;
  socklen_t length = 0;
  int64_t begin = now_ms();
  m->rank = rank;
  m->size = size;
  m->timeout_ms = timeout_ms;
  m->sockets = buggy_alloc((size_t)size * sizeof *m->sockets);
  if (!m->sockets) return ds_fail_memory(err, "a communicator");
  for (int i = 0; i < size; i++) m->sockets[i] = -1;
  if (size == 1) return DS_OK;
  if (!kv) return ds_fail(err, DS_ERR_INVALID, "buggy: several ranks need a key-value store");
  int listener = listen_at(&a, &length);
  ds_status st = publish(m, group, kv, listener, &a, length, err);
  for (int i = 0; i < rank && st == DS_OK; i++) st = call(m, i, group, kv, err);
  for (int i = rank + 1; i < size && st == DS_OK; i++) st = answer(m, listener, begin, err);
  if (listener >= 0) close(listener);
  for (int i = 0; i < size && st == DS_OK; i++)
    if (m->sockets[i] >= 0) fcntl(m->sockets[i], F_SETFL, O_NONBLOCK);
  if (st != DS_OK) mesh_finish(m);
  return st;
}

void mesh_finish(mesh *m) {
  for (int i = 0; m->sockets && i < m->size; i++)
    if (m->sockets[i] >= 0) close(m->sockets[i]);
  buggy_free(m->sockets);
  m->sockets = NULL;
}

/* Moves what can be moved now. False: the peer is gone. */
static bool step(int socket, const parcel *p, size_t *sent, size_t *got) {
  while (*sent < p->out_bytes) {
    ssize_t n = send(socket, (const char *)p->out + *sent, p->out_bytes - *sent, MSG_NOSIGNAL);
    if (n < 0 && (errno == EAGAIN || errno == EINTR)) break;
    if (n <= 0) return false;
    *sent += (size_t)n;
  }
  while (*got < p->in_bytes) {
    ssize_t n = recv(socket, (char *)p->in + *got, p->in_bytes - *got, 0);
    if (n < 0 && (errno == EAGAIN || errno == EINTR)) break;
    if (n <= 0) return false;
    *got += (size_t)n;
  }
  return true;
}

ds_status mesh_exchange(mesh *m, const char *what, const parcel *p, ds_error *err) {
  enum { MOST = 64 };
  size_t sent[MOST] = {0}, got[MOST] = {0};
  int64_t begin = now_ms();
  if (m->size > MOST) return ds_fail(err, DS_ERR_UNSUPPORTED, "buggy: at most %d ranks", MOST);
  const parcel *own = &p[m->rank];
  if (own->in && own->out && own->in != own->out) memmove(own->in, own->out, own->in_bytes);
  for (;;) {
    struct pollfd wait[MOST];
    int n = 0;
    for (int i = 0; i < m->size; i++) {
      if (i == m->rank || (sent[i] == p[i].out_bytes && got[i] == p[i].in_bytes)) continue;
      if (!step(m->sockets[i], &p[i], &sent[i], &got[i]))
        return ds_fail(err, DS_ERR_IO, "buggy: %s: rank %d has left", what, i);
      short events =
          (short)((sent[i] < p[i].out_bytes ? POLLOUT : 0) | (got[i] < p[i].in_bytes ? POLLIN : 0));
      if (events) wait[n++] = (struct pollfd){.fd = m->sockets[i], .events = events};
    }
    if (n == 0) return DS_OK;
    if (*m->aborted) return ds_fail(err, DS_ERR_ABORTED, "buggy: %s: aborted", what);
    int left = slice(m, begin);
    if (left < 0) return late(m, what, err);
    poll(wait, (nfds_t)n, left);
  }
}
