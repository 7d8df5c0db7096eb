#include "parallel/world.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/str.h"
#include "parallel/host_mpi.h"
#include "parallel/peers.h"
#include "parallel/slurm.h"
#include "parallel/start.h"
#include "parallel/store.h"
#include "parallel/tell.h"

enum { DEFAULT_PORT = 29500 };

/* What launchers say of the number of processes that they started. */
static const char *const sizes[] = {"OMPI_COMM_WORLD_SIZE", "PMI_SIZE", "SLURM_STEP_NUM_TASKS"};

/* ---- the environment */

/* *out is left alone when the variable is not set. */
static ds_status read_variable(const char *name, int min, int max, int *out, bool *set,
                               ds_error *err) {
  const char *text = getenv(name);
  *set = text && text[0];
  if (!*set) return DS_OK;
  char *end;
  errno = 0;
  long v = strtol(text, &end, 10);
  if (errno || *end || v < min || v > max)
    return ds_fail(err, DS_ERR_INVALID,
                   "the environment's %s=%.64s must be a whole number from %d to %d", name, text,
                   min, max);
  *out = (int)v;
  return DS_OK;
}

ds_status ds_world_from_environment(int *rank, int *size, const char **origin, ds_error *err) {
  bool has_rank, has_size;
  *rank = 0;
  *size = 1;
  *origin = "one process, no launcher";
  DS_TRY(read_variable("RANK", 0, 1 << 24, rank, &has_rank, err));
  DS_TRY(read_variable("WORLD_SIZE", 1, 1 << 24, size, &has_size, err));
  if (!has_size && has_rank && *rank > 0)
    return ds_fail(err, DS_ERR_INVALID, "the environment has RANK=%d but no WORLD_SIZE", *rank);
  if (has_size) *origin = "WORLD_SIZE in the environment";
  if (*size > 1 && !has_rank)
    return ds_fail(err, DS_ERR_INVALID, "the environment has WORLD_SIZE=%d but no RANK", *size);
  if (*rank >= *size)
    return ds_fail(err, DS_ERR_INVALID, "the environment's RANK=%d is not below WORLD_SIZE=%d",
                   *rank, *size);
  return DS_OK;
}

static bool is_several(const char *variable) {
  const char *text = getenv(variable);
  return text && strtol(text, NULL, 10) > 1;
}

bool ds_world_launched(void) {
  return is_several(sizes[0]) || is_several(sizes[1]) || is_several(sizes[2]) ||
         is_several("WORLD_SIZE");
}

static ds_status check_local_rank(ds_world *w, int given, bool launcher_knows, ds_error *err) {
  int local = -1;
  bool set;
  DS_TRY(read_variable("LOCAL_RANK", 0, 1 << 24, &local, &set, err));
  if (given >= 0 && set && given != local)
    return ds_fail(err, DS_ERR_INVALID,
                   "args.local_rank is %d but LOCAL_RANK in the environment is %d; they must agree",
                   given, local);
  int said = set ? local : given;
  if (launcher_knows && said >= 0 && said != w->local_rank)
    return ds_fail(err, DS_ERR_INVALID,
                   "%s is %d, but the launcher started this process as local rank %d",
                   set ? "LOCAL_RANK in the environment" : "args.local_rank", said, w->local_rank);
  if (said >= 0) w->local_rank = said;
  return DS_OK;
}

static ds_status choose_port(ds_world *w, int given, ds_error *err) {
  w->port = DEFAULT_PORT;
  DS_TRY(read_variable("MASTER_PORT", 0, 65535, &w->port, &w->port_given, err));
  if (given < -1 || given > 65535)
    return ds_fail(err, DS_ERR_INVALID, "distributed_port must be from 0 to 65535, not %d", given);
  const char *taken = getenv("TORCHELASTIC_USE_AGENT_STORE");
  if (given >= 0)
    w->port = given;
  else if (taken && strcmp(taken, "True") == 0)
    w->port = 0; /* torchrun's own store is at MASTER_PORT */
  w->port_given = w->port_given || given >= 0;
  return DS_OK;
}

static ds_status choose_timeout(ds_world *w, double seconds, ds_error *err) {
  int minutes = 0;
  bool set = false;
  if (seconds <= 0) DS_TRY(read_variable("DEEPSPEED_TIMEOUT", 1, 1 << 24, &minutes, &set, err));
  if (seconds <= 0) seconds = set ? minutes * 60.0 : DS_WORLD_TIMEOUT;
  w->timeout_ms = seconds < 1e-3 ? 1 : (int64_t)(seconds * 1000);
  return DS_OK;
}

