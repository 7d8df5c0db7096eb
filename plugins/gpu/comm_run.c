/* comm_run.c - a checked collective becomes NCCL's work on a stream, and a call in flight.
 *
 * NCCL adds bf16 and f16 up in their own type, rounding at every rank. ds_abi.h wants one rounding: they are widened
 * to f32 in scratch memory, summed there and narrowed. That doubles what goes over the wire, and takes two sweeps over
 * memory besides, which are small against it. Means of whole numbers are divided after the sum, for not every version
 * of NCCL cuts towards zero. */
#include "comm.h"
#include "device.h"
#include "kernels/comm.h"

#include <stdio.h>
#include <stdlib.h>
#include <time.h>

/* ---------------------------------------------------------------- names */

const char *gpu_comm_name(enum gpu_comm_kind kind) {
  static const char *const names[] = {"allreduce", "reduce_scatter", "allgather", "broadcast",
                                      "send",      "recv",           "alltoall",  "barrier"};
  return names[kind];
}

static const struct {
  const char *name;
  int bytes, nccl;
} types[] = {[DS_F32] = {"f32", 4, GPU_NCCL_F32},     [DS_BF16] = {"bf16", 2, GPU_NCCL_BF16},
             [DS_F16] = {"f16", 2, GPU_NCCL_F16},     [DS_F64] = {"f64", 8, GPU_NCCL_F64},
             [DS_I32] = {"i32", 4, GPU_NCCL_I32},     [DS_I64] = {"i64", 8, GPU_NCCL_I64},
             [DS_I8] = {"i8", 1, GPU_NCCL_I8},        [DS_U8] = {"u8", 1, GPU_NCCL_I8},
             [DS_I4] = {"i4", 0, GPU_NCCL_I8},        [DS_F8E4M3] = {"f8e4m3", 1, GPU_NCCL_I8},
             [DS_F8E5M2] = {"f8e5m2", 1, GPU_NCCL_I8}};
enum { TYPES = sizeof types / sizeof *types };

size_t gpu_comm_bytes(int32_t dtype) {
  return dtype >= 0 && dtype < TYPES ? (size_t)types[dtype].bytes : 0;
}

const char *gpu_comm_type(int32_t dtype) {
  return dtype >= 0 && dtype < TYPES ? types[dtype].name : "an unknown dtype";
}

/* ---------------------------------------------------------------- NCCL */

ds_status gpu_comm_gave_up(const ds_comm *c, const char *what, ds_error *err) {
  return gpu_fail(
      err, DS_ERR_ABORTED,
      "comm: %s on rank %d of %d: the communicator was aborted, or given up when a call "
      "on it failed; destroy it",
      what, c->rank, c->size);
}

static ds_status refused(ds_comm *c, gpu_nccl_comm of, gpu_nccl_result code, const char *what,
                         ds_error *err) {
  const bool own = code == GPU_NCCL_INVALID_ARGUMENT || code == GPU_NCCL_INVALID_USAGE;
  const char *more = c->lib->GetLastError != NULL ? c->lib->GetLastError(of) : NULL;
  (void)gpuGetLastError();
  return gpu_comm_end(c, own ? DS_ERR_INTERNAL : DS_ERR_DEVICE, what, err, "%s: %.300s",
                      c->lib->GetErrorString(code), more != NULL ? more : "");
}

ds_status gpu_comm_settle(ds_comm *c, gpu_nccl_comm of, gpu_nccl_result code, int64_t until,
                          const char *what, ds_error *err) {
  while (code == GPU_NCCL_IN_PROGRESS) {
    const struct timespec pause = {0, 20000};
    pthread_mutex_unlock(&c->lock);
    nanosleep(&pause, NULL);
    pthread_mutex_lock(&c->lock);
    if (c->over) return gpu_comm_gave_up(c, what, err);
    if (until != 0 && gpu_comm_now() > until) return gpu_comm_late(c, what, err);
    const gpu_nccl_result asked = c->lib->CommGetAsyncError(of, &code);
    if (asked != GPU_NCCL_SUCCESS) code = asked;
  }
  return code == GPU_NCCL_SUCCESS ? DS_OK : refused(c, of, code, what, err);
}

