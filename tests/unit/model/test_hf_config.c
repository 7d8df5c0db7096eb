/* Hugging Face folders: which configs are taken, and weights in and out. */
#include "base/file.h"
#include "base/json.h"
#include "model/family.h"
#include "model/model.h"
#include "model/params.h"
#include "model/rope_scaling.h"
#include "model/safetensors.h"
#include "temp_folder.h"
#include "tensor/tensor.h"
#include "test.h"

#define GPT2 "\"model_type\":\"gpt2\",\"n_embd\":8,\"n_layer\":2,\"n_head\":2,\"vocab_size\":11"
#define LLAMA                                                                                      \
  "\"model_type\":\"llama\",\"hidden_size\":8,\"intermediate_size\":12,\"vocab_size\":11,"         \
  "\"num_hidden_layers\":1,\"max_position_embeddings\":16"

static void test_accepted(void) {
  static const struct {
    const char *config;
    int params; /* how many parameters it declares */
  } cases[] = {
      {"{" GPT2 ",\"n_positions\":16}", 2 + 2 * 12 + 2},
      {"{" GPT2 ",\"n_ctx\":16,\"n_inner\":null,\"attn_pdrop\":0.1,\"something_new\":{}}", 28},
      {"{" GPT2 ",\"n_positions\":16,\"tie_word_embeddings\":false}", 29},
      {"{" GPT2 ",\"n_positions\":16,\"activation_function\":\"relu\"}", 28},
      {"{" GPT2 ",\"n_positions\":16,\"reorder_and_upcast_attn\":true,\"scale_attn_weights\":true,"
       "\"quantization_config\":null}",
       28},
      {"{" LLAMA ",\"num_attention_heads\":2}", 1 + 9 + 2},
      {"{" LLAMA ",\"num_attention_heads\":2,\"tie_word_embeddings\":true}", 11},
      {"{" LLAMA ",\"num_attention_heads\":2,\"attention_bias\":true}", 16},
      {"{" LLAMA ",\"num_attention_heads\":2,\"mlp_bias\":true,\"attention_bias\":true}", 19},
      {"{" LLAMA ",\"num_attention_heads\":3,\"head_dim\":4,\"num_key_value_heads\":1}", 12},
      {"{" LLAMA ",\"num_attention_heads\":2,\"head_dim\":null,\"hidden_act\":\"silu\","
       "\"rope_scaling\":{\"type\":\"linear\",\"factor\":2.0},\"pretraining_tp\":1}",
       12},
      {"{" LLAMA ",\"num_attention_heads\":2,\"rope_parameters\":{\"rope_theta\":5e5,"
       "\"rope_type\":\"default\"}}",
       12},
  };
  for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
    ds_error err = {0};
    ds_model *m;
    ds_params *p = NULL;
    CHECK_OK(ds_model_from_config(cases[i].config, &m, &err), err);
    if (!m) continue;
    CHECK_OK(ds_model_declare(m, &p, &err), err);
    if (p && ds_params_count(p) != cases[i].params)
      fprintf(stderr, "%s: %d parameters\n", cases[i].config, ds_params_count(p));
    CHECK(p && ds_params_count(p) == cases[i].params);
    CHECK(!ds_model_has_weights(m) && !ds_model_folder(m));
    ds_params_destroy(p);
    ds_model_destroy(m);
  }
}

