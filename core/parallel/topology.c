#include "parallel/topology.h"

#include <string.h>

ds_status ds_topology_place(ds_topology *out, int rank, int world, int tensor, int sequence,
                            int pipe, ds_error *err) {
  memset(out, 0, sizeof *out);
  int64_t unit = (int64_t)tensor * sequence * pipe;
  if (world % unit != 0)
    return ds_fail(err, DS_ERR_INVALID,
                   "%d rank%s can't be arranged as tensor parallel %d x sequence parallel %d x "
                   "pipeline %d: the product %lld must divide the number of ranks; change that, or "
                   "tensor_parallel.autotp_size, sequence_parallel_size or pipeline.stages",
                   world, world == 1 ? "" : "s", tensor, sequence, pipe, (long long)unit);
  int data = (int)(world / unit);
  out->tensor = (ds_axis){rank % tensor, tensor, NULL};
  rank /= tensor;
  out->sequence = (ds_axis){rank % sequence, sequence, NULL};
  rank /= sequence;
  out->data = (ds_axis){rank % data, data, NULL};
  out->pipe = (ds_axis){rank / data, pipe, NULL};
  out->zero = (ds_axis){out->data.rank * sequence + out->sequence.rank, data * sequence, NULL};
  out->model = (ds_axis){out->pipe.rank * tensor + out->tensor.rank, pipe * tensor, NULL};
  return DS_OK;
}

typedef ds_status mpu_fn(void *ctx, int *rank, int *world_size, ds_error *err);

static ds_status check_group(const ds_axis *a, const ds_mpu *mpu, mpu_fn *ask, const char *name,
                             const char *keys, ds_error *err) {
  int rank = -1, size = -1;
  ds_error inner = {DS_OK, ""};
  ds_status status = ask(mpu->ctx, &rank, &size, &inner);
  if (status != DS_OK)
    return ds_fail(err, status, "mpu.%s_parallel failed: %s", name, inner.message);
  if (rank == a->rank && size == a->size) return DS_OK;
  return ds_fail(
      err, DS_ERR_INVALID,
      "mpu says %s-parallel rank %d of %d, but this is rank %d of %d by the world's size "
      "and the config's %s",
      name, rank, size, a->rank, a->size, keys);
}

ds_status ds_topology_check_mpu(const ds_topology *t, const ds_mpu *mpu, ds_error *err) {
  const char *keys = "tensor_parallel.autotp_size and pipeline.stages";
  DS_TRY(check_group(&t->model, mpu, mpu->model_parallel, "model", keys, err));
  return check_group(&t->data, mpu, mpu->data_parallel, "data", keys, err);
}

/* Ranks of one color are those that differ in this axis alone. */
static ds_status connect(ds_axis *a, ds_world *w, const char *name, int color, ds_error *err) {
  if (a->size == 1) return DS_OK;
  return ds_group_split(w->group, name, color, a->rank, &a->group, err);
}

ds_status ds_topology_connect(ds_topology *t, ds_world *w, ds_error *err) {
  int tensor = t->tensor.rank, sequence = t->sequence.rank, data = t->data.rank;
  int pipe = t->pipe.rank, n_tensor = t->tensor.size, n_sequence = t->sequence.size;
  int n_data = t->data.size;
  DS_TRY(connect(&t->tensor, w, "tensor", (pipe * n_data + data) * n_sequence + sequence, err));
  DS_TRY(connect(&t->sequence, w, "sequence", (pipe * n_data + data) * n_tensor + tensor, err));
  DS_TRY(connect(&t->data, w, "data", (pipe * n_sequence + sequence) * n_tensor + tensor, err));
  DS_TRY(connect(&t->pipe, w, "pipe", (data * n_sequence + sequence) * n_tensor + tensor, err));
  DS_TRY(connect(&t->zero, w, "zero", pipe * n_tensor + tensor, err));
  return connect(&t->model, w, "model", data * n_sequence + sequence, err);
}

void ds_topology_finish(ds_topology *t) {
  ds_axis *axes[] = {&t->tensor, &t->sequence, &t->data, &t->pipe, &t->zero, &t->model};
  for (size_t i = 0; i < sizeof axes / sizeof *axes; i++) {
    ds_group_destroy(axes[i]->group);
    axes[i]->group = NULL;
  }
}
