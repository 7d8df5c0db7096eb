/* store.c - a rank's side of the store: each call is a connection, a request, a reply. */
#include "parallel/store.h"

#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <poll.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/str.h"
#include "parallel/store_places.h"

enum {
  RETRY_MS = 20,
  GRACE_MS = 2000,
  BYE_MS = 1000,
  TURN_MS = 2000 /* for one of several places, which may be one that swallows all */
};

struct ds_store {
  ds_kv_store kv;
  int rank, size, port;
  int64_t timeout_ms;
  uint64_t job;
  char *host, *where;   /* where: for messages */
  pthread_mutex_t lock; /* of the rest */
  ds_store_places places;
  atomic_int known;        /* that of places where rank 0 is; -1: not found yet */
  ds_store_server *server; /* on rank 0, once it was needed */
  bool spread, ready, used;
};

/* FNV-1a. */
static uint64_t hash(const char *text) {
  uint64_t h = 0xcbf29ce484222325u;
  for (; *text; text++) h = (h ^ (unsigned char)*text) * 0x100000001b3u;
  return h;
}

/* ---------------------------------------------------------------- where rank 0 is */

static ds_status resolve(ds_store *s, int64_t deadline, ds_error *err) {
  if (s->host)
    return ds_store_places_find(&s->places, s->host, s->port, s->job, s->where, deadline, err);
  ds_store_places_here(&s->places, s->job);
  return DS_OK;
}

/* A host's own name may be a loopback address there (Debian's 127.0.1.1), which no other host
 * reaches. */
static bool is_loopback(const ds_store_address *a) {
  const struct sockaddr_in *v4 = (const struct sockaddr_in *)&a->at;
  const struct sockaddr_in6 *v6 = (const struct sockaddr_in6 *)&a->at;
  if (a->at.ss_family == AF_INET) return ntohl(v4->sin_addr.s_addr) >> 24 == 127;
  return a->at.ss_family == AF_INET6 && IN6_IS_ADDR_LOOPBACK(&v6->sin6_addr);
}

/* At the first place that is to be had. wide: all addresses of this host stand for each of its
 * own. *code is EADDRINUSE when one was taken. */
static ds_status listen_at(ds_store *s, bool wide, int *code, ds_error *err) {
  ds_status status = DS_OK;
  bool taken = false;
  for (int i = 0; i < s->places.count; i++) {
    ds_store_address at = s->places.at[i], own;
    if (wide || (s->spread && is_loopback(&at))) ds_store_widen(&at);
    status = ds_store_server_start(&at, s->size, s->job, &s->server, &own, code, err);
    if (status == DS_OK) {
      s->places.at[0] = own;
      s->places.count = 1;
      return DS_OK;
    }
    s->server = NULL;
    taken = taken || *code == EADDRINUSE;
  }
  if (taken) *code = EADDRINUSE;
  return status;
}

static ds_status start_server(ds_store *s, int64_t deadline, ds_error *err) {
  for (;;) {
    int code;
    ds_error inner;
    ds_status status = listen_at(s, false, &code, &inner);
    /* The address of rank 0 as others see it may not be one of this machine's own (NAT,
     * containers). */
    if (status != DS_OK && code == EADDRNOTAVAIL) status = listen_at(s, true, &code, &inner);
    if (status == DS_OK) return DS_OK;
    if (code != EADDRINUSE || ds_store_now() >= deadline)
      return ds_fail(err, status, "rank 0 can't listen at %s: %s%s", s->where, inner.message,
                     code == EADDRINUSE
                         ? "; another job has this port: give each its own (distributed_port, or "
                           "MASTER_PORT)"
                         : "");
    struct timespec pause = {0, RETRY_MS * 1000000};
    nanosleep(&pause, NULL);
  }
}

/* At the first call. */
static ds_status begin(ds_store *s, int64_t deadline, ds_error *err) {
  ds_status status = DS_OK;
  pthread_mutex_lock(&s->lock);
  if (!s->ready) {
    status = resolve(s, deadline, err);
    if (status == DS_OK && s->rank == 0) status = start_server(s, deadline, err);
    s->ready = status == DS_OK;
  }
  s->used = s->used || s->ready;
  pthread_mutex_unlock(&s->lock);
  return status;
}

/* ---------------------------------------------------------------- one call */

/* Waits until fd can be read or written. */
static bool await(int fd, short what, int64_t deadline) {
  for (;;) {
    int64_t left = deadline - ds_store_now();
    struct pollfd p = {.fd = fd, .events = what};
    int n = poll(&p, 1, left < 0 ? 0 : left > 60000 ? 60000 : (int)left);
    if (n > 0) return true;
    if (n < 0 && errno != EINTR) return false;
    if (n == 0 && ds_store_now() >= deadline) return false;
  }
}

