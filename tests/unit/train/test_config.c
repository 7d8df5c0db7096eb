/* The training config: what passes, what doesn't, and that all mistakes come at once. */
#include "ds.h"
#include "train/config_keys.h"
#include "test.h"

#include <cjson/cJSON.h>
#include <stdlib.h>
#include <unistd.h>

#define M1 "\"train_micro_batch_size_per_gpu\": 1"

/* ---- good ones: the resolved value at a path */

static const cJSON *value_at(const cJSON *root, const char *path) {
  char copy[128], *save = NULL;
  snprintf(copy, sizeof copy, "%s", path);
  for (char *p = strtok_r(copy, ".", &save); p; p = strtok_r(NULL, ".", &save))
    root = cJSON_GetObjectItemCaseSensitive(root, p);
  return root;
}

static void resolves(const char *config, const char *path, const char *want) {
  ds_error err;
  char *json;
  CHECK_OK(ds_config_resolve(config, 2, &json, &err), err);
  if (!json) return;
  cJSON *root = cJSON_Parse(json), *expected = want ? cJSON_Parse(want) : NULL;
  const cJSON *got = value_at(root, path);
  if (want ? !got || !cJSON_Compare(got, expected, 1) : got != NULL) {
    fprintf(stderr, "%s at %s: %s, want %s\n", config, path, json, want ? want : "nothing");
    CHECK(!"the resolved value");
  }
  CHECK(root != NULL);
  cJSON_Delete(root);
  cJSON_Delete(expected);
  free(json);
}

