/* offload.c - own parts that are kept in host memory or in a file. */
#include <stdlib.h>
#include <string.h>

#include "ops/tape.h"
#include "zero/update.h"
#include "zero/zero_impl.h"

/* ---- memory and files */

void *ds_zero_host_alloc(ds_zero *z, size_t bytes, ds_error *err) {
  void *p = NULL;
  if (bytes == 0) bytes = 1;
  if (z->rules.pin_memory) {
    if (ds_host_alloc(z->backend, bytes, &p, err) != DS_OK) return NULL;
  } else if (bytes > SIZE_MAX - 63 || !(p = aligned_alloc(64, (bytes + 63) / 64 * 64))) {
    (void)!ds_fail_memory(err, "offloading to host memory");
    return NULL;
  }
  memset(p, 0, bytes);
  z->bytes.host += bytes;
  return p;
}

void ds_zero_host_free(ds_zero *z, void *p) {
  if (z->rules.pin_memory)
    ds_host_free(z->backend, p);
  else
    free(p);
}

static ds_status make(ds_zero *z, int64_t elements, size_t element, void *out, ds_error *err) {
  void *p = ds_zero_host_alloc(z, (size_t)elements * element, err);
  memcpy(out, &p, sizeof p);
  return p ? DS_OK : DS_ERR_MEMORY;
}

static int64_t own(const ds_zero *z) {
  return z->layout.total / z->layout.shards;
}

static int64_t own_trained(const ds_zero *z) {
  return z->layout.trained / z->layout.shards;
}

int64_t ds_zero_file_place(const ds_zero *z, int kind) {
  int64_t size = (int64_t)sizeof(float);
  return kind == DS_ZERO_MASTER ? 0 : size * (own(z) + own_trained(z) * (kind - DS_ZERO_STATE));
}

static int64_t largest_shard(const ds_zero *z) {
  int64_t most = 0;
  for (int u = 0; u < z->layout.n_units; u++)
    if (ds_layout_shard(&z->layout, u) > most) most = ds_layout_shard(&z->layout, u);
  return most;
}

static ds_status make_optimizer(ds_zero *z, ds_error *err) {
  int64_t bytes = ds_zero_file_place(z, DS_ZERO_STATE + z->rules.n_states);
  if (z->rules.offload_optimizer == DS_OFFLOAD_NVME) {
    z->bytes.file += (uint64_t)bytes;
    DS_TRY(ds_disk_create(z->rules.optimizer_path, bytes, &z->disk, err));
    return ds_zero_stages_init(z, err);
  }
  DS_TRY(make(z, own(z), sizeof(float), &z->masters, err));
  for (int i = 0; i < z->rules.n_states; i++)
    DS_TRY(make(z, own_trained(z), sizeof(float), &z->states[i], err));
  return DS_OK;
}

/* Also where weights are on the device: they are made here, and go there. */
static ds_status make_weights(ds_zero *z, ds_error *err) {
  int64_t bytes = own(z) * (int64_t)z->element;
  if (z->rules.offload_param == DS_OFFLOAD_NVME) {
    z->bytes.file += (uint64_t)bytes;
    DS_TRY(ds_disk_create(z->rules.param_path, bytes, &z->param_disk, err));
    z->n_reads = z->rules.buffers < 1 ? 1 : z->rules.buffers;
    z->reads = calloc((size_t)z->n_reads, sizeof *z->reads);
    if (!z->reads) return ds_fail_memory(err, "offloading");
    for (int i = 0; i < z->n_reads; i++) {
      DS_TRY(make(z, largest_shard(z), z->element, &z->reads[i].data, err));
      DS_TRY(ds_mark_create(z->backend, &z->reads[i].used, err));
    }
    return DS_OK;
  }
  if (z->dtype == DS_F32 && z->masters) { /* the same numbers */
    z->host_weights = (char *)z->masters;
    return DS_OK;
  }
  return make(z, own(z), z->element, &z->host_weights, err);
}

ds_status ds_zero_offload_init(ds_zero *z, ds_backend *host, ds_error *err) {
  z->host = z->offloads ? host : z->backend;
  z->host_ctx = z->ctx;
  if (!z->offloads) return DS_OK;
  if (host != z->backend) {
    z->host_ctx = NULL;
    DS_TRY(ds_ctx_create(host, DS_F32, &z->host_ctx, err));
  }
  DS_TRY(make_optimizer(z, err));
  DS_TRY(make_weights(z, err));
  DS_TRY(make(z, own_trained(z), sizeof(float), &z->host_grads, err));
  return make(z, largest_shard(z), sizeof(float), &z->add, err);
}

static ds_status clear_file(ds_zero *z, ds_error *err) {
  int64_t all = ds_zero_file_place(z, DS_ZERO_STATE + z->rules.n_states);
  int64_t room = largest_shard(z) * (int64_t)sizeof *z->add;
  memset(z->add, 0, (size_t)room);
  for (int64_t at = 0, n; at < all; at += n) {
    n = all - at < room ? all - at : room;
    DS_TRY(ds_disk_wait(z->disk, ds_disk_write(z->disk, at, (size_t)n, z->add), err));
  }
  return DS_OK;
}

