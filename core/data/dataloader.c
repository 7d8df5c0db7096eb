#include "data/dataloader.h"

#include "base/rng.h"
#include "base/str.h"
#include "data/dataset.h"

#include <stdlib.h>
#include <string.h>

/* A sample kept until its batch is whole: the data set may reuse its memory. */
typedef struct kept {
  size_t offsets[DS_MAX_BATCH_TENSORS]; /* into the loader's bytes */
} kept;

typedef struct buffer {
  char *data;
  size_t capacity;
} buffer;

struct ds_dataloader {
  ds_dataloader_options o;
  int64_t length; /* of the data set; -1 = iterable */
  int64_t epoch, consumed;
  int64_t *order; /* of order_epoch; NULL when not shuffled */
  int64_t order_epoch;
  bool at_end;       /* iterable: the stream has ended */
  ds_batch *samples; /* [micro_batch] */
  kept *kept;        /* [micro_batch] */
  buffer bytes;      /* the samples' data */
  size_t used;
  buffer stacked[DS_MAX_BATCH_TENSORS];
};

/* ---------------------------------------------------------------- collating */

/* Tensor k of all samples, along a new first dimension. */
static ds_status stack_tensor(ds_dataloader *l, const ds_batch *samples, int n, int k,
                              ds_host_tensor *out, ds_error *err) {
  const ds_host_tensor *first = &samples[0].tensors[k];
  size_t bytes = ds_host_tensor_bytes(first);
  if (first->rank >= DS_MAX_RANK)
    return ds_fail(err, DS_ERR_INVALID,
                   "data loader: tensor %d has rank %d already; samples may have up to %d", k,
                   (int)first->rank, DS_MAX_RANK - 1);
  DS_TRY(
      ds_reserve(&l->stacked[k].data, &l->stacked[k].capacity, bytes * (size_t)n, 1, "batch", err));
  for (int i = 0; i < n; i++) {
    const ds_host_tensor *t = &samples[i].tensors[k];
    if (samples[i].n != samples[0].n || t->dtype != first->dtype || t->rank != first->rank ||
        memcmp(t->shape, first->shape, (size_t)t->rank * sizeof t->shape[0]) != 0)
      return ds_fail(err, DS_ERR_INVALID,
                     "data loader: tensor %d has another dtype or shape in sample %d of the batch "
                     "than in sample 0; make them equal or pass a collate function",
                     k, i);
    memcpy(l->stacked[k].data + (size_t)i * bytes, t->data, bytes);
  }
  *out = *first;
  out->rank++;
  memmove(out->shape + 1, first->shape, (size_t)first->rank * sizeof first->shape[0]);
  out->shape[0] = n;
  out->data = l->stacked[k].data;
  return DS_OK;
}

/* ds_collate_fn, the default; ctx is the loader. */
static ds_status stack(void *ctx, const ds_batch *samples, int n, ds_batch *batch, ds_error *err) {
  batch->n = samples[0].n;
  for (int k = 0; k < batch->n; k++)
    DS_TRY(stack_tensor(ctx, samples, n, k, &batch->tensors[k], err));
  return DS_OK;
}

static ds_status keep_sample(ds_dataloader *l, int i, const ds_batch *sample, ds_error *err) {
  l->samples[i] = *sample;
  for (int k = 0; k < sample->n; k++) {
    size_t bytes = ds_host_tensor_bytes(&sample->tensors[k]);
    DS_TRY(ds_reserve(&l->bytes.data, &l->bytes.capacity, l->used + bytes, 1, "samples", err));
    memcpy(l->bytes.data + l->used, sample->tensors[k].data, bytes);
    l->kept[i].offsets[k] = l->used;
    l->used += bytes;
  }
  return DS_OK;
}

/* ---------------------------------------------------------------- the order */

static ds_status draw_order(ds_dataloader *l, ds_error *err) {
  if (!l->o.shuffle || l->order_epoch == l->epoch) return DS_OK;
  if (!l->order) l->order = malloc((size_t)l->length * sizeof *l->order);
  if (!l->order) return ds_fail_memory(err, "order of the samples");
  ds_rng rng;
  ds_rng_init(&rng, l->o.seed, (uint64_t)l->epoch);
  for (int64_t i = 0; i < l->length; i++) {
    int64_t j = (int64_t)ds_rng_below(&rng, (uint64_t)i + 1);
    l->order[i] = l->order[j];
    l->order[j] = i;
  }
  l->order_epoch = l->epoch;
  return DS_OK;
}

