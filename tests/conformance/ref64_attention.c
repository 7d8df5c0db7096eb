/* ref64_attention.c - rotary positions and attention in float64.
 *
 * Rotary: Su et al. 2021; each pair (a, b) turns by angle = pos * inv_freq. Attention: p =
 * softmax(scale q k^T + mask), o = p v. Its gradient from the saved o and lse: p = exp(s - lse),
 * dp = do v^T, ds = p (dp - sum(do o)), dq = scale ds k, dk = scale ds^T q, dv = p^T do.
 * mag_x holds what a kernel loses that rounds p, ds or the saved o to bf16 between products.
 */
#include "harness.h"

void ref64_op_rope(test_case *c) {
  const slot *x = &c->in[0];
  int64_t heads = x->shape[2], dim = x->shape[3], pairs = c->in[2].n;
  bool interleaved = c->attr[0].i != 0;
  double *mag = case_mag(c, 0), *y = c->out[0].val;
  for (int64_t r = 0; r < x->n / dim; r++) {
    double pos = c->in[1].val[r / heads];
    for (int64_t i = 0; i < dim; i++) {
      y[r * dim + i] = x->val[r * dim + i];
      mag[r * dim + i] = fabs(x->val[r * dim + i]);
    }
    for (int64_t i = 0; i < pairs; i++) {
      int64_t at = r * dim + (interleaved ? 2 * i : i), to = at + (interleaved ? 1 : pairs);
      double angle = pos * c->in[2].val[i], a = x->val[at], b = x->val[to];
      double sine = c->attr[1].i ? -sin(angle) : sin(angle);
      y[at] = a * cos(angle) - b * sine;
      y[to] = b * cos(angle) + a * sine;
      mag[at] = mag[to] = (fabs(a) + fabs(b)) * (1 + fabs(angle));
    }
  }
}

typedef struct view {
  const double *q, *k, *v;          /* rows of this query, key and value */
  int64_t k_step, dim, first, last; /* keys seen: first <= j < last */
  double scale;
} view;

/* Which keys query t of batch b and head h sees, and where they are. */
static view look(const test_case *c, int q_at, int len_at, int64_t b, int64_t t, int64_t h) {
  const slot *q = &c->in[q_at], *k = &c->in[q_at + 1], *v = &c->in[q_at + 2];
  int64_t steps = q->shape[1], keys = k->shape[1], heads = q->shape[2], groups = k->shape[2];
  int64_t dim = q->shape[3], group = h / (heads / groups);
  int64_t len = c->in[len_at].present ? (int64_t)c->in[len_at].val[b] : keys;
  int64_t position = len - steps + t, window = c->attr[2].i;
  view w = {.q = q->val + ((b * steps + t) * heads + h) * dim,
            .k = k->val + (b * keys * groups + group) * dim,
            .v = v->val + (b * keys * groups + group) * dim,
            .k_step = groups * dim,
            .dim = dim,
            .last = len,
            .scale = c->attr[0].f};
  if (c->attr[1].i && position + 1 < len) w.last = position + 1;
  if (window > 0 && position - window + 1 > 0) w.first = position - window + 1;
  return w;
}

static double score(const view *w, int64_t j, double *mag) {
  double s = 0, m = 0;
  for (int64_t d = 0; d < w->dim; d++) {
    s += w->q[d] * w->k[j * w->k_step + d];
    m += fabs(w->q[d] * w->k[j * w->k_step + d]);
  }
  *mag = fmax(*mag, m * fabs(w->scale));
  return s * w->scale;
}

