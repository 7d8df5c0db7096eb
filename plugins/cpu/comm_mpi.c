/* comm_mpi.c - Open MPI, found at run time. */
#include "comm_mpi.h"

#include <stdlib.h>

/* Set by mpirun and by PMIx servers such as Slurm's. */
static bool launched(void) {
  return getenv("OMPI_COMM_WORLD_SIZE") != NULL || getenv("PMIX_RANK") != NULL;
}

#ifdef DS_CPU_HAVE_MPI

#include <dlfcn.h>
#include <mpi.h>
#include <pthread.h>
#include <string.h>

/* The lists: clang-format would indent them anew each time. */
/* clang-format off */
#define CALLS(X)                                                                                   \
  X(Allgather) X(Allreduce) X(Alltoall) X(Barrier) X(Bcast) X(Comm_create_group) X(Comm_free)      \
  X(Comm_group) X(Comm_rank) X(Comm_set_errhandler) X(Comm_size) X(Comm_split_type)                \
  X(Error_string) X(Finalize) X(Finalized) X(Group_free) X(Group_incl) X(Init_thread)              \
  X(Initialized) X(Recv) X(Reduce_scatter_block) X(Send) X(Sendrecv)

/* Open MPI's constants are addresses of its variables. */
#define CONSTANTS(X)                                                                               \
  X(MPI_Comm, comm_world) X(MPI_Comm, comm_null) X(MPI_Datatype, byte) X(MPI_Datatype, float)      \
  X(MPI_Datatype, double) X(MPI_Datatype, int32_t) X(MPI_Datatype, int64_t) X(MPI_Op, op_sum)      \
  X(MPI_Op, op_max) X(MPI_Op, op_min) X(MPI_Errhandler, errors_return) X(MPI_Info, info_null)
/* clang-format on */

typedef struct runtime {
  bool ready;
  ds_comm_world world;
#define X(name) __typeof__(&MPI_##name) name;
  CALLS(X)
#undef X
#define X(type, name) type c_##name;
  CONSTANTS(X)
#undef X
} runtime;

/* The process has one MPI. */
static runtime mpi;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;

struct ds_cpu_mpi_group {
  MPI_Comm comm;
};

static ds_status check(int code, const char *what, ds_error *err) {
  if (code == MPI_SUCCESS) return DS_OK;
  char text[MPI_MAX_ERROR_STRING] = "";
  int length = 0;
  if (mpi.Error_string(code, text, &length) != MPI_SUCCESS) text[0] = '\0';
  return ds_cpu_fail(err, DS_ERR_DEVICE, "cpu comm: MPI's %s failed: %s (code %d)", what, text,
                     code);
}

