/* Any bytes as JSON, strict and relaxed. What is accepted can be printed and is accepted again; the
 * readers of members say yes or no about each. */
#include "base/json.h"

#include <stdint.h>
#include <stdlib.h>
#include <string.h>

static void read_members(const cJSON *object) {
  const cJSON *item;
  cJSON_ArrayForEach(item, object) {
    int64_t whole;
    double number;
    bool flag;
    const char *text;
    ds_error err;
    if (!item->string) continue;
    int yes = ds_json_int(object, item->string, 0, -100, 100, &whole, "fuzz", &err) == DS_OK;
    if (yes && (whole < -100 || whole > 100)) abort();
    yes = ds_json_number(object, item->string, 0, &number, "fuzz", &err) == DS_OK;
    yes += ds_json_bool(object, item->string, false, &flag, "fuzz", &err) == DS_OK;
    yes += ds_json_string(object, item->string, "", &text, "fuzz", &err) == DS_OK;
    if (yes > 1 && !cJSON_IsNull(item)) abort(); /* one type, or absent */
  }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
  for (int flags = 0; flags <= DS_JSON_RELAXED; flags++) {
    ds_error err;
    cJSON *root, *again;
    if (ds_json_parse((const char *)data, size, flags, "fuzz", &root, &err) != DS_OK) {
      if (root || !memchr(err.message, '\0', sizeof err.message)) abort();
      continue;
    }
    if (cJSON_IsObject(root)) read_members(root);
    char *text = cJSON_PrintUnformatted(root);
    if (!text || ds_json_parse(text, strlen(text), 0, "again", &again, &err) != DS_OK) abort();
    cJSON_Delete(again);
    cJSON_Delete(root);
    free(text);
  }
  return 0;
}
