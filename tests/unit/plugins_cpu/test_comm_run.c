/* test_comm_run.c - the cpu plugin's collectives by messages, at numbers of ranks that no machine here
 * has: a rank is a thread, and a message a copy in a list. What is received is held against formulas,
 * sums to the bit against the tree of comm.h, and messages are counted. */
#include "test.h"

#include "../../../plugins/cpu/cpu.c"

#define DS_ISA_SUFFIX _base
#pragma GCC diagnostic ignored "-Wunknown-pragmas" /* OpenMP's, of kernel.h */
#include "../../../plugins/cpu/kernels/comm_kernel.c"

#include "../../../plugins/cpu/comm_combine.c"
#include "../../../plugins/cpu/comm_rounds.c"
#include "../../../plugins/cpu/comm_run.c"
#undef add
#undef exchange

enum { RANKS = 40 };

/* ---------------------------------------------------------------- messages */

typedef struct letter {
  struct letter *next;
  size_t bytes;
  char data[];
} letter;

struct ds_cpu_mpi_group {
  int rank;
};

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t arrived[RANKS];
static letter *box[RANKS][RANKS]; /* by receiver and sender, the oldest first */
static int sent[RANKS];
static int torn; /* messages of another size than expected */

static void post(int from, int to, const void *data, size_t bytes) {
  letter *l = malloc(sizeof *l + bytes), **end = &box[to][from];
  *l = (letter){.bytes = bytes};
  memcpy(l->data, data, bytes);
  while (*end != NULL) end = &(*end)->next;
  *end = l;
  sent[from]++;
  pthread_cond_broadcast(&arrived[to]);
}

static void receive(int from, int to, void *data, size_t bytes) {
  while (box[to][from] == NULL) pthread_cond_wait(&arrived[to], &lock);
  letter *l = box[to][from];
  box[to][from] = l->next;
  torn += l->bytes != bytes;
  memcpy(data, l->data, bytes < l->bytes ? bytes : l->bytes);
  free(l);
}

ds_status ds_cpu_mpi_exchange(const ds_cpu_mpi_group *g, enum ds_cpu_channel channel,
                              const ds_cpu_message *messages, int count, void **requests,
                              const ds_cpu_limit *limit, bool *left, ds_error *err) {
  (void)channel, (void)requests, (void)limit, (void)err;
  *left = false;
  pthread_mutex_lock(&lock);
  for (int i = 0; i < count; i++)
    if (messages[i].send) post(g->rank, messages[i].peer, messages[i].data, messages[i].bytes);
  for (int i = 0; i < count; i++)
    if (!messages[i].send) receive(messages[i].peer, g->rank, messages[i].data, messages[i].bytes);
  pthread_mutex_unlock(&lock);
  return DS_OK;
}

ds_status ds_cpu_comm_run_local(const ds_comm *c, ds_stream *s, const ds_cpu_work *w,
                                const ds_cpu_limit *limit, ds_error *err) {
  (void)c, (void)s, (void)w, (void)limit;
  return ds_cpu_fail(err, DS_ERR_INTERNAL, "not here");
}

/* ---------------------------------------------------------------- expectations */

static float noise(int rank, int64_t i) {
  uint64_t h = ((uint64_t)rank << 40) + (uint64_t)i * 0x9e3779b97f4a7c15u;
  h = (h ^ h >> 29) * 0xbf58476d1ce4e5b9u;
  return (float)(int64_t)(h >> 20) * 1e-9f;
}

static float tree(int size, int first, int leaves, int64_t i) {
  int top = 1;
  while (2 * top <= size) top *= 2;
  if (leaves == 0) leaves = top;
  if (leaves > 1)
    return tree(size, first, leaves / 2, i) + tree(size, first + leaves / 2, leaves / 2, i);
  int pairs = size - top;
  if (first >= pairs) return noise(first + pairs, i);
  return noise(2 * first, i) + noise(2 * first + 1, i);
}

/* bf16: small whole numbers, of which the sum is exact before it is rounded. */
static float whole(int rank, int64_t i) {
  return (float)((i * 7 + rank * 5) % 23 + (i % 3 == 0 ? 100 : 0));
}

