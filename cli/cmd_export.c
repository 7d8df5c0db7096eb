#include "cli.h"

#include "base/file.h"
#include "base/status.h"
#include "train/export.h"

#include <stdlib.h>
#include <string.h>

typedef struct export {
  const char *checkpoint, *out, *tag;
  bool bits16;
}
export;

/* The tokenizer's files, where a folder has some. *done: it had. */
static ds_status take_tokenizer(const char *folder, const char *out, bool *done, ds_error *err) {
  static const char *const files[] = {"tokenizer.json", "vocab.json"};
  ds_tokenizer *t = NULL;
  *done = false;
  for (int i = 0; i < 2 && !*done; i++) {
    char *path = ds_path_join(folder, files[i]);
    if (!path) return ds_fail_memory(err, "a path");
    *done = ds_file_exists(path);
    free(path);
  }
  if (!*done) return DS_OK;
  ds_status status = ds_tokenizer_load(folder, &t, err);
  if (status == DS_OK) status = ds_tokenizer_save(t, out, err);
  ds_tokenizer_destroy(t);
  return status;
}

/* ds train keeps it beside the checkpoints: in the folder given, or in the one above. */
static ds_status copy_tokenizer(const export *x, ds_error *err) {
  bool done;
  DS_TRY(take_tokenizer(x->checkpoint, x->out, &done, err));
  if (done || x->tag) return DS_OK;
  char *manifest = ds_path_join(x->checkpoint, "manifest");
  char *above = ds_path_join(x->checkpoint, "..");
  ds_status status = manifest && above ? DS_OK : ds_fail_memory(err, "a path");
  if (status == DS_OK && ds_file_exists(manifest))
    status = take_tokenizer(above, x->out, &done, err);
  free(manifest);
  free(above);
  return status;
}

int cmd_export(int argc, char **argv) {
  export x = {0};
  option_list words;
  const command c = {
      "export",
      "Makes a Hugging Face folder of a checkpoint, which any layout of ranks may have written. "
      "No rank, device\nor config is needed.",
      "CHECKPOINT OUT [--bits16] [--tag TAG]",
      "CHECKPOINT is the DIR of ds train --output, whose `latest` is taken, or one checkpoint in "
      "it.\nOUT gets model.safetensors (f32, or bf16 with --bits16), config.json and the "
      "tokenizer's files where\nthere are some.\n\n"
      "example:\n  ds export out hf --bits16 && ds generate --model hf --prompt Hello",
      {{"--bits16", OPTION_FLAG, &x.bits16, NULL, "store weights in bf16 rather than in f32"},
       {"--tag", OPTION_STRING, &x.tag, "TAG", "the checkpoint of that name, not the latest"}}};
  parsed p = options_parse(&c, argc, argv, &words);
  if (p != PARSED_RUN) return p == PARSED_HELP ? 0 : 2;
  if (words.count != 2) {
    fprintf(stderr, "ds export: wanted CHECKPOINT and OUT, got %d (ds export --help)\n",
            words.count);
    return 2;
  }
  x.checkpoint = words.values[0];
  x.out = words.values[1];
  ds_error err;
  ds_status status = ds_export_checkpoint(x.checkpoint, x.tag, x.out, x.bits16, &err);
  if (status == DS_OK) status = copy_tokenizer(&x, &err);
  return status == DS_OK ? 0 : cli_fail("export", &err);
}
