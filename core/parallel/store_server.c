/* store_server.c - rank 0's side of the store: one thread, one poll. A connection brings one request;
 * a get whose key isn't there yet waits in the server until it is set or its time is over. */
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "parallel/store_wire.h"

enum {
  DEAF_MS = 100,  /* how long nobody is let in after there was no descriptor for one */
  SLOW_MS = 5000, /* what a peer may take for its request, and to take the reply */
  SPARE = 32      /* connections besides one a rank and thread */
};

typedef struct entry {
  struct entry *next;
  size_t key_bytes, value_bytes;
  char data[]; /* key, value */
} entry;

enum phase { HEADER, BODY, WAITING, REPLY, OVER };

typedef struct peer {
  int fd;
  enum phase phase;
  int64_t deadline;
  ds_store_request request;
  char *body; /* key, value; then the reply, with its header */
  size_t done, want;
} peer;

struct ds_store_server {
  pthread_t thread;
  int listener, wake; /* wake: an eventfd */
  int size;
  uint64_t job;
  entry *entries;
  size_t total;
  peer *peers;
  struct pollfd *polls;
  int count, room;
  int64_t deaf_until;
  bool *gone; /* by rank: said bye */
  int n_gone;
  pthread_mutex_t lock; /* of the next two */
  bool ending;
  int64_t end_at;
};

/* ---------------------------------------------------------------- entries */

static entry *find(const ds_store_server *s, const char *key, size_t bytes) {
  for (entry *e = s->entries; e; e = e->next)
    if (e->key_bytes == bytes && memcmp(e->data, key, bytes) == 0) return e;
  return NULL;
}

static ds_status put(ds_store_server *s, const peer *p) {
  size_t k = p->request.key_bytes, v = p->request.value_bytes;
  if (s->total + sizeof(entry) + k + v > DS_STORE_TOTAL_MAX) return DS_ERR_MEMORY;
  entry *e = malloc(sizeof *e + k + v);
  if (!e) return DS_ERR_MEMORY;
  *e = (entry){.next = s->entries, .key_bytes = k, .value_bytes = v};
  memcpy(e->data, p->body, k + v);
  s->entries = e; /* found before an older one of the same key */
  s->total += sizeof *e + k + v;
  return DS_OK;
}

/* ---------------------------------------------------------------- peers */

static void drop(peer *p) {
  close(p->fd);
  free(p->body);
  *p = (peer){.fd = -1, .phase = OVER};
}

static void reply(peer *p, ds_status status, const void *bytes, size_t n) {
  ds_store_reply r = {DS_STORE_MAGIC, (uint32_t)status, n};
  char *out = malloc(sizeof r + n);
  if (!out) {
    drop(p);
    return;
  }
  memcpy(out, &r, sizeof r);
  if (n) memcpy(out + sizeof r, bytes, n);
  free(p->body);
  p->body = out;
  p->done = 0;
  p->want = sizeof r + n;
  p->phase = REPLY;
  p->deadline = ds_store_now() + SLOW_MS;
}

static void reply_text(peer *p, ds_status status, const char *text) {
  reply(p, status, text, strlen(text));
}

/* Answers a get that can be answered. */
static void try_get(const ds_store_server *s, peer *p) {
  const entry *e = find(s, p->body, p->request.key_bytes);
  if (e) reply(p, DS_OK, e->data + e->key_bytes, e->value_bytes);
}

static void answer(ds_store_server *s, peer *p) {
  uint32_t rank = p->request.rank;
  switch ((enum ds_store_call)p->request.call) {
    case DS_STORE_SET: {
      ds_status status = put(s, p);
      if (status != DS_OK)
        reply_text(p, status, "rank 0's key-value store is full");
      else
        reply(p, DS_OK, NULL, 0);
      for (int i = 0; i < s->count; i++)
        if (s->peers[i].phase == WAITING) try_get(s, &s->peers[i]);
      return;
    }
    case DS_STORE_GET: {
      int64_t now = ds_store_now(), ms = p->request.timeout_ms;
      p->phase = WAITING;
      p->deadline = ms < INT64_MAX - now ? now + ms : INT64_MAX;
      try_get(s, p);
      return;
    }
    case DS_STORE_BYE:
      if (!s->gone[rank]) s->n_gone++;
      s->gone[rank] = true;
      reply(p, DS_OK, NULL, 0);
      return;
  }
  drop(p);
}

/* Who isn't one of ours. A rank that has said bye wants the next store, which isn't there yet: it
 * gets no answer, and tries again. */
