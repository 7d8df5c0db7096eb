/* comm_mpi.c - Open MPI, found at run time: its start, and messages. Groups are made in comm_group.c, its
 * end is in comm_end.c. */
#include "comm_runtime.h"
#include "queue.h"

#include <stdlib.h>

/* Set by mpirun and by PMIx servers such as Slurm's. */
static bool launched(void) {
  return getenv("OMPI_COMM_WORLD_SIZE") != NULL || getenv("PMIX_RANK") != NULL;
}

#ifdef DS_CPU_HAVE_MPI

#include <dlfcn.h>
#include <sched.h>
#include <string.h>

ds_cpu_mpi_runtime ds_cpu_mpi;
pthread_mutex_t ds_cpu_mpi_lock = PTHREAD_MUTEX_INITIALIZER;
#define mpi ds_cpu_mpi

static pthread_mutex_t one_call = PTHREAD_MUTEX_INITIALIZER;

void ds_cpu_mpi_enter(void) {
  if (mpi.level < MPI_THREAD_MULTIPLE) pthread_mutex_lock(&one_call);
}

int ds_cpu_mpi_leave(int code) {
  if (mpi.level < MPI_THREAD_MULTIPLE) pthread_mutex_unlock(&one_call);
  return code;
}

ds_status ds_cpu_mpi_check(int code, const char *what, ds_error *err) {
  if (code == MPI_SUCCESS) return DS_OK;
  char text[MPI_MAX_ERROR_STRING] = "";
  int length = 0;
  if (mpi.Error_string(code, text, &length) != MPI_SUCCESS) text[0] = '\0';
  return ds_cpu_fail(err, DS_ERR_DEVICE, "cpu comm: MPI's %s failed: %s (code %d)", what, text,
                     code);
}
#define check ds_cpu_mpi_check

ds_status ds_cpu_mpi_may_call(ds_error *err) {
  int is_main = 0;
  if (mpi.level >= MPI_THREAD_SERIALIZED) return DS_OK;
  ds_status st = check(mpi.Is_thread_main(&is_main), "Is_thread_main", err);
  if (st != DS_OK || is_main) return st;
  return ds_cpu_fail(err, DS_ERR_STATE,
                     "cpu comm: the host initialized MPI with MPI_THREAD_%s, so collectives may "
                     "only come from that thread; ask MPI_Init_thread for MPI_THREAD_MULTIPLE",
                     mpi.level == MPI_THREAD_FUNNELED ? "FUNNELED" : "SINGLE");
}

/* Open MPI's own components look for libmpi's symbols among the global ones. So do we for its
 * constants: a program that links MPI has them copied into itself, and those are the ones in use.
 */
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
  mpi.c_##name = (type)dlsym(RTLD_DEFAULT, "ompi_mpi_" #name);                                     \
  if (mpi.c_##name == NULL) missing = "ompi_mpi_" #name;
  CONSTANTS(X)
#undef X
  if (missing == NULL) return DS_OK;
  return ds_cpu_fail(err, DS_ERR_UNSUPPORTED,
                     "cpu comm: libmpi.so.40 has no %s; this plugin was built for Open MPI %d.%d",
                     missing, OMPI_MAJOR_VERSION, OMPI_MINOR_VERSION);
}

static ds_status start(ds_error *err) {
  int running = 0;
  ds_status st = check(mpi.Initialized(&running), "Initialized", err);
  mpi.private = mpi.c_comm_null;
  if (st != DS_OK) return st;
  if (running) return check(mpi.Query_thread(&mpi.level), "Query_thread", err);
  st = ds_cpu_mpi_end_at_exit(err);
  if (st != DS_OK) return st;
  st = check(mpi.Init_thread(NULL, NULL, MPI_THREAD_MULTIPLE, &mpi.level), "Init_thread", err);
  if (st != DS_OK) return st;
  mpi.ours = true;
  st = check(mpi.Comm_set_errhandler(mpi.c_comm_world, mpi.c_errors_return), "Comm_set_errhandler",
             err);
  /* Every process that the launcher made is in MPI_Init with us, so this one won't wait long. */
  if (st == DS_OK) st = check(mpi.Comm_dup(mpi.c_comm_world, &mpi.private), "Comm_dup", err);
  if (st == DS_OK)
    st = check(mpi.Comm_set_errhandler(mpi.private, mpi.c_errors_return), "Comm_set_errhandler",
               err);
  if (st == DS_OK) ds_cpu_mpi_started();
  return st;
}

