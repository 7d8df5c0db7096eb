/* zero.c - memory of what is partitioned, its beginning and end. */
#include "zero/zero_impl.h"

#include <stdlib.h>
#include <string.h>

#include "ops/tape.h"
#include "zero/plusplus.h"
#include "zero/update.h"

/* A unit of so many elements is worth a collective of its own. */
enum { WORTH_A_CALL = 1 << 20 };

static int64_t least(int64_t a, int64_t b) {
  return a < b ? a : b;
}

static int64_t at_least_one(int64_t n) {
  return n < 1 ? 1 : n;
}

static ds_layout_rules layout_rules(const ds_zero *z) {
  const ds_zero_rules *r = &z->rules;
  int64_t most = at_least_one(least(r->reduce_bucket, r->gather_bucket));
  ds_layout_rules out = {.shards = r->stage > 0 ? ds_group_size(z->group) : 1,
                         .most = most,
                         .align = r->quantized_weights || r->quantized_gradients ? DS_PLUSPLUS_GROUP
                                                                                 : DS_PARAM_ALIGN};
  out.least = r->overlap ? least(most, WORTH_A_CALL) : most;
  if (r->stage < 3) return out;
  if (r->prefetch_bucket > 0) out.most = least(out.most, r->prefetch_bucket);
  out.least = least(out.most, r->granularity > 0 ? r->granularity : WORTH_A_CALL);
  out.persistent = out.shards > 1 || z->offloads_params ? r->persistence : 0;
  return out;
}

/* ---- memory */

static size_t room(int64_t elements, size_t element) {
  return elements > 0 ? (size_t)elements * element : 1;
}

/* At least something, so that addresses are never NULL. */
static ds_status make(ds_zero *z, int64_t elements, size_t element, uint64_t *count, void *out,
                      ds_error *err) {
  void *p;
  size_t bytes = room(elements, element);
  DS_TRY(ds_backend_alloc(z->backend, bytes, &p, err));
  memcpy(out, &p, sizeof p);
  *count += bytes;
  return ds_backend_fill(z->backend, p, 0, bytes, err);
}

static int64_t weights_here(const ds_zero *z) {
  const ds_unit_layout *l = &z->layout;
  if (l->shards == 0) return 0;
  return z->offloads_params ? 0 : z->partial_weights ? l->total / l->shards : l->total;
}

static int64_t grads_here(const ds_zero *z) {
  const ds_unit_layout *l = &z->layout;
  if (l->shards == 0) return 0;
  return !z->partial_grads ? l->trained : z->offloads ? 0 : l->trained / l->shards;
}

static ds_status make_all(ds_zero *z, ds_error *err) {
  const ds_unit_layout *l = &z->layout;
  int64_t own = l->total / l->shards, own_trained = l->trained / l->shards;
  DS_TRY(make(z, weights_here(z), z->element, &z->bytes.weights, &z->weights, err));
  DS_TRY(make(z, grads_here(z), sizeof(float), &z->bytes.gradients, &z->grads, err));
  if (z->dtype != DS_F32 && !z->offloads)
    DS_TRY(make(z, own, sizeof(float), &z->bytes.masters, &z->masters, err));
  for (int i = 0; i < z->rules.n_states && !z->offloads; i++)
    DS_TRY(make(z, own_trained, sizeof(float), &z->bytes.states, &z->states[i], err));
  for (int u = 0; z->partial_weights && u < l->n_units; u++)
    if (l->units[u].persistent)
      DS_TRY(make(z, l->units[u].place.end - l->units[u].place.begin, z->element, &z->bytes.weights,
                  &z->units[u].persistent, err));
  void *p;
  DS_TRY(ds_backend_alloc(z->host, sizeof *z->squares, &p, err));
  z->squares = p;
  return DS_OK;
}

ds_status ds_zero_clear(ds_zero *z, ds_error *err) {
  size_t own = (size_t)(z->layout.total / z->layout.shards);
  size_t trained = (size_t)(z->layout.trained / z->layout.shards);
  if (z->side) DS_TRY(ds_side_revive(z->side, err));
  ds_zero_drop(z);
  ds_zero_release_all(z);
  DS_TRY(ds_buffers_revive(&z->buffers, err));
  DS_TRY(ds_backend_fill(z->backend, z->weights, 0, (size_t)weights_here(z) * z->element, err));
  DS_TRY(ds_backend_fill(z->backend, z->grads, 0, (size_t)grads_here(z) * sizeof(float), err));
  if (z->offloads) return ds_zero_offload_clear(z, err);
  if (z->masters) DS_TRY(ds_backend_fill(z->backend, z->masters, 0, own * sizeof(float), err));
  for (int i = 0; i < 4; i++)
    if (z->states[i])
      DS_TRY(ds_backend_fill(z->backend, z->states[i], 0, trained * sizeof(float), err));
  return DS_OK;
}

