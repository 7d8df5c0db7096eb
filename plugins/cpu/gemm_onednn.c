/* gemm_onednn.c - matrix products by oneDNN. */
#include "gemm_onednn.h"
#include "f16.h"
#include "isa.h"

#include <omp.h>
#include <oneapi/dnnl/dnnl.h>
#include <stdlib.h>
#include <string.h>

/* The layout of constant weights must not depend on the number of rows that meet them later. */
enum { PACK_ROWS = 256 };

/* Entries kept; when they are used up, all go and the cache fills anew. A model has some dozens per
 * batch shape. The table has twice the slots, so that probing ends soon. */
enum { CACHE_MAX = 512, CACHE_SLOTS = 1024 };

/* Everything that a primitive depends on. Compared as bytes: filled from zero. */
typedef struct key {
  int64_t m, n, k, batch, lda, ldb, ldc, stride_a, stride_b, stride_c;
  uint32_t flags, pack; /* pack: B is brought into blocked form before each product */
  int32_t dtype_a, dtype_b, dtype_c, epilogue;
  float alpha;
  int32_t accumulate, bias, reserved;
} key;

typedef struct entry {
  key key;
  bool used;
  dnnl_primitive_t matmul, reorder; /* reorder: NULL unless key.pack */
  dnnl_memory_t a, b, bias, c, scratchpad, b_plain;
  size_t scratchpad_bytes, packed_bytes;
} entry;

struct ds_cpu_gemm {
  dnnl_engine_t engine;
  dnnl_stream_t stream;
  int count;
  entry entries[CACHE_SLOTS];
};

/* oneDNN splits work by the calling thread's OpenMP setting, when a primitive is made and when it
 * runs. The setting is the host's: it gets it back. */
static int enter_threads(const ds_device *dev) {
  int before = omp_get_max_threads();
  if (before != dev->threads) omp_set_num_threads(dev->threads);
  return before;
}

static void leave_threads(const ds_device *dev, int before) {
  if (before != dev->threads) omp_set_num_threads(before);
}

static ds_status fail(ds_error *err, dnnl_status_t st, const key *k, const char *doing) {
  ds_status status = st == dnnl_out_of_memory ? DS_ERR_MEMORY : DS_ERR_DEVICE;
  const char *reason = st == dnnl_out_of_memory       ? "out of memory"
                       : st == dnnl_unimplemented     ? "not implemented"
                       : st == dnnl_invalid_arguments ? "invalid arguments"
                                                      : "run-time error";
  return ds_cpu_fail(err, status,
                     "cpu gemm: oneDNN failed %s (%s, code %d) for m=%lld n=%lld k=%lld batch=%lld "
                     "%s x %s -> %s",
                     doing, reason, (int)st, (long long)k->m, (long long)k->n, (long long)k->k,
                     (long long)k->batch, ds_cpu_dtype_name(k->dtype_a),
                     ds_cpu_dtype_name(k->dtype_b), ds_cpu_dtype_name(k->dtype_c));
}

bool ds_cpu_onednn_takes(const ds_device *dev, int32_t a, int32_t b, int32_t c) {
  if (a == DS_F32 && b == DS_F32 && c == DS_F32) return true;
  return dev->isa == DS_ISA_AVX512_BF16 && a == DS_BF16 && b == DS_BF16 &&
         (c == DS_BF16 || c == DS_F32);
}

/* ---------------------------------------------------------------- descriptors */

static dnnl_data_type_t data_type(int32_t dtype) {
  return dtype == DS_BF16 ? dnnl_bf16 : dnnl_f32;
}

/* A stored matrix of rows x cols as the product sees it, transposed or not. One that is shared by
 * the whole batch (stride 0) has batch dimension 1. */
