/* ds plan: what a training run takes of memory, network and time on N ranks, before it runs. */
#include "plan.h"

#include "optim/optimizer.h"
#include "train/config.h"

#include <stdlib.h>
#include <string.h>

typedef struct plan_options {
  const char *model, *config, *hardware, *dtype, *offload, *backend, *bandwidth;
  int64_t gpus, per_node, batch, micro, accumulation, seq_len, tensor, pipe, sequence, stage;
  double flops, memory, host_memory, headroom;
  bool measure, recompute, json;
} plan_options;

static int wrong(const char *text) {
  fprintf(stderr, "ds plan: %s (ds plan --help)\n", text);
  return 2;
}

/* -1: none of them. */
static int find_offload(const char *text) {
  for (int i = 0; i < PLAN_OFFLOADS; i++)
    if (strcmp(text, plan_offload_name((plan_offload)i)) == 0) return i;
  return -1;
}

/* ---- the config */

static const cJSON *zero_key(const cJSON *root, const char *key) {
  const cJSON *zero = cJSON_GetObjectItemCaseSensitive(root, "zero_optimization");
  return cJSON_GetObjectItemCaseSensitive(zero, key);
}

static bool zero_key_is(const cJSON *root, const char *key, int type) {
  const cJSON *item = zero_key(root, key);
  return item && (item->type & 0xff) == type;
}

static int secondary_ranks(const cJSON *root) {
  double n = cJSON_GetNumberValue(zero_key(root, "zero_hpz_partition_size"));
  return n > 1 && n < 1 << 20 ? (int)n : 1;
}

static int64_t given(int64_t size) {
  return size == DS_BATCH_UNSET ? 0 : size;
}

/* What the config says about sizes; how the run is split stays open. */
static ds_status take_config(const ds_config *c, plan_request *r, ds_error *err) {
  ds_optimizer *optimizer;
  int states = 2;
  DS_TRY(ds_config_make_optimizer(c, &optimizer, err));
  if (optimizer) states = (int)optimizer->vtable->n_states;
  ds_optimizer_destroy(optimizer);
  ds_estimate_layout *l = &r->base;
  l->bytes = ds_estimate_bytes_of(c->bf16 || c->fp16, states);
  const ds_zero_rules *z = &c->zero;
  l->reduce_bucket = z->reduce_bucket;
  l->gather_bucket = z->gather_bucket;
  l->prefetch_bucket = z->prefetch_bucket;
  l->persistence = z->persistence;
  l->max_live = z->max_live;
  l->max_reuse = z->max_reuse;
  l->granularity = z->granularity;
  l->sub_group = z->sub_group;
  l->buffers = z->buffers;
  l->overlap = !zero_key_is(c->root, "overlap_comm", cJSON_False);
  l->secondary = secondary_ranks(c->root);
  if (zero_key_is(c->root, "zero_quantized_weights", cJSON_True)) l->weight_bits = 8;
  if (zero_key_is(c->root, "zero_quantized_gradients", cJSON_True)) l->gradient_bits = 8;
  if (l->weight_bits || l->gradient_bits) l->align = l->quant_group;
  if (r->batch == 0) r->batch = given(c->batch.train);
  if (r->micro == 0) r->micro = given(c->batch.micro);
  if (r->accumulation == 0) r->accumulation = given(c->batch.accumulation);
  /* All three were said for one world; on another, the first two hold. */
  if (r->batch && r->micro) r->accumulation = 0;
  return DS_OK;
}

static ds_status read_config(const char *path, plan_request *r, ds_error *err) {
  ds_logger logger = {cli_log, NULL};
  ds_schema_errors errors = {0};
  ds_config c;
  ds_status status = ds_config_read(path, &logger, &c, &errors, err);
  ds_error found;
  ds_status report = ds_schema_errors_report(&errors, c.name ? c.name : path, &found);
  if (status == DS_OK && report != DS_OK) status = ds_fail(err, report, "%s", found.message);
  if (status == DS_OK) status = take_config(&c, r, err);
  ds_config_finish(&c);
  return status;
}

