#include "infer/weights.h"

#include "tensor/tensor.h"

#include <stdlib.h>

static ds_status load_one(ds_inference *e, int i, float *values, void *converted, ds_error *err) {
  if (ds_model_has_weights(e->model))
    DS_TRY(ds_model_read_param(e->model, e->params, i, values, err));
  else
    DS_TRY(ds_params_init_values(e->params, i, 0, values));
  const ds_tensor *t = &e->slots[i].value;
  size_t n = (size_t)ds_tensor_numel(t);
  const void *from = values;
  if (t->dtype != DS_F32) {
    ds_convert_from_f32(converted, t->dtype, values, n);
    from = converted;
  }
  return ds_backend_upload(e->backend, t->data, from, n * ds_dtype_size(t->dtype), err);
}

ds_status ds_weights_load(ds_inference *e, ds_error *err) {
  DS_TRY(ds_model_declare(e->model, &e->params, err));
  int n = ds_params_count(e->params);
  size_t element = ds_dtype_size(e->dtype), largest = 1;
  e->slots = calloc((size_t)n + 1, sizeof *e->slots);
  if (!e->slots) return ds_fail_memory(err, "the parameters");
  e->weight_bytes = (size_t)ds_params_total(e->params) * element;
  if (e->weight_bytes == 0) return ds_fail(err, DS_ERR_INVALID, "the model has no parameters");
  DS_TRY(ds_backend_alloc(e->backend, e->weight_bytes, &e->weights, err));
  for (int i = 0; i < n; i++) {
    int64_t shape[DS_MAX_RANK];
    int32_t rank = ds_params_shape(e->params, i, shape);
    char *data = (char *)e->weights + (size_t)ds_params_offset(e->params, i) * element;
    e->slots[i].value = ds_tensor_make(data, e->dtype, rank, shape);
    size_t numel = (size_t)ds_tensor_numel(&e->slots[i].value);
    if (numel > largest) largest = numel;
  }
  if (!ds_model_has_weights(e->model))
    ds_log(&e->logger, DS_LOG_WARN, "no weights to load: %s starts from random ones",
           ds_model_name(e->model));
  float *values = malloc(largest * sizeof *values);
  void *converted = malloc(largest * element);
  ds_status status = values && converted ? DS_OK : ds_fail_memory(err, "loading weights");
  for (int i = 0; i < n && status == DS_OK; i++) status = load_one(e, i, values, converted, err);
  free(values);
  free(converted);
  /* An engine that is handed out has its weights: what fails later is in flight. */
  return status == DS_OK ? ds_backend_sync(e->backend, err) : status;
}
