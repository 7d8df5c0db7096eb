/* test_failures.c - training on several ranks, one of which dies: what the others say, that they end,
 * and that the last checkpoint goes on bit for bit. run_failures.sh plays the scenes in order.
 *
 * usage: mpirun -n N test_failures PLUGIN_FOLDER FOLDER OPTIONS MORE SCENE [VICTIM]
 *   OPTIONS  the backend's, as JSON
 *   MORE     more of the config: "", or ", \"zero_optimization\": {...}"
 *   straight nothing fails: all losses are written down
 *   kill, stop, leave   the victim does that to itself amid step DEATH
 *   wait     the victim writes its process id to FOLDER/victim, and all train until one is killed
 *   start    the victim stops before ds_initialize
 *   end      the victim stops once all have trained
 *   resume   from the checkpoint, whose losses must be those of straight
 * DS_TEST_BACKEND in the environment: another backend than cpu. MORE that begins with "unsaved" is without a checkpoint.
 * Survivors print "rank R survives".
 */
#include "unit/train/tiny.h"

#include <signal.h>
#include <time.h>

enum { STEPS = 12, SAVED = 5, DEATH = 8, LIMIT_MS = 2000, MICRO = 4 };

static const char *backend = "cpu", *plugins, *folder, *options, *more;
static int ranks, rank, victim;
static bool saves = true;

