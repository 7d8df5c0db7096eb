/* dtype.h - sizes and names of element types. */
#ifndef DS_BASE_DTYPE_H
#define DS_BASE_DTYPE_H

#include "ds_abi.h"

/* Bytes of an element; 0 for DS_I4 (two to a byte) and unknown dtypes. */
size_t ds_dtype_size(int32_t dtype);
/* "f32", "bf16", ...; "?" when unknown. */
const char *ds_dtype_name(int32_t dtype);

#endif
