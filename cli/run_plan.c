#include "run_plan.h"

#include "base/str.h"

#include <stdlib.h>
#include <string.h>

/* ---- words */

ds_status run_words_add(run_words *w, const char *text, ds_error *err) {
  DS_TRY(ds_reserve(&w->at, &w->room, (size_t)w->count + 2, sizeof *w->at, "a command", err));
  w->at[w->count] = strdup(text);
  if (!w->at[w->count]) return ds_fail_memory(err, "a command");
  w->at[++w->count] = NULL;
  return DS_OK;
}

ds_status run_words_split(run_words *w, const char *text, ds_error *err) {
  ds_status status = DS_OK;
  while (status == DS_OK) {
    ds_str word = {0};
    char quote = '\0';
    text += strspn(text, " \t\n");
    if (!*text) return DS_OK;
    for (; *text && (quote || !strchr(" \t\n", *text)); text++) {
      if (quote ? *text == quote : *text == '"' || *text == '\'')
        quote = quote ? '\0' : *text;
      else
        ds_str_append(&word, text, 1);
    }
    status = ds_str_status(&word, err);
    if (status == DS_OK && quote)
      status = ds_fail(err, DS_ERR_INVALID, "a quote (%c) has no end", quote);
    if (status == DS_OK) status = run_words_add(w, word.data ? word.data : "", err);
    ds_str_finish(&word);
  }
  return status;
}

void run_words_finish(run_words *w) {
  for (int i = 0; i < w->count; i++) free(w->at[i]);
  free(w->at);
  memset(w, 0, sizeof *w);
}

/* Takes what ds_format gave. */
static ds_status add_made(run_words *w, char *text, ds_error *err) {
  ds_status status = text ? run_words_add(w, text, err) : ds_fail_memory(err, "a command");
  free(text);
  return status;
}

static ds_status add_all(run_words *w, const char *const *texts, ds_error *err) {
  for (; *texts; texts++) DS_TRY(run_words_add(w, *texts, err));
  return DS_OK;
}

static ds_status add_number(run_words *w, const char *option, int64_t n, ds_error *err) {
  DS_TRY(run_words_add(w, option, err));
  return add_made(w, ds_format("%lld", (long long)n), err);
}

/* ---- which hosts, how many ranks */

static ds_status check(const run_options *o, ds_error *err) {
  const bool filtered = (o->include && o->include[0]) || (o->exclude && o->exclude[0]);
  if (filtered && (o->num_nodes > 0 || o->num_gpus > 0))
    return ds_fail(err, DS_ERR_INVALID,
                   "--num_nodes and --num_gpus don't go with --include or --exclude");
  if (o->ranks > 0 && o->num_gpus > 0)
    return ds_fail(err, DS_ERR_INVALID,
                   "-n is the number of ranks in all, --num_gpus that on each host: give one");
  return DS_OK;
}

static ds_status keep_nodes(run_hosts *hosts, int64_t nodes, ds_error *err) {
  if (nodes > hosts->count)
    return ds_fail(err, DS_ERR_INVALID, "--num_nodes is %lld, but there are %d hosts",
                   (long long)nodes, hosts->count);
  while (hosts->count > nodes) hostfile_drop(hosts, hosts->count - 1);
  return DS_OK;
}

static ds_status keep_slots(run_hosts *hosts, int64_t each, ds_error *err) {
  for (int i = 0; i < hosts->count; i++) {
    if (hosts->at[i].n_slots < each)
      return ds_fail(err, DS_ERR_INVALID, "--num_gpus is %lld, but host \"%s\" has %d slots",
                     (long long)each, hosts->at[i].name, hosts->at[i].n_slots);
    hosts->at[i].n_slots = (int)each;
  }
  return DS_OK;
}

/* Slot by slot, host by host. */
static ds_status keep_ranks(run_hosts *hosts, int64_t ranks, ds_error *err) {
  if (ranks > hostfile_slots(hosts))
    return ds_fail(err, DS_ERR_INVALID, "-n is %lld, but the hosts have %d slots", (long long)ranks,
                   hostfile_slots(hosts));
  for (int i = 0; i < hosts->count; i++) {
    run_host *h = &hosts->at[i];
    if (h->n_slots > ranks) h->n_slots = (int)ranks;
    ranks -= h->n_slots;
  }
  while (hosts->count > 0 && hosts->at[hosts->count - 1].n_slots == 0)
    hostfile_drop(hosts, hosts->count - 1);
  return DS_OK;
}

