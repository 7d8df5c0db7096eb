/* reduce.c - gradients summed over ranks, a unit at a time, as they become complete. */
#include "zero/zero_impl.h"

#include "ops/tape.h"
#include "zero/plusplus.h"

#include <math.h>
#include <string.h>

/* ---- a unit's gradients */

/* The address of a place's gradient: in the buffer of its unit, or where all are. */
static float *grad_at(const ds_zero *z, int unit, int64_t place) {
  if (!z->partial_grads) return z->grads + place;
  return (float *)z->units[unit].grad->data + (place - z->layout.units[unit].place.begin);
}

static ds_status clear(ds_zero *z, int unit, int64_t begin, int64_t end, ds_error *err) {
  if (begin >= end) return DS_OK;
  return ds_backend_fill(z->backend, grad_at(z, unit, begin), 0,
                         (size_t)(end - begin) * sizeof(float), err);
}

/* Parameters that took no part count as zero, on all ranks alike; so does padding, which in a
 * buffer is whatever was there. */
static ds_status complete(ds_zero *z, int unit, ds_error *err) {
  const ds_unit_layout *l = &z->layout;
  const ds_unit *u = &l->units[unit];
  for (int m = u->first; m < u->first + u->count; m++) {
    int p = l->order[m];
    int64_t begin = l->offset[p], end = begin + ds_params_numel(z->params, p);
    int64_t next = m + 1 < u->first + u->count ? l->offset[l->order[m + 1]] : u->place.end;
    if (z->slots[p].has_grad)
      z->took_part[p] = true;
    else
      DS_TRY(clear(z, unit, begin, end, err));
    if (z->partial_grads) DS_TRY(clear(z, unit, end, next, err));
  }
  return DS_OK;
}

static ds_status take_buffer(ds_zero *z, int unit, ds_error *err) {
  ds_zero_unit *u = &z->units[unit];
  const ds_unit *place = &z->layout.units[unit];
  size_t bytes = (size_t)(place->place.end - place->place.begin) * sizeof(float);
  if (u->grad) return DS_OK;
  DS_TRY(ds_buffers_take(&z->buffers, bytes, NULL, &u->grad, err));
  for (int m = place->first; m < place->first + place->count; m++) {
    int p = z->layout.order[m];
    z->slots[p].grad = grad_at(z, unit, z->layout.offset[p]);
    z->slots[p].has_grad = false; /* of this micro batch */
  }
  return DS_OK;
}

ds_status ds_zero_want_grad(void *self, int param, ds_error *err) {
  ds_zero *z = self;
  return take_buffer(z, z->layout.unit_of[param], err);
}

/* ---- reducing */

ds_reduce ds_zero_reduction(const ds_zero *z) {
  return z->rules.sum ? DS_REDUCE_SUM : DS_REDUCE_MEAN;
}

/* Of all places of the unit, in place; at stage 1 and up the own part alone is right afterwards. */
static ds_status reduce_in_place(ds_zero *z, int unit, float *from, float *to, ds_error *err) {
  int64_t shard = ds_layout_shard(&z->layout, unit);
  bool scatter = z->rules.reduce_scatter && z->layout.shards > 1;
  if (scatter)
    return ds_group_reduce_scatter(z->group, z->side, from, to, shard, DS_F32, ds_zero_reduction(z),
                                   err);
  int64_t n = shard * z->layout.shards;
  DS_TRY(ds_group_allreduce(z->group, z->side, from, from, n, DS_F32, ds_zero_reduction(z), err));
  float *own = from + shard * z->rank;
  return to == own || z->layout.shards == 1
             ? DS_OK
             : ds_side_copy(z->backend, z->side, to, own, (size_t)shard * sizeof *to, err);
}

/* Into host memory; what is there already is added to. */
static ds_status offload_grads(ds_zero *z, int unit, const float *from, bool add, ds_error *err) {
  int64_t n = ds_layout_shard(&z->layout, unit);
  float *to = ds_zero_step_grads(z, unit);
  DS_TRY(ds_zero_from_device(z, add ? z->add : to, from, (size_t)n * sizeof *from, err));
  if (!add) return DS_OK;
  DS_TRY(ds_zero_sync(z, err));
  ds_tensor in = ds_tensor_make(z->add, DS_F32, 1, &n), out = ds_tensor_make(to, DS_F32, 1, &n);
  DS_TRY(ds_run_raw(z->host_ctx, DS_OP_COPY, (const ds_tensor *[]){&in}, 1,
                    (const ds_tensor *[]){&out}, 1, 1, NULL, 0, err));
  return ds_backend_sync(z->host, err);
}

