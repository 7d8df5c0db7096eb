/* generate.c - prompt in, tokens out: chunks of the prompt, then token by token with the KV cache.
 */
#include "infer/token.h"
#include "tensor/tensor.h"

#include <stdlib.h>
#include <string.h>
#include <time.h>

/* Prompts run in pieces: bounds the scratch memory, costs nothing (each piece is a large product).
 */
enum { PROMPT_CHUNK = 512 };

static double now(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

/* After a failure of a generate or forward: what was in flight is lost, the engine goes on. A lost
 * device fails the next call by itself. */
static ds_status settle(ds_inference *e, ds_status status) {
  bool died = false;
  if (status == DS_OK) return DS_OK;
  ds_status ignored = ds_backend_recover(e->backend, &died, NULL);
  (void)ignored;
  if (died) ds_ctx_drop_packed(e->ctx);
  return status;
}

ds_status ds_inference_check_logits(ds_inference *e, const ds_value *v, ds_error *err) {
  DS_TRY(ds_ctx_status(e->ctx, err));
  size_t n = (size_t)e->info.vocab_size;
  const ds_tensor *t = v ? ds_value_tensor(v) : NULL;
  if (!t || (size_t)ds_tensor_numel(t) != n || t->dtype != e->dtype || !ds_tensor_is_contiguous(t))
    return ds_fail(err, DS_ERR_INTERNAL, "%s: decode gave no [1,V] logits",
                   ds_model_name(e->model));
  return DS_OK;
}

ds_status ds_inference_read_logits(ds_inference *e, const void *logits, ds_error *err) {
  size_t n = (size_t)e->info.vocab_size;
  DS_TRY(ds_backend_download(e->backend, e->raw, logits, n * ds_dtype_size(e->dtype), err));
  ds_convert_to_f32(e->logits, e->raw, e->dtype, n);
  return DS_OK;
}

/* One pass of the model over n ids behind the cache; the last one's logits end up in e->logits if
 * wanted. */
static ds_status decode(ds_inference *e, const int32_t *ids, int64_t n, bool want, ds_error *err) {
  DS_TRY(ds_kv_cache_expect(e->cache, n, err));
  DS_TRY(ds_ctx_begin(e->ctx, err));
  ds_value *in = ds_input(e->ctx, DS_I32, 2, (int64_t[]){1, n}, ids);
  ds_value *logits = ds_model_decode(e->model, e->ctx, in, e->cache);
  DS_TRY(ds_ctx_status(e->ctx, err));
  if (want) {
    DS_TRY(ds_inference_check_logits(e, logits, err));
    DS_TRY(ds_inference_read_logits(e, ds_value_tensor(logits)->data, err));
  }
  ds_kv_cache_advance(e->cache);
  return DS_OK;
}

static ds_status prepare(ds_inference *e, const ds_generate_args *args, size_t n_prompt,
                         ds_error *err) {
  if (!e->can_generate)
    return ds_fail(err, DS_ERR_UNSUPPORTED, "%s has no decode function; it can't generate",
                   ds_model_name(e->model));
  if (args->size < sizeof *args)
    return ds_fail(err, DS_ERR_INVALID, "ds_generate_args.size is %u; use DS_GENERATE_ARGS_INIT",
                   args->size);
  if (n_prompt == 0)
    return ds_fail(err, DS_ERR_INVALID, "the prompt is empty; give at least one token (BOS)");
  if ((int64_t)n_prompt > e->max_tokens)
    return ds_fail(err, DS_ERR_INVALID,
                   "the prompt has %zu tokens; max_out_tokens and the model's positions allow %lld",
                   n_prompt, (long long)e->max_tokens);
  if (args->max_new_tokens < 0)
    return ds_fail(err, DS_ERR_INVALID, "max_new_tokens is %lld", (long long)args->max_new_tokens);
  DS_TRY(ds_sampler_set(&e->sampler, args->temperature, args->top_k, args->top_p, args->seed, err));
  if (!e->cache)
    DS_TRY(ds_kv_cache_create(e->backend, &e->info, e->dtype, 1, e->max_tokens, &e->cache, err));
  ds_kv_cache_reset(e->cache);
  return ds_token_prepare(e, err);
}

static ds_status read_prompt(ds_inference *e, const int32_t *prompt, size_t n, ds_error *err) {
  for (size_t at = 0; at < n; at += PROMPT_CHUNK) {
    size_t count = n - at < PROMPT_CHUNK ? n - at : PROMPT_CHUNK;
    DS_TRY(decode(e, prompt + at, (int64_t)count, at + count == n, err));
  }
  return DS_OK;
}

/* The token after `last`, which goes in; of the logits that are there where nothing does yet. */
static ds_status next_token(ds_inference *e, bool first, int32_t last, int32_t banned,
                            int32_t *token, ds_error *err) {
  if (!first && ds_token_used(e)) return ds_token_next(e, last, banned, token, err);
  if (!first) DS_TRY(decode(e, &last, 1, true, err));
  return ds_sampler_pick(&e->sampler, e->logits, banned, ds_sampler_draw(&e->sampler), token, err);
}

/* After the prompt: pick, report, feed back, until an end. */
static ds_status continue_text(ds_inference *e, const ds_generate_args *args, int64_t limit,
                               int32_t *out, size_t *count, ds_error *err) {
  int32_t eos = args->eos_token == -1 ? e->info.eos_token : args->eos_token;
  int64_t min = args->min_new_tokens < 0 ? e->config.min_out_tokens : args->min_new_tokens;
  int32_t token = 0;
  for (int64_t i = 0; i < limit; i++) {
    DS_TRY(next_token(e, i == 0, token, i < min ? eos : -1, &token, err));
    out[(*count)++] = token;
    if (args->on_token && !args->on_token(args->on_token_ctx, token)) break;
    if (token == eos) break;
  }
  return DS_OK;
}

ds_status ds_inference_generate(ds_inference *e, const int32_t *prompt, size_t n_prompt,
                                const ds_generate_args *args, int32_t **tokens, size_t *n_tokens,
                                ds_error *err) {
  ds_generate_args defaults = DS_GENERATE_ARGS_INIT;
  *tokens = NULL;
  *n_tokens = 0;
  if (!args) args = &defaults;
  DS_TRY(prepare(e, args, n_prompt, err));
  int64_t limit = e->max_tokens - (int64_t)n_prompt;
  if (args->max_new_tokens < limit) limit = args->max_new_tokens;
  int32_t *out = malloc(((size_t)limit + 1) * sizeof *out);
  if (!out) return ds_fail_memory(err, "the new tokens");
  size_t count = 0;
  double start = now();
  ds_status status = read_prompt(e, prompt, n_prompt, err);
  double first = now();
  if (status == DS_OK) status = continue_text(e, args, limit, out, &count, err);
  if (status != DS_OK) {
    free(out);
    return settle(e, status);
  }
  e->times = (ds_generate_times){.size = sizeof e->times,
                                 .prompt_seconds = first - start,
                                 .decode_seconds = now() - first,
                                 .prompt_tokens = (int64_t)n_prompt,
                                 .decode_tokens = count > 0 ? (int64_t)count - 1 : 0};
  *tokens = out;
  *n_tokens = count;
  return DS_OK;
}

/* Logits of every position to new memory. */
static ds_status forward(ds_inference *e, const int32_t *ids, size_t n, float **logits,
                         ds_error *err) {
  DS_TRY(ds_ctx_begin(e->ctx, err));
  ds_value *in = ds_input(e->ctx, DS_I32, 2, (int64_t[]){1, (int64_t)n}, ids);
  ds_value *y = ds_model_forward(e->model, e->ctx, &in, 1);
  DS_TRY(ds_ctx_status(e->ctx, err));
  size_t count = n * (size_t)e->info.vocab_size;
  float *out = malloc(count * sizeof *out);
  if (!out) return ds_fail_memory(err, "logits");
  ds_status status = ds_value_read(e->ctx, y, out, count, err);
  if (status != DS_OK) {
    free(out);
    return status;
  }
  *logits = out;
  return DS_OK;
}

ds_status ds_inference_forward(ds_inference *e, const int32_t *ids, size_t n, float **logits,
                               int64_t *vocab_size, ds_error *err) {
  *logits = NULL;
  if (!e->can_generate)
    return ds_fail(err, DS_ERR_UNSUPPORTED, "%s is no language model", ds_model_name(e->model));
  if (n == 0 || (int64_t)n > e->max_tokens)
    return ds_fail(
        err, DS_ERR_INVALID,
        "forward of %zu tokens; max_out_tokens and the model's positions allow 1 to %lld", n,
        (long long)e->max_tokens);
  DS_TRY(settle(e, forward(e, ids, n, logits, err)));
  *vocab_size = e->info.vocab_size;
  return DS_OK;
}

ds_status ds_inference_times(const ds_inference *e, ds_generate_times *out, ds_error *err) {
  if (out->size < sizeof *out)
    return ds_fail(err, DS_ERR_INVALID, "ds_generate_times.size is %u, not %zu", out->size,
                   sizeof *out);
  *out = e->times;
  out->size = sizeof *out;
  return DS_OK;
}
