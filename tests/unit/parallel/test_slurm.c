/* Slurm's lists of hosts, as its manual writes them. */
#include "parallel/slurm.h"

#include "test.h"

static void check(const char *list, const char *want) {
  char out[16] = "untouched";
  CHECK(ds_slurm_first_host(list, out, sizeof out) == (want != NULL));
  if (want) CHECK(strcmp(out, want) == 0);
}

int main(void) {
  check("node1", "node1");
  check("node1,node2", "node1");
  check("node[01-03,7],login", "node01");
  check("node[7,01-03]", "node7");
  check("node[12]", "node12");
  check("r[1-2]n[003-4]-ib,x", "r1n003-ib");
  check("", NULL);
  check(",a", NULL);
  check("node[", NULL);
  check("node[]", NULL);
  check("node[a-b]", NULL);
  check("node[1", NULL);
  check("node[1x]", NULL);
  check("123456789012345", "123456789012345");
  check("1234567890123456", NULL);
  check("node[000000000000001-2]", NULL);
  return TEST_RESULT();
}
