#include "parallel/store_places.h"

#include <arpa/inet.h>
#include <netdb.h>
#include <netinet/in.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>
#include <sys/un.h>

enum { ASK_AGAIN_MS = 200 };

int ds_store_job_port(uint64_t job, int i) {
  const uint64_t span = DS_STORE_PORT_END - DS_STORE_PORT_FIRST;
  /* 1009 steps, so that neighbours of a busy port are not tried next */
  return DS_STORE_PORT_FIRST + (int)((job % span + (uint64_t)i * 1009) % span);
}

void ds_store_places_here(ds_store_places *out, uint64_t job) {
  struct sockaddr_un *un = (struct sockaddr_un *)&out->at[0].at;
  memset(out, 0, sizeof *out);
  un->sun_family = AF_UNIX; /* a name that begins with NUL */
  int n = snprintf(un->sun_path + 1, sizeof un->sun_path - 1, "dscore-%ld-%016llx", (long)geteuid(),
                   (unsigned long long)job);
  out->at[0].length = (socklen_t)(offsetof(struct sockaddr_un, sun_path) + 1 + (size_t)n);
  out->count = 1;
}

static void add(ds_store_places *out, const struct addrinfo *a, int port) {
  ds_store_address *to = &out->at[out->count++];
  memcpy(&to->at, a->ai_addr, a->ai_addrlen);
  to->length = a->ai_addrlen;
  if (a->ai_family == AF_INET)
    ((struct sockaddr_in *)&to->at)->sin_port = htons((uint16_t)port);
  else
    ((struct sockaddr_in6 *)&to->at)->sin6_port = htons((uint16_t)port);
}

static int ask(const char *host, int64_t deadline, struct addrinfo **found) {
  struct addrinfo hints = {.ai_family = AF_UNSPEC, .ai_socktype = SOCK_STREAM};
  for (;;) {
    int code = getaddrinfo(host, NULL, &hints, found);
    if (code != EAI_AGAIN || ds_store_now() >= deadline) return code;
    struct timespec pause = {0, ASK_AGAIN_MS * 1000000};
    nanosleep(&pause, NULL);
  }
}

ds_status ds_store_places_find(ds_store_places *out, const char *host, int port, uint64_t job,
                               const char *where, int64_t deadline, ds_error *err) {
  struct addrinfo *found = NULL;
  memset(out, 0, sizeof *out);
  int code = ask(host, deadline, &found);
  if (code != 0)
    return ds_fail(err, DS_ERR_NOT_FOUND,
                   "rendezvous at %s: %s; MASTER_ADDR is the name or address of rank 0's host",
                   where, gai_strerror(code));
  for (int i = 0; i < (port > 0 ? 1 : DS_STORE_PORTS); i++) {
    int n = 0;
    for (struct addrinfo *a = found; a && n < DS_STORE_ADDRESSES; a = a->ai_next) {
      if (a->ai_family != AF_INET && a->ai_family != AF_INET6) continue;
      add(out, a, port > 0 ? port : ds_store_job_port(job, i));
      n++;
    }
  }
  freeaddrinfo(found);
  if (out->count == 0)
    return ds_fail(err, DS_ERR_NOT_FOUND, "rendezvous at %s: it has no IP address", where);
  return DS_OK;
}
