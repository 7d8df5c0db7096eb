/* Every gradient rule of core/ops on the reference backend, against central finite differences of
 * the forward pass: each graph below is a function of its parameters to a scalar; shared values,
 * views and accumulation included. */
#include "test.h"

#include "base/rng.h"
#include "ops/ctx.h"
#include "tensor/tensor.h"

#include <stdlib.h>

enum { MAX_PARAMS = 6, MAX_N = 512 };

typedef struct graph {
  const char *name;
  int n_params;
  struct {
    int32_t rank;
    int64_t shape[4];
  } params[MAX_PARAMS];
  ds_value *(*build)(ds_ctx *c); /* any shape; the test weighs its elements to a scalar */
} graph;

static const int32_t ids_data[6] = {2, 0, 1, 2, 2, 0};
static const int32_t targets_data[6] = {1, -100, 3, 0, 4, 2};
static const int32_t positions_data[6] = {0, 1, 2, 3, 4, 5};

static ds_value *ids(ds_ctx *c) {
  return ds_input(c, DS_I32, 2, (int64_t[]){2, 3}, ids_data);
}

static ds_value *linear(ds_ctx *c) {
  return ds_linear(c, ds_param(c, 0), ds_param(c, 1), ds_param(c, 2));
}
static ds_value *linear_twice(ds_ctx *c) { /* one weight in two products: gradients add */
  ds_value *w = ds_param(c, 1);
  return ds_linear(c, ds_linear(c, ds_param(c, 0), w, NULL), ds_param(c, 1), NULL);
}
static ds_value *tied(ds_ctx *c) { /* embedding and head share their table */
  ds_value *x = ds_embedding(c, ids(c), ds_param(c, 0));
  return ds_linear(c, x, ds_param(c, 0), NULL);
}
static ds_value *layer_norm(ds_ctx *c) {
  return ds_layer_norm(c, ds_param(c, 0), ds_param(c, 1), ds_param(c, 2), 1e-5);
}
static ds_value *rms_norm(ds_ctx *c) {
  return ds_rms_norm(c, ds_param(c, 0), ds_param(c, 1), 1e-5);
}
static ds_value *activations(ds_ctx *c) {
  ds_value *x = ds_param(c, 0);
  ds_value *y = ds_activate(c, x, DS_ACTIVATION_GELU_TANH);
  y = ds_add(c, y, ds_activate(c, x, DS_ACTIVATION_TANH));
  y = ds_add(c, y, ds_activate(c, x, DS_ACTIVATION_SILU));
  y = ds_add(c, y, ds_activate(c, x, DS_ACTIVATION_GELU_ERF));
  return ds_mul(c, y, ds_activate(c, x, DS_ACTIVATION_SIGMOID));
}
static ds_value *swiglu_halves(ds_ctx *c) { /* strided views of one value */
  ds_value *x = ds_scale(c, ds_param(c, 0), 1.5);
  return ds_swiglu(c, ds_slice_last(c, x, 0, 3), ds_slice_last(c, x, 3, 3));
}
static ds_value *swiglu_param_views(ds_ctx *c) {
  ds_value *x = ds_param(c, 0);
  return ds_swiglu(c, ds_slice_last(c, x, 0, 3), ds_slice_last(c, x, 2, 3)); /* overlapping */
}
static ds_value *attention(ds_ctx *c) {
  return ds_attention(c, ds_param(c, 0), ds_param(c, 1), ds_param(c, 2), NULL, true, 0, 0);
}
static ds_value *attention_fused(ds_ctx *c) { /* q, k, v are slices of one product, as in GPT-2 */
  ds_value *qkv = ds_linear(c, ds_param(c, 0), ds_param(c, 1), ds_param(c, 2));
  ds_value *part[3];
  for (int i = 0; i < 3; i++)
    part[i] = ds_reshape(c, ds_slice_last(c, qkv, 4 * i, 4), 4, (int64_t[]){1, 3, 2, 2});
  ds_value *y = ds_attention(c, part[0], part[1], part[2], NULL, true, 0, 0);
  return ds_reshape(c, y, 2, (int64_t[]){3, 4});
}
static ds_value *rope_attention(ds_ctx *c) { /* grouped heads, rotated, as in LLaMA */
  const float inv_freq[1] = {0.7f};
  ds_value *f = ds_input(c, DS_F32, 1, (int64_t[]){1}, inv_freq);
  ds_value *pos = ds_input(c, DS_I32, 2, (int64_t[]){2, 3}, positions_data);
  ds_value *q = ds_rope(c, ds_param(c, 0), pos, f, false);
  ds_value *k = ds_rope(c, ds_param(c, 1), pos, f, false);
  return ds_attention(c, q, k, ds_param(c, 2), NULL, true, 0.9, 0);
}
static ds_value *
residual(ds_ctx *c) { /* gradients that share memory, and one that is then added to */
  ds_value *x = ds_scale(c, ds_param(c, 0), 1.0);
  for (int i = 0; i < 2; i++) {
    ds_value *h = ds_layer_norm(c, x, ds_param(c, 1), ds_param(c, 2), 1e-5);
    x = ds_add(c, x, ds_activate(c, h, DS_ACTIVATION_TANH));
  }
  return ds_add(c, x, x);
}
static ds_value *cross_entropy(ds_ctx *c) {
  ds_value *t = ds_input(c, DS_I32, 1, (int64_t[]){6}, targets_data);
  return ds_cross_entropy(c, ds_scale(c, ds_param(c, 0), 1.0), t, -100);
}
static ds_value *
two_losses(ds_ctx *c) { /* the logits are read twice, so their memory must not be reused */
  ds_value *t = ds_input(c, DS_I32, 1, (int64_t[]){6}, targets_data);
  ds_value *logits = ds_scale(c, ds_param(c, 0), 1.0);
  ds_value *square = ds_mean(c, ds_mul(c, logits, logits));
  return ds_add(c, ds_cross_entropy(c, logits, t, -100), ds_scale(c, square, 0.3));
}
static ds_value *contiguous(ds_ctx *c) { /* a strided view where an op wants a contiguous value */
  ds_value *x = ds_scale(c, ds_param(c, 0), 2.0);
  return ds_activate(c, ds_slice_last(c, x, 1, 4), DS_ACTIVATION_TANH);
}