static uint16_t bf16_of(float x) {
  union {
    float f;
    uint32_t u;
  } b = {x};
  return (uint16_t)((b.u + 0x7fff + (b.u >> 16 & 1)) >> 16);
}

static int log2_up(int n) {
  int l = 0;
  while (1 << l < n) l++;
  return l;
}

static int log2_down(int n) {
  int l = 0;
  while (2 << l <= n) l++;
  return l;
}

static int64_t cut(int64_t n, int64_t by) {
  return (n + by - 1) / by;
}

/* comm.h's formulas: the most that a rank sends. */
static int64_t allowed(int call, int64_t bytes, int64_t sums, int n) {
  int64_t direct = n - 1, up = log2_up(n), down = log2_down(n);
  switch (call) {
    case DS_CPU_ALLREDUCE:
      if (bytes * n <= 16 << 10) return n <= 8 ? direct : up;
      return n <= 8 ? 2 * direct * cut(bytes, 4 << 20) : (2 * down + 2) * cut(sums, 2 << 20);
    case DS_CPU_REDUCE_SCATTER:
      return n <= 8 ? direct * cut(bytes * n, 4 << 20)
                    : (down + 1) * cut(sums * n, (2 << 20) - 4 * n);
    case DS_CPU_ALLGATHER:
      return n <= 8 ? direct * cut(bytes * n, 4 << 20) : up * cut(bytes * n, (4 << 20) - n);
    case DS_CPU_ALLTOALL:
      return n > 8 && bytes * n > 4 << 20 ? direct * cut(bytes, 4 << 20)
                                          : direct * cut(bytes * n, 4 << 20);
    case DS_CPU_BROADCAST: return up * cut(bytes, 2 << 20);
    default: return up;
  }
}

/* ---------------------------------------------------------------- ranks */

typedef struct rank_state {
  pthread_t thread;
  int rank, size;
  ds_comm comm;
  ds_cpu_mpi_group group;
  ds_device device;
  ds_stream stream;
  int64_t wrong, over; /* values; calls with too many messages */
  ds_error err;
  char *send, *recv;
} rank_state;

enum { ROOM = 12 << 20, LITTLE = 1 << 20 }; /* bytes of each buffer */

static void call(rank_state *r, ds_cpu_work w) {
  ds_cpu_limit limit = {0};
  pthread_mutex_lock(&lock);
  int before = sent[r->rank];
  pthread_mutex_unlock(&lock);
  r->err.status = DS_OK;
  if (ds_cpu_comm_run(&r->comm, &r->stream, &w, &limit, &r->err) != DS_OK) r->wrong++;
  int64_t bytes = (int64_t)ds_cpu_dtype_bytes(w.dtype, w.count);
  pthread_mutex_lock(&lock);
  r->over += sent[r->rank] - before > allowed(w.call, bytes, 4 * w.count, r->size);
  pthread_mutex_unlock(&lock);
}

static void try_sums(rank_state *r, int64_t n) {
  float *x = (float *)r->send, *y = (float *)r->recv;
  for (int64_t i = 0; i < n; i++) x[i] = noise(r->rank, i);
  ds_cpu_work w = {.send = x, .recv = y, .count = n, .dtype = DS_F32, .call = DS_CPU_ALLREDUCE};
  call(r, w);
  for (int64_t i = 0; i < n; i++) r->wrong += y[i] != tree(r->size, 0, 0, i);
  w.send = y; /* in place; the mean of equal numbers */
  w.op = DS_REDUCE_MAX;
  call(r, w);
  for (int64_t i = 0; i < n; i++) r->wrong += y[i] != tree(r->size, 0, 0, i);
  int64_t part = n / r->size;
  if (part == 0) return;
  w = (ds_cpu_work){
      .send = x, .recv = y, .count = part, .dtype = DS_F32, .call = DS_CPU_REDUCE_SCATTER};
  call(r, w);
  for (int64_t i = 0; i < part; i++) r->wrong += y[i] != tree(r->size, 0, 0, r->rank * part + i);
}

