/* comm_local_pair.c - send and recv between ranks of one host: the receiver copies from the sender's
 * buffer into its own, and the sender waits for that. */
#include "comm.h"

enum { MOVE = 4 << 20 };

/* The sender may not change what was posted before it was taken, nor go on. */
static ds_status send_to(ds_cpu_local *l, const ds_cpu_work *w, const ds_cpu_limit *limit) {
  ds_cpu_local_pair *p = ds_cpu_local_pair_of(l, l->rank, w->peer);
  uint32_t number = ++l->sent[w->peer];
  p->data = w->send;
  p->count = w->count;
  p->dtype = w->dtype;
  ds_cpu_local_tell(l, &p->posted, number);
  return ds_cpu_local_await(l, w->peer, &p->taken, number, limit);
}

static ds_status recv_from(ds_cpu_local *l, const ds_cpu_work *w, const ds_cpu_limit *limit,
                           ds_error *err) {
  ds_cpu_local_pair *p = ds_cpu_local_pair_of(l, w->peer, l->rank);
  uint32_t number = ++l->received[w->peer];
  size_t bytes = ds_cpu_dtype_bytes(w->dtype, w->count);
  ds_status st = ds_cpu_local_await(l, w->peer, &p->posted, number, limit);
  if (st != DS_OK) return st;
  if (p->count != w->count || p->dtype != w->dtype)
    return ds_cpu_fail(err, DS_ERR_INVALID,
                       "cpu comm: rank %d of %d receives %lld %s from rank %d, which sends %lld %s",
                       l->rank, l->size, (long long)w->count, ds_cpu_dtype_name(w->dtype), w->peer,
                       (long long)p->count, ds_cpu_dtype_name(p->dtype));
  for (size_t at = 0; at < bytes && st == DS_OK; at += MOVE) {
    if (atomic_load_explicit(limit->aborted, memory_order_relaxed)) return DS_ERR_ABORTED;
    st = ds_cpu_local_read(l, w->peer, (char *)w->recv + at, (const char *)p->data + at,
                           bytes - at < MOVE ? bytes - at : MOVE, err);
  }
  if (st == DS_OK) st = ds_cpu_local_check(l, w->peer, limit);
  if (st == DS_OK) ds_cpu_local_tell(l, &p->taken, number);
  return st;
}

ds_status ds_cpu_comm_pair_local(const ds_comm *c, const ds_cpu_work *w, const ds_cpu_limit *limit,
                                 ds_error *err) {
  ds_status st =
      w->call == DS_CPU_SEND ? send_to(c->local, w, limit) : recv_from(c->local, w, limit, err);
  if (st != DS_OK) ds_cpu_local_lose(c->local);
  return st;
}
