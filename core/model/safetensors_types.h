/* safetensors_types.h - the format's names of dtypes, shared by reader and writer. */
#ifndef DS_MODEL_SAFETENSORS_TYPES_H
#define DS_MODEL_SAFETENSORS_TYPES_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* The dtype (-1: known to the format only) and element size of "F32", ...; false when unknown. */
bool ds_safetensors_type(const char *type, int32_t *dtype, size_t *size);
/* "F32", ...; NULL for a dtype that the format lacks. */
const char *ds_safetensors_type_name(int32_t dtype);

#endif
