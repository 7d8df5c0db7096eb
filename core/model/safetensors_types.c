#include "model/safetensors_types.h"

#include "ds_abi.h"

#include <string.h>

static const struct {
  const char *type;
  int32_t dtype;
  uint8_t size;
} types[] = {
    {"F32", DS_F32, 4},
    {"BF16", DS_BF16, 2},
    {"F16", DS_F16, 2},
    {"F64", DS_F64, 8},
    {"I32", DS_I32, 4},
    {"I64", DS_I64, 8},
    {"I8", DS_I8, 1},
    {"U8", DS_U8, 1},
    {"F8_E4M3", DS_F8E4M3, 1},
    {"F8_E5M2", DS_F8E5M2, 1},
    {"BOOL", -1, 1},
    {"I16", -1, 2},
    {"U16", -1, 2},
    {"U32", -1, 4},
    {"U64", -1, 8},
    {"C64", -1, 8},
};

bool ds_safetensors_type(const char *type, int32_t *dtype, size_t *size) {
  for (size_t i = 0; i < sizeof types / sizeof *types; i++) {
    if (strcmp(types[i].type, type) != 0) continue;
    *dtype = types[i].dtype;
    *size = types[i].size;
    return true;
  }
  return false;
}

const char *ds_safetensors_type_name(int32_t dtype) {
  for (size_t i = 0; i < sizeof types / sizeof *types; i++)
    if (types[i].dtype == dtype && dtype >= 0) return types[i].type;
  return NULL;
}
