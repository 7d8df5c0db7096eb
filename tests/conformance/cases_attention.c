/* cases_attention.c - cases for rotary positions and attention. */
#include "harness.h"

#include <string.h>

void make_rope(test_case *c) {
  int64_t dim = c->proof ? case_range(c, 2, 5) : c->big ? 64 : case_range(c, 1, 64) * 2;
  if (!c->proof && !c->big && case_chance(c, 4)) dim += 1;
  int64_t shape[4] = {c->big ? 8 : case_dim(c, 5), c->big ? 512 : case_dim(c, 33),
                      c->big ? 12 : case_dim(c, 8), dim};
  int64_t pairs = c->big || case_chance(c, 2) ? dim / 2 : case_range(c, 1, dim / 2);
  bool interleaved = case_chance(c, 2), inverse = c->proof || case_chance(c, 2);
  case_normal(c, case_in(c, 0, c->x, 4, shape), 0, 1);
  slot *pos = case_in(c, 1, DS_I32, 2, shape);
  case_ids(c, pos, c->proof ? 9 : 3000);
  slot *freq = case_in1(c, 2, DS_F32, pairs);
  for (int64_t i = 0; i < pairs; i++)
    freq->val[i] = case_round(c, DS_F32, pow(10000, -(double)i / (double)pairs));
  case_out(c, 0, c->x, 4, shape);
  case_attr_i(c, 0, interleaved, !interleaved);
  case_attr_i(c, 1, inverse, !inverse);
  case_stride_any(c, &c->in[0], true);
  case_stride_any(c, &c->out[0], true);
  if (!c->big && case_chance(c, 3))
    case_alias(&c->out[0], &c->in[0]);
  else
    case_accumulate(c, 1);
  if (!c->proof) return;
  test_case *f = case_forward(c, DS_OP_ROPE);
  for (int i = 0; i < 3; i++) {
    const slot *s = &c->in[i];
    case_values(f, case_in(f, i, s->dtype, s->rank, s->shape), s->val);
  }
  case_normal(f, &f->in[0], 0, 1);
  case_out(f, 0, c->x, 4, shape);
  case_attr_i(f, 0, interleaved, false);
  case_attr_i(f, 1, 0, true);
}

typedef struct sizes {
  int64_t batch, steps, keys, heads, groups, dim;
} sizes;

static sizes choose_sizes(test_case *c) {
  static const int64_t dims[] = {8, 16, 32, 48, 64, 80, 96, 128, 5};
  if (c->big) return (sizes){8, 512, 512, 12, 12, 64};
  int64_t most = c->index % 12 == 5 ? 400 : 130; /* now and then past several blocks of keys */
  sizes z = {.batch = case_dim(c, 3), .groups = case_dim(c, 3), .keys = case_dim(c, most)};
  if (most == 400 && !c->proof) z.keys = case_range(c, 257, most);
  z.heads = z.groups * case_range(c, 1, c->proof ? 2 : 4);
  z.dim = c->proof ? 3 : dims[c->index % 9];
  z.steps = case_chance(c, 2) ? z.keys : case_chance(c, 3) ? 1 : case_dim(c, z.keys);
  if (z.keys * z.steps * z.heads * z.dim > 2000000) z.batch = 1;
  return z;
}

/* q, k, v at in[at..at+2]: separate or out of one fused projection. Now and then scores are huge.
 */
static void attention_inputs(test_case *c, int at, sizes z) {
  const int64_t q[4] = {z.batch, z.steps, z.heads, z.dim};
  const int64_t k[4] = {z.batch, z.keys, z.groups, z.dim};
  double scale = !c->proof && !c->big && case_chance(c, 6) ? 12 : 1;
  case_normal(c, case_in(c, at, c->x, 4, q), 0, scale);
  case_normal(c, case_in(c, at + 1, c->x, 4, k), 0, scale);
  case_normal(c, case_in(c, at + 2, c->x, 4, k), 0, 1);
}

