/* A plugin's world() on another thread: its answer, its failure, and that it is left when it does not
 * come back. */
#include "parallel/start.h"

#include "test.h"

#include <pthread.h>

static pthread_mutex_t gate = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t changed = PTHREAD_COND_INITIALIZER;
static bool open_gate;
static int left;
static pthread_t caller, called;

static ds_status answer(ds_comm_world *out, ds_error *err) {
  (void)err;
  called = pthread_self();
  CHECK(out->size == sizeof *out && out->world_size == 1);
  *out = (ds_comm_world){sizeof *out, 2, 5, 1, 3};
  return DS_OK;
}

static ds_status refuse(ds_comm_world *out, ds_error *err) {
  (void)out;
  snprintf(err->message, sizeof err->message, "no such runtime");
  return err->status = DS_ERR_UNSUPPORTED;
}

static ds_status hang(ds_comm_world *out, ds_error *err) {
  pthread_mutex_lock(&gate);
  while (!open_gate) pthread_cond_wait(&changed, &gate);
  ds_status status = answer(out, err); /* to memory that must still be there */
  left++;
  pthread_cond_broadcast(&changed);
  pthread_mutex_unlock(&gate);
  return status;
}

static void test_answer(bool several) {
  ds_error err;
  ds_comm_world w;
  const ds_comm_table table = {.world = answer}, refusing = {.world = refuse};
  CHECK_OK(ds_start_world(&table, several, 60000, &w, &err), err);
  CHECK(w.rank == 2 && w.world_size == 5 && w.local_rank == 1 && w.local_size == 3);
  CHECK(!!pthread_equal(caller, called) == !several);
  CHECK_FAILS(ds_start_world(&refusing, several, 60000, &w, &err), DS_ERR_UNSUPPORTED, err,
              "no such runtime");
}

static void test_hang(void) {
  ds_error err;
  ds_comm_world w;
  const ds_comm_table table = {.world = hang};
  CHECK_FAILS(ds_start_world(&table, true, 50, &w, &err), DS_ERR_TIMEOUT, err,
              "not done in 50 ms (comm_timeout)");
  CHECK(w.world_size == 1);
  pthread_mutex_lock(&gate);
  open_gate = true;
  pthread_cond_broadcast(&changed);
  while (left == 0) pthread_cond_wait(&changed, &gate);
  pthread_mutex_unlock(&gate);
  CHECK_OK(ds_start_world(&table, true, 60000, &w, &err), err);
  CHECK(w.world_size == 5);
}

int main(void) {
  caller = pthread_self();
  test_answer(false);
  test_answer(true);
  test_hang();
  return TEST_RESULT();
}
