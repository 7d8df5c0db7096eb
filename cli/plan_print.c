#include "plan.h"

#include "zero/estimate_deepspeed.h"

#include <math.h>

static double gb(double bytes) {
  return bytes / 1e9;
}

/* Three figures or more in eight columns. */
static const char *short_number(double v, char out[16]) {
  snprintf(out, 16,
           v == 0     ? "-"
           : v < 0.1  ? "%.3g"
           : v < 10   ? "%.3f"
           : v < 1000 ? "%.1f"
                      : "%.0f",
           v);
  return out;
}

static void cell(double v) {
  char text[16];
  printf(" %8s", short_number(v, text));
}

static double tokens_a_second(const plan_choice *c) {
  return ds_estimate_tokens(&c->layout) / c->time.total;
}

/* Flop/s of a rank, without what recomputation repeats. */
static double rate(const plan_request *r, const plan_choice *c) {
  return ds_estimate_flop(&r->model, &c->layout, false) / c->time.total / r->gpus;
}

static double sent(const plan_request *r, const plan_choice *c) {
  return ds_estimate_traffic_of(&r->model, &c->layout).bytes;
}

/* ---- for people */

static void print_head(const plan_request *r) {
  const ds_estimate_machine *a = &r->machine;
  const ds_estimate_layout *l = &r->base;
  double params = ds_estimate_parameters(&r->model);
  printf("model      %s: %.4g B parameters, %lld blocks; %s weights, f32 gradients%s, %g bytes of "
         "optimizer states\n",
         r->name, params / 1e9, (long long)r->model.layers, l->bytes.weight == 2 ? "16-bit" : "f32",
         l->bytes.master > 0 ? " and masters" : "", l->bytes.states);
  printf("machine    %d x %s, %d a node: %.4g Tflop/s (%.2g of it reached), %.4g GB", r->gpus,
         r->machine_name, a->per_node, a->flops / 1e12, a->efficiency, gb(a->memory));
  if (r->gpus > 1)
    printf("; %.4g GB/s in a node, %.4g between (%.2g reached)", a->near_rate / 1e9,
           a->far_rate / 1e9, a->link_efficiency);
  printf("\n");
  printf("           %s\n", r->machine_source);
  if (r->batch)
    printf("step       %lld sequences of %lld: %.4g M tokens", (long long)r->batch,
           (long long)l->seq_len, 1e-6 * (double)r->batch * (double)l->seq_len);
  else
    printf("step       %lld x %lld sequences of %lld on each replica", (long long)r->micro,
           (long long)r->accumulation, (long long)l->seq_len);
  printf("; %.3g %% of each memory is left free%s\n", 100 * r->headroom,
         l->recompute ? "; blocks run forward again in the backward pass" : "");
}

/* One split's stages and offloads: what each part of memory takes. */
static void print_stages(const plan_request *r) {
  static const struct {
    int stage;
    plan_offload offload;
  } rows[] = {{0, PLAN_KEEP}, {1, PLAN_KEEP}, {2, PLAN_KEEP},    {3, PLAN_KEEP},
              {1, PLAN_CPU},  {2, PLAN_CPU},  {3, PLAN_CPU_ALL}, {3, PLAN_NVME_ALL}};
  int t = r->tensor ? r->tensor : 1, p = r->pipe ? r->pipe : 1, s = r->sequence ? r->sequence : 1;
  printf("\nZeRO stages with tp %d, pp %d, sp %d: GB of a rank, and GB it sends in a step\n", t, p,
         s);
  printf("  stage  offload  micro   weights  masters    grads   states gathered  buffers   activ. "
         "  device     host     nvme     sent   s/step\n");
  for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
    plan_choice c;
    if (!plan_consider(r, t, p, s, rows[i].stage, rows[i].offload, &c)) continue;
    const ds_estimate_memory *m = &c.memory;
    printf("  %5d %8s %6lld ", rows[i].stage, plan_offload_name(c.offload),
           (long long)c.layout.micro_batch);
    cell(gb(m->weights)), cell(gb(m->masters)), cell(gb(m->gradients)), cell(gb(m->states));
    cell(gb(m->gathered)), cell(gb(m->buffers)), cell(gb(m->activations)), cell(gb(m->device));
    cell(gb(m->host)), cell(gb(m->nvme)), cell(gb(sent(r, &c))), cell(c.time.total);
    if (c.beyond > 0) printf("  %s: %.3g GB too much", c.what, gb(c.beyond));
    printf("\n");
  }
}

