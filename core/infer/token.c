#include "infer/token.h"

#include "backend/record.h"
#include "tensor/tensor.h"

#include <stdlib.h>
#include <string.h>

/* What a token's work reads and writes, in device memory. */
typedef struct numbers {
  int32_t id, position, length, banned;
  float draw;
  int32_t next;
} numbers;

struct ds_token {
  bool used;
  bool ran; /* once as ever, with these settings */
  bool samples;
  double temperature, top_p; /* what the recording was made for */
  int64_t top_k;
  char *device; /* numbers */
  const void *logits;
  size_t input_bytes;
  ds_recording *recording;
};

static ds_tensor at(const ds_inference *e, size_t offset, int32_t dtype) {
  return ds_tensor_make(e->token->device + offset, dtype, 1, (int64_t[]){1});
}
#define AT(e, field, dtype) at(e, offsetof(numbers, field), dtype)

/* ---- what can be */

static bool offers_append(const ds_inference *e) {
  int64_t x_shape[] = {1, 1, e->info.n_kv_heads, e->info.head_dim};
  int64_t y_shape[] = {1, e->max_tokens, e->info.n_kv_heads, e->info.head_dim};
  ds_tensor x = ds_tensor_make(NULL, e->dtype, 4, x_shape);
  ds_tensor y = ds_tensor_make(NULL, e->dtype, 4, y_shape), where = AT(e, position, DS_I32);
  const ds_op op = {.size = sizeof op,
                    .id = DS_OP_APPEND_ROWS,
                    .n_in = 2,
                    .n_out = 1,
                    .in = (const ds_tensor *[]){&x, &where},
                    .out = (const ds_tensor *[]){&y}};
  return ds_backend_offers(e->backend, &op);
}

/* Gives the op to the backend, or asks whether it has it. */
static ds_status sample(ds_inference *e, const void *logits, bool *offered, ds_error *err) {
  void *address;
  memcpy(&address, &logits, sizeof address);
  ds_tensor x = ds_tensor_make(address, e->dtype, 2, (int64_t[]){1, (int64_t)e->info.vocab_size});
  ds_tensor draw = AT(e, draw, DS_F32), banned = AT(e, banned, DS_I32), next = AT(e, next, DS_I32);
  const ds_attr attr[] = {
      {.f = e->sampler.temperature}, {.i = e->sampler.top_k}, {.f = e->sampler.top_p}};
  const ds_op op = {.size = sizeof op,
                    .id = DS_OP_SAMPLE,
                    .n_in = 3,
                    .n_out = 1,
                    .n_attr = 3,
                    .in = (const ds_tensor *[]){&x, &draw, &banned},
                    .out = (const ds_tensor *[]){&next},
                    .attr = attr};
  if (!offered) return ds_backend_op(e->backend, &op, err);
  *offered = ds_backend_offers(e->backend, &op);
  return DS_OK;
}

static ds_status find_out(ds_inference *e, ds_error *err) {
  const char *why = NULL;
  void *p;
  bool wanted = ds_record_wanted(e->backend);
  bool offered = ds_record_offered(e->backend, &why);
  if (offered) {
    e->token = calloc(1, sizeof *e->token);
    if (!e->token) return ds_fail_memory(err, "what is recorded");
    DS_TRY(ds_backend_alloc(e->backend, sizeof(numbers), &p, err));
    e->token->device = p;
    offered = offers_append(e);
    if (!offered) why = "the backend lacks the op append_rows";
  }
  if (wanted && !offered)
    return ds_fail(err, DS_ERR_UNSUPPORTED,
                   "\"graph\" (or \"enable_cuda_graph\") is true, but %s can't record tokens: %s",
                   ds_backend_name(e->backend), why);
  if (offered) e->token->used = wanted || ds_model_built_in(e->model);
  return DS_OK;
}

ds_status ds_token_init(ds_inference *e, ds_error *err) {
  return e->can_generate ? find_out(e, err) : DS_OK;
}

void ds_token_finish(ds_inference *e) {
  if (!e->token) return;
  ds_recording_destroy(e->backend, e->token->recording);
  ds_backend_free(e->backend, e->token->device, sizeof(numbers));
  free(e->token);
  e->token = NULL;
}

bool ds_token_used(const ds_inference *e) {
  return e->token && e->token->used;
}

static void forget(ds_inference *e) {
  ds_recording_destroy(e->backend, e->token->recording);
  e->token->recording = NULL;
}

