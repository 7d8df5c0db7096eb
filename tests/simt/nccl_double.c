/* nccl_double.c - NCCL's calls between processes of one machine, for tests on the emulated runtime: a communicator is a
 * file that all its ranks map. It does what NCCL does where users notice: communicators that are made little by little,
 * work that runs on streams and waits for the other ranks, sums of small floats rounded at every rank, messages that
 * wait for their recv. Who breaks NCCL's rules - other counts on other ranks, calls on a communicator that isn't
 * ready, two ranks on a device - ends with a message.
 *
 * Environment: DS_NCCL_DOUBLE, words with spaces between them
 *   slow=N       a call needs N questions before it is done, and only then the stream has its work
 *   away=N       from the Nth collective on (from 1) this process doesn't come
 *   lost=N       at the Nth the connection breaks: it hangs, and NCCL knows
 *   late=N       from the Nth on it comes 100 ms late
 *   rank=R       the three above are for this rank of its communicator alone
 *   old          the version is 2.13 */
#include "nccl.h"
#include "nccl_double.h"

#include <fcntl.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

enum { RANKS = 16, REMOTE_ERROR = 6 };
#define BOX  ((size_t)256 << 20) /* what a rank gives to a collective; files are sparse */
#define PAIR ((size_t)64 << 20)  /* a message */

/* ---------------------------------------------------------------- what ranks share */

typedef enum kind { ALLREDUCE, REDUCE_SCATTER, ALLGATHER, BROADCAST, SEND, RECV } kind;
static const char *const names[] = {"AllReduce", "ReduceScatter", "AllGather",
                                    "Broadcast", "Send",          "Recv"};

typedef struct record { /* of a collective: the same on all ranks */
  uint32_t kind, type, op, root;
  uint64_t count;
} record;

typedef struct seat {
  _Atomic uint64_t posted, taken; /* collectives */
  record what;
  _Atomic uint64_t split; /* how many splits it has come to */
  int color, key;
  char path[100]; /* the file for the ranks of its color, from the first of them */
  char bus[32];
} seat;

typedef struct lane { /* from one rank to another */
  _Atomic uint64_t posted, taken;
  uint64_t bytes;
} lane;

typedef struct shared {
  atomic_int joined, finalized;
  seat seats[RANKS];
  lane lanes[RANKS][RANKS];
} shared;

typedef struct work {
  kind kind;
  const void *send;
  void *recv;
  size_t count;
  unsigned type, op;
  int peer;
  bool begun, done;
  uint64_t number; /* of a collective in its communicator */
} work;

struct ncclComm {
  atomic_int owners; /* the caller, and each batch under way */
  atomic_bool aborted;
  atomic_uint error;
  int rank, size, device;
  shared *m;
  char path[100];
  bool ready, finalizing;
  uint64_t collectives;  /* given */
  _Atomic uint64_t done; /* run */
  atomic_int under_way;
  uint64_t splits;
  int questions; /* that a call still needs */
  struct batch *held;
  pthread_t splitter;
  bool splitting;
  atomic_bool split_over;
  gpu_nccl_comm *split_out, split_made;
  int split_color, split_key;
};

typedef struct batch { /* what one call, or a group, gives to a stream */
  gpu_nccl_comm comm;
  gpuStream_t stream;
  gpuEvent_t event;
  int count;
  work works[2 * RANKS + 2];
} batch;

static nccl_double_runtime runtime;
static _Thread_local int depth;
static _Thread_local batch *group;
static atomic_int ids;

__attribute__((visibility("default"))) nccl_double_bind_fn nccl_double_bind;
void nccl_double_bind(const nccl_double_runtime *r) {
  runtime = *r;
}

#define F(name, arguments, required)                                                               \
  __attribute__((visibility("default"))) gpu_nccl_result nccl##name arguments;
GPU_NCCL_FUNCTIONS(F)
#undef F
__attribute__((visibility("default"))) const char *ncclGetErrorString(gpu_nccl_result r);
__attribute__((visibility("default"))) const char *ncclGetLastError(gpu_nccl_comm c);

