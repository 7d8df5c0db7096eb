#include "run_env.h"

#include "base/file.h"

#include <ctype.h>
#include <stdlib.h>
#include <string.h>

enum { FILE_LIMIT = 1 << 20 };

static bool has(const run_words *names, const char *name, size_t length) {
  for (int i = 0; i < names->count; i++)
    if (strlen(names->at[i]) == length && memcmp(names->at[i], name, length) == 0) return true;
  return false;
}

static ds_status add(run_words *names, const char *name, size_t length, ds_error *err) {
  if (has(names, name, length)) return DS_OK;
  char *copy = strndup(name, length);
  ds_status status = copy ? run_words_add(names, copy, err) : ds_fail_memory(err, "a variable");
  free(copy);
  return status;
}

static bool is_name(const char *text, size_t length) {
  if (length == 0 || isdigit((unsigned char)text[0])) return false;
  for (size_t i = 0; i < length; i++)
    if (!isalnum((unsigned char)text[i]) && text[i] != '_') return false;
  return true;
}

/* text[length] without blanks at its ends; changed in place. */
static ds_status set_line(char *text, size_t length, const char *file, int line, run_words *names,
                          ds_error *err) {
  char *equals = memchr(text, '=', length);
  const size_t name = equals ? (size_t)(equals - text) : 0;
  if (!is_name(text, name))
    return ds_fail(err, DS_ERR_FORMAT, "%s:%d: \"%.*s\" is not NAME=VALUE", file, line,
                   (int)(length < 80 ? length : 80), text);
  text[name] = text[length] = '\0';
  if (setenv(text, equals + 1, 1) != 0) return ds_fail_memory(err, "a variable");
  return add(names, text, name, err);
}

ds_status run_env_parse(const char *text, const char *file, run_words *names, ds_error *err) {
  int line = 0;
  while (*text) {
    const char *end = strchrnul(text, '\n'), *from = text + strspn(text, " \t\r"), *to = end;
    line++;
    while (to > from && strchr(" \t\r", to[-1])) to--;
    if (to > from && *from != '#') {
      char *copy = strndup(from, (size_t)(to - from));
      ds_status status = copy ? set_line(copy, (size_t)(to - from), file, line, names, err)
                              : ds_fail_memory(err, "a variable");
      free(copy);
      if (status != DS_OK) return status;
    }
    text = *end ? end + 1 : end;
  }
  return DS_OK;
}

static ds_status read_one(const char *folder, const char *name, run_words *names, ds_error *err) {
  char *path = ds_path_join(folder, name), *text = NULL;
  size_t size;
  ds_status status = path ? DS_OK : ds_fail_memory(err, "a path");
  if (status == DS_OK && ds_file_exists(path)) {
    status = ds_file_read(path, FILE_LIMIT, &text, &size, err);
    if (status == DS_OK) status = run_env_parse(text, path, names, err);
  }
  free(text);
  free(path);
  return status;
}

ds_status run_env_read_files(run_words *names, ds_error *err) {
  const char *given = getenv("DS_ENV_FILE"), *home = getenv("HOME");
  const char *name = given && given[0] ? given : ".deepspeed_env";
  if (home && home[0]) DS_TRY(read_one(home, name, names, err));
  return read_one(".", name, names, err);
}

ds_status run_env_choose(char *const *environ_, run_words *names, ds_error *err) {
  static const char *const prefixes[] = {
      "DS_",    "OMP_", "GOMP_",           "KMP_", "MKL_", "DNNL_",  "NCCL_",  "RCCL_",
      "UCX_",   "HSA_", "CUDA_",           "HIP_", "GPU_", "PYTHON", "MLFLOW", "MV2_",
      "WANDB_", "HF_",  "LD_LIBRARY_PATH="};
  for (; *environ_; environ_++) {
    const size_t length = strcspn(*environ_, "=");
    /* Which of its devices a host shows is its own affair; slots choose among them. */
    if (memmem(*environ_, length, "VISIBLE_DEVICES", strlen("VISIBLE_DEVICES"))) continue;
    for (size_t i = 0; i < sizeof prefixes / sizeof *prefixes; i++) {
      if (strncmp(*environ_, prefixes[i], strlen(prefixes[i])) != 0) continue;
      DS_TRY(add(names, *environ_, length, err));
      break;
    }
  }
  return DS_OK;
}
