/* Tensors that are spread over ranks, to and from one file: for every way of spreading them the file
 * is byte for byte what one writer makes of whole tensors, and reads back under every other. */
#include "train/tensor_file.h"

#include "base/file.h"
#include "tensor/tensor.h"
#include "model/temp_folder.h"
#include "test.h"

#include <fcntl.h>

enum { PARAMS = 7, KINDS = 3, MOST_TENSOR = 3, MOST_ZERO = 7, MOST_PIECES = 64 };

static const struct {
  const char *name;
  int32_t rank;
  int64_t shape[3];
  bool transposed;
  int dim; /* that tensor parallelism splits; -1: none */
  bool frozen, fused;
} params[PARAMS] = {
    {"wte", 2, {37, 12}, false, 0, false, false},  {"ln", 1, {12}, false, -1, false, false},
    {"c_attn", 2, {36, 12}, true, 0, false, true}, {"c_proj", 2, {12, 13}, true, 1, false, false},
    {"down", 2, {12, 31}, false, 1, false, false}, {"cube", 3, {3, 9, 5}, false, 1, false, false},
    {"scale", 1, {1}, false, -1, true, false},
};

static int64_t numel(int p) {
  int64_t n = 1;
  for (int i = 0; i < params[p].rank; i++) n *= params[p].shape[i];
  return n;
}

static float value(int kind, int p, int64_t i) {
  return (float)(kind * 1000 + p * 100) + (float)i / 1024 + 0.1f;
}

/* ---- one rank of a layout, by brute force */

typedef struct rank {
  ds_shard shards[PARAMS];
  ds_stored stored[PARAMS];
  int n;
  ds_piece parts[MOST_PIECES];
  float *have[KINDS][PARAMS]; /* its part of each parameter */
  int64_t count[PARAMS];
} rank;

static void set_run(ds_shard *s, int64_t begin, int64_t end) {
  s->runs[s->n_runs].begin = begin;
  s->runs[s->n_runs++].end = end;
}

/* Tensor rank t of n: uneven shares, three runs of a fused matrix; pipe: whether it is this stage's. */
static ds_shard shard_of(int p, int t, int n, bool present) {
  ds_shard s = {.present = present, .dim = params[p].dim, .rank = params[p].rank, .counted = true};
  memcpy(s.shape, params[p].shape, sizeof params[p].shape);
  if (s.dim < 0 || n == 1) {
    s.dim = -1;
    s.counted = t == 0;
    return s;
  }
  int64_t d = params[p].shape[s.dim], parts = params[p].fused ? 3 : 1, each = d / parts;
  for (int64_t k = 0; k < parts; k++)
    set_run(&s, k * each + each * t / n, k * each + each * (t + 1) / n);
  s.shape[s.dim] = 0;
  for (int i = 0; i < s.n_runs; i++) s.shape[s.dim] += s.runs[i].end - s.runs[i].begin;
  return s;
}

/* The index in the whole of every element that is here, in order. */
static int64_t *indices(int p, const ds_shard *s, int64_t *count) {
  int64_t *out = malloc((size_t)numel(p) * sizeof *out), n = 0, k = 0;
  int64_t shape[3] = {1, 1, 1}, at[3];
  for (int i = 0; i < params[p].rank; i++) shape[i] = params[p].shape[i];
  for (at[0] = 0; at[0] < shape[0]; at[0]++)
    for (at[1] = 0; at[1] < shape[1]; at[1]++)
      for (at[2] = 0; at[2] < shape[2]; at[2]++, k++) {
        bool here = s->present && s->dim < 0;
        for (int r = 0; s->present && s->dim >= 0 && r < s->n_runs; r++)
          here = here || (at[s->dim] >= s->runs[r].begin && at[s->dim] < s->runs[r].end);
        if (here) out[n++] = k;
      }
  *count = n;
  return out;
}

static void add_piece(rank *r, int p, int64_t begin, int64_t end, bool mine) {
  CHECK(r->n < MOST_PIECES);
  r->parts[r->n++] = (ds_piece){p, begin, end, mine};
}

