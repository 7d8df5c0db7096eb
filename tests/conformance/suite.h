/* suite.h - sections of checks, each unit of them in a child process with a time limit.
 *
 * A unit is a function that runs checks and reports a line for each (check_report). It runs in a
 * process of its own, in which the plugin was loaded and its first device opened, as far as the
 * unit needs it. What ends the process early - a signal, the time limit, exit() - and what it
 * prints are failures of that unit, and the next one runs.
 */
#ifndef CONFORMANCE_SUITE_H
#define CONFORMANCE_SUITE_H

#include "record.h"

enum { RANKS_MAX = 8 };

/* One run of `ds conform`. */
typedef struct suite {
  const char *path;    /* of the plugin, absolute; or "reference" */
  const char *section; /* only this one; NULL: all */
  const char *op;      /* only this check */
  const char *options; /* for the device's open */
  const char *expect;  /* file of known gaps */
  const char *ranks;   /* "1,2,4" */
  uint64_t seed;
  int cases;
  int limit; /* seconds for a unit */
  bool json;
} suite;

/* What must be there before a unit's function is called. */
typedef enum unit_needs {
  NEEDS_NOTHING, /* the plugin is not even loaded */
  NEEDS_PLUGIN,  /* queried; k->plugin */
  NEEDS_DEVICE   /* opened; k->dev and k->stream */
} unit_needs;

typedef struct unit {
  const char *name;
  void (*run)(conformance *k);
  unit_needs needs;
  bool many; /* its lines have names of their own */
} unit;

/* A check of one line, as a unit function: `static void fn(conformance *k, tally *t)`. */
#define UNIT_OF(fn, label)                                                                         \
  static void unit_##fn(conformance *k) {                                                          \
    tally t = {.cases = 1};                                                                        \
    fn(k, &t);                                                                                     \
    check_report(k, &t, label, "");                                                                \
  }
#define NEED(condition, ...)                                                                       \
  do {                                                                                             \
    if (!(condition)) {                                                                            \
      check_fail(t, __VA_ARGS__);                                                                  \
      return;                                                                                      \
    }                                                                                              \
  } while (0)

typedef struct section {
  const char *name;
  const unit *units; /* ended by one without a name; NULL: one for each op of ops_table */
  const char *about;
} section;

/* Runs what is wanted and prints the report. 0: nothing failed; 1: something did; 2: can't run,
 * with the reason on stderr. */
int suite_run(const suite *s);
/* Measures instead, on the plugin in this process. */
int suite_time(const suite *s);
/* Whether there is such a section. */
bool suite_has_section(const char *name);
/* Names of all sections: "abi, device, ..." */
void suite_sections(char *text, size_t room);

/* child.c: one unit in a child process. Every record it sends goes to on_record, at last one that
 * says how it ended when it ended badly. */
typedef void on_record_fn(void *ctx, const record *r);
void child_run(const suite *s, const char *section_name, const unit *u, const char *only,
               on_record_fn *on_record, void *ctx);
void child_fill(const suite *s, conformance *k); /* the options into a conformance */

/* load.c. Messages go to err. */
bool load_plugin(conformance *k, ds_error *err);
/* The query's address, or NULL; "reference" has none. */
ds_plugin_query_fn *load_query(const char *path, ds_error *err);
ds_host load_host(void);
bool load_device(conformance *k, ds_error *err);
void load_close(conformance *k);
/* The query's answer with everything that it doesn't have NULL. Static: one plugin a process. */
const ds_plugin *load_adopt(const ds_plugin *p);

/* report.c: prints a line a record, or gathers them for JSON. */
typedef struct report_state report_state;
report_state *
report_create(const suite *s); /* NULL: the --expect file can't be read; it has been said */
void report_plugin(report_state *r, const char *name, const char *version, const char *device);
void report_line(report_state *r, record *line);
int report_count(const report_state *r); /* lines so far */
/* Totals; the exit code. Frees r. void_: nothing was checked; prints nothing and gives 2. */
int report_finish(report_state *r, bool void_);

/* The sections, one file each: section_NAME.c, cases_device.c. */
extern const unit abi_units[], elf_units[], descriptor_units[], device_units[], memory_units[],
    lifetime_units[], threads_units[], graph_units[], faults_units[], engine_units[];
/* ranks.c: starts the ranks of section comm and merges what they say. */
void ranks_run(const suite *s, on_record_fn *on_record, void *ctx);

/* One rank's part, in a process that ranks_run started; the exit code. */
int suite_rank(const suite *s, const char *folder);

#endif
