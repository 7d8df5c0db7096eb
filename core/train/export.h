/* export.h - from a checkpoint to a Hugging Face folder, without an engine, a device or a model.
 *
 * What ds_engine_save_model() writes of an engine, byte for byte, whatever layout of ranks wrote the
 * checkpoint: its tensors are whole.
 */
#ifndef DS_TRAIN_EXPORT_H
#define DS_TRAIN_EXPORT_H

#include "base/status.h"

#include <stdbool.h>

/* dir: a folder of checkpoints, of which tag (NULL = what `latest` names) is taken; or, tag NULL, one
 * of them. It is verified first. to: model.safetensors in f32 or bf16 (bits16), and config.json where
 * the checkpoint has one; the folder is made if need be. */
DS_MUST_USE ds_status ds_export_checkpoint(const char *dir, const char *tag, const char *to,
                                           bool bits16, ds_error *err);

#endif