static void wrong(const gpu_nccl_comm c, const char *format, ...)
    __attribute__((format(printf, 2, 3), noreturn));
static void wrong(const gpu_nccl_comm c, const char *format, ...) {
  va_list args;
  va_start(args, format);
  fprintf(stderr, "the double of NCCL, rank %d of %d: ", c ? c->rank : -1, c ? c->size : 0);
  vfprintf(stderr, format, args);
  fprintf(stderr, "\n");
  abort();
}

static void pause_a_little(void) {
  const struct timespec t = {0, 50000};
  nanosleep(&t, NULL);
}

/* The number behind NAME= in DS_NCCL_DOUBLE, or 0. */
static long setting(const char *name, long otherwise) {
  const char *p = getenv("DS_NCCL_DOUBLE");
  const size_t n = strlen(name);
  while (p && *p) {
    if (strncmp(p, name, n) == 0 && p[n] == '=') return strtol(p + n + 1, NULL, 10);
    if (strncmp(p, name, n) == 0 && (p[n] == '\0' || p[n] == ' ')) return 1;
    p = strchr(p, ' ');
    if (p) p++;
  }
  return otherwise;
}

static size_t size_of(unsigned type) {
  switch (type) {
    case GPU_NCCL_I8: return 1;
    case GPU_NCCL_F16:
    case GPU_NCCL_BF16: return 2;
    case GPU_NCCL_I32:
    case GPU_NCCL_F32: return 4;
    case GPU_NCCL_I64:
    case GPU_NCCL_F64: return 8;
  }
  wrong(NULL, "type %u", type);
}

/* ---------------------------------------------------------------- sums */

static float widen(unsigned type, uint16_t bits) {
  union {
    uint32_t u;
    float f;
  } v = {.u = (uint32_t)bits << 16};
  if (type == GPU_NCCL_BF16) return v.f;
  _Float16 h;
  memcpy(&h, &bits, 2);
  return (float)h;
}

static uint16_t narrow(unsigned type, float x) {
  union {
    float f;
    uint32_t u;
  } v = {.f = x};
  uint16_t bits;
  if (type == GPU_NCCL_BF16) return (uint16_t)((v.u + 0x7fff + (v.u >> 16 & 1)) >> 16);
  const _Float16 h = (_Float16)x;
  memcpy(&bits, &h, 2);
  return bits;
}

#define PICK(a, b, op) ((op) == GPU_NCCL_MAX ? (a) > (b) ? (a) : (b) : (a) < (b) ? (a) : (b))
#define ADD(T, U, plus)                                                                            \
  for (size_t i = 0; i < n; i++) {                                                                 \
    const T a = ((T *)to)[i], b = ((const T *)from)[i];                                            \
    ((T *)to)[i] = plus ? (T)((U)a + (U)b) : PICK(a, b, op);                                       \
  }

/* to = to op from, in the type: as NCCL, a rounding at each rank. */
static void add(void *to, const void *from, size_t n, unsigned type, unsigned op) {
  const bool plus = op == GPU_NCCL_SUM || op == GPU_NCCL_AVG;
  switch (type) {
    case GPU_NCCL_I8: ADD(int8_t, uint8_t, plus) return;
    case GPU_NCCL_I32: ADD(int32_t, uint32_t, plus) return;
    case GPU_NCCL_I64: ADD(int64_t, uint64_t, plus) return;
    case GPU_NCCL_F32: ADD(float, float, plus) return;
    case GPU_NCCL_F64: ADD(double, double, plus) return;
  }
  for (size_t i = 0; i < n; i++) {
    const float a = widen(type, ((uint16_t *)to)[i]), b = widen(type, ((const uint16_t *)from)[i]);
    ((uint16_t *)to)[i] = narrow(type, plus ? a + b : PICK(a, b, op));
  }
}

