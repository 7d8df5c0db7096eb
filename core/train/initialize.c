/* ds_initialize: from arguments to a running engine, one stage after the other. */
#include "data/dataloader.h"
#include "ops/sequence.h"
#include "train/engine.h"
#include "train/facts.h"
#include "train/groups.h"
#include "train/parts.h"
#include "train/pipeline_step.h"
#include "train/observe.h"
#include "train/recorded.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ---- arguments */

static ds_status check_args(const ds_initialize_args *a, ds_error *err) {
  if (!a || a->size != sizeof *a)
    return ds_fail(err, DS_ERR_INVALID,
                   "ds_initialize: set the arguments up with DS_INITIALIZE_ARGS_INIT");
  if (a->args && a->args->size != sizeof *a->args)
    return ds_fail(err, DS_ERR_INVALID, "ds_initialize: set args up with DS_ARGS_INIT");
  if (!a->model) return ds_fail(err, DS_ERR_INVALID, "initialize requires a model");
  if (a->optimizer && a->optimizer_fn)
    return ds_fail(err, DS_ERR_INVALID,
                   "ds_initialize: optimizer and optimizer_fn are both given; give one");
  if (a->lr_scheduler && a->lr_scheduler_fn)
    return ds_fail(err, DS_ERR_INVALID,
                   "ds_initialize: lr_scheduler and lr_scheduler_fn are both given; give one");
  return DS_OK;
}

static ds_status choose_config(const ds_initialize_args *a, const ds_logger *logger,
                               const char **config, ds_error *err) {
  const char *given = a->config ? a->config : a->config_params;
  const char *from_args = a->args ? a->args->deepspeed_config : NULL;
  const char *old_name = a->args ? a->args->deepscale_config : NULL;
  if (a->config && a->config_params)
    ds_log(logger, DS_LOG_WARN, "ds_initialize: config and config_params are given; config wins");
  if (old_name) {
    ds_log(logger, DS_LOG_WARN,
           "ds_initialize: args.deepscale_config is deprecated; use "
           "args.deepspeed_config");
    if (from_args)
      return ds_fail(err, DS_ERR_INVALID,
                     "ds_initialize: args.deepscale_config is the deprecated "
                     "name of args.deepspeed_config, but both are given");
    from_args = old_name;
  }
  if (given && from_args)
    return ds_fail(err, DS_ERR_INVALID,
                   "ds_initialize: config and args.deepspeed_config are both given; give one");
  *config = given ? given : from_args;
  if (!*config)
    return ds_fail(err, DS_ERR_INVALID,
                   "ds_initialize requires a config: a path or JSON text in "
                   "config, or a path in args.deepspeed_config");
  return DS_OK;
}

/* ---- config, backend, world */

/* All that is wrong with the config in one message: batch sizes are checked even when other keys
 * are wrong and the true world can't be asked for. */
static ds_status read_config(ds_engine *e, const char *text, ds_error *err) {
  ds_schema_errors errors = {0};
  ds_error inner;
  ds_status status = ds_config_read(text, &e->logger, &e->config, &errors, err);
  if (status == DS_OK && errors.count > 0) {
    int rank, world;
    const char *origin;
    /* A launcher that says nothing in the environment may have started as many as the config wants. */
    bool alone = e->config.tensor == 1 && e->config.sequence == 1 && e->config.pipe == 1;
    if (ds_world_from_environment(&rank, &world, &origin, &inner) == DS_OK &&
        (alone || world > 1) && !ds_config_set_ranks(&e->config, world, origin, &errors))
      status = ds_fail_memory(err, "the config");
  }
  ds_status report =
      ds_schema_errors_report(&errors, e->config.name ? e->config.name : "config", &inner);
  if (status == DS_OK && report != DS_OK) status = ds_fail(err, report, "%s", inner.message);
  return status;
}

static ds_status connect(ds_engine *e, const ds_initialize_args *a, ds_error *err) {
  ds_world_args world = {.local_rank = a->args ? a->args->local_rank : -1,
                         .distributed_port = a->distributed_port,
                         .dist_init_required = a->dist_init_required,
                         .mpu = a->mpu,
                         .comm_timeout = e->config.backend.comm_timeout};
  DS_TRY(ds_backend_open(&e->config.backend, &e->logger, &e->backend, err));
  return ds_world_init(&e->world, e->backend, &world, &e->logger, err);
}