/* ---- where ranks meet */

/* What a launcher gives to all ranks of a job and to no others; "" without one that we know. Of the
 * innermost launcher alone: what the one around it left (mpirun in a Slurm job) may differ from host to
 * host. */
static void read_job(ds_str *word) {
  static const char *const names[] = {"TORCHELASTIC_RUN_ID", "PMIX_NAMESPACE",
                                      "OMPI_MCA_orte_precondition_transports", "SLURM_JOB_ID"};
  const char *text = NULL, *step = getenv("SLURM_STEP_ID");
  size_t i = 0, n = sizeof names / sizeof *names;
  for (; i < n && !(text && text[0]); i++) text = getenv(names[i]);
  if (!text || !text[0]) return;
  ds_str_printf(word, "%s=%s", names[i - 1], text);
  if (i == n && step) ds_str_printf(word, ".%s", step);
  if (i > 1) return;
  /* torchrun's jobs are all called "none" unless they are given a name. */
  const char *port = getenv("MASTER_PORT"), *start = getenv("TORCHELASTIC_RESTART_COUNT");
  ds_str_printf(word, ":%s:%s", port ? port : "", start ? start : "");
}

/* MASTER_ADDR; where srun started the ranks, also the first host of its list. NULL: nobody says. */
static const char *find_host(char *room, size_t size) {
  const char *host = getenv("MASTER_ADDR"), *list = getenv("SLURM_STEP_NODELIST");
  if (host && host[0]) return host;
  if (getenv("OMPI_COMM_WORLD_SIZE")) return NULL; /* mpirun's own step isn't ours */
  return list && ds_slurm_first_host(list, room, size) ? room : NULL;
}

/* NULL, or why there is no place to meet. room: for the name of a host. */
static const char *find_place(const ds_world *w, const char *job, char *room, size_t size,
                              ds_store_args *out) {
  bool here = w->local_size == w->size, any = w->port_given && w->port == 0;
  const char *host = here ? getenv("MASTER_ADDR") : find_host(room, size);
  if (host && !host[0]) host = NULL;
  if (!host && !here)
    return "the ranks are on several hosts: start them with ds run, or set MASTER_ADDR to the name "
           "or "
           "address of rank 0's";
  if (any && !job[0])
    return "port 0, \"any free one\", is found only by ranks whose launcher gave them a name in "
           "common (ds run, mpirun, srun, torchrun): give a port (distributed_port, or "
           "MASTER_PORT)";
  if (any && here) host = NULL;
  out->host = host ? host : !any && (w->port_given || !job[0]) ? "127.0.0.1" : NULL;
  out->port = w->port;
  out->spread = !here;
  return NULL;
}

/* ---- the world */

static const ds_comm_table *comm_table(const ds_world *w) {
  return ds_backend_plugin(w->backend)->comm;
}

/* rank, size, local_rank and origin from the comm table and the environment, which must agree. */
static ds_status find_world(ds_world *w, const ds_world_args *args, ds_error *err) {
  const char *origin;
  DS_TRY(ds_world_from_environment(&w->rank, &w->size, &origin, err));
  snprintf(w->origin, sizeof w->origin, "%s", origin);
  const ds_comm_table *comm = comm_table(w);
  ds_comm_world world = {.size = sizeof world, .world_size = 1, .local_size = 1};
  if (comm) DS_TRY(ds_start_world(comm, ds_world_launched(), w->timeout_ms, &world, err));
  bool launched = world.world_size > 1;
  if (w->size > 1 && !comm)
    return ds_fail(err, DS_ERR_UNSUPPORTED,
                   "WORLD_SIZE is %d, but backend \"%s\" has no collectives; use one that has (the "
                   "config's \"backend\") or start one process",
                   w->size, ds_backend_name(w->backend));
  if (w->size > 1 && !launched)
    return ds_fail(err, DS_ERR_UNSUPPORTED,
                   "WORLD_SIZE is %d, but the launcher did not tell backend \"%s\" of other "
                   "processes; start them with mpirun -n %d",
                   w->size, ds_backend_name(w->backend), w->size);
  if (w->size > 1 && (w->size != world.world_size || w->rank != world.rank))
    return ds_fail(err, DS_ERR_INVALID,
                   "RANK=%d and WORLD_SIZE=%d in the environment, but the launcher says rank %d of "
                   "%d; unset them",
                   w->rank, w->size, world.rank, world.world_size);
  if (launched) {
    w->rank = world.rank;
    w->size = world.world_size;
    w->local_rank = world.local_rank;
    w->local_size = world.local_size;
    snprintf(w->origin, sizeof w->origin, "the launcher, through backend \"%s\"",
             ds_backend_name(w->backend));
  }
  return check_local_rank(w, args->local_rank, launched, err);
}

