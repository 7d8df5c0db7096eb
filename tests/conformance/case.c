/* case.c - builds test cases: dimensions, values, layouts. */
#include "harness.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

void case_init(test_case *c, const op_spec *spec, int variant, int index, uint64_t seed) {
  memset(c, 0, sizeof *c);
  c->spec = spec;
  c->variant = variant;
  c->index = index;
  c->x = variant == 1 ? DS_BF16 : variant == 2 ? DS_F16 : DS_F32;
  c->rng = seed ^ ((uint64_t)spec->id << 40) ^ ((uint64_t)variant << 32) ^ (uint64_t)index;
  c->trim = (uint32_t)harness_random(&c->rng);
}

void case_finish(test_case *c) {
  if (c->forward) {
    case_finish(c->forward);
    free(c->forward);
  }
  harness_pool_free(&c->mem);
}

test_case *case_forward(test_case *c, uint32_t op) {
  test_case *f = calloc(1, sizeof *f);
  if (!f) {
    fprintf(stderr, "conformance: out of host memory\n");
    exit(2);
  }
  case_init(f, ops_find(op), c->variant, c->index, c->rng);
  f->x = c->x;
  f->proof = c->proof;
  f->big = c->big;
  c->forward = f;
  return f;
}

double *case_array(test_case *c, int64_t n) {
  return harness_alloc(&c->mem, (size_t)n, sizeof(double));
}

int64_t case_range(test_case *c, int64_t low, int64_t high) {
  return low + (int64_t)(harness_random(&c->rng) % (uint64_t)(high - low + 1));
}

bool case_chance(test_case *c, int one_in) {
  return case_range(c, 1, one_in) == 1;
}

int64_t case_dim(test_case *c, int64_t high) {
  static const int64_t edges[] = {1,   2,   3,   4,   5,   7,   8,   13,  15,  16,   17,
                                  31,  32,  33,  48,  63,  64,  65,  96,  97,  127,  128,
                                  129, 192, 255, 256, 257, 384, 511, 512, 768, 1000, 1031};
  if (c->proof) return case_range(c, 1, high < 4 ? high : 4);
  if (case_chance(c, 3)) return case_range(c, 1, high);
  int count = 0;
  while (count < (int)(sizeof edges / sizeof *edges) && edges[count] <= high) count++;
  return edges[case_range(c, 0, count - 1)];
}

double case_round(const test_case *c, int32_t dtype, double v) {
  return c->proof ? v : harness_round(dtype, v);
}

static void contiguous(slot *s) {
  int64_t step = 1;
  for (int d = s->rank - 1; d >= 0; d--) {
    s->stride[d] = step;
    step *= s->shape[d];
  }
}

static slot *set_up(test_case *c, slot *s, int32_t dtype, int rank, const int64_t *shape) {
  s->present = true;
  s->dtype = dtype;
  s->rank = rank;
  s->n = 1;
  for (int d = 0; d < rank; d++) s->n *= s->shape[d] = shape[d];
  contiguous(s);
  s->store = c->n_stores++;
  s->offset = !c->big && case_chance(c, 3) ? case_range(c, 1, 15) : 0;
  s->val = case_array(c, s->n);
  return s;
}

slot *case_in(test_case *c, int i, int32_t dtype, int rank, const int64_t *shape) {
  return set_up(c, &c->in[i], dtype, rank, shape);
}

slot *case_out(test_case *c, int i, int32_t dtype, int rank, const int64_t *shape) {
  return set_up(c, &c->out[i], dtype, rank, shape);
}

slot *case_in1(test_case *c, int i, int32_t dtype, int64_t n) {
  return case_in(c, i, dtype, 1, &n);
}

slot *case_out1(test_case *c, int i, int32_t dtype, int64_t n) {
  return case_out(c, i, dtype, 1, &n);
}

int case_rows(test_case *c, int64_t rows, int64_t cols, int64_t *shape) {
  int rank = 0;
  for (int64_t f = 2; rank < 2 && f <= 7 && !c->big; f++)
    if (rows % f == 0 && case_chance(c, 2)) {
      shape[rank++] = f;
      rows /= f;
    }
  shape[rank++] = rows;
  shape[rank++] = cols;
  return rank;
}

void case_normal(test_case *c, slot *s, double mean, double scale) {
  for (int64_t i = 0; i < s->n; i++) {
    double v = c->big ? harness_uniform(&c->rng) - 0.5 : harness_normal(&c->rng);
    s->val[i] = case_round(c, s->dtype, mean + scale * v);
  }
}

void case_ids(test_case *c, slot *s, int64_t limit) {
  for (int64_t i = 0; i < s->n; i++) s->val[i] = (double)case_range(c, 0, limit - 1);
}

void case_values(test_case *c, slot *s, const double *from) {
  for (int64_t i = 0; i < s->n; i++) s->val[i] = case_round(c, s->dtype, from[i]);
}

void case_alias(slot *out, const slot *in) {
  out->store = in->store;
  out->offset = in->offset;
  memcpy(out->stride, in->stride, sizeof out->stride);
}

