#include "ops/tape.h"

#include "base/str.h"

#include <stdlib.h>
#include <string.h>

enum { CHUNK = 64 * 1024 };

void *ds_pool_alloc(ds_ctx *ctx, size_t bytes) {
  ds_pool *pool = &ctx->pool;
  bytes = (bytes + 15) & ~(size_t)15;
  if (bytes > CHUNK) return ds_ctx_fail(ctx, DS_ERR_INTERNAL, "a host block of %zu bytes", bytes);
  if (pool->n_chunks && pool->offset + bytes > CHUNK) {
    pool->chunk++;
    pool->offset = 0;
  }
  if (pool->chunk >= pool->n_chunks) {
    ds_error err;
    if (ds_reserve(&pool->chunks, &pool->capacity, pool->n_chunks + 1, sizeof *pool->chunks,
                   "a step's values", &err) != DS_OK)
      return ds_ctx_take_error(ctx, &err);
    char *p = malloc(CHUNK);
    if (!p) return ds_ctx_fail(ctx, DS_ERR_MEMORY, "out of host memory for a step's values");
    pool->chunks[pool->n_chunks++] = p;
  }
  void *p = pool->chunks[pool->chunk] + pool->offset;
  pool->offset += bytes;
  memset(p, 0, bytes);
  return p;
}