/* What ZeRO rank z of n has: with stage 3 its part alone, cut where it falls; else all, of which it
 * writes a part. */
static void make_pieces(rank *r, int p, int z, int n, bool partitioned) {
  int64_t c = r->count[p], a = c * z / n, b = c * (z + 1) / n;
  bool counted = r->shards[p].counted;
  if (!partitioned && a > 0) add_piece(r, p, 0, a, false);
  if (a < b) add_piece(r, p, a, (a + b) / 2, counted);
  if (a < b) add_piece(r, p, (a + b) / 2, b, counted);
  if (!partitioned && b < c) add_piece(r, p, b, c, false);
}

typedef struct layout {
  int tensor, zero, pipe;
  bool partitioned;
} layout;

static int ranks_of(layout l) {
  return l.tensor * l.zero * l.pipe;
}

static rank *make_rank(layout l, int index, bool filled) {
  int t = index % l.tensor, z = index / l.tensor % l.zero, stage = index / l.tensor / l.zero;
  rank *r = calloc(1, sizeof *r);
  for (int p = 0; p < PARAMS; p++) {
    r->shards[p] = shard_of(p, t, l.tensor, l.pipe == 1 || p % l.pipe == stage);
    r->stored[p] = (ds_stored){
        .shard = &r->shards[p], .rank = params[p].rank, .transposed = params[p].transposed};
    memcpy(r->stored[p].whole, params[p].shape, sizeof params[p].shape);
    int64_t *which = indices(p, &r->shards[p], &r->count[p]);
    CHECK(ds_stored_count(&r->stored[p]) == r->count[p]);
    for (int k = 0; k < KINDS; k++) {
      r->have[k][p] = malloc((size_t)numel(p) * sizeof(float));
      for (int64_t i = 0; i < r->count[p]; i++)
        r->have[k][p][i] = filled ? value(k, p, which[i]) : NAN;
    }
    free(which);
    make_pieces(r, p, z, l.zero, l.partitioned);
  }
  return r;
}

static void free_rank(rank *r) {
  for (int k = 0; k < KINDS; k++)
    for (int p = 0; p < PARAMS; p++) free(r->have[k][p]);
  free(r);
}

static ds_piece at(void *ctx, int i) {
  return ((rank *)ctx)->parts[i];
}

static ds_status read_part(void *ctx, int kind, int i, int64_t from, int64_t n, float *host,
                           ds_error *err) {
  rank *r = ctx;
  const ds_piece *p = &r->parts[i];
  (void)err;
  CHECK(from >= 0 && n > 0 && p->begin + from + n <= p->end);
  memcpy(host, r->have[kind][p->param] + p->begin + from, (size_t)n * sizeof *host);
  return DS_OK;
}

static ds_status write_part(void *ctx, int kind, int i, int64_t from, int64_t n, const float *host,
                            ds_error *err) {
  rank *r = ctx;
  const ds_piece *p = &r->parts[i];
  (void)err;
  CHECK(from >= 0 && n > 0 && p->begin + from + n <= p->end);
  memcpy(r->have[kind][p->param] + p->begin + from, host, (size_t)n * sizeof *host);
  return DS_OK;
}

static ds_pieces pieces_of(rank *r) {
  return (ds_pieces){r, r->n, at, read_part, write_part};
}

/* ---- the file of one writer, by hand */

static void declare(ds_safetensors_writer *w, int first, int n_kinds, bool turned, int32_t dtype) {
  ds_error err;
  char name[64];
  for (int k = first; k < first + n_kinds; k++)
    for (int p = 0; p < PARAMS; p++) {
      if (k > 0 && params[p].frozen) continue;
      bool t = turned && params[p].transposed;
      int64_t shape[3] = {params[p].shape[t ? 1 : 0], params[p].shape[t ? 0 : 1],
                          params[p].shape[2]};
      snprintf(name, sizeof name, "%d.%s", k, params[p].name);
      CHECK_OK(ds_safetensors_writer_add(w, name, dtype, params[p].rank, shape, &err), err);
    }
}

