/* ds run: starts the ranks of a program, by mpirun or srun, and again when they fail. */
#include "cli.h"

#include "base/file.h"
#include "base/str.h"
#include "run_again.h"
#include "run_env.h"
#include "run_job.h"
#include "run_rank.h"

#include <sched.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

enum { HOSTFILE_LIMIT = 16 << 20 };

extern char **environ;

typedef struct run {
  run_options o;
  const char *hostfile, *launcher, *config;
  int64_t max_restarts;
  bool dry_run;
  char **command; /* NULL at the end */
  bool slurm;
  run_hosts hosts; /* after the filters; none: this machine */
  run_words names; /* of variables that .deepspeed_env sets */
  char *master;    /* MASTER_ADDR as it was in the environment */
  char self[4096], this_host[256];
  int ranks; /* of the first start */
} run;

/* ---- what there is */

static bool is_in_path(const char *program) {
  const char *path = getenv("PATH");
  for (const char *end; path; path = *end ? end + 1 : NULL) {
    end = strchrnul(path, ':');
    char *at = ds_format("%.*s/%s", (int)(end - path), path, program);
    const bool found = at && access(at, X_OK) == 0;
    free(at);
    if (found) return true;
  }
  return false;
}

static ds_status choose_launcher(run *r, ds_error *err) {
  const char *job = getenv("SLURM_JOB_ID");
  const bool slurm_here = job && job[0] && is_in_path("srun");
  if (!r->launcher || strcmp(r->launcher, "auto") == 0)
    r->slurm = slurm_here && !r->hostfile;
  else if (strcmp(r->launcher, "slurm") == 0)
    r->slurm = true;
  else if (strcmp(r->launcher, "openmpi") != 0)
    return ds_fail(err, DS_ERR_INVALID, "--launcher: must be openmpi, slurm or auto, not \"%s\"",
                   r->launcher);
  if (r->slurm && r->hostfile)
    return ds_fail(err, DS_ERR_INVALID,
                   "--hostfile: Slurm knows the hosts; leave it out, or give --launcher openmpi");
  if (!r->slurm && getenv("OMPI_COMM_WORLD_SIZE"))
    return ds_fail(err, DS_ERR_STATE,
                   "this process was started by mpirun itself; start ds run without it");
  return DS_OK;
}

/* "localhost:0,2" says without a hostfile which devices to use. */
static ds_status local_slots(run *r, ds_error *err) {
  const char *filter = r->o.include;
  if (r->o.exclude && r->o.exclude[0])
    return ds_fail(err, DS_ERR_INVALID, "--exclude needs --hostfile");
  if (!filter || !filter[0]) return DS_OK;
  if (strncmp(filter, "localhost:", 10) != 0)
    return ds_fail(err, DS_ERR_INVALID,
                   "--include without --hostfile names slots of this machine: localhost:0,2");
  DS_TRY(hostfile_add(&r->hosts, "localhost", 9, HOSTFILE_SLOTS_MAX, err));
  return hostfile_filter(&r->hosts, filter, NULL, err);
}

static ds_status read_hosts(run *r, ds_error *err) {
  char *text = NULL;
  size_t size;
  if (r->slurm) return DS_OK;
  if (!r->hostfile) return local_slots(r, err);
  ds_status status = ds_file_read(r->hostfile, HOSTFILE_LIMIT, &text, &size, err);
  if (status == DS_OK) status = hostfile_parse(text, r->hostfile, &r->hosts, err);
  if (status == DS_OK) status = hostfile_filter(&r->hosts, r->o.include, r->o.exclude, err);
  free(text);
  return status;
}

/* What a launcher around us may have set counts as if it were an option. */
static ds_status read_master(run *r, ds_error *err) {
  const char *address = getenv("MASTER_ADDR"), *port = getenv("MASTER_PORT");
  char *end;
  if (!r->o.master_addr && address && address[0]) {
    r->master = strdup(address); /* the environment is changed later */
    if (!r->master) return ds_fail_memory(err, "an address");
    r->o.master_addr = r->master;
  }
  if (r->o.master_port < 0 && port && port[0]) {
    r->o.master_port = strtol(port, &end, 10);
    if (*end || r->o.master_port < 0 || r->o.master_port > 65535)
      return ds_fail(err, DS_ERR_INVALID, "the environment's MASTER_PORT=%s is no port", port);
  }
  return DS_OK;
}