bool ds_zero_died(const ds_zero *z) {
  return ds_side_died(z->side);
}

/* ---- addresses */

/* Where the own part of a unit begins in a buffer that holds all places, or the own parts alone. */
static int64_t own_place(const ds_zero *z, int unit, bool partial) {
  return partial ? ds_layout_local(&z->layout, unit)
                 : ds_layout_own(&z->layout, unit, z->rank).begin;
}

void *ds_zero_own_weights(const ds_zero *z, int unit) {
  return (char *)z->weights + (size_t)own_place(z, unit, z->partial_weights) * z->element;
}

float *ds_zero_own_masters(const ds_zero *z, int unit) {
  return z->masters ? z->masters + ds_layout_local(&z->layout, unit) : ds_zero_own_weights(z, unit);
}

float *ds_zero_own_grads(const ds_zero *z, int unit) {
  return z->grads + own_place(z, unit, z->partial_grads);
}

float *ds_zero_step_grads(const ds_zero *z, int unit) {
  return z->offloads ? z->host_grads + ds_layout_local(&z->layout, unit)
                     : ds_zero_own_grads(z, unit);
}

/* ---- slots */

static void bind_slots(ds_zero *z) {
  for (int i = 0; i < z->layout.n_params; i++) {
    int64_t shape[DS_MAX_RANK], at = z->layout.offset[i];
    int32_t rank = ds_params_shape(z->params, i, shape);
    const ds_zero_unit *u = &z->units[z->layout.unit_of[i]];
    int64_t in_unit = at - z->layout.units[z->layout.unit_of[i]].place.begin;
    /* Where it isn't all there, the hooks say where it is. */
    char *value = z->weights;
    if (u->persistent)
      value = (char *)u->persistent + (size_t)in_unit * z->element;
    else if (!z->partial_weights)
      value += (size_t)at * z->element;
    z->slots[i].value = ds_tensor_make(value, z->dtype, rank, shape);
    z->slots[i].grad = z->frozen[i] ? NULL : z->grads + (z->partial_grads ? 0 : at);
  }
  ds_ctx_bind_params(z->ctx, z->slots, z->layout.n_params);
  ds_zero_bind_hooks(z);
}

/* ---- pieces */

/* At stage 0 every rank has all of a parameter, and they share the saving of it. */
static void add_pieces(ds_zero *z, int param) {
  int64_t n = ds_params_numel(z->params, param);
  int ranks = ds_group_size(z->group);
  if (z->layout.shards == 1) {
    for (int r = 0; r < ranks; r++) {
      int64_t begin = n / ranks * r + (n % ranks < r ? n % ranks : r);
      int64_t end = begin + n / ranks + (r < n % ranks);
      if (begin < end)
        z->pieces[z->n_pieces++] = (ds_piece){param, begin, end, r == ds_group_rank(z->group)};
    }
    return;
  }
  ds_range part = ds_layout_part(&z->layout, z->params, param, z->rank);
  if (part.begin < part.end)
    z->pieces[z->n_pieces++] = (ds_piece){param, part.begin, part.end, true};
}

static ds_status list_pieces(ds_zero *z, ds_error *err) {
  size_t most = (size_t)z->layout.n_params;
  if (z->layout.shards == 1) most *= (size_t)ds_group_size(z->group);
  z->pieces = calloc(most + 1, sizeof *z->pieces);
  if (!z->pieces) return ds_fail_memory(err, "ZeRO's pieces");
  for (int i = 0; i < z->layout.n_params; i++) add_pieces(z, i);
  return DS_OK;
}

/* ---- beginning and end */

static ds_status make_units(ds_zero *z, ds_error *err) {
  z->units = calloc((size_t)z->layout.n_units + 1, sizeof *z->units);
  z->slots = calloc((size_t)z->layout.n_params + 1, sizeof *z->slots);
  z->took_part = calloc((size_t)z->layout.n_params + 1, sizeof *z->took_part);
  if (!z->units || !z->slots || !z->took_part) return ds_fail_memory(err, "ZeRO's units");
  for (int u = 0; u < z->layout.n_units; u++) {
    DS_TRY(ds_mark_create(z->backend, &z->units[u].gathered, err));
    DS_TRY(ds_mark_create(z->backend, &z->units[u].done, err));
  }
  return DS_OK;
}