static void write_alone(const char *path, int first, int n_kinds, bool turned, int32_t dtype) {
  ds_error err;
  ds_safetensors_writer *w;
  CHECK_OK(ds_safetensors_writer_create(path, &w, &err), err);
  declare(w, first, n_kinds, turned, dtype);
  CHECK_OK(ds_safetensors_writer_begin(w, &err), err);
  for (int k = first; k < first + n_kinds; k++)
    for (int p = 0; p < PARAMS; p++) {
      if (k > 0 && params[p].frozen) continue;
      int64_t rows = params[p].shape[0], cols = numel(p) / rows;
      for (int64_t i = 0; i < numel(p); i++) {
        bool t = turned && params[p].transposed; /* stored [cols, rows] */
        float x = value(k, p, t ? i % rows * cols + i / rows : i);
        unsigned char bytes[4];
        CHECK(ds_convert_from_f32(bytes, dtype, &x, 1));
        CHECK_OK(ds_safetensors_writer_write(w, bytes, ds_dtype_size(dtype), &err), err);
      }
    }
  CHECK_OK(ds_safetensors_writer_commit(w, &err), err);
  ds_safetensors_writer_destroy(w);
}

/* ---- together */

static void plan(ds_tensor_file *f, const char *path, const rank *r, int first, int n_kinds,
                 bool turned, int32_t dtype, int ranks, ds_stored *stored) {
  ds_error err;
  ds_safetensors_writer *w;
  bool has[KINDS * PARAMS];
  for (int i = 0; i < n_kinds * PARAMS; i++)
    has[i] = first + i / PARAMS == 0 || !params[i % PARAMS].frozen;
  memcpy(stored, r->stored, sizeof r->stored);
  for (int p = 0; p < PARAMS; p++) stored[p].transposed = turned && params[p].transposed;
  CHECK_OK(ds_safetensors_writer_create(path, &w, &err), err);
  declare(w, first, n_kinds, turned, dtype);
  CHECK_OK(ds_tensor_file_plan(f, path, w, stored, PARAMS, first, n_kinds, has, dtype, ranks, &err),
           err);
  ds_safetensors_writer_destroy(w);
}

/* scratch: by way of a scratch file, as many ranks do. */
static void write_together(layout l, const char *path, int first, int n_kinds, bool turned,
                           int32_t dtype, bool scratch) {
  ds_error err;
  uint64_t elements = 0, want = 0;
  int n = ranks_of(l);
  for (int phase = 0; phase < 2; phase++)
    for (int i = n; i > 0; i--) { /* rank 0 creates; then in any order */
      rank *r = make_rank(l, i % n, true);
      ds_pieces pieces = pieces_of(r);
      ds_tensor_file f = {0};
      ds_stored stored[PARAMS];
      plan(&f, path, r, first, n_kinds, turned, dtype, scratch ? n : 1, stored);
      CHECK((f.scratch_bytes > 0) == (scratch && n > 1 && turned));
      if (phase == 0 && i == n) CHECK_OK(ds_tensor_file_create(&f, &err), err);
      if (phase == 0) CHECK_OK(ds_tensor_file_write(&f, &pieces, stored, &elements, &err), err);
      if (phase == 1) CHECK_OK(ds_tensor_file_turn(&f, i % n, n, &err), err);
      if (phase == 1 && i == 1) ds_tensor_file_clean(&f);
      if (phase == 1 && i == 1) CHECK(!ds_file_exists(f.scratch));
      want = ds_tensor_file_elements(&f);
      ds_tensor_file_finish(&f);
      free_rank(r);
    }
  CHECK(elements == want);
}

static void same_bytes(const char *a, const char *b) {
  ds_error err;
  ds_file x, y;
  CHECK_OK(ds_file_map(a, &x, &err), err);
  CHECK_OK(ds_file_map(b, &y, &err), err);
  CHECK(x.size == y.size && memcmp(x.data, y.data, x.size) == 0);
  ds_file_unmap(&x);
  ds_file_unmap(&y);
}

