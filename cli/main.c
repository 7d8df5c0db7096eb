#include "cli.h"

#include "base/str.h"

#include <signal.h>
#include <stdlib.h>
#include <string.h>

static const struct {
  const char *name;
  int (*run)(int argc, char **argv);
  const char *summary;
} commands[] = {
    {"train", cmd_train, "train a GPT-2 or LLaMA model on text files"},
    {"run", cmd_run, "start a program as several ranks, on this machine or on many"},
    {"generate", cmd_generate, "continue a prompt with a trained model"},
    {"export", cmd_export, "make a Hugging Face folder of a checkpoint"},
    {"backends", cmd_backends, "list the backends: chosen, available, or rejected and why"},
    {"config", cmd_config, "check a ds_config.json and print what it resolves to"},
    {"conform", cmd_conform, "check a backend plugin against the ABI and float64 references"},
    {"plan", cmd_plan, "memory, traffic and time of a training run on N ranks, before it runs"},
    {"bench", cmd_bench, "measure products, training, decoding and dispatch on this machine"},
};
enum { N_COMMANDS = sizeof commands / sizeof *commands };

static void print_help(FILE *f) {
  fprintf(f,
          "usage: ds COMMAND [OPTION]...\n\n"
          "dscore %s: DeepSpeed's training and inference engines on pluggable backends.\n\n"
          "commands:\n",
          ds_version());
  for (int i = 0; i < N_COMMANDS; i++)
    fprintf(f, "  %-10s %s\n", commands[i].name, commands[i].summary);
  fprintf(f, "\n`ds COMMAND --help` explains a command. Results go to stdout, messages to stderr; "
             "the exit\n"
             "code is 0 on success, 1 on failure, 2 for a wrong command line.\n\n"
             "a first run:\n"
             "  ds backends\n"
             "  ds train --model config.json --data book.txt --config ds_config.json --output out\n"
             "  ds generate --model out --prompt 'Once upon a time'\n\n"
             "environment:\n"
             "  DS_BACKEND      name (or names, by comma) of the backend to use; beats the config\n"
             "  DS_PLUGIN_PATH  folders (by colon) to look in before the installed plugins;\n"
             "                  replaces plugin_path of the config\n"
             "  DS_LOG          info or debug: more messages on stderr\n");
}

static int run(int argc, char **argv) {
  if (argc < 2) {
    print_help(stderr);
    return 2;
  }
  if (strcmp(argv[1], "--help") == 0 || strcmp(argv[1], "-h") == 0 ||
      strcmp(argv[1], "help") == 0) {
    print_help(stdout);
    return 0;
  }
  if (strcmp(argv[1], "--version") == 0) {
    printf("ds %s\n", ds_version());
    return 0;
  }
  const char *names[N_COMMANDS];
  for (int i = 0; i < N_COMMANDS; i++) {
    names[i] = commands[i].name;
    if (strcmp(argv[1], names[i]) == 0) return commands[i].run(argc - 2, argv + 2);
  }
  const char *near = ds_nearest(argv[1], names, N_COMMANDS);
  fprintf(stderr, "ds: unknown command \"%s\"%s%s%s (ds --help lists them)\n", argv[1],
          near ? "; did you mean " : "", near ? near : "", near ? "?" : "");
  return 2;
}

/* OpenMP's waiting threads spin for a while before they sleep. On a machine that others use too,
 * the spinning takes the core from the thread that is waited for, and everything slows tenfold; a
 * short spin costs nothing measurable. It must be said before a plugin loads the OpenMP library; a
 * setting of the user's wins. */
static void tame_spinning(void) {
  if (!getenv("OMP_WAIT_POLICY")) setenv("GOMP_SPINCOUNT", "2000", 0);
}

int main(int argc, char **argv) {
  tame_spinning();
  signal(SIGPIPE, SIG_IGN); /* a closed pipe is a failed write, told like any other */
  int code = run(argc, argv);
  bool unwritten = fflush(stdout) != 0;
  if (!unwritten && !ferror(stdout)) return code;
  fprintf(stderr, "ds: cannot write to stdout\n");
  return code ? code : 1;
}
