/* comm_group.c - which processes talk to each other: groups from a list of ranks, and by color. */
#include "comm_runtime.h"

#include <stdlib.h>
#include <string.h>

#ifdef DS_CPU_HAVE_MPI

#define mpi   ds_cpu_mpi
#define check ds_cpu_mpi_check

/* EACH: members up to which all tell all. */
enum { FIRST_TAG = DS_CPU_TAG_FIRST, STEP = DS_CPU_TAG_STEP, EACH = 64 };

/* What the members tell each other. */
typedef struct word {
  int32_t color, key, id;
} word;

static ds_cpu_mpi_group *group_alloc(int size, ds_error *err) {
  ds_cpu_mpi_group *g = calloc(1, sizeof *g + (size_t)size * sizeof g->of[0]);
  if (g == NULL) {
    ds_cpu_fail(err, DS_ERR_MEMORY, "cpu comm: no memory for a group of %d", size);
    return NULL;
  }
  g->comm = mpi.c_comm_null;
  g->size = size;
  return g;
}

/* Bruck's: after round k a rank knows the words of the 2^(k+1) ranks from itself on, in that order. MPI
 * writes to memory of our own only, which it may keep. */
static ds_status tell_by_rounds(const ds_cpu_mpi_group *g, void *all, size_t bytes,
                                const ds_cpu_limit *limit, ds_error *err) {
  bool left = false;
  ds_status st = DS_OK;
  int n = g->size;
  char *known = malloc((size_t)n * bytes), *to = all;
  if (known == NULL)
    return ds_cpu_fail(err, DS_ERR_MEMORY, "cpu comm: no memory for a group of %d", n);
  memcpy(known, to + (size_t)g->rank * bytes, bytes);
  for (int have = 1; have < n && st == DS_OK; have *= 2) {
    size_t more = (size_t)(have < n - have ? have : n - have) * bytes;
    ds_cpu_message m[2] = {{known + (size_t)have * bytes, more, (g->rank + have) % n, false},
                           {known, more, (g->rank - have + n) % n, true}};
    void *requests[2];
    st = ds_cpu_mpi_exchange(g, DS_CPU_CHANNEL_CONTROL, m, 2, requests, limit, &left, err);
    for (int i = have; i < 2 * have && i < n && st == DS_OK && limit->seen != NULL; i++)
      limit->seen[(g->rank + i) % n] |= DS_CPU_CAME;
  }
  for (int i = 0; i < n && st == DS_OK; i++)
    memcpy(to + (size_t)((g->rank + i) % n) * bytes, known + (size_t)i * bytes, bytes);
  if (!left) free(known);
  return st;
}

/* Straight to everybody: who does not come is known to all. */
static ds_status tell_each(const ds_cpu_mpi_group *g, void *all, size_t bytes,
                           const ds_cpu_limit *limit, ds_error *err) {
  bool left = false;
  size_t n = (size_t)g->size, rest = 2 * n * (sizeof(ds_cpu_message) + sizeof(void *));
  ds_cpu_message *messages = malloc(rest + n * bytes);
  if (messages == NULL)
    return ds_cpu_fail(err, DS_ERR_MEMORY, "cpu comm: no memory for a group of %d", g->size);
  char *known = (char *)messages + rest;
  int count = 0;
  memcpy(known, all, n * bytes);
  for (int send = 0; send < 2; send++)
    for (int r = 0; r < g->size; r++)
      if (r != g->rank)
        messages[count++] =
            (ds_cpu_message){known + (size_t)(send ? g->rank : r) * bytes, bytes, r, send != 0};
  ds_status st = ds_cpu_mpi_exchange(g, DS_CPU_CHANNEL_CONTROL, messages, count,
                                     (void **)(messages + 2 * n), limit, &left, err);
  if (st == DS_OK) memcpy(all, known, n * bytes);
  if (!left) free(messages);
  return st;
}

