#include "model/params.h"

#include "base/rng.h"
#include "base/str.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

typedef struct param {
  char *name;
  uint64_t hash;
  int32_t rank;
  int64_t shape[DS_MAX_RANK];
  int64_t numel, offset;
  ds_init init;
  double scale;
  bool transposed;
  bool split_said;
  ds_split split;
  ds_split_by split_by;
} param;

struct ds_params {
  param *items;
  size_t count, capacity;
  int64_t total;
  int64_t query_heads, kv_heads, head_dim; /* 0: not said */
  ds_error failure;                        /* status DS_OK: none */
};

/* FNV-1a: the random stream of a parameter is its name's hash. */
static uint64_t hash_name(const char *name) {
  uint64_t h = 0xcbf29ce484222325u;
  for (; *name; name++) h = (h ^ (unsigned char)*name) * 0x100000001b3u;
  return h;
}

ds_status ds_params_create(ds_params **out, ds_error *err) {
  *out = calloc(1, sizeof **out);
  return *out ? DS_OK : ds_fail_memory(err, "parameter declarations");
}

void ds_params_destroy(ds_params *p) {
  if (!p) return;
  for (size_t i = 0; i < p->count; i++) free(p->items[i].name);
  free(p->items);
  free(p);
}

ds_status ds_params_status(const ds_params *p, ds_error *err) {
  if (p->failure.status == DS_OK) return DS_OK;
  return ds_fail(err, p->failure.status, "%s", p->failure.message);
}

/* Elements of the shape, each dimension at least `least`. The bound leaves room for byte counts. */
static bool count_elements(int32_t rank, const int64_t *shape, int64_t least, int64_t *numel) {
  *numel = 1;
  if (rank < 0 || rank > DS_MAX_RANK) return false;
  for (int32_t i = 0; i < rank; i++)
    if (shape[i] < least || __builtin_mul_overflow(*numel, shape[i], numel) ||
        *numel > INT64_MAX / 64)
      return false;
  return true;
}

static int find(const ds_params *p, const char *name, uint64_t hash) {
  for (size_t i = 0; i < p->count; i++)
    if (p->items[i].hash == hash && strcmp(p->items[i].name, name) == 0) return (int)i;
  return -1;
}

static ds_status check(const ds_params *p, const char *name, int32_t rank, const int64_t *shape,
                       int64_t least, ds_init init, double scale, param *out, ds_error *err) {
  if (!name || !name[0]) return ds_fail(err, DS_ERR_INVALID, "a parameter without a name");
  *out = (param){.hash = hash_name(name), .rank = rank, .init = init, .scale = scale};
  if (find(p, name, out->hash) >= 0)
    return ds_fail(err, DS_ERR_INVALID, "two parameters are named \"%s\"; names must be unique",
                   name);
  if (!count_elements(rank, shape, least, &out->numel))
    return ds_fail(err, DS_ERR_INVALID,
                   "parameter \"%s\": rank 0 to %d and positive dimensions are allowed", name,
                   DS_MAX_RANK);
  if (init < DS_INIT_ZEROS || init > DS_INIT_UNIFORM)
    return ds_fail(err, DS_ERR_INVALID, "parameter \"%s\": unknown initialization %d", name,
                   (int)init);
  if (!(scale >= 0 && scale <= 1e30))
    return ds_fail(err, DS_ERR_INVALID, "parameter \"%s\": the scale %g must not be negative", name,
                   scale);
  if (p->total > INT64_MAX / 64 - out->numel - DS_PARAM_ALIGN)
    return ds_fail(err, DS_ERR_INVALID, "parameter \"%s\": too many elements", name);
  for (int32_t i = 0; i < rank; i++) out->shape[i] = shape[i];
  return DS_OK;
}

static int add(ds_params *p, const char *name, int32_t rank, const int64_t *shape, int64_t least,
               ds_init init, double scale) {
  if (!p || p->failure.status != DS_OK) return -1;
  param item;
  if (check(p, name, rank, shape, least, init, scale, &item, &p->failure) != DS_OK) return -1;
  if (ds_reserve(&p->items, &p->capacity, p->count + 1, sizeof *p->items, "parameter declarations",
                 &p->failure) != DS_OK)
    return -1;
  item.name = strdup(name);
  if (!item.name) {
    ds_fail_memory(&p->failure, "parameter declarations");
    return -1;
  }
  item.offset = p->total;
  p->total += (item.numel + DS_PARAM_ALIGN - 1) / DS_PARAM_ALIGN * DS_PARAM_ALIGN;
  p->items[p->count] = item;
  return (int)p->count++;
}

int ds_params_add(ds_params *p, const char *name, int32_t rank, const int64_t *shape, ds_init init,
                  double scale) {
  return add(p, name, rank, shape, 1, init, scale);
}

void ds_params_add_like(ds_params *p, const ds_params *from, int index, const int64_t *shape) {
  const param *f = &from->items[index];
  int added = add(p, f->name, f->rank, shape, 0, f->init, f->scale);
  if (added < 0) return;
  param *item = &p->items[added];
  item->transposed = f->transposed;
  item->split_said = f->split_said;
  item->split = f->split;
  item->split_by = f->split_by;
}