static void read_back(layout l, const char *path, int first, int n_kinds, bool turned) {
  ds_error err;
  ds_safetensors *file;
  CHECK_OK(ds_safetensors_open(path, &file, &err), err);
  for (int i = 0; i < ranks_of(l); i++) {
    rank *r = make_rank(l, i, false), *want = make_rank(l, i, true);
    ds_pieces pieces = pieces_of(r);
    float *room = malloc((size_t)ds_pieces_room(&pieces) * sizeof *room);
    for (int p = 0; p < PARAMS; p++) r->stored[p].transposed = turned && params[p].transposed;
    for (int k = first; k < first + n_kinds; k++) {
      const ds_safetensor *tensors[PARAMS];
      char name[64];
      for (int p = 0; p < PARAMS; p++) {
        snprintf(name, sizeof name, "%d.%s", k, params[p].name);
        tensors[p] = ds_safetensors_find(file, name);
        CHECK((tensors[p] == NULL) == (k > 0 && params[p].frozen));
      }
      CHECK_OK(ds_pieces_load(&pieces, k, r->stored, tensors, room, &err), err);
      for (int n = 0; n < r->n; n++) {
        const ds_piece *part = &r->parts[n];
        if (!tensors[part->param]) continue;
        CHECK(memcmp(r->have[k][part->param] + part->begin,
                     want->have[k][part->param] + part->begin,
                     (size_t)(part->end - part->begin) * sizeof(float)) == 0);
      }
    }
    free(room);
    free_rank(r);
    free_rank(want);
  }
  ds_safetensors_close(file);
}

static const layout layouts[] = {
    {1, 1, 1, false}, {1, 2, 1, false}, {1, 3, 1, true},  {1, 7, 1, true},
    {2, 1, 1, false}, {2, 2, 1, true},  {3, 1, 1, false}, {3, 2, 1, true},
    {1, 1, 2, true},  {2, 3, 3, true},  {3, 5, 2, false},
};
enum { LAYOUTS = sizeof layouts / sizeof *layouts };

static void test_layouts(void) {
  char alone[512], together[512];
  snprintf(alone, sizeof alone, "%s", temp_path("alone"));
  snprintf(together, sizeof together, "%s", temp_path("together"));
  for (int i = 0; i < 2 * LAYOUTS; i++) {
    layout l = layouts[i / 2];
    bool scratch = i % 2;
    write_alone(alone, 0, 1, true, DS_F32); /* masters */
    write_together(l, together, 0, 1, true, DS_F32, scratch);
    same_bytes(alone, together);
    for (int j = 0; j < LAYOUTS; j++) read_back(layouts[j], together, 0, 1, true);
    write_alone(alone, 1, 2, false, DS_F32); /* states */
    write_together(l, together, 1, 2, false, DS_F32, scratch);
    same_bytes(alone, together);
    for (int j = 0; j < LAYOUTS; j++) read_back(layouts[j], together, 1, 2, false);
    write_alone(alone, 0, 1, true, DS_BF16); /* an export */
    write_together(l, together, 0, 1, true, DS_BF16, scratch);
    same_bytes(alone, together);
  }
}

/* ---- large ones go in blocks and parts */

enum { TALL = 3000, WIDE = 1700 };
static float big(int64_t i) {
  return (float)(i % 16777213);
}
static ds_piece big_at(void *ctx, int i) {
  int64_t cut = *(int64_t *)ctx, all = (int64_t)TALL * WIDE;
  return (ds_piece){0, i ? cut : 0, i ? all : cut, true};
}
static ds_status big_read(void *ctx, int kind, int i, int64_t from, int64_t n, float *host,
                          ds_error *err) {
  (void)kind, (void)err;
  for (int64_t k = 0; k < n; k++) host[k] = big(big_at(ctx, i).begin + from + k);
  return DS_OK;
}
static int64_t big_wrong;
static ds_status big_write(void *ctx, int kind, int i, int64_t from, int64_t n, const float *host,
                           ds_error *err) {
  (void)kind, (void)err;
  for (int64_t k = 0; k < n; k++) big_wrong += host[k] != big(big_at(ctx, i).begin + from + k);
  return DS_OK;
}

