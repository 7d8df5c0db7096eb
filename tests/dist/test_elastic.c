/* test_elastic.c - one link of a chain: goes on from a checkpoint that some layout of ranks wrote, at
 * another. elastic.sh joins the links and compares losses.
 *
 * usage: [mpirun -n N] test_elastic PLUGIN_FOLDER FOLDER MODEL FROM STEPS TO CONFIG
 * MODEL: gpt2 or llama. FROM: the tag to go on from; "-": begin. CONFIG: more keys of the config. After STEPS steps it is saved as
 * TO. FOLDER/losses gets a line for each step. TO "every": saved after every step, in turn as two tags; FOLDER/pid.RANK
 * gets the process's id first.
 */
#include "unit/test.h"

#include "ds.h"

#include "base/file.h"
#include "base/status.h"
#include "model/model.h"
#include "model/params.h"
#include "train/export.h"

#include <stdlib.h>
#include <unistd.h>

enum { VOCAB = 61, T = 8, SAMPLES = 96, BATCH = 12 };

/* Epochs are whole batches: the rest of one is dealt out by rank, which is another batch for another
 * number of ranks (data/dataloader.h). Sizes that divide by little; a parameter in two places, matrices that files have transposed. */
static const char gpt2[] =
    "{\"model_type\": \"gpt2\", \"vocab_size\": 61, \"n_positions\": 9, \"n_embd\": 12,"
    " \"n_layer\": 3, \"n_head\": 4, \"n_inner\": 29, \"tie_word_embeddings\": true}";
static const char llama[] =
    "{\"model_type\": \"llama\", \"vocab_size\": 61, \"max_position_embeddings\": 9,"
    " \"hidden_size\": 24, \"intermediate_size\": 29, \"num_hidden_layers\": 3,"
    " \"num_attention_heads\": 4, \"num_key_value_heads\": 2, \"rms_norm_eps\": 1e-5,"
    " \"tie_word_embeddings\": false}";

static const char *plugins, *folder, *family;

static char *path(const char *a, const char *b) {
  static char paths[8][512];
  static int next;
  char *p = paths[next++ % 8];
  snprintf(p, sizeof paths[0], "%s/%s%s%s", folder, a, b[0] ? "/" : "", b);
  return p;
}

static bool first_rank(void) {
  const char *rank = getenv("OMPI_COMM_WORLD_RANK");
  return !rank || atoi(rank) == 0;
}

typedef struct run {
  ds_model *model;
  ds_dataset *data;
  ds_engine *engine;
} run;

/* All but one table or matrix is trained, in two groups. */
static ds_status open_run(run *r, const char *more, ds_error *err) {
  static int32_t ids[SAMPLES * T + 1];
  static char config[2048];
  int frozen = -1, n[2] = {0, 0}, which[2][64];
  for (int i = 0; i < SAMPLES * T + 1; i++) ids[i] = (i * i * 7 + i / 5) % VOCAB;
  snprintf(
      config, sizeof config,
      "{\"backend\": {\"name\": \"cpu\", \"plugin_path\": \"%s\", \"options\": {\"threads\": 1}}, "
      "\"train_batch_size\": %d, \"gradient_clipping\": 0.5, \"optimizer\": {\"type\": "
      "\"AdamW\", \"params\": {\"lr\": 0.005, \"weight_decay\": 0.1}}, \"scheduler\": {\"type\": "
      "\"WarmupLR\", \"params\": {\"warmup_num_steps\": 9}}%s%s}",
      plugins, BATCH, more[0] ? ", " : "", more);
  DS_TRY(ds_model_from_config(strcmp(family, "llama") == 0 ? llama : gpt2, &r->model, err));
  DS_TRY(ds_dataset_tokens(ids, SAMPLES * T + 1, T, VOCAB, &r->data, err));
  ds_params *p;
  DS_TRY(ds_model_declare(r->model, &p, err));
  for (int i = 0; i < ds_params_count(p); i++) {
    bool still = strstr(ds_params_name(p, i), "wpe") || strstr(ds_params_name(p, i), "1.mlp.up");
    if (still) frozen = i;
    if (!still) which[i % 2][n[i % 2]++] = i;
  }
  ds_params_destroy(p);
  CHECK(frozen >= 0);
  ds_param_group groups[2] = {DS_PARAM_GROUP_INIT, DS_PARAM_GROUP_INIT};
  for (int i = 0; i < 2; i++) {
    groups[i].indices = which[i];
    groups[i].n_indices = n[i];
  }
  groups[1].lr = 0.003;
  ds_initialize_args a = DS_INITIALIZE_ARGS_INIT;
  a.model = r->model;
  a.training_data = r->data;
  a.config = config;
  a.seed = 3;
  a.model_parameters = groups;
  a.n_model_parameters = 2;
  return ds_initialize(&a, &r->engine, NULL, NULL, NULL, err);
}