/* Open MPI's own components look for libmpi's symbols among the global ones. */
static ds_status load(ds_error *err) {
  void *lib = dlopen("libmpi.so.40", RTLD_NOW | RTLD_GLOBAL);
  if (lib == NULL)
    return ds_cpu_fail(err, DS_ERR_UNSUPPORTED,
                       "cpu comm: several ranks need Open MPI: %s (Debian: apt install "
                       "libopenmpi3)",
                       dlerror());
  const char *missing = NULL;
  void *symbol;
#define X(name)                                                                                    \
  symbol = dlsym(lib, "MPI_" #name);                                                               \
  if (symbol == NULL) missing = "MPI_" #name;                                                      \
  memcpy(&mpi.name, &symbol, sizeof symbol);
  CALLS(X)
#undef X
#define X(type, name)                                                                              \
  mpi.c_##name = (type)dlsym(lib, "ompi_mpi_" #name);                                              \
  if (mpi.c_##name == NULL) missing = "ompi_mpi_" #name;
  CONSTANTS(X)
#undef X
  if (missing == NULL) return DS_OK;
  return ds_cpu_fail(err, DS_ERR_UNSUPPORTED,
                     "cpu comm: libmpi.so.40 has no %s; this plugin was built for Open MPI %d.%d",
                     missing, OMPI_MAJOR_VERSION, OMPI_MINOR_VERSION);
}

static void finalize_at_exit(int code, void *unused) {
  int finalized = 0;
  (void)unused;
  if (code == 0 && mpi.Finalized(&finalized) == MPI_SUCCESS && !finalized) (void)mpi.Finalize();
}

static ds_status start(ds_error *err) {
  int running = 0, provided = 0;
  ds_status st = check(mpi.Initialized(&running), "Initialized", err);
  if (st != DS_OK || running) return st;
  st = check(mpi.Init_thread(NULL, NULL, MPI_THREAD_MULTIPLE, &provided), "Init_thread", err);
  if (st != DS_OK) return st;
  if (on_exit(finalize_at_exit, NULL) != 0)
    return ds_cpu_fail(err, DS_ERR_MEMORY, "cpu comm: no memory for an exit handler");
  return check(mpi.Comm_set_errhandler(mpi.c_comm_world, mpi.c_errors_return),
               "Comm_set_errhandler", err);
}

/* mpirun says it in the environment; elsewhere the ranks work it out among themselves. */
static ds_status find_local(ds_comm_world *w, ds_error *err) {
  const char *rank = getenv("OMPI_COMM_WORLD_LOCAL_RANK");
  const char *size = getenv("OMPI_COMM_WORLD_LOCAL_SIZE");
  if (rank != NULL && size != NULL) {
    w->local_rank = atoi(rank);
    w->local_size = atoi(size);
    return DS_OK;
  }
  MPI_Comm node = mpi.c_comm_null;
  ds_status st = check(
      mpi.Comm_split_type(mpi.c_comm_world, MPI_COMM_TYPE_SHARED, w->rank, mpi.c_info_null, &node),
      "Comm_split_type", err);
  if (st != DS_OK) return st;
  st = check(mpi.Comm_rank(node, &w->local_rank), "Comm_rank", err);
  if (st == DS_OK) st = check(mpi.Comm_size(node, &w->local_size), "Comm_size", err);
  (void)mpi.Comm_free(&node);
  return st;
}

/* Whether the host has MPI running already: then its library is in memory. */
static bool host_runs_mpi(void) {
  void *lib = dlopen("libmpi.so.40", RTLD_NOW | RTLD_NOLOAD);
  if (lib == NULL) return false;
  int running = 0;
  int (*initialized)(int *) = NULL;
  void *symbol = dlsym(lib, "MPI_Initialized");
  memcpy(&initialized, &symbol, sizeof symbol);
  if (initialized != NULL && initialized(&running) != MPI_SUCCESS) running = 0;
  dlclose(lib);
  return running != 0;
}

static ds_status ensure(ds_error *err) {
  if (mpi.ready) return DS_OK;
  ds_comm_world w = {0};
  ds_status st = load(err);
  if (st == DS_OK) st = start(err);
  if (st == DS_OK) st = check(mpi.Comm_rank(mpi.c_comm_world, &w.rank), "Comm_rank", err);
  if (st == DS_OK) st = check(mpi.Comm_size(mpi.c_comm_world, &w.world_size), "Comm_size", err);
  if (st == DS_OK) st = find_local(&w, err);
  mpi.world = w;
  mpi.ready = st == DS_OK;
  return st;
}

ds_status ds_cpu_mpi_world(ds_comm_world *out, ds_error *err) {
  ds_comm_world w = {.world_size = 1, .local_size = 1};
  ds_status st = DS_OK;
  pthread_mutex_lock(&lock);
  if (mpi.ready || launched() || host_runs_mpi()) {
    st = ensure(err);
    w = mpi.world;
  }
  pthread_mutex_unlock(&lock);
  if (st != DS_OK) return st;
  w.size = out->size;
  *out = w;
  return DS_OK;
}

ds_status ds_cpu_mpi_create(const int32_t *ranks, int32_t count, ds_cpu_mpi_group **out,
                            ds_error *err) {
  MPI_Group all = NULL, members = NULL;
  ds_cpu_mpi_group *g = calloc(1, sizeof *g);
  if (g == NULL) return ds_cpu_fail(err, DS_ERR_MEMORY, "cpu comm: no memory for a communicator");
  g->comm = mpi.c_comm_null;
  int tag = 0; /* keeps groups apart that are made at the same time */
  for (int32_t i = 0; i < count; i++) tag = (tag * 31 + ranks[i] + 1) & 0x3fff;
  ds_status st = check(mpi.Comm_group(mpi.c_comm_world, &all), "Comm_group", err);
  if (st == DS_OK) st = check(mpi.Group_incl(all, count, ranks, &members), "Group_incl", err);
  if (st == DS_OK)
    st = check(mpi.Comm_create_group(mpi.c_comm_world, members, tag, &g->comm), "Comm_create_group",
               err);
  if (st == DS_OK)
    st = check(mpi.Comm_set_errhandler(g->comm, mpi.c_errors_return), "Comm_set_errhandler", err);
  if (members != NULL) (void)mpi.Group_free(&members);
  if (all != NULL) (void)mpi.Group_free(&all);
  if (st != DS_OK) {
    ds_cpu_mpi_destroy(g);
    return st;
  }
  *out = g;
  return DS_OK;
}

void ds_cpu_mpi_destroy(ds_cpu_mpi_group *g) {
  int finalized = 0;
  if (g == NULL) return;
  if (g->comm != mpi.c_comm_null && mpi.Finalized(&finalized) == MPI_SUCCESS && !finalized)
    (void)mpi.Comm_free(&g->comm);
  free(g);
}

/* ---------------------------------------------------------------- collectives */

static MPI_Datatype type_of(int32_t dtype) {
  return dtype == DS_F32   ? mpi.c_float
         : dtype == DS_F64 ? mpi.c_double
         : dtype == DS_I32 ? mpi.c_int32_t
                           : mpi.c_int64_t;
}

static MPI_Op op_of(ds_reduce op) {
  return op == DS_REDUCE_MAX ? mpi.c_op_max : op == DS_REDUCE_MIN ? mpi.c_op_min : mpi.c_op_sum;
}

ds_status ds_cpu_mpi_allreduce(ds_cpu_mpi_group *g, void *buffer, int count, int32_t dtype,
                               ds_reduce op, ds_error *err) {
  return check(mpi.Allreduce(MPI_IN_PLACE, buffer, count, type_of(dtype), op_of(op), g->comm),
               "Allreduce", err);
}

ds_status ds_cpu_mpi_reduce_scatter(ds_cpu_mpi_group *g, const void *send, void *recv, int count,
                                    int32_t dtype, ds_reduce op, ds_error *err) {
  return check(mpi.Reduce_scatter_block(send, recv, count, type_of(dtype), op_of(op), g->comm),
               "Reduce_scatter_block", err);
}

ds_status ds_cpu_mpi_allgather(ds_cpu_mpi_group *g, const void *send, void *recv, int bytes,
                               bool in_place, ds_error *err) {
  return check(mpi.Allgather(in_place ? MPI_IN_PLACE : send, bytes, mpi.c_byte, recv, bytes,
                             mpi.c_byte, g->comm),
               "Allgather", err);
}

ds_status ds_cpu_mpi_alltoall(ds_cpu_mpi_group *g, const void *send, void *recv, int bytes,
                              ds_error *err) {
  return check(mpi.Alltoall(send, bytes, mpi.c_byte, recv, bytes, mpi.c_byte, g->comm), "Alltoall",
               err);
}

ds_status ds_cpu_mpi_broadcast(ds_cpu_mpi_group *g, void *buffer, int bytes, int root,
                               ds_error *err) {
  return check(mpi.Bcast(buffer, bytes, mpi.c_byte, root, g->comm), "Bcast", err);
}

ds_status ds_cpu_mpi_send(ds_cpu_mpi_group *g, const void *buffer, int bytes, int peer,
                          ds_error *err) {
  return check(mpi.Send(buffer, bytes, mpi.c_byte, peer, 0, g->comm), "Send", err);
}

ds_status ds_cpu_mpi_recv(ds_cpu_mpi_group *g, void *buffer, int bytes, int peer, ds_error *err) {
  return check(mpi.Recv(buffer, bytes, mpi.c_byte, peer, 0, g->comm, MPI_STATUS_IGNORE), "Recv",
               err);
}

ds_status ds_cpu_mpi_sendrecv(ds_cpu_mpi_group *g, const void *send, int to, void *recv, int from,
                              int bytes, ds_error *err) {
  return check(mpi.Sendrecv(send, bytes, mpi.c_byte, to, 1, recv, bytes, mpi.c_byte, from, 1,
                            g->comm, MPI_STATUS_IGNORE),
               "Sendrecv", err);
}

ds_status ds_cpu_mpi_barrier(ds_cpu_mpi_group *g, ds_error *err) {
  return check(mpi.Barrier(g->comm), "Barrier", err);
}

#else /* built without mpi.h: one rank works, several are refused with the reason */

static ds_status absent(ds_error *err) {
  return ds_cpu_fail(err, DS_ERR_UNSUPPORTED,
                     "cpu comm: this plugin was built without Open MPI's headers; build it again "
                     "with them (Debian: apt install libopenmpi-dev)");
}

ds_status ds_cpu_mpi_world(ds_comm_world *out, ds_error *err) {
  if (launched()) return absent(err);
  *out = (ds_comm_world){.size = out->size, .world_size = 1, .local_size = 1};
  return DS_OK;
}

ds_status ds_cpu_mpi_create(const int32_t *ranks, int32_t count, ds_cpu_mpi_group **out,
                            ds_error *err) {
  (void)ranks, (void)count, (void)out;
  return absent(err);
}

void ds_cpu_mpi_destroy(ds_cpu_mpi_group *g) {
  (void)g; /* create never made one */
}

/* There is no group to call these with. */
#define ABSENT(name, ...)                                                                          \
  ds_status ds_cpu_mpi_##name(ds_cpu_mpi_group *g, __VA_ARGS__, ds_error *err) {                   \
    (void)g;                                                                                       \
    return absent(err);                                                                            \
  }
#pragma GCC diagnostic ignored "-Wunused-parameter"
ABSENT(allreduce, void *buffer, int count, int32_t dtype, ds_reduce op)
ABSENT(reduce_scatter, const void *send, void *recv, int count, int32_t dtype, ds_reduce op)
ABSENT(allgather, const void *send, void *recv, int bytes, bool in_place)
ABSENT(alltoall, const void *send, void *recv, int bytes)
ABSENT(broadcast, void *buffer, int bytes, int root)
ABSENT(send, const void *buffer, int bytes, int peer)
ABSENT(recv, void *buffer, int bytes, int peer)
ABSENT(sendrecv, const void *send, int to, void *recv, int from, int bytes)

ds_status ds_cpu_mpi_barrier(ds_cpu_mpi_group *g, ds_error *err) {
  (void)g;
  return absent(err);
}

#endif
