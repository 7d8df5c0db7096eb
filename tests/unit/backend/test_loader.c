/* test_loader.c - finding, refusing, loading and choosing plugins, with plugins made for it. */
#include <pthread.h>

#include "backend/plugin_folder.h"
#include "ds.h"

static const ds_backend_candidate *find(const ds_backend_candidate *list, size_t n,
                                        const char *path_part) {
  for (size_t i = 0; i < n; i++) {
    if (list[i].path && strstr(list[i].path, path_part)) return &list[i];
  }
  return NULL;
}

#define TEXT_(x) #x
#define TEXT(x)  TEXT_(x)

/* Each wrong plugin alone, asked for by its name: the reason must be in the failure. */
static void test_refusals(void) {
  static const struct {
    const char *file, *name, *text;
  } cases[] = {
      {"abi_major", "future",
       "speaks ABI 99.1 to 99.7, this dscore speaks 0.9 to 0." TEXT(
           DS_ABI_MINOR) ": upgrade dscore"},
      {"no_note", "no_note", "without a dscore note"},
      {"no_symbol", "no_symbol", "does not export ds_plugin_query"},
      {"unavailable", "unavailable",
       "is unavailable: no driver: libvendor.so.1 not found; install"},
      {"no_device", "no_device", "no device: no card in any slot: plug one in"},
      {"other_name", "other_name", "\"other_name\", its table \"impostor\""},
      {"incomplete", "incomplete", "lacks the required function \"download\""},
      {"dependency", "dependency", "needs the library libds_test_gone.so.7"},
      {"undefined", "undefined", "undefined symbol: ds_test_nowhere"},
      {"silent", "silent", "gives no reason"},
      {"nested", "versions", "needs the library libds_test_gone.so.7"},
      {"old_symbol", "versions", "libds_test_symbol.so.1: version `DS_TEST_2' not found"},
      {"borrowed", "versions", "does not export ds_plugin_query"},
  };
  for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
    plugin_folder f;
    ds_backend *b;
    ds_error err;
    char json[64];
    plugin_folder_make(&f);
    plugin_folder_link(&f, cases[i].file);
    snprintf(json, sizeof json, "\"%s\"", cases[i].name);
    CHECK_FAILS(open_backend(json, &f, NULL, &b, &err), DS_ERR_NOT_FOUND, err, cases[i].text);
    CHECK(!b);
    /* Again: what was said once is said twice, from memory where the query ran. */
    CHECK_FAILS(open_backend(json, &f, NULL, &b, &err), DS_ERR_NOT_FOUND, err, cases[i].text);
    plugin_folder_remove(&f);
  }
}

static void test_missing_library_names_places(void) {
  plugin_folder f;
  ds_backend *b;
  ds_error err;
  plugin_folder_make(&f);
  plugin_folder_link(&f, "dependency");
  CHECK_FAILS(open_backend("\"dependency\"", &f, NULL, &b, &err), DS_ERR_NOT_FOUND, err,
              "LD_LIBRARY_PATH");
  CHECK(strstr(err.message, "/lib") != NULL);           /* where the linker looked */
  CHECK(strstr(err.message, "libneeded.so.4") != NULL); /* the note's needs */
  CHECK(strstr(err.message, "RUNPATH") != NULL);
  plugin_folder_remove(&f);
}