static void print_best(const plan_request *r, const plan_result *found) {
  printf("\nfastest of %d layouts that fit, of %d\n", found->fitting, found->considered);
  printf(
      "      tp   pp   sp     dp  stage  offload  micro    acc   device     host     sent   s/step "
      "  tokens/s  Tflop/s  of peak\n");
  for (int i = 0; i < found->n_best; i++) {
    const plan_choice *c = &found->best[i];
    const ds_estimate_layout *l = &c->layout;
    printf("  %s %4d %4d %4d %6d  %5d %8s %6lld %6lld", i == found->recommended ? "*" : " ",
           l->tensor, l->pipe, l->sequence, l->data, l->stage, plan_offload_name(c->offload),
           (long long)l->micro_batch, (long long)l->accumulation);
    cell(gb(c->memory.device)), cell(gb(c->memory.host)), cell(gb(sent(r, c)));
    cell(c->time.total);
    printf(" %10.4g %8.4g %8.3f\n", tokens_a_second(c), rate(r, c) / 1e12,
           rate(r, c) / r->machine.flops);
  }
}

static void print_part(const char *name, double t, double total) {
  if (t > 0.001 * total) printf("  %s %.1f %%", name, 100 * t / total);
}

static void print_recommended(const plan_request *r, const plan_choice *c) {
  const ds_estimate_layout *l = &c->layout;
  const ds_estimate_time *t = &c->time;
  ds_estimate_traffic sends = ds_estimate_traffic_of(&r->model, l);
  printf("\nrecommended (*): tp %d, pp %d, sp %d, dp %d, ZeRO stage %d, offload %s, micro batch "
         "%lld x "
         "%lld\n  the simplest within 5 %% of the fastest\n",
         l->tensor, l->pipe, l->sequence, l->data, l->stage, plan_offload_name(c->offload),
         (long long)l->micro_batch, (long long)l->accumulation);
  for (int i = 0; i < DS_TRAFFIC_KINDS; i++) {
    const ds_traffic_item *x = &sends.item[i];
    if (x->bytes > 0)
      printf("  sends      %-24s %9.4g GB in %.0f calls among %d\n", ds_estimate_traffic_name(i),
             gb(x->bytes), x->calls, x->ranks);
  }
  if (sends.host > 0) printf("  moves      to and from the host     %9.4g GB\n", gb(sends.host));
  if (sends.nvme > 0) printf("  moves      to and from files        %9.4g GB\n", gb(sends.nvme));
  printf("  step       %.4g s:", t->total);
  print_part("products", t->products, t->total);
  print_part("element-wise", t->elementwise, t->total);
  print_part("tensor", t->tensor, t->total);
  print_part("sequence", t->sequence, t->total);
  print_part("bubble", t->bubble, t->total);
  print_part("pipeline", t->pipe, t->total);
  print_part("data", t->data, t->total);
  print_part("offload", t->offload, t->total);
  print_part("update", t->update, t->total);
  printf("\n");
  cJSON *config = plan_config(c);
  char *text = cJSON_PrintUnformatted(config);
  if (text) printf("  config     %s\n", text);
  cJSON_free(text);
  cJSON_Delete(config);
}

/* What the largest layer is to DeepSpeed: the module with most parameters. */
static double largest_layer(const ds_estimate_model *m) {
  double most = 0;
  for (int i = 0; i < m->n_block; i++) most = fmax(most, m->block[i].numel);
  for (int i = 0; i < m->n_outer; i++) most = fmax(most, m->outer[i].numel);
  return most;
}

