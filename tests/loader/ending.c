/* ending.c - a host that ends while an engine is open and work is under way on a plugin's thread:
 * it ends, with its own exit status. */
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <time.h>

#include "backend/plugin_folder.h"
#include "ds.h"

static const char model_config[] =
    "{\"model_type\": \"llama\", \"hidden_size\": 8, \"intermediate_size\": 12, "
    "\"num_hidden_layers\": 1, \"num_attention_heads\": 2, \"num_key_value_heads\": 1, "
    "\"vocab_size\": 256, \"max_position_embeddings\": 16, \"rms_norm_eps\": 1e-5, "
    "\"tie_word_embeddings\": true}";

enum { BYTES = 1 << 20, STATUS = 42 };

/* An engine and half a second of work that nobody waits for. NULL when something failed. */
static ds_backend *begin(void) {
  ds_error err;
  ds_model *model;
  ds_inference *engine;
  ds_backend *b;
  void *p;
  ds_init_inference_args args = DS_INIT_INFERENCE_ARGS_INIT;
  setenv("DS_PLUGIN_PATH", TEST_PLUGIN_DIR "/late.so", 1);
  if (ds_model_from_config(model_config, &model, &err) != DS_OK) goto failed;
  args.model = model;
  args.config = "{\"backend\": \"late\"}";
  if (ds_init_inference(&args, &engine, &err) != DS_OK) goto failed;
  if (open_backend("\"late\"", NULL, NULL, &b, &err) != DS_OK) goto failed;
  if (ds_backend_alloc(b, BYTES, &p, &err) != DS_OK) goto failed;
  for (int i = 0; i < 250; i++)
    if (ds_backend_fill(b, p, (uint8_t)i, BYTES, &err) != DS_OK) goto failed;
  return b;
failed:
  fprintf(stderr, "%s\n", err.message);
  return NULL;
}

static void *wait_and_exit(void *arg) {
  ds_error err;
  exit(ds_backend_sync(arg, &err) == DS_OK ? STATUS : 1);
}

static int end(const char *how) {
  pthread_t other;
  ds_backend *b = begin();
  if (!b) return 1;
  if (strcmp(how, "exit") == 0) exit(STATUS);
  if (strcmp(how, "_exit") == 0) _exit(STATUS);
  if (strcmp(how, "quick_exit") == 0) quick_exit(STATUS);
  if (strcmp(how, "pthread_exit") == 0) { /* another thread of the host goes on, and ends it */
    if (pthread_create(&other, NULL, wait_and_exit, b) != 0) return 1;
    pthread_exit(NULL);
  }
  return STATUS; /* "return" */
}

/* The limit only bounds a hang. */
static int wait_for(pid_t child) {
  const struct timespec tick = {0, 10000000};
  int status;
  for (int i = 0; i < 6000; i++) {
    if (waitpid(child, &status, WNOHANG) == child) return status;
    nanosleep(&tick, NULL);
  }
  kill(child, SIGKILL);
  waitpid(child, &status, 0);
  return status;
}

int main(int argc, char **argv) {
  static const char *const ways[] = {"return", "exit", "_exit", "quick_exit", "pthread_exit"};
  unsetenv("DS_BACKEND");
  if (argc == 2) return end(argv[1]);
  for (size_t i = 0; i < sizeof ways / sizeof *ways; i++) {
    pid_t child = fork();
    if (child == 0) {
      setenv("ASAN_OPTIONS", "detect_leaks=0", 1); /* an open engine is not freed */
      execl("/proc/self/exe", argv[0], ways[i], (char *)NULL);
      _exit(98);
    }
    int status = wait_for(child);
    CHECK(child > 0 && WIFEXITED(status) && WEXITSTATUS(status) == STATUS);
    if (!WIFEXITED(status) || WEXITSTATUS(status) != STATUS)
      fprintf(stderr, "%s: ended with %#x\n", ways[i], (unsigned)status);
  }
  return TEST_RESULT();
}
