/* test_tensor_refused.c - what tensor parallelism can't do of a model's ops is an error that says so, on
 * every rank, before anything is exchanged.
 *
 * usage: mpirun -n N test_tensor_refused PLUGIN_FOLDER N
 */
#include "unit/test.h"

#include "backend/backend.h"
#include "ops/ctx.h"
#include "ops/parallel.h"
#include "parallel/world.h"
#include "tensor/tensor.h"

#include <stdlib.h>

enum { WIDTH = 4, ROWS = 3, PART = 2 }; /* PART: columns that each rank has */
enum { COLUMN, COLUMN_2, ROW, TABLE, NORM, N_PARAMS };

static ds_error err;
static ds_backend *backend;
static ds_world world;
static int ranks;

static const float ones[64] = {1, 1, 1, 1, 1, 1, 1, 1};
static const int32_t ids[64] = {0, 1};

static ds_value *whole(ds_ctx *c) {
  return ds_input(c, DS_F32, 2, (int64_t[]){ROWS, WIDTH}, ones);
}
static ds_value *part(ds_ctx *c) {
  return ds_linear(c, whole(c), ds_param(c, COLUMN), NULL);
}

static ds_value *norm_of_part(ds_ctx *c) {
  return ds_rms_norm(c, part(c), ds_input(c, DS_F32, 1, (int64_t[]){PART}, ones), 1e-5);
}
static ds_value *columns_of_part(ds_ctx *c) {
  return ds_linear(c, part(c), ds_param(c, COLUMN_2), NULL);
}
static ds_value *rows_of_whole(ds_ctx *c) {
  return ds_linear(c, whole(c), ds_param(c, ROW), NULL);
}
static ds_value *mean_of_part(ds_ctx *c) {
  return ds_mean(c, part(c));
}
static ds_value *part_and_whole(ds_ctx *c) {
  return ds_add(c, part(c), ds_input(c, DS_F32, 2, (int64_t[]){ROWS, PART}, ones));
}
static ds_value *view_of_weight(ds_ctx *c) {
  ds_value *w = ds_reshape(c, ds_param(c, COLUMN), 2, (int64_t[]){PART, WIDTH});
  return ds_linear(c, whole(c), w, NULL);
}
static ds_value *sum_of_weights(ds_ctx *c) {
  return ds_add(c, ds_param(c, COLUMN), ds_param(c, COLUMN));
}
static ds_value *rows_of_columns(ds_ctx *c) {
  return ds_embedding(c, ds_input(c, DS_I32, 1, (int64_t[]){2}, ids), ds_param(c, COLUMN));
}
static ds_value *odd_rows(ds_ctx *c) {
  return ds_embedding(c, ds_input(c, DS_I32, 1, (int64_t[]){ranks + 1}, ids), ds_param(c, TABLE));
}
static ds_value *norm_of_all_rows(ds_ctx *c) {
  return ds_rms_norm(c, whole(c), ds_param(c, NORM), 1e-5);
}
static ds_value *result_of_part(ds_ctx *c) {
  return ds_parallel_whole(c, part(c));
}

static const struct {
  ds_value *(*build)(ds_ctx *c);
  bool sequence;
  const char *message;
} cases[] = {
    {norm_of_part, false, "rms_norm: under tensor parallelism"},
    {columns_of_part, false, "\"column_2\" isn't row-parallel"},
    {rows_of_whole, false, "\"row\" is row-parallel, but its x isn't"},
    {mean_of_part, false, "mean: under tensor parallelism"},
    {part_and_whole, false, "add: under tensor parallelism"},
    {view_of_weight, false, "a view of \"column\""},
    {sum_of_weights, false, "only linears and embeddings know"},
    {rows_of_columns, false, "\"column\" is divided by tensor parallelism as a linear's weight"},
    {odd_rows, true, "tokens can't be divided over tensor parallel"},
    {norm_of_all_rows, true, "sequence parallelism divides the rows from an embedding on"},
    {result_of_part, false, "the model's result is a part of the columns"},
};

int main(int argc, char **argv) {
  if (argc < 3) return 2;
  ranks = atoi(argv[2]);
  char text[1024];
  const ds_world_args args = {-1, -1, -1, NULL, 0};
  snprintf(text, sizeof text,
           "{\"name\": \"cpu\", \"plugin_path\": \"%s\", \"options\": {\"threads\": 1}}", argv[1]);
  ds_backend_config config;
  cJSON *section = cJSON_Parse(text);
  CHECK_OK(ds_backend_config_parse(section, &config, &err), err);
  cJSON_Delete(section);
  CHECK_OK(ds_backend_open(&config, NULL, &backend, &err), err);
  ds_backend_config_finish(&config);
  if (!backend) return TEST_RESULT();
  CHECK_OK(ds_world_init(&world, backend, &args, NULL, &err), err);

  const ds_param_split splits[N_PARAMS] = {
      {.split = DS_SPLIT_COLUMN, .name = "column"},
      {.split = DS_SPLIT_COLUMN, .name = "column_2"},
      {.split = DS_SPLIT_ROW, .name = "row"},
      {DS_SPLIT_VOCAB, 2 * world.rank, 2 * ranks, "table", NULL},
      {.split = DS_SPLIT_NONE, .name = "norm"}};
  const int64_t shapes[N_PARAMS][2] = {
      {PART, WIDTH}, {PART, PART}, {WIDTH, WIDTH}, {2, WIDTH}, {WIDTH, 1}};
  ds_param_slot slots[N_PARAMS] = {0};
  ds_ctx *ctx;
  void *memory = NULL;
  CHECK_OK(ds_backend_alloc(backend, sizeof ones, &memory, &err), err);
  CHECK_OK(ds_backend_upload(backend, memory, ones, sizeof ones, &err), err);
  for (int i = 0; i < N_PARAMS; i++) {
    slots[i].value = ds_tensor_make(memory, DS_F32, i == NORM ? 1 : 2, shapes[i]);
    slots[i].grad = memory;
  }
  CHECK_OK(ds_ctx_create(backend, DS_F32, &ctx, &err), err);
  ds_ctx_bind_params(ctx, slots, N_PARAMS);
  ds_ctx_set_training(ctx, true);
  for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
    ds_ctx_bind_tensor(ctx, world.group, splits, cases[i].sequence);
    CHECK_OK(ds_ctx_begin(ctx, &err), err);
    CHECK(cases[i].build(ctx) == NULL);
    ds_status status = ds_ctx_status(ctx, &err);
    CHECK(status == DS_ERR_UNSUPPORTED || status == DS_ERR_INVALID);
    CHECK_FAILS(ds_ctx_status(ctx, &err), status, err, cases[i].message);
  }
  ds_ctx_bind_tensor(ctx, NULL, NULL, false); /* all of it is nothing special on one rank */
  CHECK_OK(ds_ctx_begin(ctx, &err), err);
  CHECK(norm_of_part(ctx) && mean_of_part(ctx) && rows_of_whole(ctx));
  CHECK_OK(ds_ctx_status(ctx, &err), err);
  ds_ctx_destroy(ctx);
  ds_backend_free(backend, memory, sizeof ones);
  ds_world_finish(&world);
  ds_backend_close(backend);
  return TEST_RESULT();
}