static ds_status look_around(run *r, ds_error *err) {
  const ssize_t n = readlink("/proc/self/exe", r->self, sizeof r->self - 1);
  if (n < 0) return ds_fail(err, DS_ERR_IO, "cannot tell where this program is: no /proc");
  r->self[n] = '\0';
  /* The same version, whatever is in PATH. */
  if (strcmp(r->command[0], "ds") == 0) r->command[0] = r->self;
  if (gethostname(r->this_host, sizeof r->this_host - 1) != 0) strcpy(r->this_host, "localhost");
  DS_TRY(choose_launcher(r, err));
  DS_TRY(read_hosts(r, err));
  DS_TRY(run_env_read_files(&r->names, err));
  return read_master(r, err);
}

/* ---- a start */

static ds_status make_plan(const run *r, int restarts, run_plan *out, ds_error *err) {
  const bool several = r->hosts.count > 1;
  if (r->slurm) return run_plan_slurm(&r->o, out, err);
  if (restarts > 0 && several) {
    const run_before before = {&r->hosts, r->ranks, r->this_host, r->config, r->command};
    return run_again(&r->o, &before, out, err);
  }
  run_options o = r->o;
  if (r->hosts.count > 0 && !r->hostfile) o.include = NULL; /* they are its slots */
  return run_plan_openmpi(&o, r->hosts.count > 0 ? &r->hosts : NULL, r->this_host, out, err);
}

static ds_status set(const char *name, long long value, ds_error *err) {
  char text[32];
  snprintf(text, sizeof text, "%lld", value);
  return setenv(name, text, 1) == 0 ? DS_OK : ds_fail_memory(err, "the environment");
}

static ds_status set_environment(const run_plan *p, int restarts, time_t start, ds_error *err) {
  static const char *const stale[] = {"RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE"};
  for (size_t i = 0; i < sizeof stale / sizeof *stale; i++) unsetenv(stale[i]);
  unsetenv("MASTER_ADDR");
  unsetenv("MASTER_PORT");
  if (p->master_addr && setenv("MASTER_ADDR", p->master_addr, 1) != 0)
    return ds_fail_memory(err, "the environment");
  if (p->master_port >= 0) DS_TRY(set("MASTER_PORT", p->master_port, err));
  DS_TRY(set("DS_RESTART_COUNT", restarts, err));
  return set("DS_RUN_START", (long long)start, err);
}

static ds_status make_words(const run *r, const run_plan *p, run_words *out, ds_error *err) {
  cpu_set_t cores;
  run_words names = {0};
  ds_status status = DS_OK;
  for (int i = 0; i < r->names.count && status == DS_OK; i++)
    status = run_words_add(&names, r->names.at[i], err);
  if (status == DS_OK) status = run_env_choose(environ, &names, err);
  if (status == DS_OK && p->master_addr) status = run_words_add(&names, "MASTER_ADDR", err);
  if (status == DS_OK && p->master_port >= 0) status = run_words_add(&names, "MASTER_PORT", err);
  const run_surroundings s = {
      .self = r->self,
      .host = r->this_host,
      .cores = sched_getaffinity(0, sizeof cores, &cores) == 0 ? CPU_COUNT(&cores) : 1,
      .root = geteuid() == 0,
      .pass = (const char *const *)names.at,
      .mpi_type = getenv("SLURM_MPI_TYPE") != NULL};
  if (status == DS_OK) status = run_plan_words(p, &r->o, &s, r->command, out, err);
  run_words_finish(&names);
  return status;
}

