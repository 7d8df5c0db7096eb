/* run_env.h - the environment of the ranks of `ds run`: what of ours goes with them to other hosts,
 * and DeepSpeed's .deepspeed_env. */
#ifndef DS_CLI_RUN_ENV_H
#define DS_CLI_RUN_ENV_H

#include "run_plan.h"

/* Reads a file of lines NAME=VALUE (blank lines, and lines that begin with #, don't count), sets them
 * in this process's environment, and adds their names. Mistakes give file and line. */
DS_MUST_USE ds_status run_env_parse(const char *text, const char *file, run_words *names,
                                    ds_error *err);
/* DeepSpeed's: DS_ENV_FILE (".deepspeed_env") in the home folder, then in the current one, which
 * wins. Neither has to be there. */
DS_MUST_USE ds_status run_env_read_files(run_words *names, ds_error *err);
/* Adds the names of environ's variables (NAME=VALUE each) that ranks on other hosts are to have:
 * those of dscore and of the libraries below it, by prefix. None is added twice. */
DS_MUST_USE ds_status run_env_choose(char *const *environ_, run_words *names, ds_error *err);

#endif