/* ---- the model */

static ds_status read_model(const char *path, plan_request *r, ds_error *err) {
  ds_model *model;
  DS_TRY(path[0] == '{' ? ds_model_from_config(path, &model, err)
                        : ds_model_load(path, &model, err));
  ds_model_info info;
  ds_status status = ds_model_get_info(model, &info, err);
  if (status == DS_OK) status = ds_estimate_model_of(model, &r->model, err);
  if (status == DS_OK && r->base.seq_len == 0) r->base.seq_len = info.max_positions;
  if (status == DS_OK && r->base.seq_len > info.max_positions)
    status = ds_fail(err, DS_ERR_INVALID, "--seq-len %lld is more than the model's %lld positions",
                     (long long)r->base.seq_len, (long long)info.max_positions);
  r->name = path[0] == '{' ? "the config given" : path;
  ds_model_destroy(model);
  return status;
}

/* ---- the machine */

static bool read_bandwidth(const char *text, ds_estimate_machine *a) {
  char *end;
  double near = strtod(text, &end), far = near;
  if (end == text) return false;
  if (*end == ',') {
    text = end + 1;
    far = strtod(text, &end);
    if (end == text) return false;
  }
  if (*end || !(near > 0) || !(far > 0)) return false;
  a->near_rate = near * 1e9;
  a->far_rate = far * 1e9;
  return true;
}

/* Figures of the command line win over a preset's and over measured ones. */
static int set_machine(const plan_options *o, plan_request *r) {
  ds_estimate_machine *a = &r->machine;
  if (o->per_node) a->per_node = (int)o->per_node;
  if (o->flops > 0) a->flops = o->flops * 1e12;
  if (o->memory > 0) a->memory = o->memory * 1e9;
  if (o->host_memory > 0) a->host_memory = o->host_memory * 1e9 / a->per_node;
  if (o->bandwidth && !read_bandwidth(o->bandwidth, a))
    return wrong("--bandwidth wants GB/s in a node and, after a comma, between nodes");
  if (!(a->flops > 0)) return wrong("--flops is missing, or --hardware, or --measure");
  if (!(a->memory > 0)) return wrong("--memory is missing, or --hardware, or --measure");
  if (r->gpus > 1 && !(a->near_rate > 0))
    return wrong("--bandwidth is missing, or --hardware (--measure finds it under mpirun only)");
  if (a->near_rate <= 0) a->near_rate = a->far_rate = 1;
  if (a->per_node > r->gpus) a->per_node = r->gpus;
  /* What nobody said: memory in the usual proportion to the peak, a host's link to that. */
  if (a->memory_rate <= 0) a->memory_rate = a->flops / 150;
  if (a->host_rate <= 0) a->host_rate = a->memory_rate / 50;
  if (a->host_memory_rate <= 0) a->host_memory_rate = a->host_rate;
  return 0;
}

static int find_machine(const plan_options *o, plan_request *r, int *rank) {
  bool bf16 = r->base.bytes.weight == 2;
  ds_error err;
  r->machine = ds_estimate_machine_init();
  r->machine_name = "ranks as given";
  r->machine_source = "from the command line";
  if (o->hardware && o->measure) return wrong("--hardware and --measure: one of them");
  if (o->hardware && !plan_hardware_find(o->hardware, bf16, r)) return 2;
  if (o->measure && plan_measure(o->backend, bf16, r, rank, &err) != DS_OK)
    return cli_fail("plan", &err);
  return set_machine(o, r);
}

/* ---- */

