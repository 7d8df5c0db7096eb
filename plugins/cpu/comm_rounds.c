/* comm_rounds.c - collectives of many ranks: log2 of their number of messages instead of one to each.
 *
 * Sums are halved: in each round two ranks exchange half of what they still have to add up, so that
 * after the last one each has its own part of all. Rounds follow comm.h's tree from its leaves, and
 * bf16 and f16 travel as f32, so the bits are the same as where one rank adds up everything. Where
 * the number of ranks is no power of two, the first ones go in pairs, whose second member gives its
 * numbers to the first and gets its result in the end.
 *
 * The vector of a piece lies in the order of "places": that of leaf v is v with its bits reversed,
 * since the first round, which is between neighbours, splits the whole.
 */
#include "comm_job.h"

#include <string.h>

enum { HALF = DS_CPU_PIECE / 2 };

typedef struct rounds {
  ds_cpu_job *j;
  int leaves, pairs;
  int leaf;      /* -1: the second of a pair */
  int partner;   /* the other of the pair; -1: none */
  int32_t dtype; /* of sums */
  size_t one;    /* bytes of a sum */
  char *sum;     /* HALF: the piece, by place; j->start[place]: where it begins, in elements */
  char *got;     /* HALF */
} rounds;

static rounds rounds_of(ds_cpu_job *j) {
  bool wide = j->w->dtype == DS_BF16 || j->w->dtype == DS_F16;
  rounds r = {.j = j, .leaves = 1, .partner = -1, .dtype = wide ? DS_F32 : j->w->dtype};
  int rank = j->c->rank;
  while (2 * r.leaves <= j->c->size) r.leaves *= 2;
  r.pairs = j->c->size - r.leaves;
  r.leaf = rank >= 2 * r.pairs ? rank - r.pairs : rank % 2 == 0 ? rank / 2 : -1;
  if (rank < 2 * r.pairs) r.partner = rank ^ 1;
  r.one = wide ? sizeof(float) : j->one;
  r.sum = j->data;
  r.got = j->data + HALF;
  return r;
}

/* The rank that works for a leaf. */
static int rank_of(const rounds *r, int leaf) {
  return leaf < r->pairs ? 2 * leaf : leaf + r->pairs;
}

/* A leaf's place, or the leaf of a place. */
static int reversed(const rounds *r, int v) {
  int out = 0;
  for (int bit = 1; bit < r->leaves; bit *= 2, v /= 2) out = 2 * out + (v & 1);
  return out;
}

/* ---------------------------------------------------------------- numbers */

static void convert(const rounds *r, void *out, int32_t out_dtype, const void *in, int32_t dtype,
                    size_t n, bool last) {
  ds_cpu_combine k = {.out = out,
                      .part = &in,
                      .parts = 1,
                      .n = (int64_t)n,
                      .dtype = dtype,
                      .out_dtype = out_dtype,
                      .op = last ? (ds_reduce)r->j->w->op : DS_REDUCE_SUM,
                      .divisor = r->j->c->size};
  ds_cpu_combine_run(r->j->s, &k);
}

/* to = to op from */
static void merge(const rounds *r, void *to, const void *from, size_t n) {
  const void *part[] = {to, from};
  ds_reduce op = (ds_reduce)r->j->w->op;
  ds_cpu_combine k = {.out = to,
                      .part = part,
                      .parts = 2,
                      .n = (int64_t)n,
                      .dtype = r->dtype,
                      .out_dtype = r->dtype,
                      .op = op == DS_REDUCE_MEAN ? DS_REDUCE_SUM : op};
  ds_cpu_combine_run(r->j->s, &k);
}

/* ---------------------------------------------------------------- rounds */

