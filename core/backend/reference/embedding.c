/* embedding.c - embedding, embedding_backward, gather_rows: rows chosen by id; append_rows: to a
 * place chosen by number. */
#include <math.h>

#include "backend/reference/element.h"
#include "backend/reference/op.h"

enum { BLOCK = 256 };

/* y[i] = table[ids[i]]; a row of NaN where the id is out of range. */
static void gather(const ds_tensor *ids, const ds_tensor *table, const ds_tensor *y, int64_t rows,
                   int64_t entries, int64_t cols) {
  const int32_t *id = ids->data;
  for (int64_t r = 0; r < rows; r++) {
    int known = id[r] >= 0 && id[r] < entries;
    for (int64_t c = 0; c < cols; c++) {
      ds_element_put(y, r * cols + c, known ? (double)ds_element_get(table, id[r] * cols + c) : NAN,
                     0);
    }
  }
}

static ds_status embedding_run(const ds_reference_args *a, ds_error *err) {
  (void)err;
  gather(ds_reference_in(a, 0), ds_reference_in(a, 1), ds_reference_out(a, 0),
         ds_reference_dim(a, 'R'), ds_reference_dim(a, 'V'), ds_reference_dim(a, 'C'));
  return DS_OK;
}

static ds_status gather_rows_run(const ds_reference_args *a, ds_error *err) {
  (void)err;
  gather(ds_reference_in(a, 1), ds_reference_in(a, 0), ds_reference_out(a, 0),
         ds_reference_dim(a, 'K'), ds_reference_dim(a, 'R'), ds_reference_dim(a, 'C'));
  return DS_OK;
}

static int seen_before(const int32_t *id, int64_t r) {
  for (int64_t i = 0; i < r; i++) {
    if (id[i] == id[r]) return 1;
  }
  return 0;
}

/* Adds all rows of dy whose id is id[first]: once an id, so that each sum is rounded once. */
static void scatter_sum(const int32_t *id, int64_t first, int64_t rows, int64_t cols,
                        const ds_tensor *dy, const ds_tensor *dtable) {
  double sum[BLOCK];
  for (int64_t c0 = 0; c0 < cols; c0 += BLOCK) {
    int64_t n = cols - c0 < BLOCK ? cols - c0 : BLOCK;
    for (int64_t c = 0; c < n; c++) sum[c] = 0;
    for (int64_t r = first; r < rows; r++) {
      if (id[r] != id[first]) continue;
      for (int64_t c = 0; c < n; c++) sum[c] += (double)ds_element_get(dy, r * cols + c0 + c);
    }
    for (int64_t c = 0; c < n; c++) {
      ds_element_put(dtable, id[first] * cols + c0 + c, sum[c], 1);
    }
  }
}

static ds_status embedding_backward_run(const ds_reference_args *a, ds_error *err) {
  (void)err;
  const int32_t *id = ds_reference_in(a, 0)->data;
  const ds_tensor *dy = ds_reference_in(a, 1), *dtable = ds_reference_out(a, 0);
  int64_t rows = ds_reference_dim(a, 'R'), cols = ds_reference_dim(a, 'C');
  int64_t entries = ds_reference_dim(a, 'V');
  if (!ds_reference_acc(a, 0)) {
    for (int64_t i = 0; i < entries * cols; i++) ds_element_put(dtable, i, 0, 0);
  }
  for (int64_t r = 0; r < rows; r++) {
    /* An id out of range has no row in the table to add to. */
    if (id[r] < 0 || id[r] >= entries || seen_before(id, r)) continue;
    scatter_sum(id, r, rows, cols, dy, dtable);
  }
  return DS_OK;
}

static ds_status append_rows_run(const ds_reference_args *a, ds_error *err) {
  (void)err;
  const ds_tensor *x = ds_reference_in(a, 0), *y = ds_reference_out(a, 0);
  const int32_t *at = ds_reference_in(a, 1)->data;
  int64_t batch = ds_reference_dim(a, 'B'), time = ds_reference_dim(a, 'T');
  int64_t room = ds_reference_dim(a, 'S'), groups = ds_reference_dim(a, 'G');
  int64_t width = ds_reference_dim(a, 'D');
  for (int64_t b = 0; b < batch; b++) {
    for (int64_t t = 0; t < time; t++) {
      int64_t to = at[b] + t;
      if (to < 0 || to >= room) continue;
      for (int64_t i = 0; i < groups * width; i++) {
        int64_t g = i / width, d = i % width;
        int64_t at_x = b * x->stride[0] + t * x->stride[1] + g * x->stride[2] + d;
        int64_t at_y = b * y->stride[0] + to * y->stride[1] + g * y->stride[2] + d;
        ds_element_put(y, at_y, (double)ds_element_get(x, at_x), 0);
      }
    }
  }
  return DS_OK;
}

const ds_reference_op ds_reference_op_embedding = {
    .in = {{"ids", "R", DS_REFERENCE_I32, 0, 0}, {"table", "VC", DS_REFERENCE_X, 0, 0}},
    .out = {{"y", "RC", DS_REFERENCE_X, 0, 0}},
    .run = embedding_run,
};

const ds_reference_op ds_reference_op_embedding_backward = {
    .in = {{"ids", "R", DS_REFERENCE_I32, 0, 0}, {"dy", "RC", DS_REFERENCE_X, 0, 0}},
    .out = {{"dtable", "VC", DS_REFERENCE_F32, DS_REFERENCE_ACC, 0}},
    .run = embedding_backward_run,
};

const ds_reference_op ds_reference_op_gather_rows = {
    .in = {{"x", "RC", DS_REFERENCE_X, 0, 0}, {"ids", "K", DS_REFERENCE_I32, 0, 0}},
    .out = {{"y", "KC", DS_REFERENCE_X, 0, 0}},
    .run = gather_rows_run,
};

const ds_reference_op ds_reference_op_append_rows = {
    .in = {{"x", "BTGD", DS_REFERENCE_X, DS_REFERENCE_ROWS, 0},
           {"at", "B", DS_REFERENCE_I32, 0, 0}},
    .out = {{"y", "BSGD", DS_REFERENCE_X, DS_REFERENCE_ROWS, 0}},
    .run = append_rows_run,
};