/* A mean: each number times 1/ranks, before the sum. */
static void scale(void *x, size_t n, unsigned type, int ranks) {
  for (size_t i = 0; i < n; i++) {
    if (type == GPU_NCCL_F32) ((float *)x)[i] *= 1.0f / (float)ranks;
    if (type == GPU_NCCL_F64) ((double *)x)[i] *= 1.0 / ranks;
    if (type == GPU_NCCL_F16 || type == GPU_NCCL_BF16)
      ((uint16_t *)x)[i] = narrow(type, widen(type, ((uint16_t *)x)[i]) *
                                            widen(type, narrow(type, 1 / (float)ranks)));
  }
}

/* ---------------------------------------------------------------- a collective, on a stream */

static char *box(const gpu_nccl_comm c, int rank) {
  return (char *)c->m + ((sizeof(shared) + 4095) / 4096) * 4096 + (size_t)rank * BOX;
}

static char *pair_box(const gpu_nccl_comm c, int from, int to) {
  return box(c, c->size) + ((size_t)from * (size_t)c->size + (size_t)to) * PAIR;
}

static size_t file_size(int ranks) {
  const size_t n = (size_t)ranks;
  return sizeof(shared) + 8192 + n * BOX + n * n * PAIR;
}

static void copy(const gpu_nccl_comm c, void *to, const void *from, size_t bytes) {
  if (bytes > 0 && runtime.copy(to, from, bytes) != gpuSuccess)
    wrong(c, "memory that the device doesn't have");
}

/* Waits until every rank has come to `number`. False: aborted. */
static bool all_at(gpu_nccl_comm c, bool taken, uint64_t number) {
  for (int r = 0; r < c->size; r++) {
    const _Atomic uint64_t *at = taken ? &c->m->seats[r].taken : &c->m->seats[r].posted;
    while (atomic_load(at) < number) {
      if (atomic_load(&c->aborted)) return false;
      pause_a_little();
    }
  }
  return true;
}

static void check_same(gpu_nccl_comm c, const record *own) {
  for (int r = 0; r < c->size; r++) {
    const record *o = &c->m->seats[r].what;
    if (memcmp(o, own, sizeof *o) != 0)
      wrong(c,
            "%s of %llu, type %u, op %u, root %u here, but rank %d has %s of %llu, type %u, op %u, "
            "root %u",
            names[own->kind], (unsigned long long)own->count, own->type, own->op, own->root, r,
            names[o->kind], (unsigned long long)o->count, o->type, o->op, o->root);
  }
}

static void reduce(gpu_nccl_comm c, const work *w, size_t from) {
  const size_t bytes = w->count * size_of(w->type);
  char *sum = malloc(bytes + 1), *next = malloc(bytes + 1);
  for (int r = 0; r < c->size; r++) {
    memcpy(r == 0 ? sum : next, box(c, r) + from, bytes);
    if (w->op == GPU_NCCL_AVG) scale(r == 0 ? sum : next, w->count, w->type, c->size);
    if (r > 0) add(sum, next, w->count, w->type, w->op);
  }
  copy(c, w->recv, sum, bytes);
  free(sum);
  free(next);
}

static bool misbehave(gpu_nccl_comm c, uint64_t number) {
  const long away = setting("away", 0), lost = setting("lost", 0), late = setting("late", 0);
  if (setting("rank", c->rank) != c->rank) return false;
  if (late > 0 && number >= (uint64_t)late) usleep(100000);
  if (lost > 0 && number >= (uint64_t)lost) atomic_store(&c->error, REMOTE_ERROR);
  return (away > 0 && number >= (uint64_t)away) || atomic_load(&c->error);
}