static dnnl_status_t matrix_desc(dnnl_memory_desc_t *md, int64_t batch, int64_t rows, int64_t cols,
                                 bool transposed, int64_t ld, int64_t stride, int32_t dtype) {
  int64_t by_row = transposed ? 1 : ld, by_col = transposed ? ld : 1;
  dnnl_dims_t dims2 = {rows, cols}, strides2 = {by_row, by_col};
  if (batch == 1) return dnnl_memory_desc_init_by_strides(md, 2, dims2, data_type(dtype), strides2);
  dnnl_dims_t dims3 = {stride == 0 ? 1 : batch, rows, cols};
  dnnl_dims_t strides3 = {stride == 0 ? rows * cols : stride, by_row, by_col};
  return dnnl_memory_desc_init_by_strides(md, 3, dims3, data_type(dtype), strides3);
}

static dnnl_status_t plain_b_desc(dnnl_memory_desc_t *md, const key *k) {
  return matrix_desc(md, k->batch, k->k, k->n, k->flags & DS_GEMM_TRANS_B, k->ldb, k->stride_b,
                     k->dtype_b);
}

static dnnl_status_t make_attr(const key *k, dnnl_primitive_attr_t *out) {
  static const dnnl_alg_kind_t algorithms[] = {[DS_EPILOGUE_GELU_TANH] = dnnl_eltwise_gelu_tanh,
                                               [DS_EPILOGUE_GELU_ERF] = dnnl_eltwise_gelu_erf,
                                               [DS_EPILOGUE_RELU] = dnnl_eltwise_relu,
                                               [DS_EPILOGUE_SILU] = dnnl_eltwise_swish};
  dnnl_primitive_attr_t attr = NULL;
  dnnl_post_ops_t ops = NULL;
  dnnl_status_t st = dnnl_primitive_attr_create(&attr);
  if (st == dnnl_success) st = dnnl_post_ops_create(&ops);
  if (st == dnnl_success)
    st = dnnl_primitive_attr_set_scratchpad_mode(attr, dnnl_scratchpad_mode_user);
  if (st == dnnl_success && k->alpha != 1.0f)
    st = dnnl_primitive_attr_set_output_scales(attr, 1, 0, &k->alpha);
  if (st == dnnl_success && k->epilogue != DS_EPILOGUE_NONE)
    st = dnnl_post_ops_append_eltwise(ops, 1.0f, algorithms[k->epilogue],
                                      k->epilogue == DS_EPILOGUE_SILU ? 1.0f : 0.0f, 0.0f);
  if (st == dnnl_success && k->accumulate) st = dnnl_post_ops_append_sum(ops, 1.0f);
  if (st == dnnl_success) st = dnnl_primitive_attr_set_post_ops(attr, ops);
  dnnl_post_ops_destroy(ops);
  if (st != dnnl_success) {
    dnnl_primitive_attr_destroy(attr);
    attr = NULL;
  }
  *out = attr;
  return st;
}

/* b: the layout of B, or NULL to let oneDNN choose. */
static dnnl_status_t make_product(dnnl_engine_t engine, const key *k, const dnnl_memory_desc_t *b,
                                  dnnl_primitive_desc_t *out) {
  dnnl_memory_desc_t a_md, b_md, c_md, bias_md;
  int rank = k->batch == 1 ? 2 : 3;
  dnnl_dims_t bias_dims = {1, 1, 1}, b_dims = {k->k, k->n};
  bias_dims[rank - 1] = k->n;
  dnnl_status_t st = matrix_desc(&a_md, k->batch, k->m, k->k, k->flags & DS_GEMM_TRANS_A, k->lda,
                                 k->stride_a, k->dtype_a);
  if (st == dnnl_success)
    st = matrix_desc(&c_md, k->batch, k->m, k->n, false, k->ldc, k->stride_c, k->dtype_c);
  if (st == dnnl_success && b != NULL) b_md = *b;
  if (st == dnnl_success && b == NULL) /* only for one matrix: gemm.c packs no batches */
    st = dnnl_memory_desc_init_by_tag(&b_md, 2, b_dims, data_type(k->dtype_b), dnnl_format_tag_any);
  if (st == dnnl_success)
    st = dnnl_memory_desc_init_by_tag(&bias_md, rank, bias_dims, dnnl_f32,
                                      rank == 2 ? dnnl_ab : dnnl_abc);
  dnnl_matmul_desc_t desc;
  if (st == dnnl_success)
    st = dnnl_matmul_desc_init(&desc, &a_md, &b_md, k->bias ? &bias_md : NULL, &c_md);
  dnnl_primitive_attr_t attr = NULL;
  if (st == dnnl_success) st = make_attr(k, &attr);
  if (st == dnnl_success) st = dnnl_primitive_desc_create(out, &desc, attr, engine, NULL);
  dnnl_primitive_attr_destroy(attr);
  return st;
}