/* A config that is wrong on one rank alone: the others wait for that rank, which tells them. Not
 * long: those whose configs are wrong alike come at once. */
static void tell_of_config(ds_engine *e, const ds_initialize_args *a, ds_status status,
                           const ds_error *from) {
  enum { PATIENCE = 30 }; /* seconds */
  ds_error said = *from, unused;
  ds_backend_config *b = &e->config.backend;
  if (!ds_world_launched() || b->n_names == 0) return; /* nobody waits; nobody knows where */
  if (b->comm_timeout == 0 || b->comm_timeout > PATIENCE) b->comm_timeout = PATIENCE;
  if (connect(e, a, &unused) == DS_OK)
    status = ds_world_agree(&e->world, status, "ds_initialize", &said);
}

/* Whether all ranks came here, and mean the same. Finishes facts. */
static ds_status agree(ds_engine *e, ds_status mine, ds_agree *facts, ds_error *err) {
  if (mine == DS_OK) mine = ds_agree_status(facts, err);
  ds_status status = ds_world_agree(&e->world, mine, "ds_initialize", err);
  if (status == DS_OK) status = ds_agree_check(facts, &e->world, err);
  ds_agree_finish(facts);
  return status;
}

/* What ranks do together depends on their configs: first of all these must be the same. */
static ds_status open_world(ds_engine *e, const ds_initialize_args *a, ds_error *err) {
  ds_agree facts = {0};
  const ds_config *c = &e->config;
  DS_TRY(connect(e, a, err));
  ds_facts_begin(e, &facts);
  DS_TRY(agree(e, DS_OK, &facts, err));
  DS_TRY(ds_topology_place(&e->topology, e->world.rank, e->world.size, c->tensor, c->sequence,
                           c->pipe, err));
  if (a->mpu) DS_TRY(ds_topology_check_mpu(&e->topology, a->mpu, err));
  return ds_topology_connect(&e->topology, &e->world, err);
}

static ds_status set_world(ds_engine *e, ds_error *err) {
  const ds_config *c = &e->config;
  ds_schema_errors errors = {0};
  char origin[192];
  int share = c->tensor * c->sequence * c->pipe; /* divides the world */
  snprintf(origin, sizeof origin, share > 1 ? "%s: %d ranks, of which %d share a batch" : "%s",
           e->world.origin, e->world.size, share);
  if (!ds_config_set_world(&e->config, e->topology.data.size, origin, &errors)) {
    ds_str_finish(&errors.text);
    return ds_fail_memory(err, "the config");
  }
  return ds_schema_errors_report(&errors, e->config.name, err);
}

/* ---- parameters */

static ds_status declare(ds_engine *e, ds_error *err) {
  DS_TRY(ds_model_declare(e->model, &e->params, err));
  e->local = e->params;
  e->n_params = ds_params_count(e->params);
  if (e->n_params == 0)
    return ds_fail(err, DS_ERR_INVALID, "model \"%s\" declares no parameters",
                   ds_model_name(e->model));
  e->frozen = calloc((size_t)e->n_params, sizeof *e->frozen);
  e->group_of = calloc((size_t)e->n_params, sizeof *e->group_of);
  return e->frozen && e->group_of ? DS_OK : ds_fail_memory(err, "parameters");
}

static ds_status initial_values(ds_engine *e, int index, float *out, uint64_t seed, ds_error *err) {
  if (ds_model_has_weights(e->model))
    return ds_model_read_param(e->model, e->params, index, out, err);
  return ds_params_init_values(e->params, index, seed, out);
}

/* Ranks that hold parts of one model take them from one model: rank 0's. */
static ds_status agree_on_seed(ds_engine *e, uint64_t *seed, ds_error *err) {
  if (!e->world.group) return DS_OK;
  uint64_t *all = malloc((size_t)e->world.size * sizeof *all);
  if (!all) return ds_fail_memory(err, "the ranks' seeds");
  ds_status status = ds_world_exchange(&e->world, seed, all, sizeof *seed, err);
  if (status == DS_OK) *seed = all[0];
  free(all);
  return status;
}