static void judge(ds_store_server *s, peer *p) {
  const ds_store_request *r = &p->request;
  if (r->magic != DS_STORE_MAGIC || r->version != DS_STORE_VERSION ||
      r->key_bytes > DS_STORE_KEY_MAX || r->value_bytes > DS_STORE_VALUE_MAX || r->timeout_ms < 0) {
    drop(p);
    return;
  }
  if (r->job != s->job || r->size != (uint32_t)s->size || r->rank >= (uint32_t)s->size) {
    reply_text(p, DS_ERR_STATE, "this is another job's store");
    return;
  }
  if (s->gone[r->rank]) {
    drop(p);
    return;
  }
  size_t n = (size_t)r->key_bytes + r->value_bytes;
  p->phase = BODY;
  p->done = 0;
  p->want = n;
  p->body = malloc(n + 1);
  if (!p->body)
    drop(p);
  else if (n == 0)
    answer(s, p);
}

static void read_some(ds_store_server *s, peer *p) {
  char *to = p->phase == HEADER ? (char *)&p->request : p->body;
  ssize_t n = recv(p->fd, to + p->done, p->want - p->done, 0);
  if (n < 0 && (errno == EAGAIN || errno == EINTR)) return;
  if (n <= 0) {
    drop(p);
    return;
  }
  p->done += (size_t)n;
  if (p->done < p->want) return;
  if (p->phase == HEADER)
    judge(s, p);
  else
    answer(s, p);
}

static void write_some(peer *p) {
  ssize_t n = send(p->fd, p->body + p->done, p->want - p->done, MSG_NOSIGNAL);
  if (n < 0 && (errno == EAGAIN || errno == EINTR)) return;
  if (n > 0) p->done += (size_t)n;
  if (n <= 0 || p->done == p->want) drop(p);
}

static void attend(ds_store_server *s, peer *p, short events) {
  if (events == 0) return;
  if (p->phase == REPLY)
    write_some(p);
  else if (p->phase == WAITING) /* nothing more is to come: it has gone */
    drop(p);
  else
    read_some(s, p);
}

static void welcome(ds_store_server *s) {
  int fd = accept4(s->listener, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
  if (fd < 0) { /* who waits stays in line: asked at once again, poll would say so at once */
    if (errno == EMFILE || errno == ENFILE || errno == ENOBUFS || errno == ENOMEM)
      s->deaf_until = ds_store_now() + DEAF_MS;
    return;
  }
  if (!ds_store_same_user(fd)) {
    close(fd);
    return;
  }
  s->peers[s->count++] = (peer){.fd = fd,
                                .phase = HEADER,
                                .want = sizeof(ds_store_request),
                                .deadline = ds_store_now() + SLOW_MS};
}

/* ---------------------------------------------------------------- the thread */

/* Ends those whose time is over. The next moment at which one's is. */
static int64_t expire(ds_store_server *s) {
  int64_t now = ds_store_now(), next = INT64_MAX;
  int kept = 0;
  for (int i = 0; i < s->count; i++) {
    peer *p = &s->peers[i];
    if (p->phase == WAITING && now >= p->deadline)
      reply_text(p, DS_ERR_TIMEOUT, "no rank has set it");
    else if (p->phase != OVER && now >= p->deadline)
      drop(p);
    if (p->phase == OVER) continue;
    if (p->deadline < next) next = p->deadline;
    if (kept != i) s->peers[kept] = *p;
    kept++;
  }
  s->count = kept;
  return next;
}

/* Whether the thread is to end now; else *next is no later than when it must. */
static bool is_over(ds_store_server *s, int64_t *next) {
  pthread_mutex_lock(&s->lock);
  bool ending = s->ending;
  int64_t end_at = s->end_at;
  pthread_mutex_unlock(&s->lock);
  if (!ending) return false;
  bool replying = false; /* the last bye's answer */
  for (int i = 0; i < s->count; i++) replying = replying || s->peers[i].phase == REPLY;
  if ((s->n_gone >= s->size - 1 && !replying) || ds_store_now() >= end_at) return true;
  if (end_at < *next) *next = end_at;
  return false;
}

static void *serve(void *arg) {
  ds_store_server *s = arg;
  for (;;) {
    int64_t next = expire(s);
    if (is_over(s, &next)) return NULL;
    int64_t now = ds_store_now();
    bool deaf = now < s->deaf_until, full = s->count == s->room || deaf;
    if (deaf && s->deaf_until < next) next = s->deaf_until;
    int64_t wait = next == INT64_MAX ? -1 : next - now;
    s->polls[0] = (struct pollfd){.fd = s->wake, .events = POLLIN};
    s->polls[1] = (struct pollfd){.fd = full ? -1 : s->listener, .events = POLLIN};
    for (int i = 0; i < s->count; i++)
      s->polls[2 + i] = (struct pollfd){.fd = s->peers[i].fd,
                                        .events = s->peers[i].phase == REPLY ? POLLOUT : POLLIN};
    int count = s->count;
    wait = wait < -1 ? 0 : wait > 60000 ? 60000 : wait;
    if (poll(s->polls, (nfds_t)(2 + count), (int)wait) <= 0) continue;
    uint64_t drained;
    if (s->polls[0].revents && read(s->wake, &drained, sizeof drained) < 0) continue;
    for (int i = 0; i < count; i++) attend(s, &s->peers[i], s->polls[2 + i].revents);
    if (s->polls[1].revents) welcome(s);
  }
}

/* ---------------------------------------------------------------- start and stop */

static void release(ds_store_server *s) {
  for (int i = 0; i < s->count; i++)
    if (s->peers[i].phase != OVER) drop(&s->peers[i]);
  while (s->entries) {
    entry *e = s->entries;
    s->entries = e->next;
    free(e);
  }
  if (s->listener >= 0) close(s->listener);
  if (s->wake >= 0) close(s->wake);
  pthread_mutex_destroy(&s->lock);
  free(s->peers);
  free(s->polls);
  free(s->gone);
  free(s);
}

/* A server that listens everywhere is reached here. */
static void reach(ds_store_address *a) {
  struct sockaddr_in *v4 = (struct sockaddr_in *)&a->at;
  struct sockaddr_in6 *v6 = (struct sockaddr_in6 *)&a->at;
  if (v4->sin_family == AF_INET && v4->sin_addr.s_addr == htonl(INADDR_ANY))
    v4->sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  if (v6->sin6_family == AF_INET6 && IN6_IS_ADDR_UNSPECIFIED(&v6->sin6_addr))
    v6->sin6_addr = in6addr_loopback;
}

void ds_store_widen(ds_store_address *a) {
  if (a->at.ss_family == AF_INET)
    ((struct sockaddr_in *)&a->at)->sin_addr.s_addr = htonl(INADDR_ANY);
  if (a->at.ss_family == AF_INET6) ((struct sockaddr_in6 *)&a->at)->sin6_addr = in6addr_any;
}

static int bind_at(int fd, const ds_store_address *at) {
  int yes = 1, no = 0;
  (void)setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &yes, sizeof yes);
  /* Who listens everywhere is reached by IPv4 too. */
  if (at->at.ss_family == AF_INET6) (void)setsockopt(fd, IPPROTO_IPV6, IPV6_V6ONLY, &no, sizeof no);
  return bind(fd, (const struct sockaddr *)&at->at, at->length);
}

