#include "cli.h"

#include "base/file.h"
#include "base/str.h"
#include "plot.h"
#include "progress.h"
#include "stats.h"
#include "train/engine.h"

#include <errno.h>
#include <math.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

typedef struct train {
  const char *model_path, *config, *tokenizer_path, *output, *svg, *trace;
  option_list data;
  int64_t seq_len, steps, seed, save_every;
  bool resume, json, stats, tokenizer_saved;
  ds_model *model;
  ds_tokenizer *tokenizer;
  ds_dataset *dataset;
  ds_engine *engine;
  int64_t *curve_steps;
  float *curve_losses;
  size_t curve_steps_capacity, curve_losses_capacity, curve_count;
} train;

static volatile sig_atomic_t interrupted;
static void on_signal(int number) {
  interrupted = number;
}

/* From the first step on there is something to save; the second signal doesn't wait for it. */
static void catch_signals(void) {
  struct sigaction action = {.sa_handler = on_signal, .sa_flags = SA_RESTART | (int)SA_RESETHAND};
  sigemptyset(&action.sa_mask);
  sigaction(SIGINT, &action, NULL);
  sigaction(SIGTERM, &action, NULL);
}

/* --tokenizer, else the model folder's, else bytes for a vocabulary of 256. */
static ds_status find_tokenizer(train *t, const ds_model_info *info, ds_error *err) {
  if (t->tokenizer_path && strcmp(t->tokenizer_path, "bytes") == 0)
    return ds_tokenizer_bytes(&t->tokenizer, err);
  if (t->tokenizer_path) return ds_tokenizer_load(t->tokenizer_path, &t->tokenizer, err);
  static const char *const files[] = {"tokenizer.json", "vocab.json"};
  for (size_t i = 0; i < 2 && ds_is_folder(t->model_path); i++) {
    char *path = ds_path_join(t->model_path, files[i]);
    if (!path) return ds_fail_memory(err, "a path");
    bool there = ds_file_exists(path);
    free(path);
    if (there) return ds_tokenizer_load(t->model_path, &t->tokenizer, err);
  }
  if (info->vocab_size == 256) return ds_tokenizer_bytes(&t->tokenizer, err);
  return ds_fail(
      err, DS_ERR_NOT_FOUND,
      "no tokenizer: %s has none and its vocabulary of %lld isn't that of bytes (256); give "
      "--tokenizer FILE",
      t->model_path, (long long)info->vocab_size);
}

/* Told now rather than at the first save. */
static ds_status open_output(const char *path, ds_error *err) {
  DS_TRY(ds_make_folders(path, err));
  if (access(path, W_OK | X_OK) == 0) return DS_OK;
  return ds_fail(err, DS_ERR_IO, "cannot write to folder %s: %s", path, strerror(errno));
}

/* Whether ds run has started us again and there is a checkpoint of the start before: of another, older
 * training in the same folder nothing is to be taken. */
static ds_status is_restarted(const train *t, bool *out, ds_error *err) {
  const char *count = getenv("DS_RESTART_COUNT"), *start = getenv("DS_RUN_START");
  struct stat latest;
  *out = false;
  if (!t->output || !count || !start || atoi(count) < 1) return DS_OK;
  char *path = ds_path_join(t->output, "latest");
  if (!path) return ds_fail_memory(err, "a path");
  *out = stat(path, &latest) == 0 && (long long)latest.st_mtime >= atoll(start);
  free(path);
  return DS_OK;
}