static ds_status add_grads(ds_zero *z, int unit, float *from, bool add, ds_error *err) {
  int64_t n = ds_layout_shard(&z->layout, unit);
  ds_tensor in = ds_tensor_make(from, DS_F32, 1, &n);
  ds_tensor out = ds_tensor_make(ds_zero_own_grads(z, unit), DS_F32, 1, &n);
  return ds_run_raw(z->ctx, DS_OP_COPY, (const ds_tensor *[]){&in}, 1, (const ds_tensor *[]){&out},
                    1, add, NULL, 0, err);
}

/* The reduced part of a buffer joins the gradients of the step, and the buffer is free again. */
static ds_status finish_one(ds_zero *z, ds_error *err) {
  int unit = z->in_flight[0];
  ds_zero_unit *u = &z->units[unit];
  z->in_flight[0] = z->in_flight[1];
  z->n_in_flight--;
  float *part = (float *)u->grad->data + ds_layout_shard(&z->layout, unit) * z->rank;
  bool add = u->to_add;
  u->to_add = false;
  if (z->sums_int8) {
    if (z->side) DS_TRY(ds_mark_wait(u->done, NULL, err));
    DS_TRY(ds_plusplus_sum_grads(z, unit, err));
    if (z->side) DS_TRY(ds_side_follow(z->side, err));
  }
  if (z->offloads) {
    DS_TRY(offload_grads(z, unit, part, add, err));
  } else {
    if (z->side) DS_TRY(ds_mark_wait(u->done, NULL, err));
    if (add || z->sums_int8) DS_TRY(add_grads(z, unit, part, add, err));
  }
  ds_buffer *buffer = u->grad;
  u->grad = NULL;
  return ds_buffers_give(&z->buffers, buffer, z->offloads ? z->side : NULL, err);
}

/* From the unit's buffer to the own part of gradients. Few are on the way at once: their buffers are
 * memory. */
static ds_status reduce_buffer(ds_zero *z, int unit, ds_error *err) {
  ds_zero_unit *u = &z->units[unit];
  float *from = u->grad->data, *own = from + ds_layout_shard(&z->layout, unit) * z->rank;
  u->to_add = u->added;
  bool stays = u->added || z->offloads;
  if (z->sums_int8)
    DS_TRY(ds_plusplus_send_grads(z, unit, err));
  else if (z->group)
    DS_TRY(reduce_in_place(z, unit, from, stays ? own : ds_zero_own_grads(z, unit), err));
  u->added = true;
  if (z->side) DS_TRY(ds_mark_set(u->done, z->side, err));
  z->in_flight[z->n_in_flight++] = unit;
  return DS_OK;
}

static ds_status reduce_unit(ds_zero *z, int unit, ds_error *err) {
  if (z->partial_grads) DS_TRY(take_buffer(z, unit, err));
  DS_TRY(complete(z, unit, err));
  if (!z->group && !z->partial_grads) return DS_OK;
  if (z->n_in_flight == 2) DS_TRY(finish_one(z, err));
  z->reducing = z->side != NULL;
  if (z->side) DS_TRY(ds_side_follow(z->side, err));
  if (z->partial_grads) return reduce_buffer(z, unit, err);
  return reduce_in_place(z, unit, grad_at(z, unit, z->layout.units[unit].place.begin),
                         ds_zero_own_grads(z, unit), err);
}

/* ---- when */

static bool reduces_in_backward(const ds_zero *z) {
  return z->partial_grads || (z->side && z->group && z->boundary);
}

static void rewind_units(ds_zero *z) {
  z->next = -1;
  for (int u = 0; u < z->layout.n_units; u++) {
    z->units[u].complete = 0;
    if (!z->layout.units[u].frozen) z->next = u;
  }
}