static int check_options(const plan_options *o) {
  if (!o->model) return wrong("--model is missing");
  if (o->gpus == 0) return wrong("--gpus is missing");
  if (o->gpus < 1 || o->gpus > 1 << 20) return wrong("--gpus must be from 1 to 1048576");
  if (o->batch < 0 || o->micro < 0 || o->accumulation < 0 || o->seq_len < 0)
    return wrong("batch sizes and --seq-len must be positive");
  if (o->tensor < 0 || o->pipe < 0 || o->sequence < 0 || o->tensor > o->gpus || o->pipe > o->gpus ||
      o->sequence > o->gpus)
    return wrong("--tp, --pp and --sp must be from 1 to --gpus");
  if (o->stage < -1 || o->stage > 3) return wrong("--stage must be from 0 to 3");
  if (o->offload && find_offload(o->offload) < 0)
    return wrong("--offload may be none, cpu, cpu-all, nvme or nvme-all");
  if (o->dtype && strcmp(o->dtype, "bf16") != 0 && strcmp(o->dtype, "f32") != 0)
    return wrong("--dtype may be bf16 or f32");
  if (!(o->headroom >= 0 && o->headroom < 1)) return wrong("--headroom must be from 0 to 1");
  if (o->per_node < 0 || o->flops < 0 || o->memory < 0 || o->host_memory < 0)
    return wrong("figures of the machine must be positive");
  return 0;
}

static int fill(const plan_options *o, plan_request *r, int *rank) {
  ds_error err;
  *r = (plan_request){.gpus = (int)o->gpus,
                      .batch = o->batch,
                      .micro = o->micro,
                      .accumulation = o->accumulation,
                      .tensor = (int)o->tensor,
                      .pipe = (int)o->pipe,
                      .sequence = (int)o->sequence,
                      .stage = (int)o->stage,
                      .offload = o->offload ? find_offload(o->offload) : -1,
                      .headroom = o->headroom,
                      .base = ds_estimate_layout_init()};
  r->base.seq_len = o->seq_len;
  r->base.recompute = o->recompute;
  r->base.bytes = ds_estimate_bytes_of(true, 2);
  if (o->config && read_config(o->config, r, &err) != DS_OK) return cli_fail("plan", &err);
  if (o->dtype) {
    int states = (int)(r->base.bytes.states / 4);
    r->base.bytes = ds_estimate_bytes_of(strcmp(o->dtype, "bf16") == 0, states);
  }
  if (r->batch == 0 && r->micro == 0)
    return wrong("a batch is missing: --batch, --micro-batch, or --config with one");
  if (read_model(o->model, r, &err) != DS_OK) return cli_fail("plan", &err);
  return find_machine(o, r, rank);
}

static int answer(const plan_request *r, bool json) {
  ds_error err;
  plan_result found;
  if (!plan_search(r, &found)) {
    ds_fail(&err, DS_ERR_INVALID,
            "no layout of %d ranks has what is fixed: tp, pp and sp must divide the ranks, "
            "replicas and "
            "micro batch the batch of %lld, and stages 2 and 3 go without a pipeline",
            r->gpus, (long long)r->batch);
    return cli_fail("plan", &err);
  }
  if (json) {
    if (plan_print_json(r, &found, &err) != DS_OK) return cli_fail("plan", &err);
  } else {
    plan_print(r, &found);
  }
  if (found.n_best > 0) return 0;
  (void)plan_explain(r, &found, &err);
  return cli_fail("plan", &err);
}

