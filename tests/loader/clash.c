/* clash.c - a host with core linked in, all of whose symbols are exported, core's and its own, some
 * with a plugin's names. What a plugin built as CONTRIBUTING.md says calls is its own. */
#include <stdlib.h>

#include "backend/plugin_folder.h"
#include "ds.h"

int ds_test_helper(void);

static int called;

/* The names of plugins' functions. */
DS_EXPORT const ds_plugin *ds_plugin_query(const ds_host *host, ds_version_range host_abi,
                                           ds_error *err) {
  (void)host;
  (void)host_abi;
  (void)err;
  called++;
  return NULL;
}

DS_EXPORT int ds_test_helper(void) {
  called++;
  return 99;
}

static void check_device(const char *name, const char *device, int calls) {
  plugin_folder f;
  ds_backend *b;
  ds_error err;
  char json[64];
  called = 0;
  plugin_folder_make(&f);
  plugin_folder_link(&f, name);
  snprintf(json, sizeof json, "\"%s\"", name);
  CHECK_OK(open_backend(json, &f, NULL, &b, &err), err);
  CHECK(b && strcmp(ds_backend_device(b), device) == 0);
  if (b && strcmp(ds_backend_device(b), device) != 0) fprintf(stderr, "%s\n", ds_backend_device(b));
  CHECK(called == calls);
  ds_backend_close(b);
  plugin_folder_remove(&f);
}

/* A plugin with an engine's worth of functions: it opens and computes. */
static void test_built_in_folders(void) {
  ds_backend_candidate *list;
  size_t n;
  ds_error err;
  called = 0;
  unsetenv("DS_PLUGIN_PATH");
  CHECK_OK(ds_backend_list(NULL, &list, &n, &err), err);
  for (size_t i = 0; i < n; i++) {
    ds_backend *b;
    void *p;
    char json[64], bytes[4] = "abc", back[4] = "";
    if (strcmp(list[i].state, "rejected") == 0) continue;
    snprintf(json, sizeof json, "\"%s\"", list[i].name);
    CHECK_OK(open_backend(json, NULL, NULL, &b, &err), err);
    if (!b) continue;
    CHECK_OK(ds_backend_alloc(b, 4, &p, &err), err);
    CHECK_OK(ds_backend_upload(b, p, bytes, 4, &err), err);
    CHECK_OK(ds_backend_download(b, back, p, 4, &err), err);
    CHECK(strcmp(back, bytes) == 0);
    ds_backend_free(b, p, 4);
    ds_backend_close(b);
  }
  ds_backend_list_destroy(list, n);
  CHECK(called == 0);
}

int main(void) {
  unsetenv("DS_BACKEND");
  check_device("floor", "far memory 0", 0);
  check_device("clash", "helper 1, version plugin", 0);
  /* The control: without a version script it is the host's that is called, so the test can fail. */
  char hosts[64];
  snprintf(hosts, sizeof hosts, "helper 99, version %s", ds_version());
  check_device("clash_open", hosts, 1);
  test_built_in_folders();
  return TEST_RESULT();
}