static bool run_collective(gpu_nccl_comm c, const work *w) {
  const size_t bytes = w->count * size_of(w->type), ranks = (size_t)c->size;
  const size_t given = w->kind == REDUCE_SCATTER                    ? bytes * ranks
                       : w->kind == BROADCAST && w->peer != c->rank ? 0
                                                                    : bytes;
  seat *own = &c->m->seats[c->rank];
  if (given > BOX) wrong(c, "%zu bytes are too many for the double", given);
  while (atomic_load(&c->done) != w->number - 1) { /* given to another stream */
    if (atomic_load(&c->aborted)) return false;
    pause_a_little();
  }
  if (misbehave(c, w->number)) {
    while (!atomic_load(&c->aborted)) pause_a_little();
    return false;
  }
  if (!all_at(c, true, w->number - 1)) return false;
  own->what = (record){w->kind, w->type, w->op, (uint32_t)w->peer, w->count};
  copy(c, box(c, c->rank), w->send, given);
  atomic_store(&own->posted, w->number);
  if (!all_at(c, false, w->number)) return false;
  check_same(c, &own->what);
  if (w->kind == ALLREDUCE) reduce(c, w, 0);
  if (w->kind == REDUCE_SCATTER) reduce(c, w, (size_t)c->rank * bytes);
  if (w->kind == BROADCAST) copy(c, w->recv, box(c, w->peer), bytes);
  for (int r = 0; r < c->size && w->kind == ALLGATHER; r++)
    copy(c, (char *)w->recv + (size_t)r * bytes, box(c, r), bytes);
  atomic_store(&own->taken, w->number);
  atomic_store(&c->done, w->number);
  return true;
}

/* ---------------------------------------------------------------- messages, those of a group at once */

/* Whether an earlier one of the same kind and peer isn't done. */
static bool is_behind(const batch *b, int at) {
  for (int i = 0; i < at; i++)
    if (b->works[i].kind == b->works[at].kind && b->works[i].peer == b->works[at].peer &&
        !b->works[i].done)
      return true;
  return false;
}

static void move_on(gpu_nccl_comm c, work *w) {
  const bool send = w->kind == SEND;
  const int from = send ? c->rank : w->peer, to = send ? w->peer : c->rank;
  const size_t bytes = w->count * size_of(w->type);
  lane *l = &c->m->lanes[from][to];
  const uint64_t posted = atomic_load(&l->posted), taken = atomic_load(&l->taken);
  if (bytes > PAIR) wrong(c, "a message of %zu bytes is too long for the double", bytes);
  if (send && !w->begun && posted == taken) {
    copy(c, pair_box(c, from, to), w->send, bytes);
    l->bytes = bytes;
    w->begun = true;
    atomic_store(&l->posted, posted + 1);
  } else if (send && w->begun && posted == taken) {
    w->done = true;
  } else if (!send && posted > taken) {
    if (l->bytes != bytes)
      wrong(c, "Recv of %zu bytes from rank %d, which sends %llu", bytes, from,
            (unsigned long long)l->bytes);
    copy(c, w->recv, pair_box(c, from, to), bytes);
    w->done = true;
    atomic_store(&l->taken, taken + 1);
  }
}

static bool run_messages(batch *b) {
  for (int left = b->count; left > 0;) {
    left = 0;
    for (int i = 0; i < b->count; i++) {
      if (!b->works[i].done && !is_behind(b, i)) move_on(b->comm, &b->works[i]);
      left += !b->works[i].done;
    }
    if (atomic_load(&b->comm->aborted)) return false;
    if (left > 0) pause_a_little();
  }
  return true;
}

/* ---------------------------------------------------------------- giving work to streams */

static void let_go(gpu_nccl_comm c) {
  if (atomic_fetch_sub(&c->owners, 1) != 1) return;
  munmap(c->m, file_size(c->size));
  free(c);
}

static void run(void *arg) {
  batch *b = arg;
  if (!atomic_load(&b->comm->aborted)) {
    if (b->works[0].kind >= SEND)
      (void)run_messages(b);
    else
      (void)run_collective(b->comm, &b->works[0]);
  }
  atomic_fetch_sub(&b->comm->under_way, 1);
}

/* The device gets on with its work by itself; the emulated one needs somebody who waits. */
static void *wait_for(void *arg) {
  batch *b = arg;
  (void)runtime.event_synchronize(b->event);
  (void)runtime.event_destroy(b->event);
  let_go(b->comm);
  free(b);
  return NULL;
}

