/* plugin_folder.h - a temporary folder with just the plugins that a test wants, and a logger that
 * remembers. */
#ifndef DS_TEST_PLUGIN_FOLDER_H
#define DS_TEST_PLUGIN_FOLDER_H

#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "backend/backend.h"
#include "base/file.h"
#include "test.h"

typedef struct plugin_folder {
  char path[64];
  char files[16][128];
  int n;
} plugin_folder;

static inline void plugin_folder_make(plugin_folder *f) {
  memset(f, 0, sizeof *f);
  strcpy(f->path, "/tmp/dscore-test-XXXXXX");
  CHECK(mkdtemp(f->path) != NULL);
}

/* The next file's name in the folder; it is removed with it. */
static inline const char *plugin_folder_name(plugin_folder *f, const char *name) {
  char text[sizeof f->files[0]]; /* the compiler can't see that path and files don't overlap */
  snprintf(text, sizeof text, "%.60s/dscore_%.40s.so", f->path, name);
  return strcpy(f->files[f->n++], text);
}

/* A link dscore_NAME.so to a built test plugin. */
static inline void plugin_folder_link(plugin_folder *f, const char *name) {
  char target[1024];
  snprintf(target, sizeof target, "%s/%s.so", TEST_PLUGIN_DIR, name);
  CHECK(symlink(target, plugin_folder_name(f, name)) == 0);
}

/* A file dscore_NAME.so with these bytes. */
static inline const char *plugin_folder_write(plugin_folder *f, const char *name, const void *data,
                                              size_t size) {
  ds_error err;
  const char *file = plugin_folder_name(f, name);
  CHECK_OK(ds_file_write(file, data, size, &err), err);
  return file;
}

static inline void plugin_folder_remove(plugin_folder *f) {
  for (int i = 0; i < f->n; i++) unlink(f->files[i]);
  CHECK(rmdir(f->path) == 0);
}

typedef struct memory_log {
  char text[16384];
  int warnings;
} memory_log;

static inline void memory_log_write(void *ctx, ds_log_level level, const char *message) {
  memory_log *m = ctx;
  size_t n = strlen(m->text);
  if (level == DS_LOG_WARN) m->warnings++;
  snprintf(m->text + n, sizeof m->text - n, "%s\n", message);
}

/* json: the "backend" section. */
static inline ds_status open_backend(const char *json, const plugin_folder *f, memory_log *log,
                                     ds_backend **out, ds_error *err) {
  ds_backend_config config;
  ds_logger logger = {log ? memory_log_write : NULL, log};
  cJSON *section = NULL;
  *out = NULL;
  if (log) memset(log, 0, sizeof *log);
  if (f) setenv("DS_PLUGIN_PATH", f->path, 1);
  DS_TRY(ds_json_parse(json, strlen(json), 0, "test", &section, err));
  ds_status status = ds_backend_config_parse(section, &config, err);
  cJSON_Delete(section);
  if (status != DS_OK) return status;
  status = ds_backend_open(&config, &logger, out, err);
  ds_backend_config_finish(&config);
  return status;
}

#endif
