#include "train/pieces.h"

#include "tensor/tensor.h"

#include <string.h>

enum { PART = 2048 }; /* elements converted at once */

int64_t ds_pieces_room(const ds_pieces *p) {
  int64_t most = 1;
  for (int i = 0; i < p->n; i++) {
    ds_piece part = p->at(p->ctx, i);
    if (part.end - part.begin > most) most = part.end - part.begin;
  }
  return most < DS_PIECES_BLOCK ? most : DS_PIECES_BLOCK;
}

/* ---- saving */

typedef struct saving {
  ds_shared_file *file;
  uint64_t at; /* of the tensor */
  int32_t dtype;
  size_t size;        /* of an element there */
  const float *block; /* elements from `begin` on */
  int64_t begin;
} saving;

static ds_status save_extent(void *ctx, const ds_extent *x, ds_error *err) {
  const saving *s = ctx;
  float values[PART];
  uint64_t bytes[PART]; /* room for any float, aligned for it */
  for (int64_t i = 0; i < x->n; i += PART) {
    int64_t n = x->n - i < PART ? x->n - i : PART;
    const float *from = s->block + (x->local - s->begin) + i * x->step;
    if (x->step != 1) {
      for (int64_t k = 0; k < n; k++) values[k] = from[k * x->step];
      from = values;
    }
    const void *out = from;
    if (s->dtype != DS_F32) {
      ds_convert_from_f32(bytes, s->dtype, from, (size_t)n);
      out = bytes;
    } else if (x->step == 1) {
      n = x->n; /* as it stands */
    }
    DS_TRY(ds_shared_file_write(s->file, s->at + (uint64_t)(x->stored + i) * s->size, out,
                                (size_t)n * s->size, err));
    if (n == x->n) break;
  }
  return DS_OK;
}

ds_status ds_pieces_save(const ds_pieces *p, int kind, const ds_stored *stored, const uint64_t *at,
                         int32_t dtype, float *room, ds_shared_file *f, uint64_t *elements,
                         ds_error *err) {
  int64_t most = ds_pieces_room(p);
  for (int i = 0; i < p->n; i++) {
    ds_piece part = p->at(p->ctx, i);
    const ds_stored *s = &stored[part.param];
    if (!part.mine || at[part.param] == 0) continue;
    for (int64_t a = part.begin, b; a < part.end; a = b) {
      b = ds_extents_block(s, a, part.end, most);
      saving x = {f, at[part.param], dtype, ds_dtype_size(dtype), room, a};
      DS_TRY(p->read(p->ctx, kind, i, a - part.begin, b - a, room, err));
      DS_TRY(ds_extents_each(s, a, b, save_extent, &x, err));
    }
    *elements += (uint64_t)(part.end - part.begin);
  }
  return DS_OK;
}

/* ---- loading */

typedef struct loading {
  const ds_safetensor *tensor;
  float *block;
  int64_t begin;
} loading;

static ds_status load_extent(void *ctx, const ds_extent *x, ds_error *err) {
  const loading *l = ctx;
  (void)err;
  /* The file's bytes need not be aligned. */
  const unsigned char *from = l->tensor->data + (size_t)x->stored * sizeof(float);
  float *to = l->block + (x->local - l->begin);
  if (x->step == 1) {
    memcpy(to, from, (size_t)x->n * sizeof *to);
    return DS_OK;
  }
  for (int64_t i = 0; i < x->n; i++)
    memcpy(to + i * x->step, from + (size_t)i * sizeof *to, sizeof *to);
  return DS_OK;
}

ds_status ds_pieces_load(const ds_pieces *p, int kind, const ds_stored *stored,
                         const ds_safetensor *const *tensors, float *room, ds_error *err) {
  int64_t most = ds_pieces_room(p);
  for (int i = 0; i < p->n; i++) {
    ds_piece part = p->at(p->ctx, i);
    const ds_stored *s = &stored[part.param];
    if (!tensors[part.param]) continue;
    for (int64_t a = part.begin, b; a < part.end; a = b) {
      b = ds_extents_block(s, a, part.end, most);
      loading x = {tensors[part.param], room, a};
      DS_TRY(ds_extents_each(s, a, b, load_extent, &x, err));
      DS_TRY(p->write(p->ctx, kind, i, a - part.begin, b - a, room, err));
    }
  }
  return DS_OK;
}