/* A launcher that started several processes, of whom this backend knows one: they would all train
 * the same, and write over each other's checkpoints. Where it can't tell, that is refused; where it
 * says that it is alone, it may be meant so. */
static ds_status check_alone(const ds_world *w, const ds_logger *logger, ds_error *err) {
  for (int i = 0; i < 3; i++) {
    int size = 1;
    bool set;
    DS_TRY(read_variable(sizes[i], 0, 1 << 24, &size, &set, err));
    if (size <= 1) continue;
    if (!comm_table(w))
      return ds_fail(
          err, DS_ERR_UNSUPPORTED,
          "the launcher started %d processes (%s), but backend \"%s\" has no "
          "collectives; use one that has (the config's \"backend\") or start one process",
          size, sizes[i], ds_backend_name(w->backend));
    ds_log(logger, DS_LOG_WARN,
           "the launcher started %d processes (%s), but backend \"%s\" sees this one alone: each "
           "trains by itself",
           size, sizes[i], ds_backend_name(w->backend));
    return DS_OK;
  }
  return DS_OK;
}

/* What it says of groups is compared once the config's layout is known (topology.h). */
static ds_status check_mpu(ds_world *w, const ds_mpu *mpu, ds_error *err) {
  if (mpu->size < sizeof(ds_mpu) || !mpu->data_parallel || !mpu->model_parallel)
    return ds_fail(err, DS_ERR_INVALID,
                   "mpu: needs size = sizeof(ds_mpu), data_parallel and model_parallel");
  snprintf(w->origin, sizeof w->origin, "mpu");
  return DS_OK;
}

static size_t flag_bytes(const ds_world *w) {
  size_t bytes = (size_t)w->size * DS_WORLD_EXCHANGE, least = DS_WORLD_SAY * sizeof(float);
  return bytes > least ? bytes : least;
}

/* store: where the ranks may meet, or NULL, because of `placeless`. */
static ds_status create(ds_world *w, const ds_store *store, const char *placeless, ds_error *err) {
  ds_error inner = {DS_OK, ""};
  ds_comm *comm = NULL;
  int32_t *ranks = malloc((size_t)w->size * sizeof *ranks);
  if (!ranks) return ds_fail_memory(err, "the world's ranks");
  for (int i = 0; i < w->size; i++) ranks[i] = i;
  ds_status status =
      comm_table(w)->create(ds_backend_raw_device(w->backend), ranks, w->size,
                            store ? ds_store_kv(store) : NULL, w->timeout_ms, &comm, &inner);
  free(ranks);
  if (status == DS_OK) return ds_group_create(w->backend, "world", comm, &w->group, err);
  return ds_fail(err, status, "%s%s%s", inner.message, placeless ? "; " : "",
                 placeless ? placeless : "");
}

static ds_status connect(ds_world *w, ds_error *err) {
  ds_str job = {0};
  char host[256];
  ds_store *store = NULL;
  ds_store_args args = {.rank = w->rank, .size = w->size, .timeout_ms = w->timeout_ms};
  read_job(&job);
  args.job = job.data ? job.data : "";
  const char *placeless = find_place(w, args.job, host, sizeof host, &args);
  ds_status status = ds_str_status(&job, err);
  if (status == DS_OK && !placeless) status = ds_store_create(&args, &store, err);
  if (status == DS_OK) status = create(w, store, placeless, err);
  ds_store_destroy(store);
  ds_str_finish(&job);
  if (status != DS_OK) return status;
  DS_TRY(ds_backend_alloc(w->backend, flag_bytes(w), &w->flag, err));
  return ds_peers_meet(w, err);
}

/* In DeepSpeed's three meanings. To be asked before the comm table, which may start MPI. */
static ds_status check_required(const ds_world_args *args, ds_error *err) {
  if (args->dist_init_required < -1 || args->dist_init_required > 1)
    return ds_fail(err, DS_ERR_INVALID, "dist_init_required must be -1, 0 or 1, not %d",
                   args->dist_init_required);
  if (args->dist_init_required != 0 || args->mpu || ds_host_mpi_runs()) return DS_OK;
  return ds_fail(err, DS_ERR_STATE,
                 "dist_init_required is false, but nothing has set up communication: MPI isn't "
                 "initialized and there is no mpu; initialize MPI first, or leave it unset");
}

