#include "plan.h"

#include <math.h>

const char *plan_offload_name(plan_offload o) {
  static const char *const names[PLAN_OFFLOADS] = {"none", "cpu", "cpu-all", "nvme", "nvme-all"};
  return names[o];
}

static void set_offload(ds_estimate_layout *l, plan_offload o) {
  ds_offload to = o == PLAN_KEEP                       ? DS_OFFLOAD_NONE
                  : o == PLAN_CPU || o == PLAN_CPU_ALL ? DS_OFFLOAD_CPU
                                                       : DS_OFFLOAD_NVME;
  l->offload_optimizer = to;
  if (o == PLAN_NVME_ALL && l->buffers < 5) l->buffers = 5; /* offload_param's buffer_count */
  l->offload_param = o == PLAN_CPU_ALL || o == PLAN_NVME_ALL ? to : DS_OFFLOAD_NONE;
}

static void miss(plan_choice *c, const char *what, double need, double have) {
  if (need - have <= c->beyond) return;
  c->beyond = need - have;
  c->what = what;
}

static void judge(const plan_request *r, plan_choice *c) {
  const ds_estimate_machine *a = &r->machine;
  double keep = 1 - r->headroom;
  c->memory = ds_estimate_memory_of(&r->model, &c->layout);
  c->time = ds_estimate_time_of(&r->model, &c->layout, a);
  c->beyond = 0;
  c->what = NULL;
  miss(c, "device", c->memory.device, a->memory * keep);
  miss(c, "host", c->memory.host, a->host_memory * keep);
  miss(c, "nvme", c->memory.nvme, a->nvme * keep);
}

/* The layout of one micro batch size; false where it isn't one. */
static bool with_micro(const plan_request *r, plan_choice *c, int64_t micro) {
  ds_estimate_layout *l = &c->layout;
  l->micro_batch = micro;
  l->accumulation = r->accumulation ? r->accumulation : 1;
  if (r->batch) {
    if (r->batch % (micro * l->data)) return false;
    l->accumulation = r->batch / micro / l->data;
    if (r->accumulation && r->accumulation != l->accumulation) return false;
  }
  if (ds_estimate_check(&r->model, l, NULL) != DS_OK) return false;
  judge(r, c);
  return true;
}

static bool better(const plan_choice *a, const plan_choice *b) {
  if ((a->beyond > 0) != (b->beyond > 0)) return a->beyond == 0;
  if (a->beyond > 0) return a->beyond < b->beyond;
  return a->time.total < b->time.total;
}

/* Whether the machine is known to have what is offloaded to. */
static bool has_place(const ds_estimate_machine *a, plan_offload o) {
  if (o == PLAN_CPU || o == PLAN_CPU_ALL) return a->host_memory > 0;
  return o == PLAN_KEEP || (a->nvme > 0 && a->nvme_rate > 0);
}

bool plan_consider(const plan_request *r, int tensor, int pipe, int sequence, int stage,
                   plan_offload offload, plan_choice *out) {
  int64_t split = (int64_t)tensor * pipe * sequence;
  if (split > r->gpus || r->gpus % split || !has_place(&r->machine, offload)) return false;
  plan_choice c = {.layout = r->base, .offload = offload};
  c.layout.tensor = tensor;
  c.layout.pipe = pipe;
  c.layout.sequence = sequence;
  c.layout.data = (int)(r->gpus / split);
  c.layout.stage = stage;
  set_offload(&c.layout, offload);
  c.layout.split_norms = tensor > 1 && pipe == 1; /* stages hand on whole hidden values */
  if (r->base.secondary > 1 && stage < 3) c.layout.secondary = 1;
  bool any = false;
  for (int64_t micro = r->micro ? r->micro : 1; micro <= (r->micro ? r->micro : 1024); micro *= 2)
    if (with_micro(r, &c, micro) && (!any || better(&c, out))) {
      *out = c;
      any = true;
    }
  return any;
}

/* How much there is to understand and to go wrong. */
static int burden(const plan_choice *c) {
  const ds_estimate_layout *l = &c->layout;
  return l->stage + (l->tensor > 1 ? 4 : 0) + (l->sequence > 1 ? 4 : 0) + (l->pipe > 1 ? 5 : 0) +
         (c->offload == PLAN_KEEP      ? 0
          : c->offload <= PLAN_CPU_ALL ? 8
                                       : 12);
}

static bool same_axes(const plan_choice *a, const plan_choice *b) {
  return a->layout.tensor == b->layout.tensor && a->layout.pipe == b->layout.pipe &&
         a->layout.sequence == b->layout.sequence;
}