static void layouts(test_case *c, slot *q, slot *k, slot *v) {
  slot *all[3] = {q, k, v};
  if (q->shape[1] == k->shape[1] && (c->big || case_chance(c, 2))) {
    case_fuse(c, all, 3);
  } else if (case_chance(c, 3)) { /* a cache holds keys and values in one allocation */
    case_fuse(c, all + 1, 2);
    case_stride_any(c, q, true);
  } else {
    for (int i = 0; i < 3; i++) case_stride_any(c, all[i], true);
  }
}

static void kv_len(test_case *c, int at, sizes z) {
  if (c->big || case_chance(c, 2)) return;
  slot *s = case_in1(c, at, DS_I32, z.batch);
  for (int64_t b = 0; b < z.batch; b++) /* now and then shorter than T: the first see no key */
    s->val[b] = (double)case_range(c, case_chance(c, 4) ? 0 : z.steps, z.keys);
  for (int i = at - 2; i < at; i++) /* keys not in use may hold anything */
    for (int64_t e = 0; e < c->in[i].n; e++) {
      int64_t row = e / (z.groups * z.dim);
      if (row % z.keys >= (int64_t)s->val[row / z.keys]) c->in[i].val[e] = NAN;
    }
}

static void attention_attrs(test_case *c, sizes z) {
  double usual = 1 / sqrt((double)z.dim);
  bool scaled = case_chance(c, 3), causal = c->big || !case_chance(c, 3);
  int64_t window = !c->big && case_chance(c, 3) ? case_range(c, 1, z.keys + 2) : 0;
  case_attr_f(c, 0, scaled ? 0.7 * usual : usual, !scaled);
  case_attr_i(c, 1, causal, causal);
  case_attr_i(c, 2, window, window == 0);
}

void make_attention(test_case *c) {
  sizes z = choose_sizes(c);
  const int64_t stat[3] = {z.batch, z.heads, z.steps};
  attention_inputs(c, 0, z);
  layouts(c, &c->in[0], &c->in[1], &c->in[2]);
  kv_len(c, 3, z);
  attention_attrs(c, z);
  case_out(c, 0, c->x, 4, c->in[0].shape);
  case_stride_any(c, &c->out[0], true);
  if (c->big || !case_chance(c, 3)) case_out(c, 1, DS_F32, 3, stat);
}

void make_attention_backward(test_case *c) {
  test_case *f = case_forward(c, DS_OP_ATTENTION);
  sizes z = choose_sizes(c);
  const int64_t stat[3] = {z.batch, z.heads, z.steps};
  attention_inputs(f, 0, z);
  kv_len(f, 3, z);
  attention_attrs(f, z);
  case_out(f, 0, f->x, 4, f->in[0].shape);
  case_out(f, 1, DS_F32, 3, stat);
  if (!c->big) f->spec->reference(f);
  case_normal(c, case_in(c, 0, c->x, 4, f->in[0].shape), 0, 1);
  for (int i = 0; i < 3; i++) {
    slot *s = case_in(c, 1 + i, c->x, 4, f->in[i].shape);
    case_values(c, s, f->in[i].val);
    case_out(c, i, c->x, 4, f->in[i].shape);
    c->gradient_of[i] = i;
  }
  case_values(c, case_in(c, 4, c->x, 4, f->in[0].shape), f->out[0].val);
  case_values(c, case_in(c, 5, DS_F32, 3, stat), f->out[1].val);
  if (f->in[3].present) case_values(c, case_in1(c, 6, DS_I32, z.batch), f->in[3].val);
  for (int i = 0; i < 3; i++) c->attr[i] = f->attr[i], c->attr_default[i] = f->attr_default[i];
  c->n_attr = 3;
  case_stride_any(c, &c->in[0], true);
  case_stride_any(c, &c->in[4], true);
  layouts(c, &c->in[1], &c->in[2], &c->in[3]);
  layouts(c, &c->out[0], &c->out[1], &c->out[2]);
  case_accumulate(c, 7);
}