static bool move(int fd, bool out, void *bytes, size_t n, int64_t deadline) {
  char *p = bytes;
  while (n > 0) {
    if (!await(fd, out ? POLLOUT : POLLIN, deadline)) return false;
    ssize_t k = out ? send(fd, p, n, MSG_NOSIGNAL) : recv(fd, p, n, 0);
    if (k < 0 && (errno == EAGAIN || errno == EINTR)) continue;
    if (k <= 0) return false;
    p += k;
    n -= (size_t)k;
  }
  return true;
}

static int dial(const ds_store_address *a, int64_t deadline) {
  int fd = socket(a->at.ss_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0), code = 0;
  socklen_t length = sizeof code;
  if (fd < 0) return -1;
  bool connected = connect(fd, (const struct sockaddr *)&a->at, a->length) == 0 ||
                   (errno == EINPROGRESS && await(fd, POLLOUT, deadline) &&
                    getsockopt(fd, SOL_SOCKET, SO_ERROR, &code, &length) == 0 && code == 0);
  if (connected && ds_store_same_user(fd)) return fd;
  close(fd);
  return -1;
}

typedef struct call {
  enum ds_store_call what;
  const char *key;
  const void *send; /* set */
  size_t send_bytes;
  void *room; /* get */
  size_t *bytes;
  int64_t timeout_ms;
} call;

typedef enum outcome { DONE, AGAIN } outcome;

/* AGAIN: rank 0 isn't at this place (yet), or what is there isn't ours, of which *status tells. */
static outcome try_once(ds_store *s, int place, const call *c, int64_t deadline, ds_status *status,
                        ds_error *err) {
  int64_t left = deadline - ds_store_now();
  ds_store_request q = {.magic = DS_STORE_MAGIC,
                        .version = DS_STORE_VERSION,
                        .call = (uint16_t)c->what,
                        .rank = (uint32_t)s->rank,
                        .size = (uint32_t)s->size,
                        .job = s->job,
                        .timeout_ms = left < 0 ? 0 : left,
                        .key_bytes = (uint32_t)strlen(c->key),
                        .value_bytes = (uint32_t)c->send_bytes};
  ds_store_reply r = {0};
  char text[256] = "";
  int64_t patience = deadline < INT64_MAX - GRACE_MS ? deadline + GRACE_MS : deadline;
  *status = DS_ERR_TIMEOUT;
  int fd = dial(&s->places.at[place], deadline);
  if (fd < 0) return AGAIN;
  /* Who is turned away by its header can't send the rest, and is told all the same. */
  bool sent = move(fd, true, &q, sizeof q, patience) &&
              move(fd, true, (void *)(uintptr_t)c->key, q.key_bytes, patience) &&
              move(fd, true, (void *)(uintptr_t)c->send, q.value_bytes, patience);
  bool ok = move(fd, false, &r, sizeof r, patience) && (sent || r.status != DS_OK);
  if (!ok) {
    close(fd);
    return AGAIN;
  }
  if (r.magic != DS_STORE_MAGIC || r.bytes > DS_STORE_VALUE_MAX) {
    close(fd);
    *status = ds_fail(err, DS_ERR_FORMAT,
                      "what listens at %s is not rank 0 of this job: give another port "
                      "(distributed_port, or MASTER_PORT)",
                      s->where);
    return AGAIN;
  }
  *status = (ds_status)r.status;
  if (*status != DS_OK) {
    ok = r.bytes < sizeof text && move(fd, false, text, (size_t)r.bytes, patience);
    close(fd);
    if (*status == DS_ERR_STATE) return AGAIN; /* another job's, which will end */
    (void)ds_fail(err, *status, "key-value store at %s: \"%.64s\": %s", s->where, c->key,
                  ok ? text : ds_status_name(*status));
    return DONE;
  }
  if (c->what == DS_STORE_GET && r.bytes > *c->bytes)
    *status = ds_fail(err, DS_ERR_INVALID,
                      "key-value store: \"%.64s\" has %llu bytes; there is room for %zu", c->key,
                      (unsigned long long)r.bytes, *c->bytes);
  else
    ok = move(fd, false, c->room, (size_t)r.bytes, patience);
  close(fd);
  if (*status == DS_OK && !ok) return AGAIN;
  if (*status == DS_OK && c->bytes) *c->bytes = (size_t)r.bytes;
  return DONE;
}

static ds_status tell_silence(const ds_store *s, bool another, int64_t ms, ds_error *err) {
  return ds_fail(err, DS_ERR_TIMEOUT,
                 another
                     ? "rank %d: another job's store is at %s, in %lld ms and longer; give each "
                       "job its own port (distributed_port, or MASTER_PORT)"
                     : "rank %d: no answer from rank 0 at %s in %lld ms; is it running, and can "
                       "this host reach it?",
                 s->rank, s->where, (long long)ms);
}