/* Of so many ranks, of which this one has everything; they turn tiles together. */
static void test_blocks(int ranks) {
  ds_error err;
  char path[512];
  snprintf(path, sizeof path, "%s", temp_path("big"));
  const ds_stored stored = {.rank = 2, .whole = {TALL, WIDE}, .transposed = true};
  int64_t cut = 4321987; /* the first piece is longer than a block, and ends amid a row */
  ds_pieces pieces = {&cut, 2, big_at, big_read, big_write};
  ds_safetensors_writer *w;
  ds_tensor_file f = {0};
  uint64_t elements = 0;
  CHECK(cut > DS_PIECES_BLOCK && ds_pieces_room(&pieces) == DS_PIECES_BLOCK);
  CHECK_OK(ds_safetensors_writer_create(path, &w, &err), err);
  CHECK_OK(ds_safetensors_writer_add(w, "big", DS_F32, 2, (int64_t[]){WIDE, TALL}, &err), err);
  CHECK_OK(ds_tensor_file_plan(&f, path, w, &stored, 1, 0, 1, NULL, DS_F32, ranks, &err), err);
  CHECK_OK(ds_tensor_file_create(&f, &err), err);
  CHECK_OK(ds_tensor_file_write(&f, &pieces, &stored, &elements, &err), err);
  CHECK(elements == (uint64_t)TALL * WIDE);
  CHECK((f.scratch_bytes > 0) == (ranks > TALL / DS_TURN_ROWS));
  for (int i = 0; i < ranks; i++) CHECK_OK(ds_tensor_file_turn(&f, i, ranks, &err), err);
  ds_tensor_file_clean(&f);
  ds_safetensors *file;
  CHECK_OK(ds_safetensors_open(path, &file, &err), err);
  const ds_safetensor *t = ds_safetensors_find(file, "big");
  int64_t wrong = 0;
  for (int64_t k = 0; k < (int64_t)TALL * WIDE; k++) {
    float x;
    memcpy(&x, t->data + k * 4, sizeof x);
    wrong += x != big(k % TALL * WIDE + k / TALL);
  }
  CHECK(wrong == 0);
  cut = 1234567; /* read by others than those who wrote */
  float *room = malloc((size_t)ds_pieces_room(&pieces) * sizeof *room);
  CHECK_OK(ds_pieces_load(&pieces, 0, &stored, &t, room, &err), err);
  CHECK(big_wrong == 0);
  free(room);
  ds_safetensors_close(file);
  ds_safetensors_writer_destroy(w);
  ds_tensor_file_finish(&f);
}

/* ---- refusals */

static void test_refusals(void) {
  ds_error err;
  char path[512];
  snprintf(path, sizeof path, "%s", temp_path("refused"));
  const ds_stored s = {.rank = 1, .whole = {4}};
  CHECK_FAILS(ds_extents_each(&s, 2, 5, NULL, NULL, &err), DS_ERR_INVALID, err, "4 are here");
  ds_tensor_file plan_of = {0};
  ds_safetensors_writer *w;
  CHECK_OK(ds_safetensors_writer_create(path, &w, &err), err);
  CHECK_OK(ds_safetensors_writer_add(w, "x", DS_F32, 1, (int64_t[]){5}, &err), err);
  CHECK_FAILS(ds_tensor_file_plan(&plan_of, path, w, &s, 1, 0, 1, NULL, DS_F32, 1, &err),
              DS_ERR_INVALID, err, "its header says");
  ds_tensor_file_finish(&plan_of);
  ds_safetensors_writer_destroy(w);
}

int main(void) {
  /* In memory where there is such a place: all of it is synced. */
  if (access("/dev/shm", W_OK) == 0) setenv("TMPDIR", "/dev/shm", 0);
  if (!temp_folder_create()) return 1;
  test_layouts();
  test_blocks(1);
  test_blocks(TALL / DS_TURN_ROWS);
  test_blocks(101);
  test_refusals();
  temp_folder_destroy();
  return TEST_RESULT();
}
