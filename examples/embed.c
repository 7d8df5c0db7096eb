/* embed.c - generate text in a program of your own. Against the installed library:
 *
 *     cc embed.c $(pkg-config --cflags --libs dscore) -o embed
 *     ./embed FOLDER "Once upon a time"
 *
 * FOLDER is a Hugging Face folder or a checkpoint of `ds train`.
 */
#include <ds.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

int main(int argc, char **argv) {
  ds_init_inference_args args = DS_INIT_INFERENCE_ARGS_INIT;
  ds_generate_args how = DS_GENERATE_ARGS_INIT;
  ds_inference *engine = NULL;
  int32_t *prompt = NULL, *tokens = NULL;
  size_t n_prompt, n_tokens, length;
  char *text = NULL;
  ds_error err;
  if (argc != 3) {
    fprintf(stderr, "usage: %s FOLDER PROMPT\n", argv[0]);
    return 2;
  }
  args.checkpoint = argv[1];
  how.max_new_tokens = 60;
  ds_status status = ds_init_inference(&args, &engine, &err);
  const ds_tokenizer *t = status == DS_OK ? ds_inference_tokenizer(engine) : NULL;
  if (status == DS_OK && !t) {
    fprintf(stderr, "%s has no tokenizer\n", argv[1]);
    ds_inference_destroy(engine);
    return 1;
  }
  if (status == DS_OK)
    status = ds_tokenizer_encode(t, argv[2], strlen(argv[2]), true, &prompt, &n_prompt, &err);
  if (status == DS_OK)
    status = ds_inference_generate(engine, prompt, n_prompt, &how, &tokens, &n_tokens, &err);
  if (status == DS_OK)
    status = ds_tokenizer_decode(t, tokens, n_tokens, false, &text, &length, &err);
  if (status == DS_OK)
    printf("%s%s\n", argv[2], text);
  else
    fprintf(stderr, "%s\n", err.message);
  free(text);
  free(tokens);
  free(prompt);
  ds_inference_destroy(engine);
  return status != DS_OK;
}