static void test_refused(void) {
#define G(more)  "{" GPT2 ",\"n_positions\":16," more "}"
#define L(more)  "{" LLAMA "," more "}"
#define L2(more) L("\"num_attention_heads\":2," more)
  static const struct {
    const char *config;
    ds_status status;
    const char *message;
  } cases[] = {
      {"", DS_ERR_FORMAT, "JSON"},
      {"[]", DS_ERR_FORMAT, "object"},
      {"{}", DS_ERR_FORMAT, "model_type"},
      {"{\"model_type\":7}", DS_ERR_FORMAT, "model_type"},
      {"{\"model_type\":\"lama\"}", DS_ERR_UNSUPPORTED, "did you mean \"llama\""},
      {"{\"model_type\":\"t5\"}", DS_ERR_UNSUPPORTED, "gpt2 and llama"},
      {"{" GPT2 "}", DS_ERR_FORMAT, "\"n_ctx\" is missing"},
      {"{\"model_type\":\"gpt2\"}", DS_ERR_FORMAT, "\"n_layer\" is missing"},
      {"{" GPT2 ",\"n_positions\":0}", DS_ERR_FORMAT, "n_positions"},
      {"{" GPT2 ",\"n_positions\":1.5}", DS_ERR_FORMAT, "n_positions"},
      {"{" GPT2 ",\"n_positions\":\"16\"}", DS_ERR_FORMAT, "n_positions"},
      {"{\"model_type\":\"gpt2\",\"n_embd\":9,\"n_layer\":1,\"n_head\":2,\"vocab_size\":11,"
       "\"n_positions\":4}",
       DS_ERR_FORMAT, "no multiple of \"n_head\""},
      {G("\"activation_function\":\"mish\""), DS_ERR_UNSUPPORTED, "mish"},
      {G("\"scale_attn_by_inverse_layer_idx\":true"), DS_ERR_UNSUPPORTED, "inverse_layer_idx"},
      {G("\"scale_attn_weights\":false"), DS_ERR_UNSUPPORTED, "scale_attn_weights"},
      {G("\"add_cross_attention\":true"), DS_ERR_UNSUPPORTED, "add_cross_attention"},
      {G("\"quantization_config\":{\"bits\":4}"), DS_ERR_UNSUPPORTED, "quantization_config"},
      {G("\"layer_norm_epsilon\":0"), DS_ERR_FORMAT, "layer_norm_epsilon"},
      {G("\"initializer_range\":-1"), DS_ERR_FORMAT, "initializer_range"},
      {G("\"tie_word_embeddings\":1"), DS_ERR_FORMAT, "tie_word_embeddings"},
      {G("\"eos_token_id\":-3"), DS_ERR_FORMAT, "eos_token_id"},
      {L("\"num_attention_heads\":3"), DS_ERR_FORMAT, "no multiple of \"num_attention_heads\""},
      {L("\"num_attention_heads\":8"), DS_ERR_FORMAT, "even"},
      {L("\"num_attention_heads\":16"), DS_ERR_FORMAT, "hidden_size"},
      {L("\"num_attention_heads\":4,\"num_key_value_heads\":3"), DS_ERR_FORMAT,
       "num_key_value_heads"},
      {L2("\"num_key_value_heads\":4"), DS_ERR_FORMAT, "num_key_value_heads"},
      {L2("\"hidden_act\":\"gelu\""), DS_ERR_UNSUPPORTED, "gelu"},
      {L2("\"sliding_window\":128"), DS_ERR_UNSUPPORTED, "sliding_window"},
      {L2("\"partial_rotary_factor\":0.5"), DS_ERR_UNSUPPORTED, "partial_rotary_factor"},
      {L2("\"rope_theta\":0"), DS_ERR_FORMAT, "rope_theta"},
      {L2("\"rope_scaling\":3"), DS_ERR_FORMAT, "rope_scaling"},
      {L2("\"rope_scaling\":{\"type\":\"yarn\",\"factor\":2}"), DS_ERR_UNSUPPORTED, "\"yarn\""},
      {L2("\"rope_scaling\":{\"type\":\"linear\"}"), DS_ERR_FORMAT, "factor"},
      {L2("\"rope_scaling\":{\"rope_type\":\"llama3\",\"factor\":2,\"low_freq_factor\":4,"
          "\"high_freq_factor\":1,\"original_max_position_embeddings\":8}"),
       DS_ERR_FORMAT, "high_freq_factor"},
  };
#undef G
#undef L
#undef L2
  for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
    ds_error err = {0};
    ds_model *m;
    CHECK_FAILS(ds_model_from_config(cases[i].config, &m, &err), cases[i].status, err,
                cases[i].message);
    CHECK(m == NULL);
    ds_model_destroy(m);
  }
}