/* Samples of the next batch, on every rank; 0 at the end of the epoch. */
static int64_t batch_size(const ds_dataloader *l, int64_t consumed) {
  int64_t left = consumed < l->length ? l->length - consumed : 0;
  int64_t each = left / l->o.world_size;
  if (!l->o.drop_last && left % l->o.world_size) each++;
  if (each < l->o.micro_batch) return l->o.drop_last ? 0 : each;
  return l->o.micro_batch;
}

static ds_status gather_map(ds_dataloader *l, int64_t *n, ds_error *err) {
  *n = batch_size(l, l->consumed);
  if (*n == 0) return DS_OK;
  DS_TRY(draw_order(l, err));
  for (int64_t i = 0; i < *n; i++) {
    int64_t at = (l->consumed + i * l->o.world_size + l->o.rank) % l->length;
    ds_batch sample;
    DS_TRY(ds_dataset_get(l->o.dataset, l->order ? l->order[at] : at, &sample, err));
    DS_TRY(keep_sample(l, (int)i, &sample, err));
  }
  return DS_OK;
}

/* One sample for each rank; *whole is false when the stream ended before that. */
static ds_status gather_round(ds_dataloader *l, int i, bool *whole, ds_error *err) {
  *whole = false;
  for (int rank = 0; rank < l->o.world_size; rank++) {
    ds_batch sample;
    ds_status status = ds_dataset_next(l->o.dataset, &sample, err);
    if (status == DS_ERR_END) {
      l->at_end = true;
      return DS_OK;
    }
    DS_TRY(status);
    if (rank == l->o.rank) DS_TRY(keep_sample(l, i, &sample, err));
  }
  *whole = true;
  return DS_OK;
}

static ds_status gather_stream(ds_dataloader *l, int64_t *n, ds_error *err) {
  *n = 0;
  for (bool whole = true; *n < l->o.micro_batch && !l->at_end; *n += whole)
    DS_TRY(gather_round(l, (int)*n, &whole, err));
  if (*n < l->o.micro_batch && l->o.drop_last) *n = 0;
  return DS_OK;
}

static ds_status gather(ds_dataloader *l, int64_t *n, ds_error *err) {
  l->used = 0;
  return l->length < 0 ? gather_stream(l, n, err) : gather_map(l, n, err);
}

static ds_status next_epoch(ds_dataloader *l, ds_error *err) {
  if (l->length < 0) DS_TRY(ds_dataset_rewind(l->o.dataset, err));
  l->at_end = false;
  l->consumed = 0;
  l->epoch++;
  return DS_OK;
}

/* ---------------------------------------------------------------- the interface */

ds_status ds_dataloader_next(ds_dataloader *l, ds_batch *batch, ds_error *err) {
  int64_t n;
  memset(batch, 0, sizeof *batch);
  DS_TRY(gather(l, &n, err));
  if (n == 0) {
    DS_TRY(next_epoch(l, err));
    DS_TRY(gather(l, &n, err));
    if (n == 0)
      return ds_fail(err, DS_ERR_INVALID,
                     "data loader: the data set ended before the first batch of %lld x %d samples",
                     (long long)l->o.micro_batch, l->o.world_size);
  }
  for (int64_t i = 0; i < n; i++)
    for (int k = 0; k < l->samples[i].n; k++)
      l->samples[i].tensors[k].data = l->bytes.data + l->kept[i].offsets[k];
  ds_collate_fn collate = l->o.collate ? l->o.collate : stack;
  void *ctx = l->o.collate ? l->o.collate_ctx : l;
  DS_TRY(collate(ctx, l->samples, (int)n, batch, err));
  l->consumed += n * l->o.world_size;
  return DS_OK;
}

int64_t ds_dataloader_epoch(const ds_dataloader *l) {
  return l->epoch;
}

int64_t ds_dataloader_length(const ds_dataloader *l) {
  if (l->length < 0) return -1;
  int64_t each = l->length / l->o.world_size;
  if (!l->o.drop_last && l->length % l->o.world_size) each++;
  int64_t batches = each / l->o.micro_batch;
  return batches + (!l->o.drop_last && each % l->o.micro_batch ? 1 : 0);
}

