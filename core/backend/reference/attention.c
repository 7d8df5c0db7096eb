/* attention.c - attention with grouped key/value heads, and its gradient.
 *
 * One query at a time against the keys it sees: scratch is a row of scores, never the T x S matrix.
 * The gradient recomputes the probabilities from lse (as in Dao et al., "FlashAttention", 2022).
 */
#include <math.h>
#include <string.h>

#include "backend/reference/element.h"
#include "backend/reference/op.h"
#include "base/status.h"

typedef struct attention {
  int64_t batch, time, keys, heads, groups, width;
  double scale;
  int causal;
  int64_t window;
  const int32_t *kv_len; /* NULL: all keys */
} attention;

static attention read_attention(const ds_reference_args *a, const ds_tensor *kv_len) {
  attention t = {.batch = ds_reference_dim(a, 'B'),
                 .time = ds_reference_dim(a, 'T'),
                 .keys = ds_reference_dim(a, 'S'),
                 .heads = ds_reference_dim(a, 'H'),
                 .groups = ds_reference_dim(a, 'G'),
                 .width = ds_reference_dim(a, 'D')};
  t.scale = ds_reference_attr_f(a, 0, 1 / sqrt((double)t.width));
  t.causal = ds_reference_attr_i(a, 1, 1) != 0;
  t.window = ds_reference_attr_i(a, 2, 0);
  t.kv_len = kv_len ? kv_len->data : NULL;
  return t;
}

static ds_status attention_check(const ds_reference_args *a, ds_error *err) {
  attention t = read_attention(a, NULL);
  if (t.groups > 0 ? t.heads % t.groups != 0 : t.heads > 0) {
    return ds_fail(err, DS_ERR_INVALID, "%s: %lld key/value heads do not divide %lld query heads",
                   a->name, (long long)t.groups, (long long)t.heads);
  }
  if (t.window < 0) {
    return ds_fail(err, DS_ERR_INVALID, "%s: attribute 2 (window) is %lld, must not be negative",
                   a->name, (long long)t.window);
  }
  return DS_OK;
}

/* kv_len comes with the data, so it is checked when the op runs. */
static ds_status check_kv_len(const ds_reference_args *a, const attention *t, ds_error *err) {
  for (int64_t b = 0; t->kv_len && b < t->batch; b++) {
    if (t->kv_len[b] >= 0 && t->kv_len[b] <= t->keys) continue;
    return ds_fail(err, DS_ERR_INVALID, "%s: \"kv_len\"[%lld] is %d, there are %lld keys", a->name,
                   (long long)b, (int)t->kv_len[b], (long long)t->keys);
  }
  return DS_OK;
}

/* Query `time` of batch b sees the keys from *first up to, not including, *end. */
static void visible(const attention *t, int64_t b, int64_t time, int64_t *first, int64_t *end) {
  int64_t length = t->kv_len ? t->kv_len[b] : t->keys;
  int64_t position = length - t->time + time;
  *end = t->causal && position + 1 < length ? position + 1 : length;
  *first = t->window > 0 && t->window <= position ? position - t->window + 1 : 0;
  if (*end < *first) *end = *first;
}

/* The first element of a head in a strided [B,T,H,D] tensor. */
static int64_t head_at(const ds_tensor *t, int64_t b, int64_t time, int64_t h) {
  return b * t->stride[0] + time * t->stride[1] + h * t->stride[2];
}

static double dot(const ds_tensor *x, int64_t at_x, const ds_tensor *y, int64_t at_y, int64_t n) {
  double sum = 0;
  for (int64_t i = 0; i < n; i++) {
    sum += (double)ds_element_get(x, at_x + i) * (double)ds_element_get(y, at_y + i);
  }
  return sum;
}

/* sum[i] += w * x[i] */
static void add_scaled(double *sum, double w, const ds_tensor *x, int64_t at, int64_t n) {
  for (int64_t i = 0; i < n; i++) sum[i] += w * (double)ds_element_get(x, at + i);
}