/* One rank of those that have the same finds the values, the others get them from it. */
static ds_status fill_masters(ds_engine *e, ds_error *err) {
  int64_t largest = 0;
  for (int i = 0; i < e->n_params; i++)
    if (ds_params_numel(e->params, i) > largest) largest = ds_params_numel(e->params, i);
  float *host = malloc((size_t)largest * sizeof *host);
  float *part = e->shards ? malloc((size_t)largest * sizeof *part) : host;
  uint64_t seed = e->seed;
  ds_status status =
      ds_world_agree(&e->world, host && part ? DS_OK : ds_fail_memory(err, "initial weights"),
                     "ds_initialize", err);
  if (status == DS_OK) status = agree_on_seed(e, &seed, err);
  /* They read the same samples, too. */
  if (status == DS_OK && e->topology.model.size > 1) e->seed = seed;
  for (int i = 0, piece = 0; i < e->n_params && status == DS_OK; i++) {
    status = e->topology.zero.rank == 0 ? initial_values(e, i, host, seed, err) : DS_OK;
    if (status == DS_OK && e->topology.zero.rank == 0) ds_parts_take(e, i, host, part);
    status = ds_world_agree(&e->world, status, "reading the initial weights", err);
    if (status == DS_OK)
      status = ds_zero_share(e->zero, part, ds_params_numel(e->local, i), 0, err);
    for (; status == DS_OK && piece < ds_zero_n_pieces(e->zero); piece++) {
      const ds_piece *p = ds_zero_piece(e->zero, piece);
      if (p->param != i) break;
      status =
          ds_zero_write(e->zero, DS_ZERO_MASTER, piece, 0, p->end - p->begin, part + p->begin, err);
    }
  }
  if (part != host) free(part);
  free(host);
  return status == DS_OK ? ds_zero_settle(e->zero, err) : status;
}

/* Offloading to the host makes sense where the device has memory of its own. */
static ds_status open_host(ds_engine *e, ds_zero_rules *rules, ds_error *err) {
  const char *name = ds_backend_name(e->backend);
  bool same = ds_backend_host_accessible(e->backend);
  if (same && rules->offload_optimizer == DS_OFFLOAD_CPU) {
    ds_log(&e->logger, DS_LOG_INFO, "offload_optimizer to cpu: %s's memory is the host's already",
           name);
    rules->offload_optimizer = DS_OFFLOAD_NONE;
  }
  if (same && (rules->offload_param == DS_OFFLOAD_CPU || !rules->offload_optimizer)) {
    if (rules->offload_param == DS_OFFLOAD_NVME)
      return ds_fail(
          err, DS_ERR_UNSUPPORTED,
          "%s: offload_param to nvme and offload_optimizer to cpu: on %s, whose memory is "
          "the host's, offload_optimizer must be nvme too",
          e->config.name, name);
    rules->offload_param = DS_OFFLOAD_NONE;
  }
  if (!rules->offload_optimizer) return DS_OK;
  if (same) {
    e->host = e->backend;
    return DS_OK;
  }
  ds_backend_config c = e->config.backend;
  c.names = (char *[]){"auto"};
  c.n_names = 1;
  c.device = -1;
  c.options = NULL;
  c.memory_limit = 0;
  c.host_only = true;
  c.except = name;
  return ds_backend_open(&c, &e->logger, &e->host, err);
}

static ds_status make_parameters(ds_engine *e, ds_error *err) {
  ds_zero_rules rules = e->config.zero;
  DS_TRY(ds_world_agree(&e->world, open_host(e, &rules, err), "ds_initialize", err));
  rules.n_states = e->optimizer ? e->optimizer->vtable->n_states : 0;
  rules.counted = e->counted;
  for (int i = 0; i < e->n_params; i++) e->frozen[i] = e->group_of[i] < 0;
  /* Memory is what one rank may lack alone. */
  ds_status status = ds_zero_create(&rules, e->ctx, e->host, e->topology.zero.group, e->local,
                                    e->frozen, &e->zero, err);
  if (status == DS_OK && e->optimizer) status = ds_zero_slice(e->zero, e->group_of, err);
  DS_TRY(ds_world_agree(&e->world, status, "ds_initialize", err));
  e->slots = ds_zero_slots(e->zero);
  return fill_masters(e, err);
}