ds_status ds_cpu_mpi_tell_all(const ds_cpu_mpi_group *g, void *all, size_t bytes,
                              const ds_cpu_limit *limit, ds_error *err) {
  return g->size <= EACH ? tell_each(g, all, bytes, limit, err)
                         : tell_by_rounds(g, all, bytes, limit, err);
}

static int next_id(void) {
  pthread_mutex_lock(&ds_cpu_mpi_lock);
  int id = mpi.next_id;
  pthread_mutex_unlock(&ds_cpu_mpi_lock);
  return id;
}

/* Whether no group of this process has the id; it then has one. */
static bool take_id(int id) {
  pthread_mutex_lock(&ds_cpu_mpi_lock);
  bool mine = id >= mpi.next_id;
  if (mine) mpi.next_id = id + 1;
  pthread_mutex_unlock(&ds_cpu_mpi_lock);
  return mine;
}

/* An id that is new to every member: the largest of the next ones, again where another group took
 * it meanwhile. all keeps the colors and keys. */
static ds_status agree(const ds_cpu_mpi_group *g, word *all, int32_t color, int32_t key,
                       const ds_cpu_limit *limit, int *id, ds_error *err) {
  for (bool agreed = false; !agreed;) {
    all[g->rank] = (word){color, key, next_id()};
    ds_status st = ds_cpu_mpi_tell_all(g, all, sizeof *all, limit, err);
    if (st != DS_OK) return st;
    *id = 0;
    for (int r = 0; r < g->size; r++)
      if (all[r].id > *id) *id = all[r].id;
    all[g->rank].id = take_id(*id);
    st = ds_cpu_mpi_tell_all(g, all, sizeof *all, limit, err);
    if (st != DS_OK) return st;
    agreed = true;
    for (int r = 0; r < g->size; r++) agreed = agreed && all[r].id != 0;
  }
  if (*id <= (mpi.tags - FIRST_TAG) / STEP - 1) return DS_OK;
  return ds_cpu_fail(err, DS_ERR_UNSUPPORTED,
                     "cpu comm: %d communicators were made in this process; MPI has tags for no "
                     "more: make them once and keep them",
                     *id);
}

static word *words_of(const ds_cpu_mpi_group *g, ds_error *err) {
  word *all = calloc((size_t)g->size, sizeof *all);
  if (all == NULL)
    ds_cpu_fail(err, DS_ERR_MEMORY, "cpu comm: no memory for a group of %d", g->size);
  return all;
}

/* A communicator of MPI's own over members of `from`, in the order of g->of. */
static ds_status own_comm(MPI_Comm from, ds_cpu_mpi_group *g, int tag, ds_error *err) {
  MPI_Group all = NULL, members = NULL;
  ds_status st = check(MPI_CALL(Comm_group, from, &all), "Comm_group", err);
  if (st == DS_OK)
    st = check(MPI_CALL(Group_incl, all, g->size, g->of, &members), "Group_incl", err);
  if (st == DS_OK)
    st = check(MPI_CALL(Comm_create_group, from, members, tag, &g->comm), "Comm_create_group", err);
  if (st == DS_OK)
    st = check(MPI_CALL(Comm_set_errhandler, g->comm, mpi.c_errors_return), "Comm_set_errhandler",
               err);
  g->own_comm = g->comm != mpi.c_comm_null;
  for (int r = 0; r < g->size; r++) g->of[r] = r;
  if (members != NULL) (void)MPI_CALL(Group_free, &members);
  if (all != NULL) (void)MPI_CALL(Group_free, &all);
  return st;
}

/* The tags by which a list of ranks finds its like. */
static int tag_of(const ds_cpu_mpi_group *g) {
  int sum = 0;
  for (int i = 0; i < g->size; i++) sum = (sum * 31 + g->of[i] + 1) & 0xffff;
  return sum % (DS_CPU_TAG_END / STEP) * STEP;
}

