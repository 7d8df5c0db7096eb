#include "plan.h"

#include <string.h>

/* Dense peaks without sparsity, bandwidths one way, GB = 1e9 bytes; a rank is one GPU. From
 * NVIDIA's and AMD's datasheets of the accelerators (peaks, memory, links) and of the node they are
 * sold in (DGX, or the reference platform: network ports per GPU, host memory, links to it). The
 * host memory's bandwidth is that of its processors' channels. Files: what such a node's drives
 * read; half of it is counted, as writing is slower. f32 peaks are those of matrix units where f32
 * inputs may use them at full precision, else of plain units: not tf32. */
static const struct {
  const char *name;
  int per_node;
  double bf16, f32;            /* Tflop/s */
  double memory, rate;         /* GB, GB/s */
  double near, far;            /* GB/s */
  double host, link, channels; /* of the node: GB; a GPU's GB/s; the node's GB/s */
  double files, file_rate;     /* of the node: GB, GB/s */
  const char *source;
} machines[] = {
    {"v100-32gb", 16, 125, 15.7, 32, 900, 150, 6.25, 1500, 16, 256, 30000, 16,
     "NVIDIA V100 and DGX-2 datasheets (8 x 100 Gbit/s for 16 GPUs); 125 Tflop/s is fp16's"},
    {"a100-40gb", 8, 312, 19.5, 40, 1555, 300, 25, 1000, 32, 410, 15000, 25,
     "NVIDIA A100 and DGX A100 datasheets (a 200 Gbit/s port per GPU)"},
    {"a100-80gb", 8, 312, 19.5, 80, 2039, 300, 25, 2000, 32, 410, 30000, 25,
     "NVIDIA A100 and DGX A100 datasheets (a 200 Gbit/s port per GPU)"},
    {"h100", 8, 989, 67, 80, 3350, 450, 50, 2000, 64, 614, 30000, 50,
     "NVIDIA H100 SXM and DGX H100 datasheets (a 400 Gbit/s port per GPU)"},
    {"h200", 8, 989, 67, 141, 4800, 450, 50, 2000, 64, 614, 30000, 50,
     "NVIDIA H200 SXM and DGX H200 datasheets (a 400 Gbit/s port per GPU)"},
    {"mi300x", 8, 1307, 163.4, 192, 5300, 448, 50, 2000, 64, 614, 30000, 50,
     "AMD Instinct MI300X datasheet and platform (7 links of 64 GB/s; a 400 Gbit/s port per GPU)"}};
enum { N_MACHINES = sizeof machines / sizeof *machines };

void plan_hardware_names(char *out, size_t size) {
  size_t at = 0;
  for (int i = 0; i < N_MACHINES && at < size; i++)
    at += (size_t)snprintf(out + at, size - at, "%s%s", i ? ", " : "", machines[i].name);
}

bool plan_hardware_find(const char *name, bool bf16, plan_request *r) {
  int i = 0;
  while (i < N_MACHINES && strcmp(machines[i].name, name) != 0) i++;
  if (i == N_MACHINES) {
    char names[256];
    plan_hardware_names(names, sizeof names);
    fprintf(stderr, "ds plan: no --hardware \"%s\"; there are %s\n", name, names);
    return false;
  }
  ds_estimate_machine a = ds_estimate_machine_init();
  double n = machines[i].per_node;
  a.per_node = machines[i].per_node;
  a.flops = 1e12 * (bf16 ? machines[i].bf16 : machines[i].f32);
  a.memory = 1e9 * machines[i].memory;
  a.memory_rate = 1e9 * machines[i].rate;
  a.near_rate = 1e9 * machines[i].near;
  a.far_rate = 1e9 * machines[i].far;
  a.near_latency = 1e-6;
  a.far_latency = 5e-6;
  a.host_memory = 1e9 * machines[i].host / n;
  a.host_rate = 1e9 * machines[i].link;
  a.host_memory_rate = 1e9 * machines[i].channels / n;
  a.nvme = 1e9 * machines[i].files / n;
  a.nvme_rate = 1e9 * machines[i].file_rate / n / 2;
  r->machine = a;
  r->machine_name = machines[i].name;
  r->machine_source = machines[i].source;
  return true;
}