static double now(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

static ds_status start(tiny_run *r, ds_error *err) {
  char config[2048];
  ds_initialize_args a = DS_INITIALIZE_ARGS_INIT;
  snprintf(config, sizeof config,
           "{\"backend\": {\"name\": \"%s\", \"plugin_path\": \"%s\", \"comm_timeout\": %g, "
           "\"options\": %s}, \"train_micro_batch_size_per_gpu\": %d, "
           "\"gradient_accumulation_steps\": 1, \"optimizer\": {\"type\": \"AdamW\", "
           "\"params\": {\"lr\": 0.05}}, \"gradient_clipping\": 0.5%s}",
           backend, plugins, LIMIT_MS * 1e-3, options, MICRO, more);
  return tiny_open(r, config, &a, true, err);
}

static void path_of(const char *name, char *out, size_t room) {
  snprintf(out, room, "%s/%s", folder, name);
}

/* ---- what survivors hear */

/* The message names the call, the step, the rank and the time; step 0: whichever. */
static void check_message(const ds_error *err, int step) {
  char who[32], when[32];
  snprintf(who, sizeof who, "rank %d ", victim);
  snprintf(when, sizeof when, step > 0 ? "step %d: " : "step ", step);
  CHECK(err->status == DS_ERR_TIMEOUT || err->status == DS_ERR_DEVICE);
  const char *what = strstr(err->message, "comm: ");
  CHECK(strstr(err->message, when) != NULL);
  CHECK(what && (strstr(what, "reduce") || strstr(what, "gather") || strstr(what, "broadcast")));
  /* After the words about this rank itself. */
  const char *rest = what ? strstr(what, " ms") : NULL;
  CHECK(what && strstr(what, " of 3: ") && (rest ? strstr(rest, who) : strstr(what, who)));
  CHECK(err->status == DS_ERR_DEVICE || (what && strstr(what, "2000 ms") != NULL));
  CHECK(strstr(err->message,
               saves ? "start them anew from the last checkpoint" : "start them anew ("));
  CHECK(!saves || strstr(err->message, "tag saved") != NULL);
  if (test_failures > 0) fprintf(stderr, "rank %d: %s\n", rank, err->message);
}

/* From then on each call fails at once. */
static void check_after(tiny_run *r, ds_error *err) {
  float loss;
  CHECK_FAILS(ds_engine_train_batch(r->engine, &loss, err), DS_ERR_STATE, *err, "start them anew");
  CHECK_FAILS(ds_engine_save_checkpoint(r->engine, folder, "after", NULL, err), DS_ERR_STATE, *err,
              "cut off from the others");
  CHECK_FAILS(ds_engine_load_checkpoint(r->engine, folder, NULL, NULL, err), DS_ERR_STATE, *err,
              "cut off from the others");
}

/* ---- scenes */

static void die(const char *scene) {
  if (strcmp(scene, "kill") == 0) raise(SIGKILL);
  if (strcmp(scene, "stop") == 0) raise(SIGSTOP);
  if (strcmp(scene, "leave") == 0) exit(0);
}

static void write_losses(const float *losses) {
  char path[512];
  path_of("losses", path, sizeof path);
  FILE *f = rank == 0 ? fopen(path, "w") : NULL;
  for (int i = 0; f && i < STEPS; i++) fprintf(f, "%a\n", (double)losses[i]);
  if (f) fclose(f);
}

static void straight(void) {
  ds_error err;
  tiny_run r = {0};
  float losses[STEPS];
  CHECK_OK(start(&r, &err), err);
  for (int i = 0; r.engine && i < STEPS; i++)
    CHECK_OK(ds_engine_train_batch(r.engine, &losses[i], &err), err);
  if (rank == 0) write_losses(losses);
  tiny_close(&r);
}

static void resume(void) {
  char path[512];
  ds_error err;
  tiny_run r = {0};
  double wanted[STEPS];
  float loss;
  path_of("losses", path, sizeof path);
  FILE *f = fopen(path, "r");
  for (int i = 0; i < STEPS; i++) CHECK(f && fscanf(f, "%la", &wanted[i]) == 1);
  if (f) fclose(f);
  CHECK_OK(start(&r, &err), err);
  if (!r.engine) return;
  CHECK_OK(ds_engine_load_checkpoint(r.engine, folder, NULL, NULL, &err), err);
  CHECK(ds_engine_global_steps(r.engine) == SAVED);
  for (int i = SAVED; i < STEPS; i++) {
    CHECK_OK(ds_engine_train_batch(r.engine, &loss, &err), err);
    CHECK((double)loss == wanted[i]);
  }
  tiny_close(&r);
}

/* One step by hand, in the middle of which the victim dies. */
static ds_status fatal_step(tiny_run *r, const char *scene, ds_error *err) {
  ds_batch b = tiny_batch(rank * MICRO, MICRO);
  ds_value *loss;
  ds_status status = ds_engine_forward(r->engine, &b, &loss, err);
  if (status == DS_OK) status = ds_engine_backward(r->engine, loss, err);
  if (rank == victim) die(scene);
  /* Where gradients are reduced in backward, that may have failed by now. */
  return status == DS_OK ? ds_engine_step(r->engine, err) : status;
}

static void write_pid(void) {
  char path[512], part[512];
  path_of("victim", path, sizeof path);
  path_of("victim.part", part, sizeof part);
  FILE *f = fopen(part, "w");
  if (f) fprintf(f, "%d\n", (int)getpid());
  if (f) fclose(f);
  CHECK(rename(part, path) == 0);
}

static void train(const char *scene) {
  ds_error err = {DS_OK, ""};
  tiny_run r = {0};
  float loss;
  bool waits = strcmp(scene, "wait") == 0;
  CHECK_OK(start(&r, &err), err);
  if (!r.engine) return;
  for (int i = 0; i < SAVED; i++) CHECK_OK(ds_engine_train_batch(r.engine, &loss, &err), err);
  if (saves) CHECK_OK(ds_engine_save_checkpoint(r.engine, folder, "saved", NULL, &err), err);
  for (int i = SAVED; i < DEATH - 1; i++)
    CHECK_OK(ds_engine_train_batch(r.engine, &loss, &err), err);
  if (waits && rank == victim) write_pid();
  double began = now();
  ds_status status = waits ? DS_OK : fatal_step(&r, scene, &err);
  while (waits && status == DS_OK) status = ds_engine_train_batch(r.engine, &loss, &err);
  CHECK(status != DS_OK);
  if (!waits) CHECK(now() - began < 10 * LIMIT_MS * 1e-3);
  check_message(&err, waits ? 0 : DEATH);
  check_after(&r, &err);
  tiny_close(&r);
}

static void start_without(void) {
  ds_error err = {DS_OK, ""};
  tiny_run r = {0};
  if (rank == victim) raise(SIGSTOP);
  CHECK_FAILS(start(&r, &err), DS_ERR_TIMEOUT, err, "2000 ms (comm_timeout)");
  CHECK(strstr(err.message, "has not come to ds_initialize") != NULL);
  tiny_close(&r);
}

/* The others end as well, though the launcher's runtime would wait for ever. */
static void end(void) {
  ds_error err = {DS_OK, ""};
  tiny_run r = {0};
  float loss;
  CHECK_OK(start(&r, &err), err);
  for (int i = 0; r.engine && i < SAVED; i++)
    CHECK_OK(ds_engine_train_batch(r.engine, &loss, &err), err);
  tiny_close(&r);
  if (rank == victim) raise(SIGSTOP);
}

int main(int argc, char **argv) {
  const char *text = getenv("OMPI_COMM_WORLD_RANK"), *size = getenv("OMPI_COMM_WORLD_SIZE");
  if (argc < 6 || !text || !size) return 2;
  plugins = argv[1];
  folder = argv[2];
  options = argv[3];
  more = argv[4];
  if (strncmp(more, "unsaved", 7) == 0) {
    saves = false;
    more += 7;
  }
  const char *scene = argv[5];
  if (getenv("DS_TEST_BACKEND")) backend = getenv("DS_TEST_BACKEND");
  victim = argc > 6 ? atoi(argv[6]) : -1;
  rank = atoi(text);
  ranks = atoi(size);
  CHECK(ranks == 3);
  if (strcmp(scene, "straight") == 0)
    straight();
  else if (strcmp(scene, "resume") == 0)
    resume();
  else if (strcmp(scene, "start") == 0)
    start_without();
  else if (strcmp(scene, "end") == 0)
    end();
  else
    train(scene);
  if (rank != victim) printf("rank %d %s\n", rank, test_failures == 0 ? "survives" : "FAILED");
  fflush(stdout);
  return TEST_RESULT();
}