static void test_info(void) {
  ds_error err = {0};
  ds_model *m;
  ds_model_info info;
  CHECK_OK(ds_model_from_config("{" LLAMA ",\"num_attention_heads\":4,\"num_key_value_heads\":2,"
                                "\"bos_token_id\":1,\"eos_token_id\":[2,3]}",
                                &m, &err),
           err);
  if (!m) return;
  CHECK_OK(ds_model_get_info(m, &info, &err), err);
  CHECK(info.n_layers == 1 && info.n_kv_heads == 2 && info.head_dim == 2);
  CHECK(info.vocab_size == 11 && info.max_positions == 16);
  CHECK(info.bos_token == 1 && info.eos_token == 2);
  CHECK(strcmp(ds_model_name(m), "llama") == 0);
  ds_model_destroy(m);
}

static void test_rope_frequencies(void) {
  ds_error err = {0};
  float f[4];
  cJSON *plain = cJSON_Parse("{\"rope_theta\": 10000.0}");
  cJSON *linear = cJSON_Parse("{\"rope_scaling\": {\"type\": \"linear\", \"factor\": 4.0}}");
  cJSON *newer = cJSON_Parse("{\"rope_parameters\": {\"rope_theta\": 16.0}}");
  CHECK_OK(ds_rope_scaling_read(plain, 4, f, "t", &err), err);
  for (int i = 0; i < 4; i++) CHECK_NEAR(f[i], pow(10, -i), 1e-7 * pow(10, -i));
  CHECK_OK(ds_rope_scaling_read(linear, 4, f, "t", &err), err);
  for (int i = 0; i < 4; i++) CHECK_NEAR(f[i], pow(10, -i) / 4, 1e-7 * pow(10, -i));
  CHECK_OK(ds_rope_scaling_read(newer, 4, f, "t", &err), err);
  for (int i = 0; i < 4; i++) CHECK_NEAR(f[i], pow(2, -i), 1e-7);
  cJSON_Delete(plain);
  cJSON_Delete(linear);
  cJSON_Delete(newer);
}

/* ---- models of a host app's own */

static ds_status tiny_declare(void *self, ds_params *p, ds_error *err) {
  (void)err;
  int64_t one = 1;
  for (int i = 0; i < *(int *)self; i++) ds_params_add(p, "same", 1, &one, DS_INIT_ONES, 0);
  return DS_OK;
}
static ds_value *tiny_forward(void *self, ds_ctx *ctx, ds_value *const *inputs, int n) {
  (void)self, (void)ctx, (void)n;
  return inputs[0];
}
static ds_value *tiny_decode(void *self, ds_ctx *ctx, ds_value *ids, ds_kv_cache *cache) {
  (void)self, (void)ctx, (void)cache;
  return ids;
}

static int tiny_blocks(void *self) {
  (void)self;
  return 1;
}