static void attend(test_case *c, int64_t b, int64_t t, int64_t h) {
  const slot *q = &c->in[0];
  view w = look(c, 0, 3, b, t, h);
  int64_t row = ((b * q->shape[1] + t) * q->shape[2] + h) * w.dim;
  int64_t stat = (b * q->shape[2] + h) * q->shape[1] + t;
  double *mag = case_mag(c, 0) + row, *mag_x = case_mag_x(c, 0) + row, *o = c->out[0].val + row;
  double top = -INFINITY, sum = 0, reach = 0;
  for (int64_t j = w.first; j < w.last; j++) top = fmax(top, score(&w, j, &reach));
  for (int64_t j = w.first; j < w.last; j++) sum += exp(score(&w, j, &reach) - top);
  for (int64_t d = 0; d < w.dim; d++) o[d] = mag[d] = mag_x[d] = 0;
  for (int64_t j = w.first; j < w.last; j++) {
    double p = exp(score(&w, j, &reach) - top) / sum;
    for (int64_t d = 0; d < w.dim; d++) {
      double v = w.v[j * w.k_step + d];
      o[d] += p * v;
      mag[d] += p * fabs(v) * (1 + reach);
      mag_x[d] += p * fabs(v);
    }
  }
  if (c->out[1].present) {
    c->out[1].val[stat] = top + log(sum); /* -inf + log(0) = -inf: sees no key */
    case_mag(c, 1)[stat] = 1 + reach + log(1 + sum);
  }
}

void ref64_op_attention(test_case *c) {
  const int64_t *shape = c->in[0].shape;
  for (int64_t b = 0; b < shape[0]; b++)
    for (int64_t t = 0; t < shape[1]; t++)
      for (int64_t h = 0; h < shape[2]; h++) attend(c, b, t, h);
}

static void attend_backward(test_case *c, int64_t b, int64_t t, int64_t h) {
  const slot *q = &c->in[1];
  view w = look(c, 1, 6, b, t, h);
  int64_t row = ((b * q->shape[1] + t) * q->shape[2] + h) * w.dim;
  int64_t at = w.k - c->in[2].val;
  double lse = c->in[5].val[(b * q->shape[2] + h) * q->shape[1] + t];
  const double *dout = c->in[0].val + row, *o = c->in[4].val + row;
  double *dq = c->out[0].val, *dk = c->out[1].val, *dv = c->out[2].val;
  double *mq = case_mag(c, 0), *mk = case_mag(c, 1), *mv = case_mag(c, 2);
  double *xq = case_mag_x(c, 0), *xk = case_mag_x(c, 1), *xv = case_mag_x(c, 2);
  double delta = 0, mag_delta = 0, reach = 0;
  for (int64_t d = 0; d < w.dim; d++) {
    delta += dout[d] * o[d];
    mag_delta += fabs(dout[d] * o[d]);
  }
  for (int64_t j = w.first; j < w.last; j++) {
    double p = exp(score(&w, j, &reach) - lse), dp = 0, mag_dp = 0;
    double loose = 1 + reach + fabs(lse);
    for (int64_t d = 0; d < w.dim; d++) {
      dp += dout[d] * w.v[j * w.k_step + d];
      mag_dp += fabs(dout[d] * w.v[j * w.k_step + d]);
    }
    double ds = p * (dp - delta) * w.scale, mag = p * (mag_dp + mag_delta) * fabs(w.scale);
    for (int64_t d = 0; d < w.dim; d++) {
      int64_t key = at + j * w.k_step + d, query = row + d;
      double k = c->in[2].val[key], qd = c->in[1].val[query];
      dq[query] += ds * k;
      mq[query] += mag * loose * fabs(k);
      xq[query] += mag * fabs(k);
      dk[key] += ds * qd;
      mk[key] += mag * loose * fabs(qd);
      xk[key] += mag * fabs(qd);
      dv[key] += p * dout[d];
      mv[key] += p * loose * fabs(dout[d]);
      xv[key] += p * fabs(dout[d]);
    }
  }
}

void ref64_op_attention_backward(test_case *c) {
  const int64_t *shape = c->in[1].shape;
  for (int i = 0; i < 3; i++)
    for (int64_t e = 0; e < c->out[i].n; e++) c->out[i].val[e] = 0;
  for (int64_t b = 0; b < shape[0]; b++)
    for (int64_t t = 0; t < shape[1]; t++)
      for (int64_t h = 0; h < shape[2]; h++) attend_backward(c, b, t, h);
}
