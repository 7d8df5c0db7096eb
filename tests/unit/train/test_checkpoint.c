/* Checkpoints: resume to the bit, a kill at any moment, a full disk, damage anywhere. */
#include "tiny.h"

#include "base/file.h"
#include "base/str.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>

enum { N = TINY_OUT * TINY_IN + TINY_OUT };

#define F32  ""
#define BF16 ", \"bf16\": {\"enabled\": true}"
#define FP16 ", \"fp16\": {\"enabled\": true, \"initial_scale_power\": 20}"
#define CONFIG(more)                                                                               \
  "{" TINY_BACKEND ", \"train_batch_size\": 12, \"gradient_accumulation_steps\": 3, "              \
  "\"optimizer\": {\"type\": \"AdamW\", \"params\": {\"lr\": 0.05}}, "                             \
  "\"scheduler\": {\"type\": \"WarmupLR\", \"params\": {\"warmup_num_steps\": 9}}" more "}"

static char root[64];

static char *at(const char *name) {
  static char paths[8][512];
  static int next;
  char *p = paths[next++ % 8];
  snprintf(p, sizeof paths[0], "%s/%s", root, name);
  return p;
}

static void remove_tree(const char *path) {
  char command[600];
  snprintf(command, sizeof command, "rm -rf '%s'", path);
  if (system(command) != 0) fprintf(stderr, "cannot remove %s\n", path);
}

static ds_status train(ds_engine *e, int steps, float *losses, ds_error *err) {
  for (int i = 0; i < steps; i++) {
    ds_status status = ds_engine_train_batch(e, &losses[i], err);
    if (status != DS_OK) return status;
  }
  return DS_OK;
}

/* ---- resume */

static void test_resume(const char *config, const char *dir) {
  ds_error err;
  tiny_run straight = {0}, first = {0}, second = {0};
  ds_initialize_args other_seed = DS_INITIALIZE_ARGS_INIT;
  float a[20], b[20], wa[N], wb[N];
  char *client = NULL;
  other_seed.seed = 4711; /* the checkpoint must bring its own */
  CHECK_OK(tiny_open(&straight, config, NULL, true, &err), err);
  CHECK_OK(train(straight.engine, 20, a, &err), err);

  CHECK_OK(tiny_open(&first, config, NULL, true, &err), err);
  CHECK_OK(train(first.engine, 11, b, &err), err);
  CHECK_OK(ds_engine_save_checkpoint(first.engine, dir, NULL, "{\"epoch\": [1, 2.50]}", &err), err);
  CHECK(ds_file_exists(at("resume/global_step11/model.safetensors")));
  CHECK(ds_file_exists(at("resume/global_step11/config.json")));
  double lr = ds_engine_get_lr(first.engine), norm = ds_engine_get_global_grad_norm(first.engine);
  tiny_close(&first);

  CHECK_OK(tiny_open(&second, config, &other_seed, true, &err), err);
  CHECK_OK(train(second.engine, 2, b + 11, &err), err); /* to be forgotten */
  CHECK_OK(ds_engine_load_checkpoint(second.engine, dir, NULL, &client, &err), err);
  CHECK(client && strcmp(client, "{\"epoch\": [1, 2.50]}") == 0);
  free(client);
  CHECK(ds_engine_global_steps(second.engine) == 11);
  CHECK(ds_engine_global_samples(second.engine) == 132);
  CHECK(ds_engine_micro_steps(second.engine) == 33);
  CHECK(ds_engine_get_lr(second.engine) == lr);
  CHECK(ds_engine_get_global_grad_norm(second.engine) == norm);
  CHECK_OK(train(second.engine, 9, b + 11, &err), err);
  CHECK(memcmp(a, b, sizeof a) == 0); /* every loss, to the bit */
  CHECK_OK(tiny_weights(straight.engine, &straight.self, wa, &err), err);
  CHECK_OK(tiny_weights(second.engine, &second.self, wb, &err), err);
  CHECK(memcmp(wa, wb, sizeof wa) == 0);
  CHECK(a[19] < a[0]);
  tiny_close(&straight);
  tiny_close(&second);
}

/* ---- refusals that leave the engine as it was */

