/* .deepspeed_env, and which variables go to other hosts. */
#include "run_env.h"

#include "test.h"

#include <stdlib.h>
#include <unistd.h>

static void write_file(const char *path, const char *text) {
  FILE *f = fopen(path, "w");
  CHECK(f && fputs(text, f) >= 0 && fclose(f) == 0);
}

static bool is(const char *name, const char *value) {
  const char *got = getenv(name);
  return value ? got && strcmp(got, value) == 0 : !got;
}

static void test_lines(void) {
  ds_error err;
  run_words n = {0};
  CHECK_OK(run_env_parse("# ours\nTEST_A=1\n\n  TEST_B=x=y \r\nTEST_C=\nTEST_A=2", "env", &n, &err),
           err);
  CHECK(n.count == 3 && !strcmp(n.at[0], "TEST_A") && !strcmp(n.at[2], "TEST_C") && !n.at[3]);
  CHECK(is("TEST_A", "2") && is("TEST_B", "x=y") && is("TEST_C", ""));
  static const char *const bad[] = {"A=1\nB\n", "A=1\n=x\n", "A=1\n1A=x\n", "A=1\nB C=x\n"};
  for (size_t i = 0; i < sizeof bad / sizeof *bad; i++)
    CHECK_FAILS(run_env_parse(bad[i], "env", &n, &err), DS_ERR_FORMAT, err, "env:2: ");
  run_words_finish(&n);
}

/* The home folder's first, then the current one's, which wins. */
static void test_files(void) {
  ds_error err;
  char root[] = "/tmp/dscore-test-XXXXXX", path[128];
  run_words n = {0};
  CHECK(mkdtemp(root) && chdir(root) == 0);
  setenv("HOME", "home", 1);
  unsetenv("DS_ENV_FILE");
  CHECK_OK(run_env_read_files(&n, &err), err); /* neither is there */
  CHECK(n.count == 0);
  snprintf(path, sizeof path, "mkdir %s/home", root);
  CHECK(system(path) == 0);
  write_file("home/.deepspeed_env", "TEST_D=home\nTEST_E=home\n");
  write_file(".deepspeed_env", "TEST_E=here\n");
  write_file("other", "TEST_F=other\n");
  CHECK_OK(run_env_read_files(&n, &err), err);
  CHECK(n.count == 2 && is("TEST_D", "home") && is("TEST_E", "here") && is("TEST_F", NULL));
  setenv("DS_ENV_FILE", "other", 1);
  CHECK_OK(run_env_read_files(&n, &err), err);
  CHECK(n.count == 3 && is("TEST_F", "other"));
  unsetenv("DS_ENV_FILE");
  run_words_finish(&n);
  CHECK(chdir("/") == 0);
  snprintf(path, sizeof path, "rm -r %s", root);
  CHECK(system(path) == 0);
}

static void test_choose(void) {
  ds_error err;
  run_words n = {0};
  char *const variables[] = {(char[]){"DS_LOG=debug"},
                             (char[]){"HOME=/root"},
                             (char[]){"OMP_NUM_THREADS=2"},
                             (char[]){"LD_LIBRARY_PATH=/x"},
                             (char[]){"LD_LIBRARY_PATH_OLD=/x"},
                             (char[]){"CUDA_VISIBLE_DEVICES=1"},
                             (char[]){"CUDA_HOME=/cuda"},
                             (char[]){"NCCL_DEBUG=INFO"},
                             (char[]){"XDS_LOG=1"},
                             NULL};
  static const char *const want[] = {"NCCL_DEBUG", "DS_LOG", "OMP_NUM_THREADS", "LD_LIBRARY_PATH",
                                     "CUDA_HOME"};
  CHECK_OK(run_words_add(&n, "NCCL_DEBUG", &err), err); /* is there already */
  CHECK_OK(run_env_choose(variables, &n, &err), err);
  CHECK(n.count == 5);
  for (int i = 0; i < n.count && i < 5; i++) CHECK(strcmp(n.at[i], want[i]) == 0);
  run_words_finish(&n);
}

int main(void) {
  test_lines();
  test_files();
  test_choose();
  return TEST_RESULT();
}