/* ---- optimizer and schedule */

static ds_status make_optimizer(ds_engine *e, const ds_initialize_args *a,
                                const ds_param_group *groups, int n_groups, ds_error *err) {
  ds_optimizer *o = a->optimizer;
  if (a->optimizer_fn) {
    ds_error inner = {DS_OK, ""};
    ds_status status = a->optimizer_fn(a->optimizer_ctx, e->params, &o, &inner);
    if (status != DS_OK || !o)
      return ds_fail(
          err, status == DS_OK ? DS_ERR_INVALID : status, "ds_initialize: optimizer_fn %s%s",
          status == DS_OK ? "gave no optimizer" : "failed: ", status == DS_OK ? "" : inner.message);
    e->owns_optimizer = true;
  } else if (!o) {
    DS_TRY(ds_config_make_optimizer(&e->config, &o, err));
    e->owns_optimizer = true;
  }
  if (!o) {
    if (groups)
      ds_log(&e->logger, DS_LOG_WARN, "ds_initialize: model_parameters without an optimizer");
    return DS_OK;
  }
  /* A caller's optimizer that is bound elsewhere must not be unbound by us. */
  ds_status status = ds_optimizer_bind(o, groups, n_groups, err);
  if (status == DS_OK || e->owns_optimizer) e->optimizer = o;
  return status;
}

static ds_status make_scheduler(ds_engine *e, const ds_initialize_args *a, ds_error *err) {
  ds_lr_scheduler *s = a->lr_scheduler;
  if (a->lr_scheduler_fn) {
    ds_error inner = {DS_OK, ""};
    if (!e->optimizer)
      return ds_fail(err, DS_ERR_INVALID, "ds_initialize: lr_scheduler_fn needs an optimizer");
    ds_status status = a->lr_scheduler_fn(a->lr_scheduler_ctx, e->optimizer, &s, &inner);
    if (status != DS_OK || !s)
      return ds_fail(
          err, status == DS_OK ? DS_ERR_INVALID : status, "ds_initialize: lr_scheduler_fn %s%s",
          status == DS_OK ? "gave no schedule" : "failed: ", status == DS_OK ? "" : inner.message);
    e->owns_scheduler = true;
  } else if (!s && e->optimizer) {
    DS_TRY(ds_config_make_scheduler(&e->config, e->optimizer, &s, err));
    e->owns_scheduler = true;
  } else if (!s && cJSON_GetObjectItemCaseSensitive(e->config.root, "scheduler")) {
    return ds_fail(err, DS_ERR_INVALID, "%s: a scheduler without an optimizer", e->config.name);
  }
  e->scheduler = s;
  if (s && !e->optimizer)
    return ds_fail(err, DS_ERR_INVALID, "ds_initialize: lr_scheduler needs an optimizer");
  if (s && s->betas && !e->optimizer->has_options)
    return ds_fail(err, DS_ERR_UNSUPPORTED,
                   "%s: OneCycle cycles Adam's betas, which the host app's optimizer doesn't have; "
                   "set cycle_momentum to false",
                   e->config.name);
  ds_engine_apply_schedule(e);
  return DS_OK;
}

/* ---- all of it */

static ds_status make_loader(ds_engine *e, const ds_initialize_args *a, ds_error *err) {
  if (!a->training_data) {
    if (a->collate_fn)
      ds_log(&e->logger, DS_LOG_WARN, "ds_initialize: collate_fn without training_data");
    return DS_OK;
  }
  ds_dataloader_options options = {.dataset = a->training_data,
                                   .collate = a->collate_fn,
                                   .collate_ctx = a->collate_ctx,
                                   .micro_batch = e->config.batch.micro,
                                   .rank = e->topology.data.rank,
                                   .world_size = e->topology.data.size,
                                   .seed = e->seed,
                                   .shuffle = true,
                                   .drop_last = e->config.drop_last};
  return ds_dataloader_create(&options, &e->loader, err);
}

static ds_status make_scalars(ds_engine *e, ds_error *err) {
  void *p;
  DS_TRY(ds_backend_alloc(e->backend, sizeof(ds_step_scalars), &p, err));
  e->norm_sum = p;
  e->loss_sum = (float *)((char *)p + offsetof(ds_step_scalars, loss));
  return DS_OK;
}

