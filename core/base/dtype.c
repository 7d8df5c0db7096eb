#include "base/dtype.h"

size_t ds_dtype_size(int32_t dtype) {
  switch (dtype) {
    case DS_F64:
    case DS_I64: return 8;
    case DS_F32:
    case DS_I32: return 4;
    case DS_BF16:
    case DS_F16: return 2;
    case DS_I8:
    case DS_U8:
    case DS_F8E4M3:
    case DS_F8E5M2: return 1;
    default: return 0;
  }
}

const char *ds_dtype_name(int32_t dtype) {
  static const char *const names[] = {"f32", "bf16", "f16", "f64",    "i32",   "i64",
                                      "i8",  "u8",   "i4",  "f8e4m3", "f8e5m2"};
  return dtype >= 0 && (size_t)dtype < sizeof names / sizeof *names ? names[dtype] : "?";
}