static const graph graphs[] = {
    {"linear", 3, {{3, {2, 3, 4}}, {2, {5, 4}}, {1, {5}}}, linear},
    {"linear_twice", 2, {{2, {3, 4}}, {2, {4, 4}}}, linear_twice},
    {"tied", 1, {{2, {3, 4}}}, tied},
    {"layer_norm", 3, {{3, {2, 2, 5}}, {1, {5}}, {1, {5}}}, layer_norm},
    {"rms_norm", 2, {{2, {3, 5}}, {1, {5}}}, rms_norm},
    {"activations", 1, {{1, {7}}}, activations},
    {"swiglu_halves", 1, {{3, {2, 2, 6}}}, swiglu_halves},
    {"swiglu_param_views", 1, {{2, {3, 5}}}, swiglu_param_views},
    {"attention", 3, {{4, {2, 3, 4, 2}}, {4, {2, 3, 2, 2}}, {4, {2, 3, 2, 2}}}, attention},
    {"attention_fused", 3, {{2, {3, 4}}, {2, {12, 4}}, {1, {12}}}, attention_fused},
    {"rope_attention",
     3,
     {{4, {2, 3, 2, 3}}, {4, {2, 3, 1, 3}}, {4, {2, 3, 1, 3}}},
     rope_attention},
    {"residual", 3, {{2, {3, 5}}, {1, {5}}, {1, {5}}}, residual},
    {"cross_entropy", 1, {{2, {6, 5}}}, cross_entropy},
    {"two_losses", 1, {{2, {6, 5}}}, two_losses},
    {"contiguous", 1, {{2, {3, 6}}}, contiguous},
};

typedef struct fixture {
  ds_backend *backend;
  ds_ctx *ctx;
  ds_param_slot slots[MAX_PARAMS];
  float values[MAX_PARAMS][MAX_N], grads[MAX_PARAMS][MAX_N];
} fixture;

/* sum_i r_i y_i with fixed pseudo-random r: every element of y matters, differently. */
static ds_value *weigh(ds_ctx *c, ds_value *y) {
  if (!y) return NULL;
  float r[MAX_N];
  ds_rng rng;
  ds_rng_init(&rng, 99, 0);
  const ds_tensor *t = ds_value_tensor(y);
  for (int64_t i = 0; i < ds_tensor_numel(t); i++) r[i] = (float)ds_rng_normal(&rng);
  return ds_mean(c, ds_mul(c, y, ds_input(c, DS_F32, t->rank, t->shape, r)));
}

static double evaluate(fixture *f, const graph *g, bool training) {
  ds_error err;
  float loss = NAN;
  for (int i = 0; i < g->n_params; i++)
    CHECK_OK(ds_backend_upload(f->backend, f->slots[i].value.data, f->values[i],
                               ds_tensor_bytes(&f->slots[i].value), &err),
             err);
  ds_ctx_set_training(f->ctx, training);
  CHECK_OK(ds_ctx_begin(f->ctx, &err), err);
  ds_value *y = weigh(f->ctx, g->build(f->ctx));
  CHECK_OK(ds_value_read(f->ctx, y, &loss, 1, &err), err);
  if (training) CHECK_OK(ds_ctx_backward(f->ctx, y, 1.0, &err), err);
  return loss;
}