/* The blocked layout of constant B: what oneDNN likes best for a middling number of rows. */
static dnnl_status_t packed_desc(dnnl_engine_t engine, const key *k, dnnl_memory_desc_t *out) {
  key canonical = {.m = PACK_ROWS,
                   .n = k->n,
                   .k = k->k,
                   .batch = 1,
                   .lda = k->k,
                   .ldc = k->n,
                   .dtype_a = k->dtype_a,
                   .dtype_b = k->dtype_b,
                   .dtype_c = k->dtype_c,
                   .alpha = 1.0f};
  dnnl_primitive_desc_t pd = NULL;
  dnnl_status_t st = make_product(engine, &canonical, NULL, &pd);
  if (st != dnnl_success) return st;
  *out = *dnnl_primitive_desc_query_md(pd, dnnl_query_weights_md, 0);
  dnnl_primitive_desc_destroy(pd);
  return dnnl_success;
}

static dnnl_status_t make_reorder(dnnl_engine_t engine, const dnnl_memory_desc_t *from,
                                  const dnnl_memory_desc_t *to, dnnl_primitive_t *out) {
  dnnl_primitive_desc_t pd = NULL;
  dnnl_status_t st = dnnl_reorder_primitive_desc_create(&pd, from, engine, to, engine, NULL);
  if (st != dnnl_success) return st;
  st = dnnl_primitive_create(out, pd);
  dnnl_primitive_desc_destroy(pd);
  return st;
}

/* ---------------------------------------------------------------- the cache */

static void entry_finish(entry *e) {
  dnnl_primitive_destroy(e->matmul);
  dnnl_primitive_destroy(e->reorder);
  dnnl_memory_t all[] = {e->a, e->b, e->bias, e->c, e->scratchpad, e->b_plain};
  for (size_t i = 0; i < sizeof all / sizeof *all; i++) dnnl_memory_destroy(all[i]);
  memset(e, 0, sizeof *e);
}

static dnnl_status_t entry_memories(entry *e, dnnl_engine_t engine, const_dnnl_primitive_desc_t pd,
                                    const dnnl_memory_desc_t *b_plain) {
  const struct {
    dnnl_memory_t *memory;
    const dnnl_memory_desc_t *md;
  } wanted[] = {
      {&e->a, dnnl_primitive_desc_query_md(pd, dnnl_query_src_md, 0)},
      {&e->b, dnnl_primitive_desc_query_md(pd, dnnl_query_weights_md, 0)},
      {&e->bias, e->key.bias ? dnnl_primitive_desc_query_md(pd, dnnl_query_weights_md, 1) : NULL},
      {&e->c, dnnl_primitive_desc_query_md(pd, dnnl_query_dst_md, 0)},
      {&e->scratchpad, dnnl_primitive_desc_query_md(pd, dnnl_query_scratchpad_md, 0)},
      {&e->b_plain, e->reorder != NULL ? b_plain : NULL}};
  dnnl_status_t st = dnnl_success;
  for (size_t i = 0; i < sizeof wanted / sizeof *wanted && st == dnnl_success; i++)
    if (wanted[i].md != NULL)
      st = dnnl_memory_create(wanted[i].memory, wanted[i].md, engine, DNNL_MEMORY_NONE);
  return st;
}

