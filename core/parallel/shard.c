#include "parallel/shard.h"

#include <stdlib.h>
#include <string.h>

/* ---- the role of a parameter */

typedef struct role {
  ds_split split;
  ds_split_by by;
  bool of_row; /* the bias of a row-parallel matrix */
} role;

/* The last parts of a module's name; the first that fits counts. */
static const struct {
  const char *tail;
  ds_split split;
  ds_split_by by;
} rules[] = {
    {"attn.c_proj", DS_SPLIT_ROW, DS_SPLIT_BY_QUERY_HEAD},
    {"attention.dense", DS_SPLIT_ROW, DS_SPLIT_BY_QUERY_HEAD},
    {"o_proj", DS_SPLIT_ROW, DS_SPLIT_BY_QUERY_HEAD},
    {"out_proj", DS_SPLIT_ROW, DS_SPLIT_BY_QUERY_HEAD},
    {"wo", DS_SPLIT_ROW, DS_SPLIT_BY_QUERY_HEAD},
    {"c_proj", DS_SPLIT_ROW, DS_SPLIT_BY_ELEMENT},
    {"down_proj", DS_SPLIT_ROW, DS_SPLIT_BY_ELEMENT},
    {"dense_4h_to_h", DS_SPLIT_ROW, DS_SPLIT_BY_ELEMENT},
    {"w2", DS_SPLIT_ROW, DS_SPLIT_BY_ELEMENT},
    {"c_attn", DS_SPLIT_COLUMN, DS_SPLIT_BY_QKV},
    {"qkv_proj", DS_SPLIT_COLUMN, DS_SPLIT_BY_QKV},
    {"q_proj", DS_SPLIT_COLUMN, DS_SPLIT_BY_QUERY_HEAD},
    {"wq", DS_SPLIT_COLUMN, DS_SPLIT_BY_QUERY_HEAD},
    {"k_proj", DS_SPLIT_COLUMN, DS_SPLIT_BY_KV_HEAD},
    {"v_proj", DS_SPLIT_COLUMN, DS_SPLIT_BY_KV_HEAD},
    {"wk", DS_SPLIT_COLUMN, DS_SPLIT_BY_KV_HEAD},
    {"wv", DS_SPLIT_COLUMN, DS_SPLIT_BY_KV_HEAD},
    {"wte", DS_SPLIT_VOCAB, DS_SPLIT_BY_ELEMENT},
    {"embed_tokens", DS_SPLIT_VOCAB, DS_SPLIT_BY_ELEMENT},
    {"word_embeddings", DS_SPLIT_VOCAB, DS_SPLIT_BY_ELEMENT},
    {"tok_embeddings", DS_SPLIT_VOCAB, DS_SPLIT_BY_ELEMENT},
    {"lm_head", DS_SPLIT_VOCAB, DS_SPLIT_BY_ELEMENT},
    {"embed_out", DS_SPLIT_VOCAB, DS_SPLIT_BY_ELEMENT},
    {"wpe", DS_SPLIT_NONE, DS_SPLIT_BY_ELEMENT},
    {"embed_positions", DS_SPLIT_NONE, DS_SPLIT_BY_ELEMENT},
    {"position_embeddings", DS_SPLIT_NONE, DS_SPLIT_BY_ELEMENT},
};

/* Bytes of a name without its ending; all of it where it ends otherwise. */
static size_t without(const char *name, const char *ending) {
  size_t n = strlen(name), m = strlen(ending);
  return n > m && strcmp(name + n - m, ending) == 0 ? n - m : n;
}

/* Whether the first n bytes of a name end in whole parts `tail`. */
static bool ends_in(const char *name, size_t n, const char *tail) {
  size_t m = strlen(tail);
  if (n < m || strncmp(name + n - m, tail, m) != 0) return false;
  return n == m || name[n - m - 1] == '.';
}