static ds_estimate_deepspeed deepspeed(const plan_request *r, int stage) {
  int nodes = (r->gpus + r->machine.per_node - 1) / r->machine.per_node;
  return ds_estimate_deepspeed_of(stage, ds_estimate_parameters(&r->model),
                                  largest_layer(&r->model), r->gpus / nodes, nodes, false, false,
                                  true);
}

void plan_print(const plan_request *r, const plan_result *found) {
  print_head(r);
  print_stages(r);
  printf(
      "  DeepSpeed's own estimators, of model states alone: stage 2 %.2f GiB, stage 3 %.2f GiB\n",
      deepspeed(r, 2).gpu / (1 << 30), deepspeed(r, 3).gpu / (1 << 30));
  if (found->n_best == 0) return;
  print_best(r, found);
  print_recommended(r, &found->best[found->recommended]);
}

/* ---- JSON: bytes, seconds, flop/s */

static cJSON *json_memory(const ds_estimate_memory *m) {
  cJSON *o = cJSON_CreateObject();
  cJSON_AddNumberToObject(o, "weights", m->weights);
  cJSON_AddNumberToObject(o, "masters", m->masters);
  cJSON_AddNumberToObject(o, "gradients", m->gradients);
  cJSON_AddNumberToObject(o, "states", m->states);
  cJSON_AddNumberToObject(o, "gathered", m->gathered);
  cJSON_AddNumberToObject(o, "buffers", m->buffers);
  cJSON_AddNumberToObject(o, "activations", m->activations);
  cJSON_AddNumberToObject(o, "device", m->device);
  cJSON_AddNumberToObject(o, "host", m->host);
  cJSON_AddNumberToObject(o, "nvme", m->nvme);
  return o;
}

static cJSON *json_time(const ds_estimate_time *t) {
  cJSON *o = cJSON_CreateObject();
  cJSON_AddNumberToObject(o, "products", t->products);
  cJSON_AddNumberToObject(o, "elementwise", t->elementwise);
  cJSON_AddNumberToObject(o, "tensor", t->tensor);
  cJSON_AddNumberToObject(o, "sequence", t->sequence);
  cJSON_AddNumberToObject(o, "bubble", t->bubble);
  cJSON_AddNumberToObject(o, "pipe", t->pipe);
  cJSON_AddNumberToObject(o, "data", t->data);
  cJSON_AddNumberToObject(o, "offload", t->offload);
  cJSON_AddNumberToObject(o, "update", t->update);
  cJSON_AddNumberToObject(o, "total", t->total);
  return o;
}

static cJSON *json_traffic(const plan_request *r, const plan_choice *c) {
  cJSON *o = cJSON_CreateObject();
  ds_estimate_traffic t = ds_estimate_traffic_of(&r->model, &c->layout);
  for (int i = 0; i < DS_TRAFFIC_KINDS; i++) {
    if (t.item[i].bytes == 0) continue;
    cJSON *x = cJSON_AddObjectToObject(o, ds_estimate_traffic_name(i));
    cJSON_AddNumberToObject(x, "bytes", t.item[i].bytes);
    cJSON_AddNumberToObject(x, "calls", t.item[i].calls);
    cJSON_AddNumberToObject(x, "ranks", t.item[i].ranks);
  }
  cJSON_AddNumberToObject(o, "total", t.bytes);
  cJSON_AddNumberToObject(o, "host", t.host);
  cJSON_AddNumberToObject(o, "nvme", t.nvme);
  return o;
}