static void try_bf16(rank_state *r, int64_t n) {
  uint16_t *x = (uint16_t *)r->send, *y = (uint16_t *)r->recv;
  for (int64_t i = 0; i < n; i++) x[i] = bf16_of(whole(r->rank, i));
  ds_cpu_work w = {.send = x, .recv = y, .count = n, .dtype = DS_BF16, .call = DS_CPU_ALLREDUCE};
  call(r, w);
  for (int64_t i = 0; i < n; i++) {
    float sum = 0;
    for (int k = 0; k < r->size; k++) sum += whole(k, i);
    r->wrong += y[i] != bf16_of(sum);
  }
  w.op = DS_REDUCE_MEAN;
  call(r, w);
  for (int64_t i = 0; i < n; i++) {
    float sum = 0;
    for (int k = 0; k < r->size; k++) sum += whole(k, i);
    r->wrong += y[i] != bf16_of(sum / (float)r->size);
  }
}

static void try_moves(rank_state *r, int64_t part) {
  int32_t *x = (int32_t *)r->send, *y = (int32_t *)r->recv;
  for (int64_t i = 0; i < part * r->size; i++) x[i] = (int32_t)(r->rank * 1000003 + i);
  ds_cpu_work w = {.send = x, .recv = y, .count = part, .dtype = DS_I32, .call = DS_CPU_ALLGATHER};
  call(r, w);
  for (int64_t i = 0; i < part * r->size; i++)
    r->wrong += y[i] != (int32_t)(i / part * 1000003 + i % part);
  w.call = DS_CPU_ALLTOALL;
  call(r, w);
  for (int64_t i = 0; i < part * r->size; i++)
    r->wrong += y[i] != (int32_t)(i / part * 1000003 + r->rank * part + i % part);
  w = (ds_cpu_work){.recv = x,
                    .count = part * r->size,
                    .dtype = DS_I32,
                    .call = DS_CPU_BROADCAST,
                    .peer = r->size / 2};
  call(r, w);
  for (int64_t i = 0; i < part * r->size; i++)
    r->wrong += x[i] != (int32_t)(r->size / 2 * 1000003 + i);
  call(r, (ds_cpu_work){.dtype = DS_I8, .call = DS_CPU_BARRIER});
}

static void *rank_main(void *arg) {
  rank_state *r = arg;
  static const int64_t counts[] = {1, 37, 4003, 20011};
  for (int i = 0; i < 4; i++) try_sums(r, counts[i]);
  for (int i = 0; i < 3; i++) try_bf16(r, counts[i]);
  for (int i = 0; i < 3; i++) try_moves(r, counts[i]);
  if (r->size == 3 || r->size == 9) { /* several pieces */
    try_sums(r, 700001);
    try_moves(r, 300001);
  }
  return NULL;
}

static void test_size(int size) {
  static rank_state ranks[RANKS];
  memset(ranks, 0, sizeof ranks);
  torn = 0;
  for (int i = 0; i < size; i++) {
    rank_state *r = &ranks[i];
    r->rank = r->group.rank = i;
    r->size = size;
    r->comm = (ds_comm){.rank = i, .size = size, .group = &r->group};
    r->device = (ds_device){.threads = 1, .isa = 0};
    r->stream.dev = &r->device;
    size_t bytes = size == 3 || size == 9 ? ROOM : LITTLE;
    r->send = malloc(bytes);
    r->recv = malloc(bytes);
    pthread_cond_init(&arrived[i], NULL);
  }
  for (int i = 0; i < size; i++)
    CHECK(pthread_create(&ranks[i].thread, NULL, rank_main, &ranks[i]) == 0);
  for (int i = 0; i < size; i++) {
    rank_state *r = &ranks[i];
    pthread_join(r->thread, NULL);
    if (r->wrong || r->over)
      fprintf(stderr, "rank %d of %d: %lld wrong, %lld calls with too many messages %s\n", i, size,
              (long long)r->wrong, (long long)r->over, r->err.message);
    CHECK(r->wrong == 0 && r->over == 0);
    for (int slot = 0; slot < DS_CPU_SCRATCH_COUNT; slot++)
      ds_cpu_memory_free(r->stream.scratch[slot].data);
    free(r->send);
    free(r->recv);
  }
  CHECK(torn == 0);
}

int main(void) {
  static const int sizes[] = {2, 3, 8, 9, 23, 40};
  for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) test_size(sizes[i]);
  return test_result();
}