void case_stride_rows(test_case *c, slot *s) {
  if (!case_chance(c, 3)) s->stride[0] = s->shape[1] + case_range(c, 1, 40);
}

void case_stride_any(test_case *c, slot *s, bool last_contiguous) {
  int order[DS_MAX_RANK];
  if (c->big || case_chance(c, 3)) return;
  for (int d = 0; d < s->rank; d++) order[d] = d;
  int free_dims = last_contiguous ? s->rank - 1 : s->rank;
  for (int d = free_dims - 1; d > 0; d--) {
    int e = (int)case_range(c, 0, d);
    int swap = order[d];
    order[d] = order[e];
    order[e] = swap;
  }
  int64_t step = !last_contiguous && case_chance(c, 3) ? case_range(c, 2, 3) : 1;
  for (int d = s->rank - 1; d >= 0; d--) {
    s->stride[order[d]] = step;
    step *= s->shape[order[d]];
    if (case_chance(c, 3)) step += case_range(c, 1, 9);
  }
}

void case_fuse(test_case *c, slot **s, int count) {
  (void)c;
  int64_t width = 0;
  for (int i = 0; i < count; i++) width += s[i]->shape[2] * s[i]->shape[3];
  int64_t offset = s[0]->offset;
  for (int i = 0; i < count; i++) {
    s[i]->store = s[0]->store;
    s[i]->offset = offset;
    s[i]->stride[0] = s[i]->shape[1] * width;
    s[i]->stride[1] = width;
    s[i]->stride[2] = s[i]->shape[3];
    s[i]->stride[3] = 1;
    offset += s[i]->shape[2] * s[i]->shape[3];
  }
}

void case_accumulate(test_case *c, uint32_t mask) {
  if (c->proof || c->big) return;
  uint32_t turn = (uint32_t)c->index;
  for (int i = 0; i < MAX_OUT; i++) {
    if (!(mask >> i & 1) || !c->out[i].present) continue;
    if (turn & 1) c->accumulate |= 1u << i;
    turn >>= 1;
  }
  for (int i = 0; i < MAX_OUT; i++) {
    slot *s = &c->out[i];
    if (!(c->accumulate >> i & 1)) continue;
    s->prior = case_array(c, s->n);
    for (int64_t e = 0; e < s->n; e++)
      s->prior[e] = harness_round(s->dtype, harness_normal(&c->rng));
    for (int j = 0; j < MAX_IN; j++)
      if (c->in[j].present && c->in[j].store == s->store)
        memcpy(s->prior, c->in[j].val, (size_t)s->n * sizeof *s->prior);
  }
}

static void set_attr(test_case *c, int i, ds_attr a, bool is_default) {
  c->attr[i] = a;
  c->attr_default[i] = is_default;
  if (c->n_attr <= i) c->n_attr = i + 1;
}

void case_attr_f(test_case *c, int i, double value, bool is_default) {
  set_attr(c, i, (ds_attr){.f = value}, is_default);
}

void case_attr_i(test_case *c, int i, int64_t value, bool is_default) {
  set_attr(c, i, (ds_attr){.i = value}, is_default);
}

int64_t case_offset(const slot *s, int64_t element) {
  int64_t at = s->offset;
  for (int d = s->rank - 1; d >= 0; d--) {
    at += element % s->shape[d] * s->stride[d];
    element /= s->shape[d];
  }
  return at;
}

double *case_mag(test_case *c, int out) {
  slot *s = &c->out[out];
  if (!s->mag) s->mag = case_array(c, s->n);
  return s->mag;
}

double *case_mag_x(test_case *c, int out) {
  slot *s = &c->out[out];
  if (!s->mag_x) s->mag_x = case_array(c, s->n);
  return s->mag_x;
}

static size_t describe_slot(const slot *s, const char *name, int i, char *text, size_t room) {
  char dims[160] = "";
  size_t used = 0;
  for (int d = 0; d < s->rank && used < sizeof dims; d++)
    used += (size_t)snprintf(dims + used, sizeof dims - used, "%s%lld:%lld", d ? "," : "",
                             (long long)s->shape[d], (long long)s->stride[d]);
  int n = snprintf(text, room, " %s%d[%s]@%d+%lld", name, i, dims, s->store, (long long)s->offset);
  return n > 0 ? (size_t)n : 0;
}

void case_describe(const test_case *c, char *text, size_t room) {
  size_t used = (size_t)snprintf(text, room, "case %d acc=%u shape:stride@store+offset", c->index,
                                 c->accumulate);
  for (int i = 0; i < MAX_IN && used < room; i++)
    if (c->in[i].present) used += describe_slot(&c->in[i], "in", i, text + used, room - used);
  for (int i = 0; i < MAX_OUT && used < room; i++)
    if (c->out[i].present) used += describe_slot(&c->out[i], "out", i, text + used, room - used);
  for (int i = 0; i < c->n_attr && used < room; i++)
    used += (size_t)snprintf(text + used, room - used, " attr%d=%lld|%g", i,
                             (long long)c->attr[i].i, c->attr[i].f);
}