static void put_row(const ds_tensor *out, int64_t at, const double *v, int64_t n, double factor,
                    int accumulate) {
  for (int64_t i = 0; i < n; i++) ds_element_put(out, at + i, factor * v[i], accumulate);
}

/* ---------------------------------------------------------------- forward */

static size_t attention_workspace(const ds_reference_args *a) {
  return (size_t)(ds_reference_dim(a, 'S') + ds_reference_dim(a, 'D')) * sizeof(double);
}

static void forward_query(const ds_reference_args *a, const attention *t, int64_t b, int64_t h,
                          int64_t time) {
  const ds_tensor *q = ds_reference_in(a, 0), *k = ds_reference_in(a, 1);
  const ds_tensor *v = ds_reference_in(a, 2);
  const ds_tensor *o = ds_reference_out(a, 0), *lse = ds_reference_out(a, 1);
  double *score = a->op->workspace, *sum = score + t->keys;
  int64_t first, end, g = h / (t->heads / t->groups), at_q = head_at(q, b, time, h);
  visible(t, b, time, &first, &end);
  double most = -INFINITY, total = 0;
  for (int64_t j = first; j < end; j++) {
    score[j] = t->scale * dot(q, at_q, k, head_at(k, b, j, g), t->width);
    most = fmax(most, score[j]);
  }
  memset(sum, 0, (size_t)t->width * sizeof *sum);
  for (int64_t j = first; j < end; j++) {
    double p = exp(score[j] - most);
    total += p;
    add_scaled(sum, p, v, head_at(v, b, j, g), t->width);
  }
  put_row(o, head_at(o, b, time, h), sum, t->width, first < end ? 1 / total : 1, 0);
  if (lse) {
    ds_element_put(lse, (b * t->heads + h) * t->time + time,
                   first < end ? most + log(total) : -INFINITY, 0);
  }
}

static ds_status attention_run(const ds_reference_args *a, ds_error *err) {
  attention t = read_attention(a, ds_reference_in(a, 3));
  DS_TRY(check_kv_len(a, &t, err));
  for (int64_t b = 0; b < t.batch; b++) {
    for (int64_t h = 0; h < t.heads; h++) {
      for (int64_t time = 0; time < t.time; time++) forward_query(a, &t, b, h, time);
    }
  }
  return DS_OK;
}

/* ---------------------------------------------------------------- gradient */

/* dk and dv of one key/value head, and one row of dq. */
static size_t backward_workspace(const ds_reference_args *a) {
  return (size_t)(2 * ds_reference_dim(a, 'S') + 1) * (size_t)ds_reference_dim(a, 'D') *
         sizeof(double);
}

/* With p the probability of a key and d = do . v: dv += p do, ds = p (d - do . o),
 * dq += scale ds k, dk += scale ds q. */
static void backward_query(const ds_reference_args *a, const attention *t, int64_t b, int64_t h,
                           int64_t time, double *dk_sum, double *dv_sum, double *dq_sum) {
  const ds_tensor *d_o = ds_reference_in(a, 0), *q = ds_reference_in(a, 1);
  const ds_tensor *k = ds_reference_in(a, 2), *v = ds_reference_in(a, 3);
  const ds_tensor *o = ds_reference_in(a, 4), *lse = ds_reference_in(a, 5);
  const ds_tensor *dq = ds_reference_out(a, 0);
  int64_t first, end, g = h / (t->heads / t->groups), n = t->width;
  int64_t at_q = head_at(q, b, time, h), at_do = head_at(d_o, b, time, h);
  double row_lse = (double)ds_element_get(lse, (b * t->heads + h) * t->time + time);
  double delta = dot(d_o, at_do, o, head_at(o, b, time, h), n);
  visible(t, b, time, &first, &end);
  memset(dq_sum, 0, (size_t)n * sizeof *dq_sum);
  for (int64_t j = first; j < end; j++) {
    int64_t at_k = head_at(k, b, j, g), at_v = head_at(v, b, j, g);
    double p = exp(t->scale * dot(q, at_q, k, at_k, n) - row_lse);
    double ds = p * (dot(d_o, at_do, v, at_v, n) - delta);
    add_scaled(dv_sum + j * n, p, d_o, at_do, n);
    add_scaled(dk_sum + j * n, ds, q, at_q, n);
    add_scaled(dq_sum, ds, k, at_k, n);
  }
  put_row(dq, head_at(dq, b, time, h), dq_sum, n, t->scale, ds_reference_acc(a, 0));
}