static void print_word(const char *word) {
  const char *plain = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_=./,:@%+";
  if (word[0] && word[strspn(word, plain)] == '\0') {
    printf("%s", word);
    return;
  }
  putchar('\'');
  for (; *word; word++) {
    if (*word == '\'')
      printf("'\\''");
    else
      putchar(*word);
  }
  putchar('\'');
}

static void print_start(const run_plan *p, const run_words *w) {
  if (p->master_addr) printf("MASTER_ADDR=%s ", p->master_addr);
  if (p->master_port >= 0) printf("MASTER_PORT=%d ", p->master_port);
  for (int i = 0; i < w->count; i++) {
    print_word(w->at[i]);
    putchar(i + 1 < w->count ? ' ' : '\n');
  }
}

/* *end is untouched by a dry run. */
static ds_status start_once(run *r, int restarts, time_t start, run_end *end, ds_error *err) {
  run_plan p = {0};
  run_words w = {0};
  ds_status status = make_plan(r, restarts, &p, err);
  if (status == DS_OK && restarts == 0) r->ranks = p.ranks;
  if (status == DS_OK && restarts > 0 && p.ranks > 0)
    fprintf(stderr, "ds run: starting again, %d of %lld, with %d ranks on %d host%s\n", restarts,
            (long long)r->max_restarts, p.ranks, p.hosts.count, p.hosts.count == 1 ? "" : "s");
  if (status == DS_OK) status = set_environment(&p, restarts, start, err);
  if (status == DS_OK) status = make_words(r, &p, &w, err);
  if (status == DS_OK && r->dry_run) print_start(&p, &w);
  if (status == DS_OK && !r->dry_run) status = run_job(w.at, end, err);
  run_words_finish(&w);
  run_plan_finish(&p);
  return status;
}

/* Returns the exit code. */
static int run_all(run *r) {
  ds_error err;
  const time_t start = time(NULL);
  if (look_around(r, &err) != DS_OK) return cli_fail("run", &err);
  if (!r->dry_run) run_job_begin();
  for (int restarts = 0;; restarts++) {
    run_end end = {0};
    if (start_once(r, restarts, start, &end, &err) != DS_OK) return cli_fail("run", &err);
    if (end.stopped_by) return 128 + end.stopped_by;
    if (end.code == 0) return 0;
    if (restarts >= r->max_restarts) return end.code;
    fprintf(stderr, "ds run: the ranks ended with exit code %d%s\n", end.code,
            end.code == 137 ? " (killed)" : "");
  }
}

/* ---- the command line */

static int check(const run *r, const option_list *words) {
  const char *wrong = NULL;
  if (words->count > 0)
    wrong = "a word stands among the options; the command comes after --";
  else if (!r->command || !r->command[0])
    wrong = "what is to run? ds run -n N -- COMMAND";
  else if (r->o.ranks == 0 || r->o.ranks < -1 || r->o.ranks > 1 << 24)
    wrong = "-n must be positive";
  else if (r->o.num_gpus == 0 || r->o.num_gpus < -1 || r->o.num_gpus > HOSTFILE_SLOTS_MAX)
    wrong = "--num_gpus must be positive";
  else if (r->o.num_nodes == 0 || r->o.num_nodes < -1 || r->o.num_nodes > 1 << 24)
    wrong = "--num_nodes must be positive";
  else if (r->o.master_port < -1 || r->o.master_port > 65535)
    wrong = "--master_port must be from 0 to 65535";
  else if (r->max_restarts < 0 || r->max_restarts > 1 << 20)
    wrong = "--max-restarts must not be negative";
  if (!wrong) return 0;
  fprintf(stderr, "ds run: %s (ds run --help)\n", wrong);
  return 2;
}

