#include "run_rank.h"

#include "base/str.h"
#include "parallel/slurm.h"
#include "run_guard.h"

#include <sched.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ---- which rank */

static bool number(const char *name, int *out) {
  const char *text = getenv(name);
  char *end;
  if (!text || !text[0]) return false;
  long v = strtol(text, &end, 10);
  *out = (int)v;
  return *end == '\0' && v >= 0 && v <= 1 << 24;
}

int run_rank_tasks_on(const char *list, int node) {
  while (*list) {
    char *end;
    long tasks = strtol(list, &end, 10), times = 1;
    if (end == list || tasks < 1) return 0;
    if (strncmp(end, "(x", 2) == 0) {
      times = strtol(end + 2, &end, 10);
      if (*end++ != ')') return 0;
    }
    if (node < times) return (int)tasks;
    node -= (int)times;
    if (*end != ',' && *end != '\0') return 0;
    list = *end ? end + 1 : end;
  }
  return 0;
}

ds_status run_rank_identify(run_identity *out, ds_error *err) {
  if (number("OMPI_COMM_WORLD_RANK", &out->rank) && number("OMPI_COMM_WORLD_SIZE", &out->size) &&
      number("OMPI_COMM_WORLD_LOCAL_RANK", &out->local_rank) &&
      number("OMPI_COMM_WORLD_LOCAL_SIZE", &out->local_size))
    return DS_OK;
  const char *list = getenv("SLURM_STEP_TASKS_PER_NODE");
  int node = 0;
  if (number("SLURM_PROCID", &out->rank) && number("SLURM_STEP_NUM_TASKS", &out->size) &&
      number("SLURM_LOCALID", &out->local_rank) && number("SLURM_NODEID", &node) && list) {
    out->local_size = run_rank_tasks_on(list, node);
    if (out->local_size > out->local_rank) return DS_OK;
  }
  return ds_fail(err, DS_ERR_STATE,
                 "--as-rank is for what mpirun and srun start; use ds run -n N -- COMMAND");
}

/* ---- its environment */

char *run_rank_devices(const char *list, const run_identity *me) {
  const int first = me->rank - me->local_rank, end = first + me->local_size;
  const char *from = NULL, *p = list;
  for (int i = 0; i < end; i++) {
    if (i == first) from = p;
    p = strchrnul(p, ',');
    if (!*p && i < end - 1) return NULL;
    if (i < end - 1) p++;
  }
  return from ? strndup(from, (size_t)(p - from)) : NULL;
}

static bool set_number(const char *name, int value) {
  char text[16];
  snprintf(text, sizeof text, "%d", value);
  return setenv(name, text, 1) == 0;
}

/* This rank's part of the cores that it may use, which are the same for all ranks of the host. */
static void share_cores(const run_identity *me, bool bind) {
  cpu_set_t all, mine;
  int cores = 1, seen = 0;
  if (sched_getaffinity(0, sizeof all, &all) == 0) cores = CPU_COUNT(&all);
  const int each = cores / me->local_size > 0 ? cores / me->local_size : 1;
  if (!getenv("OMP_NUM_THREADS")) (void)set_number("OMP_NUM_THREADS", each);
  if (!getenv("OMP_WAIT_POLICY")) (void)setenv("GOMP_SPINCOUNT", "2000", 0); /* see main.c */
  if (!bind || cores < me->local_size) return;
  CPU_ZERO(&mine);
  for (int i = 0; i < CPU_SETSIZE; i++) {
    if (!CPU_ISSET(i, &all)) continue;
    if (seen / each == me->local_rank) CPU_SET(i, &mine);
    seen++;
  }
  (void)sched_setaffinity(0, sizeof mine, &mine);
}

static ds_status set_environment(const run_identity *me, const char *devices, ds_error *err) {
  char host[256];
  const char *list = getenv("SLURM_STEP_NODELIST");
  bool ok = set_number("RANK", me->rank) && set_number("WORLD_SIZE", me->size) &&
            set_number("LOCAL_RANK", me->local_rank) &&
            set_number("LOCAL_WORLD_SIZE", me->local_size);
  if (!getenv("OMPI_COMM_WORLD_SIZE") && list && me->local_size < me->size &&
      ds_slurm_first_host(list, host, sizeof host))
    ok = setenv("MASTER_ADDR", host, 0) == 0 && ok;
  if (devices) {
    char *own = run_rank_devices(devices, me);
    ok = own && setenv("CUDA_VISIBLE_DEVICES", own, 1) == 0 &&
         setenv("HIP_VISIBLE_DEVICES", own, 1) == 0 && ok;
    free(own);
  }
  return ok ? DS_OK : ds_fail_memory(err, "a rank's environment");
}

int run_rank(int argc, char **argv) {
  const char *devices = NULL;
  bool bind = false;
  int i = 0;
  ds_error err;
  run_identity me;
  for (; i < argc && strcmp(argv[i], "--") != 0; i++) {
    if (strncmp(argv[i], "--devices=", 10) == 0) devices = argv[i] + 10;
    if (strcmp(argv[i], "--bind_cores_to_rank") == 0) bind = true;
  }
  ds_status status = run_rank_identify(&me, &err);
  if (status == DS_OK && i + 1 >= argc)
    status = ds_fail(&err, DS_ERR_INVALID, "--as-rank: there is no command");
  if (status == DS_OK) status = set_environment(&me, devices, &err);
  if (status != DS_OK) {
    fprintf(stderr, "ds run: %s\n", err.message);
    return 1;
  }
  share_cores(&me, bind);
  return run_guard(argv + i + 1);
}