static void test_refusals(void) {
  ds_error err;
  tiny_run r = {0}, groups = {0}, bigger = {0};
  float losses[2], before[N], after[N];
  CHECK_OK(tiny_open(&r, CONFIG(F32), NULL, true, &err), err);
  CHECK_OK(train(r.engine, 2, losses, &err), err);
  CHECK_OK(tiny_weights(r.engine, &r.self, before, &err), err);
  CHECK_FAILS(ds_engine_load_checkpoint(r.engine, at("nowhere"), NULL, NULL, &err),
              DS_ERR_NOT_FOUND, err, "latest is missing");
  CHECK_FAILS(ds_engine_load_checkpoint(r.engine, at("nowhere"), "x", NULL, &err), DS_ERR_NOT_FOUND,
              err, "nowhere/x is not there");
  CHECK_FAILS(ds_engine_save_checkpoint(r.engine, at("tags"), "../up", NULL, &err), DS_ERR_INVALID,
              err, "tag");
  CHECK_FAILS(ds_engine_save_checkpoint(r.engine, at("tags"), "latest", NULL, &err), DS_ERR_INVALID,
              err, "tag");
  CHECK_FAILS(ds_engine_save_checkpoint(r.engine, at("tags"), "a", "{oops", &err), DS_ERR_FORMAT,
              err, "client_state");
  CHECK_OK(ds_engine_save_checkpoint(r.engine, at("tags"), "a", NULL, &err), err);
  CHECK_OK(ds_file_write(at("tags/latest"), "gone\n", 5, &err), err);
  CHECK_FAILS(ds_engine_load_checkpoint(r.engine, at("tags"), NULL, NULL, &err), DS_ERR_NOT_FOUND,
              err, "`latest` names it");
  CHECK_OK(ds_file_write(at("tags/latest"), "a/../b", 6, &err), err);
  CHECK_FAILS(ds_engine_load_checkpoint(r.engine, at("tags"), NULL, NULL, &err), DS_ERR_FORMAT, err,
              "latest is corrupt");
  char *client = at("x");
  CHECK_OK(ds_engine_load_checkpoint(r.engine, at("tags"), "a", &client, &err), err);
  CHECK(client == NULL);
  CHECK_OK(tiny_micro(r.engine, 0, 4, NULL, &err), err);
  CHECK_FAILS(ds_engine_save_checkpoint(r.engine, at("tags"), NULL, NULL, &err), DS_ERR_STATE, err,
              "1 of 3 micro batches");

  /* Another optimizer, other groups, another model. */
  const int w[] = {0}, b[] = {1};
  ds_param_group two[2] = {DS_PARAM_GROUP_INIT, DS_PARAM_GROUP_INIT};
  ds_initialize_args a = DS_INITIALIZE_ARGS_INIT;
  two[0].indices = w;
  two[1].indices = b;
  two[0].n_indices = two[1].n_indices = 1;
  a.model_parameters = two;
  a.n_model_parameters = 2;
  CHECK_OK(tiny_open(&groups, CONFIG(F32), &a, true, &err), err);
  CHECK_FAILS(ds_engine_load_checkpoint(groups.engine, at("tags"), "a", NULL, &err), DS_ERR_FORMAT,
              err, "1 parameter groups, the engine has 2");
  tiny_close(&groups);
  CHECK_OK(tiny_open(&groups,
                     "{" TINY_BACKEND ", \"train_batch_size\": 4, \"optimizer\": {\"type\": "
                     "\"Adam\", \"params\": {\"adam_w_mode\": false}}}",
                     NULL, true, &err),
           err);
  CHECK_FAILS(ds_engine_load_checkpoint(groups.engine, at("tags"), "a", NULL, &err), DS_ERR_FORMAT,
              err, "optimizer is AdamW, the engine's is Adam");
  bigger.self.with_unused = true;
  CHECK_OK(tiny_open(&bigger, CONFIG(F32), NULL, true, &err), err);
  CHECK_FAILS(ds_engine_load_checkpoint(bigger.engine, at("tags"), "a", NULL, &err), DS_ERR_FORMAT,
              err, "no \"unused\"");
  CHECK_OK(ds_engine_save_checkpoint(bigger.engine, at("tags"), "bigger", NULL, &err), err);
  CHECK_FAILS(ds_engine_load_checkpoint(r.engine, at("tags"), "bigger", NULL, &err), DS_ERR_FORMAT,
              err, "3 tensors");
  CHECK_OK(tiny_weights(r.engine, &r.self, after, &err), err);
  CHECK(memcmp(before, after, sizeof before) == 0);
  tiny_close(&r);
  tiny_close(&groups);
  tiny_close(&bigger);
}

/* ---- damage */

