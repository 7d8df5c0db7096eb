/* comms_logger.c - the config's "comms_logger" section, and its summary. */
#include "train/observe.h"

#include <string.h>
#include <strings.h>

/* The names that torch.distributed has for them, where they differ from ours, in prof_ops. */
static const struct {
  const char *name;
  ds_group_op op;
} names[] = {{"all_reduce", DS_GROUP_ALLREDUCE},
             {"inference_all_reduce", DS_GROUP_ALLREDUCE},
             {"reduce_scatter_tensor", DS_GROUP_REDUCE_SCATTER},
             {"all_gather", DS_GROUP_ALLGATHER},
             {"all_gather_into_tensor", DS_GROUP_ALLGATHER},
             {"all_to_all", DS_GROUP_ALLTOALL},
             {"all_to_all_single", DS_GROUP_ALLTOALL},
             {"isend", DS_GROUP_SEND},
             {"irecv", DS_GROUP_RECV}};
enum { NAMES = sizeof names / sizeof *names };

/* -1: there is no such op. */
static int find_op(const char *name) {
  for (int i = 0; i < DS_GROUP_OPS; i++)
    if (strcasecmp(name, ds_group_op_name((ds_group_op)i)) == 0) return i;
  for (int i = 0; i < NAMES; i++)
    if (strcasecmp(name, names[i].name) == 0) return (int)names[i].op;
  return -1;
}

static const char *nearest(const char *name) {
  const char *all[DS_GROUP_OPS + NAMES];
  for (int i = 0; i < DS_GROUP_OPS; i++) all[i] = ds_group_op_name((ds_group_op)i);
  for (int i = 0; i < NAMES; i++) all[DS_GROUP_OPS + i] = names[i].name;
  return ds_nearest(name, all, DS_GROUP_OPS + NAMES);
}

void ds_comms_logger_check(const cJSON *root, ds_schema_errors *errors) {
  const cJSON *section = cJSON_GetObjectItemCaseSensitive(root, "comms_logger"), *item;
  cJSON_ArrayForEach(item, cJSON_GetObjectItemCaseSensitive(section, "prof_ops")) {
    if (!cJSON_IsString(item)) {
      ds_schema_error(errors, "comms_logger.prof_ops: must be names of ops, not %s",
                      ds_json_type(item));
    } else if (find_op(item->valuestring) < 0) {
      const char *near = nearest(item->valuestring);
      ds_schema_error(
          errors,
          "comms_logger.prof_ops: there is no op \"%.64s\"%s%s%s; dscore calls allreduce, "
          "reduce_scatter, allgather, broadcast, alltoall, send and recv",
          item->valuestring, near ? ", did you mean \"" : "", near ? near : "", near ? "\"?" : "");
    }
  }
}

static bool flag(const cJSON *section, const char *key) {
  return cJSON_IsTrue(cJSON_GetObjectItemCaseSensitive(section, key));
}

ds_status ds_comms_logger_create(ds_engine *e, ds_comms_log **out, ds_error *err) {
  const cJSON *section = cJSON_GetObjectItemCaseSensitive(e->config.root, "comms_logger"), *item;
  *out = NULL;
  if (!flag(section, "enabled")) return DS_OK;
  ds_comms_log_options options = {.verbose = flag(section, "verbose") && e->world.rank == 0,
                                  .by_group = flag(section, "debug")};
  if (flag(section, "prof_all")) options.ops = (1u << DS_GROUP_OPS) - 1;
  cJSON_ArrayForEach(item, cJSON_GetObjectItemCaseSensitive(section, "prof_ops")) {
    options.ops |= 1u << find_op(item->valuestring);
  }
  return ds_comms_log_create(&options, &e->logger, out, err);
}

ds_status ds_engine_comms_summary(ds_engine *e, const ds_comms_stats **rows, size_t *n,
                                  ds_error *err) {
  if (!rows || !n)
    return ds_fail(err, DS_ERR_INVALID, "ds_engine_comms_summary: rows and n must not be NULL");
  *rows = NULL;
  *n = 0;
  if (!e->observe || !e->observe->comms)
    return ds_fail(err, DS_ERR_STATE,
                   "ds_engine_comms_summary: the comms logger is off; set comms_logger.enabled in "
                   "the config");
  ds_span_drain(e->backend);
  return ds_comms_log_rows(e->observe->comms, rows, n, err);
}
