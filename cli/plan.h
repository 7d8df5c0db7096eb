/* plan.h - what the files of `ds plan` share: what was asked, and a layout with what it costs. */
#ifndef DS_CLI_PLAN_H
#define DS_CLI_PLAN_H

#include "cli.h"
#include "base/json.h"
#include "zero/estimate_model.h"
#include "zero/estimate_time.h"

/* From the command line and the config. 0 (stage, offload: -1): free to choose. */
typedef struct plan_request {
  const char *name; /* of the model */
  ds_estimate_model model;
  ds_estimate_machine machine;
  const char *machine_name, *machine_source;
  int gpus;
  int64_t batch;               /* sequences a step; 0: micro x accumulation x replicas */
  int64_t micro, accumulation; /* per replica */
  int tensor, pipe, sequence;
  int stage, offload;      /* offload: a plan_offload */
  double headroom;         /* of every memory, left free */
  ds_estimate_layout base; /* all that the search doesn't set */
} plan_request;

typedef enum plan_offload {
  PLAN_KEEP,     /* all on the device */
  PLAN_CPU,      /* the optimizer on the host */
  PLAN_CPU_ALL,  /* parameters, too */
  PLAN_NVME,     /* the optimizer in files */
  PLAN_NVME_ALL, /* parameters, too */
  PLAN_OFFLOADS
} plan_offload;

const char *plan_offload_name(plan_offload o);

typedef struct plan_choice {
  ds_estimate_layout layout;
  plan_offload offload;
  ds_estimate_memory memory;
  ds_estimate_time time;
  double beyond;    /* bytes that the fullest of device, host and files is short of; 0: it fits */
  const char *what; /* which of them, where beyond > 0: "device", "host", "nvme" */
} plan_choice;

enum { PLAN_BEST = 8 };

typedef struct plan_result {
  int considered, fitting;
  plan_choice best[PLAN_BEST]; /* that fit, the fastest first, one of each tp, pp, sp */
  int n_best;
  int recommended;     /* of best */
  plan_choice nearest; /* where nothing fits: the least that is missing */
} plan_result;

/* plan_hardware.c. By name ("a100-80gb"); false where there is none, after telling what there
 * is. */
bool plan_hardware_find(const char *name, bool bf16, plan_request *r);
void plan_hardware_names(char *out, size_t size); /* "a100-40gb, a100-80gb, ..." */

/* plan_measure.c. This machine: products and memory through the backend, and the network where a
 * launcher started several ranks. *rank: this process's. */
DS_MUST_USE ds_status plan_measure(const char *backend, bool bf16, plan_request *r, int *rank,
                                   ds_error *err);

/* plan_search.c. A split with its fastest micro batch that fits, else the smallest; false where the
 * split is none, or no micro batch divides the batch. */
bool plan_consider(const plan_request *r, int tensor, int pipe, int sequence, int stage,
                   plan_offload offload, plan_choice *out);
/* All splits of the ranks. false: there is none at all, because of what is fixed. */
bool plan_search(const plan_request *r, plan_result *out);
/* The smallest power of two times as many ranks with which something fits; 0: not up to 2^20. */
int plan_enough(const plan_request *r);

/* plan_config.c. The keys of a ds_config.json that make this layout. */
cJSON *plan_config(const plan_choice *c);

/* plan_print.c */
void plan_print(const plan_request *r, const plan_result *found);
DS_MUST_USE ds_status plan_print_json(const plan_request *r, const plan_result *found,
                                      ds_error *err);

/* plan_explain.c. Why nothing fits, and what would help: DS_ERR_MEMORY. */
ds_status plan_explain(const plan_request *r, const plan_result *found, ds_error *err);

#endif
