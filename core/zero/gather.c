/* gather.c - weights made whole: after an update (stages 1 and 2), or ahead of use (stage 3). */
#include "zero/zero_impl.h"

#include "ops/tape.h"
#include "zero/plusplus.h"
#include "zero/update.h"

static int64_t size_of(const ds_zero *z, int unit) {
  const ds_range *p = &z->layout.units[unit].place;
  return p->end - p->begin;
}

/* This rank's own part at its place in `whole`; unless it is to be sent from where it is kept. */
static ds_status put_own(ds_zero *z, int unit, char *mine, bool must, ds_error *err) {
  size_t bytes = (size_t)ds_layout_shard(&z->layout, unit) * z->element;
  if (z->offloads_params) return ds_zero_fetch_own(z, unit, mine, err);
  if (!must || mine == ds_zero_own_weights(z, unit)) return DS_OK;
  return ds_side_copy(z->backend, z->side, mine, ds_zero_own_weights(z, unit), bytes, err);
}

ds_status ds_zero_gather_unit(ds_zero *z, int unit, void *whole, ds_error *err) {
  int64_t n = ds_layout_shard(&z->layout, unit);
  size_t bytes = (size_t)n * z->element;
  char *mine = (char *)whole + (size_t)z->rank * bytes;
  DS_TRY(put_own(z, unit, mine, !z->rules.all_gather, err));
  if (!z->group) return DS_OK;
  if (z->rules.all_gather)
    return ds_group_allgather(z->group, z->side,
                              z->offloads_params ? mine : ds_zero_own_weights(z, unit), whole, n,
                              z->dtype, err);
  for (int r = 0; r < z->layout.shards; r++)
    DS_TRY(ds_group_broadcast(z->group, z->side, (char *)whole + (size_t)r * bytes, n, z->dtype, r,
                              err));
  return DS_OK;
}

/* ---- stage 3 */

static void point_slots(ds_zero *z, int unit, void *whole) {
  const ds_unit *u = &z->layout.units[unit];
  for (int m = u->first; m < u->first + u->count; m++) {
    int p = z->layout.order[m];
    size_t at = (size_t)(z->layout.offset[p] - u->place.begin) * z->element;
    z->slots[p].value.data = whole ? (char *)whole + at : z->weights; /* nobody reads there */
  }
}

/* What is still on its way was foreseen, but not used after all (or its gather failed): the side
 * stream alone knows it. */
static ds_status release(ds_zero *z, int unit, ds_error *err) {
  ds_zero_unit *u = &z->units[unit];
  ds_buffer *weights = u->weights, *wire = u->wire;
  ds_side *by = u->on_way ? z->side : NULL;
  if (!weights) return DS_OK;
  if (u->on_way) z->coming -= size_of(z, unit);
  z->live -= size_of(z, unit);
  u->weights = u->wire = NULL;
  u->on_way = false;
  point_slots(z, unit, NULL);
  DS_TRY(ds_buffers_give(&z->buffers, wire, by, err));
  return ds_buffers_give(&z->buffers, weights, by, err);
}

static ds_status fetch(ds_zero *z, int unit, ds_error *err) {
  ds_zero_unit *u = &z->units[unit];
  size_t bytes = (size_t)size_of(z, unit) * z->element;
  DS_TRY(ds_buffers_take(&z->buffers, bytes, z->side, &u->weights, err));
  z->live += size_of(z, unit);
  z->coming += size_of(z, unit);
  u->on_way = true;
  bool took;
  ds_status status = ds_plusplus_fetch(z, unit, &took, err);
  if (status == DS_OK && !took) status = ds_zero_gather_unit(z, unit, u->weights->data, err);
  if (status == DS_OK && z->side) status = ds_mark_set(u->gathered, z->side, err);
  if (status == DS_OK) return DS_OK;
  ds_error ignored;
  (void)!release(z, unit, &ignored); /* nobody is to take it for gathered */
  return status;
}

/* The backend's stream waits for what is on its way. */
static ds_status arrive(ds_zero *z, int unit, ds_error *err) {
  ds_zero_unit *u = &z->units[unit];
  if (!u->on_way) return DS_OK;
  if (z->side) DS_TRY(ds_mark_wait(u->gathered, NULL, err));
  u->on_way = false;
  z->coming -= size_of(z, unit);
  point_slots(z, unit, u->weights->data);
  ds_status status = ds_plusplus_arrive(z, unit, err);
  ds_error ignored;
  if (status != DS_OK) (void)!release(z, unit, &ignored);
  return status;
}