static ds_status open_all(train *t, ds_error *err) {
  ds_model_info info = {.size = sizeof info};
  DS_TRY(ds_model_load(t->model_path, &t->model, err));
  DS_TRY(ds_model_get_info(t->model, &info, err));
  DS_TRY(find_tokenizer(t, &info, err));
  if (t->seq_len == 0) t->seq_len = info.max_positions < 256 ? info.max_positions : 256;
  if (t->seq_len > info.max_positions)
    return ds_fail(err, DS_ERR_INVALID, "--seq-len %lld is more than the model's %lld positions",
                   (long long)t->seq_len, (long long)info.max_positions);
  DS_TRY(ds_dataset_text(t->data.values, t->data.count, t->tokenizer, t->seq_len, info.vocab_size,
                         &t->dataset, err));
  if (t->trace && setenv("DS_TRACE", t->trace, 1) != 0) return ds_fail_memory(err, "--trace");
  ds_initialize_args args = DS_INITIALIZE_ARGS_INIT;
  args.model = t->model;
  args.training_data = t->dataset;
  args.config = t->config;
  args.seed = (uint64_t)t->seed;
  args.log = cli_log;
  DS_TRY(ds_initialize(&args, &t->engine, NULL, NULL, NULL, err));
  bool restarted;
  DS_TRY(is_restarted(t, &restarted, err));
  if (t->resume || restarted)
    DS_TRY(ds_engine_load_checkpoint(t->engine, t->output, NULL, NULL, err));
  return t->output ? open_output(t->output, err) : DS_OK;
}

/* Steps of one epoch, when --steps was not given. */
static int64_t epoch_steps(const train *t) {
  int64_t samples = ds_dataset_length(t->dataset), batch = ds_engine_train_batch_size(t->engine);
  int64_t steps = samples / batch;
  return steps > 0 ? steps : 1;
}

/* What all ranks would say alike, rank 0 says. */
static bool is_speaker(const train *t) {
  return ds_engine_global_rank(t->engine) == 0;
}

static ds_status remember(train *t, int64_t step, float loss, ds_error *err) {
  if (!t->svg || !is_speaker(t)) return DS_OK;
  DS_TRY(ds_reserve(&t->curve_steps, &t->curve_steps_capacity, t->curve_count + 1,
                    sizeof *t->curve_steps, "the loss curve", err));
  DS_TRY(ds_reserve(&t->curve_losses, &t->curve_losses_capacity, t->curve_count + 1,
                    sizeof *t->curve_losses, "the loss curve", err));
  t->curve_steps[t->curve_count] = step;
  t->curve_losses[t->curve_count++] = loss;
  return DS_OK;
}

/* The tokenizer belongs beside the checkpoints. Where there are some already it follows the new
 * one: a save that fails leaves them with theirs. */
static ds_status save(train *t, ds_error *err) {
  if (!t->output) return DS_OK;
  char *latest = ds_path_join(t->output, "latest");
  if (!latest) return ds_fail_memory(err, "a path");
  bool follows = ds_file_exists(latest);
  free(latest);
  if (!follows) DS_TRY(ds_tokenizer_save(t->tokenizer, t->output, err));
  DS_TRY(ds_engine_save_checkpoint(t->engine, t->output, NULL, NULL, err));
  if (follows && !t->tokenizer_saved) DS_TRY(ds_tokenizer_save(t->tokenizer, t->output, err));
  t->tokenizer_saved = true;
  return DS_OK;
}

/* All ranks stop after the same step, whichever was asked to: saving takes all of them. */
static ds_status is_stopped(train *t, bool *out, ds_error *err) {
  ds_error inner = {DS_OK, "asked to end"};
  /* One that no collective fails with. */
  const ds_status mine = interrupted ? DS_ERR_END : DS_OK;
  const ds_status all = ds_world_agree(&t->engine->world, mine, "going on", &inner);
  *out = all != DS_OK;
  if (all == DS_OK || all == DS_ERR_END) return DS_OK;
  return ds_fail(err, all, "%s", inner.message);
}