ds_status ds_token_prepare(ds_inference *e, ds_error *err) {
  ds_token *t = e->token;
  const ds_sampler *s = &e->sampler;
  if (!ds_token_used(e)) return DS_OK;
  if (t->ran && t->temperature == s->temperature && t->top_k == s->top_k && t->top_p == s->top_p)
    return DS_OK;
  forget(e);
  t->ran = false;
  t->temperature = s->temperature;
  t->top_k = s->top_k;
  t->top_p = s->top_p;
  return sample(e, NULL, &t->samples, err);
}

/* ---- a token's work */

static ds_status work(ds_inference *e, ds_error *err) {
  ds_token *t = e->token;
  ds_tensor id = AT(e, id, DS_I32);
  ds_tensor ids = ds_tensor_make(id.data, DS_I32, 2, (int64_t[]){1, 1});
  DS_TRY(ds_ctx_begin(e->ctx, err));
  ds_value *v = ds_model_decode(e->model, e->ctx, ds_ctx_wrap(e->ctx, &ids), e->cache);
  DS_TRY(ds_inference_check_logits(e, v, err));
  t->logits = ds_value_tensor(v)->data;
  return t->samples ? sample(e, t->logits, NULL, err) : DS_OK;
}

/* Recording has failed: for good where it can't be done, which is an error if it was asked for. */
static ds_status give_up(ds_inference *e, const ds_error *why, ds_error *err) {
  if (!ds_record_refused(e->backend)) return ds_fail(err, why->status, "%s", why->message);
  if (ds_record_wanted(e->backend))
    return ds_fail(err, why->status,
                   "\"graph\" (or \"enable_cuda_graph\") is true, but a token's work can't be "
                   "recorded: %s",
                   why->message);
  e->token->used = false;
  ds_log(&e->logger, DS_LOG_INFO, "a token's work can't be recorded and runs as ever: %s",
         why->message);
  return DS_OK;
}

static ds_status run_as_ever(ds_inference *e, ds_error *err) {
  uint64_t fallbacks = ds_backend_stats_get(e->backend).fallback_ops;
  DS_TRY(work(e, err));
  e->token->input_bytes = ds_ctx_input_bytes(e->ctx);
  e->token->ran = ds_backend_stats_get(e->backend).fallback_ops == fallbacks;
  if (e->token->ran) return DS_OK;
  const ds_error why = {DS_ERR_UNSUPPORTED, "some of it falls back to the reference"};
  return give_up(e, &why, err);
}

/* Nothing of it has run, whatever it returns. */
static ds_status record(ds_inference *e, ds_error *err) {
  forget(e);
  ds_status status = ds_record_begin(e->backend, e->token->input_bytes, err);
  if (status == DS_OK) status = work(e, err);
  if (status == DS_OK) status = ds_record_end(e->backend, &e->token->recording, err);
  ds_record_cancel(e->backend);
  return status;
}

static ds_status run(ds_inference *e, ds_error *err) {
  ds_token *t = e->token;
  ds_error why = {DS_OK, ""};
  if (!t->ran) return run_as_ever(e, err);
  if (ds_recording_alive(t->recording) || record(e, &why) == DS_OK)
    return ds_recording_launch(e->backend, t->recording, err);
  DS_TRY(give_up(e, &why, err));
  return work(e, err);
}

static ds_status read_next(ds_inference *e, const numbers *n, int32_t *token, ds_error *err) {
  ds_tensor next = AT(e, next, DS_I32);
  if (!e->token->samples) {
    DS_TRY(ds_inference_read_logits(e, e->token->logits, err));
    return ds_sampler_pick(&e->sampler, e->logits, n->banned, n->draw, token, err);
  }
  DS_TRY(ds_backend_download(e->backend, token, next.data, sizeof *token, err));
  return *token < 0 ? ds_sampler_no_token(err) : DS_OK;
}

ds_status ds_token_next(ds_inference *e, int32_t last, int32_t banned, int32_t *token,
                        ds_error *err) {
  ds_token *t = e->token;
  int32_t length = (int32_t)ds_kv_cache_length(e->cache);
  numbers n = {.id = last,
               .position = length,
               .length = length + 1,
               .banned = banned,
               .draw = ds_sampler_draw(&e->sampler)};
  DS_TRY(ds_kv_cache_expect(e->cache, 1, err));
  DS_TRY(ds_backend_upload(e->backend, t->device, &n, sizeof n, err));
  ds_kv_cache_follow(e->cache, AT(e, position, DS_I32).data, AT(e, length, DS_I32).data);
  ds_status status = run(e, err);
  ds_kv_cache_follow(e->cache, NULL, NULL);
  if (status == DS_OK) status = read_next(e, &n, token, err);
  if (status == DS_OK) ds_kv_cache_advance(e->cache);
  return status;
}
