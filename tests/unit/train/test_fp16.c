/* Training in fp16: against float64, scales that change nothing, gradients that only a scale saves,
 * overflows, and going on from a checkpoint amid them. */
#include "tiny_oracle.h"

#define FP16(more)                                                                                 \
  "{" TINY_BACKEND ", \"train_micro_batch_size_per_gpu\": 4, \"optimizer\": {\"type\": "           \
  "\"AdamW\", \"params\": {\"lr\": 0.05, \"weight_decay\": 0.1}}, \"fp16\": {\"enabled\": "        \
  "true" more "}}"
#define WARMUP                                                                                     \
  "}, \"scheduler\": {\"type\": \"WarmupLR\", \"params\": {\"warmup_num_steps\": 50, "             \
  "\"warmup_max_lr\": 0.05}"

static ds_error err;

/* f16 has 11 bits: each of a handful of roundings is off by 2^-12 at most. */
static void test_float64(void) {
  tiny_run r = {0};
  oracle o = {0};
  float w[N];
  CHECK_OK(tiny_open(&r, FP16(""), NULL, false, &err), err);
  if (!r.engine) return;
  CHECK(ds_engine_loss_scale(r.engine) == 65536);
  CHECK(ds_ctx_dtype(ds_engine_ctx(r.engine)) == DS_F16);
  CHECK_OK(tiny_weights(r.engine, &r.self, w, &err), err);
  for (int i = 0; i < N; i++) o.p[i] = (double)w[i];
  for (int step = 0; step < 20; step++) {
    float loss;
    CHECK_OK(tiny_micro(r.engine, step * 4 % TINY_SAMPLES, 4, &loss, &err), err);
    if (!ds_engine_was_step_applied(r.engine)) continue; /* oracle neither */
    oracle_step(&o, step * 4 % TINY_SAMPLES, 4, 0.05, 0.1, 1.0, true);
    CHECK_NEAR(loss, o.loss, 4e-3 * (o.loss + 0.1));
    CHECK_NEAR(ds_engine_get_global_grad_norm(r.engine), o.norm, 4e-3 * (o.norm + 0.1));
  }
  CHECK_OK(tiny_weights(r.engine, &r.self, w, &err), err);
  for (int i = 0; i < N; i++) CHECK_NEAR(w[i], o.p[i], 5e-3);
  CHECK(ds_engine_skipped_steps(r.engine) < 5 && ds_engine_global_steps(r.engine) == 20);
  tiny_close(&r);
}

/* A power of two moves no bit, as long as nothing leaves f16's range. */
static void test_scale_drops_out(void) {
  tiny_run a = {0}, b = {0};
  float wa[N], wb[N], ga[TINY_OUT], gb[TINY_OUT];
  CHECK_OK(tiny_open(&a, FP16(", \"loss_scale\": 64"), NULL, false, &err), err);
  CHECK_OK(tiny_open(&b, FP16(", \"loss_scale\": 1024"), NULL, false, &err), err);
  for (int step = 0; a.engine && b.engine && step < 5; step++) {
    CHECK_OK(tiny_micro(a.engine, step * 4, 4, NULL, &err), err);
    CHECK_OK(tiny_micro(b.engine, step * 4, 4, NULL, &err), err);
    CHECK(ds_engine_get_global_grad_norm(a.engine) == ds_engine_get_global_grad_norm(b.engine));
  }
  CHECK(ds_engine_loss_scale(b.engine) == 1024);
  CHECK_OK(tiny_weights(a.engine, &a.self, wa, &err), err);
  CHECK_OK(tiny_weights(b.engine, &b.self, wb, &err), err);
  CHECK(memcmp(wa, wb, sizeof wa) == 0);
  ds_value *loss;
  ds_batch batch = tiny_batch(0, 4);
  tiny_run *both[] = {&a, &b};
  for (int i = 0; i < 2; i++) { /* gradients are read without the scale */
    CHECK_OK(ds_engine_forward(both[i]->engine, &batch, &loss, &err), err);
    CHECK_OK(ds_engine_backward(both[i]->engine, loss, &err), err);
    CHECK_OK(ds_engine_read_grad(both[i]->engine, a.self.b, i ? gb : ga, TINY_OUT, &err), err);
  }
  CHECK(ga[0] != 0 && memcmp(ga, gb, sizeof ga) == 0);
  tiny_close(&a);
  tiny_close(&b);
}