ds_status ds_zero_create(const ds_zero_rules *rules, ds_ctx *ctx, ds_backend *host, ds_group *group,
                         const ds_params *params, const bool *frozen, ds_zero **out,
                         ds_error *err) {
  *out = NULL;
  ds_zero *z = calloc(1, sizeof *z);
  if (!z) return ds_fail_memory(err, "ZeRO");
  *z = (ds_zero){.rules = *rules,
                 .ctx = ctx,
                 .backend = ds_ctx_backend(ctx),
                 .group = ds_group_size(group) > 1 ? group : NULL,
                 .params = params,
                 .frozen = frozen,
                 .dtype = rules->dtype,
                 .element = ds_dtype_size(rules->dtype),
                 .offloads = rules->offload_optimizer != DS_OFFLOAD_NONE,
                 .offloads_params = rules->offload_param != DS_OFFLOAD_NONE};
  ds_buffers_init(&z->buffers, z->backend);
  ds_layout_rules layout = layout_rules(z);
  ds_status status = ds_layout_init(&z->layout, params, frozen, &layout, err);
  bool several = z->layout.shards > 1;
  z->host = z->backend;
  z->rank = several ? ds_group_rank(group) : 0;
  z->partial_weights = (several || z->offloads_params) && rules->stage >= 3;
  z->partial_grads = (several || z->offloads) && rules->stage >= 2;
  z->next = -1;
  if (status == DS_OK) status = make_units(z, err);
  if (status == DS_OK && (z->group || z->offloads) && rules->overlap)
    status = ds_side_create(z->backend, &z->side, err);
  if (status == DS_OK) status = ds_zero_offload_init(z, host, err);
  if (status == DS_OK) status = make_all(z, err);
  if (status == DS_OK) status = list_pieces(z, err);
  if (status == DS_OK) status = ds_plusplus_init(z, err);
  if (status != DS_OK) {
    ds_zero_destroy(z);
    return ds_fail_prefix(err, status, "memory for %lld parameters at ZeRO stage %d",
                          (long long)ds_params_total(params), rules->stage);
  }
  bind_slots(z);
  *out = z;
  return DS_OK;
}

static void free_all(ds_zero *z) {
  const ds_unit_layout *l = &z->layout;
  int64_t own = l->total / (l->shards ? l->shards : 1);
  int64_t trained = l->trained / (l->shards ? l->shards : 1);
  ds_backend_free(z->backend, z->weights, room(weights_here(z), z->element));
  ds_backend_free(z->backend, z->grads, room(grads_here(z), sizeof(float)));
  if (!z->offloads) ds_backend_free(z->backend, z->masters, room(own, sizeof(float)));
  for (int i = 0; i < 4 && !z->offloads; i++)
    ds_backend_free(z->backend, z->states[i], room(trained, sizeof(float)));
  for (int u = 0; z->units && u < l->n_units; u++) {
    const ds_range *p = &l->units[u].place;
    ds_backend_free(z->backend, z->units[u].persistent, room(p->end - p->begin, z->element));
    ds_mark_destroy(z->units[u].gathered);
    ds_mark_destroy(z->units[u].done);
  }
  if (z->squares) ds_backend_free(z->host, z->squares, sizeof *z->squares);
  ds_plusplus_finish(z);
  ds_zero_offload_finish(z);
}

void ds_zero_destroy(ds_zero *z) {
  if (!z) return;
  ds_side_destroy(z->side); /* waits for it */
  free_all(z);
  ds_buffers_finish(&z->buffers);
  ds_order_finish(&z->orders[0]);
  ds_order_finish(&z->orders[1]);
  ds_layout_finish(&z->layout);
  free(z->units);
  free(z->slots);
  free(z->took_part);
  free(z->pieces);
  free(z->slices);
  free(z->places);
  free(z);
}

const ds_unit_layout *ds_zero_layout(const ds_zero *z) {
  return &z->layout;
}

bool ds_zero_in_backward(const ds_zero *z) {
  return z->partial_grads || z->partial_weights || z->side;
}

bool ds_zero_collective(const ds_zero *z) {
  return z->layout.shards > 1 || z->offloads;
}

ds_param_slot *ds_zero_slots(ds_zero *z) {
  return z->slots;
}

ds_zero_bytes ds_zero_get_bytes(const ds_zero *z) {
  ds_zero_bytes b = z->bytes;
  b.buffers = z->buffers.held;
  b.buffers_peak = z->buffers.peak;
  return b;
}
