/* world.h - which processes train together, and the few collectives over all of them.
 *
 * The world is what the launcher made: the backend's comm table tells (Open MPI), or RANK and
 * WORLD_SIZE do. Core has no collective algorithm: a world of more than one needs a backend with a
 * comm table that sees the same world. Where that needs a rendezvous, the ranks meet in a store of
 * ours (store.h): at MASTER_ADDR (where srun started them, the step's first host) and distributed_port
 * (MASTER_PORT, 29500), which rank 0 serves; without MASTER_ADDR, where all ranks are on one host, at
 * the port given, else by a name that is the launcher's job's. Port 0 is that name on one host, and across
 * hosts one of the ports that follow from it; a launcher that gives the job no name has none. In a
 * world of one every function here does nothing.
 *
 * How long ranks wait for one another, at the start and in each collective, is comm_timeout. What
 * takes longer fails with DS_ERR_TIMEOUT, naming the call, this rank and, where the plugin can tell,
 * who is missing; the world is then of no more use.
 */
#ifndef DS_PARALLEL_WORLD_H
#define DS_PARALLEL_WORLD_H

#include "backend/group.h"
#include "ds.h"

typedef struct ds_world {
  int rank, size, local_rank, local_size;
  char origin[64]; /* where the size came from, for messages */
  int port;        /* of the rendezvous, where one is needed */
  bool port_given; /* by distributed_port or MASTER_PORT */
  int64_t timeout_ms;
  ds_backend *backend;
  ds_group *group; /* all ranks; NULL in a world of one */
  void *flag;      /* device memory for DS_WORLD_EXCHANGE bytes of each rank, or DS_WORLD_SAY f32 */
  void *told; /* device memory of a broadcast that failed, which may use it until group is gone */
  size_t told_bytes;
  struct ds_peer *peers; /* by rank: peers.h; NULL in a world of one */
} ds_world;

enum { DS_WORLD_TIMEOUT = 1800 }; /* seconds, as DeepSpeed's half hour */

/* What ds_initialize was given about the world. */
typedef struct ds_world_args {
  int local_rank;         /* args.local_rank; -1 = not given */
  int distributed_port;   /* -1 = not given */
  int dist_init_required; /* -1: whatever is needed; 0: MPI must be running already, or mpu be there;
                             1: as -1 */
  const ds_mpu *mpu;      /* NULL = none */
  double comm_timeout;    /* seconds; 0: DEEPSPEED_TIMEOUT's minutes, or DS_WORLD_TIMEOUT */
} ds_world_args;

/* The world size as the environment says it (WORLD_SIZE), and RANK; 1 and 0 without. *origin is
 * static. Malformed values are errors. */
DS_MUST_USE ds_status ds_world_from_environment(int *rank, int *size, const char **origin,
                                                ds_error *err);

/* Whether the environment says that a launcher has started several processes. */
bool ds_world_launched(void);

/* Collective over the world. The backend must outlive it. out is finished on failure. */
DS_MUST_USE ds_status ds_world_init(ds_world *out, ds_backend *b, const ds_world_args *args,
                                    const ds_logger *logger, ds_error *err);
void ds_world_finish(ds_world *w);

/* In place, f32 in device memory; sum or mean. */
DS_MUST_USE ds_status ds_world_allreduce(ds_world *w, float *x, int64_t n, ds_reduce op,
                                         ds_error *err);
/* Rank 0's n f32 to all. */
DS_MUST_USE ds_status ds_world_broadcast(ds_world *w, float *x, int64_t n, ds_error *err);
/* Collective: `bytes` of host memory of each rank, one after the other, to all. At most
 * DS_WORLD_EXCHANGE bytes a rank. */
enum { DS_WORLD_EXCHANGE = 64, DS_WORLD_SAY = 512 };
DS_MUST_USE ds_status ds_world_exchange(ds_world *w, const void *mine, void *all, size_t bytes,
                                        ds_error *err);
/* Collective: rank 0's text to all, at most DS_WORLD_SAY - 1 bytes. */
DS_MUST_USE ds_status ds_world_say(ds_world *w, char text[DS_WORLD_SAY], ds_error *err);
/* Collective: DS_OK when every rank passes DS_OK. Else every rank fails: with its own status and
 * message (err's) where it has one, else with those of the lowest rank that failed at `what`. */
DS_MUST_USE ds_status ds_world_agree(ds_world *w, ds_status mine, const char *what, ds_error *err);

#endif
