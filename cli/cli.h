/* cli.h - what the commands of `ds` share. */
#ifndef DS_CLI_CLI_H
#define DS_CLI_CLI_H

#include "ds.h"
#include "options.h"

/* Each takes its arguments after the command's name and returns the exit code: 0 success, 1
 * failure, 2 wrong usage. */
int cmd_backends(int argc, char **argv);
int cmd_bench(int argc, char **argv);
int cmd_conform(int argc, char **argv);
int cmd_config(int argc, char **argv);
int cmd_export(int argc, char **argv);
int cmd_generate(int argc, char **argv);
int cmd_plan(int argc, char **argv);
int cmd_run(int argc, char **argv);
int cmd_train(int argc, char **argv);

/* "ds train: message" on stderr; returns 1. */
int cli_fail(const char *name, const ds_error *err);
/* A ds_log_fn: warnings and errors to stderr (everything with DS_LOG=debug or info). */
void cli_log(void *ctx, ds_log_level level, const char *message);
/* text as a JSON string with quotes, to f; bytes that are no UTF-8 become U+FFFD. */
#include <stdio.h>
void cli_print_json_string(FILE *f, const char *text, size_t length);
double cli_now(void); /* seconds, monotonic */

#endif