ds_status ds_zero_begin(ds_zero *z, bool boundary, ds_error *err) {
  z->boundary = boundary;
  ds_order_begin(&z->orders[ds_ctx_training(z->ctx)]);
  if (!ds_ctx_training(z->ctx)) return DS_OK;
  if (z->summed)
    return ds_fail(err, DS_ERR_STATE,
                   "another forward after the step's last backward: the gradients are summed over "
                   "ranks by now; call step first (or set overlap_comm to false)");
  rewind_units(z);
  return z->partial_weights ? ds_zero_prefetch(z, err) : DS_OK;
}

ds_status ds_zero_done(void *self, int param, ds_error *err) {
  ds_zero *z = self;
  z->units[z->layout.unit_of[param]].complete++;
  if (!reduces_in_backward(z)) return DS_OK;
  while (z->next >= 0) {
    int unit = z->next;
    if (z->units[unit].complete < z->layout.units[unit].count) break;
    z->next--;
    DS_TRY(reduce_unit(z, unit, err));
  }
  return DS_OK;
}

static ds_status reduce_rest(ds_zero *z, ds_error *err) {
  while (z->next >= 0) DS_TRY(reduce_unit(z, z->next--, err));
  while (z->n_in_flight > 0) DS_TRY(finish_one(z, err));
  return DS_OK;
}

/* The backend's stream waits for what the side has of gradients. */
static ds_status join(ds_zero *z, ds_error *err) {
  if (!z->reducing) return DS_OK;
  DS_TRY(ds_side_join(z->side, err));
  z->reducing = false;
  return DS_OK;
}

ds_status ds_zero_end(ds_zero *z, ds_error *err) {
  if (!reduces_in_backward(z)) return DS_OK;
  DS_TRY(reduce_rest(z, err));
  z->summed = !z->partial_grads;
  return join(z, err);
}

/* Where no micro batch since the last drop has left any, what is there is older. */
static ds_status clear_own(ds_zero *z, int unit, ds_error *err) {
  size_t bytes = (size_t)ds_layout_shard(&z->layout, unit) * sizeof(float);
  if (!z->offloads) return ds_backend_fill(z->backend, ds_zero_own_grads(z, unit), 0, bytes, err);
  DS_TRY(ds_zero_sync(z, err)); /* an older transfer may still come */
  memset(ds_zero_step_grads(z, unit), 0, bytes);
  return DS_OK;
}

ds_status ds_zero_finish_gradients(ds_zero *z, ds_error *err) {
  const ds_unit_layout *l = &z->layout;
  if (!z->partial_grads && !z->summed) {
    DS_TRY(reduce_rest(z, err));
    DS_TRY(join(z, err));
  }
  for (int u = 0; z->partial_grads && u < l->n_units && !l->units[u].frozen; u++)
    if (!z->units[u].added) DS_TRY(clear_own(z, u, err));
  if (!z->offloads) return DS_OK;
  if (z->side) DS_TRY(ds_side_follow(z->side, err));
  for (int u = 0; !z->partial_grads && u < z->layout.n_units && !z->layout.units[u].frozen; u++)
    DS_TRY(offload_grads(z, u, ds_zero_own_grads(z, u), false, err));
  return ds_zero_sync(z, err);
}

void ds_zero_drop(ds_zero *z) {
  ds_error ignored; /* a dead stream's: the next call says so */
  (void)!join(z, &ignored);
  z->reducing = false;
  z->n_in_flight = 0;
  z->summed = false;
  for (int u = 0; u < z->layout.n_units; u++) {
    ds_zero_unit *unit = &z->units[u];
    (void)!ds_buffers_give(&z->buffers, unit->grad, NULL, &ignored);
    (void)!ds_buffers_give(&z->buffers, unit->grad_wire, NULL, &ignored);
    unit->grad = unit->grad_wire = NULL;
    unit->added = unit->to_add = false;
  }
  for (int i = 0; i < z->layout.n_params; i++) z->slots[i].has_grad = z->took_part[i] = false;
  rewind_units(z);
}

bool ds_zero_took_part(const ds_zero *z, int param) {
  return z->slots[param].has_grad || z->took_part[param];
}