/* A send and a recv of `bytes` with every rank, this one too, as one. */
static gpu_nccl_result exchange(ds_comm *c, const char *send, char *recv, size_t bytes,
                                gpuStream_t s) {
  gpu_nccl_result code = c->lib->GroupStart(), each = GPU_NCCL_SUCCESS;
  if (code != GPU_NCCL_SUCCESS) return code;
  for (int i = 0; i < c->size; i++) {
    const size_t at = (size_t)i * bytes;
    code = c->lib->Send(send + at, bytes, GPU_NCCL_I8, i, c->nccl, s);
    if (code != GPU_NCCL_SUCCESS && code != GPU_NCCL_IN_PROGRESS) each = code;
    code = c->lib->Recv(recv + at, bytes, GPU_NCCL_I8, i, c->nccl, s);
    if (code != GPU_NCCL_SUCCESS && code != GPU_NCCL_IN_PROGRESS) each = code;
  }
  code = c->lib->GroupEnd();
  return each != GPU_NCCL_SUCCESS ? each : code;
}

/* What is only moved goes as bytes. */
static gpu_nccl_result call_nccl(ds_comm *c, const gpu_comm_work *w, gpuStream_t s) {
  const gpu_nccl_type type = (gpu_nccl_type)types[w->dtype].nccl;
  const size_t n = (size_t)w->count, bytes = n * gpu_comm_bytes(w->dtype);
  const bool is_float = w->dtype == DS_F32 || w->dtype == DS_F64;
  const gpu_nccl_op op = w->op == DS_REDUCE_MAX                ? GPU_NCCL_MAX
                         : w->op == DS_REDUCE_MIN              ? GPU_NCCL_MIN
                         : w->op == DS_REDUCE_MEAN && is_float ? GPU_NCCL_AVG
                                                               : GPU_NCCL_SUM;
  switch (w->kind) {
    case GPU_BARRIER:
    case GPU_ALLREDUCE: return c->lib->AllReduce(w->send, w->recv, n, type, op, c->nccl, s);
    case GPU_REDUCE_SCATTER:
      return c->lib->ReduceScatter(w->send, w->recv, n, type, op, c->nccl, s);
    case GPU_ALLGATHER: return c->lib->AllGather(w->send, w->recv, bytes, GPU_NCCL_I8, c->nccl, s);
    case GPU_BROADCAST:
      return c->lib->Broadcast(w->recv, w->recv, bytes, GPU_NCCL_I8, w->peer, c->nccl, s);
    case GPU_SEND: return c->lib->Send(w->send, bytes, GPU_NCCL_I8, w->peer, c->nccl, s);
    case GPU_RECV: return c->lib->Recv(w->recv, bytes, GPU_NCCL_I8, w->peer, c->nccl, s);
    case GPU_ALLTOALL: return exchange(c, w->send, w->recv, bytes, s);
  }
  return GPU_NCCL_INVALID_ARGUMENT;
}

/* ---------------------------------------------------------------- calls in flight */

static gpu_call *take_call(ds_comm *c, ds_error *err) {
  gpu_call *k = c->spare;
  if (k != NULL) {
    c->spare = k->next;
    return k;
  }
  k = calloc(1, sizeof *k);
  if (k == NULL) {
    gpu_fail(err, DS_ERR_MEMORY, "comm: no memory for a call");
    return NULL;
  }
  gpuError_t code = gpuEventCreate(&k->before);
  if (code == gpuSuccess && (code = gpuEventCreate(&k->after)) != gpuSuccess)
    (void)gpuEventDestroy(k->before);
  if (code == gpuSuccess) return k;
  gpu_check(code, "comm: an event", err);
  free(k);
  return NULL;
}

/* Gives w to stream `to`, between the two events of a call that isn't in the list yet. [locked] */
static ds_status start(ds_comm *c, gpuStream_t to, const gpu_comm_work *w, const char *what,
                       int64_t limit_ns, gpu_call **out, ds_error *err) {
  if (c->over) return gpu_comm_gave_up(c, what, err);
  gpu_call *k = take_call(c, err);
  if (k == NULL) return DS_ERR_MEMORY;
  snprintf(k->what, sizeof k->what, "%s", what);
  k->limit_ns = limit_ns;
  k->began_ns = 0;
  ds_status st = gpu_check(gpuEventRecord(k->before, to), what, err);
  if (st == DS_OK)
    st = gpu_comm_settle(c, c->nccl, call_nccl(c, w, to),
                         limit_ns != 0 ? gpu_comm_now() + limit_ns : 0, what, err);
  if (st == DS_OK) st = gpu_check(gpuEventRecord(k->after, to), what, err);
  if (st != DS_OK) {
    k->next = c->spare;
    c->spare = k;
    return st;
  }
  *out = k;
  return DS_OK;
}