static role role_of_matrix(const ds_shard_param *p) {
  if (p->declared) return (role){p->split, p->by, false};
  size_t n = without(p->name, ".weight");
  for (size_t i = 0; i < sizeof rules / sizeof *rules; i++)
    if (ends_in(p->name, n, rules[i].tail)) return (role){rules[i].split, rules[i].by, false};
  return (role){DS_SPLIT_COLUMN, DS_SPLIT_BY_ELEMENT, false};
}

/* "X.bias" goes with the matrix "X.weight". */
static role role_of_vector(const ds_shard_param *params, int n, const ds_shard_param *p) {
  if (p->declared) return (role){p->split, p->by, false};
  size_t module = without(p->name, ".bias");
  for (int i = 0; i < n && p->name[module]; i++) {
    const ds_shard_param *w = &params[i];
    if (w->rank != 2 || strncmp(w->name, p->name, module) != 0) continue;
    if (strcmp(w->name + module, ".weight") != 0) continue;
    role r = role_of_matrix(w);
    if (r.split == DS_SPLIT_COLUMN || r.split == DS_SPLIT_VOCAB) return r;
    return (role){.of_row = r.split == DS_SPLIT_ROW};
  }
  return (role){0};
}

static role role_of(const ds_shard_param *params, int n, const ds_shard_param *p) {
  if (p->rank == 2) return role_of_matrix(p);
  if (p->rank == 1) return role_of_vector(params, n, p);
  return (role){p->declared ? p->split : DS_SPLIT_NONE, p->declared ? p->by : DS_SPLIT_BY_ELEMENT,
                false};
}

/* ---- the division */

typedef struct span {
  int64_t begin, end;
} span;

/* Part r of N things over n; the first N mod n have one more. */
static span part(int64_t N, int64_t n, int64_t r) {
  int64_t rest = N % n, begin = r * (N / n) + (r < rest ? r : rest);
  return (span){begin, begin + N / n + (r < rest)};
}

typedef struct heads_here {
  span query, kv;
  int first, count; /* ranks that have these key/value heads */
} heads_here;

/* size <= heads->query */
static heads_here divide_heads(const ds_shard_heads *h, int rank, int size) {
  heads_here out = {.first = rank, .count = 1};
  int64_t per = h->query / h->kv; /* query heads of a key/value head */
  if (h->kv >= size) {
    out.kv = part(h->kv, size, rank);
    out.query = (span){out.kv.begin * per, out.kv.end * per};
    return out;
  }
  int64_t g = 0;
  while (part(size, h->kv, g).end <= rank) g++;
  span ranks = part(size, h->kv, g);
  span mine = part(per, ranks.end - ranks.begin, rank - ranks.begin);
  out.kv = (span){g, g + 1};
  out.query = (span){g * per + mine.begin, g * per + mine.end};
  out.first = (int)ranks.begin;
  out.count = (int)(ranks.end - ranks.begin);
  return out;
}

void ds_shard_count_heads(const ds_shard_heads *heads, int rank, int size, int64_t *query,
                          int64_t *kv) {
  heads_here here = divide_heads(heads, rank, size);
  *query = here.query.end - here.query.begin;
  *kv = here.kv.end - here.kv.begin;
}

static void add_run(ds_shard *s, span heads, int64_t dim, int64_t before) {
  s->runs[s->n_runs].begin = before + heads.begin * dim;
  s->runs[s->n_runs++].end = before + heads.end * dim;
}