int cmd_run(int argc, char **argv) {
  if (argc > 0 && strcmp(argv[0], "--as-rank") == 0) return run_rank(argc - 1, argv + 1);
  run r = {.o = {.ranks = -1, .num_gpus = -1, .num_nodes = -1, .master_port = -1}};
  option_list words;
  const command c = {
      "run",
      "Starts a program as several ranks, with mpirun or in a Slurm job, and ends when all of them "
      "have.",
      "[-n N] [OPTION]... [--] COMMAND [ARGUMENT]...",
      "Each rank has RANK, WORLD_SIZE, LOCAL_RANK, LOCAL_WORLD_SIZE, its part of the cores as\n"
      "OMP_NUM_THREADS (unless set), DS_RESTART_COUNT and DS_RUN_START (seconds since 1970). "
      "NAME=VALUE\n"
      "lines in ~/.deepspeed_env and ./.deepspeed_env (DS_ENV_FILE: another name) go to all ranks, "
      "as do\n"
      "variables of ours and of the libraries below (DS_, OMP_, NCCL_, UCX_, CUDA_, PYTHON, ...). "
      "The\n"
      "command \"ds\" is this program. Ctrl-C or SIGTERM asks the ranks to end (SIGTERM) and gives "
      "them\n"
      "half a minute; a second one doesn't wait. The exit code is that of the first rank that "
      "failed.\n\n"
      "After --max-restarts failures it gives up. Before each new start hosts that don't answer "
      "are left\n"
      "out; with fewer ranks it goes on where the config's elasticity allows that number. ds train "
      "then\n"
      "resumes from its --output; other programs look at DS_RESTART_COUNT.\n\n"
      "example:\n"
      "  ds run -n 4 -- ds train --model config.json --data book.txt --config ds_config.json\n"
      "  ds run --hostfile hosts --include worker-0@worker-1:0,2 --max-restarts 3 -- ./my_trainer",
      {{"-n", OPTION_INT, &r.o.ranks, "N", "ranks in all (with a hostfile: all its slots)"},
       {"--num_gpus", OPTION_INT, &r.o.num_gpus, "N", "ranks on each host"},
       {"--num_nodes", OPTION_INT, &r.o.num_nodes, "N", "use the first N hosts"},
       {"--hostfile", OPTION_STRING, &r.hostfile, "FILE",
        "lines HOST slots=N (this machine alone)"},
       {"-H", OPTION_STRING, &r.hostfile, "FILE", "the same"},
       {"--include", OPTION_STRING, &r.o.include, "SPEC",
        "only these: HOST[:SLOT[,SLOT...]][@HOST...]"},
       {"-i", OPTION_STRING, &r.o.include, "SPEC", "the same"},
       {"--exclude", OPTION_STRING, &r.o.exclude, "SPEC", "all but these"},
       {"-e", OPTION_STRING, &r.o.exclude, "SPEC", "the same"},
       {"--master_addr", OPTION_STRING, &r.o.master_addr, "HOST",
        "where ranks meet (of several hosts, the first)"},
       {"--master_port", OPTION_INT, &r.o.master_port, "PORT", "its port; 0: a free one (0)"},
       {"--launcher", OPTION_STRING, &r.launcher, "NAME",
        "openmpi, slurm or auto: slurm in a Slurm job that has srun\n(auto)"},
       {"--launcher_args", OPTION_STRING, &r.o.launcher_args, "TEXT", "more options for it"},
       {"--max-restarts", OPTION_INT, &r.max_restarts, "N",
        "start again after a failure, N times at most (0)"},
       {"--deepspeed_config", OPTION_STRING, &r.config, "FILE",
        "whose elasticity counts for restarts (the command's --config)"},
       {"--bind_cores_to_rank", OPTION_FLAG, &r.o.bind_cores, NULL,
        "each rank on cores of its own"},
       {"--dry-run", OPTION_FLAG, &r.dry_run, NULL, "print the command, and run nothing"}}};
  const int split = options_end(&c, argc, argv);
  parsed p = options_parse(&c, split, argv, &words);
  if (p != PARSED_RUN) return p == PARSED_HELP ? 0 : 2;
  const bool marked = split < argc && strcmp(argv[split], "--") == 0;
  r.command = argv + split + marked;
  int code = check(&r, &words);
  if (code == 0) code = run_all(&r);
  hostfile_finish(&r.hosts);
  run_words_finish(&r.names);
  free(r.master);
  return code;
}