/* Of a pair, the first adds the second's piece to its own. */
static ds_status fold(const rounds *r, ds_error *err) {
  size_t n = r->j->start[r->leaves];
  if (r->partner < 0) return DS_OK;
  if (r->leaf < 0)
    ds_cpu_job_add(r->j, true, r->partner, r->sum, n * r->one);
  else
    ds_cpu_job_add(r->j, false, r->partner, r->got, n * r->one);
  ds_status st = ds_cpu_job_exchange(r->j, err);
  if (st == DS_OK && r->leaf >= 0) merge(r, r->sum, r->got, n);
  return st;
}

/* Then this leaf's place in r->sum is summed up. */
static ds_status halve(const rounds *r, ds_error *err) {
  const size_t *start = r->j->start;
  ds_status st = DS_OK;
  for (int bit = 1, low = 0, size = r->leaves; size > 1 && st == DS_OK; bit *= 2) {
    size /= 2;
    int other = low;
    (r->leaf & bit ? &low : &other)[0] += size;
    size_t keep = start[low + size] - start[low], give = start[other + size] - start[other];
    char *mine = r->sum + start[low] * r->one;
    int peer = rank_of(r, r->leaf ^ bit);
    ds_cpu_job_add(r->j, false, peer, r->got, keep * r->one);
    ds_cpu_job_add(r->j, true, peer, r->sum + start[other] * r->one, give * r->one);
    st = ds_cpu_job_exchange(r->j, err);
    if (st == DS_OK) merge(r, mine, r->got, keep);
  }
  return st;
}

/* The way back: from this leaf's place in r->got to all of them, in the work's own type. */
static ds_status grow(const rounds *r, ds_error *err) {
  const size_t *start = r->j->start;
  size_t one = r->j->one;
  ds_status st = DS_OK;
  int low = reversed(r, r->leaf);
  for (int bit = r->leaves / 2, size = 1; bit > 0 && st == DS_OK; bit /= 2, size *= 2) {
    int peer = rank_of(r, r->leaf ^ bit), other = r->leaf & bit ? low - size : low + size;
    ds_cpu_job_add(r->j, false, peer, r->got + start[other] * one,
                   (start[other + size] - start[other]) * one);
    ds_cpu_job_add(r->j, true, peer, r->got + start[low] * one,
                   (start[low + size] - start[low]) * one);
    st = ds_cpu_job_exchange(r->j, err);
    if (other < low) low = other;
  }
  return st;
}

/* ---------------------------------------------------------------- allreduce */

static ds_status allreduce_piece(const rounds *r, const char *send, char *recv, size_t n,
                                 ds_error *err) {
  size_t *start = r->j->start, share = (n + (size_t)r->leaves - 1) / (size_t)r->leaves;
  ds_status st;
  for (int i = 0; i <= r->leaves; i++) start[i] = ds_cpu_min_size((size_t)i * share, n);
  convert(r, r->sum, r->dtype, send, r->j->w->dtype, n, false);
  st = fold(r, err);
  if (r->leaf >= 0) {
    size_t place = (size_t)reversed(r, r->leaf);
    if (st == DS_OK) st = halve(r, err);
    if (st == DS_OK)
      convert(r, r->got + start[place] * r->j->one, r->j->w->dtype, r->sum + start[place] * r->one,
              r->dtype, start[place + 1] - start[place], true);
    if (st == DS_OK) st = grow(r, err);
  }
  if (r->partner >= 0) ds_cpu_job_add(r->j, r->leaf >= 0, r->partner, r->got, n * r->j->one);
  if (st == DS_OK) st = ds_cpu_job_exchange(r->j, err);
  if (st == DS_OK) memcpy(recv, r->got, n * r->j->one);
  return st;
}

ds_status ds_cpu_rounds_allreduce(ds_cpu_job *j, ds_error *err) {
  rounds r = rounds_of(j);
  size_t count = (size_t)j->w->count, most = HALF / r.one;
  ds_status st = DS_OK;
  for (size_t at = 0; at < count && st == DS_OK; at += most)
    st = allreduce_piece(&r, (const char *)j->w->send + at * j->one,
                         (char *)j->w->recv + at * j->one, ds_cpu_min_size(most, count - at), err);
  return st;
}