void ds_zero_bind_hooks(ds_zero *z) {
  ds_param_hooks hooks = {.self = z};
  if (z->partial_weights) hooks.need = ds_zero_need;
  if (z->partial_grads) hooks.grad = ds_zero_want_grad;
  if (z->partial_grads || z->side) hooks.done = ds_zero_done;
  ds_ctx_bind_hooks(z->ctx, &hooks);
}

/* ---- the norm */

static ds_status add_squares(ds_zero *z, const float *x, int64_t n, void *sum, bool first,
                             ds_error *err) {
  void *address;
  memcpy(&address, &x, sizeof address);
  ds_tensor in = ds_tensor_make(address, DS_F32, 1, &n);
  ds_tensor out = ds_tensor_make(sum, DS_F64, 1, (int64_t[]){1});
  return ds_run_raw(z->host_ctx, DS_OP_SUM_SQUARES, (const ds_tensor *[]){&in}, 1,
                    (const ds_tensor *[]){&out}, 1, !first, NULL, 0, err);
}

static ds_status add_stretch(ds_zero *z, int unit, int64_t begin, int64_t end, void *sum,
                             ds_error *err) {
  if (begin >= end) return DS_OK;
  int64_t own = ds_layout_own(&z->layout, unit, z->rank).begin;
  return add_squares(z, ds_zero_step_grads(z, unit) + begin - own, end - begin, sum, false, err);
}

/* What lies between the parameters that other ranks count. */
static ds_status add_counted(ds_zero *z, int unit, void *sum, ds_error *err) {
  const ds_unit_layout *l = &z->layout;
  const ds_unit *u = &l->units[unit];
  ds_range own = ds_layout_own(l, unit, z->rank);
  int64_t at = own.begin;
  for (int m = u->first; m < u->first + u->count; m++) {
    int p = l->order[m];
    if (z->rules.counted[p]) continue;
    ds_range all = {l->offset[p], l->offset[p] + ds_params_numel(z->params, p)};
    ds_range skip = ds_partition_intersect(all, own);
    if (skip.begin >= skip.end) continue;
    DS_TRY(add_stretch(z, unit, at, skip.begin, sum, err));
    at = skip.end;
  }
  return add_stretch(z, unit, at, own.end, sum, err);
}

static ds_status sum_counted(ds_zero *z, void *sum, ds_error *err) {
  DS_TRY(ds_backend_fill(z->host, sum, 0, sizeof(double), err));
  for (int u = 0; u < z->layout.n_units && !z->layout.units[u].frozen; u++)
    DS_TRY(add_counted(z, u, sum, err));
  return DS_OK;
}

ds_status ds_zero_sum_squares(ds_zero *z, void *sum, ds_error *err) {
  const ds_unit_layout *l = &z->layout;
  if (z->rules.counted) return sum_counted(z, sum, err);
  const float *all = z->offloads ? z->host_grads : z->grads;
  if (l->shards == 1 || z->partial_grads || z->offloads)
    return add_squares(z, all, l->trained / l->shards, sum, true, err);
  for (int u = 0; u < l->n_units && !l->units[u].frozen; u++)
    DS_TRY(add_squares(z, ds_zero_own_grads(z, u), ds_layout_shard(l, u), sum, u == 0, err));
  return DS_OK;
}

ds_status ds_zero_squares(ds_zero *z, double *sum, ds_error *err) {
  DS_TRY(ds_zero_sum_squares(z, z->squares, err));
  return ds_backend_download(z->host, sum, z->squares, sizeof *sum, err);
}

ds_status ds_zero_first_nonfinite(ds_zero *z, int *param, ds_error *err) {
  const ds_unit_layout *l = &z->layout;
  *param = -1;
  for (int p = 0; p < l->n_params; p++) {
    ds_range part = ds_layout_part(l, z->params, p, z->rank);
    double squares;
    if (z->frozen[p] || part.begin >= part.end) continue;
    int64_t own = ds_layout_own(l, l->unit_of[p], z->rank).begin;
    const float *x = ds_zero_step_grads(z, l->unit_of[p]) + l->offset[p] + part.begin - own;
    DS_TRY(add_squares(z, x, part.end - part.begin, z->squares, true, err));
    DS_TRY(ds_backend_download(z->host, &squares, z->squares, sizeof squares, err));
    if (isfinite(squares)) continue;
    *param = p;
    return DS_OK;
  }
  return DS_OK;
}
