#include "cli.h"
#include "config_list.h"

#include <cjson/cJSON.h>
#include <stdlib.h>

/* "section.key  value", a line each. */
static void print_flat(const cJSON *item, const char *path) {
  const cJSON *child;
  cJSON_ArrayForEach(child, item) {
    char name[256];
    snprintf(name, sizeof name, "%s%s%s", path, *path ? "." : "", child->string);
    if (cJSON_IsObject(child) && child->child) {
      print_flat(child, name);
      continue;
    }
    char *value = cJSON_PrintUnformatted(child);
    printf("%-48s %s\n", name, value ? value : "?");
    cJSON_free(value);
  }
}

int cmd_config(int argc, char **argv) {
  int64_t world = 1;
  bool json = false, keys = false;
  option_list words;
  const command c = {
      "config",
      "Checks a ds_config.json and prints it resolved: every default filled in, batch sizes "
      "derived. "
      "Or every\nerror in it, all in one go.",
      "FILE [--world-size N] [--json]",
      "\"auto\" and null stand for a key's default; a batch size that is \"auto\" is derived from "
      "the\n"
      "others. Keys that would change the result and aren't there yet are errors; --keys tells "
      "which\n"
      "are accepted without effect, and why.\n\n"
      "examples:\n  ds config ds_config.json --world-size 8\n  ds config --keys | grep zero",
      {{"--world-size", OPTION_INT, &world, "N", "ranks in all to resolve for (1)"},
       {"--json", OPTION_FLAG, &json, NULL, "the resolved config as JSON"},
       {"--keys", OPTION_FLAG, &keys, NULL,
        "list every key: default, what it may be, what it does"}}};
  parsed p = options_parse(&c, argc, argv, &words);
  if (p != PARSED_RUN) return p == PARSED_HELP ? 0 : 2;
  if (keys && words.count == 0) {
    config_list_keys();
    return 0;
  }
  if (words.count != 1) {
    fprintf(stderr, "ds config: wanted one FILE, got %d (ds config --help)\n", words.count);
    return 2;
  }
  if (world < 1 || world > 1 << 20) {
    fprintf(stderr, "ds config: --world-size must be from 1 to %d\n", 1 << 20);
    return 2;
  }
  ds_error err;
  char *text;
  if (ds_config_resolve(words.values[0], (int)world, &text, &err) != DS_OK)
    return cli_fail("config", &err);
  if (json) {
    printf("%s\n", text);
  } else {
    cJSON *root = cJSON_Parse(text);
    print_flat(root, "");
    cJSON_Delete(root);
  }
  free(text);
  return 0;
}
