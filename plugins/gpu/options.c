/* options.c - the plugin's options, from JSON text: an object with
 *   "tf32"   true or false (default): f32 products may round their operands to TF32's 10 bits. */
#include "gpu.h"

#include <cjson/cJSON.h>
#include <string.h>

static ds_status parse_tf32(const cJSON *item, ds_device *dev, ds_error *err) {
  if (!cJSON_IsBool(item))
    return gpu_fail(err, DS_ERR_INVALID, "options: \"tf32\" must be true or false");
  dev->tf32 = cJSON_IsTrue(item);
  return DS_OK;
}

static const struct {
  const char *name;
  ds_status (*parse)(const cJSON *item, ds_device *dev, ds_error *err);
} known[] = {{"tf32", parse_tf32}};

static ds_status parse_member(const cJSON *item, const cJSON *root, ds_device *dev, ds_error *err) {
  for (const cJSON *before = root->child; before != item; before = before->next)
    if (strcmp(before->string, item->string) == 0)
      return gpu_fail(err, DS_ERR_INVALID, "options: \"%.100s\" stands there twice", item->string);
  for (size_t i = 0; i < sizeof known / sizeof *known; i++)
    if (strcmp(item->string, known[i].name) == 0) return known[i].parse(item, dev, err);
  return gpu_fail(err, DS_ERR_INVALID, "options: there is no \"%.100s\"; known is \"tf32\"",
                  item->string);
}

ds_status gpu_options_parse(const char *text, ds_device *dev, ds_error *err) {
  if (text == NULL || *text == '\0') return DS_OK;
  const char *end = text;
  cJSON *root = cJSON_ParseWithOpts(text, &end, 1);
  ds_status st = DS_OK;
  if (root == NULL)
    st = gpu_fail(err, DS_ERR_INVALID, "options: not JSON from \"%.20s\" on", end);
  else if (!cJSON_IsObject(root))
    st = gpu_fail(err, DS_ERR_INVALID, "options: must be a JSON object, such as {\"tf32\": true}");
  for (const cJSON *item = root == NULL ? NULL : root->child; item != NULL && st == DS_OK;
       item = item->next)
    st = parse_member(item, root, dev, err);
  cJSON_Delete(root);
  return st;
}
