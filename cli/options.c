#include "options.h"

#include "base/str.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static void print_help(const command *c) {
  printf("usage: ds %s %s\n\n%s\n\noptions:\n", c->name, c->usage, c->summary);
  for (const option *o = c->options; o->name; o++) {
    int used = printf("  %s%s%s", o->name, o->type == OPTION_FLAG ? "" : " ",
                      o->type == OPTION_FLAG ? "" : o->value);
    const char *line = o->help;
    if (used < 26)
      printf("%*s", 26 - used, "");
    else
      printf("\n%26s", "");
    for (const char *end; (end = strchr(line, '\n')); line = end + 1)
      printf("%.*s\n%26s", (int)(end - line), line, "");
    printf("%s\n", line);
  }
  printf("  --help                  this text\n");
  if (c->details) printf("\n%s\n", c->details);
}

static const option *find(const command *c, const char *name, size_t length) {
  for (const option *o = c->options; o->name; o++)
    if (strlen(o->name) == length && memcmp(o->name, name, length) == 0) return o;
  return NULL;
}

/* "-" alone is a word, as everywhere. */
static bool looks_like_option(const char *arg) {
  return arg[0] == '-' && arg[1] != '\0';
}

/* Whether an argument is certainly not meant as the value of the option before it. A prompt may
 * begin with a dash. */
static bool is_option(const command *c, const char *arg) {
  return strcmp(arg, "--help") == 0 || find(c, arg, strcspn(arg, "=")) != NULL;
}

static parsed unknown(const command *c, const char *name) {
  const char *names[32];
  size_t n = 0;
  for (const option *o = c->options; o->name; o++) names[n++] = o->name;
  const char *near = ds_nearest(name, names, n);
  fprintf(stderr, "ds %s: unknown option %s%s%s%s (ds %s --help lists them)\n", c->name, name,
          near ? "; did you mean " : "", near ? near : "", near ? "?" : "", c->name);
  return PARSED_WRONG;
}

static bool set_value(const command *c, const option *o, const char *text) {
  char *end;
  errno = 0;
  if (o->type == OPTION_STRING) {
    *(const char **)o->target = text;
    return true;
  }
  if (o->type == OPTION_INT) {
    long long v = strtoll(text, &end, 10);
    if (end != text && *end == '\0' && errno == 0) {
      *(int64_t *)o->target = v;
      return true;
    }
    fprintf(stderr, "ds %s: %s wants a whole number, not \"%s\"\n", c->name, o->name, text);
    return false;
  }
  double v = strtod(text, &end);
  if (end != text && *end == '\0' && errno == 0) {
    *(double *)o->target = v;
    return true;
  }
  fprintf(stderr, "ds %s: %s wants a number, not \"%s\"\n", c->name, o->name, text);
  return false;
}

static bool push(const command *c, const char *what, option_list *list, const char *value) {
  if (list->count == (int)(sizeof list->values / sizeof *list->values)) {
    fprintf(stderr, "ds %s: more than %d values for %s\n", c->name, list->count, what);
    return false;
  }
  list->values[list->count++] = value;
  return true;
}

/* Handles the option at argv[i]; returns how many arguments it took, 0 after a mistake. */
static int take(const command *c, const option *o, int argc, char **argv, int i) {
  const char *equals = strchr(argv[i], '=');
  if (o->type == OPTION_FLAG) {
    if (equals) {
      fprintf(stderr, "ds %s: %s takes no value\n", c->name, o->name);
      return 0;
    }
    *(bool *)o->target = true;
    return 1;
  }
  const char *next = i + 1 < argc && !is_option(c, argv[i + 1]) ? argv[i + 1] : NULL;
  const char *value = equals ? equals + 1 : next;
  if (!value) {
    fprintf(stderr, "ds %s: %s wants a value: %s\n", c->name, o->name, o->value);
    return 0;
  }
  int taken = equals ? 1 : 2;
  if (o->type != OPTION_LIST) return set_value(c, o, value) ? taken : 0;
  if (!push(c, o->name, o->target, value)) return 0;
  if (!equals)
    for (; i + taken < argc && !looks_like_option(argv[i + taken]); taken++)
      if (!push(c, o->name, o->target, argv[i + taken])) return 0;
  return taken;
}

parsed options_parse(const command *c, int argc, char **argv, option_list *words) {
  words->count = 0;
  for (int i = 0; i < argc;) {
    if (strcmp(argv[i], "--help") == 0 || strcmp(argv[i], "-h") == 0) {
      print_help(c);
      return PARSED_HELP;
    }
    if (!looks_like_option(argv[i])) {
      if (!push(c, "arguments", words, argv[i++])) return PARSED_WRONG;
      continue;
    }
    const option *o = find(c, argv[i], strcspn(argv[i], "="));
    if (!o) return unknown(c, argv[i]);
    int taken = take(c, o, argc, argv, i);
    if (taken == 0) return PARSED_WRONG;
    i += taken;
  }
  return PARSED_RUN;
}

int options_end(const command *c, int argc, char **argv) {
  int i = 0;
  while (i < argc && looks_like_option(argv[i]) && strcmp(argv[i], "--") != 0) {
    const size_t name = strcspn(argv[i], "=");
    const option *o = find(c, argv[i], name);
    const bool valued = o && o->type != OPTION_FLAG && !argv[i][name];
    i += valued && i + 1 < argc ? 2 : 1;
  }
  return i;
}
