#include "test.h"

#include "infer/kv_cache.h"
#include "tensor/tensor.h"

static ds_model_info info = {.size = sizeof info, .n_layers = 2, .n_kv_heads = 2, .head_dim = 3};

/* Keys of `layer` at position p have the value 100 layer + p (+ 0.5 for values). */
static void append(ds_kv_cache *cache, ds_ctx *ctx, int64_t from, int64_t count) {
  ds_error err;
  float k[2 * 4 * 6], v[2 * 4 * 6];
  CHECK_OK(ds_ctx_begin(ctx, &err), err);
  CHECK_OK(ds_kv_cache_expect(cache, count, &err), err);
  for (int layer = 0; layer < 2; layer++) {
    for (int64_t b = 0; b < 2; b++)
      for (int64_t t = 0; t < count; t++)
        for (int i = 0; i < 6; i++) {
          k[(b * count + t) * 6 + i] = (float)(100 * layer + from + t + 1000 * b);
          v[(b * count + t) * 6 + i] = k[(b * count + t) * 6 + i] + 0.5f;
        }
    int64_t shape[] = {2, count, 2, 3};
    ds_value *all_k, *all_v;
    ds_status status = ds_kv_cache_append(cache, ctx, layer, ds_input(ctx, DS_F32, 4, shape, k),
                                          ds_input(ctx, DS_F32, 4, shape, v), &all_k, &all_v);
    CHECK_OK(ds_ctx_status(ctx, &err), err);
    CHECK(status == DS_OK);
    if (status != DS_OK) return;
    const ds_tensor *t = ds_value_tensor(all_v);
    CHECK(t->rank == 4 && t->shape[0] == 2 && t->shape[1] == from + count);
    const float *data = t->data; /* the reference's memory is the host's */
    for (int64_t b = 0; b < 2; b++)
      for (int64_t p = 0; p < from + count; p++)
        CHECK(data[b * t->stride[0] + p * t->stride[1]] ==
              (float)(100 * layer + p + 1000 * b) + 0.5f);
  }
  ds_kv_cache_advance(cache);
  CHECK(ds_kv_cache_length(cache) == from + count);
}

static void test_cache(ds_backend *backend, ds_ctx *ctx) {
  ds_error err;
  ds_kv_cache *cache;
  CHECK_FAILS(ds_kv_cache_create(backend, &info, DS_F32, 0, 5, &cache, &err), DS_ERR_INVALID, err,
              "0 rows");
  CHECK_OK(ds_kv_cache_create(backend, &info, DS_F32, 2, 5, &cache, &err), err);
  append(cache, ctx, 0, 3);
  append(cache, ctx, 3, 1);
  CHECK_FAILS(ds_kv_cache_expect(cache, 2, &err), DS_ERR_INVALID, err, "max_out_tokens");
  CHECK_OK(ds_ctx_begin(ctx, &err), err);
  CHECK_OK(ds_kv_cache_expect(cache, 1, &err), err);
  float lengths[2] = {0}, positions[2] = {0};
  CHECK_OK(ds_value_read(ctx, ds_kv_cache_lengths(cache, ctx), lengths, 2, &err), err);
  CHECK_OK(ds_value_read(ctx, ds_kv_cache_positions(cache, ctx), positions, 2, &err), err);
  CHECK(lengths[0] == 5 && lengths[1] == 5 && positions[0] == 4 && positions[1] == 4);
  /* A shape that isn't the expected one is refused, and the refusal sticks. */
  float x[24] = {0};
  ds_value *k = ds_input(ctx, DS_F32, 4, (int64_t[]){2, 2, 2, 3}, x), *a, *b;
  CHECK(ds_kv_cache_append(cache, ctx, 0, k, k, &a, &b) == DS_ERR_INVALID);
  CHECK_FAILS(ds_ctx_status(ctx, &err), DS_ERR_INVALID, err, "[2,2,2,3]");
  ds_kv_cache_reset(cache);
  append(cache, ctx, 0, 4);
  ds_kv_cache_destroy(cache);
}

int main(void) {
  ds_error err;
  ds_backend *backend;
  ds_ctx *ctx;
  ds_backend_config config;
  cJSON *name = cJSON_CreateString("reference");
  CHECK_OK(ds_backend_config_parse(name, &config, &err), err);
  CHECK_OK(ds_backend_open(&config, NULL, &backend, &err), err);
  CHECK_OK(ds_ctx_create(backend, DS_F32, &ctx, &err), err);
  test_cache(backend, ctx);
  ds_ctx_destroy(ctx);
  ds_backend_close(backend);
  ds_backend_config_finish(&config);
  cJSON_Delete(name);
  return TEST_RESULT();
}