/* Until rank 0 is found each place has its turn, and so long to answer. */
static ds_status run(ds_store *s, const call *c, ds_error *err) {
  int64_t now = ds_store_now(), ms = c->timeout_ms < 0 ? 0 : c->timeout_ms;
  int64_t deadline = ms < INT64_MAX / 2 ? now + ms : INT64_MAX / 2;
  ds_status status;
  bool another = false; /* job's store is there */
  DS_TRY(begin(s, deadline, err));
  const int n = s->places.count;
  for (int next = 0;; next = (next + 1) % n) {
    const int known = n == 1 ? 0 : atomic_load(&s->known);
    const int64_t turn = ds_store_now() + TURN_MS;
    const int64_t until = known >= 0 || deadline < turn ? deadline : turn;
    const int place = known >= 0 ? known : next;
    if (try_once(s, place, c, until, &status, err) == DONE) {
      atomic_store(&s->known, place);
      if (status != DS_ERR_TIMEOUT || until == deadline) return status;
      continue; /* it is there, and waits for another rank */
    }
    another = another || status == DS_ERR_STATE;
    bool over = ds_store_now() >= deadline;
    if (status == DS_ERR_FORMAT && (n == 1 || over)) return status;
    if (over) return tell_silence(s, another, ms, err);
    if (known < 0 && next < n - 1) continue; /* not all of them yet */
    struct timespec pause = {0, RETRY_MS * 1000000};
    nanosleep(&pause, NULL);
  }
}

static ds_status check_key(const char *key, ds_error *err) {
  if (!key || !key[0] || strlen(key) > DS_STORE_KEY_MAX)
    return ds_fail(err, DS_ERR_INVALID, "key-value store: a key has 1 to %d bytes",
                   (int)DS_STORE_KEY_MAX);
  return DS_OK;
}

static ds_status store_set(void *ctx, const char *key, const void *value, size_t bytes,
                           ds_error *err) {
  ds_store *s = ctx;
  DS_TRY(check_key(key, err));
  if (bytes > DS_STORE_VALUE_MAX)
    return ds_fail(err, DS_ERR_INVALID, "key-value store: \"%.64s\" has %zu bytes; %d is the most",
                   key, bytes, (int)DS_STORE_VALUE_MAX);
  call c = {.what = DS_STORE_SET,
            .key = key,
            .send = value,
            .send_bytes = bytes,
            .timeout_ms = s->timeout_ms};
  return run(s, &c, err);
}

static ds_status store_get(void *ctx, const char *key, void *value, size_t *bytes,
                           int64_t timeout_ms, ds_error *err) {
  DS_TRY(check_key(key, err));
  call c = {
      .what = DS_STORE_GET, .key = key, .room = value, .bytes = bytes, .timeout_ms = timeout_ms};
  return run(ctx, &c, err);
}

/* ---------------------------------------------------------------- life */

static char *describe(const ds_store *s, const ds_store_args *args) {
  if (!args->host) return ds_format("this host's socket of the job");
  if (args->port > 0) return ds_format("%s:%d", args->host, args->port);
  return ds_format("%s:%d (or one of %d other ports of this job's)", args->host,
                   ds_store_job_port(s->job, 0), DS_STORE_PORTS - 1);
}

ds_status ds_store_create(const ds_store_args *args, ds_store **out, ds_error *err) {
  ds_store *s = calloc(1, sizeof *s);
  *out = NULL;
  if (!s) return ds_fail_memory(err, "the key-value store");
  s->kv = (ds_kv_store){{sizeof s->kv, DS_ABI_MAJOR, DS_ABI_MINOR}, s, store_set, store_get};
  s->rank = args->rank;
  s->size = args->size;
  s->port = args->port;
  s->timeout_ms = args->timeout_ms;
  s->spread = args->spread;
  s->job = hash(args->job);
  s->known = -1;
  pthread_mutex_init(&s->lock, NULL);
  s->host = args->host ? strdup(args->host) : NULL;
  s->where = describe(s, args);
  if (!s->where || (args->host && !s->host)) {
    ds_store_destroy(s);
    return ds_fail_memory(err, "the key-value store");
  }
  *out = s;
  return DS_OK;
}

const ds_kv_store *ds_store_kv(const ds_store *s) {
  return &s->kv;
}

void ds_store_destroy(ds_store *s) {
  if (!s) return;
  if (s->rank != 0 && s->used) {
    call bye = {.what = DS_STORE_BYE, .key = "", .timeout_ms = BYE_MS};
    ds_status told;
    /* It may have gone before us. */
    int place = atomic_load(&s->known);
    (void)try_once(s, place < 0 ? 0 : place, &bye, ds_store_now() + BYE_MS, &told, NULL);
  }
  ds_store_server_stop(s->server, DS_STORE_LINGER_MS);
  pthread_mutex_destroy(&s->lock);
  free(s->host);
  free(s->where);
  free(s);
}
