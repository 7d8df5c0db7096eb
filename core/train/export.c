/* The trained model as a Hugging Face folder. */
#include "train/checkpoint_files.h"

ds_status ds_engine_save_model(ds_engine *e, const char *folder, bool bits16, ds_error *err) {
  if (!folder || !folder[0])
    return ds_fail(err, DS_ERR_INVALID, "ds_engine_save_model: no folder given");
  DS_TRY(ds_engine_check(e, "ds_engine_save_model", err));
  ds_status status = DS_OK;
  if (e->world.rank == 0)
    status = ds_model_save_weights(e->model, e->params, folder, bits16, ds_checkpoint_files_source,
                                   e, err);
  return ds_world_agree(&e->world, status, "saving the model", err);
}
