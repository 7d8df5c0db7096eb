#include "train/turn.h"

#include "tensor/tensor.h"

#include <stdlib.h>
#include <string.h>

bool ds_turn_wanted(const ds_stored *s, int ranks) {
  return s->transposed && ranks > 1 && s->whole[0] / ranks < DS_TURN_ROWS;
}

typedef struct tile {
  float *block; /* rows x cols of it, transposed */
  void *stored; /* a row of that, in dtype */
} tile;

static int64_t size_from(int64_t begin, int64_t end) {
  return end - begin < DS_TURN_TILE ? end - begin : DS_TURN_TILE;
}

static ds_status turn_tile(const ds_turn *t, const tile *room, const unsigned char *scratch,
                           int64_t row, int64_t col, ds_shared_file *f, int32_t dtype,
                           ds_error *err) {
  int64_t rows = size_from(row, t->rows), cols = size_from(col, t->cols);
  size_t size = ds_dtype_size(dtype);
  for (int64_t r = 0; r < rows; r++) {
    const unsigned char *from =
        scratch + t->from + (size_t)((row + r) * t->cols + col) * sizeof(float);
    for (int64_t c = 0; c < cols; c++)
      memcpy(&room->block[c * rows + r], from + (size_t)c * sizeof(float), sizeof(float));
  }
  for (int64_t c = 0; c < cols; c++) {
    ds_convert_from_f32(room->stored, dtype, room->block + c * rows, (size_t)rows);
    DS_TRY(ds_shared_file_write(f, t->to + (uint64_t)((col + c) * t->rows + row) * size,
                                room->stored, (size_t)rows * size, err));
  }
  return DS_OK;
}

/* index: of the next tile among those of all matrices. */
static ds_status turn_matrix(const ds_turn *t, const tile *room, const unsigned char *scratch,
                             ds_shared_file *f, int32_t dtype, int rank, int ranks, int64_t *index,
                             ds_error *err) {
  for (int64_t col = 0; col < t->cols; col += DS_TURN_TILE)
    for (int64_t row = 0; row < t->rows; row += DS_TURN_TILE)
      if ((*index)++ % ranks == rank) DS_TRY(turn_tile(t, room, scratch, row, col, f, dtype, err));
  return DS_OK;
}

ds_status ds_turn_run(const ds_turn *turns, int n, const unsigned char *scratch, ds_shared_file *f,
                      int32_t dtype, int rank, int ranks, ds_error *err) {
  int64_t index = 0;
  tile room = {malloc((size_t)DS_TURN_TILE * DS_TURN_TILE * sizeof(float)),
               malloc((size_t)DS_TURN_TILE * sizeof(uint64_t))};
  ds_status status = room.block && room.stored ? DS_OK : ds_fail_memory(err, f->path);
  for (int i = 0; i < n && status == DS_OK; i++)
    status = turn_matrix(&turns[i], &room, scratch, f, dtype, rank, ranks, &index, err);
  free(room.block);
  free(room.stored);
  return status;
}
