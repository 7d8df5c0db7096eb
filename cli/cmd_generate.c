#include "cli.h"

#include "base/status.h"
#include "stats.h"

#include <cjson/cJSON.h>
#include <stdlib.h>
#include <string.h>

typedef struct generate {
  const char *model, *prompt, *config, *tokenizer_path;
  int64_t max_new_tokens, top_k, seed;
  double temperature, top_p;
  option_list set;
  bool json, stats, ignore_eos;
  ds_inference *engine;
  ds_tokenizer *own_tokenizer;
  int32_t *prompt_ids, *ids; /* ids: the prompt's, then the new ones, as they come */
  size_t n_prompt, n_ids, shown;
} generate;

/* --set a.b=value: the keyword arguments of init_inference. The value is JSON, or else a string. */
static ds_status add_setting(cJSON *root, const char *setting, ds_error *err) {
  const char *equals = strchr(setting, '=');
  if (!equals || equals == setting)
    return ds_fail(err, DS_ERR_INVALID, "--set wants key=value, not \"%s\"", setting);
  char *key = strndup(setting, (size_t)(equals - setting));
  if (!key) return ds_fail_memory(err, "--set");
  cJSON *object = root;
  char *part = key;
  for (char *dot; object && (dot = strchr(part, '.')); part = dot + 1) {
    *dot = '\0';
    cJSON *next = cJSON_GetObjectItemCaseSensitive(object, part);
    object = next ? next : cJSON_AddObjectToObject(object, part);
    if (object && !cJSON_IsObject(object)) object = NULL;
  }
  cJSON *value = cJSON_Parse(equals + 1);
  if (!value) value = cJSON_CreateString(equals + 1);
  bool added = false;
  if (object && value) {
    cJSON_DeleteItemFromObjectCaseSensitive(object, part);
    added = cJSON_AddItemToObject(object, part, value);
  }
  free(key);
  if (added) return DS_OK;
  cJSON_Delete(value);
  return ds_fail(err, DS_ERR_INVALID, "--set %s: a part of the key is no section", setting);
}

static ds_status settings(const generate *g, char **out, ds_error *err) {
  *out = NULL;
  if (g->set.count == 0) return DS_OK;
  cJSON *root = cJSON_CreateObject();
  ds_status status = root ? DS_OK : ds_fail_memory(err, "--set");
  for (int i = 0; i < g->set.count && status == DS_OK; i++)
    status = add_setting(root, g->set.values[i], err);
  if (status == DS_OK && !(*out = cJSON_PrintUnformatted(root)))
    status = ds_fail_memory(err, "--set");
  cJSON_Delete(root);
  return status;
}

static const ds_tokenizer *tokenizer(const generate *g) {
  return g->own_tokenizer ? g->own_tokenizer : ds_inference_tokenizer(g->engine);
}

/* Bytes at the end of text that begin a UTF-8 character without ending it. */
static size_t unfinished(const char *text, size_t length) {
  for (size_t back = 1; back <= 3 && back <= length; back++) {
    unsigned char c = (unsigned char)text[length - back];
    if ((c & 0xc0) == 0x80) continue;
    size_t want = c >= 0xf0 ? 4 : c >= 0xe0 ? 3 : c >= 0xc0 ? 2 : 1;
    return want > back ? back : 0;
  }
  return 0;
}

/* Prints what the newest token adds to the text. Decoding all of it keeps the tokenizer's rules
 * about the text's beginning and about characters of several tokens. */
static bool print_new(generate *g, bool last) {
  char *text;
  size_t length;
  if (ds_tokenizer_decode(tokenizer(g), g->ids, g->n_ids, false, &text, &length, NULL) != DS_OK)
    return false;
  size_t end = last ? length : length - unfinished(text, length);
  if (end > g->shown) {
    fwrite(text + g->shown, 1, end - g->shown, stdout);
    fflush(stdout);
    g->shown = end;
  }
  free(text);
  return !ferror(stdout);
}

