/* From options and hosts to the command that starts the ranks. */
#include "run_plan.h"

#include "test.h"

#include <stdlib.h>

static const run_options none = {.ranks = -1, .num_gpus = -1, .num_nodes = -1, .master_port = -1};
static const char *const no_names[] = {NULL};
static const char *const command[] = {"ds", "train", "a b", NULL};

static const char *joined(const run_words *w) {
  static char text[4096];
  text[0] = '\0';
  for (int i = 0; i < w->count; i++) {
    strcat(text, i ? " " : "");
    strcat(text, strchr(w->at[i], ' ') ? "<" : "");
    strcat(text, w->at[i]);
    strcat(text, strchr(w->at[i], ' ') ? ">" : "");
  }
  return text;
}

/* hosts: a hostfile's text, NULL: this machine, "slurm". want: the command, or "!" and what the
 * message says. */
static void plans(run_options o, run_surroundings s, const char *hosts, const char *want) {
  ds_error err = {DS_OK, ""};
  run_hosts h = {0};
  run_plan p = {0};
  run_words w = {0};
  ds_status status = DS_OK;
  const bool slurm = hosts && strcmp(hosts, "slurm") == 0;
  if (slurm) hosts = NULL;
  if (hosts) CHECK_OK(hostfile_parse(hosts, "hosts", &h, &err), err);
  if (hosts) status = hostfile_filter(&h, o.include, o.exclude, &err);
  if (status == DS_OK)
    status = slurm ? run_plan_slurm(&o, &p, &err)
                   : run_plan_openmpi(&o, hosts ? &h : NULL, s.host, &p, &err);
  if (status == DS_OK)
    status = run_plan_words(&p, &o, &s, (char *const *)(uintptr_t)command, &w, &err);
  const char *got = status == DS_OK ? joined(&w) : err.message;
  const bool good = want[0] == '!' ? status != DS_OK && strstr(got, want + 1) : !strcmp(got, want);
  if (!good) fprintf(stderr, "got  %s\nwant %s\n", got, want);
  CHECK(good);
  run_words_finish(&w);
  run_plan_finish(&p);
  hostfile_finish(&h);
}

static run_surroundings here(void) {
  return (run_surroundings){.self = "/usr/bin/ds", .host = "head", .cores = 4, .pass = no_names};
}

#define LAYOUT " --map-by slot --rank-by slot --bind-to none"
#define NOTICE                                                                                     \
  " --mca oob_tcp_keepalive_time 5 --mca oob_tcp_keepalive_intvl 3 --mca "                         \
  "oob_tcp_keepalive_probes 3"
#define RANK " /usr/bin/ds run --as-rank"
#define END  " -- ds train <a b>"

static void test_here(void) {
  run_options o = none;
  run_surroundings s = here();
  plans(o, s, NULL, "!how many ranks? -n N");
  o.ranks = 4;
  plans(o, s, NULL, "mpirun -np 4 --host localhost:4" LAYOUT RANK END);
  s.root = true;
  plans(o, s, NULL, "mpirun --allow-run-as-root -np 4 --host localhost:4" LAYOUT RANK END);
  s.root = false;
  o.ranks = 5;
  plans(o, s, NULL, "mpirun -np 5 --host localhost:5" LAYOUT " --oversubscribe" RANK END);
  o.ranks = 1 << 20;
  plans(o, s, NULL, "!too many");
  o.ranks = -1;
  o.num_gpus = 2;
  o.bind_cores = true;
  plans(o, s, NULL, "mpirun -np 2 --host localhost:2" LAYOUT RANK " --bind_cores_to_rank" END);
  o.bind_cores = false;
  const char *const names[] = {"DS_LOG", "NCCL_DEBUG", NULL};
  s.pass = names;
  o.launcher_args = "--mca btl 'self,tcp' --x \"a b\"";
  plans(o, s, NULL,
        "mpirun -np 2 --host localhost:2" LAYOUT
        " -x DS_LOG -x NCCL_DEBUG --mca btl self,tcp --x <a b>" RANK END);
  o.launcher_args = "--x 'a";
  plans(o, s, NULL, "!a quote (') has no end");
  o.launcher_args = NULL;
  o.num_nodes = 2;
  plans(o, s, NULL, "!there is no --hostfile");
  o.ranks = 2;
  plans(o, s, NULL, "!give one");
}