static void test_own_model(void) {
  ds_error err = {0};
  ds_model *m;
  ds_params *p;
  ds_model_info info;
  int n = 1;
  ds_model_vtable v = {
      .size = sizeof v, .name = "tiny", .declare = tiny_declare, .forward = tiny_forward};
  CHECK_OK(ds_model_create(&v, &n, &m, &err), err);
  CHECK_OK(ds_model_declare(m, &p, &err), err);
  CHECK(p && ds_params_count(p) == 1);
  ds_params_destroy(p);
  CHECK_FAILS(ds_model_get_info(m, &info, &err), DS_ERR_UNSUPPORTED, err, "tiny");
  n = 2;
  CHECK_FAILS(ds_model_declare(m, &p, &err), DS_ERR_INVALID, err, "\"same\"");
  CHECK(p == NULL);
  n = 0;
  CHECK_FAILS(ds_model_declare(m, &p, &err), DS_ERR_INVALID, err, "no parameters");
  CHECK_FAILS(ds_model_read_param(m, NULL, 0, NULL, &err), DS_ERR_STATE, err, "no weights");
  CHECK_FAILS(ds_model_blocks(m, &n, &err), DS_ERR_UNSUPPORTED, err,
              "model tiny can't be split into pipeline stages: its vtable has no n_blocks");
  ds_model_destroy(m);

  ds_model_vtable bad = v;
  bad.forward = NULL;
  CHECK_FAILS(ds_model_create(&bad, &n, &m, &err), DS_ERR_INVALID, err, "forward");
  bad = v;
  bad.declare = NULL;
  CHECK_FAILS(ds_model_create(&bad, &n, &m, &err), DS_ERR_INVALID, err, "declare");
  bad = v;
  bad.size = 8;
  CHECK_FAILS(ds_model_create(&bad, &n, &m, &err), DS_ERR_INVALID, err, "size");
  bad = v;
  bad.decode = tiny_decode;
  CHECK_FAILS(ds_model_create(&bad, &n, &m, &err), DS_ERR_INVALID, err, "info");
  bad = v;
  bad.n_blocks = tiny_blocks;
  CHECK_FAILS(ds_model_create(&bad, &n, &m, &err), DS_ERR_INVALID, err,
              "pipeline stages param_blocks is missing");
  CHECK_FAILS(ds_model_create(NULL, &n, &m, &err), DS_ERR_INVALID, err, "vtable");
}

/* ---- folders */

/* Parameter i, element k: different everywhere, and exact in bf16. */
static float value_at(int i, int64_t k) {
  return (float)((i * 37 + k * 3) % 251 - 125) / 64;
}

/* A matrix that files have transposed, as it stands there: [in,out] from [out,in]. */
static float stored_value(const ds_params *p, int i, int64_t k) {
  int64_t shape[DS_MAX_RANK];
  ds_params_shape(p, i, shape);
  return value_at(i, ds_params_transposed(p, i) ? k % shape[0] * shape[1] + k / shape[0] : k);
}

static void save(const char *config, const char *folder, bool bits16) {
  ds_error err = {0};
  ds_model *m;
  ds_params *p;
  ds_safetensors_writer *w;
  char path[600];
  int32_t dtype = bits16 ? DS_BF16 : DS_F32;
  CHECK_OK(ds_model_from_config(config, &m, &err), err);
  if (!m) return;
  CHECK_OK(ds_model_declare(m, &p, &err), err);
  CHECK_OK(ds_make_folders(folder, &err), err);
  snprintf(path, sizeof path, "%s/model.safetensors", folder);
  CHECK_OK(ds_safetensors_writer_create(path, &w, &err), err);
  CHECK_OK(ds_model_declare_weights(p, dtype, w, &err), err);
  CHECK_OK(ds_safetensors_writer_begin(w, &err), err);
  for (int i = 0; i < ds_params_count(p); i++)
    for (int64_t k = 0; k < ds_params_numel(p, i); k++) {
      float x = stored_value(p, i, k);
      unsigned char bytes[4];
      CHECK(ds_convert_from_f32(bytes, dtype, &x, 1));
      CHECK_OK(ds_safetensors_writer_write(w, bytes, ds_dtype_size(dtype), &err), err);
    }
  CHECK_OK(ds_safetensors_writer_commit(w, &err), err);
  CHECK_OK(ds_model_save_config(m, folder, bits16, &err), err);
  ds_safetensors_writer_destroy(w);
  ds_params_destroy(p);
  ds_model_destroy(m);
}

static void check_loaded(const char *folder, bool bits16) {
  ds_error err = {0};
  ds_model *m;
  ds_params *p = NULL;
  float out[1024];
  CHECK_OK(ds_model_load(folder, &m, &err), err);
  if (!m) return;
  CHECK(ds_model_has_weights(m) && strcmp(ds_model_folder(m), folder) == 0);
  CHECK(ds_model_weights_dtype(m) == (bits16 ? DS_BF16 : DS_F32));
  CHECK_OK(ds_model_declare(m, &p, &err), err);
  for (int i = 0; p && i < ds_params_count(p); i++) {
    int64_t n = ds_params_numel(p, i), wrong = 0;
    CHECK(n <= 1024);
    CHECK_OK(ds_model_read_param(m, p, i, out, &err), err);
    for (int64_t k = 0; k < n; k++) wrong += out[k] != value_at(i, k);
    CHECK(wrong == 0);
  }
  CHECK_FAILS(ds_model_read_param(m, p, 9999, out, &err), DS_ERR_INVALID, err, "9999");
  ds_params_destroy(p);
  ds_model_destroy(m);
}