static cJSON *json_choice(const plan_request *r, const plan_choice *c) {
  const ds_estimate_layout *l = &c->layout;
  cJSON *o = cJSON_CreateObject();
  cJSON_AddNumberToObject(o, "tp", l->tensor);
  cJSON_AddNumberToObject(o, "pp", l->pipe);
  cJSON_AddNumberToObject(o, "sp", l->sequence);
  cJSON_AddNumberToObject(o, "dp", l->data);
  cJSON_AddNumberToObject(o, "stage", l->stage);
  cJSON_AddStringToObject(o, "offload", plan_offload_name(c->offload));
  cJSON_AddNumberToObject(o, "micro_batch", (double)l->micro_batch);
  cJSON_AddNumberToObject(o, "accumulation", (double)l->accumulation);
  cJSON_AddBoolToObject(o, "fits", c->beyond == 0);
  if (c->beyond > 0) {
    cJSON_AddStringToObject(o, "short_of", c->what);
    cJSON_AddNumberToObject(o, "short_bytes", c->beyond);
  }
  cJSON_AddItemToObject(o, "memory", json_memory(&c->memory));
  cJSON_AddItemToObject(o, "sent", json_traffic(r, c));
  cJSON_AddItemToObject(o, "time", json_time(&c->time));
  cJSON_AddNumberToObject(o, "tokens_per_s", tokens_a_second(c));
  cJSON_AddNumberToObject(o, "flops_per_rank", rate(r, c));
  return o;
}

static void json_head(const plan_request *r, cJSON *root) {
  cJSON *m = cJSON_AddObjectToObject(root, "model"), *a = cJSON_AddObjectToObject(root, "machine");
  cJSON_AddStringToObject(m, "name", r->name);
  cJSON_AddNumberToObject(m, "parameters", ds_estimate_parameters(&r->model));
  cJSON_AddNumberToObject(m, "blocks", (double)r->model.layers);
  cJSON_AddStringToObject(a, "name", r->machine_name);
  cJSON_AddStringToObject(a, "source", r->machine_source);
  cJSON_AddNumberToObject(a, "gpus", r->gpus);
  cJSON_AddNumberToObject(a, "per_node", r->machine.per_node);
  cJSON_AddNumberToObject(a, "flops", r->machine.flops);
  cJSON_AddNumberToObject(a, "memory", r->machine.memory);
  cJSON_AddNumberToObject(a, "memory_rate", r->machine.memory_rate);
  cJSON_AddNumberToObject(a, "near_rate", r->machine.near_rate);
  cJSON_AddNumberToObject(a, "far_rate", r->machine.far_rate);
  cJSON *d = cJSON_AddObjectToObject(root, "deepspeed_estimators");
  cJSON_AddNumberToObject(d, "stage2", deepspeed(r, 2).gpu);
  cJSON_AddNumberToObject(d, "stage3", deepspeed(r, 3).gpu);
}

ds_status plan_print_json(const plan_request *r, const plan_result *found, ds_error *err) {
  cJSON *root = cJSON_CreateObject();
  json_head(r, root);
  cJSON *stages = cJSON_AddArrayToObject(root, "stages");
  int t = r->tensor ? r->tensor : 1, p = r->pipe ? r->pipe : 1, s = r->sequence ? r->sequence : 1;
  for (int stage = 0; stage <= 3; stage++)
    for (int o = 0; o < PLAN_OFFLOADS; o++) {
      plan_choice c;
      if (plan_consider(r, t, p, s, stage, (plan_offload)o, &c))
        cJSON_AddItemToArray(stages, json_choice(r, &c));
    }
  cJSON *layouts = cJSON_AddArrayToObject(root, "layouts");
  for (int i = 0; i < found->n_best; i++)
    cJSON_AddItemToArray(layouts, json_choice(r, &found->best[i]));
  if (found->n_best > 0) {
    const plan_choice *best = &found->best[found->recommended];
    cJSON *o = json_choice(r, best);
    cJSON_AddItemToObject(o, "config", plan_config(best));
    cJSON_AddItemToObject(root, "recommended", o);
  }
  char *text = cJSON_PrintUnformatted(root);
  cJSON_Delete(root);
  if (!text) return ds_fail_memory(err, "the plan");
  printf("%s\n", text);
  cJSON_free(text);
  return DS_OK;
}
