/* test_checkpoint.c - checkpoints of several ranks: what one of them fails at, all fail at; what was
 * there before stays whole, and nothing half made is left.
 *
 * usage: mpirun -n N test_checkpoint PLUGIN_FOLDER N FOLDER
 */
#include "unit/train/tiny.h"

#include "base/file.h"
#include "train/checkpoint_ranks.h"
#include "train/engine.h"

#include <dirent.h>
#include <fcntl.h>
#include <signal.h>
#include <sys/resource.h>
#include <sys/stat.h>

enum { WEIGHTS = TINY_OUT * TINY_IN + TINY_OUT };

static int ranks, rank;
static const char *plugins, *root;
static char warnings[4096];

static char *at(const char *name) {
  static char paths[8][512];
  static int next;
  char *p = paths[next++ % 8];
  snprintf(p, sizeof paths[0], "%s/%s", root, name);
  return p;
}

static void note(void *ctx, ds_log_level level, const char *message) {
  (void)ctx;
  size_t n = strlen(warnings);
  if (level >= DS_LOG_WARN) snprintf(warnings + n, sizeof warnings - n, "%s\n", message);
}

static ds_status open_run(tiny_run *r, const char *more, ds_error *err) {
  static char config[1024];
  ds_initialize_args a = DS_INITIALIZE_ARGS_INIT;
  a.log = note;
  snprintf(config, sizeof config,
           "{\"backend\": {\"name\": \"cpu\", \"plugin_path\": \"%s\"}, \"train_batch_size\": 12, "
           "\"optimizer\": {\"type\": \"AdamW\", \"params\": {\"lr\": 0.05}}%s}",
           plugins, more);
  return tiny_open(r, config, &a, true, err);
}

static void train(ds_engine *e, int steps) {
  ds_error err;
  float loss;
  for (int i = 0; i < steps; i++) CHECK_OK(ds_engine_train_batch(e, &loss, &err), err);
}

/* Entries that aren't checkpoints or `latest`. Rank 0 removes them. */
static int leftovers(const char *folder) {
  int n = 0;
  if (rank > 0) return 0;
  DIR *d = opendir(folder);
  for (struct dirent *e; d && (e = readdir(d));)
    n += (e->d_name[0] == '.' && e->d_name[1] && e->d_name[1] != '.') || strstr(e->d_name, "tmp");
  if (d) closedir(d);
  return n;
}

/* What any rank did to files before is to be seen by all. */
static void wait_all(ds_engine *e) {
  float loss;
  ds_error err;
  CHECK_OK(ds_engine_train_batch(e, &loss, &err), err);
}

/* `latest` of a folder loads, and is at this step. */
static void check_latest(const char *folder, int64_t step) {
  ds_error err;
  tiny_run fresh = {0};
  CHECK_OK(open_run(&fresh, "", &err), err);
  CHECK_OK(ds_engine_load_checkpoint(fresh.engine, folder, NULL, NULL, &err), err);
  CHECK(ds_engine_global_steps(fresh.engine) == step);
  CHECK(leftovers(folder) == 0);
  tiny_close(&fresh);
}

/* ---- one rank's disk is full: no file of its may grow beyond a limit */

/* last: the last rank that has anything of so small a model. */
static void test_full_disk(const char *stage, int last) {
  ds_error err;
  tiny_run r = {0};
  struct rlimit old, limit;
  CHECK_OK(open_run(&r, stage, &err), err);
  CHECK_OK(ds_engine_save_checkpoint(r.engine, at("full"), "good", NULL, &err), err);
  train(r.engine, 1);
  signal(SIGXFSZ, SIG_IGN);
  CHECK(getrlimit(RLIMIT_FSIZE, &old) == 0);
  for (int victim = 0; victim < ranks; victim++)
    for (rlim_t bytes = 0; bytes < 400; bytes += 36) {
      limit = old;
      if (rank == victim) limit.rlim_cur = bytes;
      CHECK(setrlimit(RLIMIT_FSIZE, &limit) == 0);
      const char *tag = bytes % 8 ? "good" : "new"; /* replacing one, and making one */
      err.message[0] = '\0';
      ds_status status = ds_engine_save_checkpoint(r.engine, at("full"), tag, NULL, &err);
      CHECK(setrlimit(RLIMIT_FSIZE, &old) == 0);
      if (bytes == 0 && victim <= last) CHECK(status != DS_OK);
      if (status == DS_OK) continue;
      char who[48];
      snprintf(who, sizeof who, "failed on rank %d: cannot", victim);
      CHECK(status == DS_ERR_IO);
      CHECK(strstr(err.message, rank == victim ? "was not saved: cannot" : who));
      bool good = victim > 0 || bytes < 352; /* rank 0's manifest and `latest` fit from there on */
      if (good) CHECK(leftovers(at("full")) == 0);
    }
  /* A model alone; what was there stays. */
  struct stat before, after;
  CHECK_OK(ds_engine_save_model(r.engine, at("model"), true, &err), err);
  CHECK(stat(at("model/model.safetensors"), &before) == 0);
  limit = old;
  if (rank == last) limit.rlim_cur = 100;
  CHECK(setrlimit(RLIMIT_FSIZE, &limit) == 0);
  CHECK(ds_engine_save_model(r.engine, at("model"), false, &err) != DS_OK);
  CHECK(setrlimit(RLIMIT_FSIZE, &old) == 0);
  wait_all(r.engine);
  CHECK(leftovers(at("model")) == 0);
  CHECK(stat(at("model/model.safetensors"), &after) == 0 && after.st_ino == before.st_ino);
  CHECK_OK(ds_engine_save_checkpoint(r.engine, at("full"), "last", NULL, &err), err);
  tiny_close(&r);
  check_latest(at("full"), 2);
}

