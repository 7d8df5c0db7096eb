#include "cli.h"

#include <string.h>

static void print_text(FILE *f, const char *key, const char *value, bool last) {
  fprintf(f, "\"%s\":", key);
  if (value)
    cli_print_json_string(f, value, strlen(value));
  else
    fputs("null", f);
  fputs(last ? "" : ",", f);
}

static void print_json(const ds_backend_candidate *list, size_t n) {
  printf("[");
  for (size_t i = 0; i < n; i++) {
    const ds_backend_candidate *b = &list[i];
    printf("%s{", i ? ",\n " : "");
    print_text(stdout, "name", b->name, false);
    print_text(stdout, "state", b->state, false);
    print_text(stdout, "version", b->version, false);
    printf("\"priority\":%d,", b->priority);
    print_text(stdout, "device", b->device, false);
    print_text(stdout, "path", b->path, false);
    print_text(stdout, "reason", b->reason, true);
    printf("}");
  }
  printf("]\n");
}

int cmd_backends(int argc, char **argv) {
  const char *config = NULL;
  bool json = false;
  option_list words;
  const command c = {
      "backends",
      "Lists every backend plugin that was found, in the order of the search: the one that would "
      "be\n"
      "chosen, those available, and those rejected with the reason and the cure.",
      "[--config FILE] [--json]",
      "DS_BACKEND and DS_PLUGIN_PATH are honoured.",
      {{"--config", OPTION_STRING, &config, "FILE", "a config whose \"backend\" section to follow"},
       {"--json", OPTION_FLAG, &json, NULL, "an array of objects"}}};
  parsed p = options_parse(&c, argc, argv, &words);
  if (p != PARSED_RUN) return p == PARSED_HELP ? 0 : 2;
  if (words.count > 0) {
    fprintf(stderr, "ds backends: unexpected \"%s\"\n", words.values[0]);
    return 2;
  }
  ds_error err;
  ds_backend_candidate *list;
  size_t n;
  if (ds_backend_list(config, &list, &n, &err) != DS_OK) return cli_fail("backends", &err);
  if (json) {
    print_json(list, n);
  } else {
    for (size_t i = 0; i < n; i++) {
      const ds_backend_candidate *b = &list[i];
      printf("%-12s %-10s %-9s %s\n", b->name ? b->name : "?", b->state,
             b->version ? b->version : "", b->device ? b->device : "");
      printf("%-12s %s\n", "", b->path ? b->path : "(built in)");
      if (b->reason) printf("%-12s %s\n", "", b->reason);
    }
  }
  ds_backend_list_destroy(list, n);
  return 0;
}