static void launch(batch *b) {
  pthread_t thread;
  atomic_fetch_add(&b->comm->owners, 1);
  atomic_fetch_add(&b->comm->under_way, 1);
  if (runtime.launch_host(b->stream, run, b) != gpuSuccess ||
      runtime.event_create(&b->event) != gpuSuccess ||
      runtime.event_record(b->event, b->stream) != gpuSuccess ||
      pthread_create(&thread, NULL, wait_for, b) != 0)
    wrong(b->comm, "the stream takes no work");
  pthread_detach(thread);
}

static gpu_nccl_result end_batch(batch *b) {
  b->comm->questions = (int)setting("slow", 0);
  if (b->comm->questions == 0) {
    launch(b);
    return GPU_NCCL_SUCCESS;
  }
  b->comm->held = b;
  return GPU_NCCL_IN_PROGRESS;
}

static void check_usable(const gpu_nccl_comm c, const char *call) {
  if (!c->ready || c->held || c->splitting)
    wrong(c, "%s on a communicator that has not finished what it was asked", call);
  if (c->finalizing || atomic_load(&c->aborted)) wrong(c, "%s after the end", call);
}

static gpu_nccl_result give(gpu_nccl_comm c, gpuStream_t s, work w) {
  check_usable(c, names[w.kind]);
  if (depth > 0 && w.kind < SEND) wrong(c, "the double takes only messages in groups");
  batch *b = depth > 0 ? group : NULL;
  if (!b) b = calloc(1, sizeof *b);
  if (depth > 0) group = b;
  if (b->comm && (b->comm != c || b->stream != s))
    wrong(c, "a group on two communicators or streams");
  if (b->count == (int)(sizeof b->works / sizeof *b->works))
    wrong(c, "a group of too many messages");
  if (w.kind < SEND) w.number = ++c->collectives;
  b->comm = c;
  b->stream = s;
  b->works[b->count++] = w;
  return depth > 0 ? GPU_NCCL_SUCCESS : end_batch(b);
}

gpu_nccl_result ncclGroupStart(void) {
  depth++;
  return GPU_NCCL_SUCCESS;
}

gpu_nccl_result ncclGroupEnd(void) {
  if (depth-- <= 0) wrong(NULL, "GroupEnd without GroupStart");
  batch *b = depth == 0 ? group : NULL;
  if (depth == 0) group = NULL;
  return b ? end_batch(b) : GPU_NCCL_SUCCESS;
}

gpu_nccl_result ncclAllReduce(const void *send, void *recv, size_t count, gpu_nccl_type type,
                              gpu_nccl_op op, gpu_nccl_comm c, gpuStream_t s) {
  if (op == GPU_NCCL_AVG && (type == GPU_NCCL_I8 || type == GPU_NCCL_I32 || type == GPU_NCCL_I64))
    wrong(c, "a mean of whole numbers is cut otherwise by each version");
  return give(c, s, (work){ALLREDUCE, send, recv, count, type, op, 0, false, false, 0});
}

gpu_nccl_result ncclReduceScatter(const void *send, void *recv, size_t count, gpu_nccl_type type,
                                  gpu_nccl_op op, gpu_nccl_comm c, gpuStream_t s) {
  if (op == GPU_NCCL_AVG && (type == GPU_NCCL_I8 || type == GPU_NCCL_I32 || type == GPU_NCCL_I64))
    wrong(c, "a mean of whole numbers is cut otherwise by each version");
  return give(c, s, (work){REDUCE_SCATTER, send, recv, count, type, op, 0, false, false, 0});
}

gpu_nccl_result ncclAllGather(const void *send, void *recv, size_t count, gpu_nccl_type type,
                              gpu_nccl_comm c, gpuStream_t s) {
  return give(c, s, (work){ALLGATHER, send, recv, count, type, 0, 0, false, false, 0});
}

gpu_nccl_result ncclBroadcast(const void *send, void *recv, size_t count, gpu_nccl_type type,
                              int root, gpu_nccl_comm c, gpuStream_t s) {
  if (root < 0 || root >= c->size) return GPU_NCCL_INVALID_ARGUMENT;
  return give(c, s, (work){BROADCAST, send, recv, count, type, 0, root, false, false, 0});
}

