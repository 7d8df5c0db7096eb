#include "zero/order.h"

#include "test.h"

static ds_error err;

static void visit(ds_order *o, const int *units, int n) {
  ds_order_begin(o);
  for (int i = 0; i < n; i++) CHECK_OK(ds_order_visit(o, units[i], &err), err);
}

int main(void) {
  ds_unit units[4] = {{{0, 10}, 0, 1, false, false},
                      {{10, 30}, 1, 1, false, false},
                      {{30, 60}, 2, 1, false, false},
                      {{60, 100}, 3, 1, false, false}};
  ds_unit_layout l = {.shards = 1, .n_units = 4, .units = units};
  ds_order o = {0};
  /* Forward and backward of three units; twice in a row is once. */
  const int step[] = {0, 1, 1, 2, 2, 1, 0, 0};
  visit(&o, step, 8);
  CHECK(ds_order_ahead(&o, 1) == -1 && ds_order_distance(&o, &l, 0) == -1); /* not known yet */
  ds_order_begin(&o);
  CHECK(ds_order_ahead(&o, 1) == 0 && ds_order_ahead(&o, 2) == 1);
  CHECK_OK(ds_order_visit(&o, 0, &err), err);
  CHECK(ds_order_ahead(&o, 1) == 1 && ds_order_ahead(&o, 4) == 0 && ds_order_ahead(&o, 5) == -1);
  CHECK(ds_order_distance(&o, &l, 0) == 20 + 30 + 20); /* 1, 2, 1 come before 0 does */
  CHECK(ds_order_distance(&o, &l, 1) == 0);
  CHECK(ds_order_distance(&o, &l, 3) == -1);
  /* Something else: learnt anew, from what has been. */
  CHECK_OK(ds_order_visit(&o, 3, &err), err);
  CHECK(ds_order_ahead(&o, 1) == -1);
  CHECK_OK(ds_order_visit(&o, 0, &err), err);
  ds_order_begin(&o);
  CHECK(ds_order_ahead(&o, 1) == 0 && ds_order_ahead(&o, 2) == 3 && ds_order_ahead(&o, 3) == 0);
  CHECK(ds_order_ahead(&o, 4) == -1);
  /* A shorter micro batch forgets nothing. */
  visit(&o, step, 1);
  ds_order_begin(&o);
  CHECK(ds_order_ahead(&o, 2) == 3);
  ds_order_finish(&o);
  return test_result();
}