static bool on_token(void *ctx, int32_t token) {
  generate *g = ctx;
  g->ids[g->n_ids++] = token;
  return g->json || print_new(g, false);
}

static ds_status prepare(generate *g, ds_error *err) {
  char *kwargs;
  DS_TRY(settings(g, &kwargs, err));
  ds_init_inference_args args = DS_INIT_INFERENCE_ARGS_INIT;
  args.checkpoint = g->model;
  args.config = g->config;
  args.kwargs = kwargs;
  args.log = cli_log;
  ds_status status = ds_init_inference(&args, &g->engine, err);
  free(kwargs);
  if (status != DS_OK) return status;
  if (g->tokenizer_path)
    DS_TRY(strcmp(g->tokenizer_path, "bytes") == 0
               ? ds_tokenizer_bytes(&g->own_tokenizer, err)
               : ds_tokenizer_load(g->tokenizer_path, &g->own_tokenizer, err));
  if (!tokenizer(g))
    return ds_fail(err, DS_ERR_NOT_FOUND, "%s has no tokenizer; give --tokenizer FILE", g->model);
  DS_TRY(ds_tokenizer_encode(tokenizer(g), g->prompt, strlen(g->prompt), true, &g->prompt_ids,
                             &g->n_prompt, err));
  if (g->n_prompt == 0 && ds_tokenizer_bos(tokenizer(g)) >= 0) {
    free(g->prompt_ids);
    g->prompt_ids = malloc(sizeof *g->prompt_ids);
    if (!g->prompt_ids) return ds_fail_memory(err, "the prompt");
    g->prompt_ids[g->n_prompt++] = ds_tokenizer_bos(tokenizer(g));
  }
  g->ids = malloc((g->n_prompt + (size_t)g->max_new_tokens + 1) * sizeof *g->ids);
  if (!g->ids) return ds_fail_memory(err, "the tokens");
  memcpy(g->ids, g->prompt_ids, g->n_prompt * sizeof *g->ids);
  g->n_ids = g->n_prompt;
  return DS_OK;
}

static ds_status print_json(generate *g, ds_error *err) {
  char *text;
  size_t length;
  DS_TRY(ds_tokenizer_decode(tokenizer(g), g->ids, g->n_ids, false, &text, &length, err));
  ds_generate_times times = {.size = sizeof times};
  ds_status status = ds_inference_times(g->engine, &times, err);
  if (status == DS_OK) {
    printf("{\"text\":");
    cli_print_json_string(stdout, text, length);
    printf(",\"tokens\":[");
    for (size_t i = g->n_prompt; i < g->n_ids; i++)
      printf("%s%d", i > g->n_prompt ? "," : "", g->ids[i]);
    double rate = times.decode_seconds > 0 ? (double)times.decode_tokens / times.decode_seconds : 0;
    printf("],\"tokens_per_s\":%.6g,\"prompt_tokens\":%lld,\"prompt_seconds\":%.6g}\n", rate,
           (long long)times.prompt_tokens, times.prompt_seconds);
  }
  free(text);
  return status;
}

static ds_status generate_all(generate *g, ds_error *err) {
  DS_TRY(prepare(g, err));
  ds_generate_args how = DS_GENERATE_ARGS_INIT;
  how.max_new_tokens = g->max_new_tokens;
  how.temperature = g->temperature;
  how.top_k = g->top_k;
  how.top_p = g->top_p;
  how.seed = (uint64_t)g->seed;
  how.eos_token = g->ignore_eos ? -2 : -1;
  how.on_token = on_token;
  how.on_token_ctx = g;
  if (!g->json) print_new(g, false);
  int32_t *tokens;
  size_t n;
  ds_status status =
      ds_inference_generate(g->engine, g->prompt_ids, g->n_prompt, &how, &tokens, &n, err);
  free(tokens);
  if (status != DS_OK) {
    if (!g->json) putchar('\n');
    return status;
  }
  if (g->json) return print_json(g, err);
  print_new(g, true);
  putchar('\n');
  return DS_OK;
}