static void test_good(void) {
  resolves("{" M1 "}", "train_batch_size", "2");
  resolves("{" M1 "}", "gradient_accumulation_steps", "1");
  resolves("{" M1 "}", "gradient_clipping", "1.0");
  resolves("{" M1 "}", "bf16.enabled", "false");
  resolves("{" M1 "}", "fp16.enabled", "false");
  resolves("{" M1 "}", "zero_optimization.stage", "0");
  resolves("{" M1 "}", "optimizer", NULL);
  resolves("{" M1 "}", "backend", "\"auto\"");
  resolves("{" M1 ", \"backend\": {\"name\": \"reference\"}}", "backend.name", "\"reference\"");
  resolves("{" M1 ", \"gradient_clipping\": 0}", "gradient_clipping", "0");
  resolves("{" M1 ", \"bfloat16\": {\"enabled\": true}}", "bf16.enabled", "true");
  resolves("{" M1 ", \"bfloat16\": {\"enabled\": true}}", "bf16.check_grad_overflow", "true");
  resolves("{" M1 ", \"optimizer\": {\"type\": \"ADAM\"}}", "optimizer.type", "\"Adam\"");
  resolves("{" M1 ", \"optimizer\": {\"type\": \"adamw\"}}", "optimizer.params.lr", "0.001");
  resolves("{" M1 ", \"optimizer\": {\"type\": \"AdamW\"}}", "optimizer.params.betas",
           "[0.9, 0.999]");
  resolves("{" M1 ", \"optimizer\": {\"type\": \"Adam\", \"params\": {\"lr\": \"auto\", \"betas\": "
           "[0.8, 0.9], \"torch_adam\": true, \"bias_correction\": true}}}",
           "optimizer.params",
           "{\"lr\": 0.001, \"betas\": [0.8, 0.9], \"eps\": 1e-8, "
           "\"weight_decay\": 0, \"adam_w_mode\": true, \"torch_adam\": true, \"bias_correction\": "
           "true, \"amsgrad\": false, \"fp32_optimizer_states\": true}");
  resolves("{" M1 ", \"scheduler\": {\"type\": \"WarmupLR\"}, \"optimizer\": {\"type\": \"Adam\"}}",
           "scheduler.params.warmup_num_steps", "1000");
  /* Elasticity chooses: 24 = 3 x 4 x 2. (The arithmetic: test_elasticity.c.) */
#define ELASTIC                                                                                    \
  "\"elasticity\": {\"enabled\": true, \"max_train_batch_size\": 32, \"micro_batch_sizes\": "      \
  "[1, 2, 3, 7]"
  resolves("{" ELASTIC "}}", "train_batch_size", "24");
  resolves("{" ELASTIC "}}", "train_micro_batch_size_per_gpu", "3");
  resolves("{" ELASTIC "}}", "gradient_accumulation_steps", "4");
  resolves("{\"train_batch_size\": \"auto\", " ELASTIC ", \"version\": 0.1}}", "train_batch_size",
           "24");
  resolves("{\"train_batch_size\": 7, " ELASTIC ", \"ignore_non_elastic_batch_info\": true}}",
           "train_batch_size", "24");
  /* Of 2 ranks that share a model there is one data-parallel one. */
  resolves("{" ELASTIC
           ", \"num_gpus_per_node\": 2, \"model_parallel_size\": 2}, \"tensor_parallel\": "
           "{\"autotp_size\": 2}}",
           "gradient_accumulation_steps", "8");
  resolves("{" M1 ", \"elasticity\": {\"enabled\": false, \"max_train_batch_size\": 32}}",
           "train_batch_size", "2");
  /* What is off passes. */
  resolves("{" M1 ", \"fp16\": {\"enabled\": false, \"loss_scale\": 128, \"hysteresis\": 4}}",
           "fp16.loss_scale", "128");
  resolves("{" M1 ", \"zero_optimization\": {\"stage\": 0, \"reduce_bucket_size\": 5e8, "
           "\"overlap_comm\": true, \"offload_optimizer\": {\"device\": \"none\"}}}",
           "zero_optimization.reduce_bucket_size", "500000000");
  resolves("{" M1 ", \"zero_optimization\": false}", "zero_optimization.stage", "0");
  resolves("{" M1 ", \"tensorboard\": {\"enabled\": false, \"job_name\": \"x\"}}",
           "tensorboard.job_name", "\"x\"");
  resolves("{" M1 ", \"hybrid_engine\": {\"enabled\": false}, \"amp\": {}}", "train_batch_size",
           "2");
  resolves("{" M1 ", \"wall_clock_breakdown\": false, \"prescale_gradients\": false}",
           "wall_clock_breakdown", "false");
  resolves("{" M1 ", \"steps_per_print\": null, \"gradient_clipping\": \"auto\"}",
           "gradient_clipping", "1.0");
  resolves("{\"train_batch_size\": \"auto\", \"train_micro_batch_size_per_gpu\": \"auto\", "
           "\"gradient_accumulation_steps\": \"auto\"}",
           "train_batch_size", "2");
  resolves("{\"train_batch_size\": 8, \"gradient_accumulation_steps\": \"auto\", " M1 "}",
           "gradient_accumulation_steps", "4");
  /* Two ranks, of whom two are the stages of one pipeline: one replica. */
  resolves("{" M1 ", \"pipeline\": {\"stages\": 2}}", "train_batch_size", "1");
  resolves("{" M1 ", \"pipeline\": {\"stages\": \"auto\", \"seed_layers\": true}}",
           "pipeline.stages", "1");
  resolves("{" M1 ", \"pipeline\": {\"partition\": \"uniform\"}}", "pipeline.partition",
           "\"uniform\"");
  /* HJSON's comments and trailing commas. */
  resolves("# first\n{ // second\n " M1 ", /* third */ \"gradient_clipping\": 2, }",
           "gradient_clipping", "2");
  /* Two ranks that share a sequence have one batch. */
  resolves("{" M1 ", \"sequence_parallel_size\": 2}", "train_batch_size", "1");
  resolves("{" M1 ", \"sequence_parallel_size\": \"auto\"}", "sequence_parallel_size", "1");
  resolves("{" M1 ", \"comms_logger\": {\"enabled\": true, \"prof_all\": false, \"prof_ops\": "
           "[\"all_reduce\", \"allgather\", \"all_to_all_single\"]}}",
           "comms_logger.verbose", "false");
  /* Checkpoints: every one is universal and elastic, and written by all ranks. */
  resolves("{" M1 ", \"checkpoint\": {\"load_universal\": true, \"parallel_write\": "
           "{\"pipeline_stage\": true}}, \"zero_optimization\": {\"elastic_checkpoint\": true, "
           "\"pipeline_loading_checkpoint\": true, "
           "\"stage3_gather_16bit_weights_on_model_save\": true}}",
           "checkpoint.tag_validation", "\"WARN\"");
}