/* The gradient of b of a loss that is a ten-millionth, on samples 0 to 3. */
static void small_gradient(const char *config, float g[TINY_OUT], oracle *o) {
  tiny_run r = {0};
  ds_value *loss;
  float w[N];
  double want[N];
  ds_batch batch = tiny_batch(0, 4);
  CHECK_OK(tiny_open(&r, config, NULL, false, &err), err);
  if (!r.engine) return;
  CHECK_OK(tiny_weights(r.engine, &r.self, w, &err), err);
  for (int i = 0; i < N; i++) o->p[i] = (double)w[i];
  oracle_grad(o, 0, 4, want);
  for (int i = 0; i < TINY_OUT; i++) o->m[i] = want[TINY_OUT * TINY_IN + i] * 1e-7;
  CHECK_OK(ds_engine_forward(r.engine, &batch, &loss, &err), err);
  loss = ds_scale(ds_engine_ctx(r.engine), loss, 1e-7);
  CHECK_OK(ds_engine_backward(r.engine, loss, &err), err);
  CHECK_OK(ds_engine_read_grad(r.engine, r.self.b, g, TINY_OUT, &err), err);
  tiny_close(&r);
}

static void test_small_gradients(void) {
  float g[TINY_OUT];
  oracle o = {0};
  small_gradient(FP16(", \"loss_scale\": 1"), g, &o);
  for (int i = 0; i < TINY_OUT; i++) CHECK(fabs((double)g[i] - o.m[i]) > 0.05 * fabs(o.m[i]));
  small_gradient(FP16(", \"loss_scale\": 4194304"), g, &o);
  for (int i = 0; i < TINY_OUT; i++) CHECK_NEAR(g[i], o.m[i], 4e-3 * fabs(o.m[i]));
}

/* ---- overflows */

static void test_overflow(void) {
  tiny_run r = {0};
  float before[N], w[N], loss;
  CHECK_OK(tiny_open(&r, FP16(", \"initial_scale_power\": 24, \"hysteresis\": 1" WARMUP), NULL,
                     true, &err),
           err);
  if (!r.engine) return;
  CHECK_OK(tiny_weights(r.engine, &r.self, before, &err), err);
  double lr = ds_engine_get_lr(r.engine), scale = 0x1p24;
  int skipped = 0;
  for (; skipped < 20; skipped++) {
    CHECK_OK(ds_engine_train_batch(r.engine, &loss, &err), err);
    CHECK(isfinite(loss));
    if (ds_engine_was_step_applied(r.engine)) break;
    scale /= 2;
    CHECK(ds_engine_loss_scale(r.engine) == scale);
    CHECK(ds_engine_get_lr(r.engine) == lr);
    CHECK(!isfinite(ds_engine_get_global_grad_norm(r.engine)));
    CHECK_OK(tiny_weights(r.engine, &r.self, w, &err), err);
    CHECK(memcmp(before, w, sizeof w) == 0);
  }
  /* At 2^24 the gradient of the mean of 8 numbers is 2^21: more than f16 has, 65504, by far. */
  CHECK(skipped >= 4 && skipped < 20);
  CHECK(ds_engine_loss_scale(r.engine) == scale);
  CHECK(ds_engine_skipped_steps(r.engine) == skipped);
  CHECK(ds_engine_global_steps(r.engine) == skipped + 1);
  for (int i = 0; i < 3; i++) /* warmup begins at 0 */
    CHECK_OK(ds_engine_train_batch(r.engine, &loss, &err), err);
  CHECK(ds_engine_get_lr(r.engine) > lr);
  CHECK_OK(tiny_weights(r.engine, &r.self, w, &err), err);
  CHECK(memcmp(before, w, sizeof w) != 0);
  tiny_close(&r);
}

/* Skipped steps leave no trace in the moments: a run that begins too high ends up where one does that
 * sees the same batches at the scale that fits. */
static void test_skipped_is_nothing(void) {
  tiny_run a = {0}, b = {0};
  float wa[N], wb[N];
  CHECK_OK(tiny_open(&a, FP16(", \"initial_scale_power\": 20, \"hysteresis\": 1" WARMUP), NULL,
                     false, &err),
           err);
  CHECK_OK(tiny_open(&b, FP16(", \"loss_scale\": 1024" WARMUP), NULL, false, &err), err);
  int done = 0;
  for (int i = 0; a.engine && b.engine && i < 24 && done < 6; i++) {
    CHECK_OK(tiny_micro(a.engine, done * 4, 4, NULL, &err), err);
    if (!ds_engine_was_step_applied(a.engine)) continue;
    CHECK_OK(tiny_micro(b.engine, done * 4, 4, NULL, &err), err);
    done++;
  }
  CHECK(done == 6 && ds_engine_skipped_steps(a.engine) > 0);
  CHECK_OK(tiny_weights(a.engine, &a.self, wa, &err), err);
  CHECK_OK(tiny_weights(b.engine, &b.self, wb, &err), err);
  CHECK(memcmp(wa, wb, sizeof wa) == 0);
  tiny_close(&a);
  tiny_close(&b);
}

