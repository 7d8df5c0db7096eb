#include "zero/layout.h"

#include <stdlib.h>
#include <string.h>

/* Length of the module's name within a parameter's. */
static size_t module_length(const char *name) {
  const char *dot = NULL;
  for (const char *at = name; *at;) {
    size_t n = strcspn(at, ".");
    if (n > 0 && strspn(at, "0123456789") == n) return (size_t)(at - name) + n;
    if (!at[n]) break;
    dot = at + n;
    at += n + 1;
  }
  return dot ? (size_t)(dot - name) : strlen(name);
}

static bool same_module(const char *a, const char *b) {
  size_t n = module_length(a);
  return n == module_length(b) && strncmp(a, b, n) == 0;
}

static bool is_persistent(const ds_params *p, int i, const ds_layout_rules *r) {
  return ds_params_numel(p, i) <= r->persistent;
}

static int64_t room(const ds_params *p, int i) {
  int64_t n = ds_params_numel(p, i);
  return (n + DS_PARAM_ALIGN - 1) / DS_PARAM_ALIGN * DS_PARAM_ALIGN;
}

/* Whether parameter `next` begins another unit than u, whose last member is `last`. */
static bool ends(const ds_params *p, const ds_layout_rules *r, int64_t length, int last, int next) {
  if (length + room(p, next) > r->most) return true;
  return length >= r->least && !is_persistent(p, next, r) &&
         !same_module(ds_params_name(p, last), ds_params_name(p, next));
}

static ds_status close_unit(ds_unit_layout *l, ds_unit *u, int64_t length, ds_error *err) {
  int64_t padded = ds_partition_padded(length, l->shards, l->align), end;
  if (padded < 0 || __builtin_add_overflow(u->place.begin, padded, &end))
    return ds_fail(err, DS_ERR_INVALID, "the model has too many parameters");
  u->place.end = end;
  l->total = end;
  return DS_OK;
}

/* Units of all parameters of one kind, in the order of declaration. *n: of order. */
static ds_status add_kind(ds_unit_layout *l, const ds_params *p, const bool *frozen,
                          const ds_layout_rules *r, bool want_frozen, bool want_persistent, int *n,
                          ds_error *err) {
  ds_unit *u = NULL;
  int64_t length = 0;
  for (int i = 0; i < l->n_params; i++) {
    if (frozen[i] != want_frozen || is_persistent(p, i, r) != want_persistent) continue;
    if (u && ends(p, r, length, l->order[*n - 1], i)) {
      DS_TRY(close_unit(l, u, length, err));
      u = NULL;
    }
    if (!u) {
      u = &l->units[l->n_units++];
      *u = (ds_unit){{l->total, l->total}, *n, 0, want_frozen, want_persistent};
      length = 0;
    }
    l->offset[i] = u->place.begin + length;
    l->unit_of[i] = l->n_units - 1;
    l->order[(*n)++] = i;
    u->count++;
    if (__builtin_add_overflow(length, room(p, i), &length))
      return ds_fail(err, DS_ERR_INVALID, "the model has too many parameters");
  }
  return u ? close_unit(l, u, length, err) : DS_OK;
}

ds_status ds_layout_init(ds_unit_layout *out, const ds_params *p, const bool *frozen,
                         const ds_layout_rules *rules, ds_error *err) {
  int count = ds_params_count(p), n = 0;
  *out = (ds_unit_layout){.shards = rules->shards, .n_params = count, .align = rules->align};
  out->offset = calloc((size_t)count + 1, sizeof *out->offset);
  out->unit_of = calloc((size_t)count + 1, sizeof *out->unit_of);
  out->order = calloc((size_t)count + 1, sizeof *out->order);
  out->units = calloc((size_t)count + 1, sizeof *out->units);
  ds_status status = out->offset && out->unit_of && out->order && out->units
                         ? DS_OK
                         : ds_fail_memory(err, "ZeRO's layout");
  for (int kind = 0; kind < 4 && status == DS_OK; kind++) {
    status = add_kind(out, p, frozen, rules, kind >= 2, kind % 2 == 0, &n, err);
    if (kind == 1) out->trained = out->total;
  }
  if (status != DS_OK) ds_layout_finish(out);
  return status;
}

void ds_layout_finish(ds_unit_layout *l) {
  free(l->offset);
  free(l->unit_of);
  free(l->order);
  free(l->units);
  memset(l, 0, sizeof *l);
}

int64_t ds_layout_shard(const ds_unit_layout *l, int unit) {
  return (l->units[unit].place.end - l->units[unit].place.begin) / l->shards;
}

ds_range ds_layout_own(const ds_unit_layout *l, int unit, int rank) {
  int64_t n = ds_layout_shard(l, unit), begin = l->units[unit].place.begin + n * rank;
  return (ds_range){begin, begin + n};
}

int64_t ds_layout_local(const ds_unit_layout *l, int unit) {
  return l->units[unit].place.begin / l->shards;
}

ds_range ds_layout_part(const ds_unit_layout *l, const ds_params *p, int param, int rank) {
  int64_t at = l->offset[param];
  ds_range all = {at, at + ds_params_numel(p, param)};
  ds_range part = ds_partition_intersect(all, ds_layout_own(l, l->unit_of[param], rank));
  if (part.begin >= part.end) return (ds_range){0, 0};
  return (ds_range){part.begin - at, part.end - at};
}