/* Hugging Face's example for ZeRO-3 with all offloaded, as its Trainer takes it. */
static void test_trainer(void) {
  static const char config[] =
      "{\"fp16\": {\"enabled\": \"auto\", \"loss_scale\": 0, \"loss_scale_window\": 1000, "
      "\"initial_scale_power\": 16, \"hysteresis\": 2, \"min_loss_scale\": 1}, "
      "\"bf16\": {\"enabled\": \"auto\"}, \"optimizer\": {\"type\": \"AdamW\", \"params\": "
      "{\"lr\": \"auto\", \"betas\": \"auto\", \"eps\": \"auto\", \"weight_decay\": \"auto\"}}, "
      "\"scheduler\": {\"type\": \"WarmupDecayLR\", \"params\": {\"last_batch_iteration\": -1, "
      "\"total_num_steps\": 100, \"warmup_min_lr\": \"auto\", \"warmup_max_lr\": \"auto\", "
      "\"warmup_num_steps\": 0}}, \"zero_optimization\": {\"stage\": 3, "
      "\"offload_optimizer\": {\"device\": \"cpu\", \"pin_memory\": true}, "
      "\"offload_param\": {\"device\": \"cpu\", \"pin_memory\": true}, \"overlap_comm\": true, "
      "\"contiguous_gradients\": true, \"sub_group_size\": 1e9, \"reduce_bucket_size\": \"auto\", "
      "\"stage3_prefetch_bucket_size\": \"auto\", \"stage3_param_persistence_threshold\": "
      "\"auto\", "
      "\"stage3_max_live_parameters\": 1e9, \"stage3_max_reuse_distance\": 1e9, "
      "\"stage3_gather_16bit_weights_on_model_save\": true, \"round_robin_gradients\": true}, "
      "\"gradient_accumulation_steps\": \"auto\", \"gradient_clipping\": \"auto\", "
      "\"steps_per_print\": 2000, \"train_batch_size\": \"auto\", "
      "\"train_micro_batch_size_per_gpu\": \"auto\", \"wall_clock_breakdown\": false}";
  resolves(config, "zero_optimization.offload_param.device", "\"cpu\"");
  resolves(config, "zero_optimization.reduce_bucket_size", "500000000");
  resolves(config, "optimizer.params.lr", "0.001");
  resolves(config, "scheduler.params.warmup_num_steps", "0");
  resolves(config, "train_batch_size", "2");
}

/* A key without effect says why, or tunes a feature that can't be on. */
static void test_idle(void) {
  const ds_schema *s = ds_config_keys();
  for (size_t i = 0; i < s->count; i++) {
    const ds_schema_key *key = &s->keys[i];
    if (key->state != DS_SCHEMA_IDLE || key->advice) continue;
    char enabled[128];
    const char *dot = strchr(key->path, '.');
    bool off = false;
    snprintf(enabled, sizeof enabled, "%.*s.enabled", dot ? (int)(dot - key->path) : 0, key->path);
    for (size_t k = 0; k < s->count; k++)
      off = off || (strcmp(s->keys[k].path, enabled) == 0 && s->keys[k].state == DS_SCHEMA_LATER);
    CHECK(off);
    if (!off) fprintf(stderr, "  with %s\n", key->path);
  }
}

/* ---- bad ones */

