#include "train/facts.h"

#include "data/dataset.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static void add_code(const ds_engine *e, ds_agree *out) {
  const ds_plugin *p = ds_backend_plugin(e->backend);
  ds_agree_add(out, "dscore version", "%s, ABI %d.%d", ds_version(), DS_ABI_MAJOR, DS_ABI_MINOR);
  ds_agree_add(out, "backend", "%s %s", ds_backend_name(e->backend),
               p && p->version ? p->version : "");
  ds_agree_add(out, "backend.comm_timeout", "%g", (double)e->world.timeout_ms / 1000);
}

static const char *const batch[] = {"train_batch_size", "train_micro_batch_size_per_gpu",
                                    "gradient_accumulation_steps"};

void ds_facts_begin(const ds_engine *e, ds_agree *out) {
  static const char *const but[] = {
      "train_batch_size", /* derived later: the same may be given in two ways */
      "train_micro_batch_size_per_gpu",
      "gradient_accumulation_steps",
      "backend",
      "steps_per_print",
      "log_level",
      "wall_clock_breakdown",
      "memory_breakdown",
      "dump_state",
      "flops_profiler",
      "tensorboard",
      "csv_monitor",
      "wandb",
      "comet",
      "trackio",
      "aio",
      "zero_optimization.offload_param.nvme_path",
      "zero_optimization.offload_optimizer.nvme_path"};
  add_code(e, out);
  ds_agree_add_json(out, "", e->config.root, but, sizeof but / sizeof *but);
}

static void add_batch(const ds_engine *e, ds_agree *out) {
  const int64_t sizes[] = {e->config.batch.train, e->config.batch.micro,
                           e->config.batch.accumulation};
  for (int i = 0; i < 3; i++) ds_agree_add(out, batch[i], "%lld", (long long)sizes[i]);
}

/* The model's own config: what its parameters' shapes don't tell. */
static void add_model_config(ds_model *m, ds_agree *out) {
  static const char *const idle[] = {"model.dtype", "model.torch_dtype", "model._name_or_path",
                                     "model.transformers_version"};
  char *text = ds_model_config_json(m);
  cJSON *config = NULL;
  if (text && ds_json_parse(text, strlen(text), 0, "model", &config, NULL) == DS_OK &&
      cJSON_IsObject(config))
    ds_agree_add_json(out, "model", config, idle, sizeof idle / sizeof *idle);
  else if (text)
    ds_agree_add(out, "the model's config", "%s", text);
  cJSON_Delete(config);
  free(text);
}

static void add_parameter(const ds_engine *e, int index, ds_agree *out) {
  int64_t shape[DS_MAX_RANK];
  int32_t rank = ds_params_shape(e->params, index, shape);
  ds_str name = {0}, text = {0};
  ds_str_printf(&name, "parameter %s", ds_params_name(e->params, index));
  ds_str_puts(&text, "[");
  for (int i = 0; i < rank; i++)
    ds_str_printf(&text, "%s%lld", i > 0 ? "," : "", (long long)shape[i]);
  ds_str_printf(&text, "], number %d of the model", index + 1);
  if (e->group_of[index] < 0)
    ds_str_puts(&text, ", frozen");
  else
    ds_str_printf(&text, ", in group %d", e->group_of[index]);
  if (name.failed || text.failed)
    out->facts.failed = true;
  else
    ds_agree_add(out, name.data, "%s", text.data);
  ds_str_finish(&name);
  ds_str_finish(&text);
}

static void add_optimizer(const ds_engine *e, ds_agree *out) {
  const ds_optimizer *o = e->optimizer;
  ds_agree_add(out, "optimizer", "%s", o ? o->vtable->name : "none");
  ds_agree_add(out, "lr_scheduler", "%s", e->scheduler ? e->scheduler->vtable->name : "none");
  for (int i = 0; o && i < o->n_groups; i++) {
    char name[64];
    const ds_optimizer_group *g = &o->groups[i];
    snprintf(name, sizeof name, "optimizer group %d", i);
    ds_agree_add(out, name, "lr %.17g, betas %.17g and %.17g, eps %.17g, weight_decay %.17g",
                 g->base_lr, g->beta1, g->beta2, g->eps, g->weight_decay);
  }
}

void ds_facts_collect(const ds_engine *e, const ds_dataset *data, ds_agree *out) {
  add_batch(e, out);
  ds_agree_add(out, "model", "\"%s\"", ds_model_name(e->model));
  add_model_config(e->model, out);
  for (int i = 0; i < e->n_params; i++) add_parameter(e, i, out);
  ds_agree_add(out, "number of parameters", "%d", e->n_params);
  add_optimizer(e, out);
  ds_agree_add(out, "training_data", "%s", data ? "given" : "none");
  if (!data) return;
  ds_agree_add(out, "length of training_data", "%lld", (long long)ds_dataset_length(data));
  if (e->topology.model.size == 1) /* else rank 0's is everybody's */
    ds_agree_add(out, "seed", "%llu", (unsigned long long)e->seed);
}
