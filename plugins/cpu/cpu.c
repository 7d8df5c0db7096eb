/* cpu.c - errors, memory and scratch that the plugin's files share. */
#include "cpu.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>

enum { HUGE_PAGE = 2 << 20, LINE = 64 };

ds_status ds_cpu_fail(ds_error *err, ds_status status, const char *format, ...) {
  if (err == NULL) return status;
  va_list args;
  va_start(args, format);
  err->status = status;
  vsnprintf(err->message, sizeof err->message, format, args);
  va_end(args);
  return status;
}

size_t ds_cpu_dtype_bytes(int32_t dtype, int64_t n) {
  switch (dtype) {
    case DS_F64:
    case DS_I64: return (size_t)n * 8;
    case DS_F32:
    case DS_I32: return (size_t)n * 4;
    case DS_BF16:
    case DS_F16: return (size_t)n * 2;
    case DS_I8:
    case DS_U8:
    case DS_F8E4M3:
    case DS_F8E5M2: return (size_t)n;
    case DS_I4: return ((size_t)n + 1) / 2;
    default: return 0;
  }
}

const char *ds_cpu_dtype_name(int32_t dtype) {
  static const char *const names[] = {"f32", "bf16", "f16", "f64",    "i32",   "i64",
                                      "i8",  "u8",   "i4",  "f8e4m3", "f8e5m2"};
  if (dtype < 0 || dtype >= (int32_t)(sizeof names / sizeof *names)) return "unknown type";
  return names[dtype];
}

void *ds_cpu_memory_alloc(const ds_device *dev, size_t bytes) {
  bool huge = dev->huge_pages && bytes >= HUGE_PAGE;
  size_t alignment = huge ? HUGE_PAGE : LINE;
  if (bytes > SIZE_MAX / 2) return NULL;
  size_t rounded = (bytes + alignment - 1) / alignment * alignment;
  void *p = aligned_alloc(alignment, rounded == 0 ? alignment : rounded);
  /* Advice only: where the kernel has no huge pages, small ones do. */
  if (p != NULL && huge) (void)madvise(p, rounded, MADV_HUGEPAGE);
  return p;
}

void ds_cpu_memory_free(void *p) {
  free(p);
}

static atomic_bool kept;

void ds_cpu_memory_keep(void) {
  atomic_store(&kept, true);
}

bool ds_cpu_memory_kept(void) {
  return atomic_load_explicit(&kept, memory_order_relaxed);
}

void *ds_cpu_scratch(ds_stream *s, enum ds_cpu_scratch_slot slot, size_t bytes, ds_error *err) {
  ds_cpu_scratch_block *block = &s->scratch[slot];
  if (bytes <= block->bytes && block->data != NULL) return block->data;
  ds_cpu_memory_free(block->data);
  /* A little more than asked for: sizes that creep up (a growing context) settle soon. */
  size_t grown = bytes + bytes / 8;
  block->bytes = 0;
  block->data = ds_cpu_memory_alloc(s->dev, grown);
  if (block->data == NULL) {
    ds_cpu_fail(err, DS_ERR_MEMORY, "cpu: no memory for %zu bytes of scratch", grown);
    return NULL;
  }
  block->bytes = grown;
  return block->data;
}
