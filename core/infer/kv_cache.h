/* kv_cache.h - keys and values of a generation's earlier tokens, on the device: the engine's side.
 * What models call (append, lengths, positions) is declared in ds.h. */
#ifndef DS_INFER_KV_CACHE_H
#define DS_INFER_KV_CACHE_H

#include "ops/ctx.h"

/* Room for `capacity` tokens of each of `batch` rows: per layer two [B,S,G,D] of dtype. The backend
 * stays the caller's. */
DS_MUST_USE ds_status ds_kv_cache_create(ds_backend *b, const ds_model_info *info, int32_t dtype,
                                         int64_t batch, int64_t capacity, ds_kv_cache **out,
                                         ds_error *err);
void ds_kv_cache_destroy(ds_kv_cache *cache);
int64_t ds_kv_cache_capacity(const ds_kv_cache *cache);
/* Empty again; keeps the memory. */
void ds_kv_cache_reset(ds_kv_cache *cache);
/* Decodes of one token a row then stand where device memory says, i32[B] each: the position of the
 * token, and the keys in use with it. The whole capacity is attended to, masked by the lengths. NULL:
 * as ever. */
void ds_kv_cache_follow(ds_kv_cache *cache, void *positions, void *lengths);
/* The next decode brings `tokens` tokens a row. DS_ERR_INVALID when they don't fit. */
DS_MUST_USE ds_status ds_kv_cache_expect(ds_kv_cache *cache, int64_t tokens, ds_error *err);
/* The expected tokens are in. */
void ds_kv_cache_advance(ds_kv_cache *cache);

#endif