/* Keeps the fastest in order, one of each split into tensor, pipeline and sequence. */
static void keep(plan_result *out, const plan_choice *c) {
  int at = 0, n = out->n_best, same = n;
  for (int i = 0; i < n; i++)
    if (same_axes(&out->best[i], c)) same = i;
  while (at < n && out->best[at].time.total <= c->time.total) at++;
  if (at > same || at == PLAN_BEST) return;
  if (same == n) same = n < PLAN_BEST ? out->n_best++ : PLAN_BEST - 1;
  for (int i = same; i > at; i--) out->best[i] = out->best[i - 1];
  out->best[at] = *c;
}

/* The simplest of those that take at most this much longer than the fastest. */
static const double tie = 1.05;

typedef struct search {
  const plan_request *r;
  plan_result *out;
  plan_choice simplest; /* of those so far within a tie of the fastest */
  bool final;           /* the fastest is known: look for the simplest */
  double limit;
  bool any, any_simplest;
} search;

static void see(search *s, const plan_choice *c) {
  if (s->final) {
    if (c->beyond > 0 || c->time.total > s->limit) return;
    int a = burden(c), b = s->any_simplest ? burden(&s->simplest) : 0;
    if (!s->any_simplest || a < b || (a == b && c->time.total < s->simplest.time.total))
      s->simplest = *c;
    s->any_simplest = true;
    return;
  }
  s->out->considered++;
  if (!s->any || better(c, &s->out->nearest)) s->out->nearest = *c;
  s->any = true;
  if (c->beyond > 0) return;
  s->out->fitting++;
  keep(s->out, c);
}

static void see_stages(search *s, int tensor, int pipe, int sequence) {
  const plan_request *r = s->r;
  int shards = r->gpus / tensor / pipe; /* data x sequence */
  for (int stage = 0; stage <= 3; stage++)
    for (int o = 0; o < PLAN_OFFLOADS; o++) {
      plan_choice c;
      if (r->stage >= 0 && stage != r->stage) continue;
      if (r->offload >= 0 && o != r->offload) continue;
      if (r->stage < 0 && shards == 1 && stage > 0 && o == PLAN_KEEP) continue; /* as stage 0 */
      if (plan_consider(r, tensor, pipe, sequence, stage, (plan_offload)o, &c)) see(s, &c);
    }
}

static void see_all(search *s) {
  const plan_request *r = s->r;
  /* No axis has more ranks than there is to divide: also with a million ranks a few steps. */
  int64_t heads = r->model.heads, layers = r->model.layers;
  for (int tensor = 1; tensor <= r->gpus && tensor <= heads; tensor++) {
    if (r->gpus % tensor || (r->tensor && tensor != r->tensor)) continue;
    int rest = r->gpus / tensor;
    for (int pipe = 1; pipe <= rest && pipe <= layers; pipe++) {
      if (rest % pipe || (r->pipe && pipe != r->pipe)) continue;
      for (int sequence = 1; sequence <= rest / pipe && sequence <= heads; sequence++)
        if (rest / pipe % sequence == 0 && (!r->sequence || sequence == r->sequence))
          see_stages(s, tensor, pipe, sequence);
    }
  }
}

static bool same_layout(const plan_choice *a, const plan_choice *b) {
  return same_axes(a, b) && a->layout.stage == b->layout.stage && a->offload == b->offload &&
         a->layout.micro_batch == b->layout.micro_batch;
}

/* The recommended one is in the list, or comes into it in its place. */
static void recommend(plan_result *out, const plan_choice *c) {
  int i = 0;
  while (i < out->n_best && !same_layout(&out->best[i], c)) i++;
  if (i == out->n_best) {
    i = out->n_best < PLAN_BEST ? out->n_best++ : PLAN_BEST - 1;
    for (; i > 0 && out->best[i - 1].time.total > c->time.total; i--)
      out->best[i] = out->best[i - 1];
    out->best[i] = *c;
  }
  out->recommended = i;
}

bool plan_search(const plan_request *r, plan_result *out) {
  *out = (plan_result){0};
  search s = {.r = r, .out = out};
  see_all(&s);
  if (out->n_best == 0) return s.any;
  s.final = true;
  s.limit = tie * out->best[0].time.total;
  see_all(&s);
  recommend(out, &s.simplest);
  return true;
}

int plan_enough(const plan_request *r) {
  plan_request more = *r;
  while (more.gpus <= 1 << 19) {
    plan_result found;
    more.gpus *= 2;
    if (more.batch && more.batch < more.gpus) more.batch = more.gpus;
    if (plan_search(&more, &found) && found.n_best > 0) return more.gpus;
  }
  return 0;
}
