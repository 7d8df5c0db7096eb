/* unload.c - a host that loads the library by hand, privately, and drops it again while a plugin's
 * thread still calls host services. Usage: unload LIBDSCORE.SO */
#include <dlfcn.h>
#include <stdlib.h>
#include <time.h>

#include "ds.h"
#include "test.h"

typedef ds_status list_fn(const char *, ds_backend_candidate **, size_t *, ds_error *);
typedef void destroy_fn(ds_backend_candidate *, size_t);

static void *function(void *handle, const char *name) {
  void *symbol = dlsym(handle, name);
  if (!symbol) fprintf(stderr, "%s\n", dlerror());
  CHECK(symbol != NULL);
  return symbol;
}

int main(int argc, char **argv) {
  const struct timespec a_while = {0, 20000000};
  list_fn *list;
  destroy_fn *destroy;
  ds_backend_candidate *found;
  size_t n = 0;
  ds_error err;
  unsetenv("DS_BACKEND");
  setenv("DS_PLUGIN_PATH", TEST_PLUGIN_DIR "/chatty.so", 1);
  for (int round = 0; round < 3; round++) {
    void *handle = argc == 2 ? dlopen(argv[1], RTLD_NOW | RTLD_LOCAL) : NULL;
    CHECK(handle != NULL);
    if (!handle) return fprintf(stderr, "%s\n", dlerror()), 1;
    *(void **)&list = function(handle, "ds_backend_list");
    *(void **)&destroy = function(handle, "ds_backend_list_destroy");
    if (!list || !destroy) return 1;
    CHECK_OK(list("{\"backend\": \"chatty\"}", &found, &n, &err), err);
    CHECK(n > 0 && strcmp(found[0].state, "chosen") == 0 && strcmp(found[0].name, "chatty") == 0);
    destroy(found, n);
    CHECK(dlclose(handle) == 0);
    nanosleep(&a_while, NULL); /* the plugin's thread logs meanwhile */
    void *still = dlopen(argv[1], RTLD_NOW | RTLD_NOLOAD);
    CHECK(still != NULL); /* it has pinned itself */
    if (still) dlclose(still);
  }
  return TEST_RESULT();
}