static ds_status check_heads(const ds_shard_param *p, ds_split_by by, const ds_shard_heads *h,
                             int64_t length, int size, ds_error *err) {
  if (h->dim < 1)
    return ds_fail(err, DS_ERR_UNSUPPORTED,
                   "parameter \"%s\": tensor parallelism divides attention by its heads, and the "
                   "model doesn't say how many it has (ds_params_set_heads); or say how the "
                   "parameter is divided (ds_params_set_split)",
                   p->name);
  int64_t heads = by == DS_SPLIT_BY_QUERY_HEAD ? h->query
                  : by == DS_SPLIT_BY_KV_HEAD  ? h->kv
                                               : h->query + 2 * h->kv;
  if (length != heads * h->dim)
    return ds_fail(err, DS_ERR_INVALID,
                   "parameter \"%s\": %lld rows or columns to divide, but %lld heads of %lld are "
                   "%lld; say how it is divided (ds_params_set_split)",
                   p->name, (long long)length, (long long)heads, (long long)h->dim,
                   (long long)(heads * h->dim));
  if (size > h->query)
    return ds_fail(err, DS_ERR_INVALID,
                   "parameter \"%s\": %lld heads can't be divided over tensor parallel %d: a rank "
                   "would have none; at most %lld ranks",
                   p->name, (long long)h->query, size, (long long)h->query);
  if (by == DS_SPLIT_BY_QKV && size > h->kv)
    return ds_fail(
        err, DS_ERR_UNSUPPORTED,
        "parameter \"%s\": %lld key/value heads in one matrix with the query heads can't "
        "be divided over tensor parallel %d; at most %lld ranks",
        p->name, (long long)h->kv, size, (long long)h->kv);
  return DS_OK;
}

static ds_status by_heads(ds_shard *s, const ds_shard_param *p, ds_split_by by,
                          const ds_shard_heads *h, int rank, int size, ds_error *err) {
  DS_TRY(check_heads(p, by, h, p->shape[s->dim], size, err));
  heads_here here = divide_heads(h, rank, size);
  if (by == DS_SPLIT_BY_QUERY_HEAD || by == DS_SPLIT_BY_QKV) add_run(s, here.query, h->dim, 0);
  if (by == DS_SPLIT_BY_KV_HEAD) add_run(s, here.kv, h->dim, 0);
  if (by == DS_SPLIT_BY_QKV) {
    add_run(s, here.kv, h->dim, h->query * h->dim);
    add_run(s, here.kv, h->dim, (h->query + h->kv) * h->dim);
  }
  if (by == DS_SPLIT_BY_KV_HEAD && size > h->kv) {
    s->counted = rank == here.first;
    s->sum_first = here.first;
    s->sum_count = here.count; /* 1 too, so that all ranks do alike */
  }
  return DS_OK;
}

static ds_status by_elements(ds_shard *s, const ds_shard_param *p, int rank, int size,
                             ds_error *err) {
  int64_t length = p->shape[s->dim];
  if (length < size)
    return ds_fail(err, DS_ERR_INVALID,
                   "parameter \"%s\": %lld %s can't be divided over tensor parallel %d", p->name,
                   (long long)length, s->dim ? "columns" : "rows", size);
  add_run(s, part(length, size, rank), 1, 0);
  return DS_OK;
}

static ds_status plan(ds_shard *s, const ds_shard_param *p, role r, const ds_shard_heads *heads,
                      int rank, int size, bool sequence, ds_error *err) {
  *s = (ds_shard){.present = true, .split = r.split, .dim = -1, .rank = p->rank, .counted = true};
  memcpy(s->shape, p->shape, sizeof s->shape);
  if (r.split == DS_SPLIT_NONE) {
    s->counted = rank == 0;
    if (sequence && !r.of_row && size > 1) s->sum_count = size;
    return DS_OK;
  }
  s->dim = r.split == DS_SPLIT_ROW ? 1 : 0;
  if (s->dim >= p->rank)
    return ds_fail(err, DS_ERR_INVALID,
                   "parameter \"%s\": of rank %d, it can't be divided by its dimension %d", p->name,
                   p->rank, s->dim);
  if (r.by == DS_SPLIT_BY_ELEMENT || r.split == DS_SPLIT_VOCAB)
    DS_TRY(by_elements(s, p, rank, size, err));
  else
    DS_TRY(by_heads(s, p, r.by, heads, rank, size, err));
  s->shape[s->dim] = 0;
  for (int i = 0; i < s->n_runs; i++) s->shape[s->dim] += s->runs[i].end - s->runs[i].begin;
  return DS_OK;
}