void ds_params_set_transposed(ds_params *p, int index) {
  if (!p || p->failure.status != DS_OK) return;
  if (index < 0 || (size_t)index >= p->count || p->items[index].rank != 2) {
    ds_fail(&p->failure, DS_ERR_INVALID,
            "ds_params_set_transposed(%d): only a matrix is stored transposed", index);
    return;
  }
  p->items[index].transposed = true;
}

void ds_params_set_heads(ds_params *p, int64_t n_heads, int64_t n_kv_heads, int64_t head_dim) {
  if (!p || p->failure.status != DS_OK) return;
  if (n_heads < 1 || n_kv_heads < 1 || head_dim < 1 || n_heads % n_kv_heads) {
    ds_fail(
        &p->failure, DS_ERR_INVALID,
        "ds_params_set_heads(%lld, %lld, %lld): positive numbers are wanted, and key/value heads "
        "that divide the heads",
        (long long)n_heads, (long long)n_kv_heads, (long long)head_dim);
    return;
  }
  p->query_heads = n_heads;
  p->kv_heads = n_kv_heads;
  p->head_dim = head_dim;
}

void ds_params_set_split(ds_params *p, int index, ds_split split, ds_split_by by) {
  if (!p || p->failure.status != DS_OK) return;
  bool known = split >= DS_SPLIT_NONE && split <= DS_SPLIT_VOCAB && by >= DS_SPLIT_BY_ELEMENT &&
               by <= DS_SPLIT_BY_QKV;
  if (index < 0 || (size_t)index >= p->count || !known) {
    ds_fail(&p->failure, DS_ERR_INVALID, "ds_params_set_split(%d, %d, %d): no such %s", index,
            (int)split, (int)by, known ? "parameter" : "split");
    return;
  }
  param *item = &p->items[index];
  item->split_said = true;
  item->split = split;
  item->split_by = by;
}

bool ds_params_split(const ds_params *p, int index, ds_split *split, ds_split_by *by) {
  const param *item = &p->items[index];
  *split = item->split;
  *by = item->split_by;
  return item->split_said;
}

bool ds_params_heads(const ds_params *p, int64_t *query, int64_t *kv, int64_t *dim) {
  *query = p->query_heads;
  *kv = p->kv_heads;
  *dim = p->head_dim;
  return p->head_dim > 0;
}

int ds_params_count(const ds_params *p) {
  return (int)p->count;
}
const char *ds_params_name(const ds_params *p, int index) {
  return index >= 0 && (size_t)index < p->count ? p->items[index].name : NULL;
}
int32_t ds_params_shape(const ds_params *p, int index, int64_t *shape) {
  if (index < 0 || (size_t)index >= p->count) return 0;
  const param *item = &p->items[index];
  for (int32_t i = 0; i < item->rank; i++) shape[i] = item->shape[i];
  return item->rank;
}

int64_t ds_params_numel(const ds_params *p, int index) {
  return p->items[index].numel;
}
ds_init ds_params_init(const ds_params *p, int index, double *scale) {
  if (scale) *scale = p->items[index].scale;
  return p->items[index].init;
}
bool ds_params_transposed(const ds_params *p, int index) {
  return p->items[index].transposed;
}
int64_t ds_params_offset(const ds_params *p, int index) {
  return p->items[index].offset;
}
int64_t ds_params_total(const ds_params *p) {
  return p->total;
}
int ds_params_find(const ds_params *p, const char *name) {
  return find(p, name, hash_name(name));
}

/* Box-Muller's both halves: twice as fast as ds_rng_normal(), which matters for 10^8 weights. */
static void fill_normal(ds_rng *rng, double scale, float *out, int64_t n) {
  for (int64_t i = 0; i < n; i += 2) {
    double radius = scale * sqrt(-2 * log(1 - ds_rng_uniform(rng)));
    double angle = 6.283185307179586 * ds_rng_uniform(rng);
    out[i] = (float)(radius * cos(angle));
    if (i + 1 < n) out[i + 1] = (float)(radius * sin(angle));
  }
}

ds_status ds_params_init_values(const ds_params *p, int index, uint64_t seed, float *out) {
  if (index < 0 || (size_t)index >= p->count) return DS_ERR_INVALID;
  const param *item = &p->items[index];
  ds_rng rng;
  ds_rng_init(&rng, seed, item->hash);
  switch (item->init) {
    case DS_INIT_NORMAL: fill_normal(&rng, item->scale, out, item->numel); break;
    case DS_INIT_UNIFORM:
      for (int64_t i = 0; i < item->numel; i++)
        out[i] = (float)(item->scale * (2 * ds_rng_uniform(&rng) - 1));
      break;
    default:
      for (int64_t i = 0; i < item->numel; i++) out[i] = item->init == DS_INIT_ONES;
  }
  return DS_OK;
}