static void test_nowhere_to_go(void) {
  tiny_run r = {0};
  float before[N], w[N];
  CHECK_OK(tiny_open(&r, FP16(", \"initial_scale_power\": 24, \"min_loss_scale\": 16777216"), NULL,
                     false, &err),
           err);
  if (!r.engine) return;
  CHECK_OK(tiny_weights(r.engine, &r.self, before, &err), err);
  CHECK_OK(tiny_micro(r.engine, 0, 4, NULL, &err), err); /* borne */
  CHECK_FAILS(
      tiny_micro(r.engine, 0, 4, NULL, &err), DS_ERR_NUMERIC, err,
      "at the least loss scale, 1.67772e+07 (fp16.min_loss_scale); the first parameter with "
      "a non-finite gradient is \"w\"");
  CHECK_OK(tiny_weights(r.engine, &r.self, w, &err), err);
  CHECK(memcmp(before, w, sizeof w) == 0 && ds_engine_skipped_steps(r.engine) == 2);
  tiny_close(&r);
}

/* A loss that is no number is an overflow, too: the step is left out. */
static void test_loss(void) {
  tiny_run r = {.self = {.poison_at = 2}};
  float loss;
  CHECK_OK(tiny_open(&r, FP16(", \"initial_scale_power\": 8"), NULL, true, &err), err);
  for (int i = 0; r.engine && i < 3; i++) {
    CHECK_OK(ds_engine_train_batch(r.engine, &loss, &err), err);
    CHECK(ds_engine_was_step_applied(r.engine) == (i != 1) && isfinite(loss) == (i != 1));
  }
  tiny_close(&r);
}

/* ---- checkpoints */

static void test_resume(void) {
  const char *config =
      FP16(", \"initial_scale_power\": 20, \"loss_scale_window\": 4, \"hysteresis\": 2");
  char dir[] = "/tmp/dscore_fp16_XXXXXX", command[64];
  tiny_run straight = {0}, first = {0}, second = {0};
  float a[N], b[N], la, lb;
  CHECK(mkdtemp(dir) != NULL);
  CHECK_OK(tiny_open(&straight, config, NULL, true, &err), err);
  CHECK_OK(tiny_open(&first, config, NULL, true, &err), err);
  CHECK_OK(tiny_open(&second, config, NULL, true, &err), err);
  if (!straight.engine || !first.engine || !second.engine) return;
  for (int at = 1; at < 9; at += 3) { /* amid hysteresis, and amid a window */
    snprintf(command, sizeof command, "at%d", at);
    for (int i = 0; i < 3; i++) {
      if (ds_engine_global_steps(first.engine) == at)
        CHECK_OK(ds_engine_save_checkpoint(first.engine, dir, command, NULL, &err), err);
      CHECK_OK(ds_engine_train_batch(first.engine, &la, &err), err);
    }
  }
  CHECK(ds_engine_skipped_steps(first.engine) >= 3);
  for (int at = 1; at < 9; at += 3) {
    snprintf(command, sizeof command, "at%d", at);
    CHECK_OK(ds_engine_load_checkpoint(second.engine, dir, command, NULL, &err), err);
    while (ds_engine_global_steps(straight.engine) < at)
      CHECK_OK(ds_engine_train_batch(straight.engine, &la, &err), err);
    CHECK(ds_engine_loss_scale(second.engine) == ds_engine_loss_scale(straight.engine));
    CHECK(ds_engine_skipped_steps(second.engine) == ds_engine_skipped_steps(straight.engine));
    for (int i = 0; i < 3; i++) {
      CHECK_OK(ds_engine_train_batch(straight.engine, &la, &err), err);
      CHECK_OK(ds_engine_train_batch(second.engine, &lb, &err), err);
      CHECK(la == lb);
      CHECK(ds_engine_loss_scale(second.engine) == ds_engine_loss_scale(straight.engine));
    }
    CHECK_OK(tiny_weights(straight.engine, &straight.self, a, &err), err);
    CHECK_OK(tiny_weights(second.engine, &second.self, b, &err), err);
    CHECK(memcmp(a, b, sizeof a) == 0);
  }
  tiny_close(&straight);
  tiny_close(&first);
  tiny_close(&second);
  snprintf(command, sizeof command, "rm -rf '%s'", dir);
  CHECK(system(command) == 0);
}

int main(void) {
  test_float64();
  test_scale_drops_out();
  test_small_gradients();
  test_overflow();
  test_skipped_is_nothing();
  test_nowhere_to_go();
  test_loss();
  test_resume();
  return test_result();
}