static ds_status find_tags(ds_error *err) {
  int *largest = NULL, known = 0;
  ds_status st = check(mpi.Comm_get_attr(mpi.c_comm_world, MPI_TAG_UB, &largest, &known),
                       "Comm_get_attr", err);
  mpi.tags = known && largest != NULL ? *largest : 32767; /* what MPI promises */
  return st;
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
  if (st == DS_OK) st = find_tags(err);
  mpi.world = w;
  mpi.ready = st == DS_OK;
  return st;
}

ds_status ds_cpu_mpi_world(ds_comm_world *out, ds_error *err) {
  ds_comm_world w = {.world_size = 1, .local_size = 1};
  ds_status st = DS_OK;
  pthread_mutex_lock(&ds_cpu_mpi_lock);
  if (mpi.ready || launched() || host_runs_mpi()) {
    st = ensure(err);
    w = mpi.world;
  }
  pthread_mutex_unlock(&ds_cpu_mpi_lock);
  if (st != DS_OK) return st;
  w.size = out->size;
  *out = w;
  return DS_OK;
}

bool ds_cpu_mpi_asynchronous(void) {
  return mpi.level >= MPI_THREAD_MULTIPLE;
}

/* ---------------------------------------------------------------- messages */

/* How a waiting thread asks: at once while the answer may be on its way, then between other
 * threads' work, then ever more seldom. MPI moves data only while it is asked. */
enum { SPINS = 200, YIELD_US = 1000, SHORT_SLEEP_US = 50, SHORT_UNTIL_US = 20000, SLEEP_US = 500 };
enum { LOOK_NS = 20000000 }; /* between two looks for a roll call */

static void pause_for(int64_t waited_us) {
  if (waited_us < YIELD_US)
    (void)sched_yield();
  else
    ds_cpu_sleep_us(waited_us < SHORT_UNTIL_US ? SHORT_SLEEP_US : SLEEP_US);
}

/* Whether a member holds a roll call: it has given the group up. */
static bool is_roll(const ds_cpu_mpi_group *g) {
  int found = 0;
  return MPI_CALL(Iprobe, MPI_ANY_SOURCE, g->tag + DS_CPU_CHANNEL_ROLL, g->comm, &found,
                  MPI_STATUS_IGNORE) == MPI_SUCCESS &&
         found;
}

static ds_status wait_all(const ds_cpu_mpi_group *g, MPI_Request *requests, int count,
                          const ds_cpu_limit *limit, ds_error *err) {
  int64_t begin = 0, look = 0;
  for (int spins = 0;;) {
    int done = 0;
    int code = MPI_CALL(Testall, count, requests, &done, MPI_STATUSES_IGNORE);
    if (code != MPI_SUCCESS) return check(code, "Testall", err);
    if (done) return DS_OK;
    if (limit->aborted != NULL && atomic_load_explicit(limit->aborted, memory_order_relaxed))
      return DS_ERR_ABORTED;
    if (!limit->leaving && ds_cpu_mpi_closing()) return DS_ERR_ABORTED;
    if (spins++ < SPINS) continue;
    int64_t now = ds_cpu_now_ns();
    if (begin == 0) begin = now;
    if (limit->deadline_ns != 0 && now > limit->deadline_ns) return DS_ERR_TIMEOUT;
    if (limit->roll && now - begin > look) {
      if (look > 0 && is_roll(g)) return DS_ERR_TIMEOUT;
      look = now - begin + LOOK_NS;
    }
    pause_for((now - begin) / 1000);
  }
}

static void note(const ds_cpu_limit *limit, const ds_cpu_message *m, int bit) {
  if (limit->seen != NULL && !m->send) limit->seen[m->peer] |= (unsigned char)bit;
}

