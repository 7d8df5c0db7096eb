#include "zero/plusplus.h"

#include "ops/tape.h"
#include "zero/zero_impl.h"

/* ---- what travels: values, and behind them the scales */

static size_t wire_bytes(int64_t n) {
  return (size_t)n + (size_t)(n / DS_PLUSPLUS_GROUP) * sizeof(float);
}

static ds_quant wire_form(void *wire, int64_t n, int32_t dtype) {
  return (ds_quant){.size = sizeof(ds_quant),
                    .qtype = DS_I8,
                    .dtype = dtype,
                    .rows = n / DS_PLUSPLUS_GROUP,
                    .cols = DS_PLUSPLUS_GROUP,
                    .group = DS_PLUSPLUS_GROUP,
                    .values = wire,
                    .scales = (float *)(void *)((char *)wire + n)};
}

static ds_status quantize(ds_zero *z, void *wire, const void *x, int64_t n, int32_t dtype,
                          ds_error *err) {
  ds_quant q = wire_form(wire, n, dtype);
  return ds_backend_quantize(z->backend, &q, x, err);
}

static ds_status dequantize(ds_zero *z, void *wire, void *x, int64_t n, int32_t dtype,
                            ds_error *err) {
  ds_quant q = wire_form(wire, n, dtype);
  return ds_backend_dequantize(z->backend, &q, x, err);
}

/* ---- beginning and end */

static size_t size_of(const ds_zero *z, int unit) {
  return (size_t)(ds_layout_shard(&z->layout, unit) * z->layout.shards);
}

static ds_status split(ds_zero *z, int near, ds_error *err) {
  int rank = ds_group_rank(z->group), size = ds_group_size(z->group);
  if (size % near != 0)
    return ds_fail(err, DS_ERR_INVALID,
                   "zero_optimization.zero_hpz_partition_size is %d, but %d ranks share the "
                   "parameters: it must divide them",
                   near, size);
  return ds_group_split(z->group, "secondary", rank / near, rank % near, &z->near, err);
}

static ds_status make(ds_zero *z, size_t bytes, void **out, ds_error *err) {
  z->bytes.weights += bytes;
  return ds_backend_alloc(z->backend, bytes, out, err);
}

ds_status ds_plusplus_init(ds_zero *z, ds_error *err) {
  const ds_unit_layout *l = &z->layout;
  size_t sent = wire_bytes(l->total / l->shards);
  z->sends_int8 = z->rules.quantized_weights && z->group && z->partial_weights;
  z->sums_int8 = z->rules.quantized_gradients && z->group && z->partial_grads;
  if (z->sends_int8) DS_TRY(make(z, sent, &z->sent, err));
  if (z->rules.near < 2 || !z->group || !z->partial_weights) return DS_OK;
  DS_TRY(split(z, z->rules.near, err));
  return make(z, (size_t)(l->total / z->rules.near) * z->element, &z->secondary, err);
}

void ds_plusplus_finish(ds_zero *z) {
  const ds_unit_layout *l = &z->layout;
  ds_group_destroy(z->near);
  if (z->sent) ds_backend_free(z->backend, z->sent, wire_bytes(l->total / l->shards));
  if (z->secondary)
    ds_backend_free(z->backend, z->secondary, (size_t)(l->total / z->rules.near) * z->element);
}

/* ---- weights */

/* What this rank sends of a unit. */
static char *sent_of(const ds_zero *z, int unit) {
  return (char *)z->sent + wire_bytes(ds_layout_local(&z->layout, unit));
}

/* This rank's piece of the secondary copy of a unit: elements, and where it is kept. */
static int64_t near_part(const ds_zero *z, int unit) {
  return (int64_t)size_of(z, unit) / z->rules.near;
}
static char *near_place(const ds_zero *z, int unit) {
  return (char *)z->secondary +
         (size_t)(z->layout.units[unit].place.begin / z->rules.near) * z->element;
}

ds_status ds_plusplus_updated(ds_zero *z, ds_error *err) {
  for (int u = 0; u < z->layout.n_units; u++) {
    z->units[u].has_near = false;
    if (z->sends_int8 && !z->units[u].persistent)
      DS_TRY(quantize(z, sent_of(z, u), ds_zero_own_weights(z, u), ds_layout_shard(&z->layout, u),
                      z->dtype, err));
  }
  return DS_OK;
}

