/* DeepSpeed's estimators, against the figures that its documentation prints for t5-3b (2851M
 * parameters, largest layer 32M) on one node of 8: docs/code-docs/source/memory.rst. */
#include "zero/estimate_deepspeed.h"

#include "test.h"

int main(void) {
  static const struct {
    int stage;
    bool optimizer, param, init;
    double cpu, gpu; /* GiB */
  } rows[] = {{2, true, false, false, 127.45, 5.31}, {2, false, false, false, 127.45, 15.93},
              {3, true, true, true, 71.69, 0.12},    {3, true, true, false, 127.45, 0.12},
              {3, true, false, true, 63.72, 0.78},   {3, true, false, false, 127.45, 0.78},
              {3, false, false, true, 1.43, 6.09},   {3, false, false, false, 127.45, 6.09}};
  for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
    ds_estimate_deepspeed e = ds_estimate_deepspeed_of(
        rows[i].stage, 2851e6, 32e6, 8, 1, rows[i].optimizer, rows[i].param, rows[i].init);
    CHECK_NEAR(e.cpu / (1 << 30), rows[i].cpu, 0.0051);
    CHECK_NEAR(e.gpu / (1 << 30), rows[i].gpu, 0.0051);
  }
  /* the document's example of t5-large on 4 in all: 3291 and 477 MiB, by layer and partition */
  CHECK_NEAR(ds_estimate_deepspeed_of(3, 737.67e6, 32.90e6, 4, 1, false, false, true).gpu /
                 (1 << 20),
             3291, 1);
  CHECK_NEAR(ds_estimate_deepspeed_of(3, 737.67e6, 32.90e6, 2, 2, true, false, true).gpu /
                 (1 << 20),
             477, 1);
  /* several nodes share the host's part */
  CHECK_NEAR(ds_estimate_deepspeed_of(3, 1e9, 1e6, 8, 4, true, true, true).cpu, 18e9 / 4 * 1.5, 1);
  return TEST_RESULT();
}
