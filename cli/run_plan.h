/* run_plan.h - from the options of `ds run` and its hosts to the command that starts the ranks. Nothing
 * is run here.
 */
#ifndef DS_CLI_RUN_PLAN_H
#define DS_CLI_RUN_PLAN_H

#include <stdbool.h>
#include <stdint.h>

#include "hostfile.h"

typedef enum run_launcher { RUN_OPENMPI, RUN_SLURM } run_launcher;

typedef struct run_options {
  int64_t ranks;     /* -n: in all; -1 = not given */
  int64_t num_gpus;  /* --num_gpus: on each host; -1 */
  int64_t num_nodes; /* -1 */
  const char *include, *exclude;
  const char *master_addr; /* NULL */
  int64_t master_port;     /* -1; 0 = the ranks find one */
  const char *launcher_args;
  bool bind_cores;
} run_options;

/* What the plan depends on besides the options. */
typedef struct run_surroundings {
  const char *self;        /* this program, which is the ranks' parent */
  const char *host;        /* this machine's name */
  int cores;               /* that this process may use */
  bool root;               /* runs as root */
  const char *const *pass; /* names of variables that the ranks are to have; NULL at the end */
  bool mpi_type;           /* Slurm is told otherwise how MPI starts (SLURM_MPI_TYPE) */
} run_surroundings;

/* Zero-initialize; run_plan_finish. */
typedef struct run_plan {
  run_launcher launcher;
  run_hosts hosts;   /* each with the slots that ranks take; none under Slurm */
  int ranks;         /* 0: as many as Slurm gives */
  char *master_addr; /* NULL: not needed */
  int master_port;   /* -1: not to be set; 0: the ranks find one */
} run_plan;

typedef struct run_words {
  char **at; /* NULL at the end */
  size_t room;
  int count;
} run_words;

/* Chooses from `hosts`, all there are (after the filters), in their order; NULL: this machine alone.
 * Mistakes are told in terms of the options. */
DS_MUST_USE ds_status run_plan_openmpi(const run_options *o, const run_hosts *hosts,
                                       const char *this_host, run_plan *out, ds_error *err);
DS_MUST_USE ds_status run_plan_slurm(const run_options *o, run_plan *out, ds_error *err);
/* The words of the command: mpirun or srun, and behind its options `command`. */
DS_MUST_USE ds_status run_plan_words(const run_plan *plan, const run_options *o,
                                     const run_surroundings *s, char *const *command,
                                     run_words *out, ds_error *err);
void run_plan_finish(run_plan *plan);

/* Adds a copy of text, or of text split at blanks, where quotes hold a word together. */
DS_MUST_USE ds_status run_words_add(run_words *w, const char *text, ds_error *err);
DS_MUST_USE ds_status run_words_split(run_words *w, const char *text, ds_error *err);
void run_words_finish(run_words *w);

#endif
