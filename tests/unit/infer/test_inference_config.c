#include "test.h"

#include "infer/config.h"

#include <stdlib.h>

static int warnings;
static void count_warning(void *ctx, ds_log_level level, const char *message) {
  (void)ctx;
  if (level == DS_LOG_WARN && strstr(message, "max_out_tokens")) warnings++;
}

static ds_status parse(const char *config, const char *kwargs, ds_inference_config *out,
                       ds_error *err) {
  ds_logger logger = {count_warning, NULL};
  return ds_inference_config_parse(config, kwargs, &logger, out, err);
}

/* The four ways: nothing, config, keyword arguments, both. */
static void test_four_ways(void) {
  ds_inference_config c;
  ds_error err;
  CHECK_OK(parse(NULL, NULL, &c, &err), err);
  CHECK(c.dtype == -1 && c.max_out_tokens == 1024 && c.min_out_tokens == 1 && !c.checkpoint);
  ds_inference_config_finish(&c);
  CHECK_OK(parse("{\"dtype\": \"bf16\", /* short */ \"max_out_tokens\": 64,}", NULL, &c, &err),
           err);
  CHECK(c.dtype == DS_BF16 && c.max_out_tokens == 64);
  ds_inference_config_finish(&c);
  CHECK_OK(parse(NULL, "{\"dtype\": \"torch.float32\", \"checkpoint\": \"x\"}", &c, &err), err);
  CHECK(c.dtype == DS_F32 && c.checkpoint && strcmp(c.checkpoint, "x") == 0);
  ds_inference_config_finish(&c);
  CHECK(warnings == 0);
  CHECK_OK(parse("{\"max_out_tokens\": 64, \"tp\": {\"enabled\": true}}",
                 "{\"max_out_tokens\": 32, \"tensor_parallel\": {\"tp_size\": 1}}", &c, &err),
           err);
  CHECK(c.max_out_tokens == 32 && warnings == 1);
  ds_inference_config_finish(&c);
  CHECK_OK(parse("{\"mp_size\": 1}", NULL, &c, &err), err);
  ds_inference_config_finish(&c);
}

static void test_mistakes(void) {
  static const struct {
    const char *config, *text;
    ds_status status;
  } cases[] = {
      {"{\"dtyp\": \"bf16\"}", "did you mean \"dtype\"", DS_ERR_INVALID},
      {"{\"dtype\": \"fp16\"}", "not there yet", DS_ERR_INVALID},
      {"{\"dtype\": \"complex\"}", "no dtype", DS_ERR_INVALID},
      {"{\"max_out_tokens\": 0}", "max_out_tokens", DS_ERR_INVALID},
      {"{\"max_out_tokens\": \"many\"}", "a whole number", DS_ERR_INVALID},
      {"{\"tp\": {\"tp_size\": 2}}", "tensor_parallel.tp_size", DS_ERR_INVALID},
      {"{\"mp_size\": 2}", "tensor_parallel.tp_size", DS_ERR_INVALID},
      {"{\"tp\": {}, \"mp_size\": 1}", "the same thing", DS_ERR_INVALID},
      {"{\"enable_cuda_graph\": 1}", "enable_cuda_graph", DS_ERR_INVALID},
      {"{\"enable_cuda_graph\": true, \"backend\": {\"graph\": false}}", "contradict",
       DS_ERR_INVALID},
      {"{\"backend\": {\"graph\": \"yes\"}}", "\"auto\", true or false", DS_ERR_INVALID},
      {"{\"quant\": {\"enabled\": true}}", "quant.enabled", DS_ERR_INVALID},
      {"{\"backend\": {\"fallbak\": \"warn\"}}", "fallback", DS_ERR_INVALID},
      {"{\"dtype\": \"fp16\", \"max_out_tokens\": -1, \"x\": 1}", "3 errors", DS_ERR_INVALID},
      {"{\"dtype\": \"bf16\", \"dtype\": \"fp32\"}", "stands twice", DS_ERR_FORMAT},
      {"{\"dtype\": ", "too early", DS_ERR_FORMAT},
      {"no-such-file.json", "no-such-file.json", DS_ERR_NOT_FOUND},
  };
  for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
    ds_inference_config c;
    ds_error err;
    CHECK_FAILS(parse(cases[i].config, NULL, &c, &err), cases[i].status, err, cases[i].text);
  }
}

int main(void) {
  unsetenv("DS_BACKEND");
  unsetenv("DS_PLUGIN_PATH");
  test_four_ways();
  test_mistakes();
  return TEST_RESULT();
}