static void test_save_and_load(void) {
  const char *gpt2 = "{" GPT2 ",\"n_positions\":16,\"keep_me\":[1]}";
  const char *llama = "{" LLAMA ",\"num_attention_heads\":2,\"torch_dtype\":\"float16\"}";
  ds_error err = {0};
  save(gpt2, temp_path("out/gpt2"), false);
  check_loaded(temp_path("out/gpt2"), false);
  save(llama, temp_path("out/llama"), true);
  check_loaded(temp_path("out/llama"), true);

  cJSON *config;
  CHECK_OK(ds_json_load(temp_path("out/llama/config.json"), 4096, 0, &config, &err), err);
  const cJSON *dtype = cJSON_GetObjectItemCaseSensitive(config, "torch_dtype");
  CHECK(dtype && strcmp(dtype->valuestring, "bfloat16") == 0);
  cJSON_Delete(config);
  CHECK_OK(ds_json_load(temp_path("out/gpt2/config.json"), 4096, 0, &config, &err), err);
  const cJSON *list = cJSON_GetObjectItemCaseSensitive(config, "architectures");
  CHECK(list && list->child && strcmp(list->child->valuestring, "GPT2LMHeadModel") == 0);
  CHECK(cJSON_GetObjectItemCaseSensitive(config, "keep_me"));
  cJSON_Delete(config);

  /* transformers' names and layouts: Conv1D is [in,out] */
  ds_safetensors *s;
  CHECK_OK(ds_safetensors_open(temp_path("out/gpt2/model.safetensors"), &s, &err), err);
  const ds_safetensor *t = s ? ds_safetensors_find(s, "transformer.h.1.attn.c_attn.weight") : NULL;
  CHECK(t && t->shape[0] == 8 && t->shape[1] == 24);
  CHECK(s && ds_safetensors_metadata(s, "format"));
  ds_safetensors_close(s);
}

/* A file with the tensors of the GPT-2 above, changed: some name left out, some added, some of
 * another shape. */
static void write_weights(const char *path, const char *config, const char *leave_out,
                          const char *add, const char *reshape) {
  ds_error err = {0};
  ds_model *m;
  ds_params *p;
  ds_safetensors_writer *w;
  static const float zeros[64];
  int64_t one = 1, total = 0;
  CHECK_OK(ds_model_from_config(config, &m, &err), err);
  CHECK_OK(ds_model_declare(m, &p, &err), err);
  CHECK_OK(ds_safetensors_writer_create(path, &w, &err), err);
  for (int i = 0; i < ds_params_count(p); i++) {
    const char *name = ds_params_name(p, i);
    int64_t shape[DS_MAX_RANK] = {0};
    int32_t rank = ds_params_shape(p, i, shape);
    if (leave_out && strstr(name, leave_out)) continue;
    if (ds_params_transposed(p, i)) {
      int64_t n = shape[0];
      shape[0] = shape[1];
      shape[1] = n;
    }
    if (reshape && strcmp(name, reshape) == 0) shape[0]++;
    int64_t n = 1;
    for (int32_t k = 0; k < rank; k++) n *= shape[k];
    total += n;
    CHECK_OK(ds_safetensors_writer_add(w, name, DS_F32, rank, shape, &err), err);
  }
  if (add) {
    CHECK_OK(ds_safetensors_writer_add(w, add, DS_F32, 1, &one, &err), err);
    total++;
  }
  CHECK_OK(ds_safetensors_writer_begin(w, &err), err);
  for (int64_t k = 0; k < total; k++)
    CHECK_OK(ds_safetensors_writer_write(w, zeros, sizeof *zeros, &err), err);
  CHECK_OK(ds_safetensors_writer_commit(w, &err), err);
  ds_safetensors_writer_destroy(w);
  ds_params_destroy(p);
  ds_model_destroy(m);
}