static ds_status here_alone(const run_options *o, run_hosts *out, ds_error *err) {
  const int64_t n = o->ranks > 0 ? o->ranks : o->num_gpus;
  if (o->num_nodes > 1)
    return ds_fail(err, DS_ERR_INVALID, "--num_nodes is %lld, but there is no --hostfile",
                   (long long)o->num_nodes);
  if (n < 1) return ds_fail(err, DS_ERR_INVALID, "how many ranks? -n N, or --hostfile FILE");
  if (n > HOSTFILE_SLOTS_MAX)
    return ds_fail(err, DS_ERR_INVALID, "%lld ranks on one host are too many; %d is the most",
                   (long long)n, (int)HOSTFILE_SLOTS_MAX);
  return hostfile_add(out, "localhost", strlen("localhost"), (int)n, err);
}

/* Where the ranks meet: needed on several hosts, and given on when it was asked for. */
static ds_status choose_master(const run_options *o, const char *this_host, run_plan *p,
                               ds_error *err) {
  const bool several = p->hosts.count > 1;
  const char *first = p->hosts.count > 0 ? p->hosts.at[0].name : NULL;
  /* Others don't find a host by this name. */
  if (several && strcmp(first, "localhost") == 0) first = this_host;
  const char *address = o->master_addr ? o->master_addr : several ? first : NULL;
  const bool meet = several || p->launcher == RUN_SLURM;
  p->master_port = o->master_port >= 0 ? (int)o->master_port : meet ? 0 : -1;
  if (!address) return DS_OK;
  p->master_addr = strdup(address);
  return p->master_addr ? DS_OK : ds_fail_memory(err, "an address");
}

ds_status run_plan_openmpi(const run_options *o, const run_hosts *hosts, const char *this_host,
                           run_plan *out, ds_error *err) {
  out->launcher = RUN_OPENMPI;
  DS_TRY(check(o, err));
  if (hosts)
    DS_TRY(hostfile_copy(hosts, &out->hosts, err));
  else
    DS_TRY(here_alone(o, &out->hosts, err));
  if (hosts && o->num_nodes > 0) DS_TRY(keep_nodes(&out->hosts, o->num_nodes, err));
  if (o->num_gpus > 0) DS_TRY(keep_slots(&out->hosts, o->num_gpus, err));
  if (o->ranks > 0) DS_TRY(keep_ranks(&out->hosts, o->ranks, err));
  out->ranks = hostfile_slots(&out->hosts);
  return choose_master(o, this_host, out, err);
}

ds_status run_plan_slurm(const run_options *o, run_plan *out, ds_error *err) {
  out->launcher = RUN_SLURM;
  DS_TRY(check(o, err));
  if ((o->include && strchr(o->include, ':')) || (o->exclude && strchr(o->exclude, ':')))
    return ds_fail(err, DS_ERR_UNSUPPORTED,
                   "Slurm gives out the devices: --include and --exclude name whole hosts there");
  if (o->ranks > 0) out->ranks = (int)o->ranks;
  if (o->num_gpus > 0 && o->num_nodes > 0) out->ranks = (int)(o->num_gpus * o->num_nodes);
  return choose_master(o, NULL, out, err);
}

void run_plan_finish(run_plan *p) {
  hostfile_finish(&p->hosts);
  free(p->master_addr);
  memset(p, 0, sizeof *p);
}

/* ---- the command */

/* "0,1,0,2": the device of each rank, where it isn't its number on the host. */
static char *devices(const run_plan *p) {
  ds_str s = {0};
  bool plain = true;
  for (int i = 0; i < p->hosts.count; i++)
    for (int k = 0; k < p->hosts.at[i].n_slots; k++) {
      const int slot = p->hosts.at[i].slots[k];
      plain = plain && slot == k;
      ds_str_printf(&s, "%s%d", s.length ? "," : "", slot);
    }
  if (plain && !s.failed) {
    ds_str_finish(&s);
    return strdup("");
  }
  return ds_str_take(&s);
}

