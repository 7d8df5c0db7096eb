#include "run_again.h"

#include "run_hosts.h"
#include "train/config.h"

#include <stdlib.h>
#include <string.h>

/* The config that the command trains with, where it says so as ds train and DeepSpeed's scripts do. */
static const char *find_config(const run_before *b) {
  static const char *const names[] = {"--config", "--deepspeed_config"};
  if (b->config) return b->config;
  for (char *const *word = b->command; *word; word++)
    for (size_t i = 0; i < 2; i++) {
      const size_t n = strlen(names[i]);
      if (strncmp(*word, names[i], n) != 0) continue;
      if ((*word)[n] == '=') return *word + n + 1;
      if (!(*word)[n]) return word[1];
    }
  return NULL;
}

/* How many of `slots` may be used where the first start had more. */
static ds_status fewer(const run_before *b, int slots, int *out, ds_error *err) {
  const char *config = find_config(b);
  ds_error inner;
  if (!config)
    return ds_fail(err, DS_ERR_STATE,
                   "%d slots are left for %d ranks, and nothing says whether fewer will do: give "
                   "--deepspeed_config FILE, whose elasticity says it",
                   slots, b->ranks);
  ds_status status = ds_config_elastic_ranks(config, slots, out, &inner);
  if (status != DS_OK)
    return ds_fail(err, status, "%d slots are left for %d ranks: %s", slots, b->ranks,
                   inner.message);
  if (*out > 0) return DS_OK;
  return ds_fail(err, DS_ERR_STATE,
                 "%d slots are left for %d ranks; with fewer it may go on if elasticity is enabled "
                 "in %s",
                 slots, b->ranks, config);
}

ds_status run_again(const run_options *options, const run_before *b, run_plan *out, ds_error *err) {
  const char *agent = getenv("OMPI_MCA_plm_rsh_agent");
  run_options o = *options;
  run_hosts left = {0};
  int ranks = b->ranks;
  ds_status status = hostfile_copy(b->hosts, &left, err);
  if (status == DS_OK)
    status = run_hosts_drop_gone(&left, agent && agent[0] ? agent : "ssh", b->this_host, err);
  if (status == DS_OK && left.count == 0)
    status = ds_fail(err, DS_ERR_NOT_FOUND, "no host of the hostfile answers");
  for (int i = 0; i < left.count && o.num_gpus > 0; i++)
    if (left.at[i].n_slots > o.num_gpus) left.at[i].n_slots = (int)o.num_gpus;
  const int slots = hostfile_slots(&left);
  if (status == DS_OK && slots < ranks) status = fewer(b, slots, &ranks, err);
  /* Whatever chose among all the hosts is now a number of ranks on those that are left. */
  o.num_gpus = o.num_nodes = -1;
  o.include = o.exclude = NULL;
  o.ranks = ranks;
  if (status == DS_OK) status = run_plan_openmpi(&o, &left, b->this_host, out, err);
  hostfile_finish(&left);
  return status;
}
