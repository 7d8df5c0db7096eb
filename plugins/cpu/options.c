/* options.c - the plugin's options, from JSON text. */
#include "options.h"
#include "isa.h"

#include <cjson/cJSON.h>
#include <sched.h>
#include <stdlib.h>
#include <string.h>

enum { THREADS_MAX = 4096 };

static int default_threads(void) {
  const char *text = getenv("OMP_NUM_THREADS");
  if (text != NULL) {
    char *end;
    long n = strtol(text, &end, 10); /* "4,2" sets nested levels: the first is ours */
    if (end != text && n >= 1 && n <= THREADS_MAX) return (int)n;
  }
  cpu_set_t set;
  if (sched_getaffinity(0, sizeof set, &set) == 0 && CPU_COUNT(&set) > 0) return CPU_COUNT(&set);
  return 1;
}

static ds_status parse_threads(const cJSON *item, ds_cpu_options *o, ds_error *err) {
  double n = item->valuedouble;
  if (!cJSON_IsNumber(item) || !(n >= 1 && n <= THREADS_MAX) || n != (double)(int)n)
    return ds_cpu_fail(err, DS_ERR_INVALID,
                       "cpu options: \"threads\" must be a whole number from 1 to %d", THREADS_MAX);
  o->threads = (int)n;
  return DS_OK;
}

static ds_status parse_isa(const cJSON *item, ds_cpu_options *o, ds_error *err) {
  const char *name = cJSON_GetStringValue(item);
  int best = ds_cpu_isa_detect();
  if (name != NULL && strcmp(name, "auto") == 0) {
    o->isa = best;
    return DS_OK;
  }
  for (int isa = 0; name != NULL && ds_cpu_isa_name(isa) != NULL; isa++) {
    if (strcmp(name, ds_cpu_isa_name(isa)) != 0) continue;
    if (isa > best)
      return ds_cpu_fail(err, DS_ERR_INVALID,
                         "cpu options: \"isa\" is \"%s\", but this machine and build have at most "
                         "\"%s\"",
                         name, ds_cpu_isa_name(best));
    o->isa = isa;
    return DS_OK;
  }
  return ds_cpu_fail(err, DS_ERR_INVALID,
                     "cpu options: \"isa\" must be \"auto\" or the name of an instruction set up "
                     "to this machine's \"%s\"; \"%s\" always works",
                     ds_cpu_isa_name(best), ds_cpu_isa_name(0));
}

static ds_status parse_huge_pages(const cJSON *item, ds_cpu_options *o, ds_error *err) {
  if (!cJSON_IsBool(item))
    return ds_cpu_fail(err, DS_ERR_INVALID, "cpu options: \"huge_pages\" must be true or false");
  o->huge_pages = cJSON_IsTrue(item);
  return DS_OK;
}

static ds_status parse_shared_memory(const cJSON *item, ds_cpu_options *o, ds_error *err) {
  if (!cJSON_IsBool(item))
    return ds_cpu_fail(err, DS_ERR_INVALID, "cpu options: \"shared_memory\" must be true or false");
  o->shared_memory = cJSON_IsTrue(item);
  return DS_OK;
}

static const struct {
  const char *name;
  ds_status (*parse)(const cJSON *item, ds_cpu_options *o, ds_error *err);
} known[] = {{"threads", parse_threads},
             {"isa", parse_isa},
             {"huge_pages", parse_huge_pages},
             {"shared_memory", parse_shared_memory}};

static ds_status parse_member(const cJSON *item, ds_cpu_options *o, ds_error *err) {
  for (const cJSON *before = item->prev; before != NULL && before->next != NULL;
       before = before->prev)
    if (strcmp(before->string, item->string) == 0)
      return ds_cpu_fail(err, DS_ERR_INVALID, "cpu options: \"%s\" stands there twice",
                         item->string);
  for (size_t i = 0; i < sizeof known / sizeof *known; i++)
    if (strcmp(item->string, known[i].name) == 0) return known[i].parse(item, o, err);
  return ds_cpu_fail(err, DS_ERR_INVALID,
                     "cpu options: there is no \"%.100s\"; known are \"threads\", \"isa\", "
                     "\"huge_pages\" and \"shared_memory\"",
                     item->string);
}

ds_status ds_cpu_options_parse(const char *text, ds_cpu_options *out, ds_error *err) {
  *out = (ds_cpu_options){default_threads(), ds_cpu_isa_detect(), true, true};
  if (text == NULL || *text == '\0') return DS_OK;
  const char *end = text;
  cJSON *root = cJSON_ParseWithOpts(text, &end, 1);
  ds_status st = DS_OK;
  if (root == NULL)
    st = ds_cpu_fail(err, DS_ERR_INVALID, "cpu options: not JSON from \"%.20s\" on", end);
  else if (!cJSON_IsObject(root))
    st = ds_cpu_fail(err, DS_ERR_INVALID,
                     "cpu options: must be a JSON object, such as {\"threads\": 4}");
  for (const cJSON *item = root == NULL ? NULL : root->child; item != NULL && st == DS_OK;
       item = item->next)
    st = parse_member(item, out, err);
  cJSON_Delete(root);
  return st;
}
