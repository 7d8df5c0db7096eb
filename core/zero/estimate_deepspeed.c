#include "zero/estimate_deepspeed.h"

static double larger(double a, double b) {
  return a > b ? a : b;
}

/* What its documentation adds to the host's share, to be careful. */
static const double spare = 1.5;

ds_estimate_deepspeed ds_estimate_deepspeed_of(int stage, double params, double largest,
                                               int gpus_per_node, int nodes, bool offload_optimizer,
                                               bool offload_param, bool zero_init) {
  double gpus = (double)gpus_per_node * nodes, node = 1.0 / nodes;
  double whole = 4 * params * gpus_per_node; /* every rank builds the model in f32 */
  ds_estimate_deepspeed out;
  if (stage == 2) {
    out.gpu = offload_optimizer ? 2 * params : 4 * params + 16 * params / gpus;
    out.cpu = (offload_optimizer ? larger(whole, 16 * params) : whole) * spare;
    return out;
  }
  double layer = 4 * largest, host = (offload_param ? 18 : 16) * params * node;
  if (offload_optimizer) {
    out.gpu = layer + (offload_param ? 0 : 2 * params / gpus);
    out.cpu = (zero_init ? host : larger(whole, host)) * spare;
  } else {
    out.gpu = layer + 18 * params / gpus;
    out.cpu = (zero_init ? 4 * largest * gpus_per_node : whole) * spare;
  }
  return out;
}