static bool start_thread(ds_store_server *s) {
  sigset_t all, before; /* the host's signals are the host's threads' */
  sigfillset(&all);
  pthread_sigmask(SIG_SETMASK, &all, &before);
  bool ok = pthread_create(&s->thread, NULL, serve, s) == 0;
  pthread_sigmask(SIG_SETMASK, &before, NULL);
  return ok;
}

ds_status ds_store_server_start(const ds_store_address *at, int size, uint64_t job,
                                ds_store_server **out, ds_store_address *own, int *code,
                                ds_error *err) {
  *code = 0;
  ds_store_server *s = calloc(1, sizeof *s);
  if (!s) return ds_fail_memory(err, "the key-value store");
  s->size = size;
  s->job = job;
  s->room = 2 * size + SPARE;
  pthread_mutex_init(&s->lock, NULL);
  s->listener = socket(at->at.ss_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
  s->wake = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
  s->peers = calloc((size_t)s->room, sizeof *s->peers);
  s->polls = calloc((size_t)s->room + 2, sizeof *s->polls);
  s->gone = calloc((size_t)size, sizeof *s->gone);
  ds_status status =
      s->peers && s->polls && s->gone ? DS_OK : ds_fail_memory(err, "the key-value store");
  own->length = sizeof own->at;
  if (status == DS_OK &&
      (s->listener < 0 || s->wake < 0 || bind_at(s->listener, at) != 0 ||
       listen(s->listener, SOMAXCONN) != 0 ||
       getsockname(s->listener, (struct sockaddr *)&own->at, &own->length) != 0)) {
    *code = errno;
    status = ds_fail(err, DS_ERR_IO, "%s", strerror(*code));
  }
  if (status == DS_OK && !start_thread(s))
    status = ds_fail(err, DS_ERR_MEMORY, "no thread for the key-value store");
  if (status != DS_OK) {
    release(s);
    return status;
  }
  reach(own);
  *out = s;
  return DS_OK;
}

void ds_store_server_stop(ds_store_server *s, int64_t linger_ms) {
  if (!s) return;
  const uint64_t one = 1;
  pthread_mutex_lock(&s->lock);
  s->ending = true;
  s->end_at = ds_store_now() + linger_ms;
  pthread_mutex_unlock(&s->lock);
  ssize_t written = write(s->wake, &one, sizeof one); /* an eventfd takes it */
  (void)written;
  pthread_join(s->thread, NULL);
  release(s);
}
