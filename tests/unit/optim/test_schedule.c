/* Schedules against tables from the published formulas (make_tables.py). */
#include "optim/schedule.h"
#include "schedule_tables.h"
#include "test.h"

#include <stdlib.h>

static void check(ds_lr_scheduler *s, const double *table) {
  for (int i = 0; i < TABLE_SIZE; i++) {
    double lr = ds_schedule_lr(s, table_updates[i], TABLE_BASE_LR);
    CHECK_NEAR(lr, table[i], 1e-15 + 1e-13 * fabs(table[i]));
  }
  ds_lr_scheduler_destroy(s);
}

static void test_warmup(void) {
  ds_error err;
  ds_lr_scheduler *s;
  CHECK_OK(ds_schedule_warmup(&(ds_warmup){0.001, 0.02, 10, 0, DS_WARMUP_LOG}, &s, &err), err);
  check(s, warmup_log);
  CHECK_OK(ds_schedule_warmup(&(ds_warmup){0.001, 0.02, 10, 0, DS_WARMUP_LINEAR}, &s, &err), err);
  check(s, warmup_linear);
  CHECK_OK(ds_schedule_warmup(&(ds_warmup){0, 0.02, 1, 0, DS_WARMUP_LOG}, &s, &err), err);
  check(s, warmup_one);
  CHECK_OK(ds_schedule_warmup_decay(&(ds_warmup){0.001, 0.01, 10, 30, DS_WARMUP_LOG}, &s, &err),
           err);
  check(s, warmup_decay);
  CHECK_OK(ds_schedule_warmup_decay(&(ds_warmup){0, 0.01, 10, 5, DS_WARMUP_LINEAR}, &s, &err), err);
  check(s, warmup_decay_short);
  ds_warmup_cosine c = {0.1, 0.01, 10, 30, DS_WARMUP_LINEAR};
  CHECK_OK(ds_schedule_warmup_cosine(&c, &s, &err), err);
  check(s, warmup_cosine);
  c = (ds_warmup_cosine){0, 0.0001, 5, 40, DS_WARMUP_LOG};
  CHECK_OK(ds_schedule_warmup_cosine(&c, &s, &err), err);
  check(s, warmup_cosine_log);
}

static void test_range_test(void) {
  ds_error err;
  ds_lr_scheduler *s;
  CHECK_OK(ds_schedule_range_test(&(ds_range_test){0.001, 1.5, 10, false}, &s, &err), err);
  check(s, range_test);
  CHECK_OK(ds_schedule_range_test(&(ds_range_test){0.001, 1.5, 10, true}, &s, &err), err);
  check(s, range_test_stairs);
  CHECK_FAILS(ds_schedule_range_test(&(ds_range_test){0.001, 1.5, 0, true}, &s, &err),
              DS_ERR_INVALID, err, "step size");
}

static void test_one_cycle(void) {
  ds_error err;
  ds_lr_scheduler *s;
  ds_one_cycle c = {.min_lr = 0.001,
                    .max_lr = 0.02,
                    .decay_lr_rate = 0.5,
                    .first_size = 10,
                    .second_size = 20,
                    .decay_step_size = 4,
                    .cycle_momentum = true,
                    .min_mom = 0.8,
                    .max_mom = 0.9,
                    .decay_mom_rate = 0.01};
  CHECK_OK(ds_schedule_one_cycle(&c, &s, &err), err);
  CHECK(s->betas != NULL);
  for (int i = 0; i < TABLE_SIZE; i++) {
    double beta1 = 0, beta2 = 0;
    s->betas(s->self, table_updates[i], &beta1, &beta2);
    CHECK_NEAR(beta1, one_cycle_beta1[i], 1e-13);
    CHECK_NEAR(beta2, 0.99, 0);
  }
  check(s, one_cycle);

  c.decay_step_size = 0; /* no decay: stays at the minimum */
  c.cycle_momentum = false;
  c.first_stairs = 5;
  c.second_stairs = 3;
  CHECK_OK(ds_schedule_one_cycle(&c, &s, &err), err);
  CHECK(s->betas == NULL);
  CHECK_NEAR(ds_schedule_lr(s, 3, 0), 0.001 + 0.019 * 0.2, 1e-15); /* 3/10 of 5 stairs: stair 1 */
  CHECK_NEAR(ds_schedule_lr(s, 10, 0), 0.02, 1e-15);               /* the top is reached */
  CHECK_NEAR(ds_schedule_lr(s, 11, 0), 0.001 + 0.019 * 2 / 3, 1e-15);
  CHECK_NEAR(ds_schedule_lr(s, 30, 0), 0.001, 1e-15);
  CHECK_NEAR(ds_schedule_lr(s, 1000, 0), 0.001, 1e-15);
  ds_lr_scheduler_destroy(s);
  c.first_size = 0;
  CHECK_FAILS(ds_schedule_one_cycle(&c, &s, &err), DS_ERR_INVALID, err, "at least one step");
}

static double half(void *self, int64_t update, double base_lr) {
  (void)self;
  return update ? base_lr / 2 : base_lr;
}

static void test_host(void) {
  ds_error err;
  ds_lr_scheduler *s;
  static const ds_lr_scheduler_vtable v = {sizeof v, "half", half, NULL};
  static const ds_lr_scheduler_vtable none = {sizeof none, "none", NULL, NULL};
  CHECK_OK(ds_lr_scheduler_create(&v, NULL, &s, &err), err);
  CHECK(ds_schedule_lr(s, 0, 3) == 3 && ds_schedule_lr(s, 1, 3) == 1.5);
  ds_lr_scheduler_destroy(s);
  CHECK_FAILS(ds_lr_scheduler_create(&none, NULL, &s, &err), DS_ERR_INVALID, err, "vtable");
  CHECK(s == NULL);
  ds_lr_scheduler_destroy(NULL);
}

int main(void) {
  test_warmup();
  test_range_test();
  test_one_cycle();
  test_host();
  return TEST_RESULT();
}