static dnnl_status_t entry_init(entry *e, const key *k, dnnl_engine_t engine) {
  dnnl_primitive_desc_t pd = NULL;
  dnnl_memory_desc_t b_plain, b_packed;
  const dnnl_memory_desc_t *b = NULL;
  e->key = *k;
  dnnl_status_t st = dnnl_success;
  if (k->flags & DS_GEMM_PACKED_B) {
    st = packed_desc(engine, k, &b_packed);
    b = &b_packed;
  } else {
    st = plain_b_desc(&b_plain, k);
    if (!k->pack) b = &b_plain;
  }
  if (st == dnnl_success) st = make_product(engine, k, b, &pd);
  if (st == dnnl_success) st = dnnl_primitive_create(&e->matmul, pd);
  if (st == dnnl_success) {
    const dnnl_memory_desc_t *chosen = dnnl_primitive_desc_query_md(pd, dnnl_query_weights_md, 0);
    e->packed_bytes = dnnl_memory_desc_get_size(chosen);
    e->scratchpad_bytes =
        dnnl_memory_desc_get_size(dnnl_primitive_desc_query_md(pd, dnnl_query_scratchpad_md, 0));
    if (k->pack && !dnnl_memory_desc_equal(chosen, &b_plain))
      st = make_reorder(engine, &b_plain, chosen, &e->reorder);
  }
  if (st == dnnl_success) st = entry_memories(e, engine, pd, &b_plain);
  dnnl_primitive_desc_destroy(pd);
  if (st != dnnl_success)
    entry_finish(e);
  else
    e->used = true;
  return st;
}

static size_t hash(const key *k) {
  const unsigned char *p = (const unsigned char *)k;
  uint64_t h = 14695981039346656037u; /* FNV-1a */
  for (size_t i = 0; i < sizeof *k; i++) h = (h ^ p[i]) * 1099511628211u;
  return (size_t)(h ^ h >> 32);
}

static ds_status find(ds_cpu_gemm *cache, const key *k, entry **out, ds_error *err) {
  size_t at = hash(k) % CACHE_SLOTS;
  for (; cache->entries[at].used; at = (at + 1) % CACHE_SLOTS)
    if (memcmp(&cache->entries[at].key, k, sizeof *k) == 0) {
      *out = &cache->entries[at];
      return DS_OK;
    }
  if (cache->count == CACHE_MAX) {
    for (size_t i = 0; i < CACHE_SLOTS; i++)
      if (cache->entries[i].used) entry_finish(&cache->entries[i]);
    cache->count = 0;
    at = hash(k) % CACHE_SLOTS;
  }
  dnnl_status_t st = entry_init(&cache->entries[at], k, cache->engine);
  if (st != dnnl_success) return fail(err, st, k, "making a primitive");
  cache->count++;
  *out = &cache->entries[at];
  return DS_OK;
}

void ds_cpu_gemm_destroy(ds_cpu_gemm *g) {
  if (g == NULL) return;
  for (size_t i = 0; i < CACHE_SLOTS; i++)
    if (g->entries[i].used) entry_finish(&g->entries[i]);
  dnnl_stream_destroy(g->stream);
  dnnl_engine_destroy(g->engine);
  free(g);
}

static ds_status get_cache(ds_stream *s, const key *k, ds_cpu_gemm **out, ds_error *err) {
  if (s->gemm != NULL) {
    *out = s->gemm;
    return DS_OK;
  }
  ds_cpu_gemm *g = calloc(1, sizeof *g);
  if (g == NULL) return ds_cpu_fail(err, DS_ERR_MEMORY, "cpu gemm: no memory for primitives");
  dnnl_status_t st = dnnl_engine_create(&g->engine, dnnl_cpu, 0);
  if (st == dnnl_success) st = dnnl_stream_create(&g->stream, g->engine, dnnl_stream_default_flags);
  if (st != dnnl_success) {
    ds_cpu_gemm_destroy(g);
    return fail(err, st, k, "starting");
  }
  *out = s->gemm = g;
  return DS_OK;
}