static ds_status run_steps(train *t, ds_error *err) {
  bool stopped = false;
  progress p;
  int64_t first = ds_engine_global_steps(t->engine);
  ds_status status = DS_OK;
  progress_start(&p, t->json, first, t->steps);
  int64_t tokens = ds_engine_train_batch_size(t->engine) * t->seq_len;
  while (status == DS_OK && ds_engine_global_steps(t->engine) < t->steps && !stopped) {
    double start = cli_now(), lr = ds_engine_get_lr(t->engine);
    float loss;
    status = ds_engine_train_batch(t->engine, &loss, err);
    if (status != DS_OK) break;
    progress_step s = {ds_engine_global_steps(t->engine),
                       loss,
                       lr,
                       ds_engine_get_global_grad_norm(t->engine),
                       cli_now() - start,
                       tokens};
    if (is_speaker(t)) progress_show(&p, &s);
    status = remember(t, s.step, loss, err);
    if (status == DS_OK) status = is_stopped(t, &stopped, err);
    bool last = s.step == t->steps;
    if (status == DS_OK && t->save_every > 0 && s.step % t->save_every == 0 && !last)
      status = save(t, err);
  }
  if (is_speaker(t)) progress_end(&p);
  return status;
}

/* Of rank 0: those of the others differ in time alone. */
static ds_status print_comms(const train *t, ds_error *err) {
  const ds_comms_stats *rows;
  size_t n;
  ds_status status = ds_engine_comms_summary(t->engine, &rows, &n, err);
  if (status == DS_ERR_STATE) return DS_OK; /* the config doesn't ask for it */
  if (status == DS_OK && is_speaker(t)) comms_print(rows, n);
  return status;
}

static ds_status print_stats(const train *t, ds_error *err) {
  ds_backend_stats stats = {.size = sizeof stats};
  DS_TRY(print_comms(t, err));
  if (!t->stats || !is_speaker(t)) return DS_OK;
  fflush(stdout);
  DS_TRY(ds_engine_backend_stats(t->engine, &stats, err));
  stats_print(&stats);
  return DS_OK;
}

/* The config or DS_TRACE may ask for it as well as --trace. */
static ds_status save_trace(const train *t, ds_error *err) {
  ds_status status = ds_engine_save_trace(t->engine, err);
  return status == DS_ERR_STATE && !t->trace ? DS_OK : status; /* nothing is traced */
}

static ds_status train_all(train *t, ds_error *err) {
  DS_TRY(open_all(t, err));
  if (t->steps < 0) t->steps = epoch_steps(t);
  if (ds_engine_global_steps(t->engine) >= t->steps) {
    if (is_speaker(t))
      fprintf(stderr, "ds train: %lld steps are done already; --steps %lld asks for no more\n",
              (long long)ds_engine_global_steps(t->engine), (long long)t->steps);
    return DS_OK;
  }
  catch_signals();
  DS_TRY(run_steps(t, err));
  DS_TRY(save(t, err));
  DS_TRY(save_trace(t, err));
  if (!is_speaker(t)) return DS_OK;
  if (t->svg) {
    if (t->curve_count > 0)
      DS_TRY(plot_loss(t->svg, t->curve_steps, t->curve_losses, (int64_t)t->curve_count, err));
    else
      fprintf(stderr, "ds train: stopped before the first step; no curve to draw\n");
  }
  if (t->output && !t->json)
    printf("saved step %lld in %s\n", (long long)ds_engine_global_steps(t->engine), t->output);
  return DS_OK;
}

static int check(const train *t, const option_list *words) {
  if (words->count > 0)
    fprintf(stderr, "ds train: unexpected \"%s\"\n", words->values[0]);
  else if (!t->model_path)
    fprintf(stderr, "ds train: --model is missing\n");
  else if (t->data.count == 0)
    fprintf(stderr, "ds train: --data is missing\n");
  else if (!t->config)
    fprintf(stderr, "ds train: --config is missing\n");
  else if (t->seq_len < 0)
    fprintf(stderr, "ds train: --seq-len must be positive\n");
  else if (t->steps == 0 || t->steps < -1)
    fprintf(stderr, "ds train: --steps must be positive\n");
  else if (t->save_every < 0)
    fprintf(stderr, "ds train: --save-every must not be negative\n");
  else if (t->seed < 0)
    fprintf(stderr, "ds train: --seed must not be negative\n");
  else if (t->resume && !t->output)
    fprintf(stderr, "ds train: --resume needs --output\n");
  else
    return 0;
  fprintf(stderr, "ds train --help explains the options\n");
  return 2;
}

