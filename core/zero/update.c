/* update.c - the optimizer's slices, one after the other; those from a file by way of stages, which
 * are read ahead and written behind where the config says so. */
#include "zero/update.h"

#include <stdlib.h>
#include <string.h>

#include "zero/zero_impl.h"

/* The longest slice that goes through a stage, in elements. */
enum { STAGE = 1 << 22 };

/* A slice's numbers on their way from and to the file. */
typedef struct ds_stage {
  float *masters, *states[4];
  uint64_t read, written; /* requests */
} ds_stage;

static int64_t least(int64_t a, int64_t b) {
  return a < b ? a : b;
}

static int64_t longest(const ds_zero *z) {
  int64_t most = z->rules.sub_group < 1 ? 1 : z->rules.sub_group;
  return z->disk ? least(most, STAGE) : most;
}

/* ---- slices */

/* The optimizer writes copies in bf16 along; in f16 they are made after it, by unit. */
static bool copies_later(const ds_zero *z) {
  return z->dtype == DS_F16 && !z->offloads;
}

/* b is of `unit`. */
static bool continues(const ds_zero *z, const ds_optimizer_slice *a, const ds_optimizer_slice *b,
                      int unit) {
  if (z->offloads) return false; /* each is of one unit */
  if (copies_later(z) && z->places[z->n_slices - 1].unit != unit) return false;
  return a->group == b->group && a->param + a->count == b->param && a->grad + a->count == b->grad &&
         (!a->param16 || (uint16_t *)a->param16 + a->count == (uint16_t *)b->param16) &&
         (!a->state[0] || a->state[0] + a->count == b->state[0]);
}

/* Where the bf16 copies of a unit's own part are written. */
static uint16_t *copies(const ds_zero *z, int unit) {
  if (z->dtype != DS_BF16) return NULL;
  if (!z->offloads) return ds_zero_own_weights(z, unit);
  return z->host_weights ? (uint16_t *)(void *)z->host_weights + ds_layout_local(&z->layout, unit)
                         : NULL;
}

/* [begin, end): elements of the unit's own part. */
static void add_slices(ds_zero *z, int unit, ds_range part, int group) {
  int64_t most = longest(z), local = ds_layout_local(&z->layout, unit);
  uint16_t *copy = copies(z, unit);
  float *masters = z->disk ? NULL : ds_zero_own_masters(z, unit);
  for (int64_t at = part.begin, count; at < part.end; at += count) {
    count = least(most, part.end - at);
    ds_optimizer_slice s = {.param = masters ? masters + at : NULL,
                            .grad = ds_zero_step_grads(z, unit) + at,
                            .param16 = copy ? copy + at : NULL,
                            .count = count,
                            .group = group};
    for (int i = 0; i < 4; i++) s.state[i] = z->states[i] ? z->states[i] + local + at : NULL;
    ds_optimizer_slice *last = z->n_slices > 0 ? &z->slices[z->n_slices - 1] : NULL;
    if (last && continues(z, last, &s, unit) && last->count + count <= most) {
      last->count += count;
      continue;
    }
    z->places[z->n_slices] = (ds_slice_place){unit, at};
    z->slices[z->n_slices++] = s;
  }
}

/* A parameter's elements and the padding behind it, as far as they are in the own part. */
static ds_range own_room(const ds_zero *z, int unit, int member) {
  const ds_unit_layout *l = &z->layout;
  const ds_unit *u = &l->units[unit];
  ds_range own = ds_layout_own(l, unit, z->rank), room = {l->offset[l->order[member]], 0};
  room.end = member + 1 < u->first + u->count ? l->offset[l->order[member + 1]] : u->place.end;
  room = ds_partition_intersect(room, own);
  return (ds_range){room.begin - own.begin, room.end - own.begin};
}

ds_status ds_zero_slice(ds_zero *z, const int *group_of, ds_error *err) {
  const ds_unit_layout *l = &z->layout;
  int64_t parts = l->trained / l->shards / longest(z) + l->n_params + 1;
  bool fits = parts < INT32_MAX / 2;
  z->slices = fits ? calloc((size_t)parts, sizeof *z->slices) : NULL;
  z->places = fits ? calloc((size_t)parts, sizeof *z->places) : NULL;
  if (!z->slices || !z->places) return ds_fail_memory(err, "optimizer slices");
  for (int u = 0; u < l->n_units && !l->units[u].frozen; u++)
    for (int m = l->units[u].first; m < l->units[u].first + l->units[u].count; m++) {
      ds_range r = own_room(z, u, m);
      if (r.begin < r.end) add_slices(z, u, r, group_of[l->order[m]]);
    }
  return DS_OK;
}

const ds_optimizer_slice *ds_zero_slices(const ds_zero *z, int *n) {
  *n = z->n_slices;
  return z->slices;
}

/* ---- stages */

ds_status ds_zero_stages_init(ds_zero *z, ds_error *err) {
  size_t bytes = (size_t)longest(z) * sizeof(float);
  z->n_stages = z->rules.buffers < 2 ? 2 : z->rules.buffers;
  z->stages = calloc((size_t)z->n_stages, sizeof *z->stages);
  if (!z->stages) return ds_fail_memory(err, "offloading");
  for (int i = 0; i < z->n_stages; i++) {
    if (!(z->stages[i].masters = ds_zero_host_alloc(z, bytes, err))) return DS_ERR_MEMORY;
    for (int s = 0; s < z->rules.n_states; s++)
      if (!(z->stages[i].states[s] = ds_zero_host_alloc(z, bytes, err))) return DS_ERR_MEMORY;
  }
  return DS_OK;
}