static void test_wrong_weights(void) {
  const char *config = "{" GPT2 ",\"n_positions\":16}";
  static const struct {
    const char *leave_out, *add, *reshape;
    ds_status status;
    const char *message;
  } cases[] = {
      {NULL, NULL, NULL, DS_OK, ""},
      {NULL, "h.0.attn.bias", NULL, DS_OK, ""},
      {NULL, "lm_head.weight", NULL, DS_OK, ""},
      {"ln_2.bias", NULL, NULL, DS_ERR_FORMAT, "2 tensors of the model are missing: transformer.h"},
      {"h.1", NULL, NULL, DS_ERR_FORMAT, "12 tensors of the model are missing"},
      {NULL, "transformer.h.2.ln_1.weight", NULL, DS_ERR_FORMAT, "transformer.h.2.ln_1.weight"},
      {NULL, NULL, "transformer.wte.weight", DS_ERR_FORMAT,
       "is [12,8]; config.json makes it [11,8]"},
      {NULL, NULL, "transformer.h.0.mlp.c_fc.weight", DS_ERR_FORMAT, "[9,32]"},
  };
  ds_error err = {0};
  CHECK_OK(ds_make_folders(temp_path("wrong"), &err), err);
  CHECK_OK(ds_file_write(temp_path("wrong/config.json"), config, strlen(config), &err), err);
  for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
    ds_model *m;
    write_weights(temp_path("wrong/model.safetensors"), config, cases[i].leave_out, cases[i].add,
                  cases[i].reshape);
    if (cases[i].status == DS_OK)
      CHECK_OK(ds_model_load(temp_path("wrong"), &m, &err), err);
    else
      CHECK_FAILS(ds_model_load(temp_path("wrong"), &m, &err), cases[i].status, err,
                  cases[i].message);
    ds_model_destroy(m);
  }
}

static void test_paths(void) {
  const char *config = "{" GPT2 ",\"n_positions\":16}";
  ds_error err = {0};
  ds_model *m;
  CHECK_FAILS(ds_model_load(temp_path("nowhere"), &m, &err), DS_ERR_NOT_FOUND, err, "nowhere");
  CHECK_OK(ds_make_folders(temp_path("bare"), &err), err);
  CHECK_FAILS(ds_model_load(temp_path("bare"), &m, &err), DS_ERR_NOT_FOUND, err, "config.json");
  CHECK_OK(ds_file_write(temp_path("bare/config.json"), config, strlen(config), &err), err);
  CHECK_OK(ds_model_load(temp_path("bare"), &m, &err), err);
  CHECK(m && !ds_model_has_weights(m));
  ds_model_destroy(m);
  /* The config alone, even beside weights, is a new model. */
  save(config, temp_path("bare"), false);
  CHECK_OK(ds_model_load(temp_path("bare/config.json"), &m, &err), err);
  CHECK(m && !ds_model_has_weights(m) && strcmp(ds_model_folder(m), temp_path("bare")) == 0);
  ds_model_destroy(m);
  unlink(temp_path("bare/model.safetensors"));
  CHECK_OK(ds_file_write(temp_path("bare/pytorch_model.bin"), "x", 1, &err), err);
  CHECK_FAILS(ds_model_load(temp_path("bare"), &m, &err), DS_ERR_UNSUPPORTED, err,
              "pytorch_model.bin");
  ds_model_destroy(NULL);
}

int main(void) {
  CHECK(temp_folder_create());
  test_accepted();
  test_refused();
  test_info();
  test_rope_frequencies();
  test_own_model();
  test_save_and_load();
  test_wrong_weights();
  test_paths();
  temp_folder_destroy();
  return TEST_RESULT();
}