gpu_nccl_result ncclSend(const void *send, size_t count, gpu_nccl_type type, int peer,
                         gpu_nccl_comm c, gpuStream_t s) {
  if (peer < 0 || peer >= c->size) return GPU_NCCL_INVALID_ARGUMENT;
  return give(c, s, (work){SEND, send, NULL, count, type, 0, peer, false, false, 0});
}

gpu_nccl_result ncclRecv(void *recv, size_t count, gpu_nccl_type type, int peer, gpu_nccl_comm c,
                         gpuStream_t s) {
  if (peer < 0 || peer >= c->size) return GPU_NCCL_INVALID_ARGUMENT;
  return give(c, s, (work){RECV, NULL, recv, count, type, 0, peer, false, false, 0});
}

/* ---------------------------------------------------------------- communicators */

gpu_nccl_result ncclGetVersion(int *version) {
  *version = setting("old", 0) ? 21304 : 22809;
  return GPU_NCCL_SUCCESS;
}

static void new_path(char *path, size_t room) {
  const char *tmp = getenv("TMPDIR");
  snprintf(path, room, "%.50s/nccl-double-%d-%d", tmp && *tmp ? tmp : "/tmp", (int)getpid(),
           atomic_fetch_add(&ids, 1));
}

gpu_nccl_result ncclGetUniqueId(gpu_nccl_id *id) {
  memset(id, 0, sizeof *id);
  new_path(id->internal, 100);
  return GPU_NCCL_SUCCESS;
}

static gpu_nccl_comm join(const char *path, int size, int rank, int device) {
  if (size > RANKS) wrong(NULL, "%d ranks are too many for the double", size);
  gpu_nccl_comm c = calloc(1, sizeof *c);
  atomic_init(&c->owners, 1);
  c->rank = rank;
  c->device = device;
  c->size = size;
  snprintf(c->path, sizeof c->path, "%s", path);
  const int f = open(path, O_CREAT | O_RDWR | O_CLOEXEC, 0600);
  if (f < 0 || ftruncate(f, (off_t)file_size(size)) != 0) wrong(c, "can't make %s", path);
  c->m = mmap(NULL, file_size(size), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_NORESERVE, f, 0);
  close(f);
  if (c->m == MAP_FAILED) wrong(c, "can't map %s", path);
  (void)runtime.bus(c->m->seats[rank].bus, sizeof c->m->seats[rank].bus, device);
  atomic_fetch_add(&c->m->joined, 1);
  return c;
}

/* Whether all are there. The last to see it removes the name; the file lives as long as it is mapped. */
static bool is_complete(gpu_nccl_comm c) {
  if (atomic_load(&c->m->joined) < c->size) return false;
  (void)unlink(c->path);
  for (int i = 0; i < c->size; i++)
    if (i != c->rank && strcmp(c->m->seats[i].bus, c->m->seats[c->rank].bus) == 0)
      wrong(c, "rank %d has the same device, %s", i, c->m->seats[i].bus);
  return true;
}

gpu_nccl_result ncclCommInitRankConfig(gpu_nccl_comm *out, int ranks, gpu_nccl_id id, int rank,
                                       gpu_nccl_config_arg *config) {
  const gpu_nccl_config *g = (const gpu_nccl_config *)config;
  if (g->magic != (unsigned)GPU_NCCL_MAGIC || g->size != sizeof *g || g->blocking != 0)
    wrong(NULL, "a config that NCCL doesn't take, or a communicator that blocks");
  int device = 0;
  (void)runtime.get_device(&device);
  *out = join(id.internal, ranks, rank, device);
  return GPU_NCCL_IN_PROGRESS;
}