/* What one rank may fail at alone. */
static ds_status prepare(ds_engine *e, const ds_initialize_args *a, ds_error *err) {
  ds_param_group *groups = NULL;
  int n_groups = 0;
  DS_TRY(set_world(e, err));
  DS_TRY(ds_observe_init(e, err));
  e->scaler = e->config.fp16 ? ds_loss_scaler_begin(&e->config.loss_scale) : ds_loss_scaler_off();
  DS_TRY(ds_ctx_create(e->backend, e->config.zero.dtype, &e->ctx, err));
  ds_ctx_bind_sequence(e->ctx, e->topology.sequence.group);
  ds_engine_train(e, true);
  DS_TRY(declare(e, err));
  DS_TRY(ds_groups_assign(e, a->model_parameters, a->n_model_parameters, &groups, &n_groups, err));
  ds_status status = make_optimizer(e, a, groups, n_groups, err);
  free(groups);
  return status == DS_OK ? make_scheduler(e, a, err) : status;
}

/* The same of the rest. */
static ds_status complete(ds_engine *e, const ds_initialize_args *a, ds_error *err) {
  DS_TRY(make_scalars(e, err));
  DS_TRY(ds_recorded_init(e, err));
  DS_TRY(make_loader(e, a, err));
  return ds_backend_sync(e->backend, err); /* an engine that is handed out has its parameters */
}

static ds_status build(ds_engine *e, const ds_initialize_args *a, const char *config,
                       ds_error *err) {
  ds_error inner = {DS_OK, ""};
  ds_agree facts = {0};
  ds_status status = read_config(e, config, &inner);
  if (status != DS_OK) {
    tell_of_config(e, a, status, &inner);
    return ds_fail(err, status, "%s", inner.message);
  }
  DS_TRY(open_world(e, a, err));
  status = prepare(e, a, err);
  if (status == DS_OK) ds_facts_collect(e, a->training_data, &facts);
  DS_TRY(agree(e, status, &facts, err));
  DS_TRY(ds_parts_init(e, err));
  DS_TRY(make_parameters(e, err));
  DS_TRY(ds_pipeline_step_init(e, err));
  return ds_world_agree(&e->world, complete(e, a, err), "ds_initialize", err);
}

ds_status ds_initialize(const ds_initialize_args *args, ds_engine **engine,
                        ds_optimizer **optimizer, ds_dataloader **training_dataloader,
                        ds_lr_scheduler **lr_scheduler, ds_error *err) {
  if (!engine) return ds_fail(err, DS_ERR_INVALID, "ds_initialize: engine must not be NULL");
  *engine = NULL;
  if (optimizer) *optimizer = NULL;
  if (training_dataloader) *training_dataloader = NULL;
  if (lr_scheduler) *lr_scheduler = NULL;
  DS_TRY(check_args(args, err));
  const ds_logger logger = {args->log, args->log_ctx};
  const char *config;
  DS_TRY(choose_config(args, &logger, &config, err));

  ds_engine *e = calloc(1, sizeof *e);
  if (!e) return ds_fail_memory(err, "an engine");
  e->logger = logger;
  e->model = args->model;
  e->seed = args->seed;
  e->grad_norm = NAN;
  e->begin_next = true;
  ds_status status = build(e, args, config, err);
  if (status != DS_OK) {
    ds_engine_destroy(e);
    return status;
  }
  ds_log(&logger, DS_LOG_INFO,
         "training \"%s\" on %s (%s) in %s: %lld parameters, batch %lld = %lld x %lld x %d",
         ds_model_name(e->model), ds_backend_name(e->backend), ds_backend_device(e->backend),
         e->config.fp16   ? "fp16"
         : e->config.bf16 ? "bf16"
                          : "fp32",
         (long long)ds_params_total(e->params), (long long)e->config.batch.train,
         (long long)e->config.batch.micro, (long long)e->config.batch.accumulation,
         e->topology.data.size);
  *engine = e;
  if (optimizer) *optimizer = e->optimizer;
  if (training_dataloader) *training_dataloader = e->loader;
  if (lr_scheduler) *lr_scheduler = e->scheduler;
  return DS_OK;
}