/* This program as the parent of each rank: see run_rank.h. */
static ds_status add_rank(const run_plan *p, const run_options *o, const run_surroundings *s,
                          char *const *command, run_words *w, ds_error *err) {
  DS_TRY(add_all(w, (const char *const[]){s->self, "run", "--as-rank", NULL}, err));
  char *list = devices(p);
  if (!list) return ds_fail_memory(err, "a command");
  ds_status status = DS_OK;
  if (list[0]) status = add_made(w, ds_format("--devices=%s", list), err);
  free(list);
  if (status != DS_OK) return status;
  if (o->bind_cores) DS_TRY(run_words_add(w, "--bind_cores_to_rank", err));
  DS_TRY(run_words_add(w, "--", err));
  for (; *command; command++) DS_TRY(run_words_add(w, *command, err));
  return DS_OK;
}

static ds_status add_hosts(const run_hosts *hosts, run_words *w, ds_error *err) {
  ds_str list = {0};
  for (int i = 0; i < hosts->count; i++)
    ds_str_printf(&list, "%s%s:%d", i ? "," : "", hosts->at[i].name, hosts->at[i].n_slots);
  DS_TRY(run_words_add(w, "--host", err));
  return add_made(w, ds_str_take(&list), err);
}

static ds_status mpirun_words(const run_plan *p, const run_options *o, const run_surroundings *s,
                              run_words *w, ds_error *err) {
  DS_TRY(run_words_add(w, "mpirun", err));
  if (s->root) DS_TRY(run_words_add(w, "--allow-run-as-root", err));
  DS_TRY(add_number(w, "-np", p->ranks, err));
  DS_TRY(add_hosts(&p->hosts, w, err));
  /* Ranks follow each other on a host, and have all of its cores: threads and the option that binds
   * them are the rank's own business. */
  DS_TRY(add_all(
      w, (const char *const[]){"--map-by", "slot", "--rank-by", "slot", "--bind-to", "none", NULL},
      err));
  const bool local = p->hosts.count == 1 && (strcmp(p->hosts.at[0].name, "localhost") == 0 ||
                                             strcmp(p->hosts.at[0].name, s->host) == 0);
  if (local && p->ranks > s->cores) DS_TRY(run_words_add(w, "--oversubscribe", err));
  /* A host that has gone is noticed in a quarter of a minute, not after minutes. */
  if (!local)
    DS_TRY(add_all(w,
                   (const char *const[]){"--mca", "oob_tcp_keepalive_time", "5", "--mca",
                                         "oob_tcp_keepalive_intvl", "3", "--mca",
                                         "oob_tcp_keepalive_probes", "3", NULL},
                   err));
  for (const char *const *name = s->pass; *name; name++)
    DS_TRY(add_all(w, (const char *const[]){"-x", *name, NULL}, err));
  return o->launcher_args ? run_words_split(w, o->launcher_args, err) : DS_OK;
}

static ds_status add_list(run_words *w, const char *option, const char *hosts, ds_error *err) {
  if (!hosts || !hosts[0]) return DS_OK;
  char *text = ds_format("%s=%s", option, hosts);
  for (char *at = text; at && (at = strchr(at, '@')) != NULL;) *at = ',';
  return add_made(w, text, err);
}

static ds_status srun_words(const run_plan *p, const run_options *o, const run_surroundings *s,
                            run_words *w, ds_error *err) {
  DS_TRY(run_words_add(w, "srun", err));
  if (p->ranks > 0) DS_TRY(add_number(w, "--ntasks", p->ranks, err));
  if (o->num_nodes > 0) DS_TRY(add_number(w, "--nodes", o->num_nodes, err));
  if (o->num_gpus > 0) DS_TRY(add_number(w, "--ntasks-per-node", o->num_gpus, err));
  DS_TRY(add_list(w, "--nodelist", o->include, err));
  DS_TRY(add_list(w, "--exclude", o->exclude, err));
  DS_TRY(add_all(w, (const char *const[]){"--kill-on-bad-exit=1", "--cpu-bind=none", NULL}, err));
  if (!s->mpi_type) DS_TRY(run_words_add(w, "--mpi=pmix", err));
  return o->launcher_args ? run_words_split(w, o->launcher_args, err) : DS_OK;
}

ds_status run_plan_words(const run_plan *p, const run_options *o, const run_surroundings *s,
                         char *const *command, run_words *out, ds_error *err) {
  DS_TRY((p->launcher == RUN_SLURM ? srun_words : mpirun_words)(p, o, s, out, err));
  return add_rank(p, o, s, command, out, err);
}