/* Whether all of them are over: done, or cancelled before anything came. */
static bool take_back(MPI_Request *requests, const ds_cpu_message *messages, int count,
                      const ds_cpu_limit *limit) {
  enum { TRIES = 20 };
  bool over = false;
  for (int try = 0; try < TRIES && !over; try++) {
    over = true;
    for (int i = 0; i < count; i++) {
      int done = 0;
      if (MPI_CALL(Test, &requests[i], &done, MPI_STATUS_IGNORE) != MPI_SUCCESS || done) {
        if (try == 0) note(limit, &messages[i], DS_CPU_CAME);
        continue;
      }
      over = false;
      if (try == 0) note(limit, &messages[i], DS_CPU_AWAITED);
      if (try == 0 && !messages[i].send) (void)MPI_CALL(Cancel, &requests[i]);
    }
    if (!over && try > 0) ds_cpu_sleep_us(SHORT_SLEEP_US);
  }
  return over;
}

static int post(const ds_cpu_mpi_group *g, int tag, const ds_cpu_message *m, MPI_Request *out) {
  int bytes = (int)m->bytes, peer = g->of[m->peer];
  return m->send ? MPI_CALL(Isend, m->data, bytes, mpi.c_byte, peer, tag, g->comm, out)
                 : MPI_CALL(Irecv, m->data, bytes, mpi.c_byte, peer, tag, g->comm, out);
}

ds_status ds_cpu_mpi_exchange(const ds_cpu_mpi_group *g, enum ds_cpu_channel channel,
                              const ds_cpu_message *messages, int count, void **requests,
                              const ds_cpu_limit *limit, bool *left, ds_error *err) {
  MPI_Request *r = (MPI_Request *)requests;
  int posted = 0;
  *left = false;
  ds_status st = ds_cpu_mpi_may_call(err);
  if (st != DS_OK) return st;
  if (!limit->leaving && !ds_cpu_mpi_begin_wait()) return DS_ERR_ABORTED;
  for (; posted < count && st == DS_OK; posted++) {
    int code = post(g, g->tag + (int)channel, &messages[posted], &r[posted]);
    st = check(code, messages[posted].send ? "Isend" : "Irecv", err);
    if (st != DS_OK) break;
  }
  if (st == DS_OK) st = wait_all(g, r, posted, limit, err);
  for (int i = 0; i < posted && st == DS_OK; i++) note(limit, &messages[i], DS_CPU_CAME);
  if (st != DS_OK && !take_back(r, messages, posted, limit)) {
    *left = true;
    ds_cpu_mpi_left_behind();
    ds_cpu_memory_keep();
  }
  if (!limit->leaving) ds_cpu_mpi_end_wait();
  return st;
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

bool ds_cpu_mpi_asynchronous(void) {
  return true;
}

int ds_cpu_mpi_world_rank(const ds_cpu_mpi_group *g, int member) {
  (void)g;
  return member;
}

/* There is no group to call the others with. */
ds_status ds_cpu_mpi_create(const int32_t *ranks, int count, int own, const ds_cpu_limit *limit,
                            ds_cpu_mpi_group **out, ds_error *err) {
  (void)ranks, (void)count, (void)own, (void)limit, (void)out;
  return absent(err);
}

ds_status ds_cpu_mpi_split(const ds_cpu_mpi_group *g, int color, int key, const ds_cpu_limit *limit,
                           ds_cpu_mpi_group **out, int *rank, int *size, ds_error *err) {
  (void)g, (void)color, (void)key, (void)limit, (void)out, (void)rank, (void)size;
  return absent(err);
}

void ds_cpu_mpi_destroy(ds_cpu_mpi_group *g, bool given_up) {
  (void)g, (void)given_up;
}

ds_status ds_cpu_mpi_exchange(const ds_cpu_mpi_group *g, enum ds_cpu_channel channel,
                              const ds_cpu_message *messages, int count, void **requests,
                              const ds_cpu_limit *limit, bool *left, ds_error *err) {
  (void)g, (void)channel, (void)messages, (void)count, (void)requests, (void)limit, (void)left;
  return absent(err);
}

ds_status ds_cpu_mpi_tell_all(const ds_cpu_mpi_group *g, void *all, size_t bytes,
                              const ds_cpu_limit *limit, ds_error *err) {
  (void)g, (void)all, (void)bytes, (void)limit;
  return absent(err);
}

#endif