static void set_up(fixture *f, const graph *g) {
  ds_error err;
  ds_rng rng;
  ds_rng_init(&rng, 7, 0);
  for (int i = 0; i < g->n_params; i++) {
    ds_param_slot *s = &f->slots[i];
    *s = (ds_param_slot){.value =
                             ds_tensor_make(NULL, DS_F32, g->params[i].rank, g->params[i].shape)};
    size_t bytes = ds_tensor_bytes(&s->value);
    CHECK_OK(ds_backend_alloc(f->backend, bytes, &s->value.data, &err), err);
    CHECK_OK(ds_backend_alloc(f->backend, bytes, &s->grad, &err), err);
    for (int64_t k = 0; k < ds_tensor_numel(&s->value); k++)
      f->values[i][k] = (float)ds_rng_normal(&rng);
  }
  ds_ctx_bind_params(f->ctx, f->slots, g->n_params);
}

static void tear_down(fixture *f, const graph *g) {
  for (int i = 0; i < g->n_params; i++) {
    size_t bytes = ds_tensor_bytes(&f->slots[i].value);
    ds_backend_free(f->backend, f->slots[i].value.data, bytes);
    ds_backend_free(f->backend, f->slots[i].grad, bytes);
  }
  ds_ctx_bind_params(f->ctx, NULL, 0);
}

static void check_graph(fixture *f, const graph *g) {
  ds_error err;
  set_up(f, g);
  for (int pass = 1; pass <= 2; pass++) { /* the second adds to the first */
    evaluate(f, g, true);
    for (int i = 0; i < g->n_params; i++) {
      CHECK(f->slots[i].has_grad);
      CHECK_OK(ds_backend_download(f->backend, f->grads[i], f->slots[i].grad,
                                   ds_tensor_bytes(&f->slots[i].value), &err),
               err);
    }
    for (int i = 0; i < g->n_params; i++)
      for (int64_t k = 0; k < ds_tensor_numel(&f->slots[i].value); k++) {
        float x = f->values[i][k], h = 5e-3f;
        f->values[i][k] = x + h;
        double up = evaluate(f, g, false);
        f->values[i][k] = x - h;
        double down = evaluate(f, g, false);
        f->values[i][k] = x;
        double want = pass * (up - down) / (2 * h);
        if (!(fabs(f->grads[i][k] - want) <= 2e-3 * (1 + fabs(want))))
          fprintf(stderr, "%s: parameter %d element %d\n", g->name, i, (int)k);
        CHECK_NEAR(f->grads[i][k], want, 2e-3 * (1 + fabs(want)));
      }
  }
  tear_down(f, g);
}

static void check_failures(fixture *f) {
  ds_error err;
  ds_ctx *c = f->ctx;
  ds_ctx_set_training(c, true);
  CHECK_OK(ds_ctx_begin(c, &err), err);
  const float x[6] = {0};
  ds_value *a = ds_input(c, DS_F32, 2, (int64_t[]){2, 3}, x);
  ds_value *b = ds_input(c, DS_F32, 2, (int64_t[]){3, 2}, x);
  CHECK_FAILS(ds_ctx_backward(c, ds_mean(c, a), 1, &err), DS_ERR_STATE, err, "no parameter");
  CHECK(ds_add(c, a, b) == NULL);
  CHECK_FAILS(ds_ctx_status(c, &err), DS_ERR_INVALID, err, "add: [2,3] f32 and [3,2] f32");
  CHECK(ds_scale(c, ds_add(c, a, a), 2) == NULL); /* the failure sticks */
  CHECK_OK(ds_ctx_begin(c, &err), err);
  a = ds_input(c, DS_F32, 2, (int64_t[]){2, 3}, x);
  CHECK(ds_embedding(c, ids(c), ds_slice_last(c, a, 0, 3)) == NULL);
  CHECK_FAILS(ds_ctx_status(c, &err), DS_ERR_INVALID, err, "id 2 is outside [0,2)");
  CHECK_OK(ds_ctx_begin(c, &err), err);
  CHECK(ds_param(c, 17) == NULL);
  CHECK_FAILS(ds_ctx_status(c, &err), DS_ERR_INVALID, err, "parameter 17");
}

int main(void) {
  fixture *f = calloc(1, sizeof *f);
  ds_error err;
  ds_backend_config config;
  if (!f) return 1;
  CHECK_OK(ds_backend_config_parse(NULL, &config, &err), err);
  ds_backend_config_finish(&config);
  cJSON *name = cJSON_CreateString("reference");
  CHECK_OK(ds_backend_config_parse(name, &config, &err), err);
  cJSON_Delete(name);
  CHECK_OK(ds_backend_open(&config, NULL, &f->backend, &err), err);
  CHECK_OK(ds_ctx_create(f->backend, DS_F32, &f->ctx, &err), err);
  for (size_t i = 0; i < sizeof graphs / sizeof *graphs; i++) check_graph(f, &graphs[i]);
  check_failures(f);
  ds_ctx_destroy(f->ctx);
  ds_backend_close(f->backend);
  ds_backend_config_finish(&config);
  free(f);
  return TEST_RESULT();
}