static void test_bad(void) {
  static const struct {
    const char *config, *message;
  } rows[] = {
      {"{}", "Either train_batch_size or train_micro_batch_size_per_gpu needs to be provided"},
      {"{\"train_batch_size\": 3}", "3 != 1 * 1 * 2"},
      {"{\"train_batch_size\": 1.5}", "train_batch_size: must be a whole number, not 1.5"},
      {"{\"train_batch_size\": \"8\"}", "train_batch_size: must be a whole number, not a string"},
      {"{\"train_batch_size\": 0}", "train_batch_size: 0 has to be greater than 0"},
      {"{" M1 ", \"optimzer\": {}}", "optimzer: unknown key; did you mean \"optimizer\"?"},
      {"{" M1 ", \"fp16\": {\"enabled\": true}, \"tensor_parallel\": {\"autotp_size\": 2}}",
       "fp16.enabled: not together with tensor_parallel.autotp_size 2"},
      {"{" M1 ", \"zero_optimization\": {\"stagee\": 1}}",
       "zero_optimization.stagee: unknown key; did you mean \"stage\"?"},
      {"{" M1 ", \"quux\": 1}", "quux: unknown key"},
      {"{" M1 ", \"checkpoint\": {\"tag_validation\": \"maybe\"}}", "checkpoint.tag_validation: "},
      {"{" M1 ", \"checkpoint\": {\"use_node_local_storage\": true}}",
       "checkpoint.use_node_local_storage: a checkpoint is one folder that all ranks write"},
      {"{" M1 ", \"zero_optimization\": {\"load_from_fp32_weights\": false}}",
       "zero_optimization.load_from_fp32_weights: a checkpoint's weights are f32"},
      {"{" M1 ", \"sequence_parallel_size\": 3}",
       "2 ranks can't be arranged as tensor parallel 1 x sequence parallel 3 x pipeline 1: the "
       "product 3 must divide the number of ranks; change that, or tensor_parallel.autotp_size"},
      {"{" M1 ", \"sequence_parallel_size\": 0}", "sequence_parallel_size: must be at least 1"},
      {"{" M1 ", \"comms_logger\": {\"prof_ops\": [\"all_reduc\"]}}",
       "comms_logger.prof_ops: there is no op \"all_reduc\", did you mean \"all_reduce\"?"},
      {"{" M1 ", \"comms_logger\": {\"prof_ops\": [\"barrier\"]}}",
       "dscore calls allreduce, reduce_scatter"},
      {"{" M1 ", \"comms_logger\": {\"prof_ops\": [7]}}",
       "comms_logger.prof_ops: must be names of ops, not a number"},
      {"{" M1 ", \"comms_logger\": {\"prof_ops\": \"all_reduce\"}}", "comms_logger.prof_ops: "},
      {"{" M1 ", \"seed\": 1}", "seed: unknown key"},
      {"{" M1 ", \"bf16\": true}", "bf16: must be an object, not a boolean"},
      {"{" M1 ", \"bf16\": {\"enabled\": 1}}", "bf16.enabled: must be true or false, not a number"},
      {"{" M1 ", \"fp16\": {\"fp16_master_weights_and_grads\": true}}",
       "fp16.fp16_master_weights_and_grads: true is not there yet"},
      {"{" M1 ", \"fp16\": {\"enabled\": true, \"min_loss_scale\": 0}}",
       "fp16.min_loss_scale: must be above 0"},
      {"{" M1 ", \"fp16\": {\"enabled\": true, \"initial_scale_power\": 2, \"min_loss_scale\": 5}}",
       "fp16.min_loss_scale: is 5, above 2^initial_scale_power = 4"},
      {"{" M1 ", \"fp16\": {\"initial_scale_power\": 127}}", "must be from 0 to 126, not 127"},
      {"{" M1 ", \"fp16\": {\"hysteresis\": 0}}", "fp16.hysteresis: must be at least 1, not 0"},
      {"{" M1 ", \"fp16\": {\"enabled\": true}, \"zero_optimization\": {\"stage\": 3, "
       "\"zero_quantized_gradients\": true}}",
       "zero_optimization.zero_quantized_gradients: not together with fp16"},
      {"{" M1 ", \"fp16\": {\"enabled\": true}, \"bf16\": {\"enabled\": true}}", "both be true"},
      {"{" M1 ", \"bf16\": {}, \"bfloat16\": {}}", "another name of bf16"},
      {"{" M1 ", \"zero_optimization\": {\"stage\": 4}}",
       "zero_optimization.stage: must be from 0 to 3, not 4"},
      {"{" M1 ", \"zero_optimization\": {\"offload_param\": {\"device\": \"cpu\"}}}",
       "zero_optimization.offload_param: needs \"stage\" 3"},
      {"{" M1 ", \"zero_optimization\": {\"offload_param\": {\"device\": \"gpu\"}}}",
       "must be one of none|cpu|nvme"},
      {"{" M1 ", \"zero_optimization\": {\"cpu_offload\": true}}",
       "zero_optimization.offload_optimizer: needs \"stage\" 1, 2 or 3"},
      {"{" M1 ", \"zero_optimization\": {\"reduce_bucket_size\": -1}}",
       "must be at least 0, not -1"},
      {"{" M1 ", \"pipeline\": {\"stages\": 3}}", "pipeline 3: the product 3 must divide"},
      {"{" M1 ", \"pipeline\": {\"stages\": 0}}", "pipeline.stages: must be at least 1, not 0"},
      {"{" M1 ", \"pipeline\": {\"partition\": \"type:block\"}}",
       "pipeline.partition: must be one of best|parameters|uniform"},
      {"{" M1 ", \"pipeline\": {\"activation_checkpoint_interval\": 1}}",
       "pipeline.activation_checkpoint_interval: 1 is not there yet"},
      {"{" M1 ", \"pipeline\": {\"stages\": 2}, \"zero_optimization\": {\"stage\": 3}}",
       "zero_optimization.stage: 3 partitions gradients, which a pipeline"},
      {"{" M1 ", \"pipeline\": {\"stages\": 2}, \"tensor_parallel\": {\"autotp_size\": 2, "
       "\"sequence_parallel\": true}}",
       "tensor_parallel.sequence_parallel: stages hand on whole hidden values"},
      {"{" M1 ", \"wall_clock_breakdown\": true}", "wall_clock_breakdown: true is not there yet"},
      {"{" M1 ", \"flops_profiler\": {\"enabled\": true}}", "flops_profiler.enabled: true is not"},
      {"{" M1 ", \"hybrid_engine\": {\"enabled\": true}}",
       "hybrid_engine: {\"enabled\":true} is refused"},
      {"{" M1 ", \"sparse_attention\": {\"mode\": \"fixed\"}}", "sparse_attention: "},
      {"{" M1 ", \"communication_data_type\": \"fp16\"}",
       "communication_data_type: \"fp16\" is not"},
      {"{" M1 ", \"data_types\": {\"grad_accum_dtype\": \"bf16\"}}",
       "grad_accum_dtype: \"bf16\" is"},
      {"{" M1 ", \"gradient_clipping\": -1}", "gradient_clipping: must be at least 0, not -1"},
      {"{" M1 ", \"gradient_allreduce_op\": \"max\"}", "must be one of mean|sum"},
      {"{\"elasticity\": {\"enabled\": true}}",
       "elasticity.max_train_batch_size: is missing; elasticity needs it"},
      {"{\"elasticity\": {\"enabled\": true, \"max_train_batch_size\": 8}}",
       "elasticity.micro_batch_sizes: is missing; elasticity needs it"},
      {"{\"elasticity\": {\"enabled\": true, \"max_train_batch_size\": 8, \"micro_batch_sizes\": "
       "[2, 0.5]}}",
       "micro_batch_sizes: must have only positive whole numbers"},
      {"{\"elasticity\": {\"enabled\": true, \"max_train_batch_size\": 8, \"micro_batch_sizes\": "
       "[16]}}",
       "micro_batch_sizes: 16 is not from 1 to 8"},
      {"{" ELASTIC ", \"version\": 0.3}}", "elasticity.version: must be 0.1 or 0.2"},
      {"{" ELASTIC ", \"version\": 0.1, \"min_gpus\": 3}}",
       "elasticity: 2 ranks are not among those that a train batch of 24 divides over: 3, 4"},
      {"{" ELASTIC ", \"num_gpus_per_node\": 2, \"model_parallel_size\": 2}}",
       "elasticity.model_parallel_size: is 2, but 1 of the ranks share"},
      {"{" M1 ", " ELASTIC "}}", "elasticity: chooses the batch sizes; remove train_batch_size"},
      {"{" M1 ", \"optimizer\": {}}", "optimizer.type: is missing"},
      {"{" M1 ", \"optimizer\": {\"type\": null}, \"quux\": 1}", "optimizer.type: is missing"},
      {"{" M1 ", \"optimizer\": {\"type\": 1}}", "optimizer.type: must be a string, not a number"},
      {"{" M1 ", \"optimizer\": {\"type\": \"Adamm\"}}", "did you mean \"Adam\"?"},
      {"{" M1 ", \"optimizer\": {\"type\": \"Lamb\"}}",
       "optimizer.type: \"Lamb\" is not there yet"},
      {"{" M1 ", \"optimizer\": {\"type\": \"OneBitAdam\"}}", "\"OneBitAdam\" is refused"},
      {"{" M1 ", \"optimizer\": {\"type\": \"Adam\", \"params\": {\"max_grad_norm\": 1}}}",
       "optimizer.params.max_grad_norm: clips nothing here; use gradient_clipping"},
      {"{" M1 ", \"optimizer\": {\"type\": \"Adam\", \"params\": {\"beta\": [0.9, 0.9]}}}",
       "optimizer.params.beta: unknown key; did you mean \"betas\"?"},
      {"{" M1 ", \"optimizer\": {\"type\": \"Adam\", \"params\": {\"betas\": [0.9]}}}",
       "two numbers"},
      {"{" M1 ", \"optimizer\": {\"type\": \"Adam\", \"params\": {\"bias_correction\": false}}}",
       "bias_correction: false is not there yet"},
      {"{" M1 ", \"scheduler\": {\"type\": \"WarmupDecayLR\"}}",
       "scheduler.params.total_num_steps: is missing; WarmupDecayLR needs it"},
      {"{" M1 ", \"scheduler\": {\"type\": \"WarmupDecayLR\", \"params\": {\"total_num_steps\": "
       "\"auto\"}}}",
       "scheduler.params.total_num_steps: \"auto\" has no value here, write a number"},
      {"{" M1
       ", \"scheduler\": {\"type\": \"WarmupLR\", \"params\": {\"last_batch_iteration\": 3}}}",
       "last_batch_iteration: a checkpoint brings the schedule's place"},
      {"{" M1 ", \"scheduler\": {\"type\": \"WarmupLR\", \"params\": {\"warmup_typ\": 1}}}",
       "did you mean \"warmup_type\"?"},
      {"{" M1 ", \"scheduler\": {\"type\": \"WarmupLR\", \"params\": {\"warmup_num_steps\": -1}}}",
       "at least 0"},
      {"{" M1 ", \"scheduler\": {\"type\": \"StepLR\"}}", "unknown type \"StepLR\""},
      {"{" M1 ", \"backend\": {\"nam\": \"cpu\"}}", "nam"},
      {"{" M1 ", \"backend\": 3}", "backend"},
      {"{" M1 ", \"tensor_parallel\": {\"autotp_size\": 2, \"tp\": {\"tp_size\": 4}}}",
       "tensor_parallel.tp.tp_size: is 4, but tensor_parallel.autotp_size is 2"},
      {"{" M1 ", \"tensor_parallel\": {\"sequence_parallel\": true}}",
       "tensor_parallel.sequence_parallel: needs tensor parallelism"},
      {"{" M1 ", \"tensor_parallel\": {\"tp_size\": 3}}", "tensor parallel 3"},
      {"{" M1 ", \"tensor_parallel\": {\"tp_size\": 2, \"sequence_parallel\": true, "
       "\"tp_overlap_comm\": true}}",
       "tensor_parallel.tp_overlap_comm: with sequence_parallel"},
      {"[1]", "must be an object, not an array"},
      {"  ", "empty"},
  };
  for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
    ds_error err;
    char *json = (char *)&err;
    CHECK_FAILS(ds_config_resolve(rows[i].config, 2, &json, &err), DS_ERR_INVALID, err,
                rows[i].message);
    CHECK(json == NULL);
  }
}

