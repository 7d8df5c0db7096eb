#include "plan.h"

#include "base/str.h"

static double gb(double bytes) {
  return bytes / 1e9;
}

/* The largest part of a rank's device memory. */
static const char *largest_part(const ds_estimate_memory *m, double *bytes) {
  const struct {
    const char *name;
    double bytes;
  } parts[] = {{"weights", m->weights},         {"masters", m->masters},
               {"gradients", m->gradients},     {"optimizer states", m->states},
               {"gathered units", m->gathered}, {"gradient buffers", m->buffers},
               {"activations", m->activations}};
  int at = 0;
  for (int i = 1; i < (int)(sizeof parts / sizeof *parts); i++)
    if (parts[i].bytes > parts[at].bytes) at = i;
  *bytes = parts[at].bytes;
  return parts[at].name;
}

static void say_nearest(const plan_request *r, const plan_result *found, ds_str *text) {
  const plan_choice *c = &found->nearest;
  const ds_estimate_layout *l = &c->layout;
  double bytes, have = c->what[0] == 'd'   ? r->machine.memory
                       : c->what[0] == 'h' ? r->machine.host_memory
                                           : r->machine.nvme;
  const char *part = largest_part(&c->memory, &bytes);
  ds_str_printf(
      text,
      "nothing fits: the nearest of %d layouts (tp %d, pp %d, sp %d, dp %d, stage %d, "
      "offload %s, micro batch %lld) is short of %.4g GB of %s memory on each rank, where "
      "%.4g of %.4g GB may be used; ",
      found->considered, l->tensor, l->pipe, l->sequence, l->data, l->stage,
      plan_offload_name(c->offload), (long long)l->micro_batch, gb(c->beyond), c->what,
      gb(have * (1 - r->headroom)), gb(have));
  ds_str_printf(text,
                "of its %.4g GB on the device %s are %.4g. What would help: ", gb(c->memory.device),
                part, gb(bytes));
}

/* The fastest that fits with another request; false when there is none. */
static bool fits(const plan_request *r, plan_choice *out) {
  plan_result found;
  if (!plan_search(r, &found) || found.n_best == 0) return false;
  *out = found.best[0];
  return true;
}

static void say_cures(const plan_request *r, ds_str *text) {
  size_t before = text->length;
  plan_choice c;
  plan_request other = *r;
  int more = plan_enough(r);
  if (more > 0) ds_str_printf(text, "%d ranks; ", more);
  other.offload = -1;
  if (r->offload >= 0 && fits(&other, &c))
    ds_str_printf(text, "--offload %s; ", plan_offload_name(c.offload));
  other = *r;
  other.stage = -1;
  other.tensor = other.pipe = other.sequence = 0;
  if ((r->stage >= 0 || r->tensor || r->pipe || r->sequence) && fits(&other, &c))
    ds_str_printf(text, "--stage %d --tp %d --pp %d --sp %d; ", c.layout.stage, c.layout.tensor,
                  c.layout.pipe, c.layout.sequence);
  other = *r;
  other.micro = other.accumulation = 0;
  if (other.batch == 0) other.batch = r->gpus;
  if (r->micro > 1 && fits(&other, &c))
    ds_str_printf(text, "--micro-batch %lld; ", (long long)c.layout.micro_batch);
  other = *r;
  other.base.recompute = true;
  if (!r->base.recompute && fits(&other, &c))
    ds_str_puts(text, "blocks that run forward again instead of keeping activations; ");
  if (text->length == before) ds_str_puts(text, "devices with more memory, or a smaller model; ");
}

ds_status plan_explain(const plan_request *r, const plan_result *found, ds_error *err) {
  ds_str text = {0};
  say_nearest(r, found, &text);
  say_cures(r, &text);
  ds_status status = ds_str_status(&text, err);
  if (status == DS_OK)
    status = ds_fail(err, DS_ERR_MEMORY, "%.*s", (int)(text.length - 2), text.data);
  ds_str_finish(&text);
  return status;
}
