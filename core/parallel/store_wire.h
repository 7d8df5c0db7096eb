/* store_wire.h - what the two sides of store.h say to each other: one request and one reply a
 * connection, in this machine's byte order. */
#ifndef DS_PARALLEL_STORE_WIRE_H
#define DS_PARALLEL_STORE_WIRE_H

#include <stdbool.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include "parallel/store.h"

enum { DS_STORE_MAGIC = 0x6b765344, DS_STORE_VERSION = 1 };

enum ds_store_call {
  DS_STORE_SET = 1,
  DS_STORE_GET = 2,
  DS_STORE_BYE = 3 /* this rank won't come again */
};

typedef struct ds_store_request {
  uint32_t magic;
  uint16_t version, call;
  uint32_t rank, size;
  uint64_t job; /* a hash of the job's word */
  int64_t timeout_ms;
  uint32_t key_bytes, value_bytes; /* which follow */
} ds_store_request;

typedef struct ds_store_reply {
  uint32_t magic;
  uint32_t status; /* ds_status */
  uint64_t bytes;  /* which follow: the value, or after a failure its reason */
} ds_store_reply;

static inline int64_t ds_store_now(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return (int64_t)t.tv_sec * 1000 + t.tv_nsec / 1000000;
}

/* Whether a Unix socket's other end is of the same user: a name in the abstract namespace is anybody's
 * to take, and to ask. Of TCP nothing is known. */
static inline bool ds_store_same_user(int fd) {
  struct ucred peer;
  int domain = 0;
  socklen_t n = sizeof domain, m = sizeof peer;
  if (getsockopt(fd, SOL_SOCKET, SO_DOMAIN, &domain, &n) != 0) return false;
  if (domain != AF_UNIX) return true;
  return getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &peer, &m) == 0 && peer.uid == geteuid();
}

/* Where rank 0 listens; address is filled by ds_store_server_start too. */
typedef struct ds_store_address {
  struct sockaddr_storage at;
  socklen_t length;
} ds_store_address;

typedef struct ds_store_server ds_store_server;

/* Every address of this host, at the same port. */
void ds_store_widen(ds_store_address *a);
/* Listens there and serves until stop; *own is how this process reaches it. DS_ERR_IO with errno in
 * *code: EADDRINUSE, somebody else does; EADDRNOTAVAIL, the address is not this host's. */
DS_MUST_USE ds_status ds_store_server_start(const ds_store_address *at, int size, uint64_t job,
                                            ds_store_server **out, ds_store_address *own, int *code,
                                            ds_error *err);
/* Once all ranks but 0 have said bye, or linger_ms have passed. NULL is allowed. */
void ds_store_server_stop(ds_store_server *s, int64_t linger_ms);

#endif
