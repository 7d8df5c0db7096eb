/* pieces.c - numbers in and out: what is here of a parameter, and all of it. */
#include "zero/zero_impl.h"

#include <string.h>

/* What is shared by ds_zero_share at once. */
enum { BOUNCE = 1 << 20 };

int ds_zero_n_pieces(const ds_zero *z) {
  return z->n_pieces;
}

const ds_piece *ds_zero_piece(const ds_zero *z, int piece) {
  return &z->pieces[piece];
}

/* Where an element of a parameter, which is in the own part, stands in the own part's arrays. */
static int64_t local_place(const ds_zero *z, int param, int64_t element) {
  const ds_unit_layout *l = &z->layout;
  int unit = l->unit_of[param];
  int64_t own = ds_layout_own(l, unit, z->rank).begin;
  return ds_layout_local(l, unit) + l->offset[param] + element - own;
}

/* Its address, on the device or offloaded to memory. */
static float *address(const ds_zero *z, int kind, int param, int64_t element) {
  const ds_unit_layout *l = &z->layout;
  int unit = l->unit_of[param];
  int64_t place = local_place(z, param, element);
  if (kind != DS_ZERO_MASTER) return z->states[kind - DS_ZERO_STATE] + place;
  return ds_zero_own_masters(z, unit) + (place - ds_layout_local(l, unit));
}

static int64_t file_at(const ds_zero *z, int kind, int param, int64_t element) {
  return ds_zero_file_place(z, kind) + local_place(z, param, element) * (int64_t)sizeof(float);
}

static ds_status read(ds_zero *z, int kind, int param, int64_t from, int64_t n, float *host,
                      ds_error *err) {
  size_t bytes = (size_t)n * sizeof *host;
  if (z->disk)
    return ds_disk_wait(z->disk, ds_disk_read(z->disk, file_at(z, kind, param, from), bytes, host),
                        err);
  const float *x = address(z, kind, param, from);
  if (!z->offloads) return ds_backend_download(z->backend, host, x, bytes, err);
  memcpy(host, x, bytes);
  return DS_OK;
}

static ds_status write(ds_zero *z, int kind, int param, int64_t from, int64_t n, const float *host,
                       ds_error *err) {
  size_t bytes = (size_t)n * sizeof *host;
  if (z->disk)
    return ds_disk_wait(z->disk, ds_disk_write(z->disk, file_at(z, kind, param, from), bytes, host),
                        err);
  float *x = address(z, kind, param, from);
  if (!z->offloads) return ds_backend_upload(z->backend, x, host, bytes, err);
  memcpy(x, host, bytes);
  return DS_OK;
}

ds_status ds_zero_read(ds_zero *z, int kind, int piece, int64_t from, int64_t n, float *host,
                       ds_error *err) {
  const ds_piece *p = &z->pieces[piece];
  return read(z, kind, p->param, p->begin + from, n, host, err);
}

ds_status ds_zero_write(ds_zero *z, int kind, int piece, int64_t from, int64_t n, const float *host,
                        ds_error *err) {
  const ds_piece *p = &z->pieces[piece];
  return write(z, kind, p->param, p->begin + from, n, host, err);
}

/* ---- whole parameters */

enum { OF_ALL = -1 }; /* instead of a root: the reduction over ranks */

static ds_status share_some(ds_zero *z, float *host, int64_t n, int root, ds_error *err) {
  size_t bytes = (size_t)n * sizeof *host;
  void *bounce = z->bounce->data;
  bool mine = ds_group_rank(z->group) == root;
  if (mine || root == OF_ALL) DS_TRY(ds_backend_upload(z->backend, bounce, host, bytes, err));
  if (root == OF_ALL)
    DS_TRY(
        ds_group_allreduce(z->group, NULL, bounce, bounce, n, DS_F32, ds_zero_reduction(z), err));
  else
    DS_TRY(ds_group_broadcast(z->group, NULL, bounce, n, DS_F32, root, err));
  return mine ? DS_OK : ds_backend_download(z->backend, host, bounce, bytes, err);
}