/* ---- what ranks compare */

static void test_ranks(void) {
  ds_error err;
  tiny_run r = {0};
  CHECK_OK(open_run(&r, "", &err), err);
  ds_world *w = &r.engine->world;
  static const uint64_t values[] = {0, 1, 255, 256, 0xffffffffu, 0x0102030405060708u};
  for (size_t i = 0; i < sizeof values / sizeof *values; i++) {
    uint64_t sum = values[i] + (uint64_t)rank, want = 0;
    for (int k = 0; k < ranks; k++) want += values[i] + (uint64_t)k;
    CHECK_OK(ds_ranks_sum(w, &sum, &err), err);
    CHECK(sum == want);
  }
  static const char *const texts[][2] = {
      {"a", "a"}, {"a", "b"}, {"", NULL}, {NULL, NULL}, {"ab", "ba"}};
  for (size_t i = 0; i < sizeof texts / sizeof *texts; i++) {
    const char *x = texts[i][0], *y = texts[i][1];
    bool same, want = x == y || (x && y && strcmp(x, y) == 0);
    CHECK_OK(ds_ranks_same(w, texts[i][rank == ranks - 1], &same, &err), err);
    CHECK(same == want);
  }
  tiny_close(&r);
}

/* ---- tags, folders */

static void test_tags(void) {
  ds_error err;
  tiny_run r = {0};
  char mine[32];
  snprintf(mine, sizeof mine, "tag%d", rank);
  CHECK_OK(open_run(&r, ", \"checkpoint\": {\"tag_validation\": \"FAIL\"}", &err), err);
  CHECK_FAILS(ds_engine_save_checkpoint(r.engine, at("tags"), mine, NULL, &err), DS_ERR_INVALID,
              err, mine);
  CHECK(strstr(err.message, "tag_validation"));
  CHECK_OK(ds_engine_save_checkpoint(r.engine, at("tags"), "one", NULL, &err), err);
  CHECK_FAILS(ds_engine_load_checkpoint(r.engine, at("tags"), rank ? "two" : "one", NULL, &err),
              DS_ERR_INVALID, err, "different tags");
  tiny_close(&r);
  static const char *const modes[] = {"", ", \"checkpoint\": {\"tag_validation\": \"ignore\"}"};
  for (int i = 0; i < 2; i++) {
    CHECK_OK(open_run(&r, modes[i], &err), err);
    warnings[0] = '\0';
    CHECK_OK(ds_engine_save_checkpoint(r.engine, at("tags"), mine, NULL, &err), err);
    CHECK((strstr(warnings, "different tags") != NULL) == (i == 0));
    wait_all(r.engine);
    CHECK(ds_file_exists(at("tags/tag0")) && !ds_file_exists(at("tags/tag1")));
    CHECK_OK(ds_engine_load_checkpoint(r.engine, at("tags"), NULL, NULL, &err), err);
    CHECK(ds_engine_global_steps(r.engine) == 0);
    tiny_close(&r);
  }
}

/* As on hosts that don't share the folder. */
static void test_not_shared(void) {
  ds_error err;
  tiny_run r = {0};
  CHECK_OK(open_run(&r, "", &err), err);
  const char *own = at(rank == 0 ? "here" : "there");
  CHECK_FAILS(ds_engine_save_checkpoint(r.engine, own, "t", NULL, &err), DS_ERR_NOT_FOUND, err,
              rank == 0 ? "failed on rank 1: host" : "all hosts share");
  wait_all(r.engine);
  CHECK(leftovers(at("here")) == 0 && !ds_file_exists(at("here/t")));
  CHECK_FAILS(ds_engine_save_model(r.engine, own, true, &err), DS_ERR_NOT_FOUND, err,
              rank == 0 ? "failed on rank 1: host" : "all hosts share");
  wait_all(r.engine);
  CHECK(leftovers(at("here")) == 0 && !ds_file_exists(at("here/model.safetensors")));
  tiny_close(&r);
}

/* What only rank 0 can see is told to all. */
static void test_only_rank_0(void) {
  ds_error err;
  tiny_run r = {0};
  CHECK_OK(open_run(&r, "", &err), err);
  CHECK(ds_engine_save_checkpoint(r.engine, "/proc/nowhere", "x", NULL, &err) != DS_OK);
  CHECK(ds_engine_save_model(r.engine, "/proc/nowhere", true, &err) != DS_OK);
  CHECK_FAILS(ds_engine_load_checkpoint(r.engine, at("nothing"), NULL, NULL, &err),
              DS_ERR_NOT_FOUND, err, rank ? "rank 0 has found no" : "latest is missing");
  /* And what one rank alone was given wrong. */
  CHECK(ds_engine_save_checkpoint(r.engine, at("x"), "x", rank ? "{oops" : NULL, &err) != DS_OK);
  CHECK(!ds_file_exists(at("x/x")));
  tiny_close(&r);
}