ds_status ds_shard_plan(const ds_shard_param *params, int n, const ds_shard_heads *heads, int rank,
                        int size, bool sequence, ds_shard *out, ds_error *err) {
  for (int i = 0; i < n; i++) {
    role r = size > 1 ? role_of(params, n, &params[i]) : (role){0};
    DS_TRY(plan(&out[i], &params[i], r, heads, rank, size, sequence, err));
  }
  return DS_OK;
}

ds_status ds_shard_connect(ds_shard *shards, int n, ds_group *tensor, ds_group **replicas,
                           ds_error *err) {
  *replicas = NULL;
  int size = ds_group_size(tensor);
  for (int i = 0; i < n; i++) {
    ds_shard *s = &shards[i];
    if (s->sum_count == 0) continue;
    if (s->sum_count == size) {
      s->sum = tensor;
      continue;
    }
    if (!*replicas)
      DS_TRY(
          ds_group_split(tensor, "key/value", s->sum_first, ds_group_rank(tensor), replicas, err));
    s->sum = *replicas;
  }
  return DS_OK;
}

/* ---- where it lies */

int64_t ds_shard_numel(const ds_shard *s) {
  int64_t n = s->present;
  for (int i = 0; i < s->rank; i++) n *= s->shape[i];
  return n;
}

void ds_shard_walk_begin(ds_shard_walk *w, const ds_shard *s, const int64_t *whole, int64_t begin,
                         int64_t end) {
  *w = (ds_shard_walk){.shard = s, .inner = 1, .at = begin, .end = end};
  for (int i = s->dim + 1; i < s->rank; i++) w->inner *= s->shape[i];
  w->stride = s->dim >= 0 ? w->inner * whole[s->dim] : 0;
}

/* The stretch at w->at, without its neighbours. */
static ds_shard_run stretch(const ds_shard_walk *w) {
  const ds_shard *s = w->shard;
  ds_shard_run run = {w->at, w->at, w->end - w->at};
  if (s->dim < 0) return run;
  int64_t row = w->inner * s->shape[s->dim]; /* elements here of what `stride` is in the whole */
  int64_t index = w->at % row / w->inner, within = w->at % w->inner;
  int k = 0;
  while (index >= s->runs[k].end - s->runs[k].begin) {
    index -= s->runs[k].end - s->runs[k].begin;
    k++;
  }
  int64_t left = (s->runs[k].end - s->runs[k].begin - index) * w->inner - within;
  run.whole = w->at / row * w->stride + (s->runs[k].begin + index) * w->inner + within;
  if (left < run.count) run.count = left;
  return run;
}

bool ds_shard_walk_next(ds_shard_walk *w, ds_shard_run *run) {
  if (!w->shard->present || w->at >= w->end) return false;
  *run = stretch(w);
  w->at += run->count;
  while (w->at < w->end) {
    ds_shard_run next = stretch(w);
    if (next.whole != run->whole + run->count) break;
    run->count += next.count;
    w->at += next.count;
  }
  return true;
}

void ds_shard_take(const ds_shard *s, const int64_t *shape, size_t element_size, const void *whole,
                   void *local) {
  ds_shard_walk w;
  ds_shard_run r;
  ds_shard_walk_begin(&w, s, shape, 0, ds_shard_numel(s));
  while (ds_shard_walk_next(&w, &r))
    memcpy((char *)local + (size_t)r.local * element_size,
           (const char *)whole + (size_t)r.whole * element_size, (size_t)r.count * element_size);
}

void ds_shard_put(const ds_shard *s, const int64_t *shape, size_t element_size, const void *local,
                  void *whole) {
  ds_shard_walk w;
  ds_shard_run r;
  ds_shard_walk_begin(&w, s, shape, 0, ds_shard_numel(s));
  while (ds_shard_walk_next(&w, &r))
    memcpy((char *)whole + (size_t)r.whole * element_size,
           (const char *)local + (size_t)r.local * element_size, (size_t)r.count * element_size);
}
