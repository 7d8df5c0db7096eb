#include "bench_peer.h"

#include "base/str.h"
#include "bench_samples.h"

#include <errno.h>
#include <regex.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>

/* The command with its placeholders filled in; NULL when out of memory. */
static char *fill_in(const char *text, long long batch, long long seq_len, int threads) {
  const struct {
    const char *name;
    long long value;
  } places[] = {{"{B}", batch}, {"{T}", seq_len}, {"{threads}", threads}};
  ds_str s = {0};
  while (*text) {
    size_t i = 0;
    while (i < 3 && strncmp(text, places[i].name, strlen(places[i].name)) != 0) i++;
    if (i < 3) {
      ds_str_printf(&s, "%lld", places[i].value);
      text += strlen(places[i].name);
    } else {
      ds_str_append(&s, text++, 1);
    }
  }
  return ds_str_take(&s);
}

static void read_figures(FILE *f, const regex_t *pattern, bench_samples *out) {
  char *line = NULL;
  size_t room = 0;
  while (getline(&line, &room, f) >= 0) {
    regmatch_t m[2];
    if (regexec(pattern, line, 2, m, 0) != 0 || m[1].rm_so < 0) continue;
    double v = strtod(line + m[1].rm_so, NULL);
    if (v > 0) bench_samples_add(out, v);
  }
  free(line);
}

static ds_status run(const char *shell_command, const regex_t *pattern, bench_samples *out,
                     ds_error *err) {
  fflush(NULL);
  FILE *f = popen(shell_command, "r");
  if (!f) return ds_fail(err, DS_ERR_IO, "--peer: can't run it: %s", strerror(errno));
  read_figures(f, pattern, out);
  int code = pclose(f);
  if (code == -1 || !WIFEXITED(code) || WEXITSTATUS(code) != 0)
    return ds_fail(err, DS_ERR_IO, "--peer: \"%s\" failed (%s %d)", shell_command,
                   WIFEXITED(code) ? "exit code" : "signal",
                   WIFEXITED(code) ? WEXITSTATUS(code) : WTERMSIG(code));
  return DS_OK;
}

ds_status bench_peer_run(const bench_peer *p, long long batch, long long seq_len, int threads,
                         double *tokens_per_s, ds_error *err) {
  regex_t pattern;
  bench_samples figures = {0}, warm = {0};
  int code = regcomp(&pattern, p->pattern, REG_EXTENDED);
  if (code != 0) {
    char why[128];
    regerror(code, &pattern, why, sizeof why);
    return ds_fail(err, DS_ERR_INVALID, "--peer-pattern \"%s\": %s", p->pattern, why);
  }
  if (pattern.re_nsub < 1) {
    regfree(&pattern);
    return ds_fail(err, DS_ERR_INVALID,
                   "--peer-pattern \"%s\" has no group; put parentheses around the number",
                   p->pattern);
  }
  char *text = fill_in(p->command, batch, seq_len, threads);
  ds_status status = text ? run(text, &pattern, &figures, err) : ds_fail_memory(err, "--peer");
  free(text);
  regfree(&pattern);
  if (status != DS_OK) return status;
  if (figures.count == 0)
    return ds_fail(err, DS_ERR_NOT_FOUND, "--peer: no line of its output matches \"%s\"",
                   p->pattern);
  for (int i = figures.count > 1; i < figures.count; i++)
    bench_samples_add(&warm, figures.values[i]);
  double v = bench_samples_median(&warm);
  *tokens_per_s = p->milliseconds ? 1e3 * (double)(batch * seq_len) / v : v;
  return DS_OK;
}