static void test_hosts(void) {
  const char *hosts = "a slots=2\nb slots=4\nc slots=1";
  run_options o = none;
  run_surroundings s = here();
  plans(o, s, hosts, "mpirun -np 7 --host a:2,b:4,c:1" LAYOUT NOTICE RANK END);
  o.ranks = 4;
  plans(o, s, hosts, "mpirun -np 4 --host a:2,b:2" LAYOUT NOTICE RANK END);
  o.ranks = 2;
  plans(o, s, hosts, "mpirun -np 2 --host a:2" LAYOUT NOTICE RANK END);
  o.ranks = 8;
  plans(o, s, hosts, "!-n is 8, but the hosts have 7 slots");
  o.ranks = -1;
  o.num_nodes = 2;
  plans(o, s, hosts, "mpirun -np 6 --host a:2,b:4" LAYOUT NOTICE RANK END);
  o.num_gpus = 2;
  plans(o, s, hosts, "mpirun -np 4 --host a:2,b:2" LAYOUT NOTICE RANK END);
  o.num_gpus = 3;
  plans(o, s, hosts, "!--num_gpus is 3, but host \"a\" has 2 slots");
  o.num_nodes = 4;
  plans(o, s, hosts, "!--num_nodes is 4, but there are 3 hosts");
  o.include = "a";
  plans(o, s, hosts, "!don't go with --include");
  o = none;
  o.include = "b:1,3@a";
  plans(o, s, hosts, "mpirun -np 4 --host a:2,b:2" LAYOUT NOTICE RANK " --devices=0,1,1,3" END);
  o = none;
  plans(o, s, "head slots=8", "mpirun -np 8 --host head:8" LAYOUT " --oversubscribe" RANK END);
}

static void meets(run_options o, const char *hosts, const char *address, int port) {
  ds_error err;
  run_hosts h = {0};
  run_plan p = {0};
  CHECK_OK(hostfile_parse(hosts, "hosts", &h, &err), err);
  CHECK_OK(run_plan_openmpi(&o, &h, "head", &p, &err), err);
  CHECK(p.master_port == port);
  CHECK(address ? p.master_addr && !strcmp(p.master_addr, address) : !p.master_addr);
  run_plan_finish(&p);
  hostfile_finish(&h);
}

static void test_master(void) {
  run_options o = none;
  meets(o, "a slots=2", NULL, -1); /* on one host nobody needs it */
  meets(o, "a slots=2\nb slots=2", "a", 0);
  meets(o, "localhost slots=2\nb slots=2", "head", 0);
  o.master_port = 1234;
  meets(o, "a slots=2", NULL, 1234);
  o.master_addr = "10.0.0.1";
  meets(o, "a slots=2\nb slots=2", "10.0.0.1", 1234);
}

static void test_slurm(void) {
  run_options o = none;
  run_surroundings s = here();
#define ENDS " --kill-on-bad-exit=1 --cpu-bind=none"
  plans(o, s, "slurm", "srun" ENDS " --mpi=pmix" RANK END);
  s.mpi_type = true;
  plans(o, s, "slurm", "srun" ENDS RANK END);
  o.ranks = 8;
  o.num_nodes = 2;
  plans(o, s, "slurm", "srun --ntasks 8 --nodes 2" ENDS RANK END);
  o.ranks = -1;
  o.num_gpus = 3;
  plans(o, s, "slurm", "srun --ntasks 6 --nodes 2 --ntasks-per-node 3" ENDS RANK END);
  o = none;
  o.include = "n1@n2";
  o.launcher_args = "--gpus-per-task=1";
  plans(o, s, "slurm", "srun --nodelist=n1,n2" ENDS " --gpus-per-task=1" RANK END);
  o.include = NULL;
  o.exclude = "n3";
  plans(o, s, "slurm", "srun --exclude=n3" ENDS " --gpus-per-task=1" RANK END);
  o.exclude = "n3:1";
  plans(o, s, "slurm", "!name whole hosts there");
}

int main(void) {
  test_here();
  test_hosts();
  test_master();
  test_slurm();
  return TEST_RESULT();
}