/* ---------------------------------------------------------------- running */

/* Bringing B into blocked form costs a pass over it and gains where many rows meet it. Measured on
 * GPT-2's shapes: B [k,n] gains from 512 rows on, B [n,k] from 1024. Where A is transposed (weight
 * gradients) B is the smaller side: in bf16 it always gains, in f32 for a vocabulary's rows. */
static bool pack_pays(const ds_gemm *g) {
  if (g->batch != 1 || g->flags & DS_GEMM_PACKED_B || g->n < 64 || g->k < 64) return false;
  if (g->flags & DS_GEMM_TRANS_A) return g->m >= (g->dtype_b == DS_BF16 ? 512 : 8192);
  return g->m >= (g->flags & DS_GEMM_TRANS_B ? 1024 : 512);
}

static key make_key(const ds_gemm *g) {
  key k;
  memset(&k, 0, sizeof k);
  k.m = g->m, k.n = g->n, k.k = g->k, k.batch = g->batch;
  k.lda = g->lda, k.ldc = g->ldc;
  if (!(g->flags & DS_GEMM_PACKED_B)) k.ldb = g->ldb;
  if (g->batch > 1) k.stride_a = g->stride_a, k.stride_b = g->stride_b, k.stride_c = g->stride_c;
  k.flags = g->flags;
  k.dtype_a = g->dtype_a, k.dtype_b = g->dtype_b, k.dtype_c = g->dtype_c;
  k.epilogue = g->epilogue, k.alpha = g->alpha;
  k.accumulate = g->beta != 0.0f, k.bias = g->bias != NULL;
  return k;
}

/* oneDNN scales the bias too, and takes one type of it for all products here: f32. */
static ds_status prepare_bias(ds_stream *s, const ds_gemm *g, const void **out, ds_error *err) {
  *out = g->bias;
  if (g->bias == NULL || (g->dtype_bias == DS_F32 && g->alpha == 1.0f)) return DS_OK;
  float *bias = ds_cpu_scratch(s, DS_CPU_SCRATCH_BIAS, (size_t)g->n * sizeof *bias, err);
  if (bias == NULL) return DS_ERR_MEMORY;
  for (int64_t i = 0; i < g->n; i++)
    bias[i] = ds_cpu_float_load(g->bias, g->dtype_bias, i) / g->alpha;
  *out = bias;
  return DS_OK;
}

static dnnl_status_t execute(ds_cpu_gemm *cache, const entry *e) {
  dnnl_status_t st = dnnl_success;
  if (e->reorder != NULL) {
    dnnl_exec_arg_t args[] = {{DNNL_ARG_FROM, e->b_plain}, {DNNL_ARG_TO, e->b}};
    st = dnnl_primitive_execute(e->reorder, cache->stream, 2, args);
  }
  dnnl_exec_arg_t args[5] = {{DNNL_ARG_SRC, e->a},
                             {DNNL_ARG_WEIGHTS, e->b},
                             {DNNL_ARG_DST, e->c},
                             {DNNL_ARG_SCRATCHPAD, e->scratchpad},
                             {DNNL_ARG_BIAS, e->bias}};
  if (st == dnnl_success)
    st = dnnl_primitive_execute(e->matmul, cache->stream, e->bias != NULL ? 5 : 4, args);
  if (st == dnnl_success) st = dnnl_stream_wait(cache->stream);
  return st;
}

