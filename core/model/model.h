/* model.h - a model as engines use it: functions over ops, and where its weights come from.
 *
 * A ds_model holds no engine's state: after loading it is only read, so any number of engines may
 * share one.
 */
#ifndef DS_MODEL_MODEL_H
#define DS_MODEL_MODEL_H

#include "base/status.h"
#include "ds.h"

/* The declared parameters; ds_params_destroy() them. Sticky failures come back here. */
DS_MUST_USE ds_status ds_model_declare(ds_model *m, ds_params **out, ds_error *err);

/* The model's own functions, on a context with its parameters bound. NULL after a failure, which is
 * then in ctx; also when a host app's function returned NULL without saying why. */
ds_value *ds_model_forward(ds_model *m, ds_ctx *ctx, ds_value *const *inputs, int n_inputs);
/* ids i32[B,T] -> logits [B,V] of the last position. The model must generate text
 * (ds_model_get_info). */
ds_value *ds_model_decode(ds_model *m, ds_ctx *ctx, ds_value *ids, ds_kv_cache *cache);

/* What pipeline stages need of a model; see ds_model_vtable. The number of blocks;
 * DS_ERR_UNSUPPORTED, naming what the vtable lacks, for a model that can't be split. The others are
 * for models that can. */
DS_MUST_USE ds_status ds_model_blocks(ds_model *m, int *blocks, ds_error *err);
DS_MUST_USE ds_status ds_model_param_blocks(ds_model *m, int index, int at[DS_PARAM_BLOCKS], int *n,
                                            ds_error *err);
DS_MUST_USE ds_status ds_model_hidden_shape(ds_model *m, const ds_batch *batch, int32_t *rank,
                                            int64_t *shape, ds_error *err);
ds_value *ds_model_forward_blocks(ds_model *m, ds_ctx *ctx, int first, int last, ds_value *hidden,
                                  ds_value *const *inputs, int n_inputs);

/* The folder it was loaded from; NULL when there is none. */
const char *ds_model_folder(const ds_model *m);
/* Whether it is one of core's families: the same work for inputs of the same shapes. */
bool ds_model_built_in(const ds_model *m);
bool ds_model_has_weights(const ds_model *m);
/* The Hugging Face config.json as new text (free()); NULL where it has none, and without memory. */
char *ds_model_config_json(const ds_model *m);
/* The dtype that most elements are stored in; DS_F32 without weights. */
int32_t ds_model_weights_dtype(const ds_model *m);
/* Element values of a parameter as this library keeps it ([out,in]), numel floats. DS_ERR_STATE
 * without weights; DS_ERR_NOT_FOUND or DS_ERR_FORMAT when the file's tensor is not as declared. */
DS_MUST_USE ds_status ds_model_read_param(ds_model *m, const ds_params *p, int index, float *out,
                                          ds_error *err);

/* Declares the tensors of model.safetensors as Hugging Face has them: metadata, names, order, some
 * matrices transposed. */
struct ds_safetensors_writer;
DS_MUST_USE ds_status ds_model_declare_weights(const ds_params *p, int32_t dtype,
                                               struct ds_safetensors_writer *w, ds_error *err);
/* Writes config.json for weights in bf16 (bits16) or f32; nothing where the model has none. */
DS_MUST_USE ds_status ds_model_save_config(ds_model *m, const char *folder, bool bits16,
                                           ds_error *err);
/* The same of a config.json's text, to path. */
DS_MUST_USE ds_status ds_model_stamp_config(const char *text, const char *path, bool bits16,
                                            ds_error *err);

#endif
