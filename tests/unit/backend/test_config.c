/* test_config.c - the "backend" section in all its forms, its mistakes, and the environment. */
#include <stdlib.h>

#include "backend/backend.h"
#include "test.h"

static ds_status parse(const char *json, ds_backend_config *out, ds_error *err) {
  cJSON *section = NULL;
  if (json) DS_TRY(ds_json_parse(json, strlen(json), 0, "test", &section, err));
  ds_status status = ds_backend_config_parse(section, out, err);
  cJSON_Delete(section);
  return status;
}

static void test_defaults(void) {
  static const char *const forms[] = {NULL, "null", "\"auto\"", "{}", "{\"name\": null}"};
  for (size_t i = 0; i < sizeof forms / sizeof *forms; i++) {
    ds_backend_config c;
    ds_error err;
    CHECK_OK(parse(forms[i], &c, &err), err);
    CHECK(c.n_names == 1 && strcmp(c.names[0], "auto") == 0);
    CHECK(c.device == -1 && c.n_plugin_path == 0 && !c.options);
    CHECK(c.fallback == DS_FALLBACK_WARN);
    CHECK(c.graph == DS_GRAPH_AUTO && c.comm_timeout == 0);
    ds_backend_config_finish(&c);
    ds_backend_config_finish(&c); /* harmless twice */
  }
}

static void test_names(void) {
  ds_backend_config c;
  ds_error err;
  CHECK_OK(parse("[\"one\", \"two\"]", &c, &err), err);
  CHECK(c.n_names == 2 && strcmp(c.names[0], "one") == 0 && strcmp(c.names[1], "two") == 0);
  ds_backend_config_finish(&c);
  CHECK_OK(
      parse("{\"name\": [\"x\"], \"device\": 3, \"plugin_path\": \"/a:/b:\", \"options\": "
            "{\"threads\": 2}, \"fallback\": \"error\", \"graph\": true, \"comm_timeout\": 2.5}",
            &c, &err),
      err);
  CHECK(c.n_names == 1 && strcmp(c.names[0], "x") == 0);
  CHECK(c.device == 3);
  CHECK(c.n_plugin_path == 2 && strcmp(c.plugin_path[1], "/b") == 0);
  CHECK(c.options && strcmp(c.options, "{\"threads\":2}") == 0);
  CHECK(c.fallback == DS_FALLBACK_ERROR);
  CHECK(c.graph == DS_GRAPH_ON);
  CHECK(c.comm_timeout == 2.5);
  ds_backend_config_finish(&c);
  CHECK_OK(parse("{\"plugin_path\": [\"/with:colon\"], \"fallback\": \"allow\", \"graph\": false}",
                 &c, &err),
           err);
  CHECK(c.n_plugin_path == 1 && strcmp(c.plugin_path[0], "/with:colon") == 0);
  CHECK(c.fallback == DS_FALLBACK_ALLOW);
  CHECK(c.graph == DS_GRAPH_OFF);
  CHECK(c.trace == NULL);
  ds_backend_config_finish(&c);
  CHECK_OK(parse("{\"trace\": \"a/trace.json\"}", &c, &err), err);
  CHECK(c.trace && strcmp(c.trace, "a/trace.json") == 0);
  ds_backend_config_finish(&c);
  CHECK(c.trace == NULL);
}

static void test_mistakes(void) {
  ds_backend_config c;
  ds_error err;
  static const struct {
    const char *json, *text;
  } cases[] = {
      {"7", "must be a string or an array of strings, not a number"},
      {"[1]", "only strings"},
      {"\"\"", "a name is empty"},
      {"{\"divice\": 1}", "did you mean \"device\"?"},
      {"{\"device\": -1}", "device"},
      {"{\"device\": 1.5}", "device"},
      {"{\"device\": \"0\"}", "device: must be a whole number, not a string"},
      {"{\"name\": {}}", "name: must be a string"},
      {"{\"plugin_path\": [true]}", "plugin_path: must have only strings, not a boolean"},
      {"{\"options\": [1]}", "options: must be an object, not an array"},
      {"{\"fallback\": \"eror\"}", "allow|warn|error"},
      {"{\"comm_timeout\": 0}", "comm_timeout"},
      {"{\"comm_timeout\": -1}", "comm_timeout"},
      {"{\"comm_timeout\": \"2\"}", "comm_timeout: must be a number, not a string"},
      {"{\"graph\": \"on\"}", "\"auto\", true or false"},
      {"{\"trace\": \"\"}", "trace: must name a file"},
      {"{\"trace\": true}", "trace: must be a string, not a boolean"},
  };
  for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
    CHECK_FAILS(parse(cases[i].json, &c, &err), DS_ERR_INVALID, err, cases[i].text);
    CHECK(strstr(err.message, "backend") != NULL);
    CHECK(!c.names && !c.plugin_path && !c.options);
  }
  /* All at once, a line each. */
  CHECK_FAILS(parse("{\"nane\": 1, \"device\": -1, \"options\": 2, \"fallback\": 3}", &c, &err),
              DS_ERR_INVALID, err, "did you mean \"name\"?");
  CHECK(strstr(err.message, "device") && strstr(err.message, "options") &&
        strstr(err.message, "fallback") && strstr(err.message, "4 errors"));
}

static void test_environment(void) {
  ds_backend_config c;
  ds_error err;
  setenv("DS_BACKEND", " one, two ,", 1);
  setenv("DS_PLUGIN_PATH", "/x::/y", 1);
  CHECK_OK(parse("{\"name\": \"three\", \"plugin_path\": \"/z\", \"device\": 2}", &c, &err), err);
  CHECK(c.n_names == 2 && strcmp(c.names[0], "one") == 0 && strcmp(c.names[1], "two") == 0);
  CHECK(c.n_plugin_path == 2 && strcmp(c.plugin_path[0], "/x") == 0 &&
        strcmp(c.plugin_path[1], "/y") == 0);
  CHECK(c.device == 2);
  ds_backend_config_finish(&c);
  setenv("DS_BACKEND", "", 1);
  setenv("DS_PLUGIN_PATH", "", 1);
  CHECK_OK(parse("{\"name\": \"three\", \"plugin_path\": \"/z\"}", &c, &err), err);
  CHECK(c.n_names == 1 && strcmp(c.names[0], "three") == 0 && c.n_plugin_path == 1);
  ds_backend_config_finish(&c);
}

int main(void) {
  unsetenv("DS_BACKEND");
  unsetenv("DS_PLUGIN_PATH");
  test_defaults();
  test_names();
  test_mistakes();
  test_environment();
  return TEST_RESULT();
}