/* The call has become the stream's work `position`. [locked] */
static void enlist(ds_comm *c, gpu_call *k, gpu_fate *fate, uint64_t position) {
  gpu_call **end = &c->calls;
  while (*end != NULL) end = &(*end)->next;
  k->fate = gpu_fate_hold(fate);
  k->position = position;
  k->next = NULL;
  *end = k;
  pthread_cond_broadcast(&c->changed);
}

/* w, whose numbers NCCL adds up as they are. what: of the host's call. */
static ds_status give_plain(ds_comm *c, ds_stream *s, const gpu_comm_work *w, const char *what,
                            ds_error *err) {
  gpu_call *k = NULL;
  pthread_mutex_lock(&c->lock);
  ds_status st = start(c, s->handle, w, what, gpu_comm_ns(c->timeout_ms), &k, err);
  if (st == DS_OK) st = gpu_given(s, gpuSuccess, gpu_comm_name(w->kind), err);
  if (st == DS_OK) enlist(c, k, s->fate, s->position);
  pthread_mutex_unlock(&c->lock);
  return st;
}

/* ---------------------------------------------------------------- sums that NCCL makes otherwise */

static ds_status give_widened(ds_comm *c, ds_stream *s, const gpu_comm_work *w, const char *what,
                              ds_error *err) {
  const bool scatter = w->kind == GPU_REDUCE_SCATTER;
  const int64_t all = scatter ? w->count * c->size : w->count;
  void *scratch = NULL;
  ds_status st = gpu_stream_alloc(s, (size_t)all * sizeof(float), &scratch, err);
  if (st != DS_OK) return st;
  float *x = scratch, *y = scatter ? x + (int64_t)c->rank * w->count : x;
  gpu_comm_work f32 = *w;
  f32.send = x;
  f32.recv = y;
  f32.dtype = DS_F32;
  st = gpu_given(s, gpu_comm_widen(s->handle, w->send, w->dtype, x, all), gpu_comm_name(w->kind),
                 err);
  if (st == DS_OK) st = give_plain(c, s, &f32, what, err);
  if (st == DS_OK)
    st = gpu_given(s, gpu_comm_narrow(s->handle, y, w->recv, w->dtype, w->count),
                   gpu_comm_name(w->kind), err);
  const ds_status freed = gpu_stream_free(s, scratch, st == DS_OK ? err : NULL);
  if (freed != DS_OK) gpu_free(s->dev, scratch); /* s is dead, and does nothing any more */
  return st == DS_OK ? freed : st;
}

ds_status gpu_comm_give(ds_comm *c, ds_stream *s, const gpu_comm_work *w, ds_error *err) {
  char what[64];
  const bool reduces = w->kind == GPU_ALLREDUCE || w->kind == GPU_REDUCE_SCATTER;
  const bool adds = reduces && (w->op == DS_REDUCE_SUM || w->op == DS_REDUCE_MEAN);
  const bool whole = w->dtype == DS_I8 || w->dtype == DS_I32 || w->dtype == DS_I64;
  snprintf(what, sizeof what, "%s of %lld %s", gpu_comm_name(w->kind), (long long)w->count,
           gpu_comm_type(w->dtype));
  if (adds && (w->dtype == DS_BF16 || w->dtype == DS_F16)) return give_widened(c, s, w, what, err);
  ds_status st = give_plain(c, s, w, what, err);
  if (st == DS_OK && whole && adds && w->op == DS_REDUCE_MEAN)
    st = gpu_given(s, gpu_comm_divide(s->handle, w->recv, w->dtype, w->count, c->size),
                   gpu_comm_name(w->kind), err);
  return st;
}

ds_status gpu_comm_gather(ds_comm *c, const char *what, bool connect, int64_t limit_ns,
                          ds_error *err) {
  const gpu_comm_work pairs = {.kind = GPU_ALLTOALL,
                               .send = c->token,
                               .recv = c->token + c->size,
                               .count = 1,
                               .dtype = DS_I8};
  const gpu_comm_work sum = {
      .kind = GPU_BARRIER, .send = c->token, .recv = c->token, .count = 1, .dtype = DS_I32};
  gpu_call *k = NULL;
  pthread_mutex_lock(&c->lock);
  const uint64_t position = c->position + 1;
  ds_status st = start(c, c->side, connect ? &pairs : &sum, what, limit_ns, &k, err);
  if (st == DS_OK) {
    c->position = position;
    enlist(c, k, c->fate, position);
  }
  pthread_mutex_unlock(&c->lock);
  if (st != DS_OK) return st;
  st = gpu_check(gpuStreamSynchronize(c->side), what, err);
  return st == DS_OK ? gpu_fate_check_at(c->fate, position, err) : st;
}