static ds_status print_stats(const generate *g, ds_error *err) {
  ds_backend_stats stats = {.size = sizeof stats};
  if (!g->stats) return DS_OK;
  fflush(stdout);
  DS_TRY(ds_inference_backend_stats(g->engine, &stats, err));
  stats_print(&stats);
  return DS_OK;
}

static int check(const generate *g, const option_list *words) {
  if (words->count > 0)
    fprintf(stderr, "ds generate: unexpected \"%s\"\n", words->values[0]);
  else if (!g->model)
    fprintf(stderr, "ds generate: --model is missing\n");
  else if (!g->prompt)
    fprintf(stderr, "ds generate: --prompt is missing\n");
  else if (g->max_new_tokens < 0 || g->max_new_tokens > INT32_MAX)
    fprintf(stderr, "ds generate: --max-new-tokens must be from 0 to %d\n", INT32_MAX);
  else if (g->seed < 0)
    fprintf(stderr, "ds generate: --seed must not be negative\n");
  else
    return 0;
  fprintf(stderr, "ds generate --help explains the options\n");
  return 2;
}

int cmd_generate(int argc, char **argv) {
  generate g = {.max_new_tokens = 100, .temperature = 1, .top_p = 1, .seed = 0};
  option_list words;
  const command c = {
      "generate",
      "Continues a prompt. Text goes to stdout as it is made, the prompt first.",
      "--model (FOLDER | CHECKPOINT) --prompt P [OPTION]...",
      "examples:\n"
      "  ds generate --model out --prompt 'In the beginning' --temperature 0.8 --top-k 40\n"
      "  ds generate --model llama --prompt Hello --temperature 0 --set dtype=bf16 --json",
      {{"--model", OPTION_STRING, &g.model, "PATH",
        "a Hugging Face folder, or the DIR of ds train --output"},
       {"--prompt", OPTION_STRING, &g.prompt, "P", "the text to continue"},
       {"--max-new-tokens", OPTION_INT, &g.max_new_tokens, "N", "at most so many (100)"},
       {"--temperature", OPTION_NUMBER, &g.temperature, "X", "0 is greedy; below 1 is bolder (1)"},
       {"--top-k", OPTION_INT, &g.top_k, "K", "draw among the K likeliest; 0 is all (0)"},
       {"--top-p", OPTION_NUMBER, &g.top_p, "P", "draw among the likeliest that make up P (1)"},
       {"--seed", OPTION_INT, &g.seed, "S", "the same seed gives the same text (0)"},
       {"--ignore-eos", OPTION_FLAG, &g.ignore_eos, NULL, "don't stop at the end token"},
       {"--tokenizer", OPTION_STRING, &g.tokenizer_path, "PATH",
        "instead of the model's own; or \"bytes\""},
       {"--config", OPTION_STRING, &g.config, "FILE", "inference config, as a file or JSON text"},
       {"--set", OPTION_LIST, &g.set, "key=value...",
        "override config keys: --set dtype=bf16 backend=reference"},
       {"--stats", OPTION_FLAG, &g.stats, NULL, STATS_HELP},
       {"--json", OPTION_FLAG, &g.json, NULL, "one object: text, tokens, tokens_per_s"}}};
  parsed p = options_parse(&c, argc, argv, &words);
  if (p != PARSED_RUN) return p == PARSED_HELP ? 0 : 2;
  int wrong = check(&g, &words);
  if (wrong) return wrong;
  ds_error err;
  ds_status status = generate_all(&g, &err);
  if (status == DS_OK) status = print_stats(&g, &err);
  int code = status == DS_OK ? 0 : cli_fail("generate", &err);
  ds_inference_destroy(g.engine);
  ds_tokenizer_destroy(g.own_tokenizer);
  free(g.prompt_ids);
  free(g.ids);
  return code;
}