static void damage(const char *path, long offset, int bit, long truncate_to) {
  if (truncate_to >= 0) {
    CHECK(truncate(path, truncate_to) == 0);
    return;
  }
  int fd = open(path, O_RDWR);
  unsigned char byte;
  CHECK(fd >= 0 && pread(fd, &byte, 1, offset) == 1);
  byte ^= (unsigned char)(1 << bit);
  CHECK(pwrite(fd, &byte, 1, offset) == 1);
  close(fd);
}

static void test_damage(void) {
  static const char *const files[] = {"model.safetensors", "optimizer.safetensors", "engine.json",
                                      "config.json", "manifest"};
  ds_error err;
  tiny_run r = {0};
  float losses[3], before[N], after[N];
  char path[600];
  CHECK_OK(tiny_open(&r, CONFIG(F32), NULL, true, &err), err);
  CHECK_OK(train(r.engine, 3, losses, &err), err);
  CHECK_OK(tiny_weights(r.engine, &r.self, before, &err), err);
  for (size_t f = 0; f < sizeof files / sizeof files[0]; f++) {
    snprintf(path, sizeof path, "%s/%s", at("damage/t"), files[f]);
    CHECK_OK(ds_engine_save_checkpoint(r.engine, at("damage"), "t", NULL, &err), err);
    char *whole;
    size_t size;
    CHECK_OK(ds_file_read(path, 1 << 20, &whole, &size, &err), err);
    for (int i = 0; i < 40; i++) {
      long offset = (long)(size * (size_t)i / 40);
      CHECK_OK(ds_file_write(path, whole, size, &err), err);
      if (i % 4 == 3)
        damage(path, 0, 0, offset);
      else
        damage(path, offset, i % 8, -1);
      err.message[0] = '\0';
      ds_status status = ds_engine_load_checkpoint(r.engine, at("damage"), NULL, NULL, &err);
      CHECK(status == DS_ERR_FORMAT && strstr(err.message, "damaged"));
    }
    free(whole);
    CHECK(unlink(path) == 0);
    CHECK_FAILS(ds_engine_load_checkpoint(r.engine, at("damage"), NULL, NULL, &err),
                DS_ERR_NOT_FOUND, err, files[f]);
  }
  CHECK_OK(tiny_weights(r.engine, &r.self, after, &err), err);
  CHECK(memcmp(before, after, sizeof before) == 0);
  CHECK(ds_engine_global_steps(r.engine) == 3);
  CHECK_OK(ds_engine_save_checkpoint(r.engine, at("damage"), "t", NULL, &err), err);
  CHECK_OK(ds_engine_load_checkpoint(r.engine, at("damage"), NULL, NULL, &err), err);
  tiny_close(&r);
}

/* ---- a disk that fills: no file may grow beyond a limit, for every limit up to what is needed */

static int count_entries(const char *path) {
  int n = 0;
  DIR *d = opendir(path);
  for (struct dirent *e; d && (e = readdir(d));) n += e->d_name[0] != '.' || e->d_name[1] == 't';
  if (d) closedir(d);
  return n;
}

static void test_full_disk(void) {
  ds_error err;
  tiny_run r = {0};
  float losses[2];
  struct rlimit old, limit;
  CHECK_OK(tiny_open(&r, CONFIG(F32), NULL, true, &err), err);
  CHECK_OK(ds_engine_save_checkpoint(r.engine, at("full"), "good", NULL, &err), err);
  CHECK_OK(train(r.engine, 2, losses, &err), err);
  signal(SIGXFSZ, SIG_IGN);
  CHECK(getrlimit(RLIMIT_FSIZE, &old) == 0);
  int failures = 0, successes = 0;
  for (rlim_t bytes = 0; bytes < 12000 && successes < 2; bytes += bytes < 64 ? 3 : 61) {
    limit = old;
    limit.rlim_cur = bytes;
    CHECK(setrlimit(RLIMIT_FSIZE, &limit) == 0);
    const char *tag = bytes % 2 ? "good" : "new"; /* replacing one, and making one */
    ds_status status = ds_engine_save_checkpoint(r.engine, at("full"), tag, NULL, &err);
    CHECK(setrlimit(RLIMIT_FSIZE, &old) == 0);
    if (status == DS_OK) {
      successes++;
    } else {
      failures++;
      CHECK(status == DS_ERR_IO);
      CHECK(successes > 0 || count_entries(at("full")) == 2); /* nothing left lying about */
    }
    tiny_run fresh = {0};
    CHECK_OK(tiny_open(&fresh, CONFIG(F32), NULL, true, &err), err);
    CHECK_OK(ds_engine_load_checkpoint(fresh.engine, at("full"), NULL, NULL, &err), err);
    CHECK(ds_engine_global_steps(fresh.engine) == (status == DS_OK || successes ? 2 : 0));
    tiny_close(&fresh);
  }
  CHECK(failures > 20 && successes > 0);
  tiny_close(&r);
}