ds_status ds_plusplus_fetch(ds_zero *z, int unit, bool *took, ds_error *err) {
  ds_zero_unit *u = &z->units[unit];
  *took = true;
  if (u->has_near) {
    if (z->side)
      DS_TRY(ds_side_follow(z->side, err)); /* the piece was copied by the other stream */
    return ds_group_allgather(z->near, z->side, near_place(z, unit), u->weights->data,
                              near_part(z, unit), z->dtype, err);
  }
  *took = z->sends_int8;
  if (!z->sends_int8) return DS_OK;
  size_t bytes = wire_bytes(ds_layout_shard(&z->layout, unit));
  DS_TRY(ds_buffers_take(&z->buffers, bytes * (size_t)z->layout.shards, z->side, &u->wire, err));
  return ds_group_allgather(z->group, z->side, sent_of(z, unit), u->wire->data, (int64_t)bytes,
                            DS_I8, err);
}

static ds_status unpack(ds_zero *z, int unit, ds_error *err) {
  ds_zero_unit *u = &z->units[unit];
  int64_t n = ds_layout_shard(&z->layout, unit);
  ds_buffer *wire = u->wire;
  if (!wire) return DS_OK;
  for (int r = 0; r < z->layout.shards; r++)
    DS_TRY(dequantize(z, (char *)wire->data + (size_t)r * wire_bytes(n),
                      (char *)u->weights->data + (size_t)(r * n) * z->element, n, z->dtype, err));
  u->wire = NULL;
  return ds_buffers_give(&z->buffers, wire, NULL, err);
}

ds_status ds_plusplus_arrive(ds_zero *z, int unit, ds_error *err) {
  ds_zero_unit *u = &z->units[unit];
  DS_TRY(unpack(z, unit, err));
  if (!z->secondary || u->has_near) return DS_OK;
  size_t bytes = (size_t)near_part(z, unit) * z->element;
  DS_TRY(ds_backend_copy(z->backend, near_place(z, unit),
                         (char *)u->weights->data + (size_t)ds_group_rank(z->near) * bytes, bytes,
                         err));
  u->has_near = true;
  return DS_OK;
}

/* ---- gradients */

ds_status ds_plusplus_send_grads(ds_zero *z, int unit, ds_error *err) {
  ds_zero_unit *u = &z->units[unit];
  int64_t n = ds_layout_shard(&z->layout, unit);
  size_t bytes = wire_bytes(n), all = bytes * (size_t)z->layout.shards;
  /* What is sent, and behind it what comes. */
  DS_TRY(ds_buffers_take(&z->buffers, 2 * all, NULL, &u->grad_wire, err));
  char *out = u->grad_wire->data;
  for (int r = 0; r < z->layout.shards; r++)
    DS_TRY(quantize(z, out + (size_t)r * bytes, (float *)u->grad->data + r * n, n, DS_F32, err));
  if (z->side) DS_TRY(ds_side_follow(z->side, err));
  return ds_group_alltoall(z->group, z->side, out, out + all, (int64_t)bytes, DS_I8, err);
}

static ds_status add_scaled(ds_zero *z, const float *x, float *y, int64_t n, double factor,
                            bool add, ds_error *err) {
  const ds_attr attr = {.f = factor};
  ds_tensor in = ds_tensor_make((void *)(uintptr_t)x, DS_F32, 1, &n);
  ds_tensor out = ds_tensor_make(y, DS_F32, 1, &n);
  return ds_run_raw(z->ctx, DS_OP_SCALE, (const ds_tensor *[]){&in}, 1, (const ds_tensor *[]){&out},
                    1, add, &attr, 1, err);
}

/* The rest of the unit's buffer is room by now: another rank's part of it serves for what comes. */
ds_status ds_plusplus_sum_grads(ds_zero *z, int unit, ds_error *err) {
  ds_zero_unit *u = &z->units[unit];
  int64_t n = ds_layout_shard(&z->layout, unit);
  size_t bytes = wire_bytes(n);
  char *in = (char *)u->grad_wire->data + bytes * (size_t)z->layout.shards;
  float *own = (float *)u->grad->data + n * z->rank;
  float *room = (float *)u->grad->data + n * ((z->rank + 1) % z->layout.shards);
  double factor = z->rules.sum ? 1 : 1.0 / z->layout.shards;
  for (int r = 0; r < z->layout.shards; r++) {
    DS_TRY(dequantize(z, in + (size_t)r * bytes, room, n, DS_F32, err));
    DS_TRY(add_scaled(z, room, own, n, factor, r > 0, err));
  }
  ds_buffer *wire = u->grad_wire;
  u->grad_wire = NULL;
  return ds_buffers_give(&z->buffers, wire, NULL, err);
}