static ds_status bind(ds_stream *s, const entry *e, const ds_gemm *g, const void *bias,
                      ds_error *err) {
  void *scratchpad = NULL, *b = (void *)g->b;
  if (e->scratchpad_bytes > 0) {
    scratchpad = ds_cpu_scratch(s, DS_CPU_SCRATCH_LIBRARY, e->scratchpad_bytes, err);
    if (scratchpad == NULL) return DS_ERR_MEMORY;
  }
  if (e->reorder != NULL) {
    b = ds_cpu_scratch(s, DS_CPU_SCRATCH_PACK, e->packed_bytes, err);
    if (b == NULL) return DS_ERR_MEMORY;
  }
  dnnl_status_t st = dnnl_memory_set_data_handle(e->a, (void *)g->a);
  if (st == dnnl_success) st = dnnl_memory_set_data_handle(e->b, b);
  if (st == dnnl_success) st = dnnl_memory_set_data_handle(e->c, g->c);
  if (st == dnnl_success) st = dnnl_memory_set_data_handle(e->scratchpad, scratchpad);
  if (st == dnnl_success && e->bias != NULL)
    st = dnnl_memory_set_data_handle(e->bias, (void *)bias);
  if (st == dnnl_success && e->reorder != NULL)
    st = dnnl_memory_set_data_handle(e->b_plain, (void *)g->b);
  return st == dnnl_success ? DS_OK : fail(err, st, &e->key, "binding memory");
}

ds_status ds_cpu_onednn_run(ds_stream *s, const ds_gemm *g, ds_error *err) {
  key k = make_key(g);
  k.pack = pack_pays(g);
  ds_cpu_gemm *cache;
  entry *e = NULL;
  const void *bias = NULL;
  int before = enter_threads(s->dev);
  ds_status st = get_cache(s, &k, &cache, err);
  if (st == DS_OK) st = find(cache, &k, &e, err);
  if (st == DS_OK) st = prepare_bias(s, g, &bias, err);
  if (st == DS_OK) st = bind(s, e, g, bias, err);
  if (st == DS_OK) {
    dnnl_status_t dst = execute(cache, e);
    if (dst != dnnl_success) st = fail(err, dst, &k, "running");
  }
  leave_threads(s->dev, before);
  return st;
}

size_t ds_cpu_onednn_pack_size(const ds_device *dev, const ds_gemm *g) {
  key k = make_key(g);
  dnnl_engine_t engine = NULL;
  dnnl_memory_desc_t md;
  size_t bytes = 0;
  int before = enter_threads(dev);
  if (dnnl_engine_create(&engine, dnnl_cpu, 0) == dnnl_success &&
      packed_desc(engine, &k, &md) == dnnl_success)
    bytes = dnnl_memory_desc_get_size(&md);
  dnnl_engine_destroy(engine);
  leave_threads(dev, before);
  return bytes;
}

ds_status ds_cpu_onednn_pack(ds_stream *s, const ds_gemm *g, void *packed, ds_error *err) {
  key k = make_key(g);
  dnnl_memory_desc_t from_md, to_md;
  dnnl_memory_t from = NULL, to = NULL;
  dnnl_primitive_t reorder = NULL;
  ds_cpu_gemm *cache;
  int before = enter_threads(s->dev);
  ds_status status = get_cache(s, &k, &cache, err);
  if (status != DS_OK) goto out;
  dnnl_status_t st = plain_b_desc(&from_md, &k);
  if (st == dnnl_success) st = packed_desc(cache->engine, &k, &to_md);
  if (st == dnnl_success) st = make_reorder(cache->engine, &from_md, &to_md, &reorder);
  if (st == dnnl_success) st = dnnl_memory_create(&from, &from_md, cache->engine, (void *)g->b);
  if (st == dnnl_success) st = dnnl_memory_create(&to, &to_md, cache->engine, packed);
  if (st == dnnl_success) {
    dnnl_exec_arg_t args[] = {{DNNL_ARG_FROM, from}, {DNNL_ARG_TO, to}};
    st = dnnl_primitive_execute(reorder, cache->stream, 2, args);
  }
  if (st == dnnl_success) st = dnnl_stream_wait(cache->stream);
  if (st != dnnl_success) status = fail(err, st, &k, "packing B");
out:
  dnnl_memory_destroy(from);
  dnnl_memory_destroy(to);
  dnnl_primitive_destroy(reorder);
  leave_threads(s->dev, before);
  return status;
}