static void *split(void *arg) {
  gpu_nccl_comm c = arg;
  const uint64_t number = ++c->splits;
  seat *own = &c->m->seats[c->rank];
  int size = 0, rank = 0, first = c->rank;
  own->color = c->split_color;
  own->key = c->split_key;
  new_path(own->path, sizeof own->path);
  atomic_store(&own->split, 2 * number - 1);
  for (int step = 1; step >= 0; step--) { /* all have told; all have read */
    for (int r = 0; r < c->size; r++)
      while (atomic_load(&c->m->seats[r].split) < 2 * number - (uint64_t)step) {
        if (atomic_load(&c->aborted)) return NULL;
        pause_a_little();
      }
    if (step == 0) break;
    for (int r = 0; r < c->size; r++) {
      const seat *o = &c->m->seats[r];
      if (o->color != own->color) continue;
      size++;
      if (r < first) first = r;
      if (o->key < own->key || (o->key == own->key && r < c->rank)) rank++;
    }
    if (own->color >= 0) c->split_made = join(c->m->seats[first].path, size, rank, c->device);
    atomic_store(&own->split, 2 * number);
  }
  atomic_store(&c->split_over, true);
  return NULL;
}

gpu_nccl_result ncclCommSplit(gpu_nccl_comm c, int color, int key, gpu_nccl_comm *out,
                              gpu_nccl_config_arg *config) {
  (void)config;
  check_usable(c, "CommSplit");
  if (atomic_load(&c->under_way)) wrong(c, "CommSplit with work under way");
  c->split_out = out;
  c->split_made = NULL;
  c->split_color = color;
  c->split_key = key;
  atomic_store(&c->split_over, false);
  c->splitting = true;
  if (pthread_create(&c->splitter, NULL, split, c) != 0) wrong(c, "no thread");
  return GPU_NCCL_IN_PROGRESS;
}

gpu_nccl_result ncclCommGetAsyncError(gpu_nccl_comm c, gpu_nccl_result *result) {
  *result = GPU_NCCL_IN_PROGRESS;
  if (!c->ready) c->ready = is_complete(c);
  if (!c->ready) return GPU_NCCL_SUCCESS;
  if (c->held && --c->questions <= 0) {
    launch(c->held);
    c->held = NULL;
  }
  if (c->splitting && atomic_load(&c->split_over)) {
    pthread_join(c->splitter, NULL);
    *c->split_out = c->split_made;
    c->splitting = false;
  }
  if (c->held || c->splitting || (c->finalizing && atomic_load(&c->m->finalized) < c->size))
    return GPU_NCCL_SUCCESS;
  *result = atomic_load(&c->error);
  return GPU_NCCL_SUCCESS;
}

gpu_nccl_result ncclCommCount(const gpu_nccl_comm c, int *count) {
  check_usable(c, "CommCount");
  *count = c->size;
  return GPU_NCCL_SUCCESS;
}

gpu_nccl_result ncclCommUserRank(const gpu_nccl_comm c, int *rank) {
  check_usable(c, "CommUserRank");
  *rank = c->rank;
  return GPU_NCCL_SUCCESS;
}

/* All ranks end together. */
gpu_nccl_result ncclCommFinalize(gpu_nccl_comm c) {
  check_usable(c, "CommFinalize");
  c->finalizing = true;
  atomic_fetch_add(&c->m->finalized, 1);
  return GPU_NCCL_IN_PROGRESS;
}

gpu_nccl_result ncclCommDestroy(gpu_nccl_comm c) {
  if (!c->finalizing || atomic_load(&c->m->finalized) < c->size)
    wrong(c, "CommDestroy before CommFinalize was done on all ranks");
  if (atomic_load(&c->under_way)) wrong(c, "CommDestroy with work under way");
  let_go(c);
  return GPU_NCCL_SUCCESS;
}

gpu_nccl_result ncclCommAbort(gpu_nccl_comm c) {
  if (atomic_exchange(&c->aborted, true)) wrong(c, "CommAbort twice");
  if (c->splitting) pthread_join(c->splitter, NULL);
  free(c->held);
  (void)unlink(c->path);
  let_go(c);
  return GPU_NCCL_SUCCESS;
}

const char *ncclGetErrorString(gpu_nccl_result r) {
  return r == GPU_NCCL_SUCCESS ? "no error" : r == REMOTE_ERROR ? "remote process exited" : "error";
}

const char *ncclGetLastError(gpu_nccl_comm c) {
  (void)c;
  return "said by the double";
}