static ds_order *order(ds_zero *z) {
  return &z->orders[ds_ctx_training(z->ctx)];
}

/* What the op at hand doesn't use, and what comes won't soon. */
static ds_status release_idle(ds_zero *z, ds_error *err) {
  for (int i = 0; i < z->layout.n_units; i++) {
    const ds_zero_unit *u = &z->units[i];
    if (!u->weights || u->on_way || u->used == z->uses || ds_order_here(order(z), i)) continue;
    int64_t distance = ds_order_distance(order(z), &z->layout, i);
    if (distance >= 0 && distance <= z->rules.max_reuse && z->live <= z->rules.max_live) continue;
    DS_TRY(release(z, i, err));
  }
  return DS_OK;
}

ds_status ds_zero_prefetch(ds_zero *z, ds_error *err) {
  if (!z->side) return DS_OK;
  for (int k = 1, unit; (unit = ds_order_ahead(order(z), k)) >= 0; k++) {
    int64_t n = size_of(z, unit);
    if (z->units[unit].weights || z->units[unit].persistent) continue;
    if (z->coming + n > z->rules.prefetch_bucket || z->live + n > z->rules.max_live) return DS_OK;
    DS_TRY(fetch(z, unit, err));
  }
  return DS_OK;
}

ds_status ds_zero_need(void *self, const int *params, int n, ds_error *err) {
  ds_zero *z = self;
  z->uses++;
  for (int i = 0; i < n; i++) {
    int unit = z->layout.unit_of[params[i]];
    ds_zero_unit *u = &z->units[unit];
    if (u->persistent) continue;
    u->used = z->uses;
    DS_TRY(ds_order_visit(order(z), unit, err));
    if (!u->weights) DS_TRY(fetch(z, unit, err));
    DS_TRY(arrive(z, unit, err));
  }
  DS_TRY(release_idle(z, err));
  return ds_zero_prefetch(z, err);
}

void ds_zero_release_all(ds_zero *z) {
  ds_error ignored; /* a dead stream's: the next call says so */
  for (int i = 0; i < z->layout.n_units; i++) {
    const ds_zero_unit *u = &z->units[i];
    if (u->weights) (void)!release(z, i, &ignored);
  }
}

/* ---- after an update */

static ds_status gather_in_place(ds_zero *z, int unit, ds_error *err) {
  const ds_range *p = &z->layout.units[unit].place;
  return ds_zero_gather_unit(z, unit, (char *)z->weights + (size_t)p->begin * z->element, err);
}

static ds_status gather(ds_zero *z, bool all, ds_error *err) {
  if (z->layout.shards == 1 && !z->offloads) return DS_OK;
  ds_zero_release_all(z);
  DS_TRY(ds_plusplus_updated(z, err));
  if (z->side) DS_TRY(ds_side_follow(z->side, err));
  for (int u = 0; u < z->layout.n_units; u++) {
    void *persistent = z->units[u].persistent;
    if (z->layout.units[u].frozen && !all) continue;
    if (persistent)
      DS_TRY(ds_zero_gather_unit(z, u, persistent, err));
    else if (!z->partial_weights && z->layout.shards > 1)
      DS_TRY(gather_in_place(z, u, err));
  }
  return z->side ? ds_side_join(z->side, err) : DS_OK;
}

ds_status ds_zero_gather(ds_zero *z, ds_error *err) {
  return gather(z, false, err);
}

/* The copies in 16 bits of n elements of the own part, of masters that aren't offloaded. */
ds_status ds_zero_refresh(ds_zero *z, int unit, int64_t at, int64_t n, ds_error *err) {
  char *weights = ds_zero_own_weights(z, unit);
  ds_tensor from = ds_tensor_make(ds_zero_own_masters(z, unit) + at, DS_F32, 1, &n);
  ds_tensor to = ds_tensor_make(weights + (size_t)at * z->element, z->dtype, 1, &n);
  return ds_run_raw(z->ctx, DS_OP_COPY, (const ds_tensor *[]){&from}, 1, (const ds_tensor *[]){&to},
                    1, 0, NULL, 0, err);
}

ds_status ds_zero_settle(ds_zero *z, ds_error *err) {
  if (z->offloads) DS_TRY(ds_zero_offload_settle(z, err));
  for (int u = 0; z->masters && !z->offloads && u < z->layout.n_units; u++)
    DS_TRY(ds_zero_refresh(z, u, 0, ds_layout_shard(&z->layout, u), err));
  return gather(z, true, err);
}
