/* fuzz_safetensors.c - any bytes as a weight file: refused with a message, or safe to read whole.
 */
#include <stdlib.h>
#include <string.h>

#include "model/safetensors.h"
#include "tensor/tensor.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* Reads every byte, as numbers where there are numbers. */
static void read_tensor(const ds_safetensor *t) {
  static volatile unsigned sum; /* so that the reads happen */
  (void)sum;
  ds_error err;
  size_t element = ds_dtype_size(t->dtype);
  for (size_t i = 0; i < t->bytes; i++) sum += t->data[i];
  if (t->rank < 0 || t->rank > DS_MAX_RANK || !t->type[0]) __builtin_trap();
  if (!element) return;
  float *out = malloc(t->bytes / element * sizeof *out + 1);
  if (out && ds_safetensor_read_f32(t, out, &err) == DS_OK) sum += t->bytes > 0 && out[0] > 0;
  free(out);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
  ds_safetensors *s;
  ds_error err = {0};
  if (ds_safetensors_parse(data, size, "fuzz", &s, &err) != DS_OK) {
    if (s || !err.message[0]) __builtin_trap();
    return 0;
  }
  size_t bytes = 0;
  for (size_t i = 0; i < ds_safetensors_count(s); i++) {
    const ds_safetensor *t = ds_safetensors_at(s, i);
    if (ds_safetensors_find(s, t->name) != t) __builtin_trap();
    read_tensor(t);
    bytes += t->bytes;
  }
  if (bytes > size) __builtin_trap();
  ds_safetensors_metadata(s, "format");
  ds_safetensors_close(s);
  return 0;
}