static void test_choice(void) {
  plugin_folder f;
  memory_log log;
  ds_backend *b;
  ds_error err;
  plugin_folder_make(&f);
  plugin_folder_link(&f, "floor");
  plugin_folder_link(&f, "partial");
  plugin_folder_link(&f, "abi_major");
  plugin_folder_link(&f, "no_device");

  /* By priority; the better one that can't be used is warned of, the others not. */
  CHECK_OK(open_backend("\"auto\"", &f, &log, &b, &err), err);
  CHECK(b && strcmp(ds_backend_name(b), "floor") == 0);
  CHECK(b && strcmp(ds_backend_device(b), "far memory 0") == 0 && !ds_backend_host_accessible(b));
  CHECK(log.warnings == 1 && strstr(log.text, "future is not usable: speaks ABI 99"));
  CHECK(strstr(log.text, "floor: queried")); /* the plugin's own words */
  ds_backend_close(b);

  CHECK_OK(open_backend("{\"name\": \"floor\", \"device\": 1}", &f, &log, &b, &err), err);
  CHECK(b && strcmp(ds_backend_device(b), "far memory 1") == 0);
  CHECK(!strstr(log.text, "queried")); /* once a process */
  ds_backend_close(b);

  CHECK_OK(open_backend("[\"no_device\", \"prtial\", \"partial\"]", &f, &log, &b, &err), err);
  CHECK(b && strcmp(ds_backend_name(b), "partial") == 0);
  CHECK(strstr(log.text, "no_device is not usable: no device: no card"));
  CHECK(strstr(log.text, "no plugin \"prtial\" (did you mean \"partial\"?)"));
  ds_backend_close(b);

  CHECK_OK(open_backend("\"reference\"", &f, &log, &b, &err), err);
  CHECK(b && strcmp(ds_backend_name(b), "reference") == 0 && ds_backend_host_accessible(b));
  ds_backend_close(b);

  setenv("DS_BACKEND", "partial", 1);
  CHECK_OK(open_backend("\"floor\"", &f, NULL, &b, &err), err);
  CHECK(b && strcmp(ds_backend_name(b), "partial") == 0);
  ds_backend_close(b);
  unsetenv("DS_BACKEND");
  plugin_folder_remove(&f);
}

static void test_choice_fails(void) {
  plugin_folder f;
  ds_backend *b;
  ds_error err;
  plugin_folder_make(&f);
  plugin_folder_link(&f, "floor");
  plugin_folder_link(&f, "no_device");
  CHECK_FAILS(open_backend("\"flor\"", &f, NULL, &b, &err), DS_ERR_NOT_FOUND, err,
              "there is no plugin \"flor\", did you mean \"floor\"?");
  CHECK(strstr(err.message, "no_device") && strstr(err.message, "reference"));
  CHECK_FAILS(open_backend("{\"name\": \"floor\", \"device\": 2}", &f, NULL, &b, &err),
              DS_ERR_NOT_FOUND, err, "no device 2");
  CHECK_FAILS(open_backend("{\"name\": \"floor\", \"options\": {\"x\": 1}}", &f, NULL, &b, &err),
              DS_ERR_NOT_FOUND, err, "unknown option");
  plugin_folder_remove(&f);
}

/* A member that an older plugin's table did not have yet is NULL, whatever stands there. */
static void test_older_tables(void) {
  plugin_folder f;
  ds_backend *b;
  ds_error err;
  plugin_folder_make(&f);
  plugin_folder_link(&f, "partial");
  CHECK_OK(open_backend("\"partial\"", &f, NULL, &b, &err), err);
  if (b) {
    const ds_plugin *p = ds_backend_plugin(b);
    CHECK(!p->graph && !p->comm && !p->quant && p->ops && p->gemm);
    CHECK(!p->device->event_create && !p->device->event_sync && p->device->fill);
    CHECK(p->base.size == sizeof(ds_plugin));
  }
  ds_backend_close(b);
  plugin_folder_remove(&f);
}

static void test_places(void) {
  plugin_folder f;
  memory_log log;
  ds_backend *b;
  ds_error err;
  char *data;
  size_t size;
  plugin_folder_make(&f);
  plugin_folder_link(&f, "floor");

  CHECK(chmod(f.path, 0777) == 0);
  CHECK_OK(open_backend("\"auto\"", &f, &log, &b, &err), err);
  CHECK(b && strcmp(ds_backend_name(b), "floor") != 0);
  CHECK(strstr(log.text, "the folder may be written by anybody; run: chmod o-w"));
  ds_backend_close(b);
  CHECK(chmod(f.path, 0700) == 0);

  CHECK_OK(ds_file_read(TEST_PLUGIN_DIR "/partial.so", (size_t)1 << 26, &data, &size, &err), err);
  const char *open_file = plugin_folder_write(&f, "open", data, size);
  CHECK(chmod(open_file, 0666) == 0);
  CHECK_FAILS(open_backend("\"partial\"", &f, NULL, &b, &err), DS_ERR_NOT_FOUND, err,
              "the file may be written by anybody");
  CHECK(chmod(open_file, 0644) == 0);
  CHECK_OK(open_backend("\"partial\"", &f, NULL, &b, &err), err);
  ds_backend_close(b);
  free(data);

  /* Never relative to the current folder, though it is there. */
  CHECK(chdir(f.path) == 0);
  setenv("DS_PLUGIN_PATH", ".", 1);
  CHECK_FAILS(open_backend("\"floor\"", NULL, NULL, &b, &err), DS_ERR_NOT_FOUND, err,
              "must be absolute");
  setenv("DS_PLUGIN_PATH", "/nowhere/at/all", 1);
  CHECK_FAILS(open_backend("\"floor\"", NULL, NULL, &b, &err), DS_ERR_NOT_FOUND, err,
              "/nowhere/at/all: the folder can't be read");
  CHECK(chdir("/") == 0);

  /* One plugin file by its path. */
  setenv("DS_PLUGIN_PATH", f.files[0], 1);
  CHECK_OK(open_backend("\"floor\"", NULL, NULL, &b, &err), err);
  ds_backend_close(b);
  plugin_folder_remove(&f);
}