/* ---- damage: each rank proves a part; a copy is proven by who has it */

static void flip(const char *path) {
  int fd = open(path, O_RDWR);
  unsigned char byte;
  struct stat st;
  CHECK(fd >= 0 && fstat(fd, &st) == 0 && pread(fd, &byte, 1, st.st_size / 2) == 1);
  byte ^= 4;
  CHECK(pwrite(fd, &byte, 1, st.st_size / 2) == 1);
  close(fd);
}

static const char *const files[] = {"config.json", "engine.json", "model.safetensors",
                                    "optimizer.safetensors"};
enum { FILES = 4 };

static void test_damage(void) {
  ds_error err;
  tiny_run r = {0};
  char path[600];
  float before[WEIGHTS], after[WEIGHTS];
  CHECK_OK(open_run(&r, ", \"zero_optimization\": {\"stage\": 1}", &err), err);
  for (int i = 0; i < FILES; i++) {
    CHECK_OK(ds_engine_save_checkpoint(r.engine, at("damage"), "t", NULL, &err), err);
    snprintf(path, sizeof path, "%s/%s", at("damage/t"), files[i]);
    if (rank == 0) flip(path);
    wait_all(r.engine);
    CHECK_OK(tiny_weights(r.engine, &r.self, before, &err), err);
    ds_status status = ds_engine_load_checkpoint(r.engine, at("damage"), NULL, NULL, &err);
    CHECK(status != DS_OK); /* others may stumble over what the flipped bit made of it */
    if (i % ranks == rank) CHECK(status == DS_ERR_FORMAT && strstr(err.message, files[i]));
    if (i % ranks == rank) CHECK(strstr(err.message, "its checksum is wrong"));
    CHECK_OK(tiny_weights(r.engine, &r.self, after, &err), err);
    CHECK(memcmp(before, after, sizeof before) == 0);
  }
  tiny_close(&r);
}

static void copy(const char *from, const char *to) {
  ds_error err;
  char a[600], b[600], *text;
  size_t size;
  CHECK_OK(ds_make_folders(to, &err), err);
  for (int i = 0; i <= FILES; i++) {
    const char *name = i < FILES ? files[i] : "manifest";
    snprintf(a, sizeof a, "%s/%s", from, name);
    snprintf(b, sizeof b, "%s/%s", to, name);
    CHECK_OK(ds_file_read(a, 1 << 20, &text, &size, &err), err);
    CHECK_OK(ds_file_write(b, text, size, &err), err);
    free(text);
  }
}

static void test_copies(void) {
  ds_error err;
  tiny_run r = {0};
  char own[300], tag[340], path[400];
  CHECK_OK(open_run(&r, "", &err), err);
  train(r.engine, 3);
  CHECK_OK(ds_engine_save_checkpoint(r.engine, at("shared"), "t", NULL, &err), err);
  snprintf(own, sizeof own, "%s/copy%d", root, rank);
  snprintf(tag, sizeof tag, "%s/t", own);
  copy(at("shared/t"), tag);
  train(r.engine, 1);
  CHECK_OK(ds_engine_load_checkpoint(r.engine, own, "t", NULL, &err), err);
  CHECK(ds_engine_global_steps(r.engine) == 3);
  /* Any file of the last rank's copy: that rank finds it. */
  for (int i = 0; i < FILES; i++) {
    snprintf(path, sizeof path, "%s/%s", tag, files[i]);
    if (rank == ranks - 1) flip(path);
    ds_status status = ds_engine_load_checkpoint(r.engine, own, "t", NULL, &err);
    CHECK(status == DS_ERR_FORMAT && strstr(err.message, "its checksum is wrong"));
    if (rank < ranks - 1) CHECK(strstr(err.message, "failed on rank"));
    if (rank == ranks - 1) flip(path);
  }
  CHECK_OK(ds_engine_load_checkpoint(r.engine, own, "t", NULL, &err), err);
  tiny_close(&r);
}

static void remove_tree(void) {
  char command[600];
  snprintf(command, sizeof command, "rm -rf '%s'", root);
  if (system(command) != 0) fprintf(stderr, "cannot remove %s\n", root);
}

int main(int argc, char **argv) {
  if (argc < 4) return 2;
  plugins = argv[1];
  ranks = atoi(argv[2]);
  root = argv[3];
  rank = atoi(getenv("OMPI_COMM_WORLD_RANK"));
  if (rank == 0) remove_tree();
  test_full_disk("", ranks - 1);
  test_full_disk(", \"zero_optimization\": {\"stage\": 3}", 0);
  test_ranks();
  test_tags();
  test_not_shared();
  test_only_rank_0();
  test_damage();
  test_copies();
  return TEST_RESULT();
}