static void backward_group(const ds_reference_args *a, const attention *t, int64_t b, int64_t g) {
  const ds_tensor *dk = ds_reference_out(a, 1), *dv = ds_reference_out(a, 2);
  int64_t per_group = t->heads / t->groups, n = t->width;
  double *dk_sum = a->op->workspace, *dv_sum = dk_sum + t->keys * n, *dq_sum = dv_sum + t->keys * n;
  memset(dk_sum, 0, (size_t)(2 * t->keys * n) * sizeof *dk_sum);
  for (int64_t h = g * per_group; h < (g + 1) * per_group; h++) {
    for (int64_t time = 0; time < t->time; time++) {
      backward_query(a, t, b, h, time, dk_sum, dv_sum, dq_sum);
    }
  }
  for (int64_t j = 0; j < t->keys; j++) {
    put_row(dk, head_at(dk, b, j, g), dk_sum + j * n, n, t->scale, ds_reference_acc(a, 1));
    put_row(dv, head_at(dv, b, j, g), dv_sum + j * n, n, 1, ds_reference_acc(a, 2));
  }
}

static ds_status attention_backward_run(const ds_reference_args *a, ds_error *err) {
  attention t = read_attention(a, ds_reference_in(a, 6));
  DS_TRY(check_kv_len(a, &t, err));
  if (t.width == 0) return DS_OK;
  for (int64_t b = 0; b < t.batch; b++) {
    for (int64_t g = 0; g < t.groups; g++) backward_group(a, &t, b, g);
  }
  return DS_OK;
}

const ds_reference_op ds_reference_op_attention = {
    .in = {{"q", "BTHD", DS_REFERENCE_X, DS_REFERENCE_ROWS, 0},
           {"k", "BSGD", DS_REFERENCE_X, DS_REFERENCE_ROWS, 0},
           {"v", "BSGD", DS_REFERENCE_X, DS_REFERENCE_ROWS, 0},
           {"kv_len", "B", DS_REFERENCE_I32, DS_REFERENCE_OPTIONAL, 0}},
    .out = {{"o", "BTHD", DS_REFERENCE_X, DS_REFERENCE_ROWS, 0},
            {"lse", "BHT", DS_REFERENCE_F32, DS_REFERENCE_OPTIONAL, 0}},
    .check = attention_check,
    .workspace = attention_workspace,
    .run = attention_run,
};

const ds_reference_op ds_reference_op_attention_backward = {
    .in = {{"do", "BTHD", DS_REFERENCE_X, DS_REFERENCE_ROWS, 0},
           {"q", "BTHD", DS_REFERENCE_X, DS_REFERENCE_ROWS, 0},
           {"k", "BSGD", DS_REFERENCE_X, DS_REFERENCE_ROWS, 0},
           {"v", "BSGD", DS_REFERENCE_X, DS_REFERENCE_ROWS, 0},
           {"o", "BTHD", DS_REFERENCE_X, DS_REFERENCE_ROWS, 0},
           {"lse", "BHT", DS_REFERENCE_F32, 0, 0},
           {"kv_len", "B", DS_REFERENCE_I32, DS_REFERENCE_OPTIONAL, 0}},
    .out = {{"dq", "BTHD", DS_REFERENCE_X, DS_REFERENCE_ROWS | DS_REFERENCE_ACC, 0},
            {"dk", "BSGD", DS_REFERENCE_X, DS_REFERENCE_ROWS | DS_REFERENCE_ACC, 0},
            {"dv", "BSGD", DS_REFERENCE_X, DS_REFERENCE_ROWS | DS_REFERENCE_ACC, 0}},
    .check = attention_check,
    .workspace = backward_workspace,
    .run = attention_backward_run,
};