static ds_status share(ds_zero *z, float *host, int64_t n, int root, ds_error *err) {
  DS_TRY(ds_buffers_take(&z->buffers, BOUNCE * sizeof *host, NULL, &z->bounce, err));
  /* The group's calls are in one order, whichever stream they are on. */
  ds_status status = z->side ? ds_side_join(z->side, err) : DS_OK;
  for (int64_t at = 0, count; at < n && status == DS_OK; at += count) {
    count = n - at < BOUNCE ? n - at : BOUNCE;
    status = share_some(z, host + at, count, root, err);
  }
  if (status == DS_OK && z->side) status = ds_side_follow(z->side, err);
  ds_error ignored;
  ds_status given = ds_buffers_give(&z->buffers, z->bounce, NULL, status == DS_OK ? err : &ignored);
  return status == DS_OK ? given : status;
}

ds_status ds_zero_share(ds_zero *z, float *host, int64_t n, int root, ds_error *err) {
  return z->group ? share(z, host, n, root, err) : DS_OK;
}

/* host has this rank's part; afterwards all of it. */
static ds_status share_parts(ds_zero *z, int param, float *host, ds_error *err) {
  for (int r = 0; r < z->layout.shards; r++) {
    ds_range part = ds_layout_part(&z->layout, z->params, param, r);
    if (part.begin < part.end)
      DS_TRY(ds_zero_share(z, host + part.begin, part.end - part.begin, r, err));
  }
  return DS_OK;
}

static ds_status read_place(ds_zero *z, int param, const float *all, float *host, ds_error *err) {
  return ds_backend_download(z->backend, host, all + z->layout.offset[param],
                             (size_t)ds_params_numel(z->params, param) * sizeof *host, err);
}

ds_status ds_zero_read_all(ds_zero *z, int kind, int param, float *host, ds_error *err) {
  ds_range part = ds_layout_part(&z->layout, z->params, param, z->rank);
  if (kind == DS_ZERO_MASTER && z->dtype == DS_F32 && !z->partial_weights)
    return read_place(z, param, z->weights, host, err);
  if (part.begin < part.end)
    DS_TRY(read(z, kind, param, part.begin, part.end - part.begin, host + part.begin, err));
  return z->layout.shards > 1 ? share_parts(z, param, host, err) : DS_OK;
}

/* The own part of what is reduced already. */
static ds_status read_own_grad(ds_zero *z, int param, float *host, ds_error *err) {
  const ds_unit_layout *l = &z->layout;
  ds_range part = ds_layout_part(l, z->params, param, z->rank);
  int unit = l->unit_of[param];
  if (part.begin >= part.end) return DS_OK;
  int64_t in_own = local_place(z, param, part.begin) - ds_layout_local(l, unit);
  size_t bytes = (size_t)(part.end - part.begin) * sizeof *host;
  DS_TRY(ds_zero_sync(z, err));
  if (!z->partial_grads)
    return ds_backend_download(z->backend, host + part.begin, ds_zero_own_grads(z, unit) + in_own,
                               bytes, err);
  const float *x = ds_zero_step_grads(z, unit) + in_own;
  if (!z->offloads) return ds_backend_download(z->backend, host + part.begin, x, bytes, err);
  memcpy(host + part.begin, x, bytes);
  return DS_OK;
}

/* What is here may differ between ranks, down to whether there is a gradient; which collectives are
 * called must not. */
ds_status ds_zero_read_grad(ds_zero *z, int param, float *host, ds_error *err) {
  int64_t n = ds_params_numel(z->params, param);
  int unit = z->layout.unit_of[param];
  bool reduced = z->partial_grads ? z->units[unit].added : z->summed;
  if (!reduced && !z->partial_grads && z->slots[param].has_grad)
    DS_TRY(read_place(z, param, z->grads, host, err));
  else
    memset(host, 0, (size_t)n * sizeof *host);
  if (z->frozen[param] || (z->partial_grads && !reduced)) return DS_OK;
  if (!reduced) return z->group ? share(z, host, n, OF_ALL, err) : DS_OK;
  DS_TRY(read_own_grad(z, param, host, err));
  return z->layout.shards > 1 ? share_parts(z, param, host, err) : DS_OK;
}

ds_status ds_zero_write_all(ds_zero *z, int param, const float *host, ds_error *err) {
  ds_range part = ds_layout_part(&z->layout, z->params, param, z->rank);
  if (part.begin < part.end)
    DS_TRY(
        write(z, DS_ZERO_MASTER, param, part.begin, part.end - part.begin, host + part.begin, err));
  return ds_zero_settle(z, err);
}