static void same_file(const char *a, const char *b) {
  ds_error err;
  ds_file x = {0}, y = {0};
  CHECK_OK(ds_file_map(a, &x, &err), err);
  CHECK_OK(ds_file_map(b, &y, &err), err);
  CHECK(x.size > 0 && x.size == y.size && memcmp(x.data, y.data, x.size) == 0);
  ds_file_unmap(&x);
  ds_file_unmap(&y);
}

/* What was loaded at this layout and is saved again is what that other layout had saved. */
static void test_same_bytes(run *r, const char *from) {
  ds_error err;
  static const char *const files[] = {"model.safetensors", "optimizer.safetensors", "config.json"};
  CHECK_OK(ds_engine_save_checkpoint(r->engine, path("again", ""), "t", NULL, &err), err);
  CHECK_OK(ds_engine_save_model(r->engine, path("export32", ""), false, &err), err);
  CHECK_OK(ds_engine_save_model(r->engine, path("export16", ""), true, &err), err);
  if (!first_rank()) return;
  for (int i = 0; i < 3; i++) same_file(path("again/t", files[i]), path(from, files[i]));
  same_file(path("export32", "model.safetensors"), path(from, "model.safetensors"));
  CHECK_OK(ds_export_checkpoint(folder, from, path("hf16", ""), true, &err), err);
  same_file(path("hf16", "model.safetensors"), path("export16", "model.safetensors"));
  same_file(path("hf16", "config.json"), path("export16", "config.json"));
}

static void train(run *r, int steps) {
  ds_error err;
  FILE *f = first_rank() ? fopen(path("losses", ""), "a") : NULL;
  for (int i = 0; i < steps; i++) {
    float loss = NAN;
    CHECK_OK(ds_engine_train_batch(r->engine, &loss, &err), err);
    if (f) fprintf(f, "%.9g %.9g\n", (double)loss, ds_engine_get_global_grad_norm(r->engine));
  }
  if (f) fclose(f);
}

static void save_every(run *r, int steps) {
  ds_error err;
  char name[32];
  const char *rank = getenv("OMPI_COMM_WORLD_RANK");
  snprintf(name, sizeof name, "pid.%s", rank ? rank : "0");
  FILE *f = fopen(path(name, ""), "w");
  if (f) fprintf(f, "%ld\n", (long)getpid());
  if (f) fclose(f);
  for (int i = 0; i < steps; i++) {
    train(r, 1);
    CHECK_OK(ds_engine_save_checkpoint(r->engine, folder, i % 2 ? "odd" : "even", NULL, &err), err);
  }
}

int main(int argc, char **argv) {
  if (argc < 8) return 2;
  plugins = argv[1];
  folder = argv[2];
  family = argv[3];
  const char *from = argv[4], *to = argv[6];
  ds_error err;
  run r = {0};
  CHECK_OK(open_run(&r, argv[7], &err), err);
  if (!r.engine) return TEST_RESULT();
  if (strcmp(from, "-") != 0) {
    CHECK_OK(ds_engine_load_checkpoint(r.engine, folder, from, NULL, &err), err);
    test_same_bytes(&r, from);
  }
  if (strcmp(to, "every") == 0) {
    save_every(&r, atoi(argv[5]));
  } else {
    train(&r, atoi(argv[5]));
    CHECK_OK(ds_engine_save_checkpoint(r.engine, folder, to, NULL, &err), err);
  }
  ds_engine_destroy(r.engine);
  ds_dataset_destroy(r.data);
  ds_model_destroy(r.model);
  return TEST_RESULT();
}
