/* store.h - a key-value store that the ranks of one world share: by it a plugin's create finds the
 * other ranks (ds_kv_store in ds_abi.h).
 *
 * Rank 0 serves, in a thread of its own; the others, and rank 0 itself, ask over sockets: TCP, or
 * where all ranks are on one host, a socket in Linux's abstract namespace, which needs no port and
 * leaves no file. A host that has several addresses is found at any of them. Nothing is opened before the first set or get, so that a plugin that needs no
 * rendezvous costs nothing.
 *
 * Who isn't a rank, comes with another job's word, or over the host's socket as another user, is turned away
 * before anything of it is kept, and nobody can make the server wait: what a peer is slow at ends after
 * a few seconds. The word is no secret, and nothing is encrypted: over TCP the network must be one that is
 * trusted, as for MPI and NCCL.
 */
#ifndef DS_PARALLEL_STORE_H
#define DS_PARALLEL_STORE_H

#include <stdbool.h>

#include "base/status.h"

enum {
  DS_STORE_KEY_MAX = 255,         /* bytes of a key */
  DS_STORE_VALUE_MAX = 256 << 10, /* of a value */
  DS_STORE_TOTAL_MAX = 64 << 20,  /* of all of them */
  DS_STORE_LINGER_MS = 5000       /* how long rank 0's end waits for the other ranks' */
};

typedef struct ds_store_args {
  int rank, size;
  const char *host; /* rank 0's: a name or an address; NULL: all ranks are on this host */
  int port;         /* with a host; 0: one of those that follow from the job's word */
  const char *job;  /* what only this job's ranks have in common; without a host or port, not "" */
  int64_t timeout_ms; /* of set, and of the way to rank 0; above 0 */
  bool spread;        /* the ranks are on several hosts */
} ds_store_args;

typedef struct ds_store ds_store;

/* Copies what it needs of args. */
DS_MUST_USE ds_status ds_store_create(const ds_store_args *args, ds_store **out, ds_error *err);
/* For the plugin, until destroy. Its functions may be called from several threads. */
const ds_kv_store *ds_store_kv(const ds_store *s);
/* On rank 0 waits until the others are done with it too, DS_STORE_LINGER_MS at most. NULL is
 * allowed. */
void ds_store_destroy(ds_store *s);

#endif