ds_status ds_zero_offload_clear(ds_zero *z, ds_error *err) {
  if (!z->offloads) return DS_OK;
  DS_TRY(ds_backend_sync(z->host, err));
  DS_TRY(ds_zero_sync(z, err));
  for (int i = 0; i < z->n_reads; i++) /* the stream of such a mark may have died */
    DS_TRY(ds_mark_set(z->reads[i].used, z->side, err));
  if (z->disk) DS_TRY(clear_file(z, err));
  memset(z->host_grads, 0, (size_t)own_trained(z) * sizeof *z->host_grads);
  if (z->masters) memset(z->masters, 0, (size_t)own(z) * sizeof *z->masters);
  for (int i = 0; i < 4; i++)
    if (z->states[i]) memset(z->states[i], 0, (size_t)own_trained(z) * sizeof(float));
  return DS_OK;
}

void ds_zero_offload_finish(ds_zero *z) {
  if (!z->offloads) return;
  ds_disk_destroy(z->disk);
  ds_disk_destroy(z->param_disk);
  ds_zero_stages_finish(z);
  for (int i = 0; i < z->n_reads && z->reads; i++) {
    ds_zero_host_free(z, z->reads[i].data);
    ds_mark_destroy(z->reads[i].used);
  }
  free(z->reads);
  if (z->host_weights != (char *)z->masters) ds_zero_host_free(z, z->host_weights);
  ds_zero_host_free(z, z->masters);
  for (int i = 0; i < 4; i++) ds_zero_host_free(z, z->states[i]);
  ds_zero_host_free(z, z->host_grads);
  ds_zero_host_free(z, z->add);
  if (z->host_ctx != z->ctx) ds_ctx_destroy(z->host_ctx);
}

/* ---- transfers */

ds_status ds_zero_to_device(ds_zero *z, void *dst, const void *src, size_t bytes, ds_error *err) {
  if (z->rules.pin_memory) return ds_side_upload(z->backend, z->side, dst, src, bytes, err);
  if (z->side) DS_TRY(ds_side_join(z->side, err));
  DS_TRY(ds_backend_upload(z->backend, dst, src, bytes, err));
  return z->side ? ds_side_follow(z->side, err) : DS_OK;
}

ds_status ds_zero_from_device(ds_zero *z, void *dst, const void *src, size_t bytes, ds_error *err) {
  if (z->rules.pin_memory) return ds_side_download(z->backend, z->side, dst, src, bytes, err);
  if (z->side) DS_TRY(ds_side_join(z->side, err));
  return ds_backend_download(z->backend, dst, src, bytes, err);
}

ds_status ds_zero_sync(ds_zero *z, ds_error *err) {
  return z->side ? ds_side_sync(z->side, err) : ds_backend_sync(z->backend, err);
}

/* ---- weights */

static ds_status convert(ds_zero *z, const float *from, void *to, int64_t n, ds_error *err) {
  void *address;
  memcpy(&address, &from, sizeof address);
  ds_tensor in = ds_tensor_make(address, DS_F32, 1, &n);
  ds_tensor out = ds_tensor_make(to, z->dtype, 1, &n);
  if (from == to) return DS_OK;
  DS_TRY(ds_run_raw(z->host_ctx, DS_OP_COPY, (const ds_tensor *[]){&in}, 1,
                    (const ds_tensor *[]){&out}, 1, 0, NULL, 0, err));
  return ds_backend_sync(z->host, err);
}

ds_status ds_zero_put_weights(ds_zero *z, int unit, int64_t at, int64_t n, const float *masters,
                              ds_error *err) {
  int64_t place = ds_layout_local(&z->layout, unit) + at;
  size_t bytes = (size_t)n * z->element, offset = (size_t)place * z->element;
  if (!z->host_weights) { /* a stretch at a time, by the room for reads */
    DS_TRY(ds_mark_sync(z->reads[0].used, err));
    DS_TRY(convert(z, masters, z->reads[0].data, n, err));
    return ds_disk_wait(
        z->param_disk, ds_disk_write(z->param_disk, (int64_t)offset, bytes, z->reads[0].data), err);
  }
  DS_TRY(convert(z, masters, z->host_weights + offset, n, err));
  return ds_zero_publish(z, unit, at, n, err);
}

ds_status ds_zero_publish(ds_zero *z, int unit, int64_t at, int64_t n, ds_error *err) {
  size_t offset = (size_t)(ds_layout_local(&z->layout, unit) + at) * z->element;
  if (z->offloads_params) return DS_OK;
  return ds_zero_to_device(z, (char *)ds_zero_own_weights(z, unit) + (size_t)at * z->element,
                           z->host_weights + offset, (size_t)n * z->element, err);
}

/* Asynchronous but for the file; where the own part lies in a unit's buffer. */
ds_status ds_zero_fetch_own(ds_zero *z, int unit, void *to, ds_error *err) {
  size_t bytes = (size_t)ds_layout_shard(&z->layout, unit) * z->element;
  size_t offset = (size_t)ds_layout_local(&z->layout, unit) * z->element;
  if (z->host_weights) return ds_zero_to_device(z, to, z->host_weights + offset, bytes, err);
  int i = z->next_read;
  z->next_read = (i + 1) % z->n_reads;
  DS_TRY(ds_mark_sync(z->reads[i].used, err));
  DS_TRY(ds_disk_wait(z->param_disk,
                      ds_disk_read(z->param_disk, (int64_t)offset, bytes, z->reads[i].data), err));
  DS_TRY(ds_zero_to_device(z, to, z->reads[i].data, bytes, err));
  return ds_mark_set(z->reads[i].used, z->side, err);
}