static void test_list(void) {
  plugin_folder f;
  ds_backend_candidate *list;
  size_t n = 0;
  ds_error err;
  plugin_folder_make(&f);
  plugin_folder_link(&f, "floor");
  plugin_folder_link(&f, "partial");
  plugin_folder_link(&f, "dependency");
  plugin_folder_write(&f, "text", "no plugin at all", 16);
  CHECK(symlink(TEST_PLUGIN_DIR "/floor.so", plugin_folder_name(&f, "twice")) == 0);
  setenv("DS_PLUGIN_PATH", f.path, 1);
  CHECK_OK(ds_backend_list("{\"backend\": [\"absent\", \"partial\"]}", &list, &n, &err), err);
  CHECK(n >= 5);
  const ds_backend_candidate *floor_ = find(list, n, "/floor.so");
  const ds_backend_candidate *partial = find(list, n, "/partial.so");
  const ds_backend_candidate *text = find(list, n, "dscore_text.so");
  const ds_backend_candidate *dependency = find(list, n, "/dependency.so");
  CHECK(floor_ && strcmp(floor_->state, "available") == 0 && !floor_->reason &&
        strcmp(floor_->version, "1.2.3") == 0 && floor_->priority == 150);
  CHECK(partial && strcmp(partial->state, "chosen") == 0 &&
        strcmp(partial->device, "far memory 0") == 0);
  CHECK(text && strcmp(text->state, "rejected") == 0 && !text->name &&
        strstr(text->reason, "not a shared object"));
  CHECK(dependency && strcmp(dependency->state, "rejected") == 0 &&
        strcmp(dependency->name, "dependency") == 0);
  CHECK(dependency < floor_ && floor_ < partial && partial < text); /* by file name */
  CHECK(!find(list, n, "twice"));                                   /* the same file, once */
  CHECK(!list[n - 1].path && strcmp(list[n - 1].name, "reference") == 0 &&
        strcmp(list[n - 1].state, "available") == 0);
  ds_backend_list_destroy(list, n);
  ds_backend_list_destroy(NULL, 0);

  /* Nothing can be chosen: still a list. */
  CHECK_OK(ds_backend_list("{\"backend\": \"absent\"}", &list, &n, &err), err);
  for (size_t i = 0; i < n; i++) CHECK(strcmp(list[i].state, "chosen") != 0);
  ds_backend_list_destroy(list, n);
  CHECK_FAILS(ds_backend_list("{\"backend\": 3}", &list, &n, &err), DS_ERR_INVALID, err, "backend");
  CHECK(!list && n == 0);
  CHECK_FAILS(ds_backend_list("/nowhere.json", &list, &n, &err), DS_ERR_NOT_FOUND, err,
              "/nowhere.json");
  plugin_folder_remove(&f);
}