int cmd_train(int argc, char **argv) {
  train t = {.steps = -1, .seed = 42};
  option_list words;
  const command c = {
      "train",
      "Trains a model on text files to predict the next token, and saves checkpoints.",
      "--model (FOLDER | config.json) --data TEXT... --config ds_config.json [OPTION]...",
      "A checkpoint is a Hugging Face folder besides: OUTPUT/global_stepN holds config.json and\n"
      "model.safetensors. Interrupting (Ctrl-C) saves before it ends.\n"
      "On several ranks: ds run -n N -- ds train ...; how they divide the work is the config's\n"
      "(zero_optimization, tensor_parallel, pipeline, sequence_parallel_size). --resume goes on "
      "from a\n"
      "checkpoint of any other number of ranks and division.\n\n"
      "examples:\n"
      "  ds train --model gpt2-small/config.json --data book.txt --config ds_config.json \\\n"
      "     --seq-len 128 --steps 500 --output out\n"
      "  ds train ... --output out --steps 1000 --resume\n"
      "  ds run -n 4 -- ds train ... --output out --steps 1500 --resume",
      {{"--model", OPTION_STRING, &t.model_path, "PATH",
        "a Hugging Face folder (weights are loaded if there) or a\nconfig.json (random weights)"},
       {"--data", OPTION_LIST, &t.data, "TEXT...", "text files"},
       {"--config", OPTION_STRING, &t.config, "FILE", "DeepSpeed config, as a file or JSON text"},
       {"--tokenizer", OPTION_STRING, &t.tokenizer_path, "PATH",
        "tokenizer.json, a folder with vocab.json and merges.txt, or\n\"bytes\" (the model "
        "folder's; "
        "bytes for a vocabulary of 256)"},
       {"--seq-len", OPTION_INT, &t.seq_len, "T",
        "tokens in a sample (the model's positions, at most 256)"},
       {"--steps", OPTION_INT, &t.steps, "N", "train until step N (one epoch)"},
       {"--seed", OPTION_INT, &t.seed, "S", "of weights and shuffling (42)"},
       {"--output", OPTION_STRING, &t.output, "DIR", "where checkpoints go (none are saved)"},
       {"--save-every", OPTION_INT, &t.save_every, "N",
        "save every N steps besides at the end (0: only then)"},
       {"--resume", OPTION_FLAG, &t.resume, NULL, "go on from the latest checkpoint in DIR"},
       {"--svg", OPTION_STRING, &t.svg, "FILE", "write the loss curve"},
       {"--trace", OPTION_STRING, &t.trace, "FILE",
        "write a timeline of all ranks' work, for https://ui.perfetto.dev\nor chrome://tracing"},
       {"--stats", OPTION_FLAG, &t.stats, NULL, STATS_HELP},
       {"--json", OPTION_FLAG, &t.json, NULL,
        "a line per step: step, loss, lr, grad_norm, tokens_per_s"}}};
  parsed p = options_parse(&c, argc, argv, &words);
  if (p != PARSED_RUN) return p == PARSED_HELP ? 0 : 2;
  int wrong = check(&t, &words);
  if (wrong) return wrong;
  ds_error err;
  ds_status status = train_all(&t, &err);
  if (status == DS_OK) status = print_stats(&t, &err);
  int code = status == DS_OK ? 0 : cli_fail("train", &err);
  ds_engine_destroy(t.engine);
  ds_dataset_destroy(t.dataset);
  ds_tokenizer_destroy(t.tokenizer);
  ds_model_destroy(t.model);
  free(t.curve_steps);
  free(t.curve_losses);
  return code ? code : interrupted ? 128 + (int)interrupted : 0;
}