/* ---------------------------------------------------------------- reduce_scatter */

/* n elements from `at` on of every rank's part: both of a pair lie in one place. */
static void spread(const rounds *r, size_t at, size_t n) {
  const char *send = r->j->w->send;
  size_t end = 0, count = (size_t)r->j->w->count;
  for (int place = 0; place < r->leaves; place++) {
    int leaf = reversed(r, place), of = leaf < r->pairs ? 2 : 1;
    r->j->start[place] = end;
    for (int i = 0; i < of; i++, end += n)
      convert(r, r->sum + end * r->one, r->dtype,
              send + ((size_t)(rank_of(r, leaf) + i) * count + at) * r->j->one, r->j->w->dtype, n,
              false);
  }
  r->j->start[r->leaves] = end;
}

static ds_status reduce_scatter_piece(const rounds *r, size_t at, size_t n, ds_error *err) {
  char *recv = (char *)r->j->w->recv + at * r->j->one;
  int32_t dtype = r->j->w->dtype;
  spread(r, at, n);
  ds_status st = fold(r, err);
  if (st == DS_OK && r->leaf >= 0) st = halve(r, err);
  if (st != DS_OK) return st;
  if (r->leaf >= 0) {
    const char *mine = r->sum + r->j->start[reversed(r, r->leaf)] * r->one;
    convert(r, recv, dtype, mine, r->dtype, n, true);
    if (r->partner >= 0) convert(r, r->got, dtype, mine + n * r->one, r->dtype, n, true);
  }
  if (r->partner >= 0) ds_cpu_job_add(r->j, r->leaf >= 0, r->partner, r->got, n * r->j->one);
  st = ds_cpu_job_exchange(r->j, err);
  if (st == DS_OK && r->leaf < 0) memcpy(recv, r->got, n * r->j->one);
  return st;
}

ds_status ds_cpu_rounds_reduce_scatter(ds_cpu_job *j, ds_error *err) {
  rounds r = rounds_of(j);
  size_t count = (size_t)j->w->count, most = HALF / r.one / (size_t)j->c->size;
  ds_status st = DS_OK;
  for (size_t at = 0; at < count && st == DS_OK; at += most)
    st = reduce_scatter_piece(&r, at, ds_cpu_min_size(most, count - at), err);
  return st;
}

/* ---------------------------------------------------------------- allgather */

/* Bruck's: after k rounds a rank has the parts of the 2^k ranks from itself on. */
ds_status ds_cpu_rounds_gather(ds_cpu_job *j, const void *send, size_t n, ds_error *err) {
  ds_status st = DS_OK;
  memcpy(j->data, send, n);
  for (int have = 1; have < j->c->size && st == DS_OK; have *= 2) {
    size_t more = (size_t)(have < j->c->size - have ? have : j->c->size - have) * n;
    ds_cpu_job_add(j, false, ds_cpu_job_after(j, have), j->data + (size_t)have * n, more);
    ds_cpu_job_add(j, true, ds_cpu_job_before(j, have), j->data, more);
    st = ds_cpu_job_exchange(j, err);
  }
  return st;
}

ds_status ds_cpu_rounds_allgather(ds_cpu_job *j, ds_error *err) {
  size_t bytes = j->one * (size_t)j->w->count, most = DS_CPU_PIECE / (size_t)j->c->size;
  char *recv = j->w->recv;
  ds_status st = DS_OK;
  if (most == 0) most = 1;
  for (size_t at = 0; at < bytes && st == DS_OK; at += most) {
    size_t n = ds_cpu_min_size(most, bytes - at);
    st = ds_cpu_rounds_gather(j, (const char *)j->w->send + at, n, err);
    for (int i = 0; i < j->c->size && st == DS_OK; i++)
      memcpy(recv + (size_t)ds_cpu_job_after(j, i) * bytes + at, j->data + (size_t)i * n, n);
  }
  return st;
}
