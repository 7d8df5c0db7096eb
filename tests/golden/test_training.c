/* Ten steps of the whole training engine against float64 JAX, both families, in f32, bf16 and f16.
 * Usage: test_training MODELS-FOLDER BACKEND */
#include "golden_train.h"

int main(int argc, char **argv) {
  static const struct {
    const char *name;
    const double (*steps)[2];
  } models[] = {{"gpt2", gpt2_steps}, {"llama", llama_steps}};
  if (argc != 3) return 2;
  static const int32_t dtypes[] = {DS_F32, DS_BF16, DS_F16};
  for (int i = 0; i < 6; i++) {
    char folder[512], backend[64];
    snprintf(folder, sizeof folder, "%s/%s", argv[1], models[i / 3].name);
    snprintf(backend, sizeof backend, "\"%s\"", argv[2]);
    golden_train(folder, backend, dtypes[i % 3], models[i / 3].steps, NULL, NULL);
  }
  return TEST_RESULT();
}