static ds_status settle(ds_cpu_mpi_group *g, const ds_cpu_limit *limit, ds_error *err) {
  g->tag = tag_of(g);
  if (mpi.private == mpi.c_comm_null) {
    ds_status st = own_comm(mpi.c_comm_world, g, g->tag, err);
    g->tag = 0;
    return st;
  }
  word *all = words_of(g, err);
  if (all == NULL) return DS_ERR_MEMORY;
  int id = 0;
  g->comm = mpi.private;
  ds_status st = agree(g, all, 0, 0, limit, &id, err);
  if (st == DS_OK) g->tag = FIRST_TAG + STEP * id;
  free(all);
  return st;
}

ds_status ds_cpu_mpi_create(const int32_t *ranks, int count, int own, const ds_cpu_limit *limit,
                            ds_cpu_mpi_group **out, ds_error *err) {
  ds_status st = ds_cpu_mpi_may_call(err);
  if (st != DS_OK) return st;
  ds_cpu_mpi_group *g = group_alloc(count, err);
  if (g == NULL) return DS_ERR_MEMORY;
  g->rank = own;
  for (int i = 0; i < count; i++) g->of[i] = ranks[i];
  *out = g;
  return settle(g, limit, err);
}

/* The members of the caller's color, in order: by key, then by rank. Counts them where to is NULL.
 */
static int choose(const ds_cpu_mpi_group *g, const word *all, int color, int *to) {
  int n = 0;
  for (int r = 0; r < g->size; r++) {
    if (all[r].color != color) continue;
    int at = n++;
    if (to == NULL) continue;
    for (; at > 0 && all[to[at - 1]].key > all[r].key; at--) to[at] = to[at - 1];
    to[at] = r;
  }
  return n;
}

static ds_status join(const ds_cpu_mpi_group *from, const word *all, int color, int id,
                      ds_cpu_mpi_group **out, int *rank, int *size, ds_error *err) {
  ds_status st = DS_OK;
  *size = choose(from, all, color, NULL);
  ds_cpu_mpi_group *g = group_alloc(*size, err);
  if (g == NULL) return DS_ERR_MEMORY;
  choose(from, all, color, g->of);
  for (int i = 0; i < *size; i++)
    if (g->of[i] == from->rank) g->rank = *rank = i;
  if (*size == 1) {
    ds_cpu_mpi_destroy(g, false);
    return DS_OK;
  }
  if (from->own_comm) {
    st = own_comm(from->comm, g, 0, err);
  } else {
    g->comm = from->comm;
    g->tag = FIRST_TAG + STEP * id;
    for (int i = 0; i < *size; i++) g->of[i] = from->of[g->of[i]];
  }
  if (st == DS_OK)
    *out = g;
  else
    ds_cpu_mpi_destroy(g, true);
  return st;
}

ds_status ds_cpu_mpi_split(const ds_cpu_mpi_group *g, int color, int key, const ds_cpu_limit *limit,
                           ds_cpu_mpi_group **out, int *rank, int *size, ds_error *err) {
  int id = 0;
  *out = NULL;
  word *all = words_of(g, err);
  if (all == NULL) return DS_ERR_MEMORY;
  ds_status st = agree(g, all, color, key, limit, &id, err);
  if (st == DS_OK && color >= 0) st = join(g, all, color, id, out, rank, size, err);
  free(all);
  return st;
}

int ds_cpu_mpi_world_rank(const ds_cpu_mpi_group *g, int member) {
  return g == NULL || g->own_comm ? member : g->of[member];
}

void ds_cpu_mpi_destroy(ds_cpu_mpi_group *g, bool given_up) {
  int finalized = 0;
  if (g == NULL) return;
  if (g->own_comm && !given_up && MPI_CALL(Finalized, &finalized) == MPI_SUCCESS && !finalized)
    (void)MPI_CALL(Comm_free, &g->comm);
  free(g);
}

#endif
