/* options.h - command-line options as a table: parsing, and help made from the same table. */
#ifndef DS_CLI_OPTIONS_H
#define DS_CLI_OPTIONS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef enum option_type {
  OPTION_FLAG,   /* bool: takes no value */
  OPTION_STRING, /* const char * */
  OPTION_INT,    /* int64_t */
  OPTION_NUMBER, /* double */
  OPTION_LIST    /* option_list: may stand several times, and takes several values */
} option_type;

typedef struct option_list {
  const char *values[64];
  int count;
} option_list;

typedef struct option {
  const char *name; /* "--steps" */
  option_type type;
  void *target;      /* points to the variable, which holds the default */
  const char *value; /* what to call the value in the help: "N" */
  const char *help;  /* may have several lines */
} option;

typedef struct command {
  const char *name;    /* "train" */
  const char *summary; /* one line */
  const char *usage;   /* after "ds train" */
  const char *details; /* paragraphs and examples after the options; may be NULL */
  option options[32];  /* ended by one without a name */
} command;

typedef enum parsed { PARSED_RUN, PARSED_HELP, PARSED_WRONG } parsed;

/* argv without program and command name. Words that are no options go to `words`. Mistakes are told
 * on stderr, with the nearest option name; the help goes to stdout. */
parsed options_parse(const command *c, int argc, char **argv, option_list *words);

/* How many arguments at the front are options and their values: a command of the user's begins after
 * them, at "--" or at the first word that is none. */
int options_end(const command *c, int argc, char **argv);

#endif