/* ---- killed at any moment: a child saves in a loop, now a new tag, now the same one */

/* Writes a byte to `told` after every save. */
static void child(int told) {
  ds_error err;
  tiny_run r = {0};
  float loss;
  if (tiny_open(&r, CONFIG(F32), NULL, true, &err) != DS_OK) _exit(1);
  for (int i = 0; i < 100000; i++) {
    if (ds_engine_train_batch(r.engine, &loss, &err) != DS_OK) _exit(2);
    const char *tag = i % 3 ? "same" : i % 2 ? "odd" : "even";
    if (ds_engine_save_checkpoint(r.engine, at("kill"), tag, NULL, &err) != DS_OK) _exit(3);
    if (write(told, "", 1) != 1) _exit(4);
  }
  _exit(0);
}

static double now(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static void test_kill(void) {
  ds_error err;
  tiny_run r = {0};
  float loss;
  CHECK_OK(tiny_open(&r, CONFIG(F32), NULL, true, &err), err);
  double begin = now();
  CHECK_OK(ds_engine_save_checkpoint(r.engine, at("kill"), "same", NULL, &err), err);
  double save = now() - begin;
  for (int round = 0; round < 25; round++) {
    int ends[2];
    char byte;
    CHECK(pipe(ends) == 0);
    pid_t pid = fork();
    if (pid == 0) child(ends[1]);
    CHECK(pid > 0);
    close(ends[1]);
    CHECK(read(ends[0], &byte, 1) == 1); /* the child is saving; then strike within four saves */
    double wait = save * (double)(round * 7919 % 40) / 10;
    struct timespec pause = {(time_t)wait, (long)((wait - (double)(time_t)wait) * 1e9)};
    nanosleep(&pause, NULL);
    int how;
    kill(pid, SIGKILL);
    CHECK(waitpid(pid, &how, 0) == pid && WIFSIGNALED(how));
    CHECK_OK(ds_engine_load_checkpoint(r.engine, at("kill"), NULL, NULL, &err), err);
    CHECK(ds_engine_global_steps(r.engine) > 0); /* the child's, not the parent's */
    close(ends[0]);
    CHECK_OK(ds_engine_train_batch(r.engine, &loss, &err), err);
  }
  CHECK_OK(ds_engine_save_checkpoint(r.engine, at("kill"), "last", NULL, &err), err);
  DIR *d = opendir(at("kill"));
  for (struct dirent *e; d && (e = readdir(d));) CHECK(strncmp(e->d_name, ".tmp", 4) != 0);
  if (d) closedir(d);
  tiny_close(&r);
}

/* ---- the model alone, as a folder others can load */

static void test_export(void) {
  ds_error err;
  tiny_run r = {0};
  CHECK_OK(tiny_open(&r, CONFIG(F32), NULL, true, &err), err);
  CHECK_OK(ds_engine_save_model(r.engine, at("export16"), true, &err), err);
  CHECK_OK(ds_engine_save_model(r.engine, at("export32"), false, &err), err);
  CHECK(ds_file_exists(at("export16/config.json")));
  struct stat a, b;
  CHECK(stat(at("export16/model.safetensors"), &a) == 0);
  CHECK(stat(at("export32/model.safetensors"), &b) == 0);
  CHECK(b.st_size > a.st_size);
  CHECK_FAILS(ds_engine_save_model(r.engine, NULL, true, &err), DS_ERR_INVALID, err, "folder");
  tiny_close(&r);
}

int main(void) {
  /* In memory where there is such a place: hundreds of saves would wait for the disk. */
  bool shm = access("/dev/shm", W_OK) == 0;
  snprintf(root, sizeof root, "%s/ds_checkpoint_XXXXXX", shm ? "/dev/shm" : "/tmp");
  if (!mkdtemp(root)) return 1;
  test_resume(CONFIG(F32), at("resume"));
  test_resume(CONFIG(BF16), at("resume"));
  test_resume(CONFIG(FP16), at("resume"));
  test_refusals();
  test_damage();
  test_full_disk();
  test_kill();
  test_export();
  remove_tree(root);
  return TEST_RESULT();
}
