/* own_model.c - a model, a dataset and a collate function of the host app's own, trained by the
 * same engine.
 *
 * Not a transformer: the neural language model of Bengio et al. (2003) over bytes. An embedding of
 * each of the last 8 bytes, one hidden layer, and a softmax over the next byte. Usage: own_model
 * TEXT-FILE [STEPS]; of several ranks (mpirun -n 2 own_model TEXT-FILE) all do the same, and the
 * first one tells.
 */
#include <ds.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { CONTEXT = 8, WIDTH = 24, HIDDEN = 256, BYTES = 256 };

/* ---- the model: parameters, and the forward pass to the loss */

typedef struct bengio {
  int table, w1, b1, w2, b2;
} bengio;

static ds_status declare(void *self, ds_params *params, ds_error *err) {
  (void)err; /* a failure stays in params */
  bengio *m = self;
  m->table = ds_params_add(params, "table", 2, (int64_t[]){BYTES, WIDTH}, DS_INIT_NORMAL, 0.5);
  m->w1 = ds_params_add(params, "hidden.weight", 2, (int64_t[]){HIDDEN, CONTEXT * WIDTH},
                        DS_INIT_UNIFORM, 0.07);
  m->b1 = ds_params_add(params, "hidden.bias", 1, (int64_t[]){HIDDEN}, DS_INIT_ZEROS, 0);
  m->w2 = ds_params_add(params, "out.weight", 2, (int64_t[]){BYTES, HIDDEN}, DS_INIT_UNIFORM, 0.06);
  m->b2 = ds_params_add(params, "out.bias", 1, (int64_t[]){BYTES}, DS_INIT_ZEROS, 0);
  return DS_OK;
}

static ds_value *forward(void *self, ds_ctx *c, ds_value *const *inputs, int n_inputs) {
  bengio *m = self;
  if (n_inputs != 2) return ds_ctx_fail(c, DS_ERR_INVALID, "wanted contexts and targets");
  int64_t rows = ds_value_tensor(inputs[0])->shape[0];
  ds_value *x = ds_embedding(c, inputs[0], ds_param(c, m->table)); /* [B,CONTEXT,WIDTH] */
  x = ds_reshape(c, x, 2, (int64_t[]){rows, CONTEXT * WIDTH});
  x = ds_linear_activation(c, x, ds_param(c, m->w1), ds_param(c, m->b1), DS_ACTIVATION_TANH);
  x = ds_linear(c, x, ds_param(c, m->w2), ds_param(c, m->b2));
  return ds_cross_entropy(c, x, inputs[1], -100);
}

/* ---- the data: each position of a file is a sample */

typedef struct text {
  unsigned char *bytes;
  int64_t length;
  int32_t context[CONTEXT], next;
} text;

static int64_t text_length(void *self) {
  return ((text *)self)->length - CONTEXT;
}

static ds_status text_get(void *self, int64_t i, ds_batch *sample, ds_error *err) {
  (void)err;
  text *t = self;
  for (int k = 0; k < CONTEXT; k++) t->context[k] = t->bytes[i + k];
  t->next = t->bytes[i + CONTEXT];
  sample->n = 2;
  sample->tensors[0] = (ds_host_tensor){DS_I32, 1, {CONTEXT}, t->context};
  sample->tensors[1] = (ds_host_tensor){DS_I32, 0, {0}, &t->next};
  return DS_OK;
}

static int text_read(text *t, const char *path) {
  FILE *f = fopen(path, "rb");
  if (!f) return 0;
  fseek(f, 0, SEEK_END);
  t->length = ftell(f);
  rewind(f);
  t->bytes = malloc(t->length > 0 ? (size_t)t->length : 1);
  int ok = t->bytes && fread(t->bytes, 1, (size_t)t->length, f) == (size_t)t->length;
  fclose(f);
  return ok && t->length > CONTEXT;
}

/* ---- training */

static int train(ds_model *model, ds_dataset *data, int steps, ds_error *err) {
  ds_initialize_args args = DS_INITIALIZE_ARGS_INIT;
  args.model = model;
  args.training_data = data;
  args.config = "{\"train_batch_size\": 128,"
                " \"optimizer\": {\"type\": \"AdamW\", \"params\": {\"lr\": 0.003}}}";
  ds_engine *engine;
  if (ds_initialize(&args, &engine, NULL, NULL, NULL, err) != DS_OK) return 1;
  ds_status status = DS_OK;
  for (int i = 1; i <= steps && status == DS_OK; i++) {
    float loss;
    status = ds_engine_train_batch(engine, &loss, err);
    bool tells = ds_engine_global_rank(engine) == 0 && (i == 1 || i % 100 == 0);
    if (status == DS_OK && tells) printf("step %d loss %.4f\n", i, loss);
  }
  ds_engine_destroy(engine);
  return status != DS_OK;
}

int main(int argc, char **argv) {
  static const ds_model_vtable model_vtable = {
      .size = sizeof model_vtable, .name = "bengio", .declare = declare, .forward = forward};
  static const ds_dataset_vtable data_vtable = {
      .size = sizeof data_vtable, .length = text_length, .get = text_get};
  bengio self;
  text t = {0};
  ds_model *model = NULL;
  ds_dataset *data = NULL;
  ds_error err = {0};
  const char *path = argc > 1 ? argv[1] : "/usr/share/common-licenses/GPL-3";
  if (!text_read(&t, path)) {
    fprintf(stderr, "cannot read more than %d bytes from %s\n", CONTEXT, path);
    return 1;
  }
  int failed = ds_model_create(&model_vtable, &self, &model, &err) != DS_OK ||
               ds_dataset_create(&data_vtable, &t, &data, &err) != DS_OK ||
               train(model, data, argc > 2 ? atoi(argv[2]) : 1000, &err);
  if (failed) fprintf(stderr, "%s\n", err.message);
  ds_dataset_destroy(data);
  ds_model_destroy(model);
  free(t.bytes);
  return failed;
}
