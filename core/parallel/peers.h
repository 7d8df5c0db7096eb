/* peers.h - what became of the other ranks' processes, where this host can see it: for messages. */
#ifndef DS_PARALLEL_PEERS_H
#define DS_PARALLEL_PEERS_H

#include "parallel/world.h"

/* One rank's process. */
typedef struct ds_peer {
  uint64_t host;    /* this start of this host, and its numbering of processes; 0: not known */
  uint64_t started; /* in the kernel's ticks: a number may be given anew */
  int64_t pid;
} ds_peer;

/* Collective: fills w->peers. */
DS_MUST_USE ds_status ds_peers_meet(ds_world *w, ds_error *err);

/* "rank 1 (process 77) has ended; rank 2 (process 78) is stopped": those on this host that are not alive
 * and well, and that `said` doesn't name. "" where there are none. */
void ds_peers_describe(const ds_world *w, const char *said, char *out, size_t room);

#endif