void ds_zero_stages_finish(ds_zero *z) {
  for (int i = 0; z->stages && i < z->n_stages; i++) {
    ds_zero_host_free(z, z->stages[i].masters);
    for (int s = 0; s < 4; s++) ds_zero_host_free(z, z->stages[i].states[s]);
  }
  free(z->stages);
}

/* The file's place of a slice's numbers of a kind. */
static int64_t place(const ds_zero *z, int slice, int kind) {
  const ds_slice_place *p = &z->places[slice];
  int64_t at = ds_layout_local(&z->layout, p->unit) + p->at;
  return ds_zero_file_place(z, kind) + at * (int64_t)sizeof(float);
}

/* Asks for a slice. What its stage holds is written before: requests keep their order. */
static void read_slice(ds_zero *z, int slice) {
  ds_stage *s = &z->stages[slice % z->n_stages];
  size_t bytes = (size_t)z->slices[slice].count * sizeof(float);
  s->read = ds_disk_read(z->disk, place(z, slice, DS_ZERO_MASTER), bytes, s->masters);
  for (int i = 0; i < z->rules.n_states; i++)
    s->read = ds_disk_read(z->disk, place(z, slice, DS_ZERO_STATE + i), bytes, s->states[i]);
}

static ds_status write_slice(ds_zero *z, int slice, ds_error *err) {
  ds_stage *s = &z->stages[slice % z->n_stages];
  size_t bytes = (size_t)z->slices[slice].count * sizeof(float);
  s->written = ds_disk_write(z->disk, place(z, slice, DS_ZERO_MASTER), bytes, s->masters);
  for (int i = 0; i < z->rules.n_states; i++)
    s->written = ds_disk_write(z->disk, place(z, slice, DS_ZERO_STATE + i), bytes, s->states[i]);
  return z->rules.pipeline_write ? DS_OK : ds_disk_wait(z->disk, s->written, err);
}

/* Where the next slice is read while this one is updated. */
static ds_status stage_slice(ds_zero *z, int slice, ds_optimizer_slice *out, ds_error *err) {
  ds_stage *s = &z->stages[slice % z->n_stages];
  if (slice == 0 || !z->rules.pipeline_read) read_slice(z, slice);
  uint64_t wanted = s->read;
  if (z->rules.pipeline_read && slice + 1 < z->n_slices) read_slice(z, slice + 1);
  DS_TRY(ds_disk_wait(z->disk, wanted, err));
  out->param = s->masters;
  for (int i = 0; i < z->rules.n_states; i++) out->state[i] = s->states[i];
  return DS_OK;
}

/* ---- the update */

static ds_status update_offloaded(ds_zero *z, int i, ds_zero_update_fn fn, void *arg,
                                  ds_error *err) {
  ds_optimizer_slice s = z->slices[i];
  const ds_slice_place *p = &z->places[i];
  if (z->disk) DS_TRY(stage_slice(z, i, &s, err));
  DS_TRY(fn(arg, z->host_ctx, &s, err));
  DS_TRY(ds_backend_sync(z->host, err));
  bool written = s.param16 != NULL || z->host_weights == (char *)z->masters;
  if (written && z->host_weights)
    DS_TRY(ds_zero_publish(z, p->unit, p->at, s.count, err));
  else
    DS_TRY(ds_zero_put_weights(z, p->unit, p->at, s.count, s.param, err));
  return z->disk ? write_slice(z, i, err) : DS_OK;
}

static ds_status update_here(ds_zero *z, int i, ds_zero_update_fn fn, void *arg, ds_error *err) {
  const ds_optimizer_slice *s = &z->slices[i];
  DS_TRY(fn(arg, z->ctx, s, err));
  if (!copies_later(z)) return DS_OK;
  return ds_zero_refresh(z, z->places[i].unit, z->places[i].at, s->count, err);
}

ds_status ds_zero_update(ds_zero *z, ds_zero_update_fn fn, void *arg, ds_error *err) {
  if (z->offloads && z->side) DS_TRY(ds_side_follow(z->side, err));
  for (int i = 0; i < z->n_slices; i++)
    DS_TRY(z->offloads ? update_offloaded(z, i, fn, arg, err) : update_here(z, i, fn, arg, err));
  if (z->disk && z->n_slices > 0)
    DS_TRY(ds_disk_wait(z->disk, z->stages[(z->n_slices - 1) % z->n_stages].written, err));
  return ds_zero_gather(z, err);
}

/* ---- all weights from all masters */

static ds_status settle_unit(ds_zero *z, int unit, ds_error *err) {
  int64_t shard = ds_layout_shard(&z->layout, unit), local = ds_layout_local(&z->layout, unit);
  for (int64_t at = 0, n; at < shard; at += n) {
    n = z->disk ? least(longest(z), shard - at) : shard;
    const float *masters = z->disk ? z->stages[0].masters : ds_zero_own_masters(z, unit);
    if (z->disk)
      DS_TRY(ds_disk_wait(z->disk,
                          ds_disk_read(z->disk, (local + at) * (int64_t)sizeof(float),
                                       (size_t)n * sizeof(float), z->stages[0].masters),
                          err));
    DS_TRY(ds_zero_put_weights(z, unit, at, n, masters, err));
  }
  return DS_OK;
}

ds_status ds_zero_offload_settle(ds_zero *z, ds_error *err) {
  if (z->side) DS_TRY(ds_side_follow(z->side, err));
  for (int u = 0; u < z->layout.n_units; u++) DS_TRY(settle_unit(z, u, err));
  return DS_OK;
}
