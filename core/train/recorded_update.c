/* recorded_update.c - norm, clipping and update with the numbers of the step in device memory. */
#include "ops/tape.h"
#include "train/recorded_impl.h"

#include <math.h>

bool ds_recorded_updates(const ds_engine *e) {
  return e->recorded && e->recorded->update;
}

static ds_tensor scalar(void *data, int32_t dtype) {
  return ds_tensor_make(data, dtype, 1, (int64_t[]){1});
}

/* The address of scalars.factor on the device. */
static void *factor_of(const ds_engine *e) {
  return (char *)e->norm_sum + offsetof(ds_step_scalars, factor);
}

static ds_status find_factor(ds_engine *e, bool with_loss, ds_error *err) {
  ds_tensor squares = scalar(e->norm_sum, DS_F64), loss = scalar(e->loss_sum, DS_F32);
  ds_tensor factor = scalar(factor_of(e), DS_F32);
  const ds_attr attr[] = {{.f = e->config.gradient_clipping},
                          {.i = e->config.check_grad_overflow ? 1 : 0}};
  DS_TRY(ds_zero_sum_squares(e->zero, e->norm_sum, err));
  return ds_run_raw(e->ctx, DS_OP_CLIP_FACTOR,
                    (const ds_tensor *[]){&squares, with_loss ? &loss : NULL}, 2,
                    (const ds_tensor *[]){&factor}, 1, 0, attr, 2, err);
}

static ds_status update(ds_engine *e, ds_error *err) {
  const ds_optimizer *o = e->optimizer;
  ds_tensor factor = scalar(factor_of(e), DS_F32);
  int n;
  const ds_optimizer_slice *slices = ds_zero_slices(e->zero, &n);
  for (int i = 0; i < n; i++) {
    const ds_optimizer_slice *s = &slices[i];
    ds_tensor now = ds_tensor_make(e->recorded->schedule + 3 * s->group, DS_F32, 1, (int64_t[]){3});
    DS_TRY(o->scheduled->update(o->self, e->ctx, s, &now, &factor, err));
  }
  return DS_OK;
}

static ds_status upload_schedule(ds_engine *e, ds_error *err) {
  ds_recorded *r = e->recorded;
  const ds_optimizer *o = e->optimizer;
  int64_t step = ds_engine_updates(e) + 1;
  for (int g = 0; g < o->n_groups; g++)
    o->scheduled->schedule(o->self, g, ds_optimizer_lr(o, g), step, r->host_schedule + 3 * g);
  return ds_backend_upload(e->backend, r->schedule, r->host_schedule,
                           (size_t)o->n_groups * 3 * sizeof *r->schedule, err);
}

/* Nothing of it has run, whatever it returns. */
static ds_status record(ds_engine *e, bool with_loss, ds_error *err) {
  ds_recording **to = &e->recorded->updates[with_loss];
  ds_recording_destroy(e->backend, *to);
  *to = NULL;
  DS_TRY(ds_record_begin(e->backend, 0, err));
  ds_status status = find_factor(e, with_loss, err);
  if (status == DS_OK) status = update(e, err);
  if (status == DS_OK) status = ds_record_end(e->backend, to, err);
  ds_record_cancel(e->backend);
  return status;
}

/* Records where that is called for, before anything changes parameters. */
static ds_status prepare(ds_engine *e, bool with_loss, ds_error *err) {
  ds_recorded *r = e->recorded;
  ds_error why = {DS_OK, ""};
  if (!r->record_update || !r->update_ran[with_loss]) return DS_OK;
  if (ds_recording_alive(r->updates[with_loss])) return DS_OK;
  if (record(e, with_loss, &why) == DS_OK) return DS_OK;
  return ds_recorded_give_up(e, "the update", &why, &r->record_update, err);
}

/* Parameters change from the first slice on. A launch that fails has begun nothing, or it has killed
 * the stream, which says enough. */
static ds_status run(ds_engine *e, bool with_loss, ds_error *err) {
  ds_recorded *r = e->recorded;
  if (ds_recording_alive(r->updates[with_loss])) {
    DS_TRY(ds_recording_launch(e->backend, r->updates[with_loss], err));
    e->halfway = true;
    return DS_OK;
  }
  DS_TRY(find_factor(e, with_loss, err));
  e->halfway = true;
  DS_TRY(update(e, err));
  r->update_ran[with_loss] = true;
  return DS_OK;
}

ds_status ds_recorded_update(ds_engine *e, float *loss, bool *sound, ds_error *err) {
  ds_step_scalars s;
  DS_TRY(upload_schedule(e, err));
  DS_TRY(prepare(e, loss != NULL, err));
  DS_TRY(run(e, loss != NULL, err));
  DS_TRY(ds_backend_download(e->backend, &s, e->norm_sum, sizeof s, err));
  e->halfway = false;
  e->grad_norm = sqrt(s.squares);
  if (loss) *loss = s.loss;
  *sound = isfinite(e->grad_norm) && (!loss || isfinite(*loss));
  return DS_OK;
}