static void test_syntax(void) {
  ds_error err;
  char *json;
  CHECK_FAILS(ds_config_resolve("{\"a\": 1,\n \"a\": 2}", 1, &json, &err), DS_ERR_FORMAT, err,
              "\"a\" stands twice");
  CHECK_FAILS(ds_config_resolve("{\"a\": \n", 1, &json, &err), DS_ERR_FORMAT, err, "line");
  CHECK_FAILS(ds_config_resolve("/no/such/config.json", 1, &json, &err), DS_ERR_NOT_FOUND, err,
              "/no/such/config.json");
  CHECK_FAILS(ds_config_resolve("{" M1 "}", 0, &json, &err), DS_ERR_INVALID, err, "world size");
  CHECK_FAILS(ds_config_resolve(NULL, 1, &json, &err), DS_ERR_INVALID, err, "no config");
}

static void test_all_at_once(void) {
  ds_error err;
  char *json;
  ds_status status =
      ds_config_resolve("{\"train_batch_size\": 3, \"optimzer\": 1, \"bf16\": {\"enabled\": 2}, "
                        "\"zero_optimization\": "
                        "{\"stage\": 5, \"sub_group_sise\": 1}, \"backend\": {\"devise\": 1}}",
                        2, &json, &err);
  CHECK(status == DS_ERR_INVALID);
  static const char *const all[] = {
      "6 errors",       "optimzer", "bf16.enabled",  "stage: must be from 0 to 3",
      "sub_group_size", "devise",   "3 != 1 * 1 * 2"};
  for (size_t i = 0; i < sizeof all / sizeof all[0]; i++) {
    CHECK(strstr(err.message, all[i]) != NULL);
    if (!strstr(err.message, all[i])) fprintf(stderr, "no %s in: %s\n", all[i], err.message);
  }
  /* More than a message holds: whole lines, and how many are left. */
  char config[4096] = "{";
  for (int i = 0; i < 60; i++) sprintf(config + strlen(config), "\"nonsense_key_%d\": 1, ", i);
  strcat(config, M1 "}");
  CHECK_FAILS(ds_config_resolve(config, 1, &json, &err), DS_ERR_INVALID, err, "60 errors");
  CHECK(strstr(err.message, "more)") != NULL && strlen(err.message) < DS_ERROR_MESSAGE_MAX);
}

static void test_path(void) {
  ds_error err;
  char path[] = "/tmp/ds_config_XXXXXX", *json;
  int fd = mkstemp(path);
  const char text[] =
      "{\n  // the batch\n  \"train_batch_size\": 6,\n  \"gradient_cliping\": 1,\n}\n";
  CHECK(fd >= 0 && write(fd, text, sizeof text - 1) == (ssize_t)(sizeof text - 1));
  close(fd);
  CHECK_FAILS(ds_config_resolve(path, 2, &json, &err), DS_ERR_INVALID, err, path);
  CHECK(strstr(err.message, "did you mean \"gradient_clipping\"") != NULL);
  unlink(path);
}

int main(void) {
  test_good();
  test_trainer();
  test_idle();
  test_bad();
  test_syntax();
  test_all_at_once();
  test_path();
  return TEST_RESULT();
}
