/* cmd_conform.c - `ds conform`: the command line of the conformance suite (tests/conformance/). */
#include "cli.h"

#include "base/str.h"
#include "suite.h"

#include <limits.h>
#include <stdlib.h>
#include <string.h>

/* Asking for more memory than there is must be answered with an error, under AddressSanitizer too:
 * it calls this when it starts. */
const char *__asan_default_options(void);
const char *__asan_default_options(void) {
  return "allocator_may_return_null=1";
}

typedef struct arguments {
  suite s;
  const char *rank_folder;
  int64_t seed, cases, limit;
  bool time;
} arguments;

static int wrong(const char *what, const char *value) {
  fprintf(stderr, "ds conform: %s%s (ds conform --help)\n", what, value);
  return 2;
}

/* "1,2,4" */
static bool are_ranks(const char *text) {
  for (;;) {
    char *end;
    long n = strtol(text, &end, 10);
    if (end == text || n < 1 || n > RANKS_MAX) return false;
    if (*end == '\0') return true;
    if (*end != ',') return false;
    text = end + 1;
  }
}

static int check(arguments *a, const option_list *words) {
  static char path[PATH_MAX];
  if (words->count != 1) return wrong("wanted one PLUGIN.so, or reference", "");
  if (a->s.section && !suite_has_section(a->s.section))
    return wrong("there is no section ", a->s.section);
  if (a->cases < 1 || a->cases > 100000) return wrong("--cases must be from 1 to 100000", "");
  if (a->limit < 1 || a->limit > 86400) return wrong("--limit must be from 1 to 86400", "");
  if (!are_ranks(a->s.ranks)) return wrong("--ranks wants numbers from 1 to 8, not ", a->s.ranks);
  a->s.seed = (uint64_t)a->seed;
  a->s.cases = (int)a->cases;
  a->s.limit = (int)a->limit;
  a->s.path = words->values[0];
  if (strcmp(a->s.path, "reference") == 0) return 0;
  if (!realpath(a->s.path, path))
    return wrong("wants a plugin's file, which ds backends shows; there is no file ", a->s.path);
  a->s.path = path;
  return 0;
}

int cmd_conform(int argc, char **argv) {
  arguments a = {.s = {.ranks = "1,2,4"}, .seed = 1, .cases = 24, .limit = 120};
  option_list words;
  char details[2048] = "sections:\n";
  suite_sections(details + strlen(details), sizeof details - strlen(details));
  size_t used = strlen(details);
  snprintf(
      details + used, sizeof details - used,
      "\nEach check is PASS, FAIL, UNSUPPORTED (the plugin declares that it doesn't do this), or\n"
      "XFAIL (fails as --expect says; one that then passes is XPASS, and counts as failed).\n"
      "--expect FILE has lines \"section/name  why\" or \"section/name/dtype  why\"; a * may end a "
      "name.\n"
      "The exit code is 0 when nothing failed, 1 when something did, 2 when nothing could be "
      "run.\n\n"
      "examples:\n"
      "  ds conform ./dscore_mine.so\n"
      "  ds conform ./dscore_mine.so --section ops --op attention --cases 200\n");
  const command c = {
      "conform",
      "Checks a backend plugin against all that ds_abi.h promises: arithmetic by float64 "
      "references,\n"
      "and manners. Each check runs in a process of its own, so that a crash is one line of the "
      "report.",
      "(PLUGIN.so | reference) [OPTION]...",
      details,
      {{"--section", OPTION_STRING, &a.s.section, "NAME", "only this section (see below)"},
       {"--op", OPTION_STRING, &a.s.op, "NAME", "only this check, as the report names it"},
       {"--seed", OPTION_INT, &a.seed, "S", "of the fuzzed shapes and values (1)"},
       {"--cases", OPTION_INT, &a.cases, "N", "cases for each op and dtype (24)"},
       {"--options", OPTION_STRING, &a.s.options, "JSON", "passed to the device's open"},
       {"--ranks", OPTION_STRING, &a.s.ranks, "N,N...", "worlds for section comm (1,2,4)"},
       {"--expect", OPTION_STRING, &a.s.expect, "FILE", "known gaps"},
       {"--json", OPTION_FLAG, &a.s.json, NULL, "one JSON document instead of the table"},
       {"--time", OPTION_FLAG, &a.time, NULL, "measure a few large shapes instead"},
       {"--limit", OPTION_INT, &a.limit, "SECONDS",
        "for each process: what takes longer hangs (120)"},
       {"--rank-folder", OPTION_STRING, &a.rank_folder, "FOLDER",
        "for the ranks that section comm starts"}}};
  parsed p = options_parse(&c, argc, argv, &words);
  if (p != PARSED_RUN) return p == PARSED_HELP ? 0 : 2;
  int bad = check(&a, &words);
  if (bad) return bad;
  if (a.rank_folder) return suite_rank(&a.s, a.rank_folder);
  return a.time ? suite_time(&a.s) : suite_run(&a.s);
}