static ds_status check_options(const ds_dataloader_options *o, ds_error *err) {
  if (o->micro_batch < 1 || o->micro_batch > INT32_MAX)
    return ds_fail(err, DS_ERR_INVALID,
                   "data loader: the micro batch must be from 1 to %d, not %lld", INT32_MAX,
                   (long long)o->micro_batch);
  if (o->world_size < 1 || o->rank < 0 || o->rank >= o->world_size)
    return ds_fail(err, DS_ERR_INVALID, "data loader: there is no rank %d in a world of %d",
                   o->rank, o->world_size);
  return DS_OK;
}

ds_status ds_dataloader_create(const ds_dataloader_options *options, ds_dataloader **out,
                               ds_error *err) {
  *out = NULL;
  DS_TRY(check_options(options, err));
  ds_dataloader *l = calloc(1, sizeof *l);
  if (!l) return ds_fail_memory(err, "data loader");
  l->o = *options;
  l->length = ds_dataset_length(options->dataset);
  l->order_epoch = -1;
  if (l->length < 0) l->o.shuffle = false;
  l->samples = calloc((size_t)options->micro_batch, sizeof *l->samples);
  l->kept = calloc((size_t)options->micro_batch, sizeof *l->kept);
  ds_status status = l->samples && l->kept ? DS_OK : ds_fail_memory(err, "data loader");
  if (status == DS_OK && ds_dataloader_length(l) == 0)
    status =
        ds_fail(err, DS_ERR_INVALID,
                "data loader: %lld samples don't make one micro batch of %lld on %d ranks; "
                "add data, lower the batch size%s",
                (long long)l->length, (long long)options->micro_batch, options->world_size,
                options->drop_last && l->length ? ", or set dataloader_drop_last to false" : "");
  if (status == DS_OK && l->length < 0) status = ds_dataset_rewind(options->dataset, err);
  if (status == DS_OK)
    *out = l;
  else
    ds_dataloader_destroy(l);
  return status;
}

void ds_dataloader_destroy(ds_dataloader *l) {
  if (!l) return;
  free(l->order);
  free(l->samples);
  free(l->kept);
  free(l->bytes.data);
  for (int k = 0; k < DS_MAX_BATCH_TENSORS; k++) free(l->stacked[k].data);
  free(l);
}

void ds_dataloader_get_state(const ds_dataloader *l, ds_dataloader_state *state) {
  *state = (ds_dataloader_state){l->epoch, l->consumed, l->length, l->o.seed};
}

static ds_status skip_stream(ds_dataloader *l, int64_t count, ds_error *err) {
  DS_TRY(ds_dataset_rewind(l->o.dataset, err));
  for (int64_t i = 0; i < count; i++) {
    ds_batch sample;
    ds_status status = ds_dataset_next(l->o.dataset, &sample, err);
    if (status == DS_ERR_END)
      return ds_fail(err, DS_ERR_INVALID,
                     "data loader: the saved place is sample %lld, but the data set ends at %lld; "
                     "resume with the data set that was saved",
                     (long long)count, (long long)i);
    DS_TRY(status);
  }
  return DS_OK;
}

ds_status ds_dataloader_set_state(ds_dataloader *l, const ds_dataloader_state *state,
                                  ds_error *err) {
  if (state->length != l->length)
    return ds_fail(err, DS_ERR_INVALID,
                   "data loader: the saved place belongs to a data set of %lld samples, this one "
                   "has %lld; resume with the data set that was saved",
                   (long long)state->length, (long long)l->length);
  if (state->epoch < 0 || state->consumed < 0)
    return ds_fail(err, DS_ERR_FORMAT, "data loader: the saved place is epoch %lld, sample %lld",
                   (long long)state->epoch, (long long)state->consumed);
  if (l->length < 0) {
    ds_status status = skip_stream(l, state->consumed, err);
    if (status != DS_OK) {
      if (skip_stream(l, l->consumed, NULL) != DS_OK) l->at_end = true;
      return status;
    }
  }
  l->at_end = false;
  l->epoch = state->epoch;
  l->consumed = state->consumed;
  l->o.seed = state->seed;
  l->order_epoch = -1;
  return DS_OK;
}