ds_status ds_world_init(ds_world *out, ds_backend *b, const ds_world_args *args,
                        const ds_logger *logger, ds_error *err) {
  *out = (ds_world){.size = 1, .local_size = 1, .backend = b};
  ds_status status = check_required(args, err);
  if (status == DS_OK) status = choose_timeout(out, args->comm_timeout, err);
  if (status == DS_OK) status = find_world(out, args, err);
  if (status == DS_OK && out->size == 1) status = check_alone(out, logger, err);
  if (status == DS_OK) status = choose_port(out, args->distributed_port, err);
  if (status == DS_OK && args->mpu) status = check_mpu(out, args->mpu, err);
  if (status == DS_OK && args->distributed_port >= 0 && out->size == 1)
    ds_log(logger, DS_LOG_INFO, "distributed_port %d is not needed: one process",
           args->distributed_port);
  if (status == DS_OK && out->size > 1) status = connect(out, err);
  if (status != DS_OK) ds_world_finish(out);
  return status;
}

void ds_world_finish(ds_world *w) {
  /* An aborted communicator may still write to memory until it is gone. */
  ds_group_destroy(w->group);
  if (w->flag) ds_backend_free(w->backend, w->flag, flag_bytes(w));
  if (w->told) ds_backend_free(w->backend, w->told, w->told_bytes);
  free(w->peers);
  memset(w, 0, sizeof *w);
}

ds_status ds_world_allreduce(ds_world *w, float *x, int64_t n, ds_reduce op, ds_error *err) {
  if (!w->group) return DS_OK;
  return ds_group_allreduce(w->group, NULL, x, x, n, DS_F32, op, err);
}

ds_status ds_world_broadcast(ds_world *w, float *x, int64_t n, ds_error *err) {
  if (!w->group) return DS_OK;
  return ds_group_broadcast(w->group, NULL, x, n, DS_F32, 0, err);
}

ds_status ds_world_exchange(ds_world *w, const void *mine, void *all, size_t bytes, ds_error *err) {
  if (!w->group) {
    memcpy(all, mine, bytes);
    return DS_OK;
  }
  char *own = (char *)w->flag + (size_t)w->rank * bytes;
  DS_TRY(ds_backend_upload(w->backend, own, mine, bytes, err));
  DS_TRY(ds_group_allgather(w->group, NULL, own, w->flag, (int64_t)bytes, DS_I8, err));
  return ds_backend_download(w->backend, all, w->flag, (size_t)w->size * bytes, err);
}

/* As numbers, the one thing that every backend's collectives have. */
ds_status ds_world_say(ds_world *w, char text[DS_WORLD_SAY], ds_error *err) {
  if (!w->group) return DS_OK;
  float x[DS_WORLD_SAY] = {0};
  for (size_t i = 0; w->rank == 0 && i + 1 < DS_WORLD_SAY && text[i]; i++)
    x[i] = (float)(unsigned char)text[i];
  DS_TRY(ds_backend_upload(w->backend, w->flag, x, sizeof x, err));
  DS_TRY(ds_world_broadcast(w, w->flag, DS_WORLD_SAY, err));
  DS_TRY(ds_backend_download(w->backend, x, w->flag, sizeof x, err));
  for (size_t i = 0; i < DS_WORLD_SAY; i++) text[i] = (char)(unsigned char)x[i];
  return DS_OK;
}

ds_status ds_world_agree(ds_world *w, ds_status mine, const char *what, ds_error *err) {
  if (!w->group) return mine;
  ds_error said = {DS_OK, ""}, inner = {DS_OK, ""};
  int rank;
  if (mine != DS_OK && err) said = *err;
  said.status = mine;
  ds_status status = ds_tell_first(w, mine != DS_OK, &said, sizeof said, &rank, &inner);
  if (mine != DS_OK) return mine;
  if (status != DS_OK) return ds_fail(err, status, "%s: %s", what, inner.message);
  if (rank < 0) return DS_OK;
  said.message[sizeof said.message - 1] = '\0';
  return ds_fail(err, said.status, "%s failed on rank %d: %s", what, rank, said.message);
}