int cmd_plan(int argc, char **argv) {
  plan_options o = {.stage = -1, .headroom = 0.1};
  plan_request r;
  option_list words;
  int rank = 0;
  const command c = {
      "plan",
      "Estimates memory per rank, bytes sent and time of a step on N ranks, for every ZeRO stage, "
      "tensor,\npipeline and sequence parallel split and offload, and recommends one.",
      "--model PATH --gpus N (--batch N | --config FILE) (--hardware NAME | --measure | ...)",
      "What is left open is searched. A config gives batch sizes, dtype, optimizer and ZeRO's "
      "limits; its\n"
      "stage and split stay open: fix them with --stage, --tp, --pp, --sp and --offload.\n"
      "Estimates count what core/zero/estimate.h says; the factors behind the times agree with "
      "published\n"
      "runs on up to 3072 GPUs within 12 %.\n\n"
      "examples:\n"
      "  ds plan --model config.json --gpus 1024 --batch 2048 --hardware h100\n"
      "  ds plan --model gpt2/ --gpus 2 --config ds_config.json --measure --bandwidth 5",
      {{"--model", OPTION_STRING, &o.model, "PATH",
        "Hugging Face folder, config.json, or its text"},
       {"--gpus", OPTION_INT, &o.gpus, "N", "ranks; one device each"},
       {"--config", OPTION_STRING, &o.config, "FILE", "ds_config.json"},
       {"--batch", OPTION_INT, &o.batch, "N", "sequences of a step, of all replicas"},
       {"--micro-batch", OPTION_INT, &o.micro, "N", "sequences at once on a replica (searched)"},
       {"--accumulation", OPTION_INT, &o.accumulation, "N",
        "micro batches of a step (from --batch)"},
       {"--seq-len", OPTION_INT, &o.seq_len, "T", "tokens of a sequence (the model's positions)"},
       {"--dtype", OPTION_STRING, &o.dtype, "TYPE", "bf16 or f32 (the config's, else bf16)"},
       {"--tp", OPTION_INT, &o.tensor, "N", "tensor parallel ranks (searched)"},
       {"--pp", OPTION_INT, &o.pipe, "N", "pipeline stages (searched)"},
       {"--sp", OPTION_INT, &o.sequence, "N", "sequence parallel ranks (searched)"},
       {"--stage", OPTION_INT, &o.stage, "N", "ZeRO stage, 0 to 3 (searched)"},
       {"--offload", OPTION_STRING, &o.offload, "WHERE",
        "none, cpu or nvme (the optimizer), cpu-all or\nnvme-all (parameters, too) (searched)"},
       {"--recompute", OPTION_FLAG, &o.recompute, NULL,
        "what it would be if blocks ran forward again in\nthe backward pass; the engine keeps "
        "activations"},
       {"--hardware", OPTION_STRING, &o.hardware, "NAME",
        "v100-32gb, a100-40gb, a100-80gb, h100, h200 or mi300x"},
       {"--measure", OPTION_FLAG, &o.measure, NULL,
        "measure this machine; under mpirun, its network, too"},
       {"--backend", OPTION_STRING, &o.backend, "NAME", "what to measure with (auto)"},
       {"--per-node", OPTION_INT, &o.per_node, "N", "ranks of a node"},
       {"--flops", OPTION_NUMBER, &o.flops, "T", "Tflop/s of a rank's products, at the peak"},
       {"--memory", OPTION_NUMBER, &o.memory, "GB", "of a rank's device"},
       {"--bandwidth", OPTION_STRING, &o.bandwidth, "NEAR[,FAR]",
        "GB/s that a rank sends in a node, and between nodes"},
       {"--host-memory", OPTION_NUMBER, &o.host_memory, "GB", "of a node"},
       {"--headroom", OPTION_NUMBER, &o.headroom, "X", "part of each memory to leave free (0.1)"},
       {"--json", OPTION_FLAG, &o.json, NULL, "one JSON object: bytes, seconds"}}};
  parsed p = options_parse(&c, argc, argv, &words);
  if (p != PARSED_RUN) return p == PARSED_HELP ? 0 : 2;
  if (words.count > 0) {
    fprintf(stderr, "ds plan: unexpected \"%s\" (ds plan --help)\n", words.values[0]);
    return 2;
  }
  int code = check_options(&o);
  if (code == 0) code = fill(&o, &r, &rank);
  if (code != 0 || rank > 0) return code; /* one rank speaks */
  return answer(&r, o.json);
}