/* Three versions of one plugin: the highest priority, then the first found; the list says so. */
static void test_versions(void) {
  plugin_folder f;
  ds_backend *b;
  ds_backend_candidate *list;
  size_t n = 0;
  ds_error err;
  plugin_folder_make(&f);
  plugin_folder_link(&f, "version_2");
  CHECK(symlink(TEST_PLUGIN_DIR "/version_1.so", plugin_folder_name(&f, "a")) == 0);
  for (int round = 0; round < 2; round++) {
    const char *best = round == 0 ? "1.0.0" : "3.0.0", *path = round ? "version_3" : "version_1";
    for (int name = 0; name < 2; name++) {
      CHECK_OK(open_backend(name ? "\"versions\"" : "[\"versions\", \"auto\"]", &f, NULL, &b, &err),
               err);
      CHECK(b && strcmp(ds_backend_plugin(b)->version, best) == 0);
      ds_backend_close(b);
    }
    CHECK_OK(ds_backend_list("{\"backend\": \"versions\"}", &list, &n, &err), err);
    const ds_backend_candidate *chosen = find(list, n, path), *other = find(list, n, "version_2");
    CHECK(chosen && strcmp(chosen->state, "chosen") == 0 && !chosen->reason);
    CHECK(other && strcmp(other->state, "available") == 0 && strstr(other->reason, best) &&
          strstr(other->reason, path) &&
          strstr(other->reason, round ? "its priority is higher" : "it is found first"));
    CHECK(list && !list[n - 1].reason); /* the reference is no rival */
    ds_backend_list_destroy(list, n);
    if (round == 0) plugin_folder_link(&f, "version_3");
  }
  plugin_folder_remove(&f);
}

/* The same file under three names, one of them a hard link, is one candidate. */
static void test_one_file(void) {
  plugin_folder f;
  ds_backend_candidate *list;
  size_t n = 0, found = 0;
  ds_error err;
  char *data;
  size_t size;
  plugin_folder_make(&f);
  CHECK_OK(ds_file_read(TEST_PLUGIN_DIR "/floor.so", (size_t)1 << 26, &data, &size, &err), err);
  const char *file = plugin_folder_write(&f, "b", data, size);
  CHECK(link(file, plugin_folder_name(&f, "a")) == 0);
  CHECK(symlink(file, plugin_folder_name(&f, "c")) == 0);
  setenv("DS_PLUGIN_PATH", f.path, 1);
  CHECK_OK(ds_backend_list(NULL, &list, &n, &err), err);
  for (size_t i = 0; i < n; i++)
    if (list[i].path && strncmp(list[i].path, f.path, strlen(f.path)) == 0) {
      found++;
      CHECK(strstr(list[i].path, "dscore_a.so"));
    }
  CHECK(found == 1);
  ds_backend_list_destroy(list, n);
  free(data);
  plugin_folder_remove(&f);
}

/* Many threads load and open at once; each has its own device. */
static void *open_and_close(void *arg) {
  for (int i = 0; i < 20; i++) {
    ds_backend *b;
    ds_error err;
    const ds_backend_config *config = arg;
    if (ds_backend_open(config, NULL, &b, &err) != DS_OK) return arg;
    ds_backend_close(b);
  }
  return NULL;
}

static void test_threads(void) {
  plugin_folder f;
  enum { THREADS = 8 };
  pthread_t threads[THREADS];
  ds_backend_config config;
  ds_error err;
  plugin_folder_make(&f);
  char *data; /* copies, which nobody has loaded yet */
  size_t size;
  CHECK_OK(ds_file_read(TEST_PLUGIN_DIR "/floor.so", (size_t)1 << 26, &data, &size, &err), err);
  plugin_folder_write(&f, "first", data, size);
  plugin_folder_link(&f, "no_device"); /* tried first */
  free(data);
  setenv("DS_PLUGIN_PATH", f.path, 1);
  const char *names[] = {"no_device", "floor"};
  cJSON *name = cJSON_CreateStringArray(names, 2);
  CHECK_OK(ds_backend_config_parse(name, &config, &err), err);
  cJSON_Delete(name);
  for (int i = 0; i < THREADS; i++)
    CHECK(pthread_create(&threads[i], NULL, open_and_close, &config) == 0);
  for (int i = 0; i < THREADS; i++) {
    void *failed = &err;
    CHECK(pthread_join(threads[i], &failed) == 0 && !failed);
  }
  ds_backend_config_finish(&config);
  plugin_folder_remove(&f);
}

int main(void) {
  unsetenv("DS_BACKEND");
  test_choice(); /* first: it sees the query's own log */
  test_refusals();
  test_missing_library_names_places();
  test_choice_fails();
  test_older_tables();
  test_places();
  test_list();
  test_versions();
  test_one_file();
  test_threads();
  return TEST_RESULT();
}
